"""Random choice without long gaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

Card = TypeVar("Card")


class Deck(Generic[Card]):
    """Deals kinds like cards, so that even a short street has some of each.

    Independent draws would omit a kind from many short sequences, and a class from training.
    """

    def __init__(self, rng: np.random.Generator, counts: Mapping[Card, int]) -> None:
        self._rng = rng
        self._cards = [card for card, count in counts.items() for _ in range(count)]
        self._left: list[Card] = []

    def draw(self) -> Card:
        """The next card; an empty deck is reshuffled."""
        if not self._left:
            order = self._rng.permutation(len(self._cards))
            self._left = [self._cards[number] for number in order]
        return self._left.pop()
