"""A manifest of any size without the data: every scan shares three source files."""

from __future__ import annotations

from pathlib import Path

from pass2d.cache.fields import FIELDS
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import publish_generation, publishing
from pass2d.cache.rows import (
    CameraEntry,
    ChunkRef,
    Entries,
    FieldChunks,
    FileHash,
    LidarEntry,
    MotionEntry,
    ShardHeader,
    ShardRow,
    ViewEntry,
    VoxelEntry,
)
from pass2d.cache.schema import DatasetInfo
from pass2d.cache.statistics import RANGE_EDGES_M
from pass2d.cache.tables import build_tables, merge_tables
from pass2d.pipeline.run.jobs import (
    ShardJob,
    camera_header,
    cut_into_shards,
    lidar_header,
    motion_header,
    voxel_header,
)
from pass2d.pipeline.run.tasks import camera_sources, lidar_sources
from pass2d.pipeline.source import ScanSource, SourceListing

MATRIX = tuple(float(i) / 7 for i in range(12))


def many_scans(folder: Path, info: DatasetInfo, *, sequences: dict[str, int]) -> SourceListing:
    """``sequences`` gives the number of scans of each; three files serve all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    points, labels, image = (folder / name for name in ("0.bin", "0.label", "0.png"))
    for path in (points, labels, image):
        path.write_bytes(path.name.encode())
    scans = tuple(
        ScanSource(
            scan_id=f"{sequence}/{frame:06d}",
            split="train",
            sequence=sequence,
            frame_index=frame,
            points=points,
            labels=labels,
            images=(image,),
            image_from_lidar=(MATRIX,),
        )
        for sequence, count in sequences.items()
        for frame in range(count)
    )
    return SourceListing(info=info, scans=scans, notes=())


def publish_many(listing: SourceListing, dataset_root: Path) -> None:
    """A generation as if all of the listing had been prepared; the shards are empty folders."""
    layout = Layout(root=dataset_root)
    shards = [_rows(job, listing.info) for job in cut_into_shards(listing.scans, shard_scans=64)]
    for rows in shards:
        for row in rows.values():
            key = row.header.key
            layout.shard(row.header.container, row.shard, key).mkdir(parents=True)
            record = layout.row(row.header.container, row.shard, key)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()
    with publishing(layout):
        tables = merge_tables([build_tables(shards, n_cameras=1)])
        publish_generation(layout, listing.info, tables)


def _rows(job: ShardJob, info: DatasetInfo) -> dict[str, ShardRow]:
    files = lidar_sources(job.scans[0], {}).files, camera_sources(job.scans[0], {}).files
    sources = [
        [type(lidar_sources(job.scans[0], {}))(scan_id=s.scan_id, files=f) for s in job.scans]
        for f in files
    ]
    lidar = lidar_header(job, sources[0], info=info, profile="speed")
    camera = camera_header(job.scans, sources[1], lidar_key=lidar.key, info=info, profile="speed")
    voxel = voxel_header(lidar_key=lidar.key, info=info, profile="speed")
    motion = motion_header(job.scans, lidar_key=lidar.key, info=info, profile="speed")
    ids = [scan.scan_id for scan in job.scans]
    entries = {
        "lidar": Entries(lidar=tuple(_lidar_entry(scan, info) for scan in job.scans)),
        "camera": Entries(camera=tuple(_camera_entry(scan_id) for scan_id in ids)),
        "motion": Entries(motion=tuple(_motion_entry(scan_id, info) for scan_id in ids)),
        "voxel": Entries(
            voxel=tuple(VoxelEntry(scan_id=i, voxels=(9, 8, 7, 6, 5), has_label=True) for i in ids)
        ),
    }
    return {
        header.container: _row(job, header, entries[header.container], tuple(part))
        for header, part in zip((lidar, camera, voxel, motion), (*sources, (), ()), strict=True)
    }


def _motion_entry(scan_id: str, info: DatasetInfo) -> MotionEntry:
    return MotionEntry(
        scan_id=scan_id,
        has_motion=True,
        moving_histogram=(7,) * len(info.facts.moving),
        pose=None,
        time_s=None,
    )


def _row(job: ShardJob, header: ShardHeader, entries: Entries, sources: tuple) -> ShardRow:
    fields = []
    for name, spec in FIELDS.items():
        if spec.container == header.container:
            count = 10 if name == "image" else 1
            refs = tuple(ChunkRef(offset=99 * c, length=99, crc=12345) for c in range(count))
            chunk = (1, 370, 128, 3) if name == "image" else (1, 120_000)
            chunks = (refs,) * len(job.scans)
            fields.append(FieldChunks(name=name, dtype=spec.dtypes[0], chunk=chunk, chunks=chunks))
    return ShardRow(
        header=header,
        shard=job.shard,
        entries=entries,
        encodings={"intensity_divisor": 100},
        files=tuple(FileHash(name=f"{f.name}/c/0", nbytes=10**7, xxh3="0" * 32) for f in fields),
        fields=tuple(fields),
        sources=sources,
        writer="host:1",
        seconds=1.0,
    )


def _lidar_entry(scan: ScanSource, info: DatasetInfo) -> LidarEntry:
    return LidarEntry(
        scan_id=scan.scan_id,
        split=scan.split,
        sequence=scan.sequence,
        frame_index=scan.frame_index,
        token="",
        n_raw=124_000,
        n=120_000,
        has_label=True,
        label_histogram=(6000,) * info.labels.n_classes,
        range_histogram=(5000,) * len(RANGE_EDGES_M),
    )


def _camera_entry(scan_id: str) -> CameraEntry:
    view = ViewEntry(height=370, width=1226, m=20_000)
    return CameraEntry(scan_id=scan_id, views=(view,), image_from_lidar=(MATRIX,))
