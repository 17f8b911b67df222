"""A description of a folder: its settings, and how they are read. See docs/your_data.md.

A description is TOML, or the YAML of semantic-kitti-api. `like` starts from another one: a preset,
a built-in data set or a file; tables are merged key by key, lists replaced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pass2d.cache.clouds.columns import DTYPES
from pass2d.cache.layout import DATASET
from pass2d.cache.schema import LidarFacts
from pass2d.common.errors import ConfigError
from pass2d.common.path_pattern import placeholders, without_words
from pass2d.common.plain import from_plain
from pass2d.common.text import unknown
from pass2d.points.mapping import ROLES, parse_rotation, parse_unit

MOST_CLASSES = 254
"""Training ids are one byte; 0 is ignored, and 255 stands for raw ids that are unknown."""
_SHORT_DTYPES = {"f4": "float32", "f8": "float64", ">f4": "float32be", ">f8": "float64be"}
Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """`[dataset]`."""

    name: str
    """Folder below the cache."""
    title: str = ""
    """For people; the name when empty."""
    class_weights: bool = True
    """Whether recipes use class weights."""
    absent_classes: Literal["zero", "left-out"] = "left-out"
    """`eval`: a class without label and prediction has IoU 0, or is left out of the mean."""

    def __post_init__(self) -> None:
        if DATASET.fullmatch(self.name) is None:
            raise ValueError(f"name {self.name[:40]!r}: expected letters, digits, '-' and '_'")


@dataclass(frozen=True, kw_only=True)
class SignalPart:
    """`signal` of `[points]`."""

    name: str = "remission"
    """Its name: remission, intensity."""
    scale: float = 1.0
    """Factor on the file's numbers."""
    full: float = 1.0
    """Largest value after it: 1 or 255, say."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.scale, self.full)):
            raise ValueError("scale and full must be numbers above 0")


@dataclass(frozen=True, kw_only=True)
class PointsPart:
    """`[points]`."""

    files: str
    """Pattern below the root; {scan} names the scan, {sequence} its sequence."""
    columns: tuple[str, ...] = ("x", "y", "z", "signal")
    """The columns of a `.bin` point: x, y, z, signal, and any other names."""
    dtype: str = "float32"
    """Of those numbers: f4, f8, >f4, >f8."""
    map: dict[str, str] = field(default_factory=dict)
    """x, y, z, signal to the file's name of a column, for files that name them."""
    unit: object = "m"
    """m, cm, mm, ft, or metres per unit."""
    rotate: str = ""
    """"yaw,pitch,roll" in degrees or a quaternion "w,x,y,z": lidar frame from the file's."""
    z_offset: float = 0.0
    """Metres added to z after the rotation."""
    ahead: Literal["x", "y"] = "x"
    """The forward axis of the lidar frame, after the rotation."""
    signal: SignalPart = field(default_factory=SignalPart)

    def __post_init__(self) -> None:
        require_pattern(self.files, needs="scan")
        if self.binary_dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(_SHORT_DTYPES)}")
        lost = [role for role in ROLES[:3] if role not in self.columns]
        if lost or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"columns {list(self.columns)}: expected x, y, z and others, each once"
            )
        if wrong := [role for role in self.map if role not in ROLES]:
            raise ValueError(f"map: {unknown(wrong[0], ROLES, what='role')}")
        try:
            self.unit_m()
            self.rotation()
        except ConfigError as error:
            raise ValueError(str(error).replace("`", "")) from error
        if not math.isfinite(self.z_offset):
            raise ValueError("z_offset must be a finite number of metres")

    @property
    def binary_dtype(self) -> str:
        """As `cache.clouds.columns.DTYPES` calls it."""
        return _SHORT_DTYPES.get(self.dtype.removeprefix("<"), self.dtype)

    def unit_m(self) -> float:
        """Metres per unit."""
        return parse_unit(str(self.unit))

    def rotation(self) -> tuple[tuple[float, float, float], ...] | None:
        """(3, 3) lidar_from_file."""
        rows = parse_rotation(self.rotate or None)
        return None if rows is None else tuple((r[0], r[1], r[2]) for r in rows)


