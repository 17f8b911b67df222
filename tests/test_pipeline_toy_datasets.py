"""A data set costs a TOML, and a reader file if its layout is new: two made-up ones, end to end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toy_layout import LAYOUT as FLAT
from toy_mixes import lift, swap_sides
from toy_network import ToyNetwork
from train_samples import TINY
from typed import answer, printed
from typer.testing import CliRunner

from pass2d.cache.fields import FIELDS, FieldSpec
from pass2d.cache.manifest import describe_dataset, parse_dataset
from pass2d.cache.reader import CacheReader, Fields
from pass2d.cache.schema import KNOWN_FACTS, DatasetFacts, DatasetInfo
from pass2d.commands.prepare import prepare_typer
from pass2d.commands.view_inputs import open_scans
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.models.registry import MODELS
from pass2d.pipeline.datasets.registry import DATASETS, Datasets
from pass2d.pipeline.datasets.relist import list_again
from pass2d.reports.report import REPORTS
from pass2d.train.data.augmentations import AUGMENTATIONS, Augmentation
from pass2d.train.data.mixes import MIXES, Mix
from pass2d.train.viewing.scan import ViewSet

CLASSES = """
classes = [
    { name = "nothing", raw = 0, color_rgb = [0, 0, 0] },
    { name = "lawn", raw = 4, color_rgb = [0, 200, 0] },
    { name = "path", raw = 5, color_rgb = [200, 200, 0] },
]
[raw_labels]
0 = { name = "nothing", class = "nothing" }
4 = { name = "lawn", class = "lawn" }
5 = { name = "path", class = "path" }
9 = { name = "flower bed", class = "lawn" }
[grid]
low = [-20.0, -20.0, -3.0]
high = [20.0, 20.0, 3.0]
shape = [200, 200, 30]
"""
IN_KITTI_LAYOUT = f"""
name = "park"
layout = "semantickitti"
signal_name = "remission"
raw_columns = 4
n_cameras = 1
has_class_weights = false
{CLASSES}
[splits]
train = ["meadow"]
val = ["pond"]
[facts]
title = "Park"
label_bytes = 4
has_instances = true
forward_axis = "x"
full_scale = 1.0
absent_counts_zero = false
"""
IN_NEW_LAYOUT = f"""
name = "garden"
layout = "flat"
signal_name = "intensity"
raw_columns = 5
n_cameras = 1
has_class_weights = false
{CLASSES}
[splits]
train = ["train"]
val = ["val"]
[facts]
title = "Garden"
label_bytes = 1
has_instances = false
forward_axis = "y"
full_scale = 255.0
absent_counts_zero = true
forbidden_answers = [0]
[command]
help = "Prepare gardens."
"""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A data set that only this test knows."""

    name: str
    datasets: Datasets
    root: Path
    points: Path
    """A point file."""
    cache: Path

    def prepare(self, *words: str) -> str:
        """`pass2d prepare NAME ...` where the data set is known."""
        app = prepare_typer(lambda: self.datasets.files, lambda: self.datasets)
        where = ("--root", str(self.root), "--cache", str(self.cache), "--workers", "0")
        result = CliRunner().invoke(app, [self.name, *where, *words])
        assert result.exit_code == 0, result.output
        return result.stdout


