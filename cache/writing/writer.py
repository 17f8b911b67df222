"""Writes one shard under a temporary name, syncs it and publishes it under its key."""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pass2d.cache.layout import GROUP_FILE, Layout, shard_name
from pass2d.cache.rows import (
    CameraEntry,
    Entries,
    FailedScan,
    FieldChunks,
    FileHash,
    LidarEntry,
    MotionEntry,
    ScanSources,
    ShardHeader,
    ShardRow,
    ThinnedEntry,
    ViewEntry,
    VoxelEntry,
    commit_row,
)
from pass2d.cache.schema import FORMAT_VERSION, ScanRecord, VoxelLevel
from pass2d.cache.writing.encode import (
    ArrayPlan,
    Views,
    camera_arrays,
    lidar_arrays,
    motion_arrays,
    thinned_arrays,
    voxel_arrays,
)
from pass2d.cache.writing.shard import ArrayWriter, group_metadata
from pass2d.common.files import (
    attempt_folder,
    require_no_link,
    sync,
    sync_tree,
    write_file,
    writing,
)
from pass2d.common.thinning import ThinnedScan


def write_lidar_shard(
    layout: Layout,
    *,
    shard: int,
    header: ShardHeader,
    records: Sequence[ScanRecord],
    entries: Sequence[LidarEntry],
    sources: Sequence[ScanSources],
    failed: Sequence[FailedScan] = (),
) -> ShardRow:
    """Publish a `lidar` shard and commit it; ``records`` and ``entries`` go together."""
    plans, encodings = lidar_arrays(records, profile=header.profile)
    content = ShardContent(
        header=header,
        plans=plans,
        encodings=encodings,
        entries=Entries(lidar=tuple(entries)),
        sources=sources,
        failed=failed,
    )
    return write_shard(layout, content, shard=shard)


def write_camera_shard(
    layout: Layout,
    *,
    shard: int,
    header: ShardHeader,
    scan_ids: Sequence[str],
    pictures: Sequence[Views],
    image_from_lidar: Sequence[tuple[tuple[float, ...], ...] | None],
    n_cameras: int,
    sources: Sequence[ScanSources],
    failed: Sequence[FailedScan] = (),
) -> ShardRow:
    """Publish a `camera` shard and commit it; it may contain no picture at all."""
    full = [tuple(scan) or (None,) * n_cameras for scan in pictures]
    entries = tuple(
        CameraEntry(scan_id=scan_id, views=_view_entries(views), image_from_lidar=matrices)
        for scan_id, views, matrices in zip(scan_ids, full, image_from_lidar, strict=True)
    )
    content = ShardContent(
        header=header,
        plans=camera_arrays(full, n_cameras=n_cameras, profile=header.profile),
        encodings={},
        entries=Entries(camera=entries),
        sources=sources,
        failed=failed,
    )
    return write_shard(layout, content, shard=shard)


def _view_entries(views: Views) -> tuple[ViewEntry | None, ...]:
    return tuple(
        None
        if view is None or view.image is None
        else ViewEntry(
            height=view.image.shape[0], width=view.image.shape[1], m=len(view.point_index)
        )
        for view in views
    )


def write_voxel_shard(
    layout: Layout,
    *,
    shard: int,
    header: ShardHeader,
    scan_ids: Sequence[str],
    hashes: Sequence[Sequence[VoxelLevel]],
) -> ShardRow:
    """Publish a `voxel` shard and commit it."""
    entries = tuple(
        VoxelEntry(
            scan_id=scan_id,
            voxels=tuple(level.coord.shape[1] for level in levels),
            has_label=all(level.label is not None for level in levels),
        )
        for scan_id, levels in zip(scan_ids, hashes, strict=True)
    )
    content = ShardContent(
        header=header,
        plans=voxel_arrays(hashes, profile=header.profile),
        encodings={},
        entries=Entries(voxel=entries),
    )
    return write_shard(layout, content, shard=shard)


def write_motion_shard(
    layout: Layout,
    *,
    shard: int,
    header: ShardHeader,
    records: Sequence[ScanRecord | None],
    entries: Sequence[MotionEntry],
) -> ShardRow:
    """Publish a `motion` shard and commit it; ``records`` as of `motion_arrays`."""
    content = ShardContent(
        header=header,
        plans=motion_arrays(records, profile=header.profile),
        encodings={},
        entries=Entries(motion=tuple(entries)),
    )
    return write_shard(layout, content, shard=shard)