@dataclass(frozen=True, kw_only=True)
class InstancePart:
    """`instance` of `[labels]`."""

    shift: int
    """Bits below the instance id."""
    mask: int | None = None
    """Of the id, after the shift."""

    def __post_init__(self) -> None:
        _require_bits(self.shift, self.mask)


@dataclass(frozen=True, kw_only=True)
class LabelsPart:
    """`[labels]`."""

    files: str = ""
    """Pattern below the root: .label or .bin (numbers alone), .npy, .npz."""
    otherwise: str = ""
    """Pattern for sequences in which ``files`` has none at all."""
    column: str = ""
    """Instead: a column of the point file."""
    dtype: str = "u4"
    """NumPy type of .label and .bin files: u1, u2, u4, i4, i8, ... (">u2": big endian)."""
    shift: int = 0
    """Bits below the raw id."""
    mask: int | None = None
    """Of the raw id, after the shift; by default all bits, or those below the instance id."""
    instance: InstancePart | None = None
    unnamed: Literal["error", "ignore"] = "error"
    """Raw ids that no class names."""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.column):
            raise ValueError("give either files, a pattern, or column, one of the point file's")
        for pattern in filter(None, (self.files, self.otherwise)):
            require_pattern(pattern, needs="scan")
        if self.otherwise and not self.files:
            raise ValueError("otherwise needs files, which it stands in for")
        try:
            kind = np.dtype(self.dtype)
        except TypeError as error:
            raise ValueError(f"dtype {self.dtype!r}: expected a NumPy type such as u4") from error
        if kind.kind not in "iuf" or kind.itemsize > 8:
            raise ValueError(f"dtype {self.dtype!r}: expected whole numbers such as u1, u2, u4, i8")
        _require_bits(self.shift, self.mask)


@dataclass(frozen=True, kw_only=True)
class ClassPart:
    """A `[[class]]`; its place in the list, from 1, is its training id."""

    name: str
    raw: tuple[int, ...]
    """Raw ids of the files."""
    color: str = ""
    """#rrggbb; one of a wheel when empty."""
    write: int | None = None
    """The raw id that predictions have; the first of ``raw`` by default."""
    thing: bool = False
    """Whether its objects are countable and movable; mixes paste such objects."""
    vehicle: bool = False
    """For the corruption incomplete_echo."""
    sealed: bool = False
    """Asphalt or concrete: for the corruption wet_ground."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name is empty")
        if not self.raw:
            raise ValueError(f"class {self.name!r}: raw is empty; name its raw ids")
        _require_ids((*self.raw, *(() if self.write is None else (self.write,))))
        _require_color(self.color)


@dataclass(frozen=True, kw_only=True)
class IgnoredPart:
    """`[ignored]`: training id 0, of no class."""

    name: str = "unlabeled"
    raw: tuple[int, ...] = ()
    """Raw ids that are ignored."""
    color: str = "#000000"
    write: int | None = None
    """The raw id that predictions have; the first of ``raw``, or 0."""

    def __post_init__(self) -> None:
        _require_ids((*self.raw, *(() if self.write is None else (self.write,))))
        _require_color(self.color)


@dataclass(frozen=True, kw_only=True)
class SplitPart:
    """`train`, `val` or `test` of `[splits]`; one of these."""

    sequences: tuple[str, ...] = ()
    list: str = ""
    """A file below the root, one scan a line: the path of its points, or SEQUENCE/SCAN."""
    glob: str = ""
    """Of the path of the points below the root, or of SEQUENCE/SCAN."""
    share: float = 0.0
    """Of each sequence's scans; the splits take theirs one after the other."""
    folders: tuple[str, ...] = ()
    """Values of {split} in the pattern of the points."""

    def __post_init__(self) -> None:
        given = [n for n in ("sequences", "list", "glob", "share", "folders") if getattr(self, n)]
        if len(given) != 1:
            raise ValueError("give one of sequences, list, glob, share, folders")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share}: expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SplitsPart:
    """`[splits]`."""

    train: SplitPart | None = None
    val: SplitPart | None = None
    test: SplitPart | None = None

    def __post_init__(self) -> None:
        shares = [part.share for part in (self.train, self.val, self.test) if part is not None]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares):g}, expected at most 1")


