"""Finds prepared data sets below a folder and reads their descriptions."""

from __future__ import annotations

from pathlib import Path

from pass2d.cache.layout import DATASET_FILE, Layout, require_dataset_name
from pass2d.cache.manifest import parse_dataset
from pass2d.cache.schema import CorruptionInfo, DatasetInfo
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    NO_PERMISSION,
    may_not_look,
    other_than_folder,
    read_failure,
    read_file,
)
from pass2d.common.text import did_you_mean

_PREPARE_FIRST = (
    "Run `prepare_semkitti` or `prepare_nuscenes` first, or give `cache_root=FOLDER`, the folder "
    "that it wrote."
)


def find_dataset(cache_root: Path, dataset: str | None = None) -> Path:
    """The folder of a prepared data set.

    If there is exactly one clean data set, corrupted ones beside it are ignored.

    Raises:
        CacheError: there is none, or several and ``dataset`` does not choose.
    """
    try:
        return _find_dataset(cache_root, dataset)
    except OSError as error:
        raise read_failure(cache_root, error, remedy="Check `cache_root`") from error


def _find_dataset(cache_root: Path, dataset: str | None) -> Path:
    if other := other_than_folder(cache_root):
        raise CacheError(f"{cache_root}: {other}. {_PREPARE_FIRST}")
    if (cache_root / DATASET_FILE).is_file() and dataset in (None, cache_root.name):
        return cache_root
    if may_not_look(cache_root):
        raise CacheError(f"{cache_root}: {NO_PERMISSION}.")
    found = sorted(path.parent for path in cache_root.glob(f"*/{DATASET_FILE}"))
    names = [path.name for path in found]
    if dataset is not None:
        if len(dataset) > 100:
            require_dataset_name(dataset, where="`dataset`")
        if dataset not in names:
            proposal = did_you_mean(dataset, names)
            listed = f"{proposal} P" if proposal else "p"
            raise CacheError(
                f"{cache_root}: no data set {dataset!r}; {listed}repared are: "
                f"{', '.join(names) or 'none'}."
            )
        return cache_root / dataset
    if not found:
        for folder in cache_root.iterdir():
            if may_not_look(folder):
                raise CacheError(f"{folder}: {NO_PERMISSION}.")
        raise CacheError(
            f"{cache_root}: no prepared data set (no */{DATASET_FILE}). {_PREPARE_FIRST}"
        )
    clean = [p for p in found if corruption_of(p) is None] if len(found) > 1 else found
    if len(clean) != 1:
        raise CacheError(f"{cache_root}: holds {', '.join(names)}. Choose one with `dataset`.")
    return clean[0]


def corruption_of(dataset_root: Path) -> CorruptionInfo | None:
    """The corruption of a pass2d-C data set; None for others, and for unreadable ones."""
    layout = Layout(root=dataset_root)
    try:
        info = read_description(layout)
    except CacheError:
        return None
    return info.corruption


def read_description(layout: Layout) -> DatasetInfo:
    """Read dataset.json.

    Raises:
        CacheError: it is missing, damaged or of another format version.
    """
    try:
        data = read_file(layout.dataset_file)
    except FileNotFoundError as error:
        raise read_failure(layout.dataset_file, error) from error
    return parse_dataset(data, where=str(layout.dataset_file))


def dataset_folders(cache_root: Path) -> tuple[Path, ...]:
    """The data sets below a local cache folder; itself when it is one."""
    if (cache_root / DATASET_FILE).is_file():
        return (cache_root,)
    return tuple(sorted(path.parent for path in cache_root.glob(f"*/{DATASET_FILE}")))
