"""What `verify` finds, in one form for reports and for `repair`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pass2d.cache.layout import KEY_DIGITS

Kind = Literal["missing", "extra", "size", "changed", "unreadable", "inconsistent", "other bytes"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that is not as it was written."""

    kind: Kind
    path: str
    """Relative to the data set's folder."""
    text: str
    """What was found and expected."""
    stage: str = ""
    shard: int = -1
    key: str = ""
    """12 digits, as in the names."""
    field: str = ""
    scan_ids: tuple[str, ...] = ()
    """Scans whose data is hit; all of the shard when its metadata is."""

    def __str__(self) -> str:
        place = f" (shard {self.shard} of {self.stage}" if self.stage else ""
        place += f", field {self.field}" if self.field else ""
        if self.scan_ids:
            scans = ", ".join(self.scan_ids[:3])
            more = f" and {len(self.scan_ids) - 3} more" if len(self.scan_ids) > 3 else ""
            place += f", scan {scans}{more}"
        return f"{self.path}: {self.text}{place + ')' if place else ''}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` looked at and what it found."""

    files: int
    nbytes: int
    """Bytes that were read and compared."""
    scans: int
    shards: int
    rebuilt: int
    """Shards made again from their sources and compared byte by byte."""
    damages: tuple[Damage, ...]
    notes: tuple[str, ...]
    """Things that are no damage: leftovers that `gc` removes, sources that are gone."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


Place = tuple[str, int, str]
"""Stage, number and key (or its first 12 digits) of a shard."""
NOWHERE: Place = ("", -1, "")
"""Not in a shard."""


def damaged_at(kind: Kind, path: str, text: str, place: Place) -> Damage:
    """Damage of a shard as a whole, or of none."""
    stage, shard, key = place
    return Damage(kind=kind, path=path, text=text, stage=stage, shard=shard, key=key[:KEY_DIGITS])
