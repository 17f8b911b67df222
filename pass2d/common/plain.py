"""Converts frozen dataclasses to and from TOML and JSON values: settings, cards, descriptions.

Not cattrs or msgspec: cattrs accepts 1.5 or true as an integer, msgspec ignores unknown keys of a
dataclass, and neither shows the value that it refuses.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pass2d.common.errors import ConfigError
from pass2d.common.text import did_you_mean, unknown

T = TypeVar("T")

NONE_WORD = "none"
"""The text for None in TOML, which has no null."""


OMITTED_IF_NONE = types.MappingProxyType({"omitted_if_none": True})
"""Metadata of a field added later: if it is None, it is omitted, so that older hashes stay
valid."""


def written_as(name: str) -> Mapping[str, str]:
    """Metadata of a field with another name in files."""
    return types.MappingProxyType({"written_as": name})


def written_name(field: Field[Any]) -> str:
    """The name of a dataclass's field in files."""
    return str(field.metadata.get("written_as", field.name))


def to_plain(value: Any, *, omits_none: bool = False) -> Any:
    """Dataclasses as dicts, tuples as lists, keys as strings, everything else as it is.

    Args:
        value: any.
        omits_none: leave out fields of None that came later (`OMITTED_IF_NONE`).
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, (tuple, list)):  # most members are numbers: without a call for each
        return [
            item if type(item) in _PLAIN else to_plain(item, omits_none=omits_none)
            for item in value
        ]
    if is_dataclass(kind):
        return {
            written: to_plain(item, omits_none=omits_none)
            for name, written, may_be_omitted in _plain_fields(kind)
            if (item := getattr(value, name)) is not None or not (omits_none and may_be_omitted)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, omits_none=omits_none) for key, item in value.items()}
    return value


_PLAIN = {type(None), bool, int, float, str}


@cache
def _plain_fields(kind: Any) -> tuple[tuple[str, str, bool], ...]:
    """Name, name in files, and whether None may be left out, of each field."""
    return tuple(
        (f.name, written_name(f), bool(f.metadata.get("omitted_if_none"))) for f in fields(kind)
    )


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
    try:
        built: T = _convert(kind, value)
    except _MisfitError as misfit:
        place = f"{where}{misfit.path}".lstrip(".")
        raise ConfigError(f"{place}: {misfit}") from misfit.__cause__
    return built


def require_known(key: str, known: Sequence[str], *, where: str, what: str = "key") -> None:
    """Refuse a key (or ``what`` it is) that is not in the list, and suggest the nearest one.

    Raises:
        ConfigError: it is unknown; ``where`` names the file or table.
    """
    if key not in known:
        raise ConfigError(f"{where}: {unknown(key, known, what=what)}")


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Field name -> resolved annotation of a dataclass."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


class _MisfitError(Exception):
    """A value of the wrong type; its path is assembled while the exception propagates."""

    path = ""

    def below(self, place: str) -> _MisfitError:
        """The same, seen from the container around it."""
        self.path = place + self.path
        return self


def _convert(kind: Any, value: Any) -> Any:
    convert, details = _converter(kind)
    return convert(details, value)


@cache
def _converter(kind: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """What converts to a type, and what it must know of the type."""
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _dataclass, kind
    if origin is Literal:
        return _choice, get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [member for member in get_args(kind) if member is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"fields may be X | None, not {kind}")
        return _optional, inner[0]
    if origin is tuple:
        return _tuple, get_args(kind)
    if origin is dict:
        return _dict, get_args(kind)
    return (_any if kind in (object, Any) else _scalar), kind


@cache
def _required(kind: Any) -> tuple[str, ...]:
    no_default = (f for f in fields(kind) if f.default is f.default_factory is MISSING)
    return tuple(written_name(f) for f in no_default)


@cache
def _written_fields(kind: Any) -> dict[str, tuple[str, Any]]:
    """Name in files -> field name and type."""
    known = field_types(kind)
    return {written_name(f): (f.name, known[f.name]) for f in fields(kind)}


def _dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _MisfitError(f"expected a table of settings, got {_shown(value)}")
    known = _written_fields(kind)
    built = {}
    for key, item in value.items():
        if key not in known:
            raise _MisfitError(unknown(key, known, what="key"))
        name, field_kind = known[key]
        try:
            built[name] = _convert(field_kind, item)
        except _MisfitError as misfit:
            raise misfit.below(f".{key}") from misfit.__cause__
    for name in _required(kind):
        if name not in value:
            raise _MisfitError(f"key {name!r} is missing")
    try:
        return kind(**built)
    except (ValueError, ArithmeticError) as error:
        raise _MisfitError(str(error)) from error


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    if value in choices:
        return value
    proposal = did_you_mean(value, [str(choice) for choice in choices])
    hint = f"; {proposal}" if proposal else ""
    raise _MisfitError(
        f"expected one of {', '.join(map(repr, choices))}, got {_shown(value)}{hint}"
    )


def _optional(inner: Any, value: Any) -> Any:
    if value is None or (value == NONE_WORD and inner is not str):
        return None
    return _convert(inner, value)


def _tuple(members: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _MisfitError(f"expected a list, got {_shown(value)}")
    is_open = len(members) == 2 and members[1] is Ellipsis
    if is_open and _are_numbers(members[0], value):
        return tuple(value)
    kinds = (members[0],) * len(value) if is_open else members
    if len(kinds) != len(value):
        raise _MisfitError(f"expected {len(kinds)} values, got {len(value)}: {_shown(list(value))}")
    built = []
    for index, (kind, item) in enumerate(zip(kinds, value, strict=True)):
        try:
            built.append(_convert(kind, item))
        except _MisfitError as misfit:
            raise misfit.below(f"[{index}]") from misfit.__cause__
    return tuple(built)


def _are_numbers(kind: Any, values: Sequence[Any]) -> bool:
    """Whether a long list needs no look at each value: commit records have many such."""
    if kind is float:
        return all(type(item) is float for item in values)
    return (
        kind is int
        and all(type(item) is int for item in values)
        and -_LARGEST <= min(values, default=0) <= max(values, default=0) <= _LARGEST
    )


def _dict(members: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _MisfitError(f"expected a table, got {_shown(value)}")
    key_kind, value_kind = members
    built = {}
    for key, item in value.items():
        try:
            # JSON and TOML have string keys only: the label table's integer keys arrive as text.
            built[_whole(key) if key_kind is int else key] = _convert(value_kind, item)
        except _MisfitError as misfit:
            raise misfit.below(f".{str(key)[:60]}") from misfit.__cause__
    return built


def _whole(key: str) -> int:
    if re.fullmatch("-?[0-9]{1,18}", key) is None:
        raise _MisfitError("expected a whole number as key")
    return int(key)


_LARGEST = 2**100
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def _scalar(kind: Any, value: Any) -> Any:
    if type(value) is kind and kind is not int:
        return value
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise _MisfitError("a whole number of more than 30 digits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _MisfitError(f"expected {_WORDS.get(kind, kind)}, got {_shown(value)}")


def _any(_kind: Any, value: Any, depth: int = 0) -> Any:
    """A value whose type is checked elsewhere: any JSON value of limited depth."""
    if depth > _DEEPEST:
        raise _MisfitError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {str(key): _any(None, item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_any(None, item, depth + 1) for item in value)
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return _scalar(int, value)
    raise _MisfitError(f"expected a number, text, a list or a table, got {_shown(value)}")


_DEEPEST = 16


def _shown(value: Any) -> str:
    """A wrong value as a text of readable length, whatever its size and depth."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
