"""Readers that are kept from the picture: what is left of their help came from somewhere else.

Knows the reader protocol. Used to prove that the small reader looks: with a blank crop, or with its decoder alone on a
blank crop, it may not do what it does with the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fusion.config import LocalVlm
from fusion.page import Failure, Ink, Reading
from fusion.vlm import Query, Reader
from fusion.vlm.cache import AnswerCache
from fusion.vlm.checkpoint import load
from fusion.vlm.local import LocalReader
from fusion.vlm.protocol import Answer

Sight = Literal["crop", "blank", "decoder", "decoder_blank"]
"""What the small reader is shown, and which part of it speaks: its witness, or its decoder alone."""


@dataclass(frozen=True, slots=True)
class DecoderInk:
    """The decoder's log-probabilities in the place of the witness's."""

    reader: LocalReader
    query: Query
    ink: Ink
    quality: float = 1.0

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text and of stopping after it."""
        found = self.reader.score(self.query, texts)
        return found if found is not None else [0.0] * len(texts)

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """See `score`."""
        return self.score(texts)

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """Places are the witness's: a decoder has none."""
        return self.ink.place(text)


class BlindReader:
    """A reader of the engine with its sight taken away."""

    name = "local"
    writes = False

    def __init__(self, inner: Reader, config: LocalVlm, sight: Sight) -> None:
        """Wrap `inner`; `config` names its checkpoint."""
        self._inner = inner
        self._blank = sight.endswith("blank")
        self._decoder = LocalReader(config, AnswerCache(None), load(config)) if sight.startswith("decoder") else None

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """What it reads on what it is shown."""
        return self._inner.read([self._shown(query) for query in queries])

    def score(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        """None: the witness's place is taken by `witness`."""
        return None

    def witness(self, query: Query) -> Ink | None:
        """The look, or the decoder in its place."""
        shown = self._shown(query)
        ink = self._inner.witness(shown)
        return DecoderInk(self._decoder, shown, ink) if self._decoder is not None and ink is not None else ink

    def ask(self, pixels: np.ndarray, question: str) -> Answer | Failure:
        """As the reader itself."""
        return self._inner.ask(pixels, question)

    def close(self) -> None:
        """Close the reader."""
        self._inner.close()

    def _shown(self, query: Query) -> Query:
        if not self._blank:
            return query
        paper = np.full_like(query.line.crop, 255)
        return replace(query, line=replace(query.line, crop=paper))
