"""Problems of a raw data set's files, in one form for messages and lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pass2d.common.errors import DataError, UnknownLabelError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One file that is missing, damaged or inconsistent."""

    file: Path
    """The file or folder to look at."""
    found: str
    """What is there, e.g. "1000 bytes"."""
    expected: str
    """What should be there, e.g. "a multiple of 16 bytes"."""
    remedy: str
    """What the user can do about it, in one sentence."""
    severity: Severity = "error"
    """"error": the file cannot be used. "warning": it can, but is suspicious, e.g. a signal of
    another scale. "note": occurs in real data and is allowed, e.g. a sequence without pictures."""
    kind: str = ""
    """Kind of a warning: `prepare` prints those of one kind once, with their number."""

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}, expected {self.expected}. {self.remedy}"


class Warned(NamedTuple):
    """The first warning of a kind and how many there are."""

    first: Problem
    times: int

    def __str__(self) -> str:
        more = f" ({self.times:,} times)" if self.times > 1 else ""
        return f"warning: {self.first}{more}"


def merge_warnings(problems: Iterable[Problem], known: Iterable[Warned] = ()) -> tuple[Warned, ...]:
    """One warning of each kind, in the order in which they came up."""
    merged: dict[str, Warned] = {}
    for first, times in (*known, *(Warned(problem, 1) for problem in problems)):
        earlier = merged.get(first.kind, Warned(first, 0))
        merged[first.kind] = Warned(earlier.first, earlier.times + times)
    return tuple(merged.values())


def more_faults(count: int) -> str:
    """What follows the first of several faults; nothing where it is the only one."""
    return f" And {count:,} more: `check` lists them." if count else ""


class ProblemError(DataError):
    """A problem that stops the work on its scan; `--check` collects `problem` instead."""

    def __init__(self, problem: Problem, more: int = 0) -> None:
        """Report the first problem of a listing, and how many ``more`` there are."""
        super().__init__(str(problem) + more_faults(more))
        self.problem = problem
        self._more = more

    @classmethod
    def of(cls, file: Path, found: str, expected: str, remedy: str) -> Self:
        """An error of a file; the words are those of `Problem`."""
        return cls(Problem(file=file, found=found, expected=expected, remedy=remedy))

    def __reduce__(self) -> tuple[type[ProblemError], tuple[Problem, int]]:
        # Exceptions pickle as type(*args); the message alone would not rebuild this one (Ray).
        return type(self), (self.problem, self._more)


class UnknownLabelProblemError(ProblemError, UnknownLabelError):
    """A label file holds a raw id that the data set's table lacks."""