@dataclass(frozen=True, kw_only=True)
class VolumePart:
    """`[volume]`."""

    low: tuple[float, float, float] = (-50.0, -50.0, -4.0)
    high: tuple[float, float, float] = (50.0, 50.0, 2.0)
    """x, y, z in metres."""
    cells: tuple[int, int, int] = (1000, 1000, 60)
    """Along x, y, z at the finest scale."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.low, *self.high))) or any(
            high <= low for low, high in zip(self.low, self.high, strict=True)
        ):
            raise ValueError("high must be above low on every axis")
        if not all(0 < cells < 1 << 15 for cells in self.cells):
            raise ValueError(
                f"cells {list(self.cells)}: expected 1 to {(1 << 15) - 1} on each axis"
            )


@dataclass(frozen=True, kw_only=True)
class SensorPart:
    """`[sensor]`."""

    beams: int = 64
    fov_deg: tuple[float, float] = (3.0, -25.0)
    """Highest and lowest elevation, in either order."""

    def __post_init__(self) -> None:
        self.facts()

    def facts(self) -> LidarFacts:
        """The same, without classes."""
        low, high = sorted(self.fov_deg)
        return LidarFacts(beams=self.beams, fov_deg=(low, high))


@dataclass(frozen=True, kw_only=True)
class CalibPart:
    """`calib` of a `[[camera]]`."""

    kind: Literal["kitti", "kitti-raw", "inline", "json"]
    file: str = ""
    """Pattern below the root, with the words of the points' pattern."""
    matrix: str = ""
    """kitti: the 3x4 projection (P2). kitti-raw: P_rect_02. json: key of the 3x3 intrinsics."""
    extrinsic: str = ""
    """kitti: 3x4 camera from lidar (Tr). json: key of that matrix, 3x4 or 4x4."""
    lidar_file: str = ""
    """kitti-raw: the file calib_velo_to_cam.txt."""
    K: tuple[Numbers, ...] = ()
    """inline: 3x3 intrinsics."""
    T: tuple[Numbers, ...] = ()
    """inline: 3x4 or 4x4."""
    T_is: Literal["camera_from_lidar", "lidar_from_camera"] = "camera_from_lidar"
    """The direction of T, or of the extrinsic of a JSON file."""

    def __post_init__(self) -> None:
        if self.kind == "inline":
            if len(self.K) != 3 or any(len(row) != 3 for row in self.K):
                raise ValueError("K: expected 3 rows of 3 numbers")
            if len(self.T) not in (3, 4) or any(len(row) != 4 for row in self.T):
                raise ValueError("T: expected 3 or 4 rows of 4 numbers")
        elif not self.file:
            raise ValueError(f"kind {self.kind!r} needs file")
        if self.kind == "json" and not (self.matrix and self.extrinsic):
            raise ValueError("kind 'json' needs matrix and extrinsic: the keys, e.g. 'cam0.K'")
        if self.kind == "kitti-raw" and not self.lidar_file:
            raise ValueError("kind 'kitti-raw' needs lidar_file, calib_velo_to_cam.txt")


@dataclass(frozen=True, kw_only=True)
class CameraPart:
    """A `[[camera]]`; pictures must be free of distortion."""

    files: str
    calib: CalibPart
    name: str = ""

    def __post_init__(self) -> None:
        require_pattern(self.files)


