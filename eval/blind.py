"""A reader that is kept from the picture: what is left of its help came from somewhere else.

Knows the reader protocol. Used to prove that the small reader looks: shown a blank crop, or with its decoder alone and
no picture at all, it may not do what it does with the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusion.ink import Ink
from fusion.page import Failure
from fusion.vlm import Look, Looks, Query

Sight = Literal["crop", "blank", "text"]
"""What the small reader is given: the crop; paper without ink; paper, and its decoder alone speaks: a text prior."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A witness that finds every text alike."""

    ink: Ink
    quality: float = 1.0
    spells: frozenset[str] | None = None

    def knows(self, text: str) -> bool:
        """Nothing is left out."""
        return True

    def score(self, texts: Sequence[str]) -> list[float]:
        """The same for all."""
        return [0.0] * len(texts)

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """The same for all."""
        return [0.0] * len(texts)

    def cased(self, texts: Sequence[str], spelt: Sequence[str] = ()) -> list[str]:
        """As the real one says."""
        return self.ink.cased(texts, spelt)

    @property
    def candidates(self) -> frozenset[str]:
        """None."""
        return frozenset()

    @property
    def agree(self) -> bool:
        """There is nothing to agree on."""
        return False

    def columns(self, letters: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """Columns in which everything is alike."""
        return (np.full((len(self.ink.columns("")[0]), 1 + len(letters)), 1 / (1 + len(letters))),)

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """As the real one says."""
        return self.ink.place(text)


class BlindReader:
    """The engine's reader with its sight taken away. It still reads the crop, so that the hypotheses are the same."""

    name = "local"

    def __init__(self, inner: Looks, sight: Sight) -> None:
        """Wrap `inner`."""
        self._inner, self._sight = inner, sight
        self.identity = f"{getattr(inner, 'identity', '')} {sight}"  # a store keeps its looks apart

    def look(self, query: Query) -> Look | Failure:
        """The reading of the real crop, the look at paper behind it; for a text prior one that says nothing."""
        found = self._inner.look(query)
        crop = np.full_like(query.line.crop, 255)
        paper = self._inner.look(replace(query, line=replace(query.line, crop=crop)))
        if isinstance(found, Failure) or isinstance(paper, Failure) or paper.ink is None:
            return found
        return Look(found.reading, Flat(paper.ink) if self._sight == "text" else paper.ink, paper.score)

    def close(self) -> None:
        """Nothing: the reader belongs to the engine."""
