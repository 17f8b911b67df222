"""Findings on torch, CUDA, spconv, torch-scatter and Ray."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pass2d.commands.doctor.finding import Finding
from pass2d.commands.doctor.gpu import code_findings, driver_findings, tf32_findings
from pass2d.commands.doctor.process import Answer, ask
from pass2d.common.errors import CacheError
from pass2d.common.progress import format_bytes
from pass2d.common.spconv_builds import Builds, spconv_builds, spconv_problem

PROBE_S = 180.0
"""A first import from a cold network disk takes a minute."""
TOLERANCE = 1e-3
"""Of a convolution whose values are about 1, in float32 or TF32 products."""
LITTLE_GPU_BYTES = 8 << 30
REINSTALL = "Reinstall in a fresh environment; in a checkout: rm -r .venv; make setup"

Ask = Callable[..., Answer]


def has_spconv() -> bool:
    """Whether any build of spconv is there; imports none."""
    return importlib.util.find_spec("spconv") is not None


def torch_findings(ask: Ask = ask) -> tuple[list[Finding], list[str]]:
    """Torch and its devices.

    Returns:
        The findings, and the devices that work: "cpu", "cuda:0", ...; none without torch.
    """
    answer = ask("torch", timeout_s=PROBE_S)
    if answer.values is None:
        broken = Finding(
            name="torch",
            state="broken",
            found=answer.failure,
            remedy="Training and prediction need it. " + REINSTALL,
        )
        return [broken], []
    values = answer.values
    if values["sum"] != 64**3:
        broken = Finding(
            name="torch",
            state="broken",
            found=f"{values['version']}: a matrix product is wrong on the CPU",
            remedy=REINSTALL,
        )
        return [broken], []
    build = f"CUDA {values['cuda']}" if values["cuda"] else "CPU only"
    torch = Finding(name="torch", state="ok", found=f"{values['version']} ({build})")
    devices = [d["device"] for d in values["devices"] if d["sum"] == 64**3]
    return [torch, *_cuda(values)], ["cpu", *devices]


def _cuda(values: dict[str, Any], builds: Builds | None = None) -> list[Finding]:
    builds = spconv_builds() if builds is None else builds
    driver = driver_findings(values, builds)
    if not values["devices"]:
        return [_no_cuda(values), *driver]
    architectures = values.get("architectures", ())
    codes = [code_findings(device, architectures, builds) for device in values["devices"]]
    gpus = [_gpu(device) for device in values["devices"]]
    return [*gpus, *driver, *(one for code in codes for one in code), *tf32_findings(values)]


def _gpu(device: dict[str, Any]) -> Finding:
    found = (
        f"{device['name']}, {format_bytes(device['free'])} of {format_bytes(device['memory'])} "
        f"free, compute capability {device['capability']}"
    )
    if device["sum"] != 64**3:
        return Finding(
            name=device["device"],
            state="broken",
            found=f"{found}: a matrix product is wrong",
            remedy="Restart the machine. If that does not help, the card or its driver is faulty.",
        )
    if device["free"] < LITTLE_GPU_BYTES:
        return Finding(
            name=device["device"],
            state="warning",
            found=found,
            remedy="Little memory for training: stop other programs on it (see nvidia-smi), or "
            "train with a smaller --set batch_size=N.",
        )
    return Finding(name=device["device"], state="ok", found=found)


def _no_cuda(values: dict[str, Any]) -> Finding:
    has_card = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if has_card and values["cuda"] is None:
        return Finding(
            name="CUDA",
            state="broken",
            found="there is an NVIDIA driver, but this torch was built without CUDA",
            remedy="Install a torch with CUDA: https://pytorch.org/get-started/locally",
        )
    if has_card:
        return Finding(
            name="CUDA",
            state="broken",
            found=f"there is an NVIDIA driver, but torch (CUDA {values['cuda']}) sees no GPU",
            remedy="Run nvidia-smi: is the driver too old for this CUDA, is CUDA_VISIBLE_DEVICES "
            "empty, or does the container lack --gpus all?",
        )
    return Finding(
        name="CUDA",
        state="warning",
        found="no GPU on this machine",
        remedy="Everything runs on the CPU; for training on a whole data set use a machine with "
        "an NVIDIA GPU.",
    )


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


def backend_findings(devices: list[str], found: list[Finding]) -> list[Finding]:
    """Which sparse convolutions would be used on each device, and why.

    Args:
        devices: That work.
        found: What the probes of spconv found there.
    """
    works = {finding.name for finding in found if finding.state == "ok"}
    said = []
    for device in devices:
        if device == "cpu":
            said.append("cpu: native (torch alone)")
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


def scatter_findings(devices: list[str], ask: Ask = ask) -> list[Finding]:
    """torch-scatter, which is optional, on each device."""
    if importlib.util.find_spec("torch_scatter") is None:
        return [
            Finding(
                name="torch-scatter",
                state="ok",
                found="not installed; results are the same without it",
                remedy="Optional, for speed: pip install --no-build-isolation 'pass2d[scatter]'",
            )
        ]
    findings = []
    for device in devices:
        answer = ask("scatter", device, timeout_s=PROBE_S)
        name = f"torch-scatter on {device}"
        if answer.values is not None and answer.values["sums"] == [1.0, 14.0]:
            found = f"{answer.values['version']}: segment sums are right"
            findings.append(Finding(name=name, state="ok", found=found))
            continue
        is_cpu_build = device != "cpu" and "CUDA" in answer.failure
        findings.append(
            Finding(
                name=name,
                state="warning" if is_cpu_build else "broken",
                found=answer.failure or "wrong sums",
                remedy="It was built for CPUs and is not used on this GPU. Rebuild it with CUDA, "
                "or ignore this."
                if is_cpu_build
                else "It was built for another torch. Rebuild it, or pip uninstall torch-scatter "
                "(it is optional).",
            )
        )
    return findings


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
