"""Rebuilds one published shard from the sources named in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass2d.cache.key_inputs import (
    CameraScanInputs,
    KeyInputs,
    LidarScanInputs,
    MotionScanInputs,
    header_inputs,
)
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import Manifest, load_manifest
from pass2d.cache.rows import ScanSources, ShardHeader, ShardRow, SourceFile, load_row
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CacheError
from pass2d.common.files import temporary_folder
from pass2d.common.json import loads
from pass2d.pipeline.run.jobs import RECORDED_RULES, ShardJob
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult, run_task
from pass2d.pipeline.source import ScanSource, SweepSource

Files = dict[tuple[str, str], SourceFile]
"""Source files by scan id and role."""


def make_shard(
    layout: Layout, header: ShardHeader, shard: int, *, info: DatasetInfo, files: Files
) -> TaskResult:
    """Rebuild the shard of ``header``; the caller compares the result's key.

    Raises:
        CacheError: a source file's path is not known.
        OSError: a source file cannot be read.
    """
    try:
        inputs = header_inputs(header)
        scans = _scans(inputs, header.parameters, files)
        job = ShardJob(shard=shard, sequence=inputs.sequence, scans=scans)
        if (
            header.container == "lidar"
        ):  # an older generation may have been prepared with other sweeps
            info = replace(info, sweeps=header.parameters["sweeps"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{header.container} {shard}: its parameters and inputs are not those of a shard "
            f"({type(error).__name__}: {error!s:.100}). Run `prepare` again."
        ) from error
    context = TaskContext(dataset_root=layout.root, info=info, profile=header.profile)
    return run_task(
        context, ContainerTask(container=header.container, job=job, lidar_key=inputs.lidar_key)
    )


def _scans(inputs: KeyInputs, parameters: dict[str, Any], files: Files) -> tuple[ScanSource, ...]:
    """Scans as the container needs them, from the key's own inputs."""
    return (
        *(_lidar_source(scan, inputs.sequence, files) for scan in inputs.lidar_scans),
        *(_camera_source(scan, parameters, files) for scan in inputs.camera_scans),
        *(_motion_source(scan, files) for scan in inputs.motion_scans),
    )


def _lidar_source(scan: LidarScanInputs, sequence: str, files: Files) -> ScanSource:
    paths = {file.role: _path(scan.scan_id, file.role, files) for file in scan.files}
    return ScanSource(
        scan_id=scan.scan_id,
        split=scan.split,
        sequence=sequence,
        frame_index=scan.frame_index,
        token=scan.token,
        points=paths["points"],
        labels=paths.get("labels"),
        panoptic=paths.get("panoptic"),
        sweeps=tuple(
            SweepSource(points=paths[f"sweep{place}"], lidar_from_sweep=matrix, time_s=time_s)
            for place, (matrix, time_s) in enumerate(scan.sweeps)
        ),
        lidar_beside=_beside(paths, known=("points", "labels", "panoptic", "sweep")),
    )


_RULE_OF = {recorded: rule for rule, recorded in RECORDED_RULES.items()}


def _camera_source(scan: CameraScanInputs, parameters: dict[str, Any], files: Files) -> ScanSource:
    """Only what the container uses: points come from the `lidar` shard."""
    calib = files.get((scan.scan_id, "calib"))
    paths = {file.role: _path(scan.scan_id, file.role, files) for file in scan.files}
    return ScanSource(
        scan_id=scan.scan_id,
        split="",
        sequence="",
        frame_index=0,
        points=Path(),
        labels=None,
        images=tuple(paths.get(f"image{camera}") for camera in range(parameters["n_cameras"])),
        image_from_lidar=scan.image_from_lidar,
        calibration=None if calib is None or not calib.path else Path(calib.path),
        camera_rule=_RULE_OF[parameters["camera_model"]],
        taken_hw=scan.taken_hw,
        camera_beside=_beside(paths, known=("image",)),
        stored_hw=None if parameters["stored_hw"] is None else tuple(parameters["stored_hw"]),
    )


def _motion_source(scan: MotionScanInputs, files: Files) -> ScanSource:
    """The files of the `lidar` shard; it may have no labels."""
    has_labels = (scan.scan_id, "labels") in files
    return ScanSource(
        scan_id=scan.scan_id,
        split="",
        sequence="",
        frame_index=0,
        points=_path(scan.scan_id, "points", files),
        labels=_path(scan.scan_id, "labels", files) if has_labels else None,
        pose=scan.pose,
        time_s=scan.time_s,
    )


