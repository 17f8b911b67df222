"""A trained network: what evaluation, prediction and viewing take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pass2d.models.network import Network
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint
from pass2d.train.distributed.process_group import choose_device


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network on its device, with the card of its checkpoint."""

    network: Network
    card: Card
    source: Path
    """The checkpoint's file: named in messages and reports, and used to identify stored results."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.network.parameters()).device


def trained_network(
    checkpoint: Path | str | TrainedNetwork,
    device: torch.device | str | None = None,
    *,
    backend: str = "auto",
) -> TrainedNetwork:
    """Load a checkpoint, unless it is loaded already.

    Args:
        checkpoint: An inference export, a training state, or a loaded network.
        device: Where a network that is loaded here runs; by default the GPU if there is one, which
            becomes this thread's current one.
        backend: Of the sparse convolutions of a network that is loaded here.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: No such device, or a backend that does not work there.
    """
    if isinstance(checkpoint, TrainedNetwork):
        return checkpoint
    path = Path(checkpoint)
    network, card = network_from_checkpoint(path, choose_device(device or "auto"), backend=backend)
    return TrainedNetwork(network=network, card=card, source=path)
