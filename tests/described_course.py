"""What follows from a prepared cache, command by command."""

from __future__ import annotations

from pathlib import Path

from train_samples import TINY
from typed import answer

SHORT = (*TINY, "epochs=2", "batch_size=2", "data.limit=2")


def train_and_use(cache: Path, points: Path, folder: Path) -> Path:
    """Train two steps, evaluate, label a file, draw.

    Returns:
        The network.
    """
    words = [word for text in SHORT for word in ("--set", text)]
    trained = answer("train", "--cache", cache, "--run", folder / "run", *words)
    assert trained["steps"] == 2
    network = folder / "run" / "checkpoints" / "last.safetensors"
    place = ("--checkpoint", network, "--device", "cpu")
    answer("stats", "--cache", cache)
    assert answer("eval", "--cache", cache, *place)["scans"] > 0
    answer("predict", points, *place, "--out", folder / "labels")
    answer("view", "--cache", cache, "--no-checkpoint", "--png", folder / "pictures")
    return network
