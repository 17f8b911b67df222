"""Settings and cards as plain data: frozen dataclasses from and to what TOML and JSON can hold."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pass2d.common.errors import ConfigError

T = TypeVar("T")

NONE_WORD = "none"
"""How TOML, which has no null, says that an optional setting is off."""


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, everything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: Any, *, where: str) -> T:
    """Build a value of a declared type from plain data.

    Args:
        kind: a frozen dataclass, or what its fields may be: bool, int, float, str, object, Literal,
            ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[K, V]``.
        value: what a TOML or JSON reader gave.
        where: names the value in errors, e.g. "2dpass-small.toml: optimizer".

    Raises:
        ConfigError: an unknown key (the nearest is proposed), a missing one or a wrong type.
    """
    return _convert(kind, value, where)


def require_known(key: str, known: Sequence[str], *, where: str, what: str = "key") -> None:
    """Refuse a key (or ``what`` it is) that is not in the list, and propose the nearest one."""
    if key in known:
        return
    near = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.5)
    names = ", ".join(sorted(set(known)))
    remedy = f"did you mean {near[0]!r}?" if near else f"known {what}s: {names}"
    raise ConfigError(f"{where}: unknown {what} {_shown(key)}; {remedy}")


def field_types(kind: type) -> dict[str, Any]:
    """Field name -> resolved annotation of a dataclass."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is Literal:
        return _choice(get_args(kind), value, where)
    if origin in (Union, types.UnionType):
        return _optional(kind, value, where)
    if origin is tuple:
        return _tuple(get_args(kind), value, where)
    if origin is dict:
        return _dict(get_args(kind), value, where)
    return _scalar(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table of settings, got {_shown(value)}")
    known = field_types(kind)
    for key in value:
        require_known(str(key), list(known), where=where)
    required = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    for item in required:
        if item.name not in value:
            raise ConfigError(f"{where}: {item.name!r} is missing")
    built = {
        key: _convert(known[key], item, f"{where}{'.' if where else ''}{key}")
        for key, item in value.items()
    }
    try:
        return kind(**built)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value in choices:
        return value
    word = value if isinstance(value, str) and len(value) < 100 else ""
    near = difflib.get_close_matches(word, [str(c) for c in choices], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{where}: expected one of {', '.join(map(repr, choices))}, got {_shown(value)}{hint}"
    )


def _optional(kind: Any, value: Any, where: str) -> Any:
    members = get_args(kind)
    if type(None) in members and (value is None or value == NONE_WORD):
        return None
    inner = [member for member in members if member is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"settings may be X | None, not {kind}")
    return _convert(inner[0], value, where)


def _tuple(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
    if len(members) == 2 and members[1] is Ellipsis:
        kinds: tuple[Any, ...] = (members[0],) * len(value)
    else:
        kinds = members
    if len(kinds) != len(value):
        raise ConfigError(
            f"{where}: expected {len(kinds)} values, got {len(value)}: {_shown(list(value))}"
        )
    return tuple(
        _convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _dict(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table, got {_shown(value)}")
    key_kind, value_kind = members
    # JSON and TOML have string keys only: the label table's integer keys arrive as text.
    return {
        (_whole(key, where) if key_kind is int else key): _convert(
            value_kind, item, f"{where}.{_name(key)}"
        )
        for key, item in value.items()
    }


def _whole(key: str, where: str) -> int:
    if re.fullmatch("-?[0-9]{1,18}", key) is None:
        raise ConfigError(f"{where}: expected whole numbers as keys, got {_shown(key)}")
    return int(key)


def _name(key: object) -> str:
    """A key at a length that can be read."""
    return str(key)[:60]


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, int) and abs(value) > 2**100:
        raise ConfigError(f"{where}: a whole number of more than 30 digits")
    if kind is object or kind is Any:
        return _any(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
    raise ConfigError(f"{where}: expected {names.get(kind, kind)}, got {_shown(value)}")


def _any(value: Any, where: str, depth: int = 0) -> Any:
    """A value whose type another owner checks: what JSON can hold, not nested without end."""
    if depth > _DEEPEST:
        raise ConfigError(f"{where}: nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {str(key): _any(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_any(item, where, depth + 1) for item in value)
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return _scalar(int, value, where)
    raise ConfigError(f"{where}: expected a number, text, a list or a table, got {_shown(value)}")


_DEEPEST = 16


def _shown(value: Any) -> str:
    """A wrong value at a length that can be read; one that is nested without end, too."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
