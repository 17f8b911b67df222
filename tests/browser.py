"""A headless browser for tests of pages: screenshot, console, requests; skips without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1000,700",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
    "--dump-dom",
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a browser showed."""

    pixels: np.ndarray
    """(H, W, 3)."""
    body: dict[str, str]
    """data-* attributes of the page's body."""
    text: str
    """The page's HTML after its scripts ran."""
    console: tuple[str, ...]
    """Errors and all else that the page said there."""
    requests: tuple[str, ...]
    """Addresses beyond the page's own file and data that the page asked for."""

    def count(self, color: tuple[int, int, int]) -> int:
        """Pixels of exactly this colour."""
        return int((self.pixels == color).all(axis=2).sum())


def browser() -> str:
    """A browser's command; skips when there is none."""
    named = os.environ.get("PASS2D_BROWSER")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(
            "no headless browser: apt-get install chromium, or PASS2D_BROWSER=/path/to/chrome"
        )
    return found


def look(page: Path, folder: Path, *, address: str = "") -> Look:
    """Open a page from disk.

    Args:
        page: The file.
        folder: For the profile and the picture.
        address: What comes behind "#".
    """
    shot, log = folder / "shot.png", folder / "net.json"
    command = [
        browser(),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={shot}",
        f"--log-net-log={log}",
        f"{page.as_uri()}#{address}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert shot.is_file(), done.stderr[-2000:]
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    body = re.search(r"<body([^>]*)>", done.stdout)
    assert body is not None, done.stdout[:500]
    return Look(
        pixels=pixels,
        body=dict(re.findall(r'data-(\w+)="([^"]*)"', body[1])),
        text=done.stdout,
        console=tuple(line for line in done.stderr.splitlines() if ":CONSOLE" in line),
        requests=_requests(log),
    )


def _requests(log: Path) -> tuple[str, ...]:
    """Of the page: the browser's own have "not an origin" for an initiator."""
    text = log.read_text().rstrip().rstrip(",")
    events = json.loads(text if text.endswith("}") and text.count("]}") else text + "]}")["events"]
    params = [event.get("params", {}) for event in events]
    return tuple(
        p["url"]
        for p in params
        if p.get("initiator") not in (None, "not an origin")
        and p.get("url", "").startswith(("http", "ws", "ftp"))
    )
