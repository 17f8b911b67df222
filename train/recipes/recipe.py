"""Recipes: all settings of a training run, from TOML files and dotted overrides."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pass2d.common.errors import ConfigError
from pass2d.common.plain import NONE_WORD, from_plain, require_known, to_plain
from pass2d.common.progress import Progress, Silent
from pass2d.models.backends.choice import BackendName
from pass2d.models.registry import MODELS, NAMED_CONFIGS
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.stream import StreamConfig
from pass2d.train.optim.average import AverageConfig
from pass2d.train.optim.losses import LossConfig
from pass2d.train.optim.optimizer import OptimizerConfig
from pass2d.train.optim.schedule import ScheduleConfig
from pass2d.train.recipes.files import read_table
from pass2d.train.recipes.keys import require_known_keys
from pass2d.train.recipes.renames import renamed_settings
from pass2d.train.stacks.config import StackConfig

_NO_TEXT = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")
"""Control characters, and bytes of a file name that are no UTF-8."""
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_LARGEST_SEED = 2**63 - 1
"""Of torch, and of TOML."""
_MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """Which network."""

    config: str = "2dpass-small"
    """A name of `pass2d_models.registry.NAMED_CONFIGS`, or a kind of `MODELS`."""
    settings: dict[str, object] = field(default_factory=dict)
    """Settings of that network to override, e.g. ``hidden = 32``."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which scans."""

    train_splits: tuple[str, ...] = ("train",)
    """("train", "val") trains on both, as for a submission."""
    sequences: tuple[str, ...] | None = None
    """Train on these sequences only."""
    limit: int = 0
    """Train on at most this many scans, evenly spaced over the split; 0: all."""
    classes: Literal["static", "moving"] = "static"
    """"moving": moving objects have separate classes (SemanticKITTI: 25 instead of 19)."""
    class_weights: Literal["auto", "on", "off"] = "auto"
    """"auto": as published for the data set (SemanticKITTI yes, nuScenes no)."""

    def __post_init__(self) -> None:
        if not self.train_splits:
            raise ValueError("train_splits must name a split")
        if self.sequences is not None and not self.sequences:
            raise ValueError('sequences must name one, or be "none" for all of them')
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """When the network is validated, and how the best one is chosen."""

    split: str = "val"
    every_epochs: int = 1
    """Epochs between validations; 0: never. Otherwise the last epoch is always validated."""
    limit: int = 0
    """At most this many scans, evenly spaced; 0: all."""
    protocol: Literal["official", "published"] = "official"
    """Which mIoU decides which checkpoint is best; both are logged."""
    patience: int = 50
    """Stop after this many validations without a better mIoU; 0: never."""
    keep_best: int = 1
    """How many of the best checkpoints to keep."""

    def __post_init__(self) -> None:
        if min(self.every_epochs, self.limit, self.patience) < 0:
            raise ValueError("every_epochs, limit and patience must not be negative")
        if self.keep_best < 1:
            raise ValueError(f"keep_best must be at least 1, got {self.keep_best}")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often a run logs and saves."""

    every_steps: int = 50
    """Optimizer steps between log lines."""
    save_steps: int = 500
    """Optimizer steps between checkpoints; 0: only at the end of each epoch, which always saves."""
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.save_steps < 0:
            raise ValueError("every_steps must be at least 1 and save_steps not negative")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run. Defaults: 2DPASS small on SemanticKITTI, as published."""

    name: str = "2dpass-small"
    seed: int = 0
    epochs: int = 64
    batch_size: int = 8
    """Scans per device and backward pass."""
    accumulate: int = 1
    """Backward passes per optimizer step."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Of the forward pass; losses and weights stay float32."""
    device: str = "auto"
    """"auto": the GPU if there is one; else as torch names it: "cpu", "cuda:1"."""
    backend: BackendName = "auto"
    """Of the sparse convolutions: "native" (torch alone), "spconv", "triton" (GPUs only). "auto":
    native on a CPU; on a GPU spconv or spconv-triton, whichever is installed."""
    tf32: bool = False
    """Let an NVIDIA GPU use TF32 (10-bit mantissa) for float32 products in dense and sparse layers,
    which is faster; augmentation does not use it."""
    deterministic: bool = False
    """Make training on a GPU bit-reproducible, which is slower: deterministic algorithms, and the
    backend "native". On a CPU it always is, with the same torch_threads."""
    torch_threads: int = 0
    """CPU threads of torch; 0 leaves it to torch. Affects the last digits of the weights."""
    start_from: str = ""
    """Checkpoint to fine-tune; tensors that depend on other classes are initialised again."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over the scans of all devices."""
    lost_after_s: int = 60
    """Seconds without a heartbeat after which another process counts as lost and the run ends."""
    resume_anyway: bool = False
    """Resume even if the cache or these settings have changed."""
    network: NetworkChoice = field(default_factory=NetworkChoice)
    data: DataConfig = field(default_factory=DataConfig)
    stack: StackConfig = field(default_factory=StackConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lost_after_s < 2:
            raise ValueError(f"lost_after_s must be at least 2, got {self.lost_after_s}")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"seed must lie in 0..{_LARGEST_SEED}, got {self.seed}")
        if not 0 <= self.torch_threads <= _MOST_THREADS:
            raise ValueError(
                f"torch_threads must lie in 0..{_MOST_THREADS}, got {self.torch_threads}"
            )
        if self.schedule.kind == "cosine-epoch" and self.schedule.floor > (
            self.optimizer.learning_rate
        ):
            raise ValueError(
                f"schedule.floor = {self.schedule.floor} lies above optimizer.learning_rate = "
                f"{self.optimizer.learning_rate}: the rate would rise. Set a lower schedule.floor"
            )
        if self.schedule.kind == "plateau" and self.validation.every_epochs == 0:
            raise ValueError(
                "schedule.kind = 'plateau' follows the validations, but validation.every_epochs = "
                "0 means none"
            )


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *, progress: Progress | None = None
) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a name of `recipe_files.recipe_names`, or a TOML file.
        overrides: "optimizer.learning_rate=0.1"; values are TOML, bare words are text.
        progress: receives old names of settings, which are still read.

    Raises:
        ConfigError: no such recipe, an unknown key (the nearest is proposed), a wrong value.
    """
    progress = progress or Silent()
    table = read_table(name_or_path, progress=progress)
    table.setdefault("name", Path(name_or_path).stem.encode(errors="replace").decode())
    require_known_keys(table, Recipe, where=str(name_or_path))
    for override in overrides:
        _apply(table, override, progress)
    try:
        recipe = from_plain(Recipe, table, where=str(name_or_path))
        _require_writable(to_plain(recipe), where=str(name_or_path))
        try:
            network_settings(recipe)
        except ConfigError as error:
            raise ConfigError(f"{name_or_path}.{error}") from error
    except ConfigError as error:
        raise ConfigError(_with_override(str(error), str(name_or_path), overrides)) from error
    return recipe


def network_settings(recipe: Recipe) -> tuple[str, dict[str, object]]:
    """Kind and complete settings of the recipe's network.

    Raises:
        ConfigError: no such network, or a setting that it does not have or cannot take.
    """
    choice = recipe.network
    require_known(choice.config, [*NAMED_CONFIGS, *MODELS], where="network.config", what="network")
    kind, settings = choice.config, dict(choice.settings)
    if choice.config in NAMED_CONFIGS:
        named = NAMED_CONFIGS[choice.config]
        kind, settings = named.kind, {**named.settings, **settings}
    config = MODELS[kind].config_type.from_settings(settings)
    return kind, config.settings()


def without_images(recipe: Recipe) -> Recipe:
    """The same recipe for the 3D network alone, which needs no pictures: the baseline.

    Raises:
        ConfigError: the network has no 2D branch to leave out.
    """
    _, settings = network_settings(recipe)
    if "image_branch" not in settings:
        raise ConfigError(
            f"`baseline_only` leaves out the 2D branch, but {recipe.network.config} has none"
        )
    changed = {**recipe.network.settings, "image_branch": False}
    return replace(recipe, network=replace(recipe.network, settings=changed))


def to_toml(recipe: Recipe) -> str:
    """The complete settings as a recipe file that gives the same recipe.

    By hand, as tomli-w spreads each list over several lines, and TOML has no null either way.
    """
    return "\n".join(_toml_lines(to_plain(recipe), ())) + "\n"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain.items()]
    if path:
        lines = ["", f"[{'.'.join(map(_toml_key, path))}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml_lines(value, (*path, key))
    return lines


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if value is None:
        return f'"{NONE_WORD}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        items = (f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return repr(value)


def _require_writable(value: Any, *, where: str) -> None:
    """Refuse NaN and infinity, with which no setting works, and text that no file can hold."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_writable(item, where=f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _require_writable(item, where=where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value}")
    elif isinstance(value, str) and _NO_TEXT.search(value):
        raise ConfigError(f"{where}: expected text without control characters, got {value!r}")


