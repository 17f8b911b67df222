"""Which runs may go on: same data, same settings, or a person says so."""

from __future__ import annotations

from typing import Any

from cache.errors import ConfigError
from cache.schema import DatasetInfo
from train.assemble import Job
from train.card import Card
from train.folder import RunFolder
from train.recipe import Recipe, load_recipe
from train.settings import to_plain
from train.state import base_card

_FREE = (
    "name",
    "device",
    "torch_threads",
    "resume_anyway",
    "start_from",
    "lost_after_s",
    "stream.",
    "log.",
)
"""Settings that do not change what is computed."""


def require_same_run(job: Job, card: Card, folder: RunFolder) -> None:
    """Refuse to resume with other data or settings than before, unless ``resume_anyway``.

    Raises:
        ConfigError: names what differs and how to override.
    """
    differences = [
        *data_differences(card.info, job.reader.info),
        *settings_differences(load_recipe(str(folder.settings)), job.recipe),
    ]
    fingerprint = card.provenance.get("cache_fingerprint", "")
    if not differences and fingerprint != job.reader.fingerprint:
        differences.append(
            f"cache fingerprint {job.reader.fingerprint[:12]} (was {fingerprint[:12]}): other "
            "scans, labels or stages"
        )
    order, before = base_card(job).provenance["order"], card.provenance.get("order", "scans")
    if order != before:
        differences.append(
            f"the order shuffles {order} (was {before}): a remote store's order is another one"
        )
    n_scans = card.run.get("n_scans")
    if n_scans != job.n_scans:
        differences.append(f"{job.n_scans} training scans (was {n_scans})")
    if not differences or job.recipe.resume_anyway:
        return
    raise ConfigError(
        f"{folder.root}: the run cannot go on as it was: {'; '.join(differences[:6])}. Resume with "
        "the cache and the settings of that run (its settings.toml is a recipe), start a new run "
        "from its weights (start_from), or override with resume_anyway=true."
    )


def data_differences(before: DatasetInfo, now: DatasetInfo) -> list[str]:
    """What tells two descriptions of a data set apart, for a person."""
    differences = []
    if before.labels != now.labels:
        old, new = before.labels.names, now.labels.names
        changed = sorted(set(old) ^ set(new)) or "order, raw ids or colours"
        differences.append(
            f"class table of {len(new)} classes (was {len(old)}; differs: {changed})"
        )
    if before.grid != now.grid:
        differences.append(f"grid {_grid_text(now)} (was {_grid_text(before)})")
    if before.name != now.name:
        differences.append(f"data set {now.name} (was {before.name})")
    return differences


def settings_differences(before: Recipe, now: Recipe) -> list[str]:
    """Settings that change what is computed and are not what they were."""
    old, new = _flat(to_plain(before)), _flat(to_plain(now))
    return [
        f"{key} = {new.get(key)} (was {old.get(key)})"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(_FREE)
    ]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _grid_text(info: DatasetInfo) -> str:
    grid = info.grid
    return f"{'x'.join(map(str, grid.shape))} over {grid.low}..{grid.high}"
