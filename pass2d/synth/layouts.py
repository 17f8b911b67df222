"""The layouts in which a world can be written, by the name of the data set; a new one is a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pass2d.common.progress import Progress
from pass2d.synth.config import preset
from pass2d.synth.generate import SynthSummary, generate
from pass2d.synth.nuscenes_config import nuscenes_preset
from pass2d.synth.nuscenes_generate import generate_nuscenes


@dataclass(frozen=True, kw_only=True)
class WorldLayout:
    """How a world is configured and written."""

    preset: Callable[..., Any]
    """The configuration of a named size."""
    generate: Callable[[Path, Any, Progress], SynthSummary]
    """Writes it."""
    parts: str
    """The field of the configuration that names its sequences."""


LAYOUTS = {
    "semkitti": WorldLayout(preset=preset, generate=generate, parts="sequences"),
    "nuscenes": WorldLayout(preset=nuscenes_preset, generate=generate_nuscenes, parts="scenes"),
}