def _with_override(error: str, where: str, overrides: Sequence[str]) -> str:
    """The error under the name of the override whose setting it is about, if it is one's."""
    reason = error.removeprefix(where)
    for override in reversed(overrides):
        key = override.partition("=")[0].strip()
        table, _, leaf = key.rpartition(".")
        place = f".{table}: " if table else ": "
        if reason.startswith((f".{key}:", f".{key}[", f".{key}.", f"{place}{leaf} ")):
            return f"override {_shortened(override)!r}: {reason.lstrip('.: ')}"
    return error


def _shortened(override: str) -> str:
    return override if len(override) <= 80 else f"{override[:77]}..."


def _apply(table: dict[str, Any], override: str, progress: Progress) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    override = _shortened(override)
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: expected KEY=VALUE, e.g. optimizer.kind=adam")
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # a number of thousands of digits is no number either
        read = {"value": text.strip()}  # a bare word
    if len(read) > 1:
        raise ConfigError(f"override {override!r}: several lines; give each setting by its own")
    value = read["value"]
    if len(parts) > _MOST_PARTS:
        raise ConfigError(f"override {override!r}: no setting has so many parts")
    nested, notes = renamed_settings(_nested(parts, value))
    for note in notes:
        progress.say(f"override {override!r}: {note}")
    require_known_keys(nested, Recipe, where=f"override {override!r}")
    parts, value = _path(nested, depth=len(parts))
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a table")
        table = inner
    table[parts[-1]] = value


_MOST_PARTS = 8


def _nested(parts: Sequence[str], value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for a.b."""
    return {parts[0]: value if len(parts) == 1 else _nested(parts[1:], value)}


def _path(nested: Mapping[str, Any], *, depth: int) -> tuple[list[str], Any]:
    """The reverse of `_nested`."""
    ((key, inner),) = nested.items()
    if depth == 1:
        return [key], inner
    rest, value = _path(inner, depth=depth - 1)
    return [key, *rest], value
