"""The header of a checkpoint file: the card as JSON. No torch."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from pass2d.cache.check_manifest import check_info
from pass2d.common.errors import CacheError, CheckpointError, ConfigError
from pass2d.common.files import NO_PERMISSION, open_file
from pass2d.common.plain import from_plain
from pass2d.train.checkpoints.card import Card
from pass2d.train.recipes.renames import renamed_metrics


def require_file(path: Path) -> None:
    """Refuse a path that is not a readable file, saying what it is.

    Raises:
        CheckpointError: no regular file, or none that may be read.
    """
    try:
        os.close(open_file(path))
        return
    except (FileNotFoundError, NotADirectoryError):
        text = "no such checkpoint file"
    except IsADirectoryError:
        text = (
            "a folder, where a checkpoint file is expected; of a run it is "
            "checkpoints/best.safetensors in its folder"
        )
    except PermissionError:
        text = f"{NO_PERMISSION}."
    except OSError as error:
        text = f"cannot be read ({error.strerror})"
    raise CheckpointError(f"{path}: {text}")


def card_of(text: str) -> Card:
    """Read a card as `dumps` wrote its plain form.

    Raises:
        ValueError: It is none.
    """
    try:
        card = from_plain(Card, under_new_names(loads_once(text))[0], where="card")
        check_info(card.info, where="card.info")
    except (ValueError, RecursionError, CacheError, ConfigError) as error:
        raise ValueError(f"its card is unreadable ({error!s:.300})") from error
    return card


def under_new_names(card: Any) -> tuple[Any, list[str]]:
    """A plain card with old names replaced, and a readable line for each of them."""
    metrics = card.get("metrics") if isinstance(card, dict) else None
    if not isinstance(metrics, dict):
        return card, []
    renamed, notes = renamed_metrics(metrics)
    return {**card, "metrics": renamed}, notes


def dumps(value: Any) -> str:
    """JSON in the canonical form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def loads_once(text: str) -> Any:
    """Parse JSON, refusing what readers would interpret differently: duplicate keys, NaN, infinity.

    Raises:
        ValueError, RecursionError: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise ValueError("a key occurs twice")
        return table

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number[:20]} is no number of JSON")
        return value

    return json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite)


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error for a damaged file."""
    return CheckpointError(
        f"{path}: truncated or damaged: {reason[:300]}. Copy it again, or use an older checkpoint."
    )
