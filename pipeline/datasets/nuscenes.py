"""The layout of nuScenes-lidarseg: which scans there are, what is missing. Needs no devkit."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pass2d.cache.rows import FailedScan
from pass2d.cache.schema import DatasetInfo
from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Progress, Silent
from pass2d.pipeline.datasets.layout import Examined, RawLayout, Wanted
from pass2d.pipeline.datasets.limit import first_of_each_split
from pass2d.pipeline.datasets.nuscenes_labels import info_by_name
from pass2d.pipeline.datasets.nuscenes_missing import INSTANCES, LABELS, POINTS, SWEEPS, Missing
from pass2d.pipeline.datasets.nuscenes_rows import (
    LIDAR,
    NO_ROW,
    Sample,
    Scene,
    SensorData,
    Tables,
)
from pass2d.pipeline.datasets.nuscenes_scenes import (
    choose_scenes,
    choose_version,
    locate_tables,
    notes_on_scenes,
)
from pass2d.pipeline.datasets.nuscenes_tables import read_label_ids, read_scenes, read_tables
from pass2d.pipeline.datasets.nuscenes_values import TableReader
from pass2d.pipeline.datasets.table import DatasetTable, load_table
from pass2d.pipeline.problem import Problem, ProblemError, merge_warnings
from pass2d.pipeline.source import ScanSource, SourceListing, SweepSource
from pass2d.pipeline.stages.ego_motion import (
    image_from_lidar_through_world,
    lidar_from_sweep_through_world,
)

MAX_SWEEPS = 10
_NOTHING = (0.0,) * 12
_MOST_NOTES = 10
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@functools.cache
def nuscenes_table() -> DatasetTable:
    """The table of ``nuscenes.toml``: labels, colours, volume, scenes of each split, cameras."""
    return load_table(Path(__file__).with_suffix(".toml"))


def list_nuscenes(
    root: Path,
    *,
    table: DatasetTable | None = None,
    version: str | None = None,
    splits: Sequence[str] = SPLITS,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    stored_hw: tuple[int, int] | None = (240, 400),
    sweeps: int = 0,
    progress: Progress | None = None,
) -> SourceListing:
    """List the key frames of a folder in nuScenes' layout.

    A scan is the lidar file of a key frame; labels and pictures may be missing.

    Args:
        root: holds the folder of tables (e.g. ``v1.0-mini/``), ``samples/`` and ``lidarseg/``.
        table: of the data set; nuScenes' when None.
        version: "v1.0-mini", "v1.0-trainval" or "v1.0-test"; not needed when only one is there.
        splits: any of "train", "val", "test"; those that the version lacks are ignored.
        scenes: only these, e.g. ("scene-0061", "103"); all that exist when None.
        limit: at most this many scans in all, the first ones of each split in equal shares.
        stored_hw: height and width that pictures are resized to; None keeps them as taken.
        sweeps: past lidar sweeps that are added to each key frame, 0..10; fewer at a scene's start.
        progress: receives the reading of large tables.

    Returns:
        The scans in the order of scenes and time, and notes on what is missing. Raw labels are
        known by their names in category.json; its numbers need not be the usual ones.

    Raises:
        DataError: wrong folder, version or scene, damaged tables, label names that nuScenes does
            not have, or no scans at all. Rows that do not fit together, or cannot be those of a
            sensor on a vehicle, are listed as failed.
        ConfigError: a number of sweeps that cannot be.
    """
    # Absolute: Ray's workers have another current folder.
    root = root.absolute()
    wanted = Wanted(splits=splits, sequences=scenes, limit=limit, version=version, sweeps=sweeps)
    reader, found = _read(root, table or nuscenes_table(), wanted, progress or Silent())
    reader.require_whole()
    lister = _Lister(found, stored_hw=stored_hw)
    listed = (lister.scan(*sample) for sample in found.samples())
    scans = [scan for scan in listed if scan is not None]
    if not scans and lister.closed:
        raise ProblemError(next(iter(lister.closed.values())), len(lister.closed) - 1)
    _require_scans(found, scans)
    calibrated = [lister.calibrated(scan) for scan in first_of_each_split(scans, limit)]
    usable = tuple(one.usable() for one in calibrated if one.is_whole)
    lost = {token: found.tables.lost_problem(token) for token in found.tables.lost}
    problems = [*lost.values(), *_distinct(calibrated)]
    if not usable:
        raise DataError(str(problems[0]))
    return SourceListing(
        info=found.info,
        scans=usable,
        notes=(*found.notes, *lister.missing.notes(), *_notes_on_rows(problems)),
        warned=merge_warnings(p for p in problems if p.severity == "warning"),
        failed=(
            *(FailedScan(scan_id=t, container="lidar", reason=str(p)) for t, p in lost.items()),
            *(failed for one in calibrated for failed in one.failed()),
        ),
    )


def _examine(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> Examined:
    """As `list_nuscenes`; rows that do not fit together are among the problems."""
    reader, found = _read(root, table, wanted, progress)
    faults = reader.faults
    lister = _Lister(found, stored_hw=None)
    listed = (lister.scan(*sample) for sample in found.samples())
    scans = [scan for scan in listed if scan is not None]
    if not faults and not lister.closed:
        _require_scans(found, scans)
    calibrated = [lister.calibrated(scan) for scan in first_of_each_split(scans, wanted.limit)]
    rows = [found.tables.lost_problem(token) for token in found.tables.lost]
    rows += _distinct(calibrated)
    # A row that cannot be read is said once, not again for every row that names it.
    faulty = {fault.file for fault in faults}
    rows = [row for row in rows if row.kind != NO_ROW or row.file not in faulty]
    return Examined(
        info=found.info,
        scans=tuple(one.scan for one in calibrated),
        problems=(
            *faults,
            *(closed for closed in lister.closed.values() if closed not in rows),
            *rows,
            *found.problems(),
            *lister.missing.problems(),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A version's tables, reduced to the requested scenes."""

    root: Path
    version: str
    table: DatasetTable
    info: DatasetInfo
    split_of: dict[str, str]
    """By name of the scene."""
    scenes: list[Scene]
    tables: Tables
    notes: tuple[str, ...]

    def samples(self) -> list[tuple[Scene, Sample, int]]:
        """All key frames with their place in the scene."""
        return [
            (scene, sample, place)
            for scene in self.scenes
            for place, sample in enumerate(self.tables.samples[scene.token])
        ]

    def problems(self) -> list[Problem]:
        """The notes as `--check` has them."""
        return [
            Problem(
                file=self.tables.folder,
                found=note,
                expected="all scenes and label names of the version",
                remedy="Allowed; what is there is prepared.",
                severity="note",
            )
            for note in self.notes
        ]


