"""Which folder a run works in: the one that was named, a new one, or that of the run to resume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.files import NO_PERMISSION, may_not_look
from pass2d.common.progress import Progress
from pass2d.train.checkpoints.checkpoint import read_card
from pass2d.train.checkpoints.runs import (
    RUNS,
    RunFolder,
    as_typed,
    holds_checkpoints,
    holds_lines,
    new_run_folder,
    run_folders,
)
from pass2d.train.recipes.recipe import Recipe, load_recipe
from pass2d.train.run.resume import settings_differences


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """Where to train."""

    root: Path
    is_resumed: bool
    """Continue the run in the folder; else start a new one."""
    is_new: bool = False
    """The folder is made for this run: it was not there."""


def choose_run(
    named: Path | None,
    recipe: Recipe,
    fingerprint: str,
    *,
    resume: bool,
    progress: Progress,
    runs: Path = RUNS,
) -> RunChoice:
    """Find or make the folder of a run, and say which one it is.

    Args:
        named: by the user; None: a new one below ``runs``.
        recipe: of the run.
        fingerprint: of the cache, which must be the same when a run is resumed.
        resume: continue the run in ``named``, or by default the newest with these settings and this
            cache; start a new one if there is none.
        progress: is told.
        runs: the folder of runs.

    Raises:
        ConfigError: no folder can be made, or the named one may not be read.
    """
    if named is not None:
        if may_not_look(named):
            raise ConfigError(f"{as_typed(named)}: {NO_PERMISSION}.")
        is_new = not named.exists()
        if resume and holds_nothing(named):
            progress.say(f"{as_typed(named)}: no run to resume yet, so it begins")
            return RunChoice(root=named, is_resumed=False, is_new=is_new)
        folder = RunFolder(root=named)
        has_only_begun = folder.settings.is_file() and not holds_checkpoints(folder)
        return RunChoice(root=named, is_resumed=resume or has_only_begun, is_new=is_new)
    if resume:
        found, note = newest_alike(recipe, fingerprint, runs=runs)
        if found is not None:
            progress.say(f"run: {as_typed(found.root.resolve())}, the newest one of these settings")
            return RunChoice(root=found.root.resolve(), is_resumed=True)
        progress.say(f"no run to resume below {runs}/, so a new one begins{note}")
    root = new_run_folder(recipe.name, runs=runs)
    progress.say(f"run: {as_typed(root)}")
    return RunChoice(root=root, is_resumed=False, is_new=True)


def holds_nothing(root: Path) -> bool:
    """Whether a folder is not there, or holds neither a run nor what is left of one, nor runs."""
    if not root.is_dir():
        return not root.exists()
    kinds = ("settings.toml", "*/settings.toml", "checkpoints/*.safetensors")
    has_files = any(found for kind in kinds for found in root.glob(kind))
    return not has_files and not holds_lines(RunFolder(root=root))


def newest_alike(
    recipe: Recipe, fingerprint: str, *, runs: Path = RUNS
) -> tuple[RunFolder | None, str]:
    """The newest run of the same settings and cache; else why the newest of that name is not it.

    With ``resume_anyway`` the newest run of the recipe's name counts, whatever differs.
    """
    note = ""
    for folder in run_folders(runs):
        try:
            before = load_recipe(str(folder.settings))
        except ConfigError as error:
            note = note or f" ({as_typed(folder.root.resolve())} is passed over: {error})"
            continue
        differences = settings_differences(before, recipe)
        if before.start_from != recipe.start_from:  # free to change once a run has begun
            differences.append(f"start_from = {recipe.start_from!r} (was {before.start_from!r})")
        remedy = "`recipe={}/settings.toml` `resume` continues it"
        if not differences and _cache_fingerprint(folder) not in (None, fingerprint):
            differences = ["a cache of other scans, labels or stages"]
            remedy = "its own `cache_root` continues it, or `set=resume_anyway=true` with this one"
        if not differences or (recipe.resume_anyway and before.name == recipe.name):
            return folder, ""
        if before.name == recipe.name and not note:
            where = as_typed(folder.root.resolve())
            note = f" ({where} differs: {'; '.join(differences[:3])}; {remedy.format(where)})"
    return None, note


def _cache_fingerprint(folder: RunFolder) -> str | None:
    """Of a run's newest state that can be read; None before it has one."""
    for path in (folder.incoming, folder.last, folder.previous):
        try:
            return read_card(path).provenance.get("cache_fingerprint")
        except CheckpointError:
            continue
    return None
