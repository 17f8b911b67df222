"""What all parts share: the device, the size of the work, the synthetic worlds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from pass2d.common.processes import usable_cores
from pass2d.common.progress import Silent
from pass2d.models.registry import MODELS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.synth.config import preset
from pass2d.synth.generate import generate
from pass2d.train.recipes.recipe import Recipe, load_recipe, network_settings

NETWORKS = ("2dpass-small", "minkowskinet", "spvcnn")
_NARROW = {"hidden": 4, "width_factor": 0.0625}
_STREETS = tuple(f"{number:02d}" for number in (0, 1, 2, 3, 4, 5, 6, 8))


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    part: str
    what: str
    measured: str
    beside: str = ""
    """A goal, an estimate, or what the other side of a comparison gave."""
    is_reached: bool | None = None
    """Whether the goal is; None: there is none, or it is not to be judged here."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Of a whole run."""

    device: str
    folder: Path
    is_small: bool
    """Whether all is made tiny: shows that every part runs, and measures nothing."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def is_cuda(self) -> bool:
        return self.torch_device.type == "cuda"

    @property
    def batch(self) -> int:
        return 2 if self.is_small else 8

    def estimate(self, text: str) -> str:
        """What was estimated for an H100; "" where nothing measured can be held against it."""
        return (
            f"estimate for an H100: {text}" if text and self.is_cuda and not self.is_small else ""
        )

    def judged(self, is_reached: bool, *, on: str = "") -> bool | None:
        """Whether a goal is reached, None where a run cannot tell.

        Args:
            is_reached: By the numbers.
            on: Part of the name of the GPU that the goal is for; "": for any device.
        """
        if self.is_small or (on and not (self.is_cuda and on in gpu_name(self.torch_device))):
            return None
        return is_reached

    def cache(self, world: str) -> Path:
        """Root of the cache of a world, see `make_worlds`."""
        return self.folder / world / "cache"

    def recipe(self, name: str, *overrides: str) -> Recipe:
        """A recipe on this device; without what a bare machine lacks."""
        common = [f"device={self.device}", "log.tensorboard=false", f"batch_size={self.batch}"]
        threads = usable_cores()
        common.append(f"stream.threads={max(1, min(8, threads // 2))}")
        if self.is_small:
            kind, _ = network_settings(load_recipe(name))
            known = {f.name for f in fields(MODELS[kind].config_type)}
            common += [f"network.settings.{k}={v}" for k, v in _NARROW.items() if k in known]
            common += ["augment.crop_hw=[32, 96]"]
        return load_recipe(name, [*common, *overrides])

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch_device)


def gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def attempted(part: str, what: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows until something fails, which is a row of its own; what comes after it goes on."""
    try:
        yield from rows
    except Exception as error:  # noqa: BLE001  # of whatever kind
        lines = str(error).strip().splitlines() or [""]
        failed = f"failed: {type(error).__name__}: {lines[0][:200]}"
        yield Row(part=part, what=what, measured=failed, is_reached=False)


class Clock:
    """How much is left of a part's time."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def make_worlds(setup: Setup, _clock: Clock) -> Iterator[Row]:
    """Generate and prepare: "full" has scans and pictures of KITTI's size, "demo" small streets."""
    workers = 0 if setup.is_small else usable_cores()
    small = {"scans": 2}
    worlds = {
        "full": preset("tiny", **small)
        if setup.is_small
        else preset("full", sequences=("00", "08"), scans=16, workers=workers),
        "demo": preset("tiny", **small)
        if setup.is_small
        else preset("demo", sequences=_STREETS, workers=workers),
    }
    for name, world in worlds.items():
        begin = time.perf_counter()
        raw, cache = setup.folder / name / "raw", setup.cache(name)
        generate(raw, world, Silent())
        made = time.perf_counter()
        listing = list_semkitti(raw)
        prepare(listing, cache / listing.info.name, PrepareConfig(workers=0), Silent())
        n, done = len(listing.scans), time.perf_counter()
        yield Row(
            part="worlds",
            what=f"synthetic world {name!r}: {n} scans",
            measured=f"generated in {made - begin:.1f} s, prepared in {done - made:.1f} s",
        )
