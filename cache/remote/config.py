"""Settings of remote stores: where fetched files are kept, and how requests are retried."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pass2d.common.errors import ConfigError
from pass2d.common.json import parse


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Local disk space and retry times of a remote store; they do not affect results."""

    folder: Path = field(default_factory=lambda: _home() / ".cache" / "pass2d")
    """Holds one folder per remote data set; may be shared by several processes."""
    limit_bytes: int = 50_000_000_000
    """Shard files of all data sets together."""
    attempts: int = 5
    first_wait_s: float = 0.5
    """Before the second attempt; doubled each time, times a random share of 0.5 to 1."""
    timeout_s: float = 10.0
    """A request without a single byte for so long counts as failed (s3 only)."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Storage options of fsspec, e.g. {"endpoint_url": "..."}; may hold secrets."""

    @classmethod
    def from_environment(cls) -> RemoteConfig:
        """Settings from PASS2D_LOCAL_CACHE and the other variables in `cache/README.md`.

        Raises:
            ConfigError: a value is no positive number, no such home, or options that are no JSON.
        """
        changes: dict[str, Any] = {}
        if folder := os.environ.get("PASS2D_LOCAL_CACHE"):
            changes["folder"] = _resolved(folder)
        if (size := _positive("PASS2D_LOCAL_CACHE_GB", "GB")) is not None:
            changes["limit_bytes"] = int(size * 1e9)
        if (attempts := _positive("PASS2D_STORE_ATTEMPTS", "attempts")) is not None:
            changes["attempts"] = max(1, int(attempts))
        if (wait := _positive("PASS2D_STORE_WAIT", "seconds")) is not None:
            changes["first_wait_s"] = wait
        if (seconds := _positive("PASS2D_STORE_TIMEOUT", "seconds")) is not None:
            changes["timeout_s"] = seconds
        if text := os.environ.get("PASS2D_STORE_OPTIONS"):
            changes["options"] = _options(text)
        return cls(**changes)


def _resolved(folder: str) -> Path:
    try:
        return Path(folder).expanduser().resolve()
    except (RuntimeError, OSError) as error:  # no such home; links in a circle
        raise ConfigError(f"PASS2D_LOCAL_CACHE={folder}: {error} Give an absolute path.") from error


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no HOME and no account, as in some containers
        raise ConfigError(
            "there is no home folder for local copies of a URL: choose a folder by `local_cache` "
            "(or PASS2D_LOCAL_CACHE)."
        ) from error


def _positive(name: str, unit: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ConfigError(f"{name}: found {text!r}, expected {unit} above 0.")
    return value


def _options(text: str) -> dict[str, Any]:
    try:
        value = parse(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):  # it may hold secrets: not shown
        raise ConfigError(
            'PASS2D_STORE_OPTIONS: expected a JSON object such as {"endpoint_url": "http://..."}.'
        )
    return value
