"""Notes on a proposal, and how its values are written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

GUESS = "  # ?"
"""Marks a line of the description that the user should check."""


@dataclass(kw_only=True)
class Notes:
    """What was found, what is a guess, and what could not be determined."""

    found: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def text_of(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def list_of(values: Iterable[str]) -> str:
    """A TOML list of strings."""
    return f"[{', '.join(map(text_of, values))}]"
