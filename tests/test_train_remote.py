"""Training from a remote store: the same steps as from a folder, and exact resuming."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from cache_samples import write_sample_cache
from train_samples import Heard, assert_same_tensors, final_state, tiny_recipe

from cache.errors import ConfigError
from train import stream
from train.loop import run

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
        stream,
        "epoch_order",
        lambda positions, *, seed, epoch: stream.block_order(
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
