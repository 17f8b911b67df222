"""Pictures of an evaluation: the confusion matrix, and the worst and best scan in several views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import DataError
from pass2d.train.data.raw_scan import raw_scan
from pass2d.train.drawing.legend import ERRORS, outcomes
from pass2d.train.drawing.render import birds_eye, facing_ahead, on_picture, range_image, save_png
from pass2d.train.evaluation.confusion import write_confusion
from pass2d.train.evaluation.counts import EvalReport
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.inference.votes import NO_VOTES, VotePlan


def write_pictures(
    report: EvalReport,
    cache_root: Path | str,
    folder: Path,
    *,
    dataset: str | None = None,
    votes: VotePlan = NO_VOTES,
    device: torch.device | None = None,
) -> tuple[Path, ...]:
    """Draw an evaluation.

    Args:
        report: Of ``evaluate``; names the checkpoint and the worst and best scan.
        cache_root: The cache that was evaluated.
        folder: Made if needed; files of the same names are replaced.
        dataset: Which data set, if the cache holds several.
        votes: Of the predictions that are drawn.
        device: The GPU if there is one, without.

    Returns:
        The files: ``confusion.png`` and, for each scan, ``SCAN_prediction.png``, ``_truth.png``,
        ``_errors.png`` (from above), ``_range.png`` and, with pictures, ``_camera.png``.

    Raises:
        DataError: They cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: no pictures can be written there: {error.strerror}") from error
    confusion = folder / "confusion.png"
    write_confusion(report, confusion)
    written = [confusion]
    segmenter = Segmenter.load(report.checkpoint, device=device, votes=votes)
    scans = report.best.scans
    chosen = {scans[0].scan_id: scans[0].scan_id + (" (worst)" if len(scans) > 1 else "")}
    chosen.setdefault(scans[-1].scan_id, f"{scans[-1].scan_id} (best)")
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        for scan_id, title in chosen.items():
            position = int(np.flatnonzero(reader.scans.scan_id == scan_id)[0])
            fields = Fields(label=True, outside=True, image=True, pixels=True)
            record = reader.read(position, fields)
            for name, picture in scan_pictures(record, segmenter, title=title):
                path = folder / f"{scan_id.replace('/', '_')}_{name}.png"
                save_png(picture, path)
                written.append(path)
    return tuple(written)


def scan_pictures(
    record: ScanRecord, segmenter: Segmenter, *, title: str
) -> Sequence[tuple[str, Image.Image]]:
    """Draw a prepared scan as a network labels it.

    Args:
        record: With the points outside the volume; labels and pictures are drawn if it has them.
        segmenter: Labels it.
        title: Begins the line above each picture.

    Returns:
        Names and pictures: "prediction", "range", and where possible "truth", "errors", "camera".
    """
    table = segmenter.card.info.labels
    points, truth = raw_scan(record)
    predicted = segmenter(points).labels
    xyz = facing_ahead(points[:, :3].T, segmenter.card.info.layout)
    pictures = [
        ("prediction", birds_eye(xyz, predicted, table, title=f"{title}: prediction")),
        ("range", range_image(xyz, predicted, table, title=f"{title}: prediction")),
    ]
    if truth is not None:
        outcome = outcomes(predicted, truth)
        pictures += [
            ("truth", birds_eye(xyz, truth, table, title=f"{title}: ground truth")),
            ("errors", birds_eye(xyz, outcome, ERRORS, title=f"{title}: errors")),
        ]
    for number, view in enumerate(record.cameras):
        if view.image is not None:
            seen = record.raw_index[view.point_index]
            camera = on_picture(
                view.image,
                view.pixel_rc,
                predicted[seen],
                table,
                distance_m=np.linalg.norm(xyz[:, seen], axis=0),
                title=f"{title}: prediction",
            )
            pictures.append((f"camera{number or ''}", camera))
    return pictures
