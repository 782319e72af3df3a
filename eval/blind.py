"""A reader that is kept from the picture: what is left of its help came from somewhere else.

Knows the reader protocol. Used to prove that the small reader looks: shown a blank crop, or with its decoder alone and
no picture at all, it may not do what it does with the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fusion.ink import Ink
from fusion.page import Failure, Reading
from fusion.vlm import Query, Reader
from fusion.vlm.protocol import Answer

Sight = Literal["crop", "blank", "text"]
"""What the small reader is given: the crop; paper without ink; paper, and its decoder alone speaks: a text prior."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A witness that finds every text alike."""

    ink: Ink
    quality: float = 1.0

    def score(self, texts: Sequence[str]) -> list[float]:
        """The same for all."""
        return [0.0] * len(texts)

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """The same for all."""
        return [0.0] * len(texts)

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """As the real one says."""
        return self.ink.place(text)


class BlindReader:
    """The engine's reader with its sight taken away. It still reads the crop, so that the hypotheses are the same."""

    name = "local"
    writes = False

    def __init__(self, inner: Reader, sight: Sight) -> None:
        """Wrap `inner`."""
        self._inner, self._sight = inner, sight

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Readings of the real crops, the looks at paper behind them."""
        found = self._inner.read(queries)
        self._inner.read([self._shown(query) for query in queries])
        return found

    def score(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        """What the decoder says of paper."""
        return self._inner.score(self._shown(query), texts)

    def witness(self, query: Query) -> Ink | None:
        """The look at paper; for a text prior one that says nothing."""
        ink = self._inner.witness(self._shown(query))
        return Flat(ink) if ink is not None and self._sight == "text" else ink

    def ask(self, pixels: np.ndarray, question: str) -> Answer | Failure:
        """As the reader itself."""
        return self._inner.ask(pixels, question)

    def close(self) -> None:
        """Close the reader."""
        self._inner.close()

    def _shown(self, query: Query) -> Query:
        return replace(query, line=replace(query.line, crop=np.full_like(query.line.crop, 255)))
