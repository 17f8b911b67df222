"""Files that are replaced in one step."""

import os
from pathlib import Path

import pytest

from pass2d.common.files import read_whole, whole_file


def test_file_is_the_old_one_or_the_whole_new_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    for stop in (OSError, KeyboardInterrupt):
        with pytest.raises(stop):
            _half(path, stop)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def _half(path: Path, stop: type[BaseException]) -> None:
    with whole_file(path) as aside:
        aside.write_text("ha")
        raise stop


def test_folder_and_pipe_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=r"no regular file|a folder"), whole_file(tmp_path / name):
            pytest.fail("the body must not run")
    assert (tmp_path / "pipe").is_fifo()


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "no" / "result") as aside:
        aside.write_text("x")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    assert read_whole(tmp_path / "file") == b"abc"
    for path, said in ((tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(OSError, match=said) as refused:
            read_whole(path)
        assert refused.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path)
