"""The data sets that pass2d knows: each is a TOML file here, read by the reader of its layout.

A data set is added by its TOML file; one in a new layout by a reader file and a line in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress, Silent
from pass2d.pipeline.datasets.check import check_examined
from pass2d.pipeline.datasets.layout import Examined, RawLayout, Wanted, listing_problems
from pass2d.pipeline.datasets.roots import FoundRoot, find_root
from pass2d.pipeline.datasets.table import DatasetTable, load_table, name_and_layout
from pass2d.pipeline.datasets.tally import Tally
from pass2d.pipeline.datasets.words import table_files
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.source import SourceListing

if TYPE_CHECKING:
    from pass2d.pipeline.datasets.described.description import Description

LAYOUTS = {
    "semantickitti": "semkitti",
    "nuscenes": "nuscenes",
    "waymo": "waymo",
    "pandaset": "pandaset",
    "pandaset_gt": "pandaset",
}
"""Layout -> the reader file that has it in its `LAYOUTS`, imported when a data set asks for it."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: its table, and the reader of its layout."""

    table: DatasetTable
    layout: RawLayout

    def find(self) -> FoundRoot:
        """Find its root if the user does not give it.

        Raises:
            ConfigError: as `find_root`.
        """

        def locate(root: Path) -> Path | None:
            return self.layout.locate(root, self.table)

        return find_root(self.table, locate, sign=self.layout.sign)

    def is_at(self, root: Path) -> bool:
        """Whether a folder is a root of this layout."""
        return self.layout.locate(root, self.table) is not None

    def list_scans(
        self, root: Path, wanted: Wanted | None = None, *, progress: Progress | None = None
    ) -> SourceListing:
        """List its scans.

        Raises:
            DataError: a wrong folder, a missing part that was requested, or no scans.
        """
        return self.layout.list_scans(root, self.table, wanted or Wanted(), progress or Silent())

    def check(
        self,
        root: Path,
        wanted: Wanted | None = None,
        *,
        drop_invalid: bool = False,
        png: Path | None = None,
        progress: Progress,
        tally: Tally | None = None,
    ) -> list[Problem]:
        """Check every file; writes nothing except pictures, on request.

        Args:
            root: as for `list_scans`.
            wanted: as for `list_scans`.
            drop_invalid: whether points of NaN are to be dropped, and so are no fault.
            png: folder of one picture per sequence and camera, with the points on it; None: none.
            progress: scans read and their bytes.
            tally: counts what is in each split; its problems come last.

        Returns:
            Every missing, damaged or inconsistent file; first those seen by name, then scan by
            scan.

        Raises:
            DataError: as `list_scans`, where not one scan can be looked at.
        """
        examine = self.layout.examine or self._examine
        seen = examine(root, self.table, wanted or Wanted(), progress)
        info = replace(seen.info, drops_invalid=drop_invalid or None)
        cameras = self.table.cameras
        problems = check_examined(
            replace(seen, info=info), png=png, cameras=cameras, progress=progress, tally=tally
        )
        return problems if tally is None else [*problems, *tally.problems(info, root)]

    def _examine(
        self, root: Path, table: DatasetTable, wanted: Wanted, progress: Progress
    ) -> Examined:
        listing = self.layout.list_scans(root, table, wanted, progress)
        problems = listing_problems(root, table, listing)
        return Examined(info=listing.info, scans=listing.scans, problems=problems)


def described(description: Description) -> Dataset:
    """The data set that a person described."""
    from pass2d.pipeline.datasets.described.facts import table_of
    from pass2d.pipeline.datasets.described.listing import layout_of

    return Dataset(table=table_of(description), layout=layout_of(description))


class Datasets(Mapping[str, Dataset]):
    """Data sets by name, in the order in which a raw folder is tried.

    Args:
        files: their TOML files; each is read in full when its data set is asked for.
        layouts: the readers that are not in `LAYOUTS`.
    """

    def __init__(self, files: tuple[Path, ...], layouts: tuple[RawLayout, ...] = ()) -> None:
        self._files, self._layouts = files, {layout.name: layout for layout in layouts}
        self._named: dict[str, Path] = {}
        self._layout_of: dict[str, str] = {}
        self._loaded: dict[str, Dataset] = {}
        known = [*LAYOUTS, *self._layouts]
        for file in files:
            name, layout = name_and_layout(file)
            if layout not in known:
                raise ConfigError(f"{file}: layout {layout!r}: expected one of {', '.join(known)}")
            if name in self._named:
                raise ConfigError(f"{file}: there is a data set {name!r} already")
            self._named[name], self._layout_of[name] = file, layout

    def __getitem__(self, name: str) -> Dataset:
        if name not in self._loaded:
            table = load_table(self._named[name])
            self._loaded[name] = Dataset(table=table, layout=self._layout(table.info.layout))
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def _layout(self, name: str) -> RawLayout:
        if name in self._layouts:
            return self._layouts[name]
        reader = import_module(f"pass2d.pipeline.datasets.{LAYOUTS[name]}")
        return next(layout for layout in reader.LAYOUTS if layout.name == name)

    def extended(self, file: Path, *layouts: RawLayout) -> Datasets:
        """These and one more.

        Args:
            file: its TOML.
            layouts: the reader of its layout, if that is a new one.

        Raises:
            ConfigError: as `load_table`, or its name is taken.
        """
        more = Datasets((*self._files, file), (*self._layouts.values(), *layouts))
        more[name_and_layout(file)[0]]  # now, so that what is wrong with it is said
        return more

    @property
    def files(self) -> tuple[Path, ...]:
        """The TOML files."""
        return self._files

    @property
    def default(self) -> Dataset:
        """The default data set."""
        return next(iter(self.values()))

    def infos(self) -> tuple[DatasetInfo, ...]:
        """Label table, grid and facts of every data set."""
        return tuple(dataset.table.info for dataset in self.values())

    def of(self, info: DatasetInfo) -> Dataset:
        """The data set that a cache was prepared from; else one of the same layout.

        Raises:
            ConfigError: no reader for its layout.
        """
        if info.description is not None:
            from pass2d.pipeline.datasets.described.description import description_of

            return described(description_of(info.description, where=f"data set {info.name}"))
        name = info.name if info.corruption is None else info.corruption.clean
        for known in (name, *self):
            if self._layout_of.get(known) == info.layout:
                return self[known]
        raise ConfigError(
            f"data set {info.name}: no reader for layout {info.layout!r}; known are "
            f"{', '.join([*LAYOUTS, *self._layouts])}."
        )

    def at(self, root: Path) -> Dataset | None:
        """The first data set whose layout a folder has."""
        return next((dataset for dataset in self.values() if dataset.is_at(root)), None)


DATASETS = Datasets(table_files())
