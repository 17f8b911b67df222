"""Distinguishes a remote store's URL from a folder."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.parse import unquote

from pass2d.common.errors import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_LOCAL = re.compile(r"(?:file|local):(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE)
_WITH_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https")
_MEANT_AS_URL = re.compile(
    r"(file|local|s3a?|gs|gcs|az|abfss?|https?|hdfs|s?ftp|memory):", re.IGNORECASE
)


def is_url(text: str) -> bool:
    """Whether ``--cache`` names a remote store: "s3://bucket/prefix", "memory://x"."""
    return _URL.match(text) is not None


def absolute_location(text: str) -> str:
    """A URL in its one form, a path made absolute; "file:///data/cache" and "local://" are paths.

    Raises:
        ConfigError: a URL that names no place, or one with a slash too few.
    """
    match = _LOCAL.fullmatch(text)
    if match is not None:
        return str(Path(unquote(match[1])).resolve())
    if is_url(text):
        return canonical_url(text)
    meant = _MEANT_AS_URL.match(text)
    if meant is not None:
        raise ConfigError(f"{text}: expected e.g. {_example(meant[1])} (for a folder: ./{text}).")
    return str(Path(text).resolve())


def canonical_url(text: str) -> str:
    """The canonical form of a URL: protocol in lower case, single slashes, none at the end.

    Raises:
        ConfigError: it names no place.
    """
    with contextlib.suppress(UnicodeError):  # words of the command line in a locale like C
        text = text.encode("utf-8", "surrogateescape").decode()
    protocol, mark, rest = re.split(r"(://|::)", text, maxsplit=1)
    protocol = protocol.lower()
    if protocol in ("file", "local"):
        raise ConfigError(f"{text}: expected e.g. {_example(protocol)}.")
    rest = re.sub(r"(?<![:/])/{2,}", "/", rest).rstrip("/")
    if not rest.strip("/") or (rest.startswith("/") and protocol in _WITH_BUCKETS):
        raise ConfigError(f"{text}: names no location. Expected e.g. {_example(protocol)}.")
    return f"{protocol}{mark}{rest}"


def _example(protocol: str) -> str:
    protocol = protocol.lower()
    return "file:///data/cache" if protocol in ("file", "local") else f"{protocol}://bucket/prefix"


def dataset_location(cache_root: str, name: str) -> Path | str:
    """The folder or URL of data set ``name`` below ``--cache``."""
    return f"{cache_root.rstrip('/')}/{name}" if is_url(cache_root) else Path(cache_root) / name