def write_thinned_shard(
    layout: Layout,
    *,
    shard: int,
    header: ShardHeader,
    scan_ids: Sequence[str],
    scans: Sequence[ThinnedScan | None],
) -> ShardRow:
    """Publish a `thinned` shard and commit it; None for scans that cannot be thinned."""
    content = ShardContent(
        header=header,
        plans=thinned_arrays(scans, profile=header.profile),
        encodings={},
        entries=Entries(
            thinned=tuple(
                ThinnedEntry(scan_id=scan_id, thinned=0 if scan is None else len(scan.rows))
                for scan_id, scan in zip(scan_ids, scans, strict=True)
            )
        ),
    )
    return write_shard(layout, content, shard=shard)


@dataclass(frozen=True, kw_only=True)
class ShardContent:
    """All that goes into one shard."""

    header: ShardHeader
    plans: Sequence[ArrayPlan]
    encodings: dict[str, Any]
    entries: Entries
    sources: Sequence[ScanSources] = ()
    failed: Sequence[FailedScan] = ()

    def attributes(self) -> dict[str, Any]:
        """The group's attributes: a shard can be understood without a manifest."""
        header = self.header
        return {
            "format_version": FORMAT_VERSION,
            "stage": header.container,
            "key": header.key,
            "code_version": header.code_version,
            "profile": header.profile,
            "parameters": header.parameters,
            "inputs": header.inputs,
            "encodings": self.encodings,
            "scan_ids": self.entries.scan_ids(),
            "entries": self.entries,
            # The reasons name paths; the bytes of a shard do not depend on where the sources lie.
            "failed": [scan.scan_id for scan in self.failed],
        }


def write_shard(layout: Layout, content: ShardContent, *, shard: int) -> ShardRow:
    """Write the arrays to a temporary folder, publish it by rename, then commit its row.

    The bytes depend only on ``content``. An existing shard of that name comes from another attempt,
    with the same bytes: ours is discarded.

    Raises:
        CacheError: the disk is full or may not be written.
        TransientWriteError: any other failed write, which a retry may fix.
    """
    started = time.perf_counter()
    header = content.header
    final = layout.shard(header.container, shard, header.key)
    require_no_link(*layout.folders)
    with writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        name = f"{header.container}-{shard_name(shard, header.key)}"
        with attempt_folder(layout.scratch, name) as attempt:
            files, fields = _write_group(attempt, content)
            _publish(attempt, final, files, scratch=layout.scratch)
    row = ShardRow(
        header=header,
        shard=shard,
        entries=content.entries,
        encodings=content.encodings,
        files=files,
        fields=fields,
        sources=tuple(content.sources),
        failed=tuple(content.failed),
        writer=f"{socket.gethostname()}:{os.getpid()}",
        seconds=round(time.perf_counter() - started, 3),
    )
    commit_row(layout, row)
    return row


def _write_group(
    folder: Path, content: ShardContent
) -> tuple[tuple[FileHash, ...], tuple[FieldChunks, ...]]:
    files: list[FileHash] = []
    fields = []
    for plan in content.plans:
        writer = ArrayWriter(folder, plan.spec)
        files += writer.write(plan.chunks)
        fields.append(writer.field_chunks())
    group = group_metadata([plan.spec for plan in content.plans], content.attributes())
    nbytes, xxh3 = write_file(folder / GROUP_FILE, [group])
    files.append(FileHash(name=GROUP_FILE, nbytes=nbytes, xxh3=xxh3))
    sync_tree(folder)
    return tuple(sorted(files, key=lambda file: file.name)), tuple(fields)


def _publish(attempt: Path, final: Path, files: Sequence[FileHash], *, scratch: Path) -> None:
    try:
        attempt.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not final.is_symlink():
            raise
        if final.is_symlink() or not has_files(final, files):
            # No attempt publishes this: it was damaged later. Readers keep their open files.
            final.rename(scratch / f"damaged-{final.name}-{uuid.uuid4().hex}")
            attempt.rename(final)
    sync(final.parent)


def has_files(folder: Path, files: Sequence[FileHash]) -> bool:
    """Whether a shard has exactly these files in these sizes (contents are not read)."""
    found = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if not path.is_dir()
    }
    return found == {file.name: file.nbytes for file in files}
