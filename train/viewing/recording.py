"""`pass2d view` in Rerun: a window or a file."""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import LabelTable
from pass2d.common.errors import ConfigError
from pass2d.common.files import written_whole
from pass2d.train.drawing.legend import ERRORS, label_colors
from pass2d.train.viewing.colors import ramp, robust_scale
from pass2d.train.viewing.scan import ViewCamera, ViewItem, ViewScan, ViewSet

COLORINGS = ("ground_truth", "prediction", "error", "confidence", "signal", "height")
"""Names of the entities below ``world/`` and below each camera."""
RADIUS_M = 0.04
JPEG_QUALITY = 90
FLUSH_S = 5.0
"""After so long without a byte more Rerun's writer has given up: a full disk ends it silently."""
FOOTER_S = 15.0
"""The same of the footer, which is made when all scans are in the file."""
NEEDS_NOTHING = "`html=FILE` and `png=FOLDER` need nothing more"


def rerun_package() -> ModuleType:
    """Rerun, which is optional.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise ConfigError(
            f"Rerun is not installed ({error}): pip install 'pass2d[view]'. {NEEDS_NOTHING}."
        ) from error


@contextmanager
def recording(of: ViewSet, items: Sequence[ViewItem], save: Path | None) -> Iterator[Recording]:
    """Open a recording; leaving it completes the file.

    Args:
        of: Tables and title.
        items: The scans that will be logged; their sequences decide about the timelines.
        save: A file, written aside and renamed; None: a window.

    Raises:
        ConfigError: Rerun is not installed, or a window is requested without a display.
        DataError: The file cannot be written.
    """
    rr = rerun_package()
    # Rerun warns of other characters.
    stream = rr.RecordingStream("pass2d " + re.sub(r"[^A-Za-z0-9_-]+", "-", Path(of.title).name))
    is_one = len({item.sequence for item in items}) == 1
    log = Recording(rr, stream, of, is_one_sequence=is_one)
    if save is None:
        _require_display()
        # The viewer is beside the running Python, whether that is on the PATH or not.
        os.environ["PATH"] = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        )
        with _viewer_errors():
            stream.spawn()
        yield log
        with _viewer_errors():
            stream.flush()
        return
    try:
        with written_whole(save, "the recording") as aside:
            aside.touch()  # Rerun would only warn that it cannot write
            stream.save(aside)
            yield log
            _flush(stream, aside)
            _disconnect(rr, stream, aside, patience_s=FOOTER_S)
            _require_whole(aside)
    finally:
        _disconnect(rr, stream, save, patience_s=FLUSH_S)


@dataclass(frozen=True, kw_only=True)
class _Coloring:
    """How one entity colours the points: by class, or by colour."""

    class_ids: NDArray[np.uint8] | None = None
    colors: NDArray[np.uint8] | None = None

    def of(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """The keywords of Rerun's points, for some of them."""
        if self.class_ids is not None:
            return {"class_ids": self.class_ids[rows].astype(np.uint16)}
        assert self.colors is not None
        return {"colors": self.colors[rows]}


