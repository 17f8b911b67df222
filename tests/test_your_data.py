"""The worked example of docs/your_data.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader
from pass2d.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your_data.md"


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
        result = CliRunner().invoke(app, [command, *words.split()])
        assert result.exit_code == 0, result.output
        assert "warning" not in result.output
    with CacheReader.open(tmp_path / "cache") as reader:
        assert (len(reader.scans.scan_id), reader.info.name) == (8, "park")
        assert reader.info.labels.names == ("unlabeled", "lawn", "tree")
