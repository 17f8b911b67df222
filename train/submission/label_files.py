"""Predictions of a described data set: files that its own description reads as labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo, RawFormat
from pass2d.common.errors import ConfigError
from pass2d.common.path_pattern import fill, path_expression
from pass2d.points.npy_array import npy_array
from pass2d.points.npz import read_npz_array

_IDS = 0xFFFF
"""Raw ids are 16 bits wide; negative ones are kept so, too."""


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Where the labels of a described data set lie, and which numbers they hold."""

    points: str
    """Pattern of the point files below the root."""
    patterns: tuple[str, ...]
    """Of the label files, in the order in which they are looked for; empty where labels are a
    column of the point file, or where there are none: then a `.label` file of uint32 is written
    where the points lie."""
    dtype: np.dtype[Any]
    shift: int
    """Bits below the raw id."""
    mask: int | None
    """Of the raw id, after the shift; None: all bits."""
    numbers: NDArray[Any]
    """(C,) of ``dtype``: what stands in a file for each training id."""

    def names(self, reader: CacheReader, positions: Sequence[int]) -> list[str]:
        """The path below the root of each scan's label file.

        Raises:
            ConfigError: a point file does not match the description, or scans share a label file.
        """
        owner: dict[str, str] = {}
        for position in positions:
            scan_id = str(reader.scans.scan_id[position])
            points = reader.source_file(position, "points")
            words = None if points is None else _words(points, self.points)
            if points is None or words is None:
                raise ConfigError(
                    f"{reader.root}: scan {scan_id} was prepared from {points}, which does not "
                    f"fit [points] files {self.points!r} of the description. Prepare it again."
                )
            name = self._name(words, reader.source_file(position, "labels"))
            if name in owner:
                raise ConfigError(
                    f"{reader.root}: scans {owner[name]} and {scan_id} share the label file "
                    f"{name}. Correct [labels] files of the description and prepare again."
                )
            owner[name] = scan_id
        return list(owner)

    def _name(self, words: Mapping[str, str], labels: Path | None) -> str:
        """The name of the scan's own labels where it has some, else by the pattern."""
        if not self.patterns:
            path = PurePosixPath(fill(self.points, words))
            stem = path.with_suffix("") if path.suffix.lower() == ".gz" else path
            return str(stem.with_suffix(".label"))
        for pattern in self.patterns if labels is not None else ():
            tail = _tail(cast(Path, labels), pattern)
            if path_expression(pattern, words).fullmatch(tail):
                return tail
        parts = fill(self.patterns[-1], words).split("/")
        return "/".join(part.replace("*", "") or "any" for part in parts)

    def encode(self, name: str, labels: NDArray[np.uint8]) -> bytes:
        """Training ids (N,) as the bytes of a label file."""
        values, file = self.numbers[labels], io.BytesIO()
        match PurePosixPath(name).suffix.lower():
            case ".npy":
                np.save(file, values)
            case ".npz":
                np.savez(file, labels=values)
            case _:
                return values.tobytes()
        return file.getvalue()

    def decode(self, name: str, data: bytes) -> NDArray[np.int64]:
        """Raw ids (N,) of the bytes of a label file.

        Raises:
            ValueError: they are no such file, or of another type.
            DataError: an array that cannot be read.
        """
        suffix, path = PurePosixPath(name).suffix.lower(), Path(name)
        if suffix == ".npy":
            values = npy_array(path, data)
        elif suffix == ".npz":
            values = read_npz_array(path, data, ("labels",))
        elif len(data) % self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes, expected {self.dtype.itemsize} per point")
        else:
            values = np.frombuffer(data, self.dtype)
        if values.dtype != self.dtype or values.ndim != 1:
            raise ValueError(
                f"{values.dtype} of shape {values.shape}, expected one {self.dtype} per point"
            )
        return _raw_ids(values, self.shift, self.mask)


class ScanFiles(LabelFiles):
    """Label files of a data set with neither a server nor a label layout of its own."""

    def names(self, reader: CacheReader, positions: Sequence[int]) -> list[str]:
        """SEQUENCE/SCAN.label."""
        return [f"{reader.scans.scan_id[position]}.label" for position in positions]


