"""Label files of another type are refused with their type; real ones never are."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass2d.pipeline.datasets.nuscenes import nuscenes_table
from pass2d.pipeline.datasets.semkitti import semkitti_table
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.label_types import require_label_type
from pass2d.pipeline.stages.read import read_label_file, read_point_file

KITTI, NUSCENES = semkitti_table().info, nuscenes_table().info
N = 120
IDS = np.random.default_rng(0).choice([0, 10, 40, 48, 50, 70, 72, 80, 252], N)
"""Raw ids of SemanticKITTI."""
SMALL_IDS = np.random.default_rng(0).choice([0, 2, 9, 17, 24, 26, 28, 30], N)
"""Raw ids of nuScenes."""
INSTANCES = np.where(np.isin(IDS, (10, 252)), np.arange(N) % 7, 0)
FULL = IDS | INSTANCES << 16


def saved(values: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def refusal(data: bytes, info=KITTI, n_points: int | None = N) -> str:
    label_bytes = 4 if info is KITTI else 1
    with pytest.raises(ProblemError) as caught:
        require(data, info, n_points)
    said = str(caught.value)
    assert said.startswith("a.label: found ")
    assert f"little-endian uint{8 * label_bytes}" in said
    return said


def require(data: bytes, info=KITTI, n_points: int | None = N) -> None:
    label_bytes = 4 if info is KITTI else 1
    file = Path("a.label")
    require_label_type(
        data, n_points=n_points, label_bytes=label_bytes, table=info.labels, file=file
    )


def test_labels_as_they_should_be_are_taken() -> None:
    for values in (IDS, FULL, np.zeros(N, int), np.full(N, 10), np.full(N, 256), np.full(N, 1)):
        require(values.astype("<u4").tobytes())
        require(values.astype("<u4").tobytes(), n_points=None)
        require(values.astype("<i4").tobytes())  # the same bytes
    for instances in (0xFFFF, 0x4220, 33_030_154 >> 16, 256, 10):
        require((IDS | instances << 16).astype("<u4").tobytes())
        require((np.full(N, 256) | instances << 16).astype("<u4").tobytes())
    for values in (SMALL_IDS, np.zeros(N, int), np.full(N, 31)):
        require(values.astype("u1").tobytes(), NUSCENES)
    require(b"")


@pytest.mark.parametrize("instances", [np.zeros(N, int), INSTANCES, np.arange(N)])
def test_raw_ids_in_the_upper_half(instances: np.ndarray) -> None:
    swapped = (IDS << 16 | instances).astype("<u4")
    said = refusal(swapped.tobytes())
    assert "uint32 with the raw id in the upper 16 bits" in said
    rewritten = swapped.view("<u2").reshape(-1, 2)[:, ::-1].tobytes()
    assert "np.fromfile(f, '<u2').reshape(-1, 2)[:, ::-1].tofile(f)" in said
    assert rewritten == (IDS | instances << 16).astype("<u4").tobytes()


@pytest.mark.parametrize("info", [KITTI, NUSCENES], ids=["semkitti", "nuscenes"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("<f4", "float32"),
        (">f4", "big-endian float32"),
        ("<f8", "float64"),
        (">f8", "big-endian float64"),
        ("<f2", "float16"),
        ("<i8", "int64"),
        ("<u8", "int64"),
        (">i8", "big-endian int64"),
        (">u4", "big-endian uint32"),
        ("<u4", "uint32"),
        ("<u2", "uint16"),
        ("<i2", "uint16"),
        (">u2", "big-endian uint16"),
        ("u1", "uint8"),
    ],
)
@pytest.mark.parametrize("knows_points", [True, False])
def test_another_type_is_named_and_the_remedy_fixes_it(
    tmp_path: Path, info, kind: str, name: str, knows_points: bool
) -> None:
    own, ids = ("<u4", IDS) if info is KITTI else ("u1", SMALL_IDS)
    if kind == own:
        return
    data = ids.astype(kind).tobytes()
    if not knows_points and np.dtype(kind).itemsize != np.dtype(own).itemsize:
        return  # the size alone says it
    said = refusal(data, info, N if knows_points else None)
    assert f"look like {name} labels" in said
    assert fixed(said, data, tmp_path) == ids.astype(own).tobytes()


def fixed(said: str, data: bytes, folder: Path) -> bytes:
    """The file after the NumPy line of a message was run on it."""
    file = folder / "a.label"
    file.write_bytes(data)
    line = said.partition("(keep a copy): ")[2].removesuffix(".")
    eval(line, {"np": np, "gzip": gzip, "f": str(file)})
    return file.read_bytes()


def test_ids_with_instances_are_known_by_their_type_too(tmp_path: Path) -> None:
    for kind, name in (
        ("<i8", "int64"),
        (">u4", "big-endian uint32"),
        (">i8", "big-endian int64"),
        ("<f8", "float64"),
        ("<f4", "float32"),
    ):
        data = FULL.astype(kind).tobytes()
        said = refusal(data)
        assert name in said
        assert fixed(said, data, tmp_path) == FULL.astype("<u4").tobytes()
    one = (IDS | np.where(IDS == 10, 1, 0) << 16).astype(">u4").tobytes()
    assert "big-endian uint32" in refusal(one)
    half = (IDS | np.where(np.arange(N) % 2, 1, 0) << 16).astype(">u4").tobytes()
    assert "big-endian uint32" in refusal(half)


def test_other_files_and_ids_are_known(tmp_path: Path) -> None:
    own = IDS.astype("<u4")
    text = "\n".join(map(str, IDS)).encode()
    for data, name in (
        (saved(own), "a NumPy file"),
        (saved(IDS), "a NumPy file"),
        (gzip.compress(own.tobytes()), "a gzip file"),
        (text, "text"),
        (text.replace(b"\n", b".0 "), "text"),
    ):
        for n_points in (N, None):
            said = refusal(data, n_points=n_points)
            assert name in said
            assert fixed(said, data, tmp_path) == own.tobytes()
    training = np.arange(N) % 20
    said = refusal(training.astype("<u4").tobytes())
    assert "training ids 0..19, not raw ids" in said
    raw = np.array(KITTI.labels.training_to_raw)[training].astype("<u4")
    assert fixed(said, training.astype("<u4").tobytes(), tmp_path) == raw.tobytes()
    panoptic = (SMALL_IDS * 1000 + np.arange(N) % 5).astype("<u2").tobytes()
    said = refusal(panoptic, NUSCENES)
    assert "panoptic" in said
    assert fixed(said, panoptic, tmp_path) == SMALL_IDS.astype("u1").tobytes()


def test_a_size_of_another_type_is_said_where_the_numbers_say_nothing() -> None:
    noise = np.random.default_rng(1).integers(200, 250, 8 * N).astype("u1").tobytes()
    assert "8 bytes per point (int64 or float64?)" in refusal(noise)
    assert "2 bytes per point (uint16 or float16?)" in refusal(noise[: 2 * N])
    assert "1 byte per point (uint8?)" in refusal(noise[:N])
    assert "8 bytes per point (int64 or float64?)" in refusal(bytes(8 * N))
    assert "4 bytes per point (uint32 or float32?)" in refusal(noise[: 4 * N], NUSCENES)


def test_what_is_no_other_type_is_left_to_the_other_checks() -> None:
    own = IDS.astype("<u4").tobytes()
    require(own[:-4])  # another scan's, or truncated
    require(own[:-1])
    require(own * 3)
    require(own[:8])
    require(own, n_points=0)
    require(np.where(np.arange(N) == 5, 7777, IDS).astype("<u4").tobytes())  # an unknown id
    require(np.full(N, 200).astype("u1").tobytes(), NUSCENES)


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.sampled_from(sorted(KITTI.labels.raw_to_training)), min_size=1, max_size=40),
    instance=st.integers(0, 504),
    data=st.data(),
)
def test_ids_of_the_table_with_any_instances_of_things_are_taken(
    ids: list[int], instance: int, data: st.DataObject
) -> None:
    """Instances belong to points with a class, as in all real files."""
    raw = np.array(ids)
    has_class = np.array([KITTI.labels.raw_to_training[i] for i in ids]) > 0
    chosen = data.draw(st.lists(st.integers(0, instance), min_size=len(ids), max_size=len(ids)))
    values = (raw | np.where(has_class, chosen, 0) << 16).astype("<u4")
    require(values.tobytes(), n_points=len(ids))
    require(values.tobytes(), n_points=None)


def test_no_real_label_file_is_refused(shared: Path) -> None:
    files = sorted((shared / "real").glob("*/sequences/*/labels/*.label"))
    files += sorted((shared / "golden").glob("frame/sequences/*/labels/*.label"))
    assert len(files) >= 8
    for file in files:
        points = file.parent.parent / "velodyne" / f"{file.stem}.bin"
        n = len(read_point_file(points, KITTI))
        assert len(read_label_file(file, KITTI, n_points=n)) == n
        assert len(read_label_file(file, KITTI)) == n
    files = sorted((shared / "real").glob("*/lidarseg/*/*_lidarseg.bin"))
    assert len(files) == 5
    for file in files:
        n = file.stat().st_size
        assert len(read_label_file(file, NUSCENES, n_points=n)) == n
