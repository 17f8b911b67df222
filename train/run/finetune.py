"""Starting from the weights of another run, or of an imported checkpoint."""

from __future__ import annotations

from pathlib import Path

from pass2d.common.errors import CheckpointError
from pass2d.common.progress import Progress
from pass2d.models.inputs import Grid
from pass2d.models.network import Network
from pass2d.models.registry import build_network
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import NETWORK, load_checkpoint, require_finite


def start_from_checkpoint(network: Network, path: Path, card: Card, progress: Progress) -> None:
    """Copy the weights that fit; tensors that depend on other classes keep their initial values.

    Args:
        network: of the new run; its tensors are changed in place.
        path: a checkpoint of the same architecture.
        card: of the new run: its classes.
        progress: receives what was copied and what was not.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture or other sizes.
    """
    checkpoint = load_checkpoint(path)
    theirs = checkpoint.card
    if theirs.architecture != card.architecture:
        raise CheckpointError(
            f"{path}: a {theirs.architecture} network cannot start a {card.architecture} network. "
            "Choose network.config to match."
        )
    stored, own = checkpoint.part(NETWORK), network.state_dict()
    is_same_table = theirs.info.labels.names == card.info.labels.names
    fresh = set() if is_same_table else class_dependent(network)
    misshapen = [
        name
        for name, tensor in stored.items()
        if name in own and name not in fresh and own[name].shape != tensor.shape
    ]
    if misshapen:
        raise CheckpointError(
            f"{path}: its settings {theirs.settings} do not give the sizes of this network, "
            f"{card.settings}: {', '.join(sorted(misshapen)[:4])} differ. Set network.settings "
            "to match."
        )
    taken = {k: v for k, v in stored.items() if k in own and k not in fresh}
    require_finite(taken, path)
    network.load_state_dict(taken, strict=False)
    progress.say(f"starting from {path}: {len(taken)} of {len(own)} tensors")
    if not is_same_table:
        progress.say(
            f"its {theirs.info.labels.n_classes} classes are not these "
            f"{card.info.labels.n_classes}: {len(fresh)} tensors of the heads are initialised again"
        )
    if missing := sorted(own.keys() - taken.keys() - fresh):
        progress.say(f"not in it, and so new: {len(missing)} tensors, such as {missing[0]}")


def class_dependent(network: Network) -> set[str]:
    """Names of the tensors whose shape follows the number of classes."""
    settings = dict(network.config.settings())
    if "image_weights" in settings:
        settings["image_weights"] = ""
    grid: Grid = network.grid
    other = build_network(
        network.kind, settings, grid=grid, n_classes=network.n_classes + 1, device="cpu"
    )
    wider = other.state_dict()
    return {name for name, t in network.state_dict().items() if wider[name].shape != t.shape}
