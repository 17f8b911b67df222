"""The share of time spent waiting for data: measured, written down, and what to change is said."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cache_samples import write_sample_cache
from train_samples import TINY
from typer.testing import CliRunner

import pass2d.train.data.stream
import pass2d.train.loop
import pass2d.train.run.journal
from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.train.data.stream import StreamConfig
from pass2d.train.run.journal import waiting_advice

STEP_S = 1.0
ADVICE = "of the time goes by waiting for data: "


class ReadsWhenAsked:
    """In place of the threads: a batch is read while the loop waits for it."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(result=functools.cache(lambda: function(*arguments)))

    def shutdown(self, **_: object) -> None:
        pass


def wait_for(futures: Sequence[SimpleNamespace], _timeout: float = 0) -> SimpleNamespace:
    """As `concurrent.futures.wait`."""
    for future in futures:
        future.result()
    return SimpleNamespace(not_done=())


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root / "speed", n_scans=4, n_points=100)
    write_sample_cache(root / "size", n_scans=1, n_points=100, profile="size")
    return root


def train_with_read_time(
    monkeypatch: pytest.MonkeyPatch, cache_root: Path, run_root: Path, *, read_s: float
) -> str:
    """`pass2d train` under a clock on which a scan takes ``read_s`` and a step one second."""
    now = SimpleNamespace(s=0.0)
    clock = SimpleNamespace(perf_counter=lambda: now.s)
    load, step = pass2d.train.data.stream.load_scan, pass2d.train.loop.optimizer_step

    def slow_load(*arguments: Any, **options: Any) -> Any:
        now.s += read_s
        return load(*arguments, **options)

    def slow_step(*arguments: Any) -> int:
        now.s += STEP_S
        return step(*arguments)

    monkeypatch.setattr(pass2d.train.data.stream, "ThreadPoolExecutor", ReadsWhenAsked)
    monkeypatch.setattr(pass2d.train.data.stream, "wait", wait_for)
    monkeypatch.setattr(pass2d.train.data.stream, "time", clock)
    monkeypatch.setattr(pass2d.train.run.journal, "time", clock)
    monkeypatch.setattr(pass2d.train.data.stream, "load_scan", slow_load)
    monkeypatch.setattr(pass2d.train.loop, "optimizer_step", slow_step)
    settings = [
        word for setting in (*TINY, "validation.every_epochs=0") for word in ("--set", setting)
    ]
    words = ["train", "--cache", str(cache_root / "speed"), "--run", str(run_root), *settings]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stderr


def wait_shares(run_root: Path) -> list[float]:
    lines = (run_root / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["wait_share"] for line in lines]


def test_a_starved_loop_says_its_share_and_once_what_to_change(
    monkeypatch: pytest.MonkeyPatch, cache_root: Path, tmp_path: Path
) -> None:
    told = train_with_read_time(monkeypatch, cache_root, tmp_path / "run", read_s=1.5)
    # Two scans a batch: 3 s of reading, 1 s of the step.
    assert wait_shares(tmp_path / "run") == pytest.approx([0.75] * 4)
    assert told.count("75% waiting for data") == 4
    assert told.count(f"75% {ADVICE}raise stream.threads (now 2) to 3;") == 1
    assert told.count(ADVICE) == 1


def test_a_fed_loop_gives_no_advice(
    monkeypatch: pytest.MonkeyPatch, cache_root: Path, tmp_path: Path
) -> None:
    told = train_with_read_time(monkeypatch, cache_root, tmp_path / "run", read_s=0.05)
    assert wait_shares(tmp_path / "run") == pytest.approx([0.1 / 1.1] * 4)
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