@dataclass(frozen=True, kw_only=True)
class PosesPart:
    """`[poses]`: where the sensor was; for `sweeps` and for stacks of scans."""

    file: str
    """Pattern below the root: a line of 12 numbers (3x4) per scan, as KITTI has it."""
    frame: Literal["camera", "lidar"] = "lidar"
    """Of which sensor; camera: the first `[[camera]]`."""
    hz: float = 10.0
    """Scans a second."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.hz) and self.hz > 0):
            raise ValueError(f"hz {self.hz}: expected scans a second")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A whole description."""

    dataset: DatasetPart
    points: PointsPart
    labels: LabelsPart | None = None
    classes: tuple[ClassPart, ...] = ()
    ignored: IgnoredPart = field(default_factory=IgnoredPart)
    splits: SplitsPart = field(default_factory=SplitsPart)
    volume: VolumePart = field(default_factory=VolumePart)
    sensor: SensorPart = field(default_factory=SensorPart)
    cameras: tuple[CameraPart, ...] = ()
    poses: PosesPart | None = None
    plain: dict[str, object] = field(default_factory=dict)
    """As TOML has it, with what `like` brought: a cache keeps it."""


_TABLES = ("dataset", "points", "labels", "ignored", "splits", "volume", "sensor", "poses")
_LISTS = {"class": "classes", "camera": "cameras"}


def description_of(plain: Mapping[str, Any], *, where: str) -> Description:
    """Read a description from plain data, `like` resolved before.

    Args:
        plain: what TOML gives.
        where: the file, for messages.

    Raises:
        ConfigError: names the file, the key and what is wrong; proposes the nearest key.
    """
    for key in plain:
        if key not in (*_TABLES, *_LISTS):
            known = [*(f"[{name}]" for name in _TABLES), *(f"[[{name}]]" for name in _LISTS)]
            raise ConfigError(f"{where}: {unknown(f'[{key}]', known, what='table')}")
    parts: dict[str, Any] = {}
    kinds = {
        "dataset": DatasetPart,
        "points": PointsPart,
        "labels": LabelsPart,
        "ignored": IgnoredPart,
        "splits": SplitsPart,
        "volume": VolumePart,
        "sensor": SensorPart,
        "poses": PosesPart,
    }
    for name, kind in kinds.items():
        if name in plain:
            parts[name] = from_plain(kind, plain[name], where=f"{where}: [{name}]")
        elif name in ("dataset", "points"):
            raise ConfigError(f"{where}: table [{name}] is missing; see `describe_template`.")
    for name, part in _LISTS.items():
        entries, item = plain.get(name, []), (ClassPart if name == "class" else CameraPart)
        if not isinstance(entries, list):
            raise ConfigError(f"{where}: [[{name}]]: expected a list of tables; write [[{name}]]")
        parts[part] = tuple(
            from_plain(item, entry, where=f"{where}: [[{name}]] {place}{_named(entry)}")
            for place, entry in enumerate(entries, start=1)
        )
    found = Description(**parts, plain=dict(plain))
    _check(found, where)
    return found