@dataclass(frozen=True, kw_only=True)
class _Calibrated:
    """A scan with its calibration as far as the tables say one."""

    scan: ScanSource
    """Zeros for the cameras without."""
    problems: tuple[Problem, ...] = ()
    """Distinct; warnings, and notes on cameras that have no picture, too."""
    broken: frozenset[int] = frozenset()
    """Cameras whose picture is there and cannot be projected."""
    is_whole: bool = True
    """Whether its labels can be read, and the past sweeps that were asked for be added."""

    def usable(self) -> ScanSource:
        """The scan without the pictures that cannot be projected."""
        images = (None if c in self.broken else file for c, file in enumerate(self.scan.images))
        return replace(self.scan, images=tuple(images))

    def failed(self) -> list[FailedScan]:
        """That of it which `prepare` cannot do."""
        reason = "; ".join(str(p) for p in self.problems if p.severity == "error")
        if not reason:
            return []
        container = "camera" if self.is_whole else "lidar"
        return [FailedScan(scan_id=self.scan.scan_id, container=container, reason=reason)]


def _distinct(calibrated: Iterable[_Calibrated]) -> list[Problem]:
    """One of each; an error where one scan needs what another does not."""
    found: dict[str, Problem] = {}
    for problem in (p for one in calibrated for p in one.problems):
        _keep(found, problem)
    return list(found.values())


