"""What a prepared data set contains: its description and the arrays of a scan.

Shapes follow the cache (`docs/format.md`): structure of arrays, one contiguous block per field, so
that a decoded chunk is the array and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.raw_order import RawOrder
from pass2d.common.plain import OMITTED_IF_NONE
from pass2d.common.thinning import ThinnedScan

FORMAT_VERSION = 1
SCALES = (1, 2, 4, 8, 16)
"""Voxel scales that the cache stores; networks use 1 and a list from these."""


UNKNOWN_LABEL = 255
"""In place of a training id, for a raw id that the label table lacks."""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The volume and its finest voxel grid. Cells: docs/maths.md, section 3."""

    low: tuple[float, float, float]
    """x, y, z in metres; a point is kept when it is strictly above."""
    high: tuple[float, float, float]
    """x, y, z in metres; strictly below."""
    shape: tuple[int, int, int]
    """Cells along x, y, z at scale 1, e.g. (1000, 1000, 60)."""


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """Raw ids of a data set's files, training ids, names and colours."""

    raw_to_training: dict[int, int]
    """Every raw id that may occur; 0 is the ignored training id."""
    training_to_raw: tuple[int, ...]
    """(C,) the raw id to write for each training id."""
    names: tuple[str, ...]
    """(C,) names of the training ids; [0] is the ignored one."""
    colors_rgb: tuple[tuple[int, int, int], ...]
    """(C,) 0..255."""

    @property
    def n_classes(self) -> int:
        """C, the ignored class included."""
        return len(self.names)

    def training_lookup(self) -> NDArray[np.uint8]:
        """(65536,) training id of each raw id; ``UNKNOWN_LABEL`` where the table has none."""
        lookup = np.full(1 << 16, UNKNOWN_LABEL, np.uint8)
        lookup[list(self.raw_to_training)] = list(self.raw_to_training.values())
        return lookup


@dataclass(frozen=True, kw_only=True)
class CorruptionInfo:
    """The corruption of a data set's scans."""

    collection: str
    """"pass2d-C": made by pass2d, not one of the published sets."""
    name: str
    """E.g. "fog"; see `pass2d/corruptions/`."""
    severity: str
    """"light", "moderate" or "heavy"."""
    clean: str
    """Name of the data set without it, beside it in the cache."""
    noise_label: int
    """Published raw id of added points, which are stored as ignored; 0: none are added."""


@dataclass(frozen=True, kw_only=True)
class MovingClass:
    """A class of moving objects, which only tasks on several scans distinguish from static ones.

    Its training id follows those of the label table, in the order of ``DatasetFacts.moving``.
    """

    name: str
    """E.g. "moving-car"."""
    static: int
    """Training id of the static class, which includes both if motion does not matter."""
    raw_ids: tuple[int, ...]
    """Raw ids of the label files."""
    raw: int
    """The raw id that is written for a prediction."""
    color_rgb: tuple[int, int, int]
    """0..255."""


@dataclass(frozen=True, kw_only=True)
class LidarFacts:
    """What corruptions must know about a lidar and its classes."""

    beams: int
    """Number of beams."""
    fov_deg: tuple[float, float]
    """Elevation of the lowest and of the highest beam, in degrees."""
    vehicles: tuple[int, ...] = ()
    """Training ids of vehicles."""
    sealed_ground: tuple[int, ...] = ()
    """Training ids of ground that a film of water can cover."""

    def __post_init__(self) -> None:
        if not 1 <= self.beams <= 1024:
            raise ValueError(f"beams {self.beams!s:.20}: expected 1 to 1024")
        if not -90 <= self.fov_deg[0] < self.fov_deg[1] <= 90:
            raise ValueError(f"fov_deg {self.fov_deg!s:.60}: expected two different angles")


