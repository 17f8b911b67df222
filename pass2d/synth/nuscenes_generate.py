"""Generate a synthetic data set in nuScenes layout: ``pass2d prepare synth --layout nuscenes``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.common.files import remove_leftovers
from pass2d.common.progress import Progress
from pass2d.pipeline.datasets.nuscenes_rows import LIDAR
from pass2d.synth.generate import SynthSummary, Written, claim, run_tasks
from pass2d.synth.nuscenes_config import VERSION, NuscenesSynthConfig
from pass2d.synth.nuscenes_frame import render_camera, render_revolution
from pass2d.synth.nuscenes_tables import (
    MAP_FILE,
    Shot,
    all_tables,
    label_ids,
    sample_shots,
)
from pass2d.synth.write import png_bytes, write_aside

JPEG_QUALITY = 92


class _Task(NamedTuple):
    out: Path
    config: NuscenesSynthConfig
    scene: str
    sample: int


def generate_nuscenes(out: Path, config: NuscenesSynthConfig, progress: Progress) -> SynthSummary:
    """Write a synthetic street world in the layout of nuScenes-lidarseg.

    A second run with the same settings continues the first one. The tables come last: a
    set that has them is whole.

    Args:
        out: root of the data set; new, empty, or of an earlier run with the same settings.
        config: the world, the sensors and the number of processes.
        progress: told of every key frame.

    Returns:
        Counts of the run.

    Raises:
        DataError: ``out`` holds something else, or cannot be written.
    """
    claim(out, config.settings())
    tasks = [
        _Task(out, config, scene, sample)
        for scene in config.scenes
        for sample in range(config.scans)
    ]
    _make_folders(tasks)
    missing = [task for task in tasks if not all(path.is_file() for path in _files(task))]
    if len(missing) < len(tasks):
        kept = len(tasks) - len(missing)
        progress.say(f"{out}: {kept} of {len(tasks)} key frames are complete already")
    progress.start("synthetic key frames", total=len(missing), unit="scans")
    points = nbytes = 0
    for written in run_tasks(_make, missing, config.workers, out=out):
        points, nbytes = points + written.points, nbytes + written.nbytes
        progress.advance(1, nbytes=written.nbytes)
    write_aside(out / MAP_FILE, png_bytes(np.zeros((32, 32, 3), np.uint8)))
    for name, rows in all_tables(config).items():
        text = json.dumps(rows, indent=0)
        write_aside(out / VERSION / f"{name}.json", text.encode())
    return SynthSummary(
        out=out,
        scans_written=len(missing),
        scans_kept=len(tasks) - len(missing),
        points=points,
        nbytes=nbytes,
    )


def _make_folders(tasks: list[_Task]) -> None:
    out = tasks[0].out
    folders = {path.parent for task in tasks for path in _files(task)}
    try:
        for folder in (*folders, out / VERSION, (out / MAP_FILE).parent):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
    except OSError as error:
        raise DataError(
            f"{out}: cannot write: {error.strerror or error}; choose another folder"
        ) from error


def _files(task: _Task) -> list[Path]:
    shots = sample_shots(task.config, task.scene, task.sample)
    names = [name for shot in shots for name in (shot.file, shot.label_file) if name]
    return [task.out / name for name in names]


def _make(task: _Task) -> Written:
    points = nbytes = 0
    for shot in sample_shots(task.config, task.scene, task.sample):
        contents, n_points = _render(task.config, shot)
        for name, content in contents.items():
            write_aside(task.out / name, content)
            nbytes += len(content)
        points += n_points if shot.is_key else 0
    return Written(points=points, nbytes=nbytes)


def _render(config: NuscenesSynthConfig, shot: Shot) -> tuple[dict[str, bytes], int]:
    """Contents of a shot's files by name, and its points."""
    if shot.channel != LIDAR:
        picture = render_camera(config, shot.scene, shot.channel, shot.time_s, stream=shot.stream)
        return {shot.file: jpeg_bytes(picture)}, 0
    turn = render_revolution(
        config, shot.scene, shot.time_s, stream=shot.stream, label_ids=label_ids()
    )
    contents = {shot.file: turn.points.astype("<f4").tobytes()}
    if shot.label_file is not None:
        contents[shot.label_file] = turn.labels.tobytes()
    return contents, len(turn.points)


def jpeg_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) picture as nuScenes stores its own."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
