"""The bytes of a raw data set's file."""

from __future__ import annotations

import errno
from pathlib import Path

from pass2d.common.files import read_whole
from pass2d.pipeline.problem import ProblemError

NO_FILE = frozenset(
    {
        *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
        *(errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG),
    }
)
"""Failures that retrying does not fix."""
_LONGEST_CALIBRATION = 1 << 20


def read_file(file: Path) -> bytes:
    """Read a whole file of the raw data set.

    Raises:
        ProblemError: it is missing, a folder, a pipe or not readable. Other failures of the disk or
            the network remain an OSError, as they may be temporary; the runner retries.
    """
    try:
        return read_whole(file)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise ProblemError.of(
            file=file,
            found=(error.strerror or type(error).__name__).lower(),
            expected="a readable file",
            remedy=(
                "Change its permissions."
                if isinstance(error, PermissionError)
                else "Was it moved, or is it a link to nowhere? List the data set again."
            ),
        ) from error


def read_calibration(file: Path) -> str:
    """The text of a calibration.

    Raises:
        ProblemError: as of `read_file`, or it is far too long to be one.
    """
    data = read_file(file)
    if len(data) > _LONGEST_CALIBRATION:
        raise ProblemError.of(
            file=file,
            found=f"{len(data):,} bytes",
            expected=f"a calibration, which is a text of at most {_LONGEST_CALIBRATION:,} bytes",
            remedy="Is it another file, or damaged? Copy it again.",
        )
    return data.decode("utf-8-sig", errors="replace")