@dataclass(frozen=True, kw_only=True)
class RawFormat:
    """How the files of a scan are read, as given by a description; see `docs/your_data.md`."""

    suffix: str = ".bin"
    """Of the point files, in lower case and without ``.gz``."""
    columns: int = 4
    """Numbers per point of a ``.bin`` file."""
    dtype: str = "float32"
    """Of those numbers, a key of `cache.clouds.columns.DTYPES`."""
    roles: dict[str, str] = field(default_factory=dict)
    """"x", "y", "z", "signal" to the name of a column, or its place from 0; else usual names."""
    unit_m: float = 1.0
    """Metres per unit of the coordinates."""
    signal_scale: float = 1.0
    """Factor on the signal."""
    z_offset: float = 0.0
    """Metres added to z, after the rotation."""
    rotation: tuple[tuple[float, float, float], ...] | None = None
    """(3, 3) lidar_from_file; None: none."""
    label_dtype: str = "<u4"
    """NumPy type of label files that do not state it themselves."""
    label_column: str = ""
    """Name or place of the label among the columns of the point file; "": labels have a file."""
    label_shift: int = 0
    """Bits below the raw id."""
    label_mask: int | None = None
    """Of the raw id, after the shift; None: all bits."""
    instance_shift: int | None = None
    """Bits below the instance id; None: labels hold none."""
    instance_mask: int | None = None
    """Of the instance id, after its shift; None: all bits."""
    ignores_unnamed: bool = False
    """Whether raw ids that no class names are ignored; else they are an error."""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """How data sets differ, besides labels and volume. Code checks these, never a name."""

    title: str
    """For people: "SemanticKITTI"."""
    label_bytes: int
    """Of one raw label: 4 (raw id in the low 16 bits, instance id in the others) or 1 (raw id)."""
    has_instances: bool
    """Whether the labels, or files beside them (nuScenes' panoptic ones), hold instance ids."""
    forward_axis: str
    """The forward axis of the lidar frame: "x" (y is left) or "y" (x is right)."""
    full_scale: float
    """Largest signal in its files, e.g. 1 or 255."""
    absent_counts_zero: bool
    """Whether `official` counts a class without label and prediction as IoU 0 or leaves it out."""
    forbidden_answers: tuple[int, ...] = ()
    """Training ids that the benchmark does not accept as a prediction."""
    benchmark: str = ""
    """Form of the submission, a name in `train/submission/`; empty where there is no benchmark."""
    pitch_deg: tuple[float, float] = (-25.0, 3.0)
    """The lidar's vertical field of view in degrees, lowest first; mixes divide it into bands."""
    movable: tuple[int, ...] = ()
    """Training ids of movable classes, which mixes paste."""
    pasted: tuple[int, ...] = ()
    """Training ids of scarce classes, which instance CutMix keeps in its bank."""
    grounds: tuple[int, ...] = ()
    """Training ids of the surfaces on which it places them."""
    moving: tuple[MovingClass, ...] = ()
    """Moving classes, beyond the label table; empty if labels do not tell motion. `cache/motion.py`
    makes the table that includes them."""
    unlabeled_raw: tuple[int, ...] = (0,)
    """Raw ids of which it is unknown whether they move; all others are static or moving."""
    motion_raw: tuple[int, ...] = ()
    """Raw ids that files of moving object segmentation hold for unknown, static, moving."""
    rare: tuple[int, ...] = ()
    """Training ids of classes that are hardly ever static: scores with motion report them
    separately."""
    lidar: LidarFacts | None = field(default=None, metadata=OMITTED_IF_NONE)
    """For corruptions; None: `pass2d/corruptions/` has a table for the layout."""


def _moving(
    name: str, static: int, raw_ids: tuple[int, ...], color: str, **raw: int
) -> MovingClass:
    red, green, blue = bytes.fromhex(color)
    return MovingClass(
        name=f"moving-{name}",
        static=static,
        raw_ids=raw_ids,
        raw=raw.get("raw", raw_ids[0]),
        color_rgb=(red, green, blue),
    )


