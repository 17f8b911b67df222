"""Point files of every format, written by independent writers, give the same columns."""

from __future__ import annotations

import importlib
import struct
import sys
import tracemalloc
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pypcd4
import pytest

from pass2d.common.errors import ConfigError, DataError
from pass2d.points.columns import from_structured
from pass2d.points.laz_worker import columns_of
from pass2d.points.registry import read_columns

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


def test_a_laz_that_asks_for_all_memory_ends_no_one_else(tmp_path: Path) -> None:
    """lazrs aborts the process that it runs in."""
    good = write_las(tmp_path / "good.laz")
    data = bytearray(good.read_bytes())
    (points_at,) = struct.unpack_from("<I", data, 96)
    (table_at,) = struct.unpack_from("<Q", data, points_at)
    struct.pack_into("<I", data, table_at + 4, 2**32 - 1)  # chunks
    bad = tmp_path / "bad.laz"
    bad.write_bytes(data)
    for _ in range(2):
        assert np.array_equal(xyz(good), POINTS[:, :3])
        with pytest.raises(DataError, match=r"bad\.laz: not a readable LAS file: .*damaged"):
            read_columns(bad)


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


def test_fields_of_several_numbers_are_columns(tmp_path: Path) -> None:
    kinds = [
        ("xyz", "<f4", 3),
        ("odd", "O"),
        ("rgb", "u1", (3,)),
        ("i", "<f4"),
        ("t", "<f4", (2, 2)),
    ]
    table = np.zeros(len(POINTS), kinds)
    table["xyz"], table["i"] = POINTS[:, :3], POINTS[:, 3]
    columns = from_structured(tmp_path / "a.npy", table)
    assert columns.names == ("x", "y", "z", "rgb_0", "rgb_1", "rgb_2", "i")
    assert np.array_equal(np.column_stack(columns.values[:3]), POINTS[:, :3].astype("<f4"))
    both = np.zeros(2, [("x", "<f4"), ("pos", "<f4", 3)])
    assert from_structured(tmp_path, both).names == ("x", "pos_0", "pos_1", "pos_2")
    with pytest.raises(DataError, match="no field holds numbers"):
        from_structured(tmp_path, np.zeros(2, [("t", "<f4", 9)]))


def test_an_array_with_a_point_per_column_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 500)))
    with pytest.raises(DataError, match=r"got \(4, 500\): a point per column\? Transpose it"):
        read_columns(tmp_path / "a.npy")


def test_a_laz_takes_memory_for_the_points_that_it_has(tmp_path: Path) -> None:
    data = bytearray(write_las(tmp_path / "a.laz").read_bytes())
    struct.pack_into("<I", data, 107, 100_000_000)  # points, by its header
    tracemalloc.start()
    with pytest.raises(BaseException, match="failed to fill whole buffer"):
        columns_of(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6  # 3.4 GB if all were made room for


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
    ("module", "name"), [("lzf", "binary_compressed.pcd"), ("plyfile", "a.ply"), ("laspy", "a.las")]
)
def test_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    path = tmp_path / name
    if path.suffix == ".pcd":
        write_pcd(path, path.stem)
    else:
        {".ply": write_ply, ".las": write_las}[path.suffix](path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module}, which is not installed: pip install"):
        read_columns(path)


