"""The interface of a reader for a layout of raw files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.schema import DatasetInfo
from pass2d.cache.statistics import SPLITS
from pass2d.common.progress import Progress
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.source import ScanSource, SourceListing


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The requested scans of a raw data set. Readers ignore options that do not apply."""

    splits: Sequence[str] = SPLITS
    """Any of "train", "val", "test"."""
    sequences: Sequence[str] | None = None
    """Only these; all that exist when None."""
    limit: int | None = None
    """At most this many scans in all: the first ones of each split, in equal shares."""
    version: str | None = None
    """Of a root that holds several."""
    stored_hw: tuple[int, int] | None = None
    """Height and width that pictures are resized to; None keeps them as taken."""
    sweeps: int = 0
    """Past lidar sweeps to add to each scan."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A raw data set as seen from its tables and file names."""

    info: DatasetInfo
    scans: tuple[ScanSource, ...]
    problems: tuple[Problem, ...]
    """What is missing, damaged or inconsistent, and what is unusual but legal (notes)."""


def listing_problems(
    root: Path, table: DatasetTable, listing: SourceListing
) -> tuple[Problem, ...]:
    """The problems of a listing, for readers without further checks."""
    notes = [
        Problem(
            file=root,
            found=note,
            expected=f"the whole of {table.info.facts.title}",
            remedy="Allowed; what is there is prepared.",
            severity="note",
        )
        for note in listing.notes
    ]
    failed = [
        Problem(
            file=root,
            found=f"{part.scan_id}: {part.reason}",
            expected="all parts of the scan",
            remedy="`prepare` leaves it out.",
        )
        for part in listing.failed
    ]
    warned = [warning.first for warning in listing.warned]
    return (*failed, *warned, *notes)


ListScans = Callable[[Path, DatasetTable, Wanted, Progress], SourceListing]
"""Root, table: the scans that are wanted. An optional file that is missing is a note, no error."""
ExamineScans = Callable[[Path, DatasetTable, Wanted, Progress], Examined]
"""The same for `--check`, with every problem that names and tables show."""


def _no_part(folder: Path) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class RawLayout:
    """One reader file."""

    name: str
    """The ``layout`` of the TOML files that use it."""
    sign: str
    """What a root holds, for messages: "sequences/NN/velodyne"."""
    locate: Callable[[Path, DatasetTable], Path | None]
    """The actual data folder of a root (links resolved); None if it is not a root."""
    list_scans: ListScans
    examine: ExamineScans | None = None
    """None: the notes and failed parts of `list_scans` are all that there is to say."""
    is_part: Callable[[Path], bool] = _no_part
    """Whether a folder is a part of a data set that `list_part` takes, e.g. one sequence."""
    list_part: ListScans | None = None
    """As `list_scans`, of such a folder."""
    has_versions: bool = False
    """Whether a root may hold several versions."""