def cloud(columns: int, full_scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (400, columns) around the sensor, some beyond the volume, and their raw ids."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-21, 21, (400, columns)).astype(np.float32)
    points[:, 2] = rng.uniform(-2, 0, 400)
    points[:, 3:] = rng.uniform(0, full_scale, (400, columns - 3))
    return points, np.where(points[:, 0] > 0, 4, np.where(points[:, 1] > 0, 5, 9))


@pytest.fixture(params=["park", "garden"])
def toy(request: pytest.FixtureRequest, tmp_path: Path) -> Toy:
    root, table = tmp_path / "raw", tmp_path / "toy.toml"
    if request.param == "park":
        table.write_text(IN_KITTI_LAYOUT)
        for place, sequence in enumerate(["meadow", "meadow", "pond"]):
            for folder in ("velodyne", "labels"):
                (root / "sequences" / sequence / folder).mkdir(parents=True, exist_ok=True)
            points, raw = cloud(4, 1.0, place)
            file = root / "sequences" / sequence / "velodyne" / f"{place:06d}.bin"
            file.write_bytes(points.tobytes())
            label = file.parent.parent / "labels" / f"{place:06d}.label"
            label.write_bytes((raw | 7 << 16).astype("<u4").tobytes())
        datasets = DATASETS.extended(table)
    else:
        table.write_text(IN_NEW_LAYOUT)
        for place, split in enumerate(["train", "train", "val"]):
            (root / split).mkdir(parents=True, exist_ok=True)
            points, raw = cloud(5, 255.0, place)
            file = root / split / f"scan{place}.bin"
            file.write_bytes(points.tobytes())
            file.with_suffix(".lab").write_bytes(raw.astype(np.uint8).tobytes())
        datasets = DATASETS.extended(table, FLAT)
    return Toy(
        name=request.param, datasets=datasets, root=root, points=file, cache=tmp_path / "cache"
    )


def test_a_data_set_goes_all_the_way(toy: Toy, tmp_path: Path) -> None:
    assert json.loads(toy.prepare("--check", "--json"))["errors"] == 0
    found = json.loads(toy.prepare("--json"))
    assert (found["scans"], found["failed"]) == (3, [])
    # Of 400 points the test counts those strictly inside; the label table makes 9 a lawn.
    points = np.frombuffer(toy.points.read_bytes(), np.float32).reshape(400, -1)
    inside = (np.abs(points[:, :2]) < 20).all(axis=1)
    raw = np.where(points[:, 0] > 0, 4, np.where(points[:, 1] > 0, 5, 9))
    with CacheReader.open(toy.cache) as reader:
        last = reader.select(split="val").tolist()[0]
        scan = reader.read(last, Fields())
        np.testing.assert_array_equal(scan.xyz.T, points[inside, :3])
        np.testing.assert_array_equal(scan.label, np.where(raw == 5, 2, 1)[inside])
        assert reader.source_file(last, "points") == toy.points
        assert reader.info.facts == toy.datasets[toy.name].table.info.facts
    statistics = answer("stats", "--cache", toy.cache)
    assert statistics["dataset"] == toy.name
    names = [one["name"] for one in statistics["splits"]["train"]["classes"]]
    assert names == ["nothing", "lawn", "path"]
    settings = [word for text in (*TINY, "epochs=1") for word in ("--set", text)]
    printed("train", "--cache", toy.cache, "--run", tmp_path / "run", *settings)
    network = tmp_path / "run" / "checkpoints" / "last.safetensors"
    report = answer("eval", "--cache", toy.cache, "--checkpoint", network, "--device", "cpu")
    assert report["scans"] == 1
    out = tmp_path / "out"
    printed("predict", toy.points, "--checkpoint", network, "--out", out, "--device", "cpu")
    written = np.fromfile(next(out.rglob("*.label")), "<u4")
    answers = {4, 5} if reader.info.facts.forbidden_answers else {0, 4, 5}
    assert len(written) == 400
    assert set(written.tolist()) <= answers
    printed("view", "--cache", toy.cache, "--no-checkpoint", "--png", tmp_path / "seen")
    assert list((tmp_path / "seen").glob("*.png"))


RANGE = FieldSpec(
    name="range",
    container="lidar",
    length="points",
    dtypes=("float32",),
    speed=FIELDS["label"].speed,
    compute=lambda points: np.linalg.norm(points[:3], axis=0),
)
REPORT = """
from pass2d.reports.report import Part, Report


def report(statistics):
    rows = [[split.split, str(split.scans)] for split in statistics.splits]
    parts = [Part(heading="scans", header=("split", "scans"), rows=rows)]
    return Report(title="scans", parts=parts, data={name: int(n) for name, n in rows})
"""


@pytest.mark.parametrize("toy", ["garden"], indirect=True)
def test_every_toy_goes_through_every_command(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set, network, mix, augmentation, stored field and report that only this test knows."""
    (tmp_path / "toy_report.py").write_text(REPORT)
    monkeypatch.syspath_prepend(tmp_path)
    for table, name, line in (
        (FIELDS, "range", RANGE),
        (MODELS, "toy", ToyNetwork),
        (MIXES, "swap", Mix(swap_sides)),
        (AUGMENTATIONS, "lift", Augmentation(lift)),
        (REPORTS, "DatasetStatistics", "toy_report"),
    ):
        monkeypatch.setitem(table, name, line)  # the line
    toy.prepare()
    with CacheReader.open(toy.cache) as reader:
        scan = reader.read(0, Fields(extra=("range",)))
        assert np.allclose(scan.extra["range"], np.linalg.norm(scan.xyz, axis=0))
    assert answer("stats", "--cache", toy.cache) == {"train": 2, "val": 1}
    changed = (
        *("network.config=toy", "network.settings.width=6", "epochs=1", "batch_size=2"),
        *("device=cpu", "torch_threads=1", "log.tensorboard=false"),
        *("augment.mixes=[{swap=1.0}]", "augment.extra={lift=1.0}"),
    )
    settings = [word for text in changed for word in ("--set", text)]
    run = tmp_path / "run"
    printed("train", "--cache", toy.cache, "--recipe", "spvcnn", "--run", run, *settings)
    network = ("--checkpoint", run / "checkpoints" / "last.safetensors", "--device", "cpu")
    report = answer("eval", "--cache", toy.cache, *network)
    assert (report["scans"], report["architecture"]) == (1, "toy")
    printed("predict", toy.points, "--out", tmp_path / "out", *network)
    written = np.fromfile(next((tmp_path / "out").rglob("*.label")), "<u4")
    assert len(written) == 400
    assert set(written.tolist()) <= {4, 5}  # the facts forbid 0
    printed("view", "--cache", toy.cache, "--png", tmp_path / "seen", *network)
    assert len(list((tmp_path / "seen").glob("*.png"))) > 0


def test_raw_files_are_viewed_and_listed_again(toy: Toy, tmp_path: Path) -> None:
    def opened(**options: object) -> ViewSet:
        chosen = dict.fromkeys(("dataset", "split", "sequences", "layout", "columns", "dtype"))
        with open_scans(None, toy.root, **{**chosen, **options}, datasets=toy.datasets) as scans:
            return scans

    scans = opened(layout=toy.name)
    facts = toy.datasets[toy.name].table.info.facts
    assert (len(scans.items), scans.title) == (3, toy.name)
    assert scans.forward_axis == facts.forward_axis
    assert scans.items[0].load().n == 400
    assert len(opened(layout=toy.name, split="val").items) == 1
    again = list_again(toy.root, None, version=None, progress=Silent(), datasets=toy.datasets)
    assert again.info.name == toy.name
    assert toy.datasets.of(toy.datasets[toy.name].table.info).table.info.name == toy.name


def test_a_new_layout_lists_its_own_notes_as_notes(tmp_path: Path, toy: Toy) -> None:
    if toy.name != "garden":
        pytest.skip("the reader of SemanticKITTI's layout examines more")
    toy.points.with_suffix(".lab").unlink()
    (problem,) = toy.datasets["garden"].check(toy.root, progress=Silent())
    assert (problem.severity, problem.found) == ("note", "1 scans without labels")


@pytest.mark.parametrize("name", KNOWN_FACTS)
def test_caches_without_facts_have_those_of_the_table(name: str) -> None:
    (info,) = (info for info in DATASETS.infos() if info.layout == name)
    assert info.own_facts is None  # so that dataset.json keeps its bytes
    assert b"own_facts" not in describe_dataset(info)
    assert info.facts == KNOWN_FACTS[name]


def test_facts_of_its_own_are_kept(toy: Toy) -> None:
    info: DatasetInfo = toy.datasets[toy.name].table.info
    assert isinstance(info.own_facts, DatasetFacts)
    assert parse_dataset(describe_dataset(info), where="dataset.json") == info


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('layout = "semantickitti"', 'layout = "other"', "'other': expected one of semantic"),
        ('name = "park"', 'name = "semkitti"', "there is a data set 'semkitti' already"),
        ('name = "park"', 'name = "../park"', "'../park': expected letters"),
        ("label_bytes = 4", "label_bytes = 2", "label_bytes 2, expected 1 or 4"),
        ('forward_axis = "x"', 'forward_axis = "z"', "forward_axis 'z'"),
        ('title = "Park"', "", "title' is missing"),
        ("full_scale = 1.0", "full_scale = '1'", "full_scale|expected float"),
        ("n_cameras = 1", 'n_cameras = 1\ncamera_rule = "up"', "camera_rule 'up'"),
    ],
)
def test_tables_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    table = tmp_path / "toy.toml"
    table.write_text(IN_KITTI_LAYOUT.replace(old, new))
    with pytest.raises(ConfigError, match=message) as found:
        DATASETS.extended(table)
    assert str(table) in str(found.value)