class Recording:
    """Logs scan after scan."""

    def __init__(self, rr: ModuleType, stream: Any, of: ViewSet, *, is_one_sequence: bool) -> None:
        self._rr, self._stream, self._of = rr, stream, of
        self._is_one_sequence = is_one_sequence
        self._first_time_s: float | None = None
        self._count = 0
        self._known: set[str] = set()
        self._tabs: set[str] = set()
        stream.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def passing(self, scans: Iterable[ViewScan]) -> Iterator[ViewScan]:
        """Log scans as they pass by."""
        for scan in scans:
            self.log(scan)
            yield scan

    def log(self, scan: ViewScan) -> None:
        """Log one scan at its time: points by every colouring that is known, and its pictures."""
        rr, colorings = self._rr, _colorings(scan)
        if not self._tabs >= colorings.keys():
            self._tabs |= colorings.keys()
            self._stream.send_blueprint(self.blueprint())
        self._set_time(scan)
        finite = np.flatnonzero(np.isfinite(scan.xyz).all(axis=0))
        logged = set()
        for name, coloring in colorings.items():
            path = f"world/{name}"
            logged.add(self._annotated(path, name))
            points = rr.Points3D(scan.xyz[:, finite].T, radii=RADIUS_M, **coloring.of(finite))
            self._stream.log(path, points)
        for number, camera in enumerate(scan.cameras):
            logged |= self._log_camera(f"camera{number}", camera, colorings)
        for path in sorted(self._known - logged):  # else the last scan's would go on being shown
            self._stream.log(path, rr.Clear(recursive=False))
        self._known |= logged
        self._count += 1

    def blueprint(self) -> Any:
        """One tab per colouring that some scan has: the scan above, the pictures below."""
        rrb = importlib.import_module("rerun.blueprint")
        tabs = [self._tab(rrb, name) for name in COLORINGS if name in self._tabs]
        return rrb.Blueprint(rrb.Tabs(*tabs), collapse_panels=False)

    def _tab(self, rrb: ModuleType, name: str) -> Any:
        title = name.replace("_", " ")
        above = rrb.Spatial3DView(origin="world", contents=[f"world/{name}"], name=title)
        pictures = [
            rrb.Spatial2DView(
                origin=f"camera{c}",
                contents=[f"camera{c}/image", f"camera{c}/{name}"],
                name=f"camera {c}",
            )
            for c in range(self._of.n_cameras)
        ]
        if not pictures:
            return above
        return rrb.Vertical(above, rrb.Horizontal(*pictures), row_shares=[3, 1], name=title)

    def _set_time(self, scan: ViewScan) -> None:
        self._stream.set_time("scan", sequence=self._count)
        if not self._is_one_sequence:
            return
        self._stream.set_time("frame_index", sequence=scan.frame_index)
        if scan.time_s is not None:
            if self._first_time_s is None:
                self._first_time_s = scan.time_s
            self._stream.set_time("time", duration=scan.time_s - self._first_time_s)

    def _log_camera(
        self, base: str, camera: ViewCamera, colorings: dict[str, _Coloring]
    ) -> set[str]:
        rr = self._rr
        self._stream.log(f"{base}/image", rr.Image(camera.image).compress(JPEG_QUALITY))
        logged = {f"{base}/image"}
        for name, coloring in colorings.items():
            path = f"{base}/{name}"
            logged.add(self._annotated(path, name))
            # The middle of the pixel; x is the column.
            places = camera.pixel_rc[::-1].T.astype(np.float32) + 0.5
            self._stream.log(
                path, rr.Points2D(places, radii=1.5, **coloring.of(camera.point_index))
            )
        return logged

    def _annotated(self, path: str, name: str) -> str:
        """Say once what the class ids of an entity mean."""
        table = {"ground_truth": self._of.table, "prediction": self._of.table, "error": ERRORS}
        if path not in self._known and name in table:
            self._stream.log(path, _annotations(self._rr, table[name]), static=True)
        return path


def _colorings(scan: ViewScan) -> dict[str, _Coloring]:
    """What is known of a scan; signal and height where it has neither labels nor predictions."""
    known: dict[str, _Coloring] = {}
    by_class = {"ground_truth": scan.truth, "prediction": scan.predicted, "error": scan.error}
    for name, ids in by_class.items():
        if ids is not None:
            known[name] = _Coloring(class_ids=ids)
    if scan.confidence is not None:
        known["confidence"] = _Coloring(colors=ramp(scan.confidence))
    if not known:
        for name, values in (("signal", scan.signal), ("height", scan.xyz[2])):
            scale = robust_scale(values, unit="")
            known[name] = _Coloring(colors=ramp((values - scale.low) / (scale.high - scale.low)))
    return known


def _annotations(rr: ModuleType, table: LabelTable) -> Any:
    colors = label_colors(np.arange(table.n_classes, dtype=np.uint8), table).tolist()
    return rr.AnnotationContext([(c, name, colors[c]) for c, name in enumerate(table.names)])


def _require_display() -> None:
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise ConfigError(
            "there is no display for Rerun's window: `save=FILE.rrd` writes a recording to open "
            f"elsewhere; {NEEDS_NOTHING}"
        )


@contextmanager
def _viewer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"Rerun's viewer does not start or was closed ({reason}). `save=FILE.rrd` writes a "
            f"recording; {NEEDS_NOTHING}."
        ) from error


def _flush(stream: Any, path: Path) -> None:
    """Wait until all is in the file: for ever, but not when Rerun's writer has given up.

    Raises:
        OSError: It has: nothing more comes.
    """
    before = -1
    while (size := path.stat().st_size) > before:
        before = size
        try:
            stream.flush(timeout_sec=FLUSH_S)
        except TypeError:  # an older Rerun
            stream.flush()
        except RuntimeError:
            continue
        return
    raise OSError(None, "Rerun stopped writing")


def _disconnect(rr: ModuleType, stream: Any, path: Path, *, patience_s: float) -> None:
    """Close the file; a writer that has given up would be waited for without end."""
    closing = threading.Thread(target=stream.disconnect, daemon=True)
    closing.start()
    before = -1
    closing.join(patience_s)
    while closing.is_alive() and path.exists() and (size := path.stat().st_size) > before:
        before = size
        closing.join(patience_s)
    if closing.is_alive():
        rr.unregister_shutdown()  # it would wait, too


def _require_whole(path: Path) -> None:
    """For Rerun a full disk is only a warning: check that the file can be read to its end.

    Raises:
        OSError: It cannot.
    """
    try:
        reader = importlib.import_module("rerun.chunk").RrdReader
    except (ImportError, AttributeError):  # an older Rerun
        return
    try:
        reader(path).store()
    except (ValueError, RuntimeError) as error:
        raise OSError(None, f"it cannot be read back ({error})") from error