def _keep(found: dict[str, Problem], problem: Problem) -> None:
    if found.setdefault(str(problem), problem).severity == "note":
        found[str(problem)] = problem


def _notes_on_rows(problems: Sequence[Problem]) -> list[str]:
    """What `prepare` says of rows that cannot be used: the first ones, and how many there are."""
    notes = [f"not needed: {p}" for p in problems if p.severity == "note"]
    errors = [f"not prepared: {p}" for p in problems if p.severity == "error"]
    for lines in (notes, errors):
        if len(lines) > _MOST_NOTES:
            lines[_MOST_NOTES:] = [f"... and {len(lines) - _MOST_NOTES} more; `check` lists them"]
    return [*notes, *errors]


def _read(
    root: Path, table: DatasetTable, wanted: Wanted, progress: Progress
) -> tuple[TableReader, _Found]:
    """Read the tables; the reader knows what is wrong with their rows."""
    sweeps, splits, scenes = wanted.sweeps, wanted.splits, wanted.sequences
    if not 0 <= sweeps <= MAX_SWEEPS:
        raise ConfigError(f"sweeps {sweeps}: must be 0 to {MAX_SWEEPS} past sweeps.")
    root, version = choose_version(root, wanted.version)
    reader = TableReader(root / version, progress)
    known = read_scenes(reader)
    try:
        split_of = choose_scenes(
            known, table, version=version, splits=splits, names=scenes, where=reader.folder
        )
    except DataError:
        if not reader.faults:  # else a scene may be missing because its row cannot be read
            raise
        split_of = {}
    chosen = [scene for scene in known if scene.name in split_of]
    info, remarks = _info(reader, table)
    notes = notes_on_scenes(known, table, version=version, split_of=split_of, splits=splits)
    return reader, _Found(
        root=root,
        version=version,
        table=table,
        info=replace(info, sweeps=sweeps),
        split_of=split_of,
        scenes=chosen,
        tables=read_tables(
            reader,
            chosen,
            known=known,
            channels=(LIDAR, *table.cameras),
            sweeps=sweeps > 0,
        ),
        notes=(*(notes if scenes is None else ()), *remarks),
    )


def _info(reader: TableReader, table: DatasetTable) -> tuple[DatasetInfo, tuple[str, ...]]:
    """Labels as category.json numbers them; as usual where it is damaged."""
    label_ids, file = read_label_ids(reader), reader.file("category")
    if all(fault.file != file for fault in reader.faults):
        with reader.checked("category"):
            return info_by_name(table, label_ids, file=file)
    return table.info, ()


def _require_scans(found: _Found, scans: Collection[ScanSource]) -> None:
    if not scans:
        raise DataError(
            f"{found.root}: none of the {len(found.samples())} key frames of {found.version} has "
            f"its point file. Expected samples/{LIDAR}/*.pcd.bin: unpack the samples too."
        )


