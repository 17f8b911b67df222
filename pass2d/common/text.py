"""Text from files inside messages: readable, on one line, never long, no control characters."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

_LONGEST_NAME, _LONGEST_WORD, _LONGEST_LINE = 60, 120, 8000
_GAP = "..."
_BREAKS = re.compile(r"\s*[\r\n]\s*")
_LONG_WORDS = re.compile(rf"[^\s/]{{{_LONGEST_WORD + 1},}}")


class _Repr(reprlib.Repr):
    """Like `repr`, of bounded length and depth whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 10 * _LONGEST_NAME

    def repr_int(self, x: int, level: int) -> str:
        is_short = x.bit_length() <= 4 * self.maxlong  # Python refuses to write longer ones
        return super().repr_int(x, level) if is_short else f"an integer of {x.bit_length():,} bits"


_REPR = _Repr()


def shown(value: object, *, longest: int = _LONGEST_NAME) -> str:
    """A name or value from a file, in a form that is safe in a message.

    Args:
        value: A string stands without quotes; anything else as `repr` has it.
        longest: Maximum number of characters; the middle is cut.

    Returns:
        One line without control characters.
    """
    text = value if isinstance(value, str) else _REPR.repr(value)
    return _cut(_escaped(_cut(text, 4 * longest)), longest)


def quoted(value: object) -> str:
    """As `shown`, a string in quotes."""
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def listed(names: Iterable[str]) -> str:
    """Names, separated by commas."""
    return ", ".join(names) or "nothing"


def counted(count: int, noun: str) -> str:
    """As in "1 scan" or "1,200 scans"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def one_line(text: str) -> str:
    """A message on one line, with long words and the message itself shortened."""
    line = _escaped(_BREAKS.sub(" ", _cut(text.strip(), 20 * _LONGEST_LINE)))
    line = _LONG_WORDS.sub(lambda found: _cut(found[0], _LONGEST_WORD), line)
    return _cut(line, _LONGEST_LINE)


def nearest(word: object, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known word that the user may have meant; None if none is similar."""
    if not isinstance(word, str):
        return None
    near = difflib.get_close_matches(word[:_LONGEST_NAME], list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A question for the end of a message, e.g. "did you mean 'sgd'?"; "" if none is similar."""
    near = nearest(word, known)
    return "" if near is None else f"did you mean {near!r}?"


def unknown(word: object, known: Iterable[str], *, what: str) -> str:
    """The message for an unknown word, e.g. "unknown key 'lr'; choose from momentum, rate"."""
    names = sorted(set(known))
    remedy = did_you_mean(word, names) or f"choose from {', '.join(names) or 'none'}"
    return f"unknown {what} {quoted(word)}; {remedy}"


def and_more(names: Iterable[str], most: int) -> str:
    """The first of many names: "00, 01 and 9 more"."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def and_so_on(names: Iterable[str], most: int) -> str:
    """The first of many names: "00, 01, ..."."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def printable(text: str) -> str:
    """Text of several lines without terminal control sequences."""
    return "\n".join(_escaped(line) for line in text.split("\n"))


def _cut(text: str, longest: int) -> str:
    """Shorten in the middle, keeping a message's file and remedy, or a name's beginning and end."""
    if len(text) <= longest:
        return text
    tail = longest // 4
    return text[: longest - tail - len(_GAP)] + _GAP + text[len(text) - tail :]


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
