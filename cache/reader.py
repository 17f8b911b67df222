"""Streams prepared scans: one preadv per field, straight into arrays. Safe for many threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pass2d.cache.datasets import find_dataset, read_description
from pass2d.cache.fields import FIELDS, Fields, FieldSpec, container_fields
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import Manifest, load_manifest, open_generation, require_newest
from pass2d.cache.motion import moving_labels, tells_motion, with_moving_classes
from pass2d.cache.reading.bounds import require_inside, require_places, require_rows
from pass2d.cache.reading.chunks import AllocateArray, ChunkReader, StoredChunk
from pass2d.cache.reading.descriptors import DescriptorPool
from pass2d.cache.reading.scan_table import ChunkTable, ScanTable, chunk_table, scan_table
from pass2d.cache.reading.shard_table import ArrayLayout, ShardInfo, ShardTable
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.cache.remote.ranges import PartialFiles
from pass2d.cache.rows import SourceFile
from pass2d.cache.schema import SCALES, CameraView, DatasetInfo, ScanRecord, VoxelLevel
from pass2d.cache.urls import is_url
from pass2d.common.errors import CacheError
from pass2d.common.json import dumps, loads
from pass2d.common.thinning import ThinnedScan, ThinningConfig


class CacheReader:
    """One generation of one prepared data set."""

    def __init__(
        self, layout: Layout, *, check: bool = True, mirror: RemoteMirror | None = None
    ) -> None:
        read_description(layout)
        manifest = load_manifest(layout)
        self.root = layout.root
        self.generation = manifest.number
        self.info = manifest.info
        self.scans: ScanTable = scan_table(manifest.tables.scans)
        self._shards = ShardTable(layout, manifest.tables.shards, self.scans)
        self._chunks: dict[str, ChunkTable] = {
            name: chunk_table(manifest.tables.scans, name) for name in FIELDS
        }
        if mirror is not None:
            mirror.expect(manifest.tables.shards)
        self.is_remote = mirror is not None
        self.profiles = tuple(sorted(set(manifest.tables.shards["profile"].to_pylist())))
        self.thinnings = _thinnings(manifest)
        """How the scans with stored neighbours were thinned; empty if no scan has any."""
        self._pool = DescriptorPool(opener=None if mirror is None else mirror.open_file)
        self._reader = ChunkReader(check=check or self.is_remote, pool=self._pool)
        self._parts: PartialFiles | None = None
        if mirror is not None:
            self._parts = PartialFiles(mirror, self._pool)
            mirror.space.forget = self._pool.forget
        self._sources: Any = None
        """`scans.parquet`, from the first `sources` on."""
        self._checked: dict[tuple[str, int], NDArray[np.bool_]] = {}
        """(S,) by field and camera: whether a scan's values have been seen to be possible."""
        self._point_fields = (*container_fields("lidar"), *container_fields("motion"))
        self._lease: int | None = open_generation(layout, manifest.number)
        self.fingerprint = hash_bytes(dumps([self.info, self._shards.keys()]))

    @classmethod
    def open(
        cls, cache_root: Path | str, *, dataset: str | None = None, check: bool = True
    ) -> Self:
        """Open the current generation.

        Args:
            cache_root: the folder of data sets, or one data set's own folder; or its URL.
            dataset: which data set, when there are several.
            check: compare the crc32c of every chunk that is read; of a URL they always are.

        Raises:
            CacheError: no cache there, several data sets to choose from, another format version,
                or a damaged manifest.
        """
        if isinstance(cache_root, str) and is_url(cache_root):
            mirror = RemoteMirror.open(cache_root, dataset)
            return cls(mirror.layout, check=check, mirror=mirror)
        layout = Layout(root=find_dataset(Path(cache_root), dataset))
        require_newest(layout)
        return cls(layout, check=check)

    def tell_motion(self) -> Self:
        """Switch labels, counts and `info` to moving classes.

        Voxel hashes then have no labels.

        Returns:
            Itself.

        Raises:
            CacheError: labels of this data set do not tell motion, or an earlier version prepared
                the cache.
        """
        if tells_motion(self.info):
            return self
        info = with_moving_classes(self.info)
        if info is self.info:
            raise CacheError(
                f"{self.root}: the labels of {self.info.facts.title} do not distinguish moving "
                "from static objects."
            )
        if n_unknown := int(np.count_nonzero(self.scans.has_label & ~self.scans.has_motion)):
            raise CacheError(
                f"{self.root}: {n_unknown} labelled scans without motion, prepared by an "
                "earlier version. Run `prepare` again: it adds what is missing "
                "(a few kB per scan) and keeps everything else."
            )
        counts = self.scans.moving_histogram
        if not counts.shape[1]:  # no scan has labels
            counts = np.zeros((len(self.scans), len(info.facts.moving)), np.int64)
        histogram = np.concatenate([self.scans.label_histogram, counts], axis=1)
        for column, moving in enumerate(info.facts.moving):
            histogram[:, moving.static] -= counts[:, column]
        self.info, self.scans = info, replace(self.scans, label_histogram=histogram)
        return self

    def expect_all(self) -> None:
        """Announce that all scans of a shard will be read soon: files are then fetched whole."""
        if self._parts is not None:
            self._parts.reads_all = True

    def select(
        self, *, split: str | None = None, sequences: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """(P,) positions of scans, in the order of sequences and frames.

        Raises:
            CacheError: a sequence is not in the cache.
        """
        chosen = np.ones(len(self.scans), bool)
        if split is not None:
            chosen &= self.scans.split == split
        if sequences is not None:
            known = set(self.scans.sequence.tolist())
            if unknown := [name for name in sequences if name not in known]:
                raise CacheError(
                    f"{self.root}: no sequence {', '.join(unknown)}; prepared are "
                    f"{', '.join(sorted(known))}."
                )
            chosen &= np.isin(self.scans.sequence, list(sequences))
        return np.flatnonzero(chosen)

    def read(
        self,
        position: int,
        fields: Fields,
        *,
        columns: tuple[int, int] | None = None,
        allocate: AllocateArray = np.empty,
    ) -> ScanRecord:
        """Read one scan.

        Args:
            position: row of `scans`.
            fields: what to read.
            columns: only picture columns [start, stop); pixels still count from the whole picture.
            allocate: makes the arrays that are decoded into, e.g. in pinned memory.

        Raises:
            CacheError: missing or damaged data; the message names file, field and scan.
        """
        if tells_motion(self.info) and fields.label:
            fields = replace(fields, motion=True)
        if self._parts is None:
            return self._read_scan(position, fields, columns, allocate)
        with self._parts.hold(_wanted_chunks(self, position, fields, columns)):
            return self._read_scan(position, fields, columns, allocate)

    def _read_scan(
        self,
        position: int,
        fields: Fields,
        columns: tuple[int, int] | None,
        allocate: AllocateArray,
    ) -> ScanRecord:
        scan = _Scan(self, position, allocate)
        extra: dict[str, NDArray[Any]] = {}
        values: dict[str, NDArray[Any] | None] = {}
        for spec in self._point_fields:
            if not fields.asks_for(spec):
                continue
            value = scan.points(spec)
            if spec.attribute:
                values[spec.attribute] = value
            elif value is not None:
                extra[spec.name] = value
        scan.require_bounds(values)
        record: dict[str, Any] = values  # the names are those of the table
        read = ScanRecord(
            scan_id=scan.scan_id,
            n_raw=int(self.scans.n_raw[position]),
            cameras=scan.cameras(fields, columns),
            voxels=scan.voxels() if fields.voxels else (),
            thinned=scan.thinned() if fields.thinned else None,
            extra=extra,
            **record,
        )
        return _with_moving_labels(read, self.info) if tells_motion(self.info) else read

    def source_file(self, position: int, role: str) -> Path | None:
        """A raw file that a scan was prepared from, with its path at that time.

        Args:
            position: row of `scans`.
            role: "points", "labels", "panoptic", "image0", "image1", ..., "calib", "sweep0", ...

        Returns:
            None for a scan without such a file.
        """
        roles, paths = self._source_columns(position, ("role", "path"))
        path = dict(zip(roles, paths, strict=True)).get(role)
        return Path(path) if path else None

    def sources(self, position: int) -> tuple[SourceFile, ...]:
        """All raw files that a scan was prepared from, as they were then."""
        columns = self._source_columns(position, ("role", "path", "bytes", "mtime_ns", "xxh3"))
        return tuple(
            SourceFile(role=role, path=path, nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3)
            for role, path, nbytes, mtime_ns, xxh3 in zip(*columns, strict=True)
        )

    def _source_columns(self, position: int, parts: Sequence[str]) -> list[Any]:
        if self._sources is None:
            self._sources = load_manifest(Layout(root=self.root), self.generation).tables.scans
        return [self._sources[f"source_{part}"][int(position)].as_py() for part in parts]

    def chunk_lengths(self, field: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(S,) stored bytes and (S,) stored inner chunks of a field, per scan."""
        return self._chunks[field].totals()

    def stored_type(self, field: str, shard: int) -> np.dtype[Any] | None:
        """The type of a field in one shard; None where the shard does not hold it.

        Raises:
            CacheError: the manifest's description of the shard is impossible.
        """
        info = self._shards.get(FIELDS[field].container, shard)
        return None if info is None or field not in info.arrays else info.arrays[field].dtype

    def stored_chunks(self, position: int, field: str) -> tuple[StoredChunk, ...]:
        """Where the inner chunks of one field of one scan lie; those not stored are left out."""
        info = self._shards.get(FIELDS[field].container, int(self.scans.shard[position]))
        if info is None or field not in info.arrays:
            return ()
        return tuple(
            StoredChunk(field=field, part=part, array=info.arrays[field], span=span)
            for part, span in enumerate(self._chunks[field].spans(position))
            if span.length
        )

    def check_chunk(self, position: int, chunk: StoredChunk) -> None:
        """Read and decode one chunk to check it; its crc is compared and the values are discarded.

        Raises:
            CacheError: missing or damaged; the message names file, field and scan.
        """
        name = f"field {chunk.field} of scan {self.scans.scan_id[position]}"
        held = nullcontext() if self._parts is None else self._parts.hold([(chunk, 0.0)])
        with held:
            self._reader.read(chunk.array, chunk.span, name=name)

    def close(self) -> None:
        """Close all files; the reader cannot be used afterwards."""
        self._pool.close()
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _thinnings(manifest: Manifest) -> tuple[ThinningConfig, ...]:
    """The distinct settings with which the `thinned` shards of a generation were made.

    Raises:
        CacheError: a shard does not state them.
    """
    shards = manifest.tables.shards
    texts = shards.filter(pc.equal(shards["stage"], "thinned"))["parameters"].unique()
    found = set()
    for text in texts.to_pylist():
        given = loads(text, where="column parameters")
        try:
            cell_m, neighbours = float(given["cell_m"]), int(given["neighbours"])
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(
                f"column parameters: found {text[:80]!r}, expected cell_m and neighbours. "
                "Run `repair`."
            ) from error
        found.add(ThinningConfig(cell_m=cell_m, neighbours=neighbours))
    return tuple(sorted(found, key=str))


def _with_moving_labels(record: ScanRecord, info: DatasetInfo) -> ScanRecord:
    """A record with moving classes in its labels, and without labels of voxels, which lack them."""
    label, outside_label = (
        None if label is None or motion is None else moving_labels(label, motion, info)
        for label, motion in (
            (record.label, record.motion),
            (record.outside_label, record.outside_motion),
        )
    )
    return replace(
        record,
        label=label,
        outside_label=outside_label,
        voxels=tuple(replace(level, label=None) for level in record.voxels),
    )


class _Scan:
    """The reads of one scan; lives as long as one call of `CacheReader.read`."""

    def __init__(self, reader: CacheReader, position: int, allocate: AllocateArray) -> None:
        self._reader = reader
        self._position = int(position)
        self._allocate = allocate
        self.scan_id = str(reader.scans.scan_id[position])
        self._shard = int(reader.scans.shard[position])
        self._n = int(reader.scans.n[position])
        self._n_outside = int(reader.scans.n_raw[position]) - self._n

    def points(self, spec: FieldSpec) -> NDArray[Any] | None:
        """A field of points, (N,) or (rows, N); None for scans without it."""
        values = self._chunk(spec.name, 0)
        if values is None:
            if spec.is_required:
                raise CacheError(f"{self._reader.root}: {self._name(spec.name)} is not stored.")
            return None
        values = values[..., : self._n if spec.length == "points" else self._n_outside]
        if spec.is_signal:
            return self._signal(values)
        # As wide as the field gets, whatever the shard's values needed.
        return values if len(spec.dtypes) == 1 else values.astype(spec.dtypes[-1], copy=False)

    def require_bounds(self, values: Mapping[str, NDArray[Any] | None]) -> None:
        """Refuse points outside the volume, and rows that the raw file does not have."""
        xyz, rows = values.get("xyz"), values.get("raw_index")
        if xyz is not None:
            self._once("xyz", partial(require_inside, xyz, self._reader.info.grid))
        if rows is not None:
            self._once("raw_index", partial(require_rows, rows, self._n + self._n_outside))

    def _signal(self, values: NDArray[Any]) -> NDArray[np.float32]:
        divisor = self._info("lidar").signal_divisor
        if divisor == 0:
            return values
        out = self._allocate(values.shape, np.dtype(np.float32))
        # Exactly `signal_table(divisor)[values]` (a test holds them together), in a seventh of
        # the time of that lookup.
        return np.divide(values, np.float32(divisor), out=out, dtype=np.float32)

    def cameras(self, fields: Fields, columns: tuple[int, int] | None) -> tuple[CameraView, ...]:
        """The requested views that exist."""
        if not (fields.image or fields.pixels):
            return ()
        heights = self._reader.scans.camera_hw[self._position, :, 0].tolist()
        wanted = range(len(heights)) if fields.camera is None else (fields.camera,)
        return tuple(self._view(c, fields, columns) for c in wanted if heights[c] > 0)

    def voxels(self) -> tuple[VoxelLevel, ...]:
        """The hashes of all scales."""
        coord, inverse = self._chunk("coord", 0), self._chunk("inverse", 0)
        label = self._chunk("vlabel", 0)
        if coord is None or inverse is None:
            raise CacheError(
                f"{self._reader.root}: scan {self.scan_id} has no voxel hashes. "
                "Run `prepare` again."
            )
        counts = self._reader.scans.voxels[self._position]
        ends = counts.cumsum()
        starts = [0, *ends[:-1]]
        self._once("inverse", partial(require_places, inverse[:, : self._n], counts))
        shape = np.array(self._reader.info.grid.shape)
        self._once("coord", partial(_require_cells, coord, ends, shape))
        return tuple(
            VoxelLevel(
                scale=scale,
                coord=coord[:, start:end],
                label=None if label is None else label[start:end],
                inverse=inverse[index, : self._n],
            )
            for index, (scale, start, end) in enumerate(zip(SCALES, starts, ends, strict=True))
        )

    def thinned(self) -> ThinnedScan | None:
        """Thinned points and neighbours; None for scans without them."""
        count = int(self._reader.scans.thinned[self._position])
        rows, apart, answers = (self._chunk(s.name, 0) for s in container_fields("thinned"))
        if not count or rows is None or apart is None or answers is None:
            return None
        n_raw = self._n + self._n_outside
        self._once("thinned_row", partial(require_places, rows[:count], n_raw))
        self._once("nearest_thinned", partial(require_places, answers[:n_raw], count))
        return ThinnedScan(
            rows=rows[:count],
            apart=apart[:, :count],  # of the shard's type: what takes it copies it anyway
            answers=answers[:n_raw],
        )

    def _view(self, camera: int, fields: Fields, columns: tuple[int, int] | None) -> CameraView:
        m = int(self._reader.scans.camera_m[self._position, camera]) if fields.pixels else 0
        point_index = self._chunk("point_index", camera) if fields.pixels else None
        pixel = self._chunk("pixel", camera) if fields.pixels else None
        if point_index is not None and pixel is not None:
            sides = self._reader.scans.camera_hw[self._position, camera]
            self._once("point_index", partial(require_places, point_index[:m], self._n), camera)
            self._once("pixel", partial(require_places, pixel[:, :m], sides), camera)
        return CameraView(
            image=self._image(camera, columns) if fields.image else None,
            point_index=np.empty(0, np.int32) if point_index is None else point_index[:m],
            pixel_rc=np.empty((2, 0), np.uint16) if pixel is None else pixel[:, :m],
        )

    def _image(self, camera: int, columns: tuple[int, int] | None) -> NDArray[np.uint8]:
        height, width = self._reader.scans.camera_hw[self._position, camera].tolist()
        start, stop = columns or (0, width)
        if not 0 <= start < stop <= width:
            raise ValueError(f"columns [{start}, {stop}) are not inside a width of {width}")
        if self._reader.info.n_cameras > 1:
            image = self._chunk("image", camera)
            assert image is not None, self.scan_id
            return image[:height, start:stop]
        return self._reader._reader.read_columns(
            self._array("image"),
            self._reader._chunks["image"].spans(self._position),
            name=self._name("image"),
            hw=(height, width),
            columns=(start, stop),
            allocate=self._allocate,
        )

    def _chunk(self, field: str, camera: int) -> NDArray[Any] | None:
        table = self._reader._chunks[field]
        spans = table.spans(self._position)
        if camera >= len(spans) or spans[camera].length == 0:
            return None
        array = self._array(field)
        values = self._reader._reader.read(
            array, spans[camera], name=self._name(field), allocate=self._allocate
        )
        # With several cameras the chunk has an axis of length 1 for the camera.
        is_multi = FIELDS[field].is_per_camera and self._reader.info.n_cameras > 1
        return values[0] if is_multi else values

    def _info(self, container: str) -> ShardInfo:
        info = self._reader._shards.get(container, self._shard)
        if info is None:
            raise CacheError(
                f"{self._reader.root}: scan {self.scan_id} has no {container} shard. "
                "Run `prepare` again."
            )
        return info

    def _array(self, field: str) -> ArrayLayout:
        info = self._info(FIELDS[field].container)
        if field not in info.arrays:
            raise CacheError(
                f"{info.folder}: the manifest says that the shard holds {self._name(field)}, and "
                "describes no such array. Run `verify`, or prepare again into a new `cache_root`."
            )
        return info.arrays[field]

    def _once(self, field: str, require: Callable[..., None], camera: int = 0) -> None:
        """Check the values of a field when a scan is read for the first time.

        Later reads compare their checksums only: the values are the same.
        """
        n = len(self._reader.scans.n)
        seen = self._reader._checked.setdefault((field, camera), np.zeros(n, np.bool_))
        if not seen[self._position]:
            require(where=f"{self._reader.root}: {self._name(field)}")
            seen[self._position] = True

    def _name(self, field: str) -> str:
        return f"field {field} of scan {self.scan_id}"


def _require_cells(
    coord: NDArray[np.int16], ends: NDArray[np.int64], shape: NDArray[np.int64], *, where: str
) -> None:
    """Refuse (3, V) cells of all scales, one after another, that are not in the grid."""
    for scale, part in zip(SCALES, np.split(coord[:, : ends[-1]], ends[:-1], axis=1), strict=True):
        require_places(part, -(-shape // scale), where=where)


def _wanted_chunks(
    reader: CacheReader, position: int, fields: Fields, columns: tuple[int, int] | None
) -> Iterable[tuple[StoredChunk, float]]:
    """The chunks that `CacheReader.read` will ask for, and the share of each field's bytes."""
    for name, spec in FIELDS.items():
        chunks = reader.stored_chunks(position, name) if fields.asks_for(spec) else ()
        wanted = [chunk for chunk in chunks if _is_wanted(reader, chunk, fields, columns)]
        total = sum(chunk.span.length for chunk in chunks)
        share = sum(chunk.span.length for chunk in wanted) / max(1, total)
        yield from ((chunk, share) for chunk in wanted)


def _is_wanted(
    reader: CacheReader, chunk: StoredChunk, fields: Fields, columns: tuple[int, int] | None
) -> bool:
    if not FIELDS[chunk.field].is_per_camera:
        return True
    if reader.info.n_cameras > 1:
        return fields.camera in (None, chunk.part)
    if FIELDS[chunk.field].length != "picture" or columns is None:
        return True
    strip = chunk.array.chunk[2]
    return columns[0] < (chunk.part + 1) * strip and chunk.part * strip < columns[1]
