"""Where a run starts, and whether it may be resumed: same data, same settings, or on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.plain import to_plain
from pass2d.common.progress import Progress
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import Checkpoint
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.recipes.recipe import Recipe, load_recipe
from pass2d.train.run.assemble import Job
from pass2d.train.run.finetune import start_from_checkpoint
from pass2d.train.run.state import RunState, base_card, fresh_state, restore_state

_FREE = (
    "name",
    "device",
    "backend",
    "torch_threads",
    "resume_anyway",
    "start_from",
    "lost_after_s",
    "stream.",
    "log.",
)
"""Settings that do not change what is computed."""


def first_state(
    job: Job, stored: Checkpoint | None, folder: RunFolder, card: Card, *, progress: Progress
) -> RunState:
    """Where the run begins: fresh, from another checkpoint's weights, or where it stopped.

    Raises:
        ConfigError: as `require_same_run`.
        CheckpointError: the state or the other checkpoint does not fit.
    """
    if stored is not None:
        require_same_run(job, stored.card, folder, progress)
        state = restore_state(job, stored)
        epoch, place = divmod(state.cursor, job.n_scans)
        progress.say(f"resuming after {epoch} epochs and {place} of {job.n_scans} scans")
        before, now = stored.card.provenance.get("world_size"), str(job.group.world)
        if before != now:
            progress.say(f"{before} processes before, {now} now: batches and steps are others")
        return state
    if job.recipe.start_from:
        start_from_checkpoint(job.network, Path(job.recipe.start_from), card, progress)
    return fresh_state(job)


def require_same_run(job: Job, card: Card, folder: RunFolder, progress: Progress) -> None:
    """Refuse to resume with other data or settings than before, unless ``resume_anyway``.

    Raises:
        ConfigError: names what differs and how to override.
    """
    differences = [
        *data_differences(card.info, job.reader.info),
        *settings_differences(load_recipe(str(folder.settings), progress=progress), job.recipe),
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
    listed = "; ".join(differences[:6])
    more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
    raise ConfigError(
        f"{folder.root}: the run cannot be resumed: {listed}{more}. Resume with "
        "the cache and the settings of that run (its settings.toml is a recipe), start a new run "
        "from its weights (start_from), or override with resume_anyway=true."
    )


def require_no_state_yet(folder: RunFolder) -> None:
    """Let a run without a state start over only if it was killed before its first one.

    Raises:
        CheckpointError: there was a state once.
    """
    if folder.best.exists():
        raise CheckpointError(
            f"{folder.last.parent}: neither {folder.last.name} nor {folder.previous.name} is "
            f"there, so the run cannot be resumed. A new run may start from the weights of "
            f"{folder.best.name} (start_from)."
        )


def data_differences(before: DatasetInfo, now: DatasetInfo) -> list[str]:
    """The differences between two descriptions of a data set, as readable text."""
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
    """Settings that affect the result and have changed."""
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
