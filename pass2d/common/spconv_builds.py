"""Which builds of spconv are installed, and whether they may be imported; imports none of them."""

from __future__ import annotations

import re
from importlib.metadata import distributions

_SAFE = (2, 3, 8)
"""Older ones end the process (SIGFPE) beside NumPy 2."""

Builds = tuple[tuple[str, str], ...]
"""Name and version of each build."""


def spconv_builds() -> Builds:
    """The installed builds, which all share one folder."""
    found = {
        (str(one.metadata["Name"]), one.version)
        for one in distributions()
        if re.fullmatch(r"spconv(-cu\d+)?", str(one.metadata["Name"] or "").lower())
    }
    return tuple(sorted(found))


def spconv_problem(builds: Builds, numpy_version: str) -> str:
    """Why the installed spconv must not even be imported; "" if it may.

    Args:
        builds: See `spconv_builds`.
        numpy_version: Of NumPy.
    """
    for name, version in builds:
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers < _SAFE and not numpy_version.startswith("1."):
            return (
                f"{name} {version} crashes beside NumPy {numpy_version}: "
                "pip install 'spconv-cu118>=2.3.8'"
            )
    return ""
