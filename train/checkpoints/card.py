"""The card of a checkpoint: everything that prediction must know besides the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pass2d.cache.clouds.statistics import ChannelStatistics
from pass2d.cache.schema import DatasetInfo
from pass2d.train.stacks.config import SINGLE_SCAN, StackConfig

CARD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The inputs with which a network was trained, and which it therefore needs."""

    point_channels: tuple[str, ...] = ("x", "y", "z", "signal")
    """Columns of a point, in order; x, y, z in metres."""
    in_volume_only: bool = True
    """Points outside the volume of the grid are left out (2DPASS); False: the network takes all."""
    image_mean_rgb: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of pictures scaled to 0..1: ImageNet's."""
    image_std_rgb: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Of pictures scaled to 0..1: ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The JSON card in a checkpoint's header."""

    architecture: str
    """Key of `pass2d_models.registry.MODELS`, e.g. "2dpass"."""
    settings: dict[str, object]
    """Keywords of that network's frozen config, as plain data."""
    info: DatasetInfo
    """Label table, colours, grid, layout of the data set that it was trained on."""
    preprocessing: Preprocessing = Preprocessing()
    stack: StackConfig = SINGLE_SCAN
    """The past scans that were stacked with each scan in training; older files have none."""
    holds: Literal["inference", "training"] = "inference"
    """"inference": what prediction needs; "training": all tensors and the state of the run."""
    metrics: dict[str, float] = field(default_factory=dict)
    """E.g. {"val/miou_official": 0.68, "epoch": 63}; shares 0..1."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Where it comes from: recipe, cache fingerprint, seed, versions; an import: file, hash."""
    input_statistics: dict[str, ChannelStatistics] | None = None
    """Per channel ("range", "z", "signal", "points_per_scan", "ground_z"), see
    `cache.cloud_statistics`: used to warn about a different sensor. Older files lack some or
    all."""
    run: dict[str, object] = field(default_factory=dict)
    """State of a run apart from its tensors (train/run/state.py); empty for inference."""
