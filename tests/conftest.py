"""Shared fixtures: where the reference data lies, and what a user without it skips."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SHARED = PROJECT_ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and recorded numbers beside the checkout; skips without it."""
    if not (SHARED / "SPEC.md").is_file():
        pytest.skip("no ../shared (real scans and recorded numbers) beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def real_semkitti(shared: Path) -> Path:
    """Three real SemanticKITTI sequences (00, 08, 11), four scans."""
    return shared / "real" / "semantickitti"
