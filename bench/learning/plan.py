"""What shall be run, from settings.toml and the recipes beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pass2d.common.plain import from_plain
from pass2d.train.recipes.recipe import Recipe, load_recipe

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class World:
    """Of `pipeline.synth.config.preset`."""

    preset: str
    seed: int
    scans: int
    interval_s: float
    sequences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Networks that are trained alike."""

    seeds: tuple[int, ...]
    networks: tuple[str, ...]
    """Recipes beside settings.toml."""
    common: tuple[str, ...] = ()
    """Overrides of every run."""
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> its overrides: each network is trained in each of them; without any, as it is."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that is compared."""
        of_each = [f" {variant}" for variant in self.variants] or [""]
        return tuple(network + variant for network in self.networks for variant in of_each)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes whose mean is reported by itself."""

    colour: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """One recipe with each augmentation switched off in turn."""

    recipe: str
    seeds: tuple[int, ...]
    all_on_seeds: tuple[int, ...]
    common: tuple[str, ...] = ()
    """Overrides of every run."""
    switched: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> its overrides."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """settings.toml."""

    world: World
    comparison: Comparison
    classes: Classes
    augmentations: Augmentations | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run."""

    group: str
    """"comparison" or "augmentations"."""
    name: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Below the work folder."""
        return f"{self.group}/{self.name.replace(' ', '-')}-seed{self.seed}"


ALL_ON = "all on"


def load_plan(path: Path) -> Plan:
    """Read settings.toml; a key that it does not know is an error."""
    return from_plain(Plan, tomllib.loads(path.read_text()), where=path.name)


def tasks(plan: Plan, *, overrides: Iterable[str] = ()) -> list[Task]:
    """All runs, the comparison first, seed by seed."""
    extra = list(overrides)
    found = [
        _task("comparison", name, seed, network, [*plan.comparison.common, *changes, *extra])
        for seed in plan.comparison.seeds
        for name, network, changes in _compared(plan.comparison)
    ]
    chosen = plan.augmentations
    if chosen is None:
        return found
    cases: list[tuple[str, int, Iterable[str]]] = [(ALL_ON, chosen.all_on_seeds[0], ())]
    cases += [(name, seed, off) for seed in chosen.seeds for name, off in chosen.switched.items()]
    cases += [(ALL_ON, seed, ()) for seed in chosen.all_on_seeds[1:]]
    found += [
        _task("augmentations", name, seed, chosen.recipe, [*chosen.common, *off, *extra])
        for name, seed, off in cases
    ]
    return found


def _compared(chosen: Comparison) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, recipe and overrides of everything that is compared."""
    changes = list(chosen.variants.values()) or [()]
    pairs = [(network, change) for network in chosen.networks for change in changes]
    return [
        (name, network, change) for name, (network, change) in zip(chosen.names, pairs, strict=True)
    ]


def _task(group: str, name: str, seed: int, recipe: str, overrides: list[str]) -> Task:
    settings = load_recipe(str(HERE / f"{recipe}.toml"), [*overrides, f"seed={seed}"])
    return Task(group=group, name=name, seed=seed, recipe=settings)


def plain_world(world: World) -> Mapping[str, Any]:
    """The changes to the preset."""
    return {
        "seed": world.seed,
        "scans": world.scans,
        "interval_s": world.interval_s,
        "sequences": world.sequences,
    }
