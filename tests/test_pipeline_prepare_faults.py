"""Whatever fails while preparing: nothing half-written is visible, and the next run finishes."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from pipeline_files import shards, write_sequence
from prepare_faults import failing_calls, go, short_writes, start_driver, stop

from pass2d.cache.care.verify import verify
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare
from pass2d.pipeline.run.runners import InlineRunner
from pass2d.pipeline.run.tasks import run_task

INLINE = PrepareConfig(workers=0, shard_scans=2)


def assert_nothing_half_written(out: Path, whole: dict[str, bytes]) -> None:
    """What is visible is complete and right, and a reader sees all or a clear message."""
    seen = shards(out)
    folders = {"/".join(Path(name).parts[:2]) for name in seen}
    expected = {n: d for n, d in whole.items() if "/".join(Path(n).parts[:2]) in folders}
    assert seen == expected
    if (out / "CURRENT").exists():
        with CacheReader.open(out) as reader:
            assert len(reader.scans) > 0
    elif out.is_dir():
        with pytest.raises(CacheError, match=r"no finished generation|no prepared data set"):
            CacheReader.open(out)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """One scan, three shards; and what they should be."""
    raw = tmp_path / "raw"
    write_sequence(raw, "00", (0,))
    prepare(list_semkitti(raw), tmp_path / "whole", INLINE, Silent())
    return raw, shards(tmp_path / "whole")


def _number_of_calls(raw: Path, out: Path) -> int:
    with failing_calls(None, first=1) as count:
        prepare(list_semkitti(raw), out, INLINE, Silent())
    return count()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free space"),
        (errno.EACCES, "no write permission"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_each_call_that_fails_for_good(
    tiny: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    code: int,
    remedy: str,
    fault_rounds: int,
) -> None:
    raw, whole = tiny
    calls = _number_of_calls(raw, tmp_path / "counted")
    assert calls > 100
    # The codes fail on the same paths: more of the calls for a full disk, each with more rounds.
    step = 1 if fault_rounds > 1 else 13 if code == errno.ENOSPC else 43
    for number in range(1, calls + 1, step):
        out = tmp_path / "out"
        with failing_calls(code, first=number, last=calls + 99):
            with pytest.raises(CacheError, match=remedy) as caught:
                prepare(list_semkitti(raw), out, INLINE, Silent())
            assert "\n" not in str(caught.value)
        assert_nothing_half_written(out, whole)
        if number % 2:
            prepare(list_semkitti(raw), out, INLINE, Silent())
            assert shards(out) == whole
            assert verify(out, Silent()).is_sound
        shutil.rmtree(out, ignore_errors=True)


def test_each_call_that_fails_once(
    tiny: tuple[Path, dict[str, bytes]], tmp_path: Path, fault_rounds: int
) -> None:
    """EIO in a shard is tried again; outside of it (manifest) it is a clear error."""
    raw, whole = tiny
    calls = _number_of_calls(raw, tmp_path / "counted")
    for number in range(1, calls + 1, 1 if fault_rounds > 1 else 23):
        out = tmp_path / f"out{number}"
        with failing_calls(errno.EIO, first=number):
            try:
                prepare(list_semkitti(raw), out, INLINE, Silent())
            except CacheError as error:
                text = str(error)
                assert "Input/output error" in text
                assert "\n" not in text
        assert_nothing_half_written(out, whole)
        prepare(list_semkitti(raw), out, INLINE, Silent())
        assert shards(out) == whole


def test_a_disk_that_fails_for_ever(tiny: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    raw, _ = tiny
    with (
        failing_calls(errno.EIO, first=40, last=10_000),
        pytest.raises(CacheError, match=r"cannot write .Input/output error., even after retrying"),
    ):
        prepare(list_semkitti(raw), tmp_path / "out", INLINE, Silent())


def test_short_writes_give_the_same_bytes(
    tiny: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    raw, whole = tiny
    with short_writes():
        prepare(list_semkitti(raw), tmp_path / "out", INLINE, Silent())
    assert shards(tmp_path / "out") == whole
    assert verify(tmp_path / "out", Silent()).is_sound


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "00", (0,))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "semkitti"):
        with pytest.raises(CacheError, match=r"choose another folder"):
            prepare(list_semkitti(tmp_path / "raw"), out, INLINE, Silent())


@pytest.fixture
def larger(tmp_path: Path) -> tuple[Path, dict[str, bytes], float]:
    """Eight shards of two scans; what they should be, and how long they take."""
    raw = tmp_path / "raw"
    for sequence in ("00", "01", "08", "11"):
        write_sequence(raw, sequence, (0, 1, 2), n=3000, labels=sequence != "11")
    started = time.perf_counter()
    prepare(list_semkitti(raw), tmp_path / "whole", INLINE, Silent())
    return raw, shards(tmp_path / "whole"), time.perf_counter() - started


def test_killed_at_random_moments(
    larger: tuple[Path, dict[str, bytes], float], tmp_path: Path, fault_rounds: int
) -> None:
    raw, whole, seconds = larger
    rng = random.Random(fault_rounds)
    for round_number in range(fault_rounds):
        out = tmp_path / f"killed{round_number}"
        for _ in range(4):
            process = start_driver(raw, out)
            go(process)
            time.sleep(rng.uniform(0, 0.7 * seconds))  # the moment is what is tested
            stop(process, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            assert_nothing_half_written(out, whole)
        prepare(list_semkitti(raw), out, INLINE, Silent())
        assert shards(out) == whole
        assert verify(out, Silent()).is_sound
        assert {path.suffix for path in (out / ".tmp").iterdir()} == {".lock"}


def test_two_drivers_on_one_cache(
    larger: tuple[Path, dict[str, bytes], float], tmp_path: Path
) -> None:
    raw, whole, _ = larger
    processes = [start_driver(raw, tmp_path / "out") for _ in range(2)]
    for process in processes:
        go(process)
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, "done\n"), errors
    assert shards(tmp_path / "out") == whole
    report = verify(tmp_path / "out", Silent())
    assert (report.damages, report.scans) == ((), 12)


def test_a_run_is_resumed_not_repeated(
    larger: tuple[Path, dict[str, bytes], float], tmp_path: Path
) -> None:
    raw, whole, _ = larger
    done = []

    def interrupted(context, task):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append((task.container, task.job.shard))
        return run_task(context, task)

    def runner(context):
        return InlineRunner(context, max_retries=0, run_task=interrupted)

    with pytest.raises(KeyboardInterrupt):
        prepare(list_semkitti(raw), tmp_path / "out", INLINE, runner=runner)
    first = list(done)
    done.clear()
    done.extend([("", 0)] * 8)  # never 7 again
    todo = plan(list_semkitti(raw), tmp_path / "out", INLINE)
    assert {(t.container, t.shard) for t in todo.tasks}.isdisjoint(first)
    prepare(list_semkitti(raw), tmp_path / "out", INLINE, runner=runner)
    assert set(done[8:]).isdisjoint(first)
    assert len(done[8:]) + len(first) == 32
    assert shards(tmp_path / "out") == whole
