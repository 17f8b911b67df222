"""The available networks. A new one is one file and one line in `MODELS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pass2d.common.errors import ConfigError
from pass2d.common.text import unknown
from pass2d.models.backends.choice import choose_backend
from pass2d.models.inputs import Grid
from pass2d.models.network import Network
from pass2d.models.sparse_unets.minkunet import MinkowskiNet
from pass2d.models.sparse_unets.minkunet34 import MinkUNet34
from pass2d.models.sparse_unets.spvcnn import SPVCNN
from pass2d.models.twodpass.twodpass import TwoDPass
from pass2d.models.vavit.vavit import VaViT

MODELS: dict[str, type[Network]] = {
    "2dpass": TwoDPass,
    "minkowskinet": MinkowskiNet,
    "minkunet34": MinkUNet34,
    "spvcnn": SPVCNN,
    "vavit": VaViT,
}


@dataclass(frozen=True, kw_only=True)
class NamedConfig:
    """A published network under a short name."""

    kind: str
    """Key of `MODELS`."""
    settings: Mapping[str, object]
    """For the kind's config."""


_SMALL = (2, 4, 8, 16)
_LARGE = (2, 4, 8, 16, 16, 16)

NAMED_CONFIGS: dict[str, NamedConfig] = {
    "2dpass-small": NamedConfig(kind="2dpass", settings={"block_scales": _SMALL, "hidden": 64}),
    "2dpass-large": NamedConfig(kind="2dpass", settings={"block_scales": _LARGE, "hidden": 256}),
    "2dpass-nuscenes-128": NamedConfig(
        kind="2dpass", settings={"block_scales": _LARGE, "hidden": 128}
    ),
    "2dpass-nuscenes-256": NamedConfig(
        kind="2dpass", settings={"block_scales": _LARGE, "hidden": 256}
    ),
    "baseline": NamedConfig(
        kind="2dpass", settings={"block_scales": _SMALL, "hidden": 64, "image_branch": False}
    ),
    "minkowskinet": NamedConfig(kind="minkowskinet", settings={}),
    "minkunet34-v1": NamedConfig(kind="minkunet34", settings={"head": "v1"}),
    "minkunet34-v2": NamedConfig(kind="minkunet34", settings={"head": "v2"}),
    "spunet34": NamedConfig(
        kind="minkunet34", settings={"head": "v1", "stem_size": 5, "widens": "down"}
    ),
    "spvcnn": NamedConfig(kind="spvcnn", settings={}),
    "vavit-semantickitti": NamedConfig(
        kind="vavit", settings={"drop_path": 0.5, "augment_features": True}
    ),
    "vavit-nuscenes": NamedConfig(
        kind="vavit", settings={"drop_path": 0.3, "augment_features": True}
    ),
    "vavit-small": NamedConfig(
        kind="vavit",
        settings={
            "point_width": 32,
            "point_layers": 3,
            "width": 96,
            "depth": 4,
            "heads": 4,
            "head_width": 32,
            "head_out": 48,
            "drop_path": 0.0,
        },
    ),
}


def build_network(
    kind: str,
    settings: Mapping[str, object],
    *,
    grid: Grid,
    n_classes: int,
    device: torch.device | str = "cpu",
    backend: str = "auto",
) -> Network:
    """Build a network with fresh weights.

    Args:
        kind: Key of `MODELS`, or a name of `NAMED_CONFIGS` whose settings `settings` changes.
        settings: Fields of the kind's config; the rest keep their defaults.
        grid: The volume and its finest voxel grid.
        n_classes: C, the ignored class 0 included.
        device: Device of the weights.
        backend: Of the sparse convolutions, see `choose_backend`; the weights are the same for all.

    Raises:
        ConfigError: The kind, a setting or the backend is unknown, or a value cannot work.
    """
    choose_backend(backend, torch.device(device))
    named = NAMED_CONFIGS.get(kind)
    if named is not None and kind not in MODELS:
        kind, settings = named.kind, {**named.settings, **settings}
    if kind not in MODELS:
        raise ConfigError(unknown(kind, {*MODELS, *NAMED_CONFIGS}, what="network"))
    if n_classes < 2:
        raise ConfigError(f"n_classes must be at least 2 (0 is ignored), got {n_classes}")
    network_type = MODELS[kind]
    config = network_type.config_type.from_settings(settings)
    network = network_type(config, grid=grid, n_classes=n_classes).to(device)
    network.backend = backend
    return network