def _named(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return f" ({name[:40]})" if isinstance(name, str) else ""


def _check(found: Description, where: str) -> None:
    """Check that the parts are consistent."""
    names = [found.ignored.name, *(one.name for one in found.classes)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where}: two classes are called {twice[0]!r}. Rename one.")
    if len(found.classes) > MOST_CLASSES:
        raise ConfigError(
            f"{where}: {len(found.classes)} classes; at most {MOST_CLASSES} are possible."
        )
    if found.labels is not None and not found.classes:
        raise ConfigError(
            f"{where}: [labels] but no [[class]]: say what the raw ids mean, or leave [labels] out."
        )
    owner: dict[int, str] = {}
    for name, raw_ids in (
        (found.ignored.name, found.ignored.raw),
        *((one.name, one.raw) for one in found.classes),
    ):
        for raw_id in dict.fromkeys(raw_ids):
            other = owner.setdefault(raw_id & 0xFFFF, name)
            if other != name:
                raise ConfigError(f"{where}: raw id {raw_id} is both {other!r} and {name!r}.")
    for one in found.classes:
        if one.write is not None and owner.get(one.write & 0xFFFF) != one.name:
            raise ConfigError(
                f"{where}: class {one.name!r}: write = {one.write} is not one of its raw ids "
                f"{list(one.raw)}. Add it to raw."
            )
    if found.ignored.write is not None and (
        owner.get(found.ignored.write & 0xFFFF, found.ignored.name) != found.ignored.name
    ):
        raise ConfigError(
            f"{where}: [ignored]: write = {found.ignored.write} is the raw id of class "
            f"{owner[found.ignored.write & 0xFFFF]!r}. Choose another."
        )
    _check_patterns(found, where)


def _check_patterns(found: Description, where: str) -> None:
    known = placeholders(found.points.files)
    for name, pattern in (
        ("[labels] files", "" if found.labels is None else found.labels.files),
        ("[labels] otherwise", "" if found.labels is None else found.labels.otherwise),
        *(("[[camera]] files", camera.files) for camera in found.cameras),
        *(("[[camera]] calib.file", camera.calib.file) for camera in found.cameras),
        *(("[[camera]] calib.lidar_file", camera.calib.lidar_file) for camera in found.cameras),
        ("[poses] file", "" if found.poses is None else found.poses.file),
    ):
        for word in placeholders(pattern):
            if word not in known:
                raise ConfigError(
                    f"{where}: {name} {pattern!r}: {{{word}}} is not a word of [points] files "
                    f"{found.points.files!r}, which has "
                    f"{', '.join(f'{{{one}}}' for one in known)}."
                )
    parts = [found.splits.train, found.splits.val, found.splits.test]
    has_split = "split" in known
    if any(part is not None and part.folders for part in parts) and not has_split:
        raise ConfigError(
            f"{where}: [splits] folders need {{split}} in [points] files {found.points.files!r}."
        )
    if not any(parts) and not has_split:
        raise ConfigError(
            f"{where}: [splits] is missing: say which scans are train, val and test, e.g. "
            "train = { share = 0.8 } and val = { share = 0.2 }."
        )
    for camera in found.cameras:
        if "scan" not in placeholders(camera.files):
            raise ConfigError(f"{where}: [[camera]] files {camera.files!r} lacks {{scan}}.")
    if found.poses is not None and found.poses.frame == "camera" and not found.cameras:
        raise ConfigError(
            f'{where}: [poses] frame = "camera" needs a [[camera]], whose calibration leads to '
            "the lidar."
        )


def require_pattern(pattern: str, *, needs: str = "") -> None:
    """Refuse what is not a pattern of paths below the root.

    Raises:
        ValueError: says what is wrong.
    """
    words = placeholders(pattern)
    if any(re.fullmatch("[a-z_]+", word) is None for word in words):
        raise ValueError(f"{pattern!r}: words in braces are lower-case letters, e.g. {{sequence}}")
    if set(without_words(pattern)) & set("{}"):
        raise ValueError(f"{pattern!r}: braces do not match")
    if needs and needs not in words:
        raise ValueError(f"{pattern!r} lacks {{{needs}}}")
    parts = pattern.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{pattern!r}: expected a path below the root, without '..' and '//'")


def _require_bits(shift: int, mask: int | None) -> None:
    if not 0 <= shift < 64:
        raise ValueError(f"shift {shift}: expected 0 to 63")
    if mask is not None and not 0 < mask < 1 << 63:
        raise ValueError(f"mask {mask}: expected a number above 0")


def _require_ids(ids: tuple[int, ...]) -> None:
    for raw_id in ids:
        if not -(1 << 15) <= raw_id < 1 << 16:
            raise ValueError(f"raw id {raw_id}: expected -32768 to 65535; see shift and mask")


def _require_color(color: str) -> None:
    if color and re.fullmatch("#[0-9a-fA-F]{6}", color) is None:
        raise ValueError(f"color {color[:20]!r}: expected #rrggbb, e.g. #ff1e1e")
