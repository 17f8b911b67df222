"""Findings on GPUs: the driver, whose machine code each runs, TF32."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass2d.commands.doctor.finding import Finding
from pass2d.commands.doctor.process import PROBE_S, Answer, Ask, ask
from pass2d.common.progress import format_bytes
from pass2d.common.spconv_builds import Builds

LEAST_DRIVER = {11: 520, 12: 525, 13: 580}
"""CUDA's major version -> the oldest driver with which libraries built for it run."""
SPCONV_CODE = {"cu114": 86}
"""Newest architecture that a build of spconv 2.3.8 has machine code for, where it is not 90."""
LITTLE_GPU_BYTES = 8 << 30
_NEW_DRIVER = (
    "Install a newer driver (https://www.nvidia.com/drivers), or a torch for an older CUDA."
)


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The release of NVIDIA's driver, as the kernel says; "" without one."""
    try:
        text = file.read_text()
    except OSError:
        return ""
    found = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else ""


def cuda_findings(gpus: Answer, cuda: str | None) -> list[Finding]:
    """Why torch has no GPU; nothing where it has.

    Args:
        gpus: The answer of the probe `gpus`.
        cuda: The version of CUDA that torch was built for.
    """
    if gpus.values is not None and gpus.values["devices"]:
        return []
    has_card = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if has_card and cuda is None:
        return [
            Finding(
                name="CUDA",
                state="broken",
                found="there is an NVIDIA driver, but this torch was built without CUDA",
                remedy="Install a torch with CUDA: https://pytorch.org/get-started/locally",
            )
        ]
    if gpus.values is None:
        return [
            Finding(
                name="CUDA",
                state="broken",
                found=f"torch cannot list its GPUs: {gpus.failure}",
                remedy="Run nvidia-smi: if it hangs or fails too, restart the machine or reinstall "
                "the driver. The CPU can be used: --device cpu, train --set device=cpu.",
            )
        ]
    if has_card:
        return [
            Finding(
                name="CUDA",
                state="broken",
                found=f"there is an NVIDIA driver, but torch (CUDA {cuda}) sees no GPU",
                remedy="Run nvidia-smi: is the driver too old for this CUDA, is "
                "CUDA_VISIBLE_DEVICES empty, or does the container lack --gpus all?",
            )
        ]
    return [
        Finding(
            name="CUDA",
            state="warning",
            found="no GPU on this machine",
            remedy="Everything runs on the CPU; for training on a whole data set use a machine "
            "with an NVIDIA GPU.",
        )
    ]


def gpu_findings(device: Mapping[str, Any], ask: Ask = ask) -> list[Finding]:
    """A product of matrices on a GPU, and its memory.

    Args:
        device: Of the probe `gpus`.
        ask: Runs a probe.
    """
    name, memory = device["device"], format_bytes(device["memory"])
    what = f"{device['name']}, compute capability {device['capability']}"
    answer = ask("gpu", name, timeout_s=PROBE_S)
    if answer.values is None:
        return [
            Finding(
                name=name,
                state="broken",
                found=f"{what}, {memory}: {answer.failure}",
                remedy="Is another program using it alone, or is its memory full (see nvidia-smi)? "
                "If not, restart the machine, or leave it out with CUDA_VISIBLE_DEVICES.",
            )
        ]
    free = answer.values["free"]
    found = f"{what}, {format_bytes(free)} of {memory} free"
    if answer.values["sum"] != 64**3:
        return [
            Finding(
                name=name,
                state="broken",
                found=f"{found}: a matrix product is wrong",
                remedy="Restart the machine. If that does not help, the card or its driver is "
                "faulty.",
            )
        ]
    if free < LITTLE_GPU_BYTES:
        return [
            Finding(
                name=name,
                state="warning",
                found=found,
                remedy="Little memory for training: stop other programs on it (see nvidia-smi), "
                "or train with a smaller --set batch_size=N.",
            )
        ]
    return [Finding(name=name, state="ok", found=found)]


