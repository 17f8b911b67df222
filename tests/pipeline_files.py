"""Writes small SemanticKITTI folders for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from heard import Heard
from PIL import Image

from pass2d.cache.fields import CONTAINERS
from pass2d.common.errors import Pass2DError
from pass2d.common.progress import Progress, Silent
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.source import SourceListing

CALIB = (
    "P0: 100 0 50 0 0 100 40 0 0 0 1 0\n"
    "P2: 100 0 50 0 0 100 40 0 0 0 1 0\n"
    # The camera looks along x: u to the right (-y), v down (-z), depth x.
    "Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
)
RAW_IDS = (0, 1, 10, 40, 48, 70, 252)


def shards(root: Path) -> dict[str, bytes]:
    """Every byte of every shard."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for stage in CONTAINERS
        for path in (root / stage).rglob("*")
        if path.is_file()
    }


def check_semkitti(root: Path, **options: object) -> list[Problem]:
    """`prepare semkitti --check`."""
    return _check("semkitti", root, **options)


def check_nuscenes(root: Path, **options: object) -> list[Problem]:
    """`prepare nuscenes --check`."""
    return _check("nuscenes", root, **options)


def _check(
    name: str,
    root: Path,
    *,
    progress: Progress | None = None,
    drop_invalid: bool = False,
    png: Path | None = None,
    **wanted: object,
) -> list[Problem]:
    return DATASETS[name].check(
        root,
        Wanted(**wanted),
        drop_invalid=drop_invalid,
        png=png,
        progress=progress or Silent(),
    )


def scan_points(n: int = 50, seed: int = 0) -> np.ndarray:
    """(n, 4) float32 points; about a third of them beyond the volume of SemanticKITTI."""
    rng = np.random.default_rng(seed)
    low, high = [-60, -60, -5, 0], [60, 60, 3, 1]
    return rng.uniform(low, high, (n, 4)).astype(np.float32)


def png(height: int = 80, width: int = 100, mode: str = "RGB", seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    n_channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    pixels = rng.integers(0, 256, (height, width, n_channels), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels.squeeze()).convert(mode).save(buffer, "png")
    return buffer.getvalue()


def write_sequence(
    root: Path,
    sequence: str,
    frames: tuple[int, ...] = (0, 1, 2),
    *,
    n: int = 50,
    labels: bool = True,
    images: bool = True,
    texts: bool = True,
) -> Path:
    """Write ``root/sequences/NN``; returns that folder."""
    folder = root / "sequences" / sequence
    for name, wanted in (("velodyne", True), ("labels", labels), ("image_2", images)):
        if wanted:
            (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(int(sequence))
    for frame in frames:
        (folder / "velodyne" / f"{frame:06d}.bin").write_bytes(scan_points(n, frame).tobytes())
        if labels:
            raw = rng.choice(RAW_IDS, n).astype(np.uint32) | np.uint32(frame << 16)
            (folder / "labels" / f"{frame:06d}.label").write_bytes(raw.tobytes())
        if images:
            (folder / "image_2" / f"{frame:06d}.png").write_bytes(png(seed=frame))
    if texts:
        (folder / "calib.txt").write_text(CALIB)
        (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * len(frames))
        (folder / "times.txt").write_text("0.0\n" * len(frames))
    return folder


OWN_NAMES = ("cache", "cli", "commands", "common", "corruptions", "models", "pipeline", "train")
"""Names of ours that a user's own files and folders may have."""


def write_own_names(folder: Path) -> None:
    """A user's folder in which every such name is taken, by a module and by a package."""
    for name in OWN_NAMES:
        trap = f"raise SystemExit('the wrong {name}')"
        (folder / f"{name}.py").write_text(trap)
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(trap)


def how_prepare_ends(
    list_scans: Callable[[Path], SourceListing], root: Path
) -> tuple[int, list[str]]:
    """Its exit code, and what it says; the cache lies beside the raw data."""
    heard = Heard()
    try:
        config = PrepareConfig(workers=0)
        summary = prepare(list_scans(root), root.parent / "out", config, heard)
    except Pass2DError as error:
        return 1, [str(error)]
    return int(bool(summary.failed)), [*heard.lines, *(f.reason for f in summary.failed)]
