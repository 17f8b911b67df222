"""Files that are replaced in one step."""

import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from leftovers import left_by_a_kill

from pass2d.common import files
from pass2d.common.files import read_whole, temporary_folder, whole_file


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


def test_what_a_kill_left_goes_with_the_next_file_there(tmp_path: Path) -> None:
    left = left_by_a_kill(tmp_path)
    with whole_file(tmp_path / "one") as aside:
        aside.write_text("1")
        inside = left_by_a_kill(aside.parent)
        with whole_file(tmp_path / "two") as other:  # a living one is left alone
            other.write_text("2")
        assert aside.read_text() == "1"
        assert inside.exists()
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_threads_that_write_to_one_folder_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for place in range(30):
            with whole_file(tmp_path / f"{number}-{place}", is_durable=False) as aside:
                aside.write_text(f"{number}-{place}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert all(path.read_text() == path.name for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 8 * 30


def test_temporary_folders_of_killed_runs_go_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = tmp_path / f"pass2d-{os.geteuid()}-{'0' * 32}"
    others = {tmp_path / f"theirs-{'0' * 32}", tmp_path / f"pass2d-123456-{'0' * 32}"}
    for folder in (dead, *others):
        folder.mkdir()
    with temporary_folder() as folder:
        assert {*tmp_path.iterdir()} == {folder, *others}
        assert folder.stat().st_mode & 0o777 == 0o700
        with temporary_folder():
            assert folder.is_dir()
    assert {*tmp_path.iterdir()} == others


def _half(path: Path, stop: type[BaseException]) -> None:
    with whole_file(path) as aside:
        aside.write_text("ha")
        raise stop


def test_interrupted_at_any_line_nothing_temporary_remains(tmp_path: Path) -> None:
    """Ctrl-C may come between any two lines; also while what was begun is taken away."""
    path, whole = tmp_path / "result", 0
    for moment in itertools.count(1):
        path.write_text("old")
        if not _is_interrupted(moment, lambda: _write(path)):
            break
        assert [*tmp_path.iterdir()] == [path], moment
        whole += path.read_text() == "new"
    assert moment > 30  # so many lines were tried
    assert 0 < whole < moment / 2


def _write(path: Path) -> None:
    with whole_file(path) as aside:
        aside.write_text("new")


def _is_interrupted(moment: int, work: Callable[[], None]) -> bool:
    """Raise KeyboardInterrupt before the moment-th line of the module that is tested."""
    file, lines = files.__file__, itertools.count(1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line" and next(lines) == moment:
            raise KeyboardInterrupt
        return trace

    try:
        sys.settrace(trace)
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_folder_and_pipe_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with (
            pytest.raises(OSError, match=r"not a regular file|a folder"),
            whole_file(tmp_path / name),
        ):
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