def _beside(paths: dict[str, Path], *, known: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """Files of other roles."""
    return tuple((role, path) for role, path in paths.items() if not role.startswith(known))


def _path(scan_id: str, role: str, files: Files) -> Path:
    file = files.get((scan_id, role))
    if file is None or not file.path:
        raise CacheError(f"the path of {role} of scan {scan_id} is not known: run `prepare` again")
    return Path(file.path)


def files_of_row(row: ShardRow) -> Files:
    """Source files that a commit record names; one that was made from its shard names no paths."""
    return {
        (scan.scan_id, file.role): file for scan in row.sources for file in scan.files if file.path
    }


def files_of_manifest(manifest: Manifest) -> Files:
    """Source files that a generation names, those of failed scans included."""
    scans = manifest.tables.scans
    parts = ("role", "path", "bytes", "mtime_ns", "xxh3")
    columns = [scans[f"source_{part}"].to_pylist() for part in parts]
    files: Files = {}
    for scan_id, *rows in zip(scans["scan_id"].to_pylist(), *columns, strict=True):
        for role, path, nbytes, mtime_ns, xxh3 in zip(*rows, strict=True):
            files[scan_id, role] = SourceFile(
                role=role, path=path, nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3
            )
    for text in manifest.tables.shards["failed"].to_pylist():
        for scan in json.loads(text)["sources"]:
            for file in scan["files"]:
                files[scan["scan_id"], file["role"]] = SourceFile(**file)
    return files


def with_paths(row: ShardRow, files: Files) -> ShardRow:
    """A record rebuilt from a shard, completed with the sources' paths and times."""
    sources = tuple(
        ScanSources(
            scan_id=scan.scan_id,
            files=tuple(
                known if known is not None and known.xxh3 == file.xxh3 else file
                for file in scan.files
                for known in [files.get((scan.scan_id, file.role))]
            ),
        )
        for scan in row.sources
    )
    return replace(row, sources=sources)


def header_of(manifest: Manifest, container: str, shard: int, key: str) -> ShardHeader | None:
    """The header of a listed shard, from shards.parquet; ``key`` may be its first digits."""
    for row in manifest.tables.shards.to_pylist():
        if (row["stage"], row["shard"]) == (container, shard) and row["key"].startswith(key):
            return ShardHeader(
                container=container,
                key=row["key"],
                code_version=row["code_version"],
                profile=row["profile"],
                parameters=json.loads(row["parameters"]),
                inputs=loads(row["inputs"], where=f"{row['path']}: column inputs"),
            )
    return None


def rebuild_and_compare(dataset_root: Path) -> Callable[[ShardRow], Sequence[str] | None]:
    """A function for `verify` that rebuilds a shard in a temporary folder and compares bytes."""
    layout = Layout(root=dataset_root)
    manifest = load_manifest(layout)

    def rebuild(row: ShardRow) -> Sequence[str] | None:
        header = row.header
        with temporary_folder() as scratch:
            aside = Layout(root=scratch / dataset_root.name)
            files = files_of_row(row)
            if header.container != "lidar":
                _lend(layout, aside, row.shard, header.lidar_key)
            if header.container == "motion":
                lidar = load_row(layout, "lidar", row.shard, header.lidar_key)
                files = {} if lidar is None else files_of_row(lidar)
            try:
                result = make_shard(aside, header, row.shard, info=manifest.info, files=files)
            except (CacheError, OSError):
                return None
            made = load_row(aside, header.container, row.shard, header.key)
            if result.key != header.key or made is None:
                return None
            return sorted({file.name for file in {*made.files} ^ {*row.files}})

    return rebuild


def _lend(layout: Layout, aside: Layout, shard: int, lidar_key: str) -> None:
    """Links to the `lidar` shard that the others are made from."""
    for place, target in (
        (layout.shard("lidar", shard, lidar_key), aside.shard("lidar", shard, lidar_key)),
        (layout.row("lidar", shard, lidar_key), aside.row("lidar", shard, lidar_key)),
    ):
        target.parent.mkdir(parents=True)
        target.symlink_to(place.absolute())
