"""Point files of every format, written by independent writers, give the same columns."""

from __future__ import annotations

import sys
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pypcd4
import pytest

from cache.errors import ConfigError, DataError
from train.points.registry import read_columns

FIELDS = ("x", "y", "z", "intensity")
POINTS = (np.random.default_rng(0).integers(-4000, 4000, (60, 4)) / 64).astype(np.float32)
"""Multiples of 1/64: exact in every format."""


def write_pcd(path: Path, data: str) -> Path:
    cloud = pypcd4.PointCloud.from_points(POINTS, FIELDS, (np.float32,) * 4)
    cloud.save(path, encoding=pypcd4.Encoding(data))
    return path


def write_ply(path: Path, **layout: object) -> Path:
    rows = np.rec.fromarrays(POINTS.T, names=",".join(FIELDS))
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], **layout).write(str(path))
    return path


def write_las(path: Path) -> Path:
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = np.full(3, 1 / 64)
    content = laspy.LasData(header)
    content.x, content.y, content.z = POINTS[:, :3].T.astype(float)
    content.write(str(path))
    return path


def xyz(path: Path) -> np.ndarray:
    columns = read_columns(path)
    assert columns.names[:3] == ("x", "y", "z")
    return np.column_stack(columns.values[:3])


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path: Path, data: str) -> None:
    path = write_pcd(tmp_path / "a.pcd", data)
    assert np.array_equal(xyz(path), POINTS[:, :3])
    assert np.array_equal(read_columns(path).values[3], POINTS[:, 3])


@pytest.mark.parametrize("layout", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
def test_ply(tmp_path: Path, layout: dict) -> None:
    assert np.array_equal(xyz(write_ply(tmp_path / "a.ply", **layout)), POINTS[:, :3])


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_las(tmp_path: Path, name: str) -> None:
    assert np.array_equal(xyz(write_las(tmp_path / name)), POINTS[:, :3])


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_npy(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", POINTS.astype(dtype))
    columns = read_columns(tmp_path / "a.npy")
    assert columns.names == ("0", "1", "2", "3")
    assert np.array_equal(np.column_stack(columns.values), POINTS.astype(dtype))


def test_structured_npy_keeps_its_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.rec.fromarrays(POINTS.T, names="z,y,x,i"))
    columns = read_columns(tmp_path / "a.npy")
    assert columns.names == ("z", "y", "x", "i")
    assert np.array_equal(columns.values[2], POINTS[:, 2])


@pytest.mark.parametrize("suffix", ["npy", "pcd", "ply", "las", "laz"])
@pytest.mark.parametrize("content", [b"", b"no point file at all\n", bytes(500)])
def test_other_content_is_one_clear_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_columns(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["binary.pcd", "binary_compressed.pcd", "a.ply", "a.las", "a.npy"])
def test_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".pcd":
        write_pcd(path, path.stem)
    elif path.suffix == ".npy":
        np.save(path, POINTS)
    else:
        {".ply": write_ply, ".las": write_las}[path.suffix](path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=name):
        read_columns(path)


@pytest.mark.parametrize(
    ("module", "name"), [("pypcd4", "a.pcd"), ("plyfile", "a.ply"), ("laspy", "a.las")]
)
def test_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module}, which is not installed: pip install"):
        read_columns(tmp_path / name)
