"""Findings on torch, spconv, torch-scatter, TensorBoard and Ray."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version

from pass2d.commands.doctor.finding import Finding
from pass2d.commands.doctor.process import PROBE_S, Answer, Ask, ask
from pass2d.common.errors import CacheError
from pass2d.common.spconv_builds import Builds, spconv_builds, spconv_problem

TOLERANCE = 1e-3
"""Of a convolution whose values are about 1, in float32 or TF32 products."""
REINSTALL = "Reinstall in a fresh environment; in a checkout: rm -r .venv; make setup"


def has_spconv() -> bool:
    """Whether any build of spconv is there; imports none."""
    return importlib.util.find_spec("spconv") is not None


def is_sound(torch: Answer) -> bool:
    """Whether torch computes on the CPU.

    Args:
        torch: The answer of its probe.
    """
    return torch.values is not None and torch.values["sum"] == 64**3


def torch_findings(torch: Answer) -> list[Finding]:
    """Torch on the CPU.

    Args:
        torch: The answer of its probe.
    """
    name = "torch"
    if torch.values is None:
        remedy = "Training and prediction need it. " + REINSTALL
        return [Finding(name=name, state="broken", found=torch.failure, remedy=remedy)]
    values = torch.values
    if not is_sound(torch):
        found = f"{values['version']}: a matrix product is wrong on the CPU"
        return [Finding(name=name, state="broken", found=found, remedy=REINSTALL)]
    build = f"CUDA {values['cuda']}" if values["cuda"] else "CPU only"
    return [Finding(name=name, state="ok", found=f"{values['version']} ({build})")]


def spconv_build_findings(builds: Builds | None = None) -> list[Finding]:
    """The installed builds of spconv, as their names and versions tell; none is imported.

    Args:
        builds: Those to judge; by default the installed ones.
    """
    builds = spconv_builds() if builds is None else builds
    named = ", ".join(f"{name} {version}" for name, version in builds)
    if len(builds) > 1:
        return [
            Finding(
                name="spconv builds",
                state="warning",
                found=f"{named}: they overwrite each other in one folder",
                remedy="Uninstall all of them, then install one: pip install 'spconv-cu118>=2.3.8'",
            )
        ]
    what, _, remedy = spconv_problem(builds, version("numpy")).partition(": ")
    if what:
        return [Finding(name="spconv builds", state="broken", found=what, remedy=remedy)]
    return []


def backend_findings(devices: Sequence[str], found: Sequence[Finding]) -> list[Finding]:
    """Which sparse convolutions would be used on each device that works, and why.

    Args:
        devices: "cpu", "cuda:0", ...
        found: What was found on them and on spconv there.
    """
    works = {finding.name for finding in found if finding.state == "ok"}
    broken = {finding.name for finding in found if finding.state == "broken"}
    said = []
    for device in devices:
        if device == "cpu":
            said.append("cpu: native (torch alone)")
        elif device in broken:
            continue
        elif f"spconv on {device}" in works:
            said.append(f"{device}: spconv (it passes its test)")
        elif importlib.util.find_spec("spconv_triton") is not None:
            said.append(f"{device}: triton (spconv does not work there)")
        else:
            said.append(f"{device}: native (neither spconv nor spconv-triton works there)")
    if not said:
        return []
    return [Finding(name="sparse convolutions", state="ok", found="; ".join(said))]


def _no_spconv(name: str, device: str) -> Finding:
    return Finding(
        name=name,
        state="ok" if device == "cpu" else "warning",
        found="not installed; torch alone computes the sparse convolutions",
        remedy="" if device == "cpu" else "For speed on a GPU: pip install 'spconv-cu118>=2.3.8'",
    )


def spconv_findings(
    device: str, ask: Ask = ask, installed: Callable[[], bool] = has_spconv
) -> list[Finding]:
    """A sparse convolution forward and backward on one device."""
    name = f"spconv on {device}"
    if not installed():
        return [_no_spconv(name, device)]
    answer = ask("spconv", device, timeout_s=PROBE_S)
    if answer.values is None:
        return [
            Finding(
                name=name,
                state="broken",
                found=answer.failure,
                remedy="Train and predict with backend = native until it is fixed: remove all "
                "builds (pip list | grep spconv), then pip install 'spconv-cu118>=2.3.8'",
            )
        ]
    errors = [answer.values["forward_error"], answer.values["backward_error"]]
    worst = max(errors)
    found = (
        f"{answer.values['version']}: forward and backward match a dense convolution, "
        f"largest difference {worst:.1e}"
    )
    if not all(error <= TOLERANCE for error in errors):  # NaN is no smaller than anything
        return [
            Finding(
                name=name,
                state="broken",
                found=f"{answer.values['version']}: wrong numbers, off by {errors}",
                remedy="Do not train with it. pip install --force-reinstall 'spconv-cu118>=2.3.8'",
            )
        ]
    return [Finding(name=name, state="ok", found=found)]


def has_scatter() -> bool:
    """Whether torch-scatter is installed; does not import it."""
    return importlib.util.find_spec("torch_scatter") is not None


def no_scatter_findings() -> list[Finding]:
    """That torch-scatter is not installed."""
    return [
        Finding(
            name="torch-scatter",
            state="ok",
            found="not installed; results are the same without it",
            remedy="Optional, for speed: pip install --no-build-isolation 'pass2d[scatter]'",
        )
    ]


def scatter_findings(device: str, ask: Ask = ask) -> list[Finding]:
    """torch-scatter, which is optional, on one device."""
    name = f"torch-scatter on {device}"
    answer = ask("scatter", device, timeout_s=PROBE_S)
    if answer.values is not None and answer.values["sums"] == [1.0, 14.0]:
        found = f"{answer.values['version']}: segment sums are right"
        return [Finding(name=name, state="ok", found=found)]
    is_cpu_build = device != "cpu" and "CUDA" in answer.failure
    return [
        Finding(
            name=name,
            state="warning" if is_cpu_build else "broken",
            found=answer.failure or "wrong sums",
            remedy="It was built for CPUs and is not used on this GPU. Rebuild it with CUDA, or "
            "ignore this."
            if is_cpu_build
            else "It was built for another torch. Rebuild it, or pip uninstall torch-scatter (it "
            "is optional).",
        )
    ]


def tensorboard_findings(ask: Ask = ask) -> list[Finding]:
    """TensorBoard's import, which a protobuf of another version breaks."""
    answer = ask("tensorboard", timeout_s=PROBE_S)
    if answer.values is None:
        return [
            Finding(
                name="TensorBoard",
                state="warning",
                found=answer.failure,
                remedy="pip install --force-reinstall tensorboard, or train without it: "
                "--set log.tensorboard=false",
            )
        ]
    return [Finding(name="TensorBoard", state="ok", found=answer.values["version"])]


