"""Where spconv is not installed, CPU users lose nothing: training, `eval`, `predict`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cache_samples import write_sample_cache
from missing_modules import SPCONV, without
from train_samples import tiny_recipe
from typer.testing import CliRunner

from pass2d.commands.app import app
from pass2d.common.progress import Silent
from pass2d.train.loop import run


def test_train_eval_and_predict(tmp_path: Path) -> None:
    write_sample_cache(tmp_path / "cache", n_scans=2)
    points = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    points.tofile(tmp_path / "scan.bin")
    with without(SPCONV):
        with pytest.raises(ModuleNotFoundError):
            __import__("spconv")
        run(
            tmp_path / "cache",
            tiny_recipe("epochs=1"),
            run_root=tmp_path / "run",
            progress=Silent(),
        )
        weights = next((tmp_path / "run").rglob("last.safetensors"))
        common = ["--checkpoint", str(weights), "--device", "cpu"]
        for words in (
            ["eval", "--cache", str(tmp_path / "cache"), *common],
            [
                "predict",
                str(tmp_path / "scan.bin"),
                "--columns",
                "4",
                "--out",
                str(tmp_path / "out"),
                *common,
            ],
        ):
            found = CliRunner().invoke(app, words)
            assert found.exit_code == 0, found.output
    (labels,) = (tmp_path / "out").rglob("*.label")
    assert labels.stat().st_size == 4 * len(points)
