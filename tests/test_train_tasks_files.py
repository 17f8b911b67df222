"""From label files to scores and zips of three tasks: equal to a plain scorer over the files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stub_network import StubNetwork, trained_stub

from pass2d.cache.motion import with_moving_classes
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.synth.config import preset
from pass2d.synth.generate import generate
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.submission.benchmark import Benchmark
from pass2d.train.submission.submit import SubmitConfig, submit

TABLE = DATASETS["semkitti"].table
RULES = Benchmark(info=TABLE.info, splits=TABLE.splits, scan_counts=TABLE.scan_counts)
# learning_map of semantic-kitti-all.yaml, .yaml and -mos.yaml.
OF_26 = {
    **{0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9},
    **{44: 10, 48: 11, 49: 12, 50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18},
    **{81: 19, 99: 0, 252: 20, 253: 21, 254: 22, 255: 23, 256: 24, 257: 24, 258: 25, 259: 24},
}
AT_REST = {20: 1, 21: 7, 22: 6, 23: 8, 24: 5, 25: 4}
MAPS = {
    "multi": OF_26,
    "single": {raw: AT_REST.get(c, c) for raw, c in OF_26.items()},
    "mos": {
        **{raw: 2 if raw > 250 else 1 if raw > 1 else 0 for raw in OF_26},
        **{9: 1, 251: 2},
    },
}
N_CLASSES = {"multi": 26, "single": 20, "mos": 3}


def some_class(points: torch.Tensor) -> torch.Tensor:
    """Any of the 25 classes, by place."""
    cells = (points[:, :3] * torch.tensor([1.0, 3.0, 7.0])).floor().long().abs()
    return 1 + cells.sum(dim=1) % 25


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    config = preset("movers", scans=2, sequences=("08",), columns=128, image_hw=(8, 16))
    generate(root / "raw", config, Silent())
    listing = list_semkitti(root / "raw")
    prepare(listing, root / "cache" / listing.info.name, PrepareConfig(workers=0), Silent())
    return root


@pytest.fixture(scope="module")
def trained(world: Path) -> TrainedNetwork:
    network = StubNetwork(rule=some_class, sees_all=True, n_classes=26)
    return trained_stub(world / "stub", network, info=with_moving_classes(TABLE.info))


def labels(world: Path) -> list[NDArray[np.int64]]:
    files = sorted((world / "raw/sequences/08/labels").glob("*.label"))
    return [(np.fromfile(file, "<u4") & 0xFFFF).astype(np.int64) for file in files]


def plain_iou(
    truth: list[NDArray[np.int64]], predicted: list[NDArray[np.int64]], task: str
) -> NDArray[np.float64]:
    """As evaluate_semantics.py: map both, drop ignored labels, hits / (union + 1e-15)."""
    lookup = np.zeros(1 << 16, np.int64)
    lookup[list(MAPS[task])] = list(MAPS[task].values())
    t, p = (lookup[np.concatenate(raw)] for raw in (truth, predicted))
    p, t = p[t > 0], t[t > 0]
    iou = []
    for c in range(1, N_CLASSES[task]):
        hits = np.count_nonzero((t == c) & (p == c))
        union = np.count_nonzero((t == c) | (p == c))
        iou.append(hits / (union + 1e-15))
    return np.array(iou)


@pytest.mark.parametrize("task", list(MAPS))
def test_scores_and_zip_of_a_task_are_those_of_a_plain_scorer(
    world: Path, trained: TrainedNetwork, tmp_path: Path, task: str
) -> None:
    report = evaluate(trained, world / "cache", tasks=[task])
    (result,) = report.best.tasks
    config = SubmitConfig(split="val", task=task, allow_partial=True)
    out = tmp_path / "s.zip"
    assert submit(trained, world / "cache", out, benchmarks=[RULES], config=config).report.is_sound
    with zipfile.ZipFile(out) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".label"))
        written = [np.frombuffer(archive.read(name), "<u4").astype(np.int64) for name in names]
    truth = labels(world)
    assert {52, 99} & {int(raw) for raw in np.concatenate(truth)}
    assert any((raw > 250).any() for raw in truth)
    expected = plain_iou(truth, written, task)
    np.testing.assert_allclose(result.official.iou[1:], expected, rtol=0, atol=1e-12)
    assert result.official.miou == pytest.approx(expected.mean(), rel=0, abs=1e-12)
    assert report.best.official.iou[1:].tolist() == result.official.iou[1:].tolist()


def test_all_tasks_are_counted_in_one_pass(world: Path, trained: TrainedNetwork) -> None:
    report = evaluate(trained, world / "cache")
    assert [result.task.name for result in report.best.tasks] == ["multi", "single", "mos"]
    for result in report.best.tasks:
        alone = evaluate(trained, world / "cache", tasks=[result.task.name]).best
        assert np.array_equal(result.confusion, alone.confusion)
