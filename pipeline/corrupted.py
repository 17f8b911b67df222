"""Corrupted data sets: the listing of a clean one whose scans are corrupted when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pass2d.cache.schema import CorruptionInfo, DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.text import and_more
from pass2d.corruptions.registry import (
    COLLECTION,
    KNOWN,
    SEVERITIES,
    Variant,
    table_of,
)
from pass2d.pipeline.source import SourceListing


def corrupted_listings(
    listing: SourceListing, variants: Sequence[Variant]
) -> tuple[SourceListing, ...]:
    """One listing per corruption, named e.g. "semkitti-fog-heavy".

    Scans without labels are left out of corruptions that need them, and that is noted.

    Args:
        listing: of the clean data set.
        variants: what to make.

    Raises:
        ConfigError: no table for data sets of this layout, or no scan has the labels needed.
    """
    return tuple(_corrupted(listing, variant) for variant in variants)


def _corrupted(listing: SourceListing, variant: Variant) -> SourceListing:
    table = table_of(listing.info)
    noise_label = getattr(table.settings[variant], "noise_label", 0)
    info = replace(
        listing.info,
        name=f"{listing.info.name}-{variant.slug}",
        corruption=CorruptionInfo(
            collection=COLLECTION,
            name=variant.name,
            severity=variant.severity,
            clean=listing.info.name,
            noise_label=noise_label,
        ),
    )
    scans, notes = listing.scans, tuple[str, ...]()
    if KNOWN[variant.name].needs_labels:
        scans = tuple(scan for scan in listing.scans if scan.labels is not None)
        if len(scans) < len(listing.scans):
            blind = sorted({s.sequence for s in listing.scans if s.labels is None})
            notes = (
                f"{info.name}: {len(listing.scans) - len(scans)} scans without labels are left out "
                f"(sequences {and_more(blind, 8)}): {variant.name} drops points of labelled "
                "vehicles",
            )
        if not scans:
            raise ConfigError(
                f"`corrupt={variant.name}`: it drops points of labelled vehicles, and none of the "
                f"{len(listing.scans)} scans has labels. Leave it out, or add `splits=train,val`."
            )
    scans = tuple(  # recorded pixels are those of the points before the corruption
        replace(scan, camera_rule="in_front") if scan.camera_rule == "recorded" else scan
        for scan in scans
    )
    return SourceListing(info=info, scans=scans, notes=notes)


def variant_of(info: DatasetInfo) -> Variant | None:
    """The corruption of a data set's scans; None for clean ones.

    Raises:
        ConfigError: another version of pass2d made it, with a corruption unknown to this one.
    """
    found = info.corruption
    if found is None:
        return None
    for name in KNOWN:
        for severity in SEVERITIES:
            if (name, severity) == (found.name, found.severity):
                return Variant(name=name, severity=severity)
    raise ConfigError(
        f"data set {info.name}: unknown corruption {found.name} "
        f"{found.severity}. Another one made it: upgrade."
    )
