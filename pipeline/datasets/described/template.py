"""The description to be filled in."""

from __future__ import annotations

from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.files import written_whole

TEMPLATE = Path(__file__).with_name("template.toml")


def write_template(file: Path) -> Path:
    """Write the commented description.

    Raises:
        DataError: there is such a file already, or it cannot be written.
    """
    if file.exists() or file.is_symlink():
        raise DataError(f"{file}: already exists. Move it away, or edit it.")
    with written_whole(file, "the description") as aside:
        aside.write_bytes(TEMPLATE.read_bytes())
    return file
