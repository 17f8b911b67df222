"""Scans divided into shards, and the keys of each shard's containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pass2d.cache.check_manifest import wrong_scan_names
from pass2d.cache.fields import (
    CODEC_VERSIONS,
    CONTAINERS,
    FIELDS,
    STORED_THINNING,
    STRIP_COLUMNS,
)
from pass2d.cache.key_inputs import (
    CameraScanInputs,
    KeyInputs,
    LidarScanInputs,
    MotionScanInputs,
    encode_inputs,
    hashed_files,
)
from pass2d.cache.keys import shard_key
from pass2d.cache.layout import sequence_number, shard_number
from pass2d.cache.motion import motion_lookup
from pass2d.cache.rows import ScanSources, ShardHeader
from pass2d.cache.schema import KNOWN_FACTS, SCALES, DatasetFacts, DatasetInfo
from pass2d.common.errors import CacheError
from pass2d.common.json import to_json
from pass2d.corruptions.registry import table_of
from pass2d.pipeline.compose import CODE_VERSIONS
from pass2d.pipeline.corrupted import variant_of
from pass2d.pipeline.source import CameraRule, ScanSource

RECORDED_RULES: dict[CameraRule, str] = {
    "x_ahead": "kitti",
    "in_front": "nuscenes",
    "recorded": "recorded",
}
"""Camera rules as the keys of shards say them."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """The scans of one shard, in frame order."""

    shard: int
    sequence: str
    scans: tuple[ScanSource, ...]

    def only(self, scan_ids: Sequence[str]) -> tuple[ScanSource, ...]:
        """Those of the scans that have these ids."""
        wanted = set(scan_ids)
        return tuple(scan for scan in self.scans if scan.scan_id in wanted)


def cut_into_shards(scans: Sequence[ScanSource], *, shard_scans: int) -> tuple[ShardJob, ...]:
    """Cut scans into shards of at most ``shard_scans``, never across sequences.

    Raises:
        CacheError: a scan id occurs twice, or a path cannot be recorded.
    """
    for scan in scans[:1]:  # the others lie beside it, under names that the readers know
        _require_text(scan.points)
    wrong = wrong_scan_names(scans)
    if wrong is not None:
        raise CacheError(f"invalid name of a scan: {wrong}. Rename the sequence or scene.")
    ordered = sorted(scans, key=lambda scan: (scan.sequence, scan.frame_index, scan.scan_id))
    jobs = [
        ShardJob(shard=shard_number(sequence, block), sequence=sequence, scans=part)
        for sequence, group in groupby(ordered, key=lambda scan: scan.sequence)
        for block, part in enumerate(_parts(tuple(group), shard_scans))
    ]
    if len({scan.scan_id for scan in scans}) < len(scans):
        raise CacheError("a scan id occurs twice: is one folder listed under two names?")
    return numbered(jobs, {})


def numbered(jobs: Sequence[ShardJob], taken: Mapping[int, str]) -> tuple[ShardJob, ...]:
    """Give each sequence shard numbers that no other sequence has.

    Args:
        jobs: those of a sequence under numbers in the order of its scans.
        taken: the sequence of every shard that is in the cache.

    Returns:
        The jobs, sorted by number.
    """
    owner = {sequence_number(shard): sequence for shard, sequence in taken.items()}
    found: list[ShardJob] = []
    ordered = sorted(jobs, key=lambda job: (job.sequence, job.shard))
    for sequence, group in groupby(ordered, key=lambda job: job.sequence):
        attempt = 0
        while owner.setdefault(_number(sequence, attempt), sequence) != sequence:
            attempt += 1
        found += [
            replace(job, shard=shard_number(sequence, block, attempt))
            for block, job in enumerate(group)
        ]
    return tuple(sorted(found, key=lambda job: job.shard))


def _number(sequence: str, attempt: int) -> int:
    return sequence_number(shard_number(sequence, 0, attempt))


def _require_text(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CacheError(
            f"{str(path).encode(errors='backslashreplace').decode()}: the name is not UTF-8, which "
            "the manifest is. Rename the folder."
        ) from error


def _parts(scans: tuple[ScanSource, ...], size: int) -> list[tuple[ScanSource, ...]]:
    return [scans[i : i + size] for i in range(0, len(scans), size)]


def lidar_header(
    job: ShardJob, sources: Sequence[ScanSources], *, info: DatasetInfo, profile: str
) -> ShardHeader:
    """Key of the `lidar` container: source hashes, volume and label map."""
    parameters: dict[str, Any] = {
        "layout": info.layout,
        "raw_columns": info.raw_columns,
        "volume_low": _floats(info.grid.low),
        "volume_high": _floats(info.grid.high),
        "label_map": {str(k): v for k, v in sorted(info.labels.raw_to_training.items())},
        "n_classes": info.labels.n_classes,
        "sweeps": info.sweeps,
    }
    if info.own_facts is not None and not _adds_instances_alone(info.own_facts, info.layout):
        parameters["label_bytes"] = info.own_facts.label_bytes
    if info.raw_format is not None:
        parameters["raw_format"] = to_json(info.raw_format)
    if info.drops_invalid:
        parameters["drops_invalid"] = True
    variant = variant_of(info)
    if variant is not None:
        parameters["corruption"] = table_of(info).parameters(variant)
    if computed := sorted(spec.name for spec in FIELDS.values() if spec.compute):
        parameters["computed"] = computed
    inputs = KeyInputs(
        sequence=job.sequence,
        lidar_scans=tuple(
            LidarScanInputs(
                scan_id=scan.scan_id,
                split=scan.split,
                frame_index=scan.frame_index,
                token=scan.token,
                files=hashed_files(files),
                sweeps=tuple((sweep.lidar_from_sweep, sweep.time_s) for sweep in scan.sweeps),
            )
            for scan, files in zip(job.scans, sources, strict=True)
        ),
    )
    return _header("lidar", profile, parameters, inputs)


def with_instances(info: DatasetInfo, has_panoptic: bool) -> DatasetInfo:
    """The data set, where files beside the labels hold instance ids.

    The key of a shard knows its own files: shards without any keep theirs.
    """
    if not has_panoptic:
        return info
    return replace(info, own_facts=replace(info.facts, has_instances=True))


def _adds_instances_alone(facts: DatasetFacts, layout: str) -> bool:
    """Whether facts are the known ones but for `with_instances`."""
    known = KNOWN_FACTS.get(layout)
    return (
        known is not None
        and known.label_bytes == 1
        and facts == replace(known, has_instances=facts.has_instances)
    )


def camera_header(
    scans: Sequence[ScanSource],
    sources: Sequence[ScanSources],
    *,
    lidar_key: str,
    info: DatasetInfo,
    profile: str,
) -> ShardHeader:
    """Key of the `camera` container: pictures, calibration, stored size, `lidar`."""
    parameters = {
        "n_cameras": info.n_cameras,
        "strip_columns": STRIP_COLUMNS,
        # The same of all scans of a listing.
        "camera_model": RECORDED_RULES[scans[0].camera_rule if scans else "x_ahead"],
        "stored_hw": scans[0].stored_hw if scans else None,
    }
    inputs = KeyInputs(
        lidar_key=lidar_key,
        camera_scans=tuple(
            CameraScanInputs(
                scan_id=scan.scan_id,
                files=hashed_files(files),
                image_from_lidar=scan.image_from_lidar,
                taken_hw=scan.taken_hw,
            )
            for scan, files in zip(scans, sources, strict=True)
        ),
    )
    return _header("camera", profile, parameters, inputs)


def voxel_header(*, lidar_key: str, info: DatasetInfo, profile: str) -> ShardHeader:
    """Key of the `voxel` container: `lidar`, grid and scales."""
    grid = {
        "low": _floats(info.grid.low),
        "high": _floats(info.grid.high),
        "shape": list(info.grid.shape),
    }
    parameters = {"grid": grid, "scales": list(SCALES)}
    return _header("voxel", profile, parameters, KeyInputs(lidar_key=lidar_key))


def containers(job: ShardJob, info: DatasetInfo) -> tuple[str, ...]:
    """The containers of a shard: `motion` if it is known, `thinned` if requested."""
    has_labels = bool(info.facts.moving)
    has_motion = any(
        (has_labels and scan.labels is not None) or scan.pose is not None or scan.time_s is not None
        for scan in job.scans
    )
    has = {"motion": has_motion, "thinned": bool(info.has_thinned)}
    return tuple(name for name in CONTAINERS if has.get(name, True))


def thinned_header(*, lidar_key: str, profile: str) -> ShardHeader:
    """Key of the `thinned` container: `lidar`, size of cells, number of neighbours."""
    parameters = to_json(STORED_THINNING)
    return _header("thinned", profile, parameters, KeyInputs(lidar_key=lidar_key))


def motion_header(
    scans: Sequence[ScanSource], *, lidar_key: str, info: DatasetInfo, profile: str
) -> ShardHeader:
    """Key of the `motion` container: poses, times, which raw ids move, `lidar`."""
    parameters: dict[str, Any] = {}
    if info.facts.moving:
        lookup, known = motion_lookup(info.labels, info.facts), info.labels.raw_to_training
        parameters = {
            "motion_map": {str(raw_id): int(lookup[raw_id]) for raw_id in sorted(known)},
            "moving": [[moving.static, moving.raw_ids] for moving in info.facts.moving],
        }
    inputs = KeyInputs(
        lidar_key=lidar_key,
        motion_scans=tuple(
            MotionScanInputs(scan_id=scan.scan_id, pose=scan.pose, time_s=scan.time_s)
            for scan in scans
        ),
    )
    return _header("motion", profile, parameters, inputs)


def _floats(values: Sequence[float]) -> list[float]:
    """50 and 50.0 are the same setting and give the same key."""
    return [float(value) for value in values]


def _header(container: str, profile: str, parameters: Any, key_inputs: KeyInputs) -> ShardHeader:
    inputs = encode_inputs(container, key_inputs)
    version = CODE_VERSIONS[container]
    if CODEC_VERSIONS[profile] > 1:
        parameters = {**parameters, "codecs": CODEC_VERSIONS[profile]}
    key = shard_key(
        container, code_version=version, profile=profile, parameters=parameters, inputs=inputs
    )
    return ShardHeader(
        container=container,
        key=key,
        code_version=version,
        profile=profile,
        parameters=parameters,
        inputs=inputs,
    )