class _Lister:
    """Turns key frames into scans and notes missing files."""

    def __init__(self, found: _Found, *, stored_hw: tuple[int, int] | None) -> None:
        samples, version = found.root / "samples", found.version
        self._found = found
        self._cameras = found.table.cameras
        self._stored_hw = stored_hw
        self.closed: dict[Path, Problem] = {}
        """Folders that cannot be read: their files may or may not exist."""
        self._names: dict[Path, frozenset[str]] = {}
        self._rows: dict[str, tuple[SensorData, list[SensorData | None]]] = {}
        panoptic = found.root / "panoptic" / version
        self._has_instances = bool(found.tables.panoptic) or panoptic.is_dir()
        self.missing = Missing(
            folders={
                POINTS: samples / LIDAR,
                LABELS: found.root / "lidarseg" / version,
                INSTANCES: panoptic,
                SWEEPS: found.root / "sweeps" / LIDAR,
                **{camera: samples / camera for camera in self._cameras},
            }
        )

    def scan(self, scene: Scene, sample: Sample, frame_index: int) -> ScanSource | None:
        """One key frame, not yet calibrated; None without points."""
        tables = self._found.tables
        lidar = tables.data.get((sample.token, LIDAR))
        file = None if lidar is None else self._found.root / lidar.filename
        points = self._existing(POINTS, scene.name, file)
        if lidar is None or points is None:
            return None
        labels = self._existing(LABELS, scene.name, self._label_file(lidar))
        has_instances = labels is not None and self._has_instances
        pictures = [tables.data.get((sample.token, camera)) for camera in self._cameras]
        self._rows[lidar.token] = lidar, pictures
        return ScanSource(
            scan_id=lidar.token,
            split=self._found.split_of[scene.name],
            sequence=scene.name,
            frame_index=frame_index,
            token=lidar.token,
            points=points,
            labels=labels,
            panoptic=(
                self._existing(INSTANCES, scene.name, self._panoptic_file(lidar))
                if has_instances
                else None
            ),
            images=tuple(
                self._existing(camera, scene.name, data and self._found.root / data.filename)
                for camera, data in zip(self._cameras, pictures, strict=True)
            ),
            camera_rule=self._found.table.camera_rule,
            taken_hw=tuple((0, 0) if data is None else data.hw for data in pictures),
            stored_hw=self._stored_hw,
        )

    def calibrated(self, scan: ScanSource) -> _Calibrated:
        """The scan with its calibration, and what is wrong with that."""
        lidar, pictures = self._rows[scan.scan_id]
        problems: dict[str, Problem] = {}
        broken, is_whole = set(), True
        for there, wanted in (
            (scan.labels, self._label_file(lidar)),
            (scan.panoptic, self._panoptic_file(lidar)),
        ):
            if there is None and (closed := self.closed.get(wanted.parent)):
                _keep(problems, closed)
                is_whole = False
        matrices: list[tuple[float, ...]] = [_NOTHING] * len(pictures)
        for camera, (data, file) in enumerate(zip(pictures, scan.images, strict=True)):
            if data is None:
                continue
            if closed := self.closed.get((self._found.root / data.filename).parent):
                _keep(problems, closed)
                broken.add(camera)
            try:
                matrices[camera] = self._matrix(lidar, data)
                doubt = self._found.tables.direction_doubt(data)
            except ProblemError as error:
                doubt = error.problem if file else replace(error.problem, severity="note")
                broken |= {camera} if file else set()
            if doubt is not None:
                _keep(problems, doubt)
        pose: tuple[float, ...] | None = None
        try:
            pose = self._pose(lidar)
        except ProblemError as error:  # of every camera, too: an error there
            _keep(problems, replace(error.problem, severity="note"))
        sweeps: tuple[SweepSource, ...] = ()
        try:
            sweeps = tuple(self._sweeps(scan.sequence, lidar))
        except ProblemError as error:
            _keep(problems, error.problem)
            is_whole = False
        return _Calibrated(
            scan=replace(
                scan,
                pose=pose,
                time_s=lidar.timestamp_us * 1e-6,
                image_from_lidar=tuple(matrices) if any(map(any, matrices)) else None,
                sweeps=sweeps,
            ),
            problems=tuple(problems.values()),
            broken=frozenset(broken),
            is_whole=is_whole,
        )

    def _label_file(self, lidar: SensorData) -> Path:
        labels = self._found.tables.labels or {}
        default = f"lidarseg/{self._found.version}/{lidar.token}_lidarseg.bin"
        return self._found.root / labels.get(lidar.token, default)

    def _panoptic_file(self, lidar: SensorData) -> Path:
        default = f"panoptic/{self._found.version}/{lidar.token}_panoptic.npz"
        return self._found.root / self._found.tables.panoptic.get(lidar.token, default)

    def _sweeps(self, scene: str, lidar: SensorData) -> Iterator[SweepSource]:
        """The sweeps before a key frame, the latest first; those without a file are passed over."""
        tables = self._found.tables
        sweep = lidar
        for _ in range(self._found.info.sweeps):
            earlier = tables.sweeps.get(sweep.prev)
            if earlier is None:
                return
            tables.require_earlier(sweep, earlier)
            sweep = earlier
            points = self._existing(SWEEPS, scene, self._found.root / sweep.filename)
            if points is None:
                if closed := self.closed.get((self._found.root / sweep.filename).parent):
                    raise ProblemError(closed)
                continue
            tables.require_together(lidar, earlier)
            matrix = lidar_from_sweep_through_world(
                ego_from_lidar=tables.calibration(lidar).ego_from_sensor,
                world_from_ego_at_scan=tables.world_from_ego(lidar),
                ego_from_lidar_at_sweep=tables.calibration(sweep).ego_from_sensor,
                world_from_ego_at_sweep=tables.world_from_ego(sweep),
            )
            yield SweepSource(
                points=points,
                lidar_from_sweep=tuple(float(number) for number in matrix.ravel()),
                time_s=(lidar.timestamp_us - sweep.timestamp_us) * 1e-6,
            )

    def _pose(self, lidar: SensorData) -> tuple[float, ...]:
        """world_from_lidar, (3, 4) row by row."""
        tables = self._found.tables
        ego_from_lidar = tables.calibration(lidar).ego_from_sensor.matrix()
        world_from_lidar = tables.world_from_ego(lidar).matrix() @ ego_from_lidar
        return tuple(float(number) for number in world_from_lidar[:3].ravel())

    def _matrix(self, lidar: SensorData, picture: SensorData) -> tuple[float, ...]:
        tables = self._found.tables
        tables.require_together(lidar, picture)
        camera = tables.calibration(picture)
        matrix = image_from_lidar_through_world(
            ego_from_lidar=tables.calibration(lidar).ego_from_sensor,
            world_from_ego_at_scan=tables.world_from_ego(lidar),
            world_from_ego_at_image=tables.world_from_ego(picture),
            ego_from_camera=camera.ego_from_sensor,
            intrinsics=np.array(camera.intrinsics).reshape(3, 3),
        )
        return tuple(float(number) for number in matrix.ravel())

    def _existing(self, role: str, scene: str, file: Path | None) -> Path | None:
        """The file if it exists; else that is noted."""
        self.missing.count(role)
        if file is not None and file.name in self._listed(file.parent):
            return file
        if file is not None and file.parent in self.closed:
            return None
        self.missing.add(role, scene, file)
        return None

    def _listed(self, folder: Path) -> frozenset[str]:
        # Names only, once per folder: 240,000 questions one by one take minutes on a network disk.
        if folder not in self._names:
            names: Sequence[str] = ()
            try:
                names = _names(folder)
            except ProblemError as error:
                self.closed[folder] = error.problem
            self._names[folder] = frozenset(names)
        return self._names[folder]


def _names(folder: Path) -> Sequence[str]:
    """What lies in a folder; nothing where there is no such folder.

    Raises:
        ProblemError: it may not be read, or the disk fails.
    """
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return ()
        raise ProblemError.of(
            file=folder,
            found=(error.strerror or str(error)).lower(),
            expected="a readable folder",
            remedy="Change its permissions, or check the disk.",
        ) from error


def _list(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> SourceListing:
    return list_nuscenes(
        root,
        table=table,
        version=wanted.version,
        splits=wanted.splits,
        scenes=wanted.sequences,
        limit=wanted.limit,
        stored_hw=wanted.stored_hw,
        sweeps=wanted.sweeps,
        progress=progress,
    )


def _locate(root: Path, table: DatasetTable) -> Path | None:
    return locate_tables(root)


LAYOUTS = (
    RawLayout(
        name="nuscenes",
        sign="v1.0-*/scene.json",
        locate=_locate,
        list_scans=_list,
        examine=_examine,
        has_versions=True,
    ),
)
