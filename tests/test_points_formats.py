"""Range images, archives, tables of text, packed files, padded clouds; and files that lie."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from test_points import POINTS, lzf_by_hand, pcd_header, write_las, write_ply

from pass2d.common.errors import DataError
from pass2d.points import packed
from pass2d.points.columns import PointColumns, from_matrix
from pass2d.points.registry import READERS, SOME_POINTS, read_columns

ROWS = [[1.5, -2, 3, 7], [4, 5, -6.25, 8], [9, 10, 11, 12]]


def table(path: Path) -> list[list[float]]:
    return np.column_stack(read_columns(path).values).tolist()


def refused(path: Path, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_columns(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.xyz", "a.csv.gz"])
@pytest.mark.parametrize("mark", [",", ";", "\t", " ", ", "])
@pytest.mark.parametrize("head", ["", "x{}y{}z{}intensity\n", "# a comment\n\n", "3\n"])
def test_tables_of_text(tmp_path: Path, name: str, mark: str, head: str) -> None:
    lines = "".join(mark.join(map(str, row)) + "\r\n" for row in ROWS)
    data = (head.format(mark, mark, mark) + lines).encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert table(tmp_path / name) == ROWS
    names = ("x", "y", "z", "intensity") if "x" in head else ("0", "1", "2", "3")
    assert read_columns(tmp_path / name).names == names


@pytest.mark.parametrize("head", [b"", b"x y z label\n", b"%(n)d\n", b"# ours\n%(n)d\n"])
def test_a_look_at_a_long_text_reads_points_from_all_over_it(tmp_path: Path, head: bytes) -> None:
    n = 100_000
    rows = [b"%d 0.25 -1.5 %d" % (i, i % 7) for i in range(n)]
    rows[10:10] = [b"", b"# a comment"]
    path = tmp_path / "a.txt"
    path.write_bytes((head % {b"n": n} if b"%" in head else head) + b"\r\n".join(rows))
    assert path.stat().st_size > 1 << 20
    whole, some = read_columns(path), read_columns(path, SOME_POINTS)
    assert some.names == whole.names
    assert some.n + some.left_out == whole.n == n
    if b"# ours" not in head:
        assert some.n < n
        assert (np.diff(some.values[0]) > 0).all()
        assert np.diff(some.values[0]).max() < n / 20
        assert (some.values[3] == some.values[0] % 7).all()


def test_odd_tables_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,5;-2;3;7\n4;5;-6,25;8\n9;10;11;12\n")  # decimal commas
    assert table(path) == ROWS
    path.write_bytes('"x","y","z","class"\n1,2,3,car\n4,,6,"a, b"\n'.encode("utf-16"))
    assert read_columns(path).names == ("x", "y", "z")
    assert np.array_equal(table(path), [[1, 2, 3], [4, np.nan, 6]], equal_nan=True)
    path.write_text("sep=;\r\nx;y;z;i\r\n1,5;-2;3;7\r\n4;5;-6,25;8\r\n")  # of Excel
    assert read_columns(path).names == ("x", "y", "z", "i")
    assert table(path) == ROWS[:2]
    path.write_text("1,5 -2 3 7\n4 5 -6,25 8\n9 10 11 12\n")
    assert table(path) == ROWS
    path.write_text("//X Y Z i\n1 2 3 4\n")
    assert read_columns(path).names == ("X", "Y", "Z", "i")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no line of numbers"),
        (b"# only words\n", "no line of numbers"),
        (b"1,2,3\n4,5\n", "line 2: 3 values are expected as in line 1"),
        (b"1,2,3\n4,5,six\n", "line 2: not numbers: '4,5,six'"),
        (b"1,2\n3,4\n", "line 1: three numbers or more are expected"),
        (b"5\n1 2 3\n", "1 points, its first line says 5"),
        (b"x,y,z\n1,2,3,4\n", "4 values, but 3 names"),
        (b"1,2,3\0\n", "not text"),
        (b"\xff\xfe1", "not readable text"),
        (b"1,50,2,05,3,25\n-4,10,5,00,6,75\n", "line 1: .* commas between columns and in numb"),
        (b'x,y,z\n"1,234.5",2,3\n', "line 2: '1,234.5': commas between thousands. Write a deci"),
        (b"1,234,567;2;3\n", "line 1: '1,234,567': commas between thousands"),
        (b"x;y;z\n1,234;-23,456;3\n4;5;600\n", "separate thousands, or are they decimal?"),
    ],
)
def test_faults_of_text_name_the_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    refused(tmp_path / "a.csv", said)


def test_range_images_give_a_point_per_pixel_row_by_row(tmp_path: Path) -> None:
    image = np.arange(8 * 40 * 4).reshape(8, 40, 4).astype("<f4")
    for name, array in (("last", image), ("first", np.moveaxis(image, 2, 0)[:, :, :])):
        np.save(tmp_path / f"{name}.npy", array if name == "last" else np.repeat(array, 4, axis=1))
    found = read_columns(tmp_path / "last.npy")
    assert np.array_equal(np.column_stack(found.values), image.reshape(-1, 4))
    assert found.note == "a range image of 8 x 40: one label per pixel, row by row"
    assert "32 x 40" in read_columns(tmp_path / "first.npy").note
    np.save(tmp_path / "b.npy", np.zeros((4, 40, 4)))
    refused(tmp_path / "b.npy", "could be a range image")


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, POINTS)
    assert np.array_equal(table(path), POINTS)
    path.rename(tmp_path / "b.npy")  # of another name
    assert np.array_equal(table(tmp_path / "b.npy"), POINTS)
    np.savez(path, labels=np.zeros(60), points=POINTS)
    assert np.array_equal(table(path), POINTS)
    np.savez(path, x=POINTS[:, 0], y=POINTS[:, 1], z=POINTS[:, 2], pose=np.eye(4))
    assert read_columns(path).names == ("x", "y", "z")
    np.savez(path, x=POINTS[:, 0], y=POINTS[1:, 1], z=POINTS[:, 2])
    refused(path, r"x, y and z must be arrays .* y float32 \(59,\), z")
    np.savez(path, a=POINTS, b=POINTS)
    refused(path, "which array holds the points. It has a, b; one array")
    np.savez(path, np.array([{}]))
    refused(path, "holds Python objects")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }",
        "((((((((((" * 300,
        "'''",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }",
    ],
)
def test_headers_of_arrays_that_lie(tmp_path: Path, header: str) -> None:
    text = header.encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16)
    (tmp_path / "a.npy").write_bytes(data)
    refused(tmp_path / "a.npy", "NumPy|Python objects")


@pytest.mark.parametrize("name", ["a.txt", "a.npy"])
def test_a_file_of_one_endless_row_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.txt":
        path.write_text("1 " * 100_000)
    else:
        np.save(path, np.ones((20, 100_000), np.float32))
    refused(path, "100,000 numbers per point, at most 1000 are expected")


@pytest.mark.parametrize("padded", [0, 4])
def test_padding_of_count_0(tmp_path: Path, padded: int) -> None:
    rows = np.zeros(60, [("xyz", "<f4", 3), ("_", "u1", padded), ("i", "<f8"), ("t", "<u4")])
    rows["xyz"], rows["i"], rows["t"] = POINTS[:, :3], POINTS[:, 3], np.arange(60) + 2**31
    changes = {
        "FIELDS": "x y z _ intensity t",
        "SIZE": "4 4 4 1 8 4",
        "TYPE": "F F F U F U",
        "COUNT": "1 1 1 0 1 1",
        "WIDTH": "20",
        "HEIGHT": "4",
    }  # 80 places, 60 points
    (tmp_path / "a.pcd").write_bytes(pcd_header("binary", 60, **changes) + rows.tobytes())
    found = read_columns(tmp_path / "a.pcd")
    assert found.names == ("x", "y", "z", "intensity", "t")
    assert np.array_equal(np.column_stack(found.values[:4]), POINTS)
    assert found.values[4].tolist() == (np.arange(60) + 2**31).tolist()


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("said", [0, 45])
def test_all_points_of_a_cloud_whose_header_counts_fewer(
    tmp_path: Path, kind: str, said: int
) -> None:
    body = POINTS.tobytes()
    if kind == "ascii":
        body = "".join(" ".join(map(repr, row)) + "\n" for row in POINTS.tolist()).encode()
    elif kind == "binary_compressed":
        packed = lzf_by_hand(POINTS.T.tobytes())
        body = struct.pack("<II", len(packed), POINTS.nbytes) + packed
    header = pcd_header(kind, 60, WIDTH="20", HEIGHT="3", POINTS=str(said))
    (tmp_path / "a.pcd").write_bytes(header + body)
    assert np.array_equal(table(tmp_path / "a.pcd"), POINTS)


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_cloud_with_more_points_than_its_header_counts_is_refused(
    tmp_path: Path, kind: str
) -> None:
    body = POINTS.tobytes()
    if kind == "ascii":
        body = "".join(" ".join(map(repr, row)) + "\n" for row in POINTS.tolist()).encode()
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_header(kind, 50) + body)
    refused(path, "60 points, its header says 50: correct POINTS, or write the file again")
    path.write_bytes(pcd_header(kind, 60) + body + (bytes(512) if kind == "binary" else b"\n\n"))
    assert np.array_equal(table(path), POINTS)


def test_las_with_more_points_than_its_header_counts_is_refused(tmp_path: Path) -> None:
    path = write_las(tmp_path / "a.las")
    data = bytearray(path.read_bytes())
    data[107:111] = struct.pack("<I", 50)
    path.write_bytes(data)
    refused(path, "bytes follow a header of 50 points: truncated or damaged")


@pytest.mark.parametrize("more", [16 * 20, 3])
def test_compressed_cloud_with_more_bytes_than_its_points_is_refused(
    tmp_path: Path, more: int
) -> None:
    flat = POINTS.T.tobytes() + bytes(more)
    packed = lzf_by_hand(flat)
    body = struct.pack("<II", len(packed), len(flat)) + packed
    (tmp_path / "a.pcd").write_bytes(pcd_header("binary_compressed", 60) + body)
    refused(tmp_path / "a.pcd", "its header says 60")


@pytest.mark.parametrize(
    "changes",
    [
        {"POINTS": "4000000000"},
        {"COUNT": "1 1 1 999999999999"},
        {"COUNT": "1 1 1 -1"},
        {"SIZE": "4 4 4 3"},
        {"POINTS": "9" * 5000},
    ],
)
@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_headers_of_clouds_that_lie(tmp_path: Path, kind: str, changes: dict[str, str]) -> None:
    (tmp_path / "a.pcd").write_bytes(pcd_header(kind, 60, **changes) + POINTS.tobytes())
    refused(tmp_path / "a.pcd", "not a readable PCD file|its header says|numbers per line")


def test_extended_records_of_las_that_never_end_are_passed_over(tmp_path: Path) -> None:
    import laspy

    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = np.full(3, 1 / 64)
    content = laspy.LasData(header)
    content.x, content.y, content.z = POINTS[:, :3].T.astype(float)
    content.write(str(tmp_path / "a.las"))
    data = bytearray((tmp_path / "a.las").read_bytes())
    data[235:247] = struct.pack("<QI", len(data), 2**32 - 1)
    (tmp_path / "a.las").write_bytes(data)
    assert np.array_equal(np.array(table(tmp_path / "a.las"))[:, :3], POINTS[:, :3])


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        *((place, "<I", 2**32 - 1) for place in (100, 107, 96)),
        (107, "<I", 0),  # as a writer leaves it that never came to its end
        (131, "<d", 0.0),  # all points in one plane
        (139, "<d", np.nan),
        (171, "<d", np.inf),
        (104, "<B", 77),
        (25, "<B", 9),
    ],
)
def test_headers_of_las_that_lie(tmp_path: Path, place: int, kind: str, value: float) -> None:
    data = bytearray(write_las(tmp_path / "a.las").read_bytes())
    struct.pack_into(kind, data, place, value)
    (tmp_path / "a.las").write_bytes(data)
    refused(tmp_path / "a.las", "not a readable LAS file.*truncated or damaged")


def test_ply_whose_header_does_not_end(tmp_path: Path) -> None:
    data = write_ply(tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"end_header", b"property float a\n" * 9000))
    refused(tmp_path / "a.ply", "no 'end_header' within 1,000 lines")


def test_comments_of_a_ply_may_be_many_and_long(tmp_path: Path) -> None:
    data = write_ply(tmp_path / "a.ply").read_bytes()
    comments = b"comment \xe9\n" * 5000 + b"obj_info " + b"a " * 99_999 + b"\nelement"
    (tmp_path / "a.ply").write_bytes(data.replace(b"element", comments, 1))
    assert np.array_equal(table(tmp_path / "a.ply"), POINTS)


def test_ply_that_counts_more_than_it_holds(tmp_path: Path) -> None:
    data = write_ply(tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"vertex 60", b"vertex 99999999999"))
    refused(tmp_path / "a.ply", "element vertex 99999999999")
    faces = b"element face 999\nproperty list uchar int vertex_index\nend_header"
    (tmp_path / "a.ply").write_bytes(data.replace(b"end_header", faces))  # none is there
    assert np.array_equal(table(tmp_path / "a.ply"), POINTS)


@pytest.mark.parametrize("layout", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
def test_ply_that_counts_fewer_than_follow(tmp_path: Path, layout: dict[str, object]) -> None:
    path = write_ply(tmp_path / "a.ply", **layout)
    data = path.read_bytes()
    path.write_bytes(data + b"\n")  # a line's end is no point
    assert np.array_equal(table(path), POINTS)
    path.write_bytes(data.replace(b"vertex 60", b"vertex 59"))
    refused(path, "the header counts 59 vertices, but 60 follow it")


def test_packed_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ply(tmp_path / "a.ply")
    path = tmp_path / "b.ply.gz"
    path.write_bytes(gzip.compress((tmp_path / "a.ply").read_bytes()))
    assert np.array_equal(table(path), POINTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(path, "not a readable gzip file")
    path.write_bytes(b"no gzip")
    refused(path, "not a readable gzip file")
    monkeypatch.setattr(packed, "LARGEST_UNPACKED", 1 << 20)
    path.write_bytes(gzip.compress(bytes(1 << 21)))
    refused(path, "unpacks to more than 1 MiB")
    np.savez_compressed(tmp_path / "c.npz", np.zeros((1 << 18, 4)))
    refused(tmp_path / "c.npz", "unpacks to more than 1 MiB")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    refused(tmp_path / "a.csv", "a pipe, not a file of points")
    (tmp_path / "b.pcd").mkdir()
    refused(tmp_path / "b.pcd", "a folder, not a file of points")
    (tmp_path / "c.pcd").symlink_to("gone")
    refused(tmp_path / "c.pcd", "no such file: a link that leads nowhere")


def test_whatever_a_reader_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """Of readers in Rust."""

    write_ply(tmp_path / "a.ply")
    for error in (PanicException("index\nout of range"), RecursionError("deep"), MemoryError()):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("plyfile.PlyData.read", fail)
        refused(tmp_path / "a.ply", "not a readable .ply file|more points than fit the memory")


def test_a_format_is_a_reader_and_a_line(tmp_path: Path) -> None:
    def read_lines(path: Path, data: bytes) -> PointColumns:
        """Three whole numbers a line, from the last to the first."""
        rows = [[int(word) for word in line.split()] for line in data.decode().splitlines()]
        return from_matrix(path, np.array(rows[::-1], np.float32))

    (tmp_path / "a.turned").write_text("1 2 3\n4 5 6\n")
    (tmp_path / "b.turned.gz").write_bytes(gzip.compress(b"1 2 3\n4 5 6\n"))
    for name in ("a.turned", "b.turned.gz"):
        found = read_columns(tmp_path / name, {**READERS, ".turned": read_lines})
        assert [column.tolist() for column in found.values] == [[4, 1], [5, 2], [6, 3]]
    with pytest.raises(DataError, match=r"one of \.npy"):
        read_columns(tmp_path / "a.turned")
