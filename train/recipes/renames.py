"""Old names in settings, logs and cards, which are still read, with a message giving the new name.

Only this file knows old names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

V = TypeVar("V")

_METRICS = {"miou_seed": "miou_published"}
"""The accuracy beside it is not in the list: that of `published` counts other points than the old
one did, which therefore keeps its old name."""


def renamed_settings(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe's table (or a part of it) under today's names.

    Args:
        table: as a file or an override gives it.

    Returns:
        The same settings, and a line for a person per old name.
    """
    renamed, notes = dict(table), list[str]()
    augment, validation = renamed.get("augment"), renamed.get("validation")
    if isinstance(augment, Mapping):
        ratio = augment.get("dropout")
        is_number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if is_number and -1e9 < ratio < 1e9:  # type: ignore[operator]  # else: refused as it is
            rest = {key: value for key, value in augment.items() if key != "dropout"}
            renamed["augment"] = {"dropout_ratio": ratio, **rest}
            notes.append(
                f"augment.dropout = {ratio} is called augment.dropout_ratio now; augment.dropout "
                'sets what happens to dropped points: "copy" (default, as published: their copies '
                'count in the losses of the picture too) or "remove"'
            )
    augment = renamed.get("augment")
    if isinstance(augment, Mapping) and isinstance(augment.get("mix"), bool):
        rest = {key: value for key, value in augment.items() if key != "mix"}
        mixes = [{"instance-copy": 1.0}] if augment["mix"] else []
        renamed["augment"] = {"mixes": mixes, **rest}
        notes.append(
            f"augment.mix = {str(augment['mix']).lower()} is called augment.mixes = "
            f"{'[{instance-copy = 1.0}]' if mixes else '[]'} now"
        )
    if isinstance(validation, Mapping) and validation.get("protocol") == "seed":
        renamed["validation"] = {**validation, "protocol": "published"}
        notes.append('validation.protocol = "seed" is called "published" now')
    return renamed, notes


def renamed_metrics(values: Mapping[str, V]) -> tuple[dict[str, V], list[str]]:
    """Metrics of a log's line or a card under today's names.

    Args:
        values: by name, e.g. "miou_seed" or "val/miou_seed".

    Returns:
        The same values in the same order, and a line for a person per old name.
    """
    renamed, notes = {}, list[str]()
    for name, value in values.items():
        group, slash, leaf = name.rpartition("/")
        new = f"{group}{slash}{_METRICS.get(leaf, leaf)}"
        if new != name:
            notes.append(
                f"{name} is called {new} now; accuracy_seed counted only labelled points with a "
                "prediction and keeps its name"
            )
        renamed[new] = value
    return renamed, notes
