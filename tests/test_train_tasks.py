"""One network, three tasks: folded scores by hand, each server's zip, wrong checkpoints."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from rich.console import Console
from stub_network import StubNetwork, by_place, trained_stub

from pass2d.cache.motion import Motion, with_moving_classes
from pass2d.cache.schema import KNOWN_FACTS, DatasetInfo, MovingClass
from pass2d.common.errors import ConfigError
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.reports.report import report_json, report_tables
from pass2d.train.evaluation.counts import EvalCounts, EvalReport, pass_result
from pass2d.train.evaluation.evaluate import require_same_data
from pass2d.train.inference.tasks import chosen_tasks, counted_labels, n_counted, tasks_of
from pass2d.train.submission.benchmark import Benchmark
from pass2d.train.submission.submit import SubmitConfig, submit
from pass2d.train.submission.verify import VerifyReport, verify_submission

KITTI = DATASETS["semkitti"].table.info
FULL = with_moving_classes(KITTI)
CAR, BICYCLIST, BUILDING, MOVING_CAR, RESTING = 1, 7, 13, 20, 26
"""Training ids, and what is counted of points that rest and have no class."""

# Classes of the sample caches: road, car, building, tree.
SMALL = replace(
    sample_info(),
    own_facts=replace(
        KNOWN_FACTS["semantickitti"],
        moving=(
            MovingClass(name="moving-car", static=2, raw_ids=(252,), raw=252, color_rgb=(9, 9, 9)),
            MovingClass(
                name="moving-house", static=3, raw_ids=(256, 259), raw=259, color_rgb=(8, 8, 8)
            ),
        ),
        movable=(2,),
        rare=(),
    ),
)
SMALL_FULL = with_moving_classes(SMALL)
RULES = Benchmark(info=SMALL, splits={"test": ("11",)}, scan_counts={"11": 2})


# labels and scores


def test_counted_labels_keep_apart_what_rests_without_a_class() -> None:
    raw = np.array([0, 1, 52, 99, 10, 252, 256, 258, 60])
    label = KITTI.labels.training_lookup()[raw]
    motion = np.array([0, 0, 1, 1, 1, 2, 2, 2, 1], np.uint8)
    assert counted_labels(label, motion, FULL).tolist() == [0, 0, 26, 26, 1, 20, 24, 25, 9]
    assert counted_labels(label, None, KITTI).tolist() == label.tolist()
    assert (n_counted(KITTI), n_counted(FULL)) == (20, 27)


def counts_by_hand() -> EvalCounts:
    """Cars at rest: 3 right, 1 taken for moving. Moving ones: 4 right, 2 taken for resting."""
    scan = torch.zeros((10, 27, 27), dtype=torch.int64)
    for label, predicted, points in (
        (CAR, CAR, 3),
        (CAR, MOVING_CAR, 1),
        (MOVING_CAR, MOVING_CAR, 4),
        (MOVING_CAR, CAR, 2),
        (RESTING, MOVING_CAR, 2),
        (RESTING, BUILDING, 3),
        (0, MOVING_CAR, 7),
    ):
        scan[0, label, predicted] = points
    counts = EvalCounts.empty(27, torch.device("cpu"), sees_outside=True)
    counts.add(0, scan)
    return counts


def test_scores_of_three_tasks_by_hand() -> None:
    result = pass_result("no votes", counts_by_hand(), FULL, scan_ids=["a"])
    multi, single, mos = result.tasks
    # 5 resting points of no class are ignored by the classes, and count for what moves.
    assert multi.official.iou[[CAR, MOVING_CAR]].tolist() == [3 / 6, 4 / 7]
    assert multi.official.points == single.official.points == 10
    assert multi.groups() == pytest.approx(
        {"moving": 4 / 7 / 6, "static": 0.5 / 17, "rare at rest": 0.0}
    )
    assert multi.task.groups["rare at rest"] == (7, 8)
    assert single.official.iou[CAR] == 1.0
    assert single.official.miou == pytest.approx(1 / 19)
    assert mos.official.iou[Motion.MOVING] == mos.ranked == 4 / (4 + 2 + 3)
    assert mos.official.iou[Motion.STATIC] == 6 / (6 + 3 + 2)
    assert mos.official.accuracy == 10 / 15
    assert result.official.miou == multi.ranked == pytest.approx((1 / 2 + 4 / 7) / 25)


def report_of_tasks(*names: str) -> EvalReport:
    tasks = chosen_tasks(FULL, names or None, source="a network")
    result = pass_result("no votes", counts_by_hand(), FULL, scan_ids=["a"], tasks=tasks)
    return EvalReport(
        info=replace(FULL, labels=tasks[0].labels),
        checkpoint="c",
        architecture="2dpass",
        split="val",
        outside="predicted",
        scans=1,
        scans_without_label=0,
        seconds=1.0,
        passes=(result,),
    )


def test_report_shows_moving_static_and_rare_classes_apart() -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(*report_tables(report_of_tasks()))
    words = " ".join(stream.getvalue().split())
    for line in (
        "multi: classes with motion │ all 25 │ 4.29%",
        "multi: moving │ 6 │ 9.52% │ │ 6",
        "multi: static │ 17 │ 2.94% │ │ 4",
        "multi: rare at rest │ bicyclist, motorcyclist │ 0.00% │ │ 0",
        "single: classes without motion │ all 19 │ 5.26%",
        "mos: moving object segmentation │ moving │ 44.44% │ 66.67% │ 15",
        "IoU per class, moving object segmentation",
    ):
        assert line in words
    data = report_json(report_of_tasks())
    assert data["task"] == "multi"
    assert data["tasks"]["mos"]["iou"] == {"static": 6 / 11, "moving": 4 / 9}
    assert data["tasks"]["multi"]["groups"]["rare at rest"]["classes"] == [
        "bicyclist",
        "motorcyclist",
    ]


def test_the_first_task_asked_for_leads_the_report() -> None:
    data = report_json(report_of_tasks("mos", "single"))
    assert (data["task"], list(data["tasks"])) == ("mos", ["mos", "single"])
    assert data["class_names"] == ["unlabeled", "static", "moving"]
    assert data["miou"] == pytest.approx((6 / 11 + 4 / 9) / 2)
    assert data["passes"][0]["confusion"] == [[0, 0, 7], [0, 6, 3], [0, 2, 4]]


def test_a_network_without_motion_has_one_task_and_refuses_the_others() -> None:
    assert [task.name for task in tasks_of(KITTI)] == ["single"]
    assert chosen_tasks(KITTI, None, source="c")[0].labels is KITTI.labels
    with pytest.raises(ConfigError, match=r"^c: .*`task=mos`: it tells 19 classes.*the 25 classes"):
        chosen_tasks(KITTI, ["single", "mos"], source="c")
    with pytest.raises(ConfigError, match="labels of nuScenes do not say what moves"):
        chosen_tasks(DATASETS["nuscenes"].table.info, ["multi"], source="c")
    with pytest.raises(ConfigError, match="unknown task 'moss'"):
        chosen_tasks(FULL, ["moss"], source="c")
    with pytest.raises(ConfigError, match="names none"):
        chosen_tasks(FULL, [], source="c")


def test_a_network_with_motion_fits_the_cache_of_the_same_data_set(tmp_path: Path) -> None:
    with_motion = trained_stub(tmp_path / "a", info=SMALL_FULL)
    assert require_same_data(with_motion, SMALL) == SMALL_FULL
    assert require_same_data(trained_stub(tmp_path / "b", info=SMALL), SMALL) == SMALL
    other = replace(SMALL, labels=replace(SMALL.labels, names=("u", "a", "b", "c", "d")))
    with pytest.raises(ConfigError, match="trained on the 6 classes"):
        require_same_data(with_motion, other)


# zips of the servers


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(
        root, n_scans=2, sequences=("11",), unlabelled=("11",), n_points=200, info=SMALL
    )
    return root


def halves(points: torch.Tensor) -> torch.Tensor:
    """Cars and buildings ahead move."""
    plain = by_place(points)
    ahead = points[:, 0] > 0
    moving = torch.tensor([0, 1, 5, 6, 4])
    return torch.where(ahead, moving[plain], plain)


def written(cache: Path, out: Path, info: DatasetInfo, task: str | None) -> VerifyReport:
    network = StubNetwork(rule=halves, n_classes=7) if info is SMALL_FULL else None
    trained = trained_stub(out.with_suffix(".safetensors"), network, info=info)
    config = SubmitConfig(task=task)
    return submit(trained, cache, out, benchmarks=[RULES], config=config).report


def held(path: Path) -> set[int]:
    with zipfile.ZipFile(path) as archive:
        labels = [np.frombuffer(archive.read(n), "<u4") for n in archive.namelist() if n[-1] != "/"]
    return set(np.concatenate(labels).tolist())


@pytest.mark.parametrize(
    ("task", "raw_ids"),
    [
        (None, {40, 10, 50, 70, 252, 259}),
        ("multi", {40, 10, 50, 70, 252, 259}),
        ("single", {40, 10, 50, 70}),
        ("mos", {9, 251}),
    ],
)
def test_each_server_gets_its_own_raw_ids(
    cache: Path, tmp_path: Path, task: str | None, raw_ids: set[int]
) -> None:
    out = tmp_path / "s.zip"
    report = written(cache, out, SMALL_FULL, task)
    assert held(out) == raw_ids
    assert report.is_sound
    assert report.task == task or (task is None and report.task == "multi")
    found = verify_submission(out, [RULES])  # by what the zip holds
    assert (found.task, found.is_sound) == (report.task, True)


def test_a_network_without_motion_writes_no_zip_for_tasks_with_it(
    cache: Path, tmp_path: Path
) -> None:
    for task in ("multi", "mos"):
        with pytest.raises(ConfigError, match=f"cannot answer `task={task}`"):
            written(cache, tmp_path / "s.zip", SMALL, task)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]
    assert written(cache, tmp_path / "s.zip", SMALL, None).task == "single"


def test_a_zip_of_another_task_is_named(cache: Path, tmp_path: Path) -> None:
    for name in ("multi", "single", "mos"):
        written(cache, tmp_path / f"{name}.zip", SMALL_FULL, name)
    problems = verify_submission(tmp_path / "multi.zip", [RULES], task="mos").problems
    assert len(problems) == 2
    assert "holds 10, expected one of 0, 9, 251 (moving object segmentation)" in problems[0]
    for task in ("single", "multi"):
        (problem, _) = verify_submission(tmp_path / "mos.zip", [RULES], task=task).problems
        assert "holds 9, which is not a raw id of the label table" in problem
    notes = verify_submission(tmp_path / "single.zip", [RULES], task="multi").notes
    assert any("nothing moves in it" in note for note in notes)
    notes = verify_submission(tmp_path / "multi.zip", [RULES], task="single").notes
    assert any("ids of moving things" in note for note in notes)
    with pytest.raises(ConfigError, match="unknown task"):
        verify_submission(tmp_path / "mos.zip", [RULES], task="all")


def test_files_of_two_tasks_in_one_zip_are_a_problem(cache: Path, tmp_path: Path) -> None:
    for name in ("multi", "mos"):
        written(cache, tmp_path / f"{name}.zip", SMALL_FULL, name)
    mixed = tmp_path / "mixed.zip"
    with (
        zipfile.ZipFile(tmp_path / "multi.zip") as multi,
        zipfile.ZipFile(tmp_path / "mos.zip") as mos,
        zipfile.ZipFile(mixed, "w") as archive,
    ):
        for number, name in enumerate(multi.namelist()):
            archive.writestr(
                name, (mos if number == len(multi.namelist()) - 1 else multi).read(name)
            )
    report = verify_submission(mixed, [RULES])
    assert not report.is_sound
    assert "some of another" in report.problems[0]
    assert report.task == ""
