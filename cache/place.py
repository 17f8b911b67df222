"""Tells a remote store's URL from a folder."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def is_url(text: str) -> bool:
    """Whether ``--cache`` names a remote store: "s3://bucket/prefix", "memory://x"."""
    return _URL.match(text) is not None


def absolute_place(text: str) -> str:
    """A URL as it is, a path made absolute; "file:///data/cache" and "local://" are paths."""
    match = re.match(r"(?:file|local)://(/.*)", text)
    if match is not None:
        return str(Path(unquote(match[1])).resolve())
    return text.rstrip("/") if is_url(text) else str(Path(text).resolve())


def dataset_place(cache_root: str, name: str) -> Path | str:
    """The folder or URL of data set ``name`` below ``--cache``."""
    return f"{cache_root.rstrip('/')}/{name}" if is_url(cache_root) else Path(cache_root) / name
