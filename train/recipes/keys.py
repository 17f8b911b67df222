"""Checks a recipe's keys: refuses wrong ones and suggests the right one, also of another table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pass2d.common.errors import ConfigError
from pass2d.common.plain import field_types
from pass2d.common.text import did_you_mean, nearest
from pass2d.models.registry import MODELS

_NETWORK = "network.settings"


def require_known_keys(table: Mapping[str, Any], kind: type, *, where: str) -> None:
    """Refuse the first key that the settings do not have, at whatever depth.

    Args:
        table: what a recipe file or an override holds.
        kind: the dataclass of all settings.
        where: names the table in the error.

    Raises:
        ConfigError: an unknown key; proposes the nearest of its own table, else the same or the
            nearest name in another one.
    """
    _check(table, kind, where, paths=[*_paths(kind, ""), *_network_paths()])


def _check(table: Mapping[str, Any], kind: type, where: str, *, paths: Sequence[str]) -> None:
    known = field_types(kind)
    for key, value in table.items():
        if key not in known:
            short = key[:60]
            found = _elsewhere(value, paths) if isinstance(value, Mapping) else []
            if any(path.split(".")[-2:-1] == [nearest(short, list(known))] for path in found):
                found = []  # the table's name is misspelt
            advice = _did_you_mean(found) if found else _proposal(short, list(known), paths)
            raise ConfigError(f"{where}: unknown key {short!r}; {advice}")
        if is_dataclass(known[key]) and isinstance(value, Mapping):
            _check(value, known[key], f"{where}.{key}", paths=paths)


def _proposal(key: str, known: Sequence[str], paths: Sequence[str]) -> str:
    """``paths`` are all settings with the names of their tables before them."""
    leaves = {path.rpartition(".")[2] for path in paths}
    short = [leaf for leaf in leaves if "_" in leaf and _initials(leaf) == key]  # lr, wd
    other = nearest(key, sorted(leaves), cutoff=0.7)
    for names in ([key], short):
        if found := [path for path in paths if path.rpartition(".")[2] in names]:
            return _did_you_mean(found)
    if own := did_you_mean(key, known):
        return own
    if found := [path for path in paths if path.rpartition(".")[2] == other]:
        return _did_you_mean(found)
    return f"choose from {', '.join(sorted(known))}"


def _elsewhere(unknown: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """Settings of the names that an unknown table holds."""
    return [path for path in paths if path.rpartition(".")[2] in unknown]


def _did_you_mean(paths: Sequence[str]) -> str:
    shown = [repr(path) + ("" if "." in path else " (outside the tables)") for path in paths]
    return f"did you mean {' or '.join(shown)}?"


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_"))


def _paths(kind: type, before: str) -> Iterator[str]:
    for name, inner in field_types(kind).items():
        yield f"{before}{name}"
        if is_dataclass(inner) and isinstance(inner, type):
            yield from _paths(inner, f"{before}{name}.")


def _network_paths() -> list[str]:
    """Settings that some network has; a recipe holds them as a plain table."""
    names = {f.name for model in MODELS.values() for f in fields(model.config_type)}
    return [f"{_NETWORK}.{name}" for name in sorted(names)]
