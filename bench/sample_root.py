"""A SemanticKITTI folder of full-size scans for benchmarks."""

from __future__ import annotations

from pathlib import Path

from pass2d.common.progress import Silent
from pass2d.synth.config import preset
from pass2d.synth.generate import generate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real" / "semantickitti"


def sample_root(folder: Path, *, scans: int = 4) -> Path:
    """The real scans in ``../shared`` when they are there, else a generated world in ``folder``."""
    if SHARED.is_dir():
        return SHARED
    generate(folder / "raw", preset("full", sequences=("00",), scans=scans), Silent())
    return folder / "raw"
