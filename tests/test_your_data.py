"""The worked example of docs/your_data.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.pipeline.datasets.described.sources import load_description

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your_data.md"


def invoked(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    (code,), (description,) = (
        re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL) for kind in ("python", "toml")
    )
    exec(compile(code, str(PAGE), "exec"), {})
    Path("park.toml").write_text(description)
    commands = re.findall(r"^    pass2d (prepare|stats)(.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 3
    for command, words in commands:
        assert "warning" not in invoked(command, *words.split())
    with CacheReader.open(tmp_path / "cache") as reader:
        assert (len(reader.scans.scan_id), reader.info.name) == (8, "park")
        assert reader.info.labels.names == ("unlabeled", "lawn", "tree")
    # Training and prediction as on the page, but for the size and the name of the run.
    (train,) = re.findall(r"^    pass2d (train .*)$", text, flags=re.MULTILINE)
    small = (
        "epochs=1",
        "device=cpu",
        "network.settings.width_factor=0.125",
        "log.tensorboard=false",
    )
    settings = [word for setting in small for word in ("--set", setting)]
    invoked(*train.split(), "--run", "runs/park", *settings)
    (predict,) = re.findall(r"^    pass2d (predict .*)$", text, flags=re.MULTILINE)
    invoked(*predict.replace("runs/...", "runs/park").split(), "--device", "cpu")
    written = sorted(Path("labels").rglob("*.label"))
    assert [file.stem for file in written] == ["0", "1", "2", "3"]
    for file in written:
        ids = np.fromfile(file, "<u4")
        assert len(ids) == 5000
        assert set(ids.tolist()) <= {0, 3, 12}


def test_the_worked_example_is_described_by_a_look_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    (describe,) = re.findall(r"`pass2d (describe DIR --out mine.toml)`", text)
    invoked(*describe.replace("DIR", "park").split())
    found = load_description("mine.toml")
    assert found.points.files == "clouds/{sequence}/{scan}.bin"
    assert found.points.columns == ("time", "x", "y", "z", "signal")
    assert (found.points.unit, found.points.dtype) == ("cm", "f8")
    assert found.labels is not None
    assert (found.labels.files, found.labels.dtype) == ("truth/{sequence}/{scan}.label", "u1")
    assert [one.raw for one in found.classes] == [(3,), (12,)]
    assert found.splits.train is not None
    assert found.splits.train.sequences == ("mon",)
