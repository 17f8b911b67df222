"""Predictions for viewing: label files of ``pass2d predict`` or a submission."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import UNKNOWN_LABEL, LabelTable
from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder, read_whole
from pass2d.common.prefetch import prefetch
from pass2d.train.viewing.scan import ViewItem, ViewScan, with_prediction

CONFIDENCE_SUFFIX = "_confidence.npy"
SUFFIXES = (".label", "_lidarseg.bin")


class Prediction(NamedTuple):
    """Of one scan."""

    labels: NDArray[np.uint8]
    """(N,) training ids."""
    confidence: NDArray[np.float32] | None
    """(N,) 0..1, from ``NAME_confidence.npy`` beside the labels."""


class PredictionFolder:
    """Finds the label file of each scan in a folder, its sub-folders included."""

    def __init__(self, folder: Path, table: LabelTable) -> None:
        """List the folder.

        Raises:
            DataError: No such folder, or no label file in it.
        """
        self._folder = folder
        self._table = table
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        if other := other_than_folder(folder):
            raise DataError(
                f"{folder}: {other}. `predictions` must be a folder written by `predict`."
            )
        for place, _, names in os.walk(folder, followlinks=True):
            for name in names:
                suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
                if suffix is not None:
                    self._by_stem[name.removesuffix(suffix)].append(Path(place) / name)
        if not self._by_stem:
            raise DataError(f"{folder}: no *.label and no *_lidarseg.bin in it or below it.")

    def find(self, item: ViewItem) -> Path | None:
        """The label file of a scan; None when it has none.

        Raises:
            DataError: Several would do.
        """
        stems = [item.token, *_stems(item)]
        found = [path for stem in stems if stem for path in self._by_stem.get(stem, [])]
        if len(found) > 1:
            # "sequences/08/predictions/000123.label": a folder of the path is the sequence.
            found = [p for p in found if item.sequence in p.relative_to(self._folder).parts]
        if len(found) > 1:
            raise DataError(
                f"{self._folder}: {found[0]} and {found[1]} could both be the prediction of scan "
                f"{item.name}. Give the folder of one of them."
            )
        return found[0] if found else None

    def load(self, item: ViewItem) -> Prediction | None:
        """Read the prediction of a scan; None when there is none.

        Raises:
            DataError: Not readable, of no whole number of labels, or raw ids that the table lacks.
        """
        path = self.find(item)
        if path is None:
            return None
        dtype = np.dtype("<u4") if path.suffix == ".label" else np.dtype("u1")
        try:
            data = read_whole(path)
        except OSError as error:
            raise DataError(f"{path}: not readable: {error.strerror}") from error
        if len(data) % dtype.itemsize:
            raise DataError(
                f"{path}: {len(data)} bytes: not a whole number of labels. Is it truncated?"
            )
        raw = np.frombuffer(data, dtype).astype(np.uint32) & np.uint32(0xFFFF)
        return Prediction(_training_ids(raw, self._table, path), _confidence(path))

    def label(self, items: Iterable[ViewItem]) -> Iterator[ViewScan]:
        """Load scans, each with its prediction if there is one.

        Raises:
            DataError: As ``load``, or not as many labels as points.
        """
        return prefetch(self._labelled, items)

    def _labelled(self, item: ViewItem) -> ViewScan:
        scan = item.load()
        prediction = self.load(item)
        if prediction is None:
            return scan
        return with_prediction(scan, prediction.labels, prediction.confidence)


def _stems(item: ViewItem) -> list[str]:
    stems = [item.name.rsplit("/", 1)[-1]]
    if item.points is not None:
        stems.append(item.points.name.removesuffix(".bin").removesuffix(".pcd"))
        stems.append(item.points.stem)
    return list(dict.fromkeys(stems))


def written_lookup(table: LabelTable) -> NDArray[np.uint8]:
    """(65536,) training ids as `LabelTable.training_lookup`, for ids written by a network."""
    lookup = table.training_lookup()
    for training, raw_id in enumerate(table.training_to_raw):
        # A network writes the id of a class, which need not be one of the ids that map to it.
        if lookup[raw_id] == UNKNOWN_LABEL:
            lookup[raw_id] = training
    return lookup


def _training_ids(raw: NDArray[np.uint32], table: LabelTable, path: Path) -> NDArray[np.uint8]:
    labels = written_lookup(table)[raw]
    if (is_unknown := labels == UNKNOWN_LABEL).any():
        unknown = sorted(set(raw[is_unknown].tolist()))[:5]
        raise DataError(
            f"{path}: raw labels {unknown} are not in this data set's table. "
            "Are these predictions of another data set?"
        )
    return labels


def _confidence(labels: Path) -> NDArray[np.float32] | None:
    stem = next(labels.name.removesuffix(s) for s in SUFFIXES if labels.name.endswith(s))
    path = labels.with_name(stem + CONFIDENCE_SUFFIX)
    if not path.is_file():
        return None
    try:
        values = np.load(BytesIO(read_whole(path)), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npy file: {error}") from error
    return np.asarray(values, np.float32).ravel()
