"""What a prediction writes for one scan, in each format."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.train.drawing.legend import label_colors
from pass2d.train.drawing.render import birds_eye, facing_ahead, range_image

FORMATS = {"label": ".label", "npy": ".npy", "ply": ".ply", "bin": "_lidarseg.bin"}
"""Format to what follows the input's name without its suffix."""
CONFIDENCE_SUFFIX = "_confidence.npy"
PNG_SUFFIXES = ("_above.png", "_range.png")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which files to write for each scan."""

    formats: tuple[str, ...] = ("label",)
    """Of ``FORMATS``."""
    confidence: bool = False
    """Also a float32 of each point's confidence."""
    png: bool = False
    """Also two pictures."""

    def __post_init__(self) -> None:
        unknown = [word for word in self.formats if word not in FORMATS]
        if unknown or not self.formats or len(set(self.formats)) < len(self.formats):
            raise ConfigError(
                f"`formats` must be some of {', '.join(FORMATS)}, each once, "
                f"got {','.join(self.formats)!r}"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """One per file of a scan."""
        return (
            *(FORMATS[word] for word in self.formats),
            *((CONFIDENCE_SUFFIX,) if self.confidence else ()),
            *(PNG_SUFFIXES if self.png else ()),
        )


@dataclass(frozen=True, kw_only=True)
class LabelledScan:
    """A scan with its predictions."""

    name: str
    """For the pictures' titles."""
    xyz: NDArray[np.float32]
    """(3, N) metres, as the network saw them; NaN where the file had no numbers."""
    labels: NDArray[np.uint8]
    """(N,) training ids."""
    raw_ids: NDArray[np.uint32]
    """(N,) the data set's own."""
    scores: NDArray[np.float32]
    """(N,) 0..1."""


def encoded(scan: LabelledScan, outputs: Outputs, info: DatasetInfo) -> Iterator[bytes]:
    """The content of each file, in the order of ``outputs.suffixes``."""
    writers: dict[str, Callable[[], bytes]] = {
        FORMATS["label"]: lambda: scan.raw_ids.astype("<u4").tobytes(),
        FORMATS["npy"]: lambda: _npy(scan.raw_ids.astype("<u4")),
        FORMATS["ply"]: lambda: ply_bytes(scan, info),
        FORMATS["bin"]: lambda: scan.labels.astype(np.uint8).tobytes(),
        CONFIDENCE_SUFFIX: lambda: _npy(scan.scores.astype("<f4")),
        PNG_SUFFIXES[0]: lambda: _png(birds_eye, scan, info),
        PNG_SUFFIXES[1]: lambda: _png(range_image, scan, info),
    }
    for suffix in outputs.suffixes:
        yield writers[suffix]()


def ply_bytes(scan: LabelledScan, info: DatasetInfo) -> bytes:
    """A binary PLY of the points: x, y, z, red, green, blue, label (raw id), confidence."""
    fields = [
        *((axis, "<f4", "float") for axis in "xyz"),
        *((color, "u1", "uchar") for color in ("red", "green", "blue")),
        ("label", "<u4", "uint"),
        ("confidence", "<f4", "float"),
    ]
    rows = np.empty(len(scan.labels), [(name, dtype) for name, dtype, _ in fields])
    columns = (*scan.xyz, *label_colors(scan.labels, info.labels).T, scan.raw_ids, scan.scores)
    for (name, _, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"comment pass2d: raw ids of {info.name}; x, y, z in metres as the network saw them",
            f"element vertex {len(rows)}",
            *(f"property {kind} {name}" for name, _, kind in fields),
            "end_header\n",
        ]
    )
    return header.encode("ascii", "replace") + rows.tobytes()


def format_notes(outputs: Outputs, info: DatasetInfo) -> list[str]:
    """What users should know about the formats' values; printed once."""
    has_raw = any(word in outputs.formats for word in ("label", "npy", "ply"))
    if info.facts.label_bytes != 1 or not has_raw:
        return []
    return [
        f"labels of this {info.facts.title} checkpoint are uint32 raw ids "
        f"(0..{max(info.labels.raw_to_training)}, one per class); the benchmark's own form, uint8 "
        f"of the {info.labels.n_classes - 1} classes in NAME_lidarseg.bin, is `formats=bin`"
    ]


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _png(draw: Callable[..., object], scan: LabelledScan, info: DatasetInfo) -> bytes:
    buffer = io.BytesIO()
    xyz = facing_ahead(scan.xyz, info.facts.forward_axis)
    picture = draw(xyz, scan.labels, info.labels, title=scan.name)
    picture.save(buffer, format="PNG")  # type: ignore[attr-defined]  # a Pillow image
    return buffer.getvalue()
