"""The hypotheses of a line: the readings, and the most probable texts under all looks and expectations."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fusion.ctc import fold
from fusion.fuse.align import keys
from fusion.fuse.beam import Look, search
from fusion.fuse.model import SEARCH
from fusion.ink import Expectation, Ink, Language, Prior
from fusion.page import Reading

COUNT = 64
"""Texts that are searched for: of each length at most `beam.WIDTH` and `beam.NAMED`."""
LONGER = 4
"""A reading so many times longer than the OCR's can't be the line's text and is no hypothesis."""


def gather(
    ocr: Reading,
    others: Sequence[Reading],
    looks: Sequence[Look],
    answers: Sequence[str],
    prior: Prior | None,
    language: Language | None,
    limit: int,
) -> list[str]:
    """At most `limit` hypotheses (NFC), the OCR's own reading first, no two with the same comparison keys.

    Args:
        ocr: its reading.
        others: of the other readers.
        looks: posteriors, the OCR's first.
        answers: what a reader without a posterior wrote.
        prior: what to expect, or None.
        language: of the line, or None.
        limit: see above.
    """
    near = [reading.text for reading in others if len(reading.text) <= LONGER * (len(ocr.text) + 10)]
    written = tuple(text for text in answers if text in near)
    found = looks[0].ink.cased(_searched(looks, written, prior, language), [ocr.text, *near])
    seen: dict[tuple[str, ...], str] = {}
    for text in (ocr.text, *near, *found):
        normal = unicodedata.normalize("NFC", text)
        seen.setdefault(tuple(keys(normal)), normal)
        if len(seen) >= limit:
            break
    return list(seen.values())


def _searched(
    looks: Sequence[Look], written: tuple[str, ...], prior: Prior | None, language: Language | None
) -> tuple[str, ...]:
    """The search, kept for as long as the line is: it is asked for the decoder's texts, and later for the decision."""
    first, *others = looks
    kept = _found.setdefault(first.ink, {})
    key = (first.weight, first.reading, *others, written, prior, language)
    if key not in kept:
        expected: list[tuple[float, Expectation]] = []
        if written:
            expected.append((SEARCH["answer"], Answers(written)))
        if prior is not None:
            expected.append((SEARCH["sums" if prior.kind == "sums" else "list"], prior))
        if language is not None:
            expected.append((SEARCH["language"], language))
        kept[key] = tuple(search(looks, expected, COUNT, "".join(map(fold, written)), prior))
    return kept[key]


_found: WeakKeyDictionary[Ink, dict[tuple[object, ...], tuple[str, ...]]] = WeakKeyDictionary()
"""What searches found, by the OCR's posterior of the line: it is let go with the line, since posteriors are large."""


class Answers:
    """Texts that a reader wrote, as an `Expectation`: every edit costs the same, of a prefix at the place that suits it best."""

    def __init__(self, answers: Sequence[str]) -> None:
        """Take the texts."""
        self._answers = [
            np.array([ord(letter) for letter in fold(answer) if not letter.isspace()]) for answer in answers
        ]
        self._rows = {"": [np.arange(len(answer) + 1, dtype=np.float64) for answer in self._answers]}

    def begins(self, texts: Sequence[str]) -> list[float]:
        """See `Expectation`."""
        return [-float(np.mean([row.min() for row in self._edits(text)])) for text in texts]

    def score(self, texts: Sequence[str]) -> list[float]:
        """See `Expectation`."""
        return [-float(np.mean([row[-1] for row in self._edits(text)])) for text in texts]

    def _edits(self, text: str) -> list[NDArray[np.float64]]:
        """Edits between a text and every prefix of each answer: rows of Wagner and Fischer's table (1974)."""
        if text and text[-1].isspace():  # spacing is no evidence of what was read
            return self._edits(text[:-1])
        if text not in self._rows:
            self._rows[text] = [
                _next_row(row, answer != ord(text[-1]))
                for row, answer in zip(self._edits(text[:-1]), self._answers, strict=True)
            ]
        return self._rows[text]


def _next_row(row: NDArray[np.float64], differs: NDArray[np.bool_]) -> NDArray[np.float64]:
    own = row + 1
    own[1:] = np.minimum(own[1:], row[:-1] + differs)
    steps = np.arange(len(own))
    return np.asarray(np.minimum.accumulate(own - steps) + steps)
