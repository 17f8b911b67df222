"""Training from a remote store: the same steps as from a folder, and exact resuming."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cache_samples import write_sample_cache
from heard import Heard
from train_samples import assert_same_tensors, final_state, tiny_recipe

from pass2d.cache.remote.store import RemoteStore
from pass2d.common.errors import ConfigError
from pass2d.common.prefetch import prefetch
from pass2d.train.data import plan
from pass2d.train.loop import run

URL = "memory://training/cache"


class Killed(BaseException):
    """Ends a run as a kill would: nothing is saved on the way out."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in a folder and at `URL`."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    root = tmp_path / "cache"
    write_sample_cache(root, n_scans=3, sequences=("00", "01", "08"), n_points=300)
    fs = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/training/cache/{path.relative_to(root)}", path.read_bytes())
    return root


def test_a_run_from_a_url_is_the_run_from_a_folder_in_its_order(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(URL, tiny_recipe(), run_root=tmp_path / "far")
    shards = np.array([0, 0, 0, 1000, 1000, 1000])
    monkeypatch.setattr(
        plan,
        "epoch_order",
        lambda positions, *, seed, epoch: plan.block_order(
            positions, shards, seed=seed, epoch=epoch
        ),
    )
    run(data, tiny_recipe(), run_root=tmp_path / "near")
    assert_same_tensors(final_state(tmp_path / "far"), final_state(tmp_path / "near"))


def test_a_killed_run_resumes_exactly_but_not_with_the_other_order(
    data: Path, tmp_path: Path
) -> None:
    run(URL, tiny_recipe(), run_root=tmp_path / "whole")

    def kill(advances: int) -> None:
        if advances == 3:
            raise Killed

    with pytest.raises(Killed):
        run(URL, tiny_recipe(), run_root=tmp_path / "cut", progress=Heard(on_advance=kill))
    with pytest.raises(ConfigError, match=r"the order shuffles scans \(was blocks of shards\)"):
        run(data, tiny_recipe(), run_root=tmp_path / "cut", resume=True)
    run(URL, tiny_recipe(), run_root=tmp_path / "cut", resume=True)
    assert_same_tensors(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Set in the end, or when a test that should not wait has waited for half a minute."""
    released = threading.Event()
    timer = threading.Timer(30, released.set)
    timer.start()
    yield released
    timer.cancel()
    released.set()


def test_a_signal_ends_a_run_whose_store_hangs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    monkeypatch.setattr("pass2d.train.data.stream._CLOSING_S", 0.0)
    run(URL, tiny_recipe(), run_root=tmp_path / "whole")
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "second"))
    real, hung = RemoteStore.fetch, []

    def fetch(self: RemoteStore, name: str, aside: Path, *, nbytes: int, xxh3: str) -> None:
        if "/label/" in name:
            hung.append(name)
            if len(hung) == 2:  # of the second shard, when the first steps are done
                os.kill(os.getpid(), signal.SIGINT)
                hanging.wait()
        real(self, name, aside, nbytes=nbytes, xxh3=xxh3)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "fetch", fetch)
        cut = run(URL, tiny_recipe("stream.prefetch=1"), run_root=tmp_path / "cut")
    assert not hanging.is_set()
    assert (cut.stopped_by, cut.is_complete) == ("SIGINT", False)
    hanging.set()
    run(URL, tiny_recipe("stream.prefetch=1"), run_root=tmp_path / "cut", resume=True)
    assert_same_tensors(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))


def test_work_ahead_that_is_left_early_is_not_waited_for(hanging: threading.Event) -> None:
    results = prefetch(lambda wait: wait and hanging.wait(), [False, True, True])
    assert next(results) is False
    results.close()
    assert not hanging.is_set()
