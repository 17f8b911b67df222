"""Running as somebody for whom permissions hold."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_VERSION = 0x20080522
_RIGHTS = 1 << 1 | 1 << 2 | 1 << 3
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: what permissions do not bind root by."""
_Words = ctypes.c_uint32 * 6
"""Effective, permitted, inheritable; twice, 32 bits each."""


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions hold for everybody but root, and here for root, too.

    Another user could not import what a command needs where Python lies below /root.
    """
    if os.geteuid() != 0:
        yield
        return
    system = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_VERSION, 0), _Words()

    def call(name: str, words: ctypes.Array[ctypes.c_uint32]) -> None:
        if getattr(system, name)(header, words):
            raise OSError(ctypes.get_errno(), name)

    call("capget", before)
    call("capset", _Words(before[0] & ~_RIGHTS, *before[1:]))
    try:
        yield
    finally:
        call("capset", before)


@contextlib.contextmanager
def open_place() -> Iterator[Path]:
    """A folder that others may enter; pytest's own is private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path, _, _ in os.walk(folder, topdown=True):
            Path(path).chmod(0o755)
        shutil.rmtree(folder)


def read_only(folder: Path) -> None:
    """Take the permission to write from everybody."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
