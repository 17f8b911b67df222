"""Pictures of an evaluation: the confusion matrix, and the worst and best scan in several views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo, ScanRecord
from pass2d.common.files import make_folder
from pass2d.common.progress import Silent
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.drawing.legend import ERRORS, outcomes
from pass2d.train.drawing.render import birds_eye, facing_ahead, on_picture, range_image, save_png
from pass2d.train.drawing.render_confusion import confusion_picture
from pass2d.train.evaluation.counts import EvalReport
from pass2d.train.evaluation.evaluate import fit_classes
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.scans import CachedScans, EvalScan, eval_scan
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan


def write_pictures(
    report: EvalReport,
    cache_root: Path | str,
    folder: Path,
    *,
    dataset: str | None = None,
    network: TrainedNetwork | None = None,
    votes: VotePlan = SINGLE_PASS,
    device: torch.device | None = None,
) -> tuple[Path, ...]:
    """Draw an evaluation.

    Args:
        report: Of ``evaluate``; names the checkpoint and the worst and best scan.
        cache_root: The cache that was evaluated.
        folder: Made if needed; files of the same names are replaced.
        dataset: Which data set, if the cache holds several.
        network: Of the checkpoint, if it is loaded already.
        votes: Of the predictions that are drawn.
        device: Where a network that is loaded here runs; defaults to the GPU if there is one.

    Returns:
        The files: ``confusion.png`` and, for each scan, ``SCAN_prediction.png``, ``_truth.png``,
        ``_errors.png`` (from above), ``_range.png`` and, with pictures, ``_camera.png``.

    Raises:
        DataError: They cannot be written there.
    """
    make_folder(folder, "pictures")
    written = [folder / "confusion.png"]
    save_png(confusion(report), written[0])
    trained = trained_network(network or report.checkpoint, device)
    scans = report.best.scans
    titles = {scans[0].scan_id: scans[0].scan_id + (" (worst)" if len(scans) > 1 else "")}
    titles.setdefault(scans[-1].scan_id, f"{scans[-1].scan_id} (best)")
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        fit_classes(reader, trained.card)
        cached = CachedScans(
            reader,
            trained.network,
            plans=(votes,),
            outside="nearest",
            progress=Silent(),
            stack=trained.card.stack,
        )
        places = [int(np.flatnonzero(reader.scans.scan_id == scan_id)[0]) for scan_id in titles]

        def load(position: int) -> EvalScan:
            return eval_scan(*cached.read(position, label=True), place=position)

        for found in label_scans(trained.network, places, load, info=reader.info, plans=(votes,)):
            fields = Fields(label=True, outside=True, image=True, pixels=True)
            record = reader.read(found.item.place, fields)
            predicted = found.passes[0].labels.cpu().numpy()
            for name, picture in scan_pictures(
                record, predicted, reader.info, title=titles[record.scan_id]
            ):
                path = folder / f"{record.scan_id.replace('/', '_')}_{name}.png"
                save_png(picture, path)
                written.append(path)
    return tuple(written)


def confusion(report: EvalReport) -> Image.Image:
    """Draw the confusion matrix of the best pass."""
    title = f"{report.info.name} {report.split}, official protocol, {report.best.votes}"
    return confusion_picture(report.best.confusion, report.info.labels.names, title=title)


def scan_pictures(
    record: ScanRecord, predicted: NDArray[np.uint8], info: DatasetInfo, *, title: str
) -> Sequence[tuple[str, Image.Image]]:
    """Draw a prepared scan as a network labelled it.

    Args:
        record: With the points outside the volume; labels and pictures are drawn if it has them.
        predicted: (n_raw,) training ids.
        info: Of the data set.
        title: Begins the line above each picture.

    Returns:
        Names and pictures: "prediction", "range", and where possible "truth", "errors", "camera".
    """
    table, raw = info.labels, record.raw()
    xyz, truth = facing_ahead(raw.points[:, :3].T, info.facts.forward_axis), raw.label
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
