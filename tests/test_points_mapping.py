"""Columns, units, place and rotation of other sensors; how many columns a .bin file has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_network import StubNetwork
from test_train_predict import CPU, card, some_points

from pass2d.common.errors import ConfigError, DataError
from pass2d.points.binary import BinaryOptions
from pass2d.points.columns import PointColumns
from pass2d.points.mapping import InputMapping, parse_columns, parse_rotation, parse_unit
from pass2d.points.scan_file import read_columns_of
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.prediction.predict import predict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "small.safetensors"
    network = build_from_card(card(), CPU)
    save_checkpoint(path, network_tensors(network.inference_state()), card())
    return path


def columns(**values: list[float]) -> PointColumns:
    return PointColumns(names=tuple(values), values=tuple(map(np.array, values.values())))


def mapped(found: PointColumns, **options) -> list[list[float]]:
    return InputMapping(**options).apply(found, where="a.pcd").round(5).tolist()


def test_names_units_and_scale() -> None:
    found = columns(Y=[2000.0], t=[7.0], X=[1000.0], Z=[-500.0], Intensity=[51.0])
    assert mapped(found, unit_m=parse_unit("mm"), signal_scale=1 / 255) == [
        pytest.approx([1, 2, -0.5, 0.2])
    ]


@pytest.mark.parametrize("names", ["x y z x", "x y z X", "x y z intensity Intensity"])
def test_a_name_that_stands_twice_is_not_guessed(names: str) -> None:
    words = tuple(names.split())
    found = PointColumns(names=words, values=tuple(np.arange(len(words))[:, None]))
    role = "signal" if "intensity" in words else "x"
    with pytest.raises(DataError, match=rf"several columns may be {role}: .*`map={role}=\d`"):
        mapped(found)
    last = {role: str(len(words) - 1)}
    assert mapped(found, columns=last)[0][3 if role == "signal" else 0] == len(words) - 1


def test_columns_by_option() -> None:
    found = columns(a=[1.0], b=[2.0], c=[3.0], d=[4.0])
    chosen = parse_columns("x=c, y=b,z=0,signal=d")
    assert mapped(found, columns=chosen) == [[3, 2, 1, 4]]
    with pytest.raises(
        DataError, match=r"no column for x; the file has a, b, c, d\. Name it: `map=x=NAME`"
    ):
        mapped(found)
    with pytest.raises(DataError, match="no column for z of the name 'q'"):
        mapped(found, columns={**chosen, "z": "q"})


@pytest.mark.parametrize(
    ("text", "said"), [("x=2", "x and z would both be the column 2"), ("signal=1", "y and signal")]
)
def test_one_column_is_not_two_coordinates(text: str, said: str) -> None:
    names = ("0", "1", "2", "3")
    found = PointColumns(names=names, values=tuple(np.arange(4.0)[:, None]))
    with pytest.raises(DataError, match=said):
        mapped(found, columns=parse_columns(text))


def test_a_signalling_nan_stays_a_nan_without_a_word() -> None:
    odd = np.full(2, 0x7FA00000, np.uint32).view(np.float32)
    columns = PointColumns(names=("x", "y", "z", "i"), values=(odd,) * 4)
    assert np.isnan(InputMapping().apply(columns, where="a")).all()


def test_missing_signal_is_0() -> None:
    assert mapped(columns(x=[1.0], y=[2.0], z=[3.0])) == [[1, 2, 3, 0]]


@pytest.mark.parametrize(
    ("rotate", "moved"),
    [
        ("0,0,90", [1, -3, 2]),  # about x: y becomes z
        ("0,-90,0", [-3, 2, 1]),  # about y: x becomes z
        ("90,0,0", [-2, 1, 3]),  # about z: x becomes y
        ("90,0,90", [3, 1, 2]),  # first roll, then yaw
        ("2,0,0,2", [-2, 1, 3]),  # quaternion of 90 degrees about z, not of length 1
    ],
)
def test_rotation_then_offset(rotate: str, moved: list[float]) -> None:
    found = columns(x=[1.0], y=[2.0], z=[3.0])
    moved = [*moved[:2], moved[2] - 1.5, 0]
    assert mapped(found, rotation=parse_rotation(rotate), z_offset=-1.5) == [moved]


@pytest.mark.parametrize("rotate", ["", "1,2", "a,b,c", "0,0,0,0", "nan,0,0", "1,2,3,4,5"])
def test_wrong_rotation_is_refused(rotate: str) -> None:
    with pytest.raises(ConfigError, match="`rotate`"):
        parse_rotation(rotate)


@pytest.mark.parametrize("unit", ["km", "0", "-1", "nan", "inf"])
def test_wrong_unit_is_refused(unit: str) -> None:
    with pytest.raises(ConfigError, match="`unit` must be m, cm, mm, ft"):
        parse_unit(unit)


@pytest.mark.parametrize("text", ["x", "x=", "q=1", "x=1,x=2"])
def test_wrong_map_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="pairs ROLE=NAME"):
        parse_columns(text)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_wrong_scale_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="signal_scale"):
        InputMapping(signal_scale=scale)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def write_all_formats(folder: Path, points: np.ndarray) -> list[Path]:
    """(N, 4) multiples of 1/64, signal whole numbers from 0 to 255: exact in each of them."""
    import laspy
    import plyfile
    import pypcd4

    xyz = points[:, :3]
    files = [folder / f"{name}.bin" for name in ("four", "five")]
    points.astype("<f4").tofile(files[0])
    np.column_stack([points, np.arange(len(points))]).astype("<f4").tofile(files[1])
    for dtype in ("<f4", ">f8", "<f8"):
        files.append(folder / f"{dtype[1:]}{'big' * (dtype[0] == '>')}.npy")
        np.save(files[-1], points.astype(dtype))
    rows = np.rec.fromarrays(points.astype("<f4").T, names="x,y,z,intensity")
    for name, layout in {
        "text": {"text": True},
        "little": {"byte_order": "<"},
        "big": {"byte_order": ">"},
    }.items():
        files.append(folder / f"{name}.ply")
        element = plyfile.PlyElement.describe(rows, "vertex")
        plyfile.PlyData([element], **layout).write(str(files[-1]))
    cloud = pypcd4.PointCloud.from_points(points, rows.dtype.names, (np.float32,) * 4)
    for encoding in pypcd4.Encoding:
        files.append(folder / f"{encoding.value}.pcd")
        cloud.save(files[-1], encoding=encoding)
    header = laspy.LasHeader(point_format=0)
    header.scales = np.full(3, 1 / 64)
    content = laspy.LasData(header)
    content.x, content.y, content.z = xyz.T.astype(float)
    content.intensity = points[:, 3].astype(np.uint16)
    for suffix in ("las", "laz"):
        files.append(folder / f"{suffix}.{suffix}")
        content.write(str(files[-1]))
    return files


@pytest.mark.filterwarnings("ignore:points. no point lies in the network:UserWarning")
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), reach=st.sampled_from([1, 64, 4096]))
def test_any_points_get_the_same_labels_from_every_format(
    folder: Path, n: int, seed: int, reach: int
) -> None:
    rng = np.random.default_rng(seed)
    xyz = rng.integers(-reach, reach + 1, (n, 3)) / 64
    points = np.column_stack([xyz, rng.integers(0, 256, n)])
    segmenter = Segmenter(StubNetwork(), card())
    expected = segmenter(points)
    for file in write_all_formats(folder, points):
        columns = 5 if file.stem == "five" else 4
        binary = BinaryOptions(usual=4, columns=columns, dtype="float32")
        found, _ = read_columns_of(file, binary)
        read = InputMapping().apply(found, where=str(file))
        assert np.array_equal(read, points.astype(np.float32)), file
        answer = segmenter(read)
        assert np.array_equal(answer.labels, expected.labels), file
        assert np.array_equal(answer.scores, expected.scores), file


def test_a_folder_of_all_formats_is_labelled_alike(checkpoint: Path, tmp_path: Path) -> None:
    points = (some_points(500) * 64).round() / 64  # exact in every format
    points[:, 3] = np.arange(500) % 256
    (tmp_path / "in").mkdir()
    files = write_all_formats(tmp_path / "in", points)
    summary = predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    assert (summary.scans, summary.failed) == (len(files), ())
    written = {path.read_bytes() for path in (tmp_path / "out").glob("*.label")}
    assert len(written) == 1
    assert len(written.pop()) == 4 * 500


def test_bad_file_of_a_new_format_does_not_stop_the_others(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "good.npy", some_points(50))
    (folder / "bad.pcd").write_bytes(b"no pcd")
    np.save(folder / "flat.npy", np.zeros(5))
    summary = predict(folder, checkpoint, tmp_path / "out", device=CPU)
    assert summary.scans == 1
    assert sorted(failed.points.name for failed in summary.failed) == ["bad.pcd", "flat.npy"]
