"""Made ink: a posterior written down column by column, so that a test says what the strokes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from fusion.ctc import Posterior, Views
from fusion.page import Reading, Recipe

RECIPE = Recipe("made", "1", "made", "0" * 64)


def ink(*places: str | dict[str, float], column_px: float = 10.0) -> Views:
    """One letter per column with a blank column before each.

    A place is a text of certain letters ("abc") or one uncertain letter as {text: probability}; "" is the blank.
    """
    columns: list[dict[str, float]] = []
    for place in places:
        for letter in place if isinstance(place, str) else [place]:
            columns += [{"": 1.0}, letter if isinstance(letter, dict) else {letter: 0.98, "": 0.02}]
    columns.append({"": 1.0})
    alphabet = ["", *sorted({letter for column in columns for letter in column if letter})]
    table = np.zeros((len(columns), len(alphabet)))
    for row, column in zip(table, columns, strict=True):
        for letter, probability in column.items():
            row[alphabet.index(letter)] = probability
        row[0] += max(0.0, 1.0 - row.sum())
    return Views((Posterior(table, tuple(alphabet), column_px),))


def ocr_reading(views: Views, nbest: int = 20) -> Reading:
    best = views.best
    return Reading(
        "ocr",
        best.greedy,
        RECIPE,
        best.positions(5),
        views.nbest(nbest),
        views.score([best.greedy])[0],
        raw=best.greedy,
    )


def look(views: Views) -> Reading:
    """What a second reader with eyes of its own says it sees: its best path, with what else might stand there."""
    return replace(ocr_reading(views), source="vlm")


@dataclass(frozen=True)
class Judged:
    """A look at the ink whose quality is given and not worked out."""

    views: Views
    quality: float

    @property
    def spells(self) -> frozenset[str] | None:
        return self.views.spells

    def knows(self, text: str) -> bool:
        return self.views.knows(text)

    def score(self, texts: Sequence[str]) -> list[float]:
        return self.views.score(texts)

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        return self.views.score_cased(texts)

    @property
    def candidates(self) -> frozenset[str]:
        return self.views.candidates

    @property
    def agree(self) -> bool:
        return self.views.agree

    def cased(self, texts: Sequence[str], spelt: Sequence[str] = ()) -> list[str]:
        return self.views.cased(texts, spelt)

    def columns(self, letters: Sequence[str]) -> tuple[np.ndarray, ...]:
        return self.views.columns(letters)

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        return self.views.place(text)


def inks(letters: str, *, blank: bool = True, max_size: int = 6) -> st.SearchStrategy[Views]:
    """Random ink, each place any mixture of the letters; `blank`: and of nothing at all."""
    choices = ["", *letters] if blank else list(letters)
    weights = st.lists(st.floats(0.01, 1), min_size=len(choices), max_size=len(choices))

    def written(places: list[list[float]]) -> Views:
        return ink(*({c: w / sum(place) for c, w in zip(choices, place, strict=True)} for place in places))

    return st.lists(weights, min_size=1, max_size=max_size).map(written)


def vlm_reading(text: str) -> Reading:
    return Reading("vlm", text, RECIPE, raw=text)
