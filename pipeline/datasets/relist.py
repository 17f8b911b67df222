"""Lists a raw data set as it was listed for a cache: what `cache plan` compares with."""

from __future__ import annotations

import json
from pathlib import Path

from pass2d.cache.manifest import Manifest
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CacheError, DataError
from pass2d.common.progress import Progress
from pass2d.pipeline.corrupted import corrupted_listings, variant_of
from pass2d.pipeline.datasets.nuscenes import STORED_HW, find_nuscenes, list_nuscenes
from pass2d.pipeline.datasets.roots import FoundRoot
from pass2d.pipeline.datasets.semkitti import find_semkitti, list_semkitti, semkitti_table
from pass2d.pipeline.source import SourceListing


def is_nuscenes(root: Path) -> bool:
    """Whether a raw data set has the devkit's tables."""
    return any(root.glob("v1.0-*/"))


def find_raw(info: DatasetInfo) -> FoundRoot:
    """Where the raw files of a cache's data set lie for a user who does not say.

    Raises:
        ConfigError: as `find_root`.
    """
    return find_semkitti() if info.layout == semkitti_table().info.layout else find_nuscenes()


def list_again(
    root: Path, manifest: Manifest | None, *, version: str | None, progress: Progress
) -> SourceListing:
    """List all of a raw data set with a cache's own settings: picture size, sweeps, corruption.

    Args:
        root: the raw data set.
        manifest: of the cache; None before there is one: the settings that `prepare` has.
        version: of nuScenes, where several are in the root.
        progress: hears of the tables read.

    Raises:
        CacheError: the cache is of another data set than the root.
        DataError: as the readers of raw data sets.
    """
    info = None if manifest is None else manifest.info
    wanted = "nuscenes" if is_nuscenes(root) else semkitti_table().info.layout
    if info is not None and root.is_dir() and info.layout != wanted:
        raise CacheError(
            f"{root}: looks like {wanted}, but data set {info.name} is of {info.layout}. "
            "Give the --root that it was made from, or another --dataset."
        )
    if wanted == "nuscenes":
        listing = list_nuscenes(
            root,
            version=version,
            stored_hw=_stored_hw(manifest),
            sweeps=0 if info is None else info.sweeps,
            progress=progress,
        )
    else:
        listing = list_semkitti(root)
    if lost := [failed for failed in listing.failed if failed.stage == "lidar"]:
        raise DataError(lost[0].reason)  # a scan that may be whole in the cache is not gone
    variant = None if info is None else variant_of(info)
    return listing if variant is None else corrupted_listings(listing, (variant,))[0]


def profile_of(manifest: Manifest | None) -> str:
    """The cache's profile; `prepare`'s own where there is none or more than one."""
    found = set() if manifest is None else set(manifest.tables.shards["profile"].to_pylist())
    return str(found.pop()) if len(found) == 1 else "speed"


def _stored_hw(manifest: Manifest | None) -> tuple[int, int] | None:
    if manifest is None:
        return STORED_HW
    stages, texts = (manifest.tables.shards[n].to_pylist() for n in ("stage", "parameters"))
    for stage, text in zip(stages, texts, strict=True):
        if stage == "camera":
            stored = json.loads(text).get("stored_hw")
            if stored is None:
                return None
            if not isinstance(stored, list) or [type(size) for size in stored] != [int, int]:
                raise CacheError(
                    f"shards.parquet: stored_hw is {stored!r:.40}, expected height and width. "
                    "Prepare again into a new --cache."
                )
            return (stored[0], stored[1])
    return STORED_HW
