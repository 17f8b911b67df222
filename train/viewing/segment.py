"""Predictions made on the fly, for viewing. The only part that loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.motion import tells_motion
from pass2d.cache.schema import LabelTable
from pass2d.common.errors import CheckpointError
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.data.check import DifferenceSpeaker
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.scans import ScanInput
from pass2d.train.inference.segmenter import Segmenter, scan_labels
from pass2d.train.viewing.scan import Labeller, ViewItem, ViewScan, with_prediction


@dataclass(frozen=True, kw_only=True)
class _Read:
    item: ViewItem
    view: ViewScan
    scan: ScanInput


def checkpoint_labels(
    checkpoint: Path | TrainedNetwork,
    table: LabelTable,
    *,
    device: str,
    say: Callable[[str], None],
) -> Labeller:
    """Make a labeller from a checkpoint.

    Args:
        checkpoint: A .safetensors file, or one that is loaded already.
        table: Of the scans; the checkpoint's must be the same.
        device: "auto", "cpu", "cuda".
        say: Receives each kind of difference between scans and the checkpoint's training data.

    Raises:
        CheckpointError: Not readable, or trained on other classes.
    """
    trained = trained_network(checkpoint, device)
    segmenter = Segmenter.load(trained)
    if tells_motion(segmenter.card.info) and segmenter.names != table.names:
        raise CheckpointError(
            f"{trained.source}: trained on moving and static classes, which the labels "
            "shown do not distinguish: set `moving`."
        )
    if segmenter.names != table.names:
        raise CheckpointError(
            f"{trained.source}: trained on other classes ({', '.join(segmenter.names[1:5])}, ...) "
            f"than these scans have ({', '.join(table.names[1:5])}, ...). For a folder of point "
            "files `layout` names the classes."
        )

    speaker = DifferenceSpeaker(expectation(segmenter.card), say)

    def load(item: ViewItem) -> _Read:
        view = item.load()
        past = item.past(segmenter.card.stack)
        return _Read(item=item, view=view, scan=segmenter.prepare(view.points, past=past).scan)

    def label(items: Iterable[ViewItem]) -> Iterator[ViewScan]:
        for found in segmenter.label(items, load):
            view = found.item.view
            speaker.look(view.points.T, where=found.item.item.name)
            yield with_prediction(view, *scan_labels(found.passes[0]))

    return label
