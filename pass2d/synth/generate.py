"""Generate a synthetic data set: the driver behind ``pass2d prepare synth``."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from pass2d.common.errors import DataError
from pass2d.common.progress import Progress
from pass2d.pipeline.run.ray_guard import end_with_parent
from pass2d.synth.config import SynthConfig
from pass2d.synth.frame import camera_model, lidar_pose, render_frame
from pass2d.synth.motion import camera_poses
from pass2d.synth.write import (
    claim_folder,
    frame_files,
    settings_of,
    write_frame,
    write_sequence,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SynthSummary:
    """What a run of `generate` did."""

    out: Path
    """Root of the data set; its sequences are in ``sequences/``."""
    scans_written: int
    scans_kept: int
    """Complete already, from an earlier run."""
    points: int
    """In the scans written."""
    nbytes: int
    """Of the scans written: points, labels and pictures."""


class _Task(NamedTuple):
    out: Path
    config: SynthConfig
    sequence: str
    frame_index: int


class Written(NamedTuple):
    """What a task wrote."""

    points: int
    nbytes: int


def generate(out: Path, config: SynthConfig, progress: Progress) -> SynthSummary:
    """Write a synthetic street world in the layout of SemanticKITTI.

    A second run with the same settings continues where the first one stopped.

    Args:
        out: root of the data set; new, empty, or of an earlier run with the same settings.
        config: the world, the sensors and the number of processes.
        progress: told of every scan.

    Returns:
        Counts of the run.

    Raises:
        DataError: ``out`` holds something else, or cannot be written.
    """
    claim(out, settings_of(config))
    tasks = []
    for sequence in config.sequences:
        _write_sequence(out, config, sequence)
        tasks += [_Task(out, config, sequence, number) for number in range(config.scans)]
    missing = [task for task in tasks if not _is_complete(task)]
    kept = len(tasks) - len(missing)
    if kept:
        progress.say(f"{out}: {kept} of {len(tasks)} scans are complete already")
    progress.start("synthetic scans", total=len(missing), unit="scans")
    points = nbytes = 0
    for written in run_tasks(_make, missing, config.workers, out=out):
        points, nbytes = points + written.points, nbytes + written.nbytes
        progress.advance(1, nbytes=written.nbytes)
    return SynthSummary(
        out=out, scans_written=len(missing), scans_kept=kept, points=points, nbytes=nbytes
    )


def claim(out: Path, settings: dict[str, object]) -> None:
    """Mark the output folder as ours, or check that it was made with these settings.

    Raises:
        DataError: it holds something else, or cannot be used.
    """
    try:
        claim_folder(out, settings)
    except OSError as error:
        raise DataError(
            f"{out}: cannot use this folder: {error.strerror or error}; choose another one"
        ) from error


def _write_sequence(out: Path, config: SynthConfig, sequence: str) -> None:
    camera = camera_model(config)
    poses = np.stack([lidar_pose(config, sequence, number) for number in range(config.scans)])
    write_sequence(
        out,
        sequence,
        camera=camera,
        poses=camera_poses(poses, camera),
        times_s=np.arange(config.scans, dtype=np.float64) * config.interval_s,
    )


def _is_complete(task: _Task) -> bool:
    files = frame_files(task.out, task.sequence, task.frame_index)
    return all(path.is_file() for path in files.values())


def run_tasks(
    make: Callable[[T], Written], tasks: Sequence[T], workers: int, *, out: Path
) -> Iterator[Written]:
    """Make frames in processes; with 0 of them in this one.

    Raises:
        DataError: a process was killed, or a file cannot be written.
    """
    if workers == 0:
        yield from map(make, tasks)
        return
    # Not forked: the caller may run threads, of which a forked child would inherit the locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        futures = [pool.submit(make, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{out}: a worker process was killed, perhaps for lack of memory; run "
                "again with fewer workers: finished scans are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Workers end with the driver, and finish their scan on Ctrl-C, which reaches them too."""
    end_with_parent()
    driver = multiprocessing.parent_process()
    if driver is not None and os.getppid() != driver.pid:  # it was killed before
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make(task: _Task) -> Written:
    frame = render_frame(task.config, task.sequence, task.frame_index)
    nbytes = write_frame(task.out, task.sequence, task.frame_index, frame)
    return Written(points=len(frame.scan.points), nbytes=nbytes)
