"""Recordings of the official tools for several scans: joined clouds and scores.

PASS2D_GOLDEN_MULTISCAN names another folder of the layout of ../shared/golden_multiscan.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from numpy.typing import NDArray

VARIABLE = "PASS2D_GOLDEN_MULTISCAN"
FOLDER = Path(os.environ.get(VARIABLE) or SHARED / "golden_multiscan")


def require(name: str) -> Path:
    """The file of the recordings; skips the module where the folder is not there."""
    path = FOLDER / name
    if not os.environ.get(VARIABLE) and not path.exists():
        pytest.skip(f"no recordings of several scans in {FOLDER}", allow_module_level=True)
    return path


@cache
def arrays(name: str) -> dict[str, NDArray[Any]]:
    """Everything in an .npz file."""
    with np.load(require(name)) as file:
        return dict(file)


@cache
def recorded(name: str) -> Any:
    """A .json file."""
    return json.loads(require(name).read_text())
