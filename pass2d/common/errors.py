"""Errors that a user can fix. Everything else is a bug and may show its traceback."""

from __future__ import annotations

from functools import partial

from pass2d.common.text import one_line


class Pass2DError(Exception):
    """Base of all errors whose message alone tells the user what happened and what to do.

    The message names the file (or argument), what was found, what was expected and the remedy. It
    never names options of the command line: arguments and functions of the library stand in
    backquotes ("`columns=4`", "`repair`"), and `commands/wording.py` turns them into options. The
    command prints it in one line and exits with code 1. Whatever text from a file it contains, it
    is one line of limited length.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class DataError(Pass2DError):
    """A raw data set does not have the form of its layout."""


class UnknownLabelError(DataError):
    """A raw label that the data set's table lacks."""


class CacheError(Pass2DError):
    """A prepared cache is missing, damaged, stale or of another format version."""


class ConfigError(Pass2DError):
    """A recipe, an option or a combination of them cannot work."""


class CheckpointError(Pass2DError):
    """A checkpoint is missing, damaged, hostile or does not fit."""


class ReportedByOtherProcessError(Pass2DError):
    """Another process of a group reports the error: this one ends silently."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process reported the reason (exit code {code})")
        self.code = code


class ShapeError(Pass2DError, ValueError):
    """An array does not have the shape that the docstring states."""

    def __init__(self, name: str, *, expected: str, got: object) -> None:
        super().__init__(f"{name} must be {expected}, got {got}")
        self._rebuild = partial(type(self), name, expected=expected, got=got)

    def __reduce__(self) -> tuple[partial[ShapeError], tuple[()]]:
        # Exceptions pickle as type(*args), which lacks the keywords; Ray sends errors pickled.
        return self._rebuild, ()


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, e.g. from a batch system at a time limit: handled like Ctrl-C."""