def scan_files(info: DatasetInfo) -> ScanFiles:
    """One `.label` file of uint32 raw ids per scan, in the order of its raw points."""
    numbers = np.array(info.labels.training_to_raw, "<u4")
    return ScanFiles(
        points="", patterns=(), dtype=numbers.dtype, shift=0, mask=_IDS, numbers=numbers
    )


def label_files(info: DatasetInfo, *, where: object) -> LabelFiles:
    """How predictions of a described data set are written.

    Args:
        info: of a cache that `prepare folder` made.
        where: the cache, for messages.

    Raises:
        ConfigError: it names no classes, or label files of its type cannot hold their raw ids.
    """
    if info.labels.n_classes < 2:
        raise ConfigError(
            f"{where}: the description of {info.facts.title} names no classes, so there are no raw "
            "ids to write. Add [[class]] to it and prepare again."
        )
    description, raw = info.description, info.raw_format
    assert description is not None
    assert raw is not None
    try:
        return _label_files(description, info, raw, where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{where}: what it keeps of the description is damaged ({error!r}). Prepare again."
        ) from error


def _label_files(
    description: Mapping[str, object], info: DatasetInfo, raw: RawFormat, where: object
) -> LabelFiles:
    labels = cast(Mapping[str, str], description.get("labels", {}))
    patterns = tuple(labels[key] for key in ("files", "otherwise") if labels.get(key))
    if not patterns:
        raw = RawFormat()
    dtype = np.dtype(raw.label_dtype)
    return LabelFiles(
        points=cast(Mapping[str, str], description["points"])["files"],
        patterns=patterns,
        dtype=dtype,
        shift=raw.label_shift,
        mask=raw.label_mask,
        numbers=np.array(
            [
                _number(raw_id, info.labels.names[training], raw, dtype, where)
                for training, raw_id in enumerate(_written_ids(description, info))
            ],
            dtype,
        ),
    )


def _written_ids(description: Mapping[str, object], info: DatasetInfo) -> list[int]:
    """(C,) raw ids to write, negative where the description has them so."""
    parts = [description.get("ignored", {}), *cast(list[object], description.get("class", []))]
    written = []
    for part, stored in zip(parts, info.labels.training_to_raw, strict=True):
        entry = cast(Mapping[str, Any], part)
        raw_id = entry.get("write", next(iter(entry.get("raw", ())), stored))
        written.append(raw_id if raw_id & _IDS == stored else stored)
    return written


def _number(raw_id: int, name: str, raw: RawFormat, dtype: np.dtype[Any], where: object) -> int:
    """The number that is read as a raw id; negative only if there is no instance id above it."""
    has_instances = raw.instance_shift is not None
    for candidate in (raw_id & _IDS,) if has_instances else (raw_id, raw_id & _IDS):
        number = candidate << raw.label_shift
        try:
            value = np.array([number], dtype)
        except OverflowError:
            continue
        if value[0] == number and _raw_ids(value, raw.label_shift, raw.label_mask)[0] == (
            raw_id & _IDS
        ):
            return number
    raise ConfigError(
        f"{where}: label files of {dtype} with this shift and mask cannot hold raw id {raw_id} of "
        f"class {name!r}. Correct the id or [labels] of the description and prepare again."
    )


def _raw_ids(values: NDArray[Any], shift: int, mask: int | None) -> NDArray[np.int64]:
    whole = values.astype("<u8").view("<i8") if values.dtype.kind == "u" else values.astype("<i8")
    ids = whole >> shift
    return (ids if mask is None else ids & mask) & _IDS


def _words(path: Path, pattern: str) -> dict[str, str] | None:
    """What the words of a pattern are in the path of a file; None where it is no such path."""
    found = path_expression(pattern, {}).fullmatch(_tail(path, pattern))
    return None if found is None else found.groupdict()


def _tail(path: Path, pattern: str) -> str:
    """The end of a path, with as many folders as a pattern has."""
    return "/".join(path.parts[-1 - pattern.count("/") :])
