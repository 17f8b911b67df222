"""Where descriptions come from: TOML, YAML of semantic-kitti-api, presets, built-in data sets."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from pass2d.common.errors import ConfigError
from pass2d.common.files import read_fault, read_whole
from pass2d.common.plain import NONE_WORD
from pass2d.common.text import did_you_mean, shown
from pass2d.pipeline.datasets.described.description import Description, description_of
from pass2d.pipeline.datasets.table import DatasetTable, load_table
from pass2d.pipeline.datasets.words import table_files

PRESETS = Path(__file__).with_name("presets")
_YAML = (".yaml", ".yml")
_MOST_LIKES = 8
_KITTI: dict[str, dict[str, Any]] = {
    "points": {"files": "sequences/{sequence}/velodyne/{scan}.bin"},
    "labels": {
        "files": "sequences/{sequence}/labels/{scan}.label",
        "dtype": "u4",
        "mask": 0xFFFF,
        "instance": {"shift": 16},
    },
}


def load_description(file: Path | str) -> Description:
    """Read a description.

    Args:
        file: a TOML file, a YAML file of semantic-kitti-api, or the name of a preset.

    Raises:
        ConfigError: it is missing, damaged, or contradictory.
    """
    place = Path(file)
    if not place.is_file() and place.name == str(file) and str(file) in preset_names():
        return description_of(_preset(str(file), ()), where=str(file))
    return description_of(_read(place, ()), where=str(file))


def preset_names() -> tuple[str, ...]:
    """What `like` takes beside files."""
    presets = sorted(file.stem for file in PRESETS.glob("*.toml"))
    return (*(file.stem for file in table_files()), *presets)


def _read(file: Path, likes: tuple[str, ...]) -> dict[str, Any]:
    """A file's plain description, merged over the one that `like` names."""
    if not file.is_file():
        proposal = did_you_mean(str(file), preset_names())
        raise ConfigError(
            f"{shown(str(file), longest=200)}: no such file, nor a preset "
            f"({', '.join(preset_names())}){f'; {proposal}' if proposal else '.'}"
        )
    try:
        text = read_whole(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {read_fault(error)}") from error
    if file.suffix.lower() in _YAML:
        return api_description(_yaml(text, file), where=str(file), stem=file.stem)
    try:
        plain = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    return _with_likes(plain, file, likes)


def _with_likes(plain: dict[str, Any], file: Path, likes: tuple[str, ...]) -> dict[str, Any]:
    dataset = plain.get("dataset")
    if not isinstance(dataset, Mapping) or "like" not in dataset:
        return plain
    like = dataset["like"]
    if not isinstance(like, str):
        raise ConfigError(f"{file}: [dataset].like: expected text in quotes, got {shown(like)}")
    if len(likes) >= _MOST_LIKES or like in likes:
        raise ConfigError(
            f"{file}: [dataset].like: {' -> '.join((*likes, like))[:200]} is circular."
        )
    below = file.parent / like
    if below.is_file():
        base = _read(below, (*likes, like))
    elif like in preset_names():
        base = _preset(like, (*likes, like))
    else:
        proposal = did_you_mean(like, preset_names())
        raise ConfigError(
            f"{file}: [dataset].like: {shown(like)!r} is neither a file beside it nor one of "
            f"{', '.join(preset_names())}{f'; {proposal}' if proposal else '.'}"
        )
    own = {**plain, "dataset": {key: item for key, item in dataset.items() if key != "like"}}
    return merged(base, own)


def _preset(name: str, likes: tuple[str, ...]) -> dict[str, Any]:
    for file in table_files():
        if file.stem == name:
            return described_table(load_table(file))
    return _read(PRESETS / f"{name}.toml", likes)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key; lists, numbers and text of ``own`` replace those of ``base``.

    Splits are one thing, and replaced whole; so are `files`, `otherwise` and `column` of labels,
    which belong together. "none" in place of a table takes it away.
    """
    found = dict(base)
    for key, item in own.items():
        if item == NONE_WORD and isinstance(found.get(key), (Mapping, list)):
            del found[key]
        elif isinstance(item, Mapping) and isinstance(found.get(key), Mapping) and key != "splits":
            if key == "labels":
                places = {"files", "otherwise", "column"}
                rivals = places if places & set(item) else set()
                found[key] = {k: v for k, v in found[key].items() if k not in rivals}
            found[key] = merged(found[key], item)
        else:
            found[key] = item
    return found


def described_table(table: DatasetTable) -> dict[str, Any]:
    """A built-in data set as a description in the layout of SemanticKITTI."""
    info, facts = table.info, table.info.facts
    raw: dict[int, list[int]] = {training: [] for training in range(info.labels.n_classes)}
    for raw_id, training in info.labels.raw_to_training.items():
        raw[training].append(raw_id)
    entries = [
        {
            "name": info.labels.names[training],
            "raw": raw[training],
            "write": info.labels.training_to_raw[training],
            "color": "#{:02x}{:02x}{:02x}".format(*info.labels.colors_rgb[training]),
            **({"thing": True} if training in facts.movable else {}),
        }
        for training in range(info.labels.n_classes)
    ]
    return {
        **_KITTI,
        "dataset": {
            "name": info.name,
            "title": facts.title,
            "class_weights": info.has_class_weights,
            "absent_classes": "zero" if facts.absent_counts_zero else "left-out",
        },
        "points": {
            **_KITTI["points"],
            "columns": ["x", "y", "z", "signal", "ring"][: info.raw_columns],
            "ahead": facts.forward_axis,
            "signal": {"name": info.signal_name, "full": facts.full_scale},
        },
        "labels": {
            **_KITTI["labels"],
            **({} if facts.has_instances else {"dtype": f"u{facts.label_bytes}"}),
        },
        "ignored": entries[0],
        "class": entries[1:],
        "splits": {
            split: {"sequences": list(names)}
            for split, names in table.splits.items()
            if split in ("train", "val", "test")
        },
        "volume": {
            "low": list(info.grid.low),
            "high": list(info.grid.high),
            "cells": list(info.grid.shape),
        },
        "sensor": {"fov_deg": list(facts.pitch_deg)},
    }


def _yaml(text: str, file: Path) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(
            f"{file}: not a YAML file: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"{file}: expected the keys of semantic-kitti-api, got {shown(value)}")
    return value


def api_description(raw: Mapping[str, Any], *, where: str, stem: str) -> dict[str, Any]:
    """The YAML of semantic-kitti-api as a description.

    Learned ids that `learning_ignore` names are ignored; the others become classes in their order.

    Args:
        raw: `labels`, `color_map` (blue, green, red), `learning_map`, `learning_map_inv`,
            `learning_ignore`, `split`.
        where: the file, for messages.
        stem: its name, for a data set without one.

    Raises:
        ConfigError: a key is missing, or ids contradict each other.
    """
    names = _ids(raw, "labels", where)
    learned = _ids(raw, "learning_map", where)
    written = _ids(raw, "learning_map_inv", where)
    ignored = _ids(raw, "learning_ignore", where, default={0: True})
    colors = _ids(raw, "color_map", where, default={})
    raw_of: dict[int, list[int]] = {}
    for raw_id, training in learned.items():
        if not isinstance(training, int):
            raise ConfigError(
                f"{where}: learning_map.{raw_id}: expected a number, got {training!r}"
            )
        raw_of.setdefault(training, []).append(raw_id)
    entries: dict[int, dict[str, Any]] = {}
    for training, raw_ids in sorted(raw_of.items()):
        write = written.get(training, raw_ids[0])
        if not isinstance(write, int) or write not in raw_ids:
            raise ConfigError(
                f"{where}: learning_map_inv.{training} is {shown(write)}, which learning_map does "
                f"not map to {training}."
            )
        entries[training] = {
            "name": str(names.get(write, f"class {training}")),
            "raw": raw_ids,
            "write": write,
            **_color(colors.get(write), where, write),
        }
    left_out = [training for training in entries if ignored.get(training)]
    nothing: dict[str, Any] = {"name": "unlabeled", "raw": [r for t in left_out for r in raw_of[t]]}
    if left_out:
        nothing = {**entries[left_out[0]], "raw": nothing["raw"]}
    description: dict[str, Any] = {
        **_KITTI,
        "dataset": {"name": _plain_name(raw.get("name"), stem)},
        "ignored": nothing,
        "class": [entry for training, entry in entries.items() if training not in left_out],
        "splits": {
            ours: {"sequences": _sequences(split[theirs], where, theirs)}
            for split in [raw.get("split") or {}]
            if isinstance(split, Mapping)
            for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test"))
            if split.get(theirs)
        },
    }
    if not description["splits"]:
        raise ConfigError(f"{where}: split: expected lists of sequences: train, valid, test.")
    return description


def _ids(
    raw: Mapping[str, Any], key: str, where: str, *, default: dict[int, Any] | None = None
) -> dict[int, Any]:
    value = raw.get(key, default)
    if not isinstance(value, Mapping) or not all(type(number) is int for number in value):
        found = "nothing" if value is None else shown(value)
        raise ConfigError(
            f"{where}: {key}: expected numbers and their values, as semantic-kitti-api has it, got "
            f"{found}"
        )
    return dict(value)


def _color(bgr: Any, where: str, raw_id: int) -> dict[str, str]:
    if bgr is None:
        return {}
    is_color = isinstance(bgr, Sequence) and len(bgr) == 3
    if not is_color or not all(type(value) is int and 0 <= value <= 255 for value in bgr):
        raise ConfigError(f"{where}: color_map.{raw_id}: expected [blue, green, red], got {bgr!r}")
    blue, green, red = bgr
    return {"color": f"#{red:02x}{green:02x}{blue:02x}"}


def _sequences(names: Any, where: str, split: str) -> list[str]:
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ConfigError(f"{where}: split.{split}: expected a list, got {shown(names)}")
    return [f"{name:02d}" if isinstance(name, int) else str(name) for name in names]


def _plain_name(name: Any, stem: str) -> str:
    text = name if isinstance(name, str) and name else stem
    return "".join(char if char.isalnum() and char.isascii() else "-" for char in text)[:60]