def test_package_that_cannot_be_imported_for_any_reason_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError("libfoo.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ConfigError, match=r"plyfile, which cannot be imported \(libfoo"):
        read_columns(write_ply(tmp_path / "a.ply"))


def pcd_header(data: str, n: int, **changes: str) -> bytes:
    """By hand, after the format's documentation."""
    lines = {
        "VERSION": "0.7",
        "FIELDS": "x y z intensity",
        "SIZE": "4 4 4 4",
        "TYPE": "F F F F",
        "COUNT": "1 1 1 1",
        "WIDTH": str(n),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(n),
        "DATA": data,
        **changes,
    }
    text = "".join(f"{key} {value}\n" for key, value in lines.items())
    return b"# .PCD v0.7 - Point Cloud Data file format\n" + text.encode()


@pytest.mark.parametrize("between", ["  ", "\t", " \t  "])
def test_ascii_pcd_with_any_space_between_numbers(tmp_path: Path, between: str) -> None:
    rows = "".join(" " + between.join(map(repr, row)) + "  \r\n" for row in POINTS.tolist())
    (tmp_path / "a.pcd").write_bytes(pcd_header("ascii", len(POINTS)) + rows.encode() + b"\n\n")
    columns = read_columns(tmp_path / "a.pcd")
    assert columns.names == FIELDS
    assert np.array_equal(np.column_stack(columns.values), POINTS)


def test_headers_of_old_or_odd_writers_are_read(tmp_path: Path) -> None:
    header = pcd_header("binary", len(POINTS))
    for line in (b"COUNT 1 1 1 1\n", b"POINTS 60\n", b"VIEWPOINT 0 0 0 1 0 0 0\n", b"HEIGHT 1\n"):
        assert line in header
        header = header.replace(line, b"# caf\xe9\r\n" * 5)
    (tmp_path / "a.pcd").write_bytes(
        header.replace(b"VERSION 0.7", b"VERSION 0.6") + POINTS.tobytes()
    )
    write_ply(tmp_path / "b.ply")
    content = (tmp_path / "b.ply").read_bytes()
    (tmp_path / "b.ply").write_bytes(content.replace(b"element", b"comment caf\xe9\nelement", 1))
    for name in ("a.pcd", "b.ply"):
        assert np.array_equal(np.column_stack(read_columns(tmp_path / name).values), POINTS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"SIZE 4 4 4 4\n", b"", "its header lacks SIZE"),
        (b"TYPE F F F F", b"TYPE F F F", "TYPE F F F: 4 values are expected, one per field"),
        (b"TYPE F F F F", b"TYPE F F F Q", "TYPE Q: F, I or U is expected"),
    ],
)
def test_faults_of_a_pcd_header_are_named(
    tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    header = pcd_header("binary", len(POINTS))
    assert old in header
    (tmp_path / "a.pcd").write_bytes(header.replace(old, new) + POINTS.tobytes())
    with pytest.raises(DataError, match=said) as caught:
        read_columns(tmp_path / "a.pcd")
    assert "http" not in str(caught.value)


def test_ascii_pcd_that_lacks_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(pcd_header("ascii", 3) + b"1 2 3 4\n5 6 7 8\n")
    with pytest.raises(DataError, match="2 points, its header says 3"):
        read_columns(tmp_path / "a.pcd")


def lzf_by_hand(data: bytes) -> bytes:
    """LZF by its definition: literal runs of up to 32 bytes, and back references.

    A control byte below 32 is a run of that many bytes and one; else its high 3 bits are a length
    less 2 (7: the next byte is added), its low 5 bits and the last byte an offset less 1.
    """
    out, literals, place = bytearray(), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(literals), 32):
            run = literals[start : start + 32]
            out.extend([len(run) - 1, *run])
        literals.clear()

    while place < len(data):
        key = data[place : place + 3]
        found = data.rfind(key, max(0, place - 8191), place + 2) if len(key) == 3 else -1
        length = 0
        while found >= 0 and length < 264 and data[place + length : place + length + 1]:
            if data[found + length] != data[place + length]:
                break
            length += 1
        if length < 3:
            literals.append(data[place])
            place += 1
            continue
        flush()
        offset, short = place - found - 1, min(length - 2, 7)
        out.append(short << 5 | offset >> 8)
        if short == 7:
            out.append(length - 2 - 7)
        out.append(offset & 255)
        place += length
    flush()
    return bytes(out)


def test_compressed_pcd_that_was_packed_by_hand(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[:, 3] = 0.25  # long repeats: references that overlap themselves
    body = points.T.astype("<f4").tobytes()  # field after field
    packed = lzf_by_hand(body)
    assert len(packed) < len(body)
    sizes = np.array([len(packed), len(body)], "<u4").tobytes()
    header = pcd_header("binary_compressed", len(points))
    (tmp_path / "a.pcd").write_bytes(header + sizes + packed)
    assert np.array_equal(np.column_stack(read_columns(tmp_path / "a.pcd").values), points)


def test_viewpoint_of_a_pcd_is_not_applied(tmp_path: Path) -> None:
    header = pcd_header("binary", len(POINTS), VIEWPOINT="10 20 30 0 1 0 0")
    (tmp_path / "a.pcd").write_bytes(header + POINTS.astype("<f4").tobytes())
    assert np.array_equal(xyz(tmp_path / "a.pcd"), POINTS[:, :3])