KNOWN_FACTS = {
    "semantickitti": DatasetFacts(
        title="SemanticKITTI",
        label_bytes=4,
        has_instances=True,
        forward_axis="x",
        full_scale=1.0,
        absent_counts_zero=True,
        benchmark="semantickitti",
        movable=(1, 2, 3, 4, 5, 6, 7, 8),
        pasted=(2, 3, 5, 6, 7),
        grounds=(9, 10, 11),
        moving=(
            _moving("car", 1, (252,), "00ffc8"),
            _moving("bicyclist", 7, (253,), "c8ff00"),
            _moving("person", 6, (254,), "ffb4b4"),
            _moving("motorcyclist", 8, (255,), "ff82dc"),
            _moving("other-vehicle", 5, (256, 257, 259), "8cc8ff", raw=259),
            _moving("truck", 4, (258,), "c878ff"),
        ),
        unlabeled_raw=(0, 1),
        motion_raw=(0, 9, 251),
        rare=(7, 8),
    ),
    "nuscenes": DatasetFacts(
        title="nuScenes",
        label_bytes=1,
        has_instances=False,
        forward_axis="y",
        full_scale=255.0,
        absent_counts_zero=False,
        forbidden_answers=(0,),
        benchmark="nuscenes",
        pitch_deg=(-30.0, 10.0),
        movable=(2, 3, 4, 5, 6, 7, 9, 10),
        pasted=(2, 5, 6, 7, 9),
        grounds=(11, 12, 13),
    ),
}
"""Facts for caches and checkpoints without any, by layout: the two that existed before facts."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """All that training and prediction must know about a data set; stored in `dataset.json`."""

    name: str
    """Folder below the cache root, e.g. "semkitti"."""
    layout: str
    """Layout of its raw files: a name in `pipeline/datasets/`."""
    labels: LabelTable
    grid: GridConfig
    n_cameras: int
    """Cameras per scan in `camera/`: 1 or 6."""
    has_class_weights: bool
    """Whether the published recipe uses class weights (SemanticKITTI yes, nuScenes no)."""
    signal_name: str
    """"remission" (0..1) or "intensity" (0..255)."""
    raw_columns: int
    """float32 columns of a raw point file: 4 or 5."""
    sweeps: int = 0
    """Past lidar sweeps that were added to each scan, at most; their points have no label."""
    corruption: CorruptionInfo | None = field(default=None, metadata=OMITTED_IF_NONE)
    """None: the scans as they were measured."""
    drops_invalid: bool | None = field(default=None, metadata=OMITTED_IF_NONE)
    """True: rows of NaN or infinity were dropped, i.e. moved to
    ``cache.clouds.nowhere.NOWHERE``."""
    has_thinned: bool | None = field(default=None, metadata=OMITTED_IF_NONE)
    """True: thinned points and their neighbours are stored, in the container `thinned`."""
    own_facts: DatasetFacts | None = field(default=None, metadata=OMITTED_IF_NONE)
    """None: the ``KNOWN_FACTS`` of its layout."""
    raw_format: RawFormat | None = field(default=None, metadata=OMITTED_IF_NONE)
    """How raw files are read; None: as the layout has them."""
    description: dict[str, object] | None = field(default=None, metadata=OMITTED_IF_NONE)
    """The user's description of the data set, as TOML values; None for built-in data sets."""

    @property
    def facts(self) -> DatasetFacts:
        """The facts by which the data set differs from others."""
        return KNOWN_FACTS[self.layout] if self.own_facts is None else self.own_facts


@dataclass(frozen=True, kw_only=True)
class CameraView:
    """One picture and the scan's points visible in it."""

    image: NDArray[np.uint8] | None
    """(H, W, 3) RGB; None when not asked for. A crop has its own, smaller W."""
    point_index: NDArray[np.int32]
    """(M,) rows among the kept points, ascending."""
    pixel_rc: NDArray[np.uint16]
    """(2, M) row and column in the stored picture."""
    taken_hw: tuple[int, int] | None = None
    """Height and width before it was resized; None where it comes from a cache."""


@dataclass(frozen=True, kw_only=True)
class VoxelLevel:
    """The voxel hash of one scan at one scale."""

    scale: int
    coord: NDArray[np.int16]
    """(3, V) x, y, z cell, sorted by (x, y, z)."""
    label: NDArray[np.uint8] | None
    """(V,) majority training id, the smallest in a tie; None for scans without labels."""
    inverse: NDArray[np.int32]
    """(N,) voxel of each kept point."""


