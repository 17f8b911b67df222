"""Findings on GPUs: the driver, whose machine code each runs, TF32."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pass2d.commands.doctor.finding import Finding
from pass2d.common.spconv_builds import Builds

LEAST_DRIVER = {11: 520, 12: 525, 13: 580}
"""CUDA's major version -> the oldest driver with which libraries built for it run."""
SPCONV_CODE = {"cu114": 86}
"""Newest architecture that a build of spconv 2.3.8 has machine code for, where it is not 90."""
_NEW_DRIVER = (
    "Install a newer driver (https://www.nvidia.com/drivers), or a torch for an older CUDA."
)


def driver_findings(values: Mapping[str, Any], builds: Builds) -> list[Finding]:
    """The driver, and what torch and spconv need of it.

    Args:
        values: The answer of the probe of torch.
        builds: Installed builds of spconv.
    """
    driver = str(values.get("driver") or "")
    if not driver or not values["cuda"]:
        return []
    needs = {
        f"torch for CUDA {values['cuda']}": LEAST_DRIVER.get(int(values["cuda"].split(".")[0]))
    }
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
        device: Of the probe of torch: its name and compute capability.
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
    values: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Whether products may be made with TF32, and what overrides the recipe's setting.

    Args:
        values: The answer of the probe of torch.
        environment: Of the process.
    """
    if not values["devices"]:
        return []
    newest = max(float(device["capability"]) for device in values["devices"])
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
    states = {name: "on" if values.get(key) else "off" for name, key in _SWITCHES.items()}
    torch = ", ".join(f"{name} {state}" for name, state in states.items())
    found = f"`tf32` of the recipe decides for training, by default off; torch by itself: {torch}"
    return [Finding(name="TF32", state="ok", found=found)]


_SWITCHES = {"matrix products": "tf32_matmul", "cuDNN": "tf32_cudnn"}
