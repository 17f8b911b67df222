"""Writes a submission zip: the same bytes for the same predictions, one scan in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every entry, so that two runs give the same file."""
_DIR_ATTRIBUTES = (0o40755 << 16) | 0x10
_FILE_ATTRIBUTES = 0o100644 << 16


def write_archive(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write entries in the order given; a name that ends in "/" is a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            is_folder = name.endswith("/")
            info.external_attr = _DIR_ATTRIBUTES if is_folder else _FILE_ATTRIBUTES
            info.compress_type = zipfile.ZIP_STORED if is_folder else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
