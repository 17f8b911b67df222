"""The table as Markdown."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from bench.gpu.setup import Row, Setup


def markdown(rows: Sequence[Row], known: Mapping[str, str]) -> str:
    lines = [f"## On a GPU: {known['device']}", ""]
    lines.append("; ".join(f"{name} {value}" for name, value in known.items() if name != "device"))
    lines += ["", "| part | what | measured | goal, estimate or other side |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.part, row.what, row.measured, row.beside)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def facts(setup: Setup) -> dict[str, str]:
    """On what and with what."""
    known = {"device": "CPU (no GPU)"}
    if setup.is_cuda and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(setup.torch_device)
        known["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif setup.is_cuda:
        known["device"] = f"{setup.device}, which torch does not see"
    known["`python -m bench.gpu`"] = ("small, " if setup.is_small else "") + str(
        datetime.datetime.now(tz=datetime.UTC).date()
    )
    known["commit"] = _answer(
        "git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"
    )
    known["torch"] = f"{torch.__version__} (CUDA {torch.version.cuda})"
    known["driver"] = _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    builds = [
        f"{one.name} {one.version}"
        for one in metadata.distributions()
        if (one.name or "").startswith("spconv")
    ]
    known["with"] = ", ".join(sorted(set(builds))) or "no spconv"
    return {name: value for name, value in known.items() if value}


def _answer(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""
