"""Frozen dataclasses to canonical JSON and back: the same value always gives the same bytes."""

from __future__ import annotations

import contextlib
import json
from typing import Any, TypeVar

import xxhash

from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.plain import from_plain, to_plain

T = TypeVar("T")


def to_json(value: object) -> Any:
    """Turn dataclasses, tuples and dicts into what `json` writes; keys become strings."""
    return to_plain(value, omits_none=True)


def dumps(value: object) -> bytes:
    """Canonical JSON: sorted keys, no spaces, one line.

    Keys of plain dicts must be strings: numbers would be sorted as numbers here, and as strings
    when the result is read and written again. (Dataclasses may hold dicts with numbers.)
    """
    # `to_json` of everything would be clean and costs seconds for the keys of 43,552 scans.
    text = json.dumps(
        value, default=to_json, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode() + b"\n"


def seal(value: object) -> bytes:
    """Canonical JSON of a record with one more field, ``xxh3``: the hash of it without that."""
    return _sealed(to_json(value))


def _sealed(content: dict[str, Any]) -> bytes:
    parts = {name: dumps(item)[:-1] for name, item in content.items()}
    parts["xxh3"] = dumps(xxhash.xxh3_128_hexdigest(_line(parts)))[:-1]
    return _line(parts)


def _line(parts: dict[str, bytes]) -> bytes:
    """Canonical JSON of an object whose values are written already."""
    items = (dumps(name)[:-1] + b":" + parts[name] for name in sorted(parts))
    return b"{" + b",".join(items) + b"}\n"


def unseal(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse what `seal` wrote, without the ``xxh3`` field.

    Raises:
        CacheError: a byte differs.
    """
    value = loads(data, where=where)
    if isinstance(value, dict):
        content = {name: item for name, item in value.items() if name != "xxh3"}
        # Values that cannot be written (half a surrogate pair) were not written by `seal`.
        with contextlib.suppress(ValueError, RecursionError):
            if _sealed(content) == data:
                return content
    raise CacheError(f"{where}: checksum differs. Repair the cache (`repair`).")


def parse(data: bytes | str) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        ValueError: not JSON, or lists nested more deeply than Python allows.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def loads(data: bytes | str, *, where: str) -> Any:
    """Parse JSON; ``where`` names the file in the error.

    Raises:
        CacheError: not JSON, or lists nested more deeply than Python allows.
    """
    try:
        return parse(data)
    except ValueError as error:
        raise CacheError(
            f"{where}: not JSON ({error}). The file is damaged: repair the cache (`repair`)."
        ) from error


def from_json(kind: type[T], value: Any, *, where: str) -> T:
    """Build the frozen dataclass ``kind`` from parsed JSON.

    Raises:
        CacheError: a field is missing, unknown or of another type; the message names ``where``.
    """
    try:
        return from_plain(kind, value, where=where)
    except ConfigError as error:
        raise CacheError(f"{error}. The file is damaged: run `repair`.") from error
