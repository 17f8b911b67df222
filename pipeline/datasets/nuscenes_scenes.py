"""Versions and scenes of nuScenes: which exist, which are requested, and their splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder
from pass2d.common.text import listed
from pass2d.pipeline.datasets.limit import require_splits
from pass2d.pipeline.datasets.nuscenes_rows import Scene
from pass2d.pipeline.datasets.table import DatasetTable

VERSIONS: dict[str, dict[str, str]] = {
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-test": {"test": "test"},
}
"""Of each version: the official scene list that each split is."""


def choose_version(root: Path, version: str | None) -> tuple[Path, str]:
    """Find the tables of a version.

    Args:
        root: the data set; the folder of tables itself is taken too.
        version: None takes the only one that is there.

    Returns:
        The data set's root, and the version.

    Raises:
        DataError: no such folder or version, or several to choose from.
    """
    if version is not None and version not in VERSIONS:
        raise DataError(f"unknown version {version!r}; choose from {listed(VERSIONS)}.")
    layout = "a folder with v1.0-*/*.json, samples/ and lidarseg/"
    if other := other_than_folder(root):
        raise DataError(f"{root}: {other}. Expected {layout}.")
    if root.name in VERSIONS and (root / "scene.json").is_file():
        version, root = version or root.name, root.parent
    there = [name for name in VERSIONS if (root / name).is_dir()]
    if version is None and len(there) > 1:
        raise DataError(f"{root}: holds {listed(there)}. Choose one by `version`.")
    if version is None and there:
        version = there[0]
    if version not in there:
        names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        shown = listed(names[:6]) + (", ..." if len(names) > 6 else "")
        hint = " This looks like SemanticKITTI: use 'prepare semkitti'."
        raise DataError(
            f"{root}: no tables of {version or 'any version'}; it holds {shown}. "
            f"Expected {layout}." + (hint if "sequences" in names else "")
        )
    assert version is not None
    return root, version


def locate_tables(root: Path) -> Path | None:
    """The data set's root, links resolved, for it or its folder of tables; None for others."""
    if root.name in VERSIONS and (root / "scene.json").is_file():
        root = root.parent
    there = any((root / name / "scene.json").is_file() for name in VERSIONS)
    return root.resolve() if there else None


def choose_scenes(
    known: Sequence[Scene],
    table: DatasetTable,
    *,
    version: str,
    splits: Sequence[str],
    names: Sequence[str] | None,
    where: Path,
) -> dict[str, str]:
    """Find the requested scenes.

    Args:
        known: all of the version's tables.
        table: with the official lists.
        version: decides which lists count.
        splits: any of "train", "val", "test".
        names: only these, as "scene-0061" or "61"; all of the splits when None.
        where: of the tables, for the message.

    Returns:
        Split of each chosen scene, by its name; never empty.

    Raises:
        DataError: unknown split or scene, or none that fits.
    """
    require_splits(splits)
    official = _official(table, version)
    if names is None:
        chosen = {s.name: official[s.name] for s in known if official.get(s.name) in splits}
        if not chosen:
            raise DataError(
                f"{where}: found {len(known)} scenes ({_some(known)}), none of split "
                f"{listed(splits)} of {version}. Its splits are {listed(VERSIONS[version])}."
            )
        return chosen
    if not names:
        raise DataError("scenes: none were named. Leave the option out to take all.")
    there = {scene.name for scene in known}
    chosen = {}
    for name in sorted({_full_name(name) for name in names}):
        if name not in there:
            raise DataError(f"{where}: no {name} in scene.json. Found {_some(known)}.")
        if name not in official:
            raise DataError(f"{name}: in no split of {version}. Leave it out.")
        if official[name] not in splits:
            raise DataError(
                f"{name}: belongs to split {official[name]}, but only {listed(splits)} was asked "
                f"for. Add {official[name]} to the splits or leave the scene out."
            )
        chosen[name] = official[name]
    return chosen


def notes_on_scenes(
    known: Sequence[Scene],
    table: DatasetTable,
    *,
    version: str,
    split_of: dict[str, str],
    splits: Sequence[str],
) -> list[str]:
    """Scenes missing from a complete version, and scenes left out."""
    official = _official(table, version)
    expected = [name for name, split in official.items() if split in splits]
    notes = []
    if len(split_of) < len(expected):
        notes.append(f"{version}: {len(split_of)} of {len(expected)} scenes are in the tables")
    foreign = [scene for scene in known if scene.name not in official]
    if foreign:
        notes.append(f"in no split of {version}, left out: {_some(foreign)}")
    return notes


def _official(table: DatasetTable, version: str) -> dict[str, str]:
    """Split of every scene of a version."""
    lists = VERSIONS[version].items()
    return {name: split for split, scene_list in lists for name in table.splits[scene_list]}


def _full_name(name: str) -> str:
    """'61' -> 'scene-0061'."""
    return f"scene-{int(name):04d}" if name.isascii() and name.isdigit() else name


def _some(scenes: Sequence[Scene]) -> str:
    more = f", ... ({len(scenes)} in all)" if len(scenes) > 4 else ""
    return listed(scene.name for scene in scenes[:4]) + more
