"""The worked example of docs/recordings.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cache_samples import sample_info
from stub_network import random_checkpoint
from typed import pass2d

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recordings.md"


def test_the_worked_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random_checkpoint(tmp_path / "best.safetensors", info=sample_info())
    page = PAGE.read_text("utf-8")
    _, example = page.split("## A worked example")
    writing, reading = re.findall(r"```python\n(.*?)```", example, flags=re.DOTALL)
    (command,) = re.findall(r"^    pass2d (.*)$", example, flags=re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(writing, str(PAGE), "exec"), names)
    result = pass2d(*command.split())
    assert result.exit_code == 0, result.output
    exec(compile(reading, str(PAGE), "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said == ["1000000000 3000 [0]", "2000000000 3000 [0]"]
