"""What `verify` finds, in one format for reports and `repair`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pass2d.cache.layout import KEY_DIGITS
from pass2d.common.text import and_more

Kind = Literal["missing", "extra", "size", "changed", "unreadable", "inconsistent", "other bytes"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One difference from what was written."""

    kind: Kind
    path: str
    """Relative to the data set's folder."""
    text: str
    """What was found and expected."""
    container: str = ""
    shard: int = -1
    key: str = ""
    """12 digits, as in the names."""
    field: str = ""
    scan_ids: tuple[str, ...] = ()
    """Scans whose data is damaged; all scans of the shard if its metadata is."""

    def __str__(self) -> str:
        where = f" (shard {self.shard} of {self.container}" if self.container else ""
        where += f", field {self.field}" if self.field else ""
        if self.scan_ids:
            where += f", scan {and_more(self.scan_ids, 3)}"
        return f"{self.path}: {self.text}{where + ')' if where else ''}"


@dataclass(frozen=True, kw_only=True)
class IntegrityReport:
    """What `verify` checked and found."""

    files: int
    nbytes: int
    """Bytes that were read and compared."""
    scans: int
    shards: int
    rebuilt: int
    """Shards rebuilt from their sources and compared byte by byte."""
    damages: tuple[Damage, ...]
    notes: tuple[str, ...]
    """Findings that are not damage: leftovers that `gc` removes, missing source files."""

    @property
    def is_sound(self) -> bool:
        """True if nothing is damaged."""
        return not self.damages


ShardId = tuple[str, int, str]
"""Container, number and key (or its first 12 digits) of a shard."""
NO_SHARD: ShardId = ("", -1, "")
"""Not in a shard."""


def damaged_at(kind: Kind, path: str, text: str, shard_id: ShardId) -> Damage:
    """Damage of a whole shard, or of a file outside shards."""
    container, shard, key = shard_id
    return Damage(
        kind=kind, path=path, text=text, container=container, shard=shard, key=key[:KEY_DIGITS]
    )
