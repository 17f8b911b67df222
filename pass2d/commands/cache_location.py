"""The data set of a `pass2d cache` command; for a store, a local stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pass2d.cache.urls import is_url
from pass2d.common.errors import CacheError

if TYPE_CHECKING:
    from pass2d.cache.care.verify import Presence
    from pass2d.cache.remote.staged import StagedDataset


@dataclass(frozen=True, kw_only=True)
class CacheLocation:
    """A data set's folder; for a store a local stand-in."""

    root: Path
    presence: Presence
    staged: StagedDataset | None = None


@contextlib.contextmanager
def located(
    cache_root: str, dataset: str | None, *, with_records: bool = True
) -> Iterator[CacheLocation]:
    """Find the data set; the stand-in for a store is removed at the end."""
    from pass2d.cache.care.verify import always_present
    from pass2d.cache.remote.staged import staged

    if is_url(cache_root):
        with staged(cache_root, dataset, with_records=with_records) as found:
            yield CacheLocation(root=found.layout.root, presence=found.present, staged=found)
    else:
        yield CacheLocation(root=dataset_root(Path(cache_root), dataset), presence=always_present)


def dataset_root(cache_root: Path, dataset: str | None) -> Path:
    """The data set's folder, even if its dataset.json is missing."""
    from pass2d.cache.datasets import corruption_of, find_dataset
    from pass2d.cache.layout import require_dataset_name

    if dataset is not None and (Path(dataset).name != dataset or len(dataset) > 100):
        require_dataset_name(dataset, where="--dataset")
    try:
        root = find_dataset(cache_root, dataset)
        corruption = None if dataset or root == cache_root else corruption_of(root)
        clean = cache_root / (corruption.clean if corruption else "")
        # Choose the clean one, even if its dataset.json is missing.
        return clean if corruption and (clean / "manifest").is_dir() else root
    except CacheError:
        folders = [cache_root / dataset] if dataset else [cache_root, *cache_root.glob("*")]
        found = [f for f in folders if (f / "manifest").is_dir() and corruption_of(f) is None]
        if len(found) == 1:
            return found[0]
        raise
