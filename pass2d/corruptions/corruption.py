"""The interface of this folder's files: one corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pass2d.corruptions.cloud import Cloud, Corrupted

Apply = Callable[[Cloud, Any, np.random.Generator], Corrupted]
"""Corrupts a cloud with the settings of a severity; all random draws come from the generator."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Corruption:
    """A corruption by name."""

    name: str
    settings: type[Any]
    """The dataclass of its settings at one severity."""
    apply: Apply
    needs_labels: bool = False
    """Whether it works on some classes only, and so on labelled scans only."""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """Settings as in a table, for data sets whose table does not have it: one value, or one each
    for light, moderate, heavy."""
