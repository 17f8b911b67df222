"""Labels for a ROS recording: a copy whose clouds contain the class of each point."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Progress, Silent
from pass2d.points.bags.bag import Bag, open_bag, require_free
from pass2d.points.bags.cloud_message import CloudMessage, packed_rgb, read_cloud
from pass2d.points.bags.storage import Message
from pass2d.points.mapping import InputMapping
from pass2d.train.drawing.legend import label_colors
from pass2d.train.inference.input_check import InputWarning, no_statistics
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import ScanInput
from pass2d.train.inference.segmenter import ScanLabels, Segmenter, scan_labels
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.prediction.intake import Intake, TakenScan
from pass2d.train.prediction.remarks import Remarks

if TYPE_CHECKING:
    import torch

    from pass2d.train.checkpoints.trained import TrainedNetwork

_NOT_FINITE = "have points without finite coordinates or beyond 1 km: labelled 0"
_BAD_SIGNAL = "have points whose signal is not finite: taken as 0"
_EMPTY = "have no point in the network's volume: all labelled 0"
_IN_PARTS = "are larger than one pass takes: labelled in parts, each a random share of all points"

CLASS_FIELD, COLOR_FIELD, CONFIDENCE_FIELD = "class_id", "rgb", "confidence"


@dataclass(frozen=True, kw_only=True)
class BagSummary:
    """What was done with a recording."""

    out: Path
    topic: str
    fields: tuple[str, ...]
    """The fields added to its points."""
    scans: int
    points: int
    class_points: NDArray[np.int64]
    """(C,) labels per training id."""
    names: tuple[str, ...]
    """(C,) of the training ids."""
    copied: dict[str, int]
    """Messages of the other topics, which are unchanged."""
    notes: tuple[str, ...]
    """Remarks about single scans, e.g. of NaN coordinates."""
    warnings: tuple[InputWarning, ...]
    """How the clouds differ from the training data, one warning of each kind."""
    seconds: float
    """Duration without loading the checkpoint."""

    @property
    def scans_per_s(self) -> float:
        """Speed, reading and writing included."""
        return self.scans / max(self.seconds, 1e-9)


def predict_bag(
    bag: Path,
    checkpoint: Path | TrainedNetwork,
    out: Path,
    *,
    topic: str | None = None,
    votes: VotePlan = SINGLE_PASS,
    outside: OutsidePolicy = "nearest",
    confidence: bool = False,
    overwrite: bool = False,
    mapping: InputMapping | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> BagSummary:
    """Label the clouds of a recording.

    Each point gets `class_id` (uint32, the raw id) and `rgb` (the colour of its class, packed as in
    PCL and RViz) after its own fields. Points with invalid coordinates get 0. Timestamps, order and
    all other messages do not change.

    Args:
        bag: `.mcap`, `.bag` or `.db3`, or a ROS 2 folder with its metadata.yaml.
        checkpoint: As for `predict`.
        out: The copy, of the form of ``bag``; see `points.bags.bag.copy_path`.
        topic: Of the clouds; not needed if there is only one.
        votes: Test-time augmentation.
        outside: See ``OutsidePolicy``.
        confidence: Add `confidence` (float32, 0..1), too.
        overwrite: Replace ``out``.
        mapping: Names of fields, units, offset, rotation.
        batch_size: Scans per pass through the network; by default what suits the device.
        device: Defaults to the GPU if there is one.
        backend: Of the sparse convolutions.
        progress: Receives every scan, and how scans differ from the training data.

    Raises:
        DataError: The recording is damaged or has no such topic, the copy is already there or
            cannot be written.
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The checkpoint needs several scans with poses, which are not read from
            recordings; or a package is not installed.
    """
    progress = progress or Silent()
    with open_bag(bag) as source:
        chosen = source.cloud_topic(topic)
        require_free(bag, out, overwrite=overwrite)
        segmenter = Segmenter.load(
            checkpoint,
            device=device,
            votes=votes,
            outside=outside,
            batch_size=batch_size,
            backend=backend,
        )
        past = segmenter.card.stack.past
        if past:
            raise ConfigError(
                f"{bag}: this network was trained on {past + 1} scans together, and needs to know "
                "how the sensor moved between them, which is not read from recordings. Use one of "
                "single scans, or `SequenceSegmenter` with poses."
            )
        start = time.perf_counter()
        progress.start("predict", total=chosen.count, unit="scans")
        run = _Run(segmenter, mapping, progress, has_confidence=confidence)
        with closing(run.relabelled(source, chosen.name)) as replaced:
            source.copy(out, chosen.name, replaced, overwrite=overwrite)
        return BagSummary(
            out=out,
            topic=chosen.name,
            fields=run.fields,
            scans=run.scans,
            points=int(run.class_points.sum()),
            class_points=run.class_points,
            names=segmenter.names,
            copied={one.name: one.count for one in source.topics if one.name != chosen.name},
            notes=run.remarks.notes,
            warnings=run.remarks.warnings,
            seconds=time.perf_counter() - start,
        )


@dataclass(frozen=True, kw_only=True)
class _Cloud:
    """A cloud on its way through the network."""

    message: CloudMessage
    taken: TakenScan

    @property
    def scan(self) -> ScanInput:
        return self.taken.prepared.scan


class _Run:
    """One prediction: what it has counted so far."""

    def __init__(
        self,
        segmenter: Segmenter,
        mapping: InputMapping | None,
        progress: Progress,
        *,
        has_confidence: bool,
    ) -> None:
        self._segmenter = segmenter
        self._intake = Intake(segmenter, mapping)
        self._progress = progress
        self.fields = (CLASS_FIELD, COLOR_FIELD, *((CONFIDENCE_FIELD,) if has_confidence else ()))
        self.remarks = Remarks(progress)
        self.scans = 0
        self._odd_scans: Counter[str] = Counter()
        self._odd_points: Counter[str] = Counter()
        self.class_points = np.zeros(len(segmenter.names), np.int64)

    def relabelled(self, bag: Bag, topic: str) -> Generator[bytes]:
        """The messages of a topic with more fields, in their order.

        Raises:
            DataError: Damaged, or no scan has coordinates that a lidar could measure.
        """
        if not self._segmenter.card.input_statistics:
            self.remarks.warn(no_statistics())
        nowhere, n_somewhere = "", 0
        numbered: Iterator[tuple[int, Message]] = enumerate(bag.messages(topic))

        def load(item: tuple[int, Message]) -> _Cloud:
            place, message = item
            where = f"{bag.path}, {topic}, message {place}"
            cloud = read_cloud(message, where=where)
            # Votes are drawn by the name: the same in whatever form the messages are kept.
            name = f"{topic}/{place}"
            taken = self._intake.take(cloud.columns(), file=bag.path.name, where=where, name=name)
            return _Cloud(message=cloud, taken=taken)

        for found in self._segmenter.label(numbered, load):
            cloud = found.item
            self._look(cloud.taken)
            if cloud.taken.is_nowhere:
                nowhere = nowhere or cloud.taken.nowhere("check `unit`, `map`")
            else:
                n_somewhere += cloud.scan.n > 0
            labels = scan_labels(found.passes[0])
            self.scans += 1
            self.class_points += np.bincount(labels.labels, minlength=len(self.class_points))
            self._progress.advance()
            yield cloud.message.with_fields(self._added(labels))
        if nowhere and not n_somewhere:
            raise DataError(f"{bag.path}, {topic}: {nowhere}")
        for text, scans in self._odd_scans.items():
            self.remarks.note(
                f"{bag.path}, {topic}: {scans:,} of {self.scans:,} scans {text}"
                f"{self._points_of(text)}"
            )

    def _look(self, taken: TakenScan) -> None:
        """Count what is odd about a scan: of many scans no remark each."""
        for warning in taken.warnings:
            self.remarks.warn(warning)
        prepared, scan = taken.prepared, taken.prepared.scan
        is_large = self._segmenter.pass_size.parts(len(scan.points)) > 1
        for text, is_so, n in (
            (_NOT_FINITE, prepared.n_not_finite > 0, prepared.n_not_finite),
            (_BAD_SIGNAL, prepared.n_bad_signal > 0, prepared.n_bad_signal),
            (_EMPTY, scan.n > 0 and not len(scan.rows), 0),
            (_IN_PARTS, is_large, 0),
        ):
            if is_so:
                self._odd_scans[text] += 1
                self._odd_points[text] += n

    def _points_of(self, text: str) -> str:
        n = self._odd_points[text]
        return f" ({n:,} points)" if n else ""

    def _added(self, labels: ScanLabels) -> dict[str, NDArray[np.uint32 | np.float32]]:
        table = self._segmenter.card.info.labels
        made: dict[str, NDArray[np.uint32 | np.float32]] = {
            CLASS_FIELD: self._segmenter.raw_ids(labels.labels),
            COLOR_FIELD: packed_rgb(label_colors(labels.labels, table)),
            CONFIDENCE_FIELD: labels.scores,
        }
        return {name: made[name] for name in self.fields}