def start_ray() -> None:
    """Start Ray as `prepare` does, run a task, and end it.

    Raises:
        CacheError: it does not start; the message names a file of its own words.
    """
    from pass2d.pipeline.run.options import PrepareConfig
    from pass2d.pipeline.run.ray_runner import connected

    with connected(PrepareConfig(workers=1)):
        pass


def ray_findings(
    *, start: bool, ask: Ask = ask, start_ray: Callable[[], None] = start_ray
) -> list[Finding]:
    """Ray's import and, if asked for, a start."""
    answer = ask("ray", timeout_s=PROBE_S)
    remedy = "`pass2d prepare --workers 0` works without Ray. "
    if answer.values is None:
        return [
            Finding(name="Ray", state="broken", found=answer.failure, remedy=remedy + REINSTALL)
        ]
    version = answer.values["version"]
    if not start:
        return [Finding(name="Ray", state="ok", found=f"{version} (not started; --ray starts it)")]
    try:
        start_ray()
    except CacheError as error:
        return [
            Finding(
                name="Ray",
                state="broken",
                found=f"{version}: {error}",
                remedy=remedy + "Check memory and /dev/shm below, and that no proxy is set for "
                "localhost.",
            )
        ]
    return [Finding(name="Ray", state="ok", found=f"{version}: started, ran a task, stopped")]
