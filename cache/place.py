"""Tells a remote store's URL from a folder."""

from __future__ import annotations

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def is_url(text: str) -> bool:
    """Whether ``--cache`` names a remote store: "s3://bucket/prefix", "memory://x"."""
    return _URL.match(text) is not None