@dataclass(frozen=True, kw_only=True)
class ScanRecord:
    """One prepared scan: the points inside the volume, in the raw file's order."""

    scan_id: str
    """Stable and unique in the data set, e.g. "08/000123" or a nuScenes token."""
    n_raw: int
    """Points of the raw file."""
    xyz: NDArray[np.float32]
    """(3, N) metres, lidar frame."""
    signal: NDArray[np.float32]
    """(N,) remission 0..1 (KITTI) or intensity 0..255 (nuScenes)."""
    raw_index: NDArray[np.int32]
    """(N,) row of each kept point in the raw file, increasing."""
    label: NDArray[np.uint8] | None = None
    """(N,) training ids, 0 ignored; None for scans without labels."""
    instance: NDArray[np.uint32] | None = None
    """(N,) instance ids, 0 none; None for scans without labels or when not asked for."""
    time: NDArray[np.float32] | None = None
    """(N,) seconds before the scan at which each point was measured: 0 for the scan's own, which
    alone have labels and pixels; None for data without added sweeps. Where sweeps were added, the
    raw file stands for all points: the scan's own, then those of the sweeps."""
    cameras: tuple[CameraView, ...] = ()
    """One per camera with a picture; empty without, or when not asked for."""
    voxels: tuple[VoxelLevel, ...] = ()
    """In the order of SCALES; empty when not asked for."""
    outside_xyz: NDArray[np.float32] | None = None
    """(3, O) metres: the raw file's other points, those that are not strictly inside the volume, in
    the raw file's order (the rows that `raw_index` lacks); None when not asked for."""
    outside_signal: NDArray[np.float32] | None = None
    """(O,) as `signal`."""
    outside_label: NDArray[np.uint8] | None = None
    """(O,) training ids; None for scans without labels."""
    outside_time: NDArray[np.float32] | None = None
    """(O,) as `time`."""
    motion: NDArray[np.uint8] | None = None
    """(N,) ``cache.motion.Motion`` of each point; None for scans without labels, for data whose
    labels say nothing of motion, or when not asked for."""
    outside_motion: NDArray[np.uint8] | None = None
    """(O,) as `motion`."""
    thinned: ThinnedScan | None = None
    """Of the raw file's points, outside the volume too, by `fields.STORED_THINNING`; None when not
    prepared or not asked for. Its rows are those of the raw file; rows without a measured point are
    not thinned, and their nearest thinned point is given as 0."""
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Per-point fields of the table (`fields.py`) without an attribute here, by name: (N,) or
    (rows, N)."""

    @property
    def n(self) -> int:
        """N, the kept points."""
        return len(self.raw_index)

    def raw_order(self) -> RawOrder:
        """Where in the raw file the points lie, those outside included."""
        return RawOrder.of(self.raw_index, self.n_raw)

    def raw(self) -> RawScan:
        """Put the scan back together as in its raw file; it must hold the points outside."""
        assert self.outside_xyz is not None
        assert self.outside_signal is not None
        order, n_own = self.raw_order(), self.n_raw
        channels = [
            *order.laid(self.xyz, self.outside_xyz),
            order.laid(self.signal, self.outside_signal),
        ]
        if self.time is not None and self.outside_time is not None:
            channels.append(order.laid(self.time, self.outside_time))
            n_own = int(np.count_nonzero(channels[-1] == 0))
        motion = self.motion
        return RawScan(
            points=np.stack(channels, axis=1),
            label=None if self.label is None else order.laid(self.label, self.outside_label),
            motion=None if motion is None else order.laid(motion, self.outside_motion),
            n_own=n_own,
        )


@dataclass(frozen=True, kw_only=True)
class RawScan:
    """All points of a prepared scan, in the order of its raw file."""

    points: NDArray[np.float32]
    """(n_raw, 4) x, y, z in metres and signal; (n_raw, 5) with the time, for added sweeps."""
    label: NDArray[np.uint8] | None
    """(n_raw,) training ids; None for scans without labels."""
    motion: NDArray[np.uint8] | None
    """(n_raw,) ``cache.motion.Motion``; None where the scan has none, or it was not read."""
    n_own: int
    """Points of the scan's own file, which come first; those of added sweeps follow."""
