"""Patterns of paths with words in braces: "sequences/{sequence}/velodyne/{scan}.bin"."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORD = re.compile(r"\{([^{}]*)\}")
_PIECE = re.compile(r"\{[^{}]*\}|\*|[^*{]+")


def placeholders(pattern: str) -> tuple[str, ...]:
    """The words in braces, each once, in their order."""
    return tuple(dict.fromkeys(_WORD.findall(pattern)))


def without_words(pattern: str) -> str:
    """What a pattern holds beside its words."""
    return _WORD.sub("", pattern)


def fill(pattern: str, words: Mapping[str, str]) -> str:
    """A pattern with its words in place."""
    for word in placeholders(pattern):
        pattern = pattern.replace(f"{{{word}}}", words[word])
    return pattern


def path_expression(pattern: str, words: Mapping[str, str]) -> re.Pattern[str]:
    """A regular expression for the paths of a pattern, with the known words filled in.

    A word and a ``*`` stand for part of a single name. Each unknown word is a group.
    """
    text, seen = "", set()
    for piece in _PIECE.findall(pattern):
        word = piece[1:-1]
        if piece == "*":
            text += "[^/]*"
        elif not piece.startswith("{"):
            text += re.escape(piece)
        elif word in words:
            text += re.escape(words[word])
        elif word in seen:
            text += f"(?P={word})"
        else:
            text += f"(?P<{word}>[^/]+)"
            seen.add(word)
    return re.compile(text)
