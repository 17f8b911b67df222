"""Commands as a person types them, in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from pass2d.cli import app


def pass2d(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def printed(*words: object) -> str:
    """What a command prints that must end well."""
    result = pass2d(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*words: object) -> dict[str, Any]:
    """The same, of JSON."""
    return json.loads(printed(*words, "--json"))


def refusal(*words: object) -> str:
    """The one error of a command that must fail."""
    result = pass2d(*words)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line