def driver_findings(driver: str, cuda: str | None, builds: Builds) -> list[Finding]:
    """The driver, and what torch and spconv need of it.

    Args:
        driver: Its version; "": there is none.
        cuda: The version of CUDA that torch was built for, if it is known.
        builds: Installed builds of spconv.
    """
    if not driver:
        return []
    needs: dict[str, int | None] = {}
    if cuda:
        needs[f"torch for CUDA {cuda}"] = LEAST_DRIVER.get(int(cuda.split(".", maxsplit=1)[0]))
    for name, _ in builds:
        if found := re.search(r"cu(\d\d)\d$", name):
            needs[name] = LEAST_DRIVER.get(int(found[1]))
    said = ", ".join(f"{name} needs {least}" for name, least in needs.items() if least)
    lacking = [
        n for n, least in needs.items() if least and int(driver.split(".", maxsplit=1)[0]) < least
    ]
    found_text = f"{driver}; {said}" if said else driver
    if lacking:
        return [
            Finding(
                name="driver",
                state="broken",
                found=f"{found_text}: too old for {' and '.join(lacking)}",
                remedy=_NEW_DRIVER,
            )
        ]
    return [Finding(name="driver", state="ok", found=found_text)]


def code_findings(
    device: Mapping[str, Any], architectures: Sequence[str], builds: Builds
) -> list[Finding]:
    """Whether torch and spconv have machine code for a GPU, or the driver must compile it.

    Args:
        device: Of the probe `gpus`: its name and compute capability.
        architectures: What torch was built for: "sm_90", "compute_90", ...
        builds: Installed builds of spconv.
    """
    capability = int(str(device["capability"]).replace(".", ""))
    of_torch = _torch_code(capability, architectures)
    said = [f"torch: {of_torch}"] if architectures else []
    is_compiled = of_torch == "compiled by the driver"
    for name, _ in builds:
        if "-cu" not in name:  # built for CPUs
            continue
        newest = SPCONV_CODE.get(name.rpartition("-")[2], 90)
        has_code = capability <= newest
        said.append(f"{name}: {'machine code' if has_code else 'compiled by the driver'}")
        is_compiled |= not has_code
    if not said:
        return []
    found = f"sm_{capability}: {', '.join(said)}"
    name = f"{device['device']}, machine code"
    if of_torch == "none" and architectures:
        remedy = f"This torch has no code for this GPU: {' '.join(architectures)}. Install another."
        return [Finding(name=name, state="broken", found=found, remedy=remedy)]
    if is_compiled:
        return [
            Finding(
                name=name,
                state="warning",
                found=found,
                remedy="The first start takes minutes, then the driver's cache (~/.nv) holds the "
                "code. If spconv fails its test, train with --set backend=triton or native.",
            )
        ]
    return [Finding(name=name, state="ok", found=found)]


def _torch_code(capability: int, architectures: Sequence[str]) -> str:
    """Code for an older GPU of the same generation runs as it is; what is no code, is compiled."""
    known = [(kind, int(number)) for kind, number in _numbered(architectures)]
    same = [n for kind, n in known if kind == "sm" and n // 10 == capability // 10]
    if any(number <= capability for number in same):
        return "machine code"
    if any(kind == "compute" and number <= capability for kind, number in known):
        return "compiled by the driver"
    return "none"


def _numbered(architectures: Sequence[str]) -> list[tuple[str, str]]:
    return [m.groups() for a in architectures if (m := re.match(r"(sm|compute)_(\d+)", a))]  # type: ignore[misc]


def tf32_findings(
    devices: Sequence[Mapping[str, Any]],
    switches: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Whether products may be made with TF32, and what overrides the recipe's setting.

    Args:
        devices: Of the probe `gpus`.
        switches: The answer of the probe `torch`.
        environment: Of the process.
    """
    if not devices:
        return []
    newest = max(float(device["capability"]) for device in devices)
    if newest < 8:
        text = f"not on a GPU of compute capability {newest:g}: it needs 8.0"
        return [Finding(name="TF32", state="ok", found=text)]
    if environment.get("NVIDIA_TF32_OVERRIDE") == "0":
        return [
            Finding(
                name="TF32",
                state="warning",
                found="NVIDIA_TF32_OVERRIDE=0 switches it off in NVIDIA's libraries, whatever a "
                "recipe says",
                remedy="unset NVIDIA_TF32_OVERRIDE; `tf32` of the recipe decides then",
            )
        ]
    states = {name: "on" if switches.get(key) else "off" for name, key in _SWITCHES.items()}
    torch = ", ".join(f"{name} {state}" for name, state in states.items())
    found = f"`tf32` of the recipe decides for training, by default off; torch by itself: {torch}"
    return [Finding(name="TF32", state="ok", found=found)]


_SWITCHES = {"matrix products": "tf32_matmul", "cuDNN": "tf32_cudnn"}
