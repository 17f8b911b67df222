"""Predictions made on the fly, for viewing. The only part that loads torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pass2d.cache.schema import LabelTable
from pass2d.common.errors import CheckpointError
from pass2d.train.data.check import DifferenceSpeaker
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.viewing.scan import ViewItem, ViewScan, with_prediction


def checkpoint_labels(
    checkpoint: Path, table: LabelTable, *, device: str, say: Callable[[str], None]
) -> Callable[[ViewItem, ViewScan], ViewScan]:
    """What labels scans with a checkpoint.

    Args:
        checkpoint: A .safetensors file.
        table: Of the scans; the checkpoint's must be the same.
        device: "auto", "cpu", "cuda".
        say: Hears of each way in which scans differ from the checkpoint's training data.

    Raises:
        CheckpointError: Not readable, or trained on other classes.
    """
    segmenter = Segmenter.load(checkpoint, device=device)
    if segmenter.names != table.names:
        raise CheckpointError(
            f"{checkpoint}: trained on other classes ({', '.join(segmenter.names[1:5])}, ...) than "
            f"these scans have ({', '.join(table.names[1:5])}, ...). For a folder of point files "
            "--layout names the classes."
        )

    speaker = DifferenceSpeaker(expectation(segmenter.card), say)

    def label(item: ViewItem, scan: ViewScan) -> ViewScan:
        speaker.look(scan.points.T, where=item.name)
        answer = segmenter(scan.points)
        return with_prediction(scan, answer.labels, answer.scores)

    return label
