"""`pass2d view --html`: one page with an interactive 3D view that opens from disk, offline."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pass2d.cache.clouds.nowhere import plausible_points
from pass2d.cache.schema import LabelTable
from pass2d.common.files import written_whole
from pass2d.common.html import escape, script_json
from pass2d.train.drawing.legend import ERRORS, label_colors
from pass2d.train.viewing.colors import ramp, robust_scale
from pass2d.train.viewing.scan import ViewCamera, ViewScan, ViewSet

JPEG_QUALITY = 85
# The page must not access the network.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_view_page(scans: Iterable[ViewScan], path: Path, of: ViewSet) -> list[Path]:
    """Write a page with one or several scans, a few of which are in memory at a time.

    Args:
        scans: In the order of the slider.
        path: Written aside and renamed.
        of: Table and title.

    Returns:
        The page.

    Raises:
        DataError: It cannot be written there.
    """
    with written_whole(path, "the page") as aside, aside.open("w", encoding="utf-8") as file:
        _write(file, scans, of)
    return [path]


def _write(file: TextIO, scans: Iterable[ViewScan], of: ViewSet) -> None:
    folder = Path(__file__).parent
    body, style, script = (
        (folder / name).read_text("utf-8") for name in ("page.html", "viewer.css", "viewer.js")
    )
    file.write(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(of.title)}: pass2d view</title><style>{style}</style></head>"
        f"<body>\n{body}"
    )
    about: list[dict[str, Any]] = []
    grounds: list[float] = []
    for number, scan in enumerate(scans):
        arrays = scan_arrays(scan)
        about.append(_write_scan(file, number, scan, arrays))
        grounds.append(_ground(scan))
    meta = {
        "signal": of.signal_name.capitalize(),
        "classes": _table_json(of.table),
        "errors": _table_json(ERRORS),
        "ramp": ramp(np.arange(256) / 255).tolist(),
        "ahead": math.pi / 2 if of.forward_axis == "y" else 0.0,  # from x towards y
        "ground": float(np.median(grounds)) if grounds else 0.0,
        "scans": about,
    }
    file.write(_data("meta", script_json(meta)))
    file.write(f"<script>{script}</script></body></html>\n")


def scan_arrays(scan: ViewScan) -> dict[str, NDArray[Any]]:
    """What the page holds of a scan: plausible points only.

    Returns:
        ``xyz`` (n, 3) int16 in steps of ``step``; ``step`` (1,) float64 metres; uint8 ``signal``,
        ``height`` and ``confidence`` over their ranges; training ids ``truth``, ``predicted``;
        per camera ``seen0`` (m,) int32 points, far ones first, and ``pixel0`` (m, 2) uint16.
    """
    kept = np.flatnonzero(plausible_points(scan.xyz))  # a resolution of a few millimetres
    xyz = scan.xyz[:, kept].astype(np.float64)
    step = max(float(np.abs(xyz).max(initial=0.0)) / 32767, 1e-3)
    arrays: dict[str, NDArray[Any]] = {"step": np.array([step])}
    place = np.full(scan.n, -1, np.int64)
    place[kept] = np.arange(len(kept))
    distance = np.linalg.norm(xyz, axis=0)
    for number, camera in enumerate(scan.cameras):
        arrays |= _camera_arrays(camera, place, distance, number)
    arrays["xyz"] = np.rint(xyz.T / step).astype(np.int16)
    arrays["signal"] = _share(scan.signal[kept])
    arrays["height"] = _share(scan.xyz[2, kept])
    if scan.truth is not None:
        arrays["truth"] = scan.truth[kept]
    if scan.predicted is not None:
        arrays["predicted"] = scan.predicted[kept]
    if scan.confidence is not None:
        share = np.nan_to_num(scan.confidence[kept], nan=0.0)
        arrays["confidence"] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return arrays


def _camera_arrays(
    camera: ViewCamera, place: NDArray[np.int64], distance: NDArray[np.float64], number: int
) -> dict[str, NDArray[Any]]:
    seen = place[camera.point_index]
    is_kept = seen >= 0
    seen, pixel_rc = seen[is_kept], camera.pixel_rc[:, is_kept]
    order = np.argsort(-distance[seen], kind="stable")
    return {
        f"seen{number}": seen[order].astype(np.int32),
        f"pixel{number}": np.ascontiguousarray(pixel_rc[:, order].T).astype(np.uint16),
    }


def _share(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    scale = robust_scale(values, unit="")
    share = np.nan_to_num((values.astype(np.float64) - scale.low) / (scale.high - scale.low))
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _write_scan(
    file: TextIO, number: int, scan: ViewScan, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Write the data of a scan; what the page must know of it comes back."""
    step = float(arrays.pop("step")[0])
    # Wide types first: typed arrays of a browser must be aligned.
    ordered = sorted(arrays.items(), key=lambda pair: -pair[1].itemsize)
    places, offset, parts = [], 0, []
    for name, values in ordered:
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        kind = f"{values.dtype.kind}{values.itemsize}"
        places.append({"name": name, "type": kind, "offset": offset, "length": values.size})
        offset += len(data)
        parts.append(data)
    file.write(_data(f"scan{number}", _base64(b"".join(parts))))
    for camera, view in enumerate(scan.cameras):
        file.write(_data(f"photo{number}_{camera}", _base64(_jpeg(view.image))))
    signal, height = (robust_scale(v, unit="") for v in (scan.signal, scan.xyz[2]))
    return {
        "name": scan.name,
        "facts": ", ".join(_facts(scan)),
        "n": len(arrays["xyz"]),
        "metres": step,
        "arrays": places,
        "cameras": [list(view.image.shape[:2]) for view in scan.cameras],
        "signal": [signal.low, signal.high],
        "height": [height.low, height.high],
    }


def _facts(scan: ViewScan) -> list[str]:
    facts = [f"{scan.n:,} points"]
    if scan.time_s is not None:
        facts.append(_clock(scan.time_s))
    error = scan.error
    if error is not None and (error > 0).any():
        right = int((error == 1).sum())
        facts.append(f"{right / int((error > 0).sum()):.1%} of the labelled points right")
    return facts


def _clock(time_s: float) -> str:
    """A sequence's own seconds; where they are those since 1970 (nuScenes), the moment."""
    if time_s < 1e9:
        return f"t = {time_s:.2f} s"
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ground(scan: ViewScan) -> float:
    """Height of the rings: where the lowest points lie."""
    z = scan.xyz[2][np.isfinite(scan.xyz[2])]
    return float(np.quantile(z, 0.1)) if len(z) else 0.0


def _table_json(table: LabelTable) -> dict[str, Any]:
    every = np.arange(table.n_classes, dtype=np.uint8)
    return {"names": list(table.names), "colors": label_colors(every, table).tolist()}


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _data(name: str, text: str) -> str:
    return f'<script type="text/plain" id="{name}">{text}</script>\n'
