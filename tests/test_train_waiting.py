"""The share of time spent waiting for data: measured, written down, and what to change is said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cache_samples import write_sample_cache
from heard import Heard
from train_samples import tiny_recipe

from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.run.assemble import assemble
from pass2d.train.run.journal import Journal, LogWindow, waiting_advice
from pass2d.train.run.state import fresh_state

ADVICE = "of the time goes by waiting for data: "


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root / "speed", n_scans=4, n_points=100)
    write_sample_cache(root / "size", n_scans=1, n_points=100, profile="size")
    return root


def test_a_stream_counts_the_time_that_its_batches_are_waited_for(cache_root: Path) -> None:
    times = iter([10.0, 12.0, 20.0, 20.5])
    with CacheReader.open(cache_root / "speed") as reader:
        job = assemble(reader, tiny_recipe(), ProcessGroup(device=torch.device("cpu")), Silent())
        stream = BatchStream(reader, job.plan, StreamConfig(), clock=lambda: next(times))
        next(stream)
        assert stream.wait_s == 2.0
        next(stream)
        assert stream.wait_s == 2.5
        stream.close()


def logged(
    cache_root: Path, run_root: Path, *, wait_s: float, step_s: float
) -> tuple[list[float], str]:
    """Four lines of the log, one per step: shares of waiting, and what a person reads."""
    now = SimpleNamespace(s=0.0)
    heard, stream = Heard(), SimpleNamespace(wait_s=0.0)
    run_root.mkdir()
    folder = RunFolder(root=run_root)
    with CacheReader.open(cache_root / "speed") as reader:
        job = assemble(reader, tiny_recipe(), ProcessGroup(device=torch.device("cpu")), Silent())
        state = fresh_state(job)
        journal = Journal(folder, heard, step=0, tensorboard=False)
        window = LogWindow(lambda: now.s)
        for _ in range(4):
            now.s += wait_s + step_s
            stream.wait_s += wait_s
            state.totals.add({"loss": torch.tensor(1.0)}, share=1.0)
            state.cursor += 2
            window.add(2)
            window.write(job, state, stream, journal)
            now.s += 100.0  # a validation, which is not the loop's doing
            window.restart(stream)
        journal.close()
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["scans_per_s"] for line in lines] == pytest.approx([2 / (wait_s + step_s)] * 4)
    return [line["wait_share"] for line in lines], "\n".join(heard.lines)


def test_a_starved_loop_says_its_share_and_once_what_to_change(
    cache_root: Path, tmp_path: Path
) -> None:
    shares, told = logged(cache_root, tmp_path / "run", wait_s=3.0, step_s=1.0)
    assert shares == pytest.approx([0.75] * 4)
    assert told.count("75% waiting for data") == 4
    assert told.count(f"75% {ADVICE}raise stream.threads (now 2) to 3;") == 1
    assert told.count(ADVICE) == 1


def test_a_fed_loop_gives_no_advice(cache_root: Path, tmp_path: Path) -> None:
    shares, told = logged(cache_root, tmp_path / "run", wait_s=0.1, step_s=1.0)
    assert shares == pytest.approx([0.1 / 1.1] * 4)
    assert told.count("9% waiting for data") == 4
    assert ADVICE not in told


def test_the_advice_names_what_the_run_has_not_tried(cache_root: Path) -> None:
    with CacheReader.open(cache_root / "speed") as reader:
        few = StreamConfig(threads=1, prefetch=2)
        assert waiting_advice(0.2, few, reader, cores=8) == ""
        assert waiting_advice(0.5, few, reader, cores=8) == (
            f"50% {ADVICE}raise stream.threads (now 1) to 3; raise stream.prefetch (now 2) to 4; "
            "put the cache on a faster local disk"
        )
        many = StreamConfig(threads=3)
        assert waiting_advice(0.5, many, reader, cores=2) == (
            f"50% {ADVICE}put the cache on a faster local disk; "
            "give the process more than its 2 CPU cores"
        )
        reader.is_remote = True
        assert waiting_advice(0.5, many, reader, cores=8) == (
            f"50% {ADVICE}copy the cache to a local disk"
        )
    with CacheReader.open(cache_root / "size") as reader:
        told = waiting_advice(0.5, many, reader, cores=8)
    assert "prepare the cache with `profile=speed`" in told
