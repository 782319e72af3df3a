"""Sums and school algebra as a prior: a character model of lines that a grammar wrote.

Results in these lines are random, so a wrong sum is as probable as a right one and the model can't correct a pupil.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import regex

from fusion.domain.ngram import SYMBOLS, NGram

UNBALANCED = 7.0
"""Nats that an unbalanced bracket costs: it is out of reach of a model of five characters."""
_TEN, _LETTER = math.log(10), math.log(26)
_DIGITS, _LETTERS = frozenset(string.digits), frozenset(string.ascii_letters)
_WORD = regex.compile(r"\p{Latin}{3,}|[\p{Han}--[一二三〇十人八大工口丁卜]]", regex.V1)
"""Words, and Chinese characters except those that an OCR sees in signs: 二 for =, 〇 for 0."""
_MATHS = regex.compile(r"\p{Nd}|[=<>≤≥≠±×÷]")
_LEAD = regex.compile(r"^\s*(?:[（(]\s*\d{1,3}\s*[)）]|\d{1,3}\s*[、)）])(?!\s*[-+×*·÷/=<>≤≥≠)])")
"""The number of an exercise, (3), 3) or 3、, unless it is a factor: (3)×4."""
_FUNCTIONS = ("sin", "cos", "tan", "log", "lim", "mod", "max", "min")


class SumModel:
    """The model as a `Prior` of whole lines; it holds no names."""

    kind: Literal["formulary", "names", "sums"] = "sums"
    coverage = 0.0

    def __init__(self, model: NGram) -> None:
        """Take over a character model of shapes."""
        self._model = model

    @classmethod
    def load(cls) -> SumModel:
        """The packaged model, made by `python -m fusion.train.lists`."""
        return cls(NGram(json.loads((files("fusion.domain") / "lists" / "sums.json").read_text(encoding="utf-8"))))

    def concerns(self, text: str) -> bool:
        """Whether a line is maths: digits or relations, and no words."""
        words = [word for word in _WORD.findall(text) if word.casefold() not in _FUNCTIONS]
        return not words and bool(_MATHS.search(text))

    def log_probability(self, text: str) -> float:
        """Natural log-probability of a text less that of any signs and the cost of its unbalanced brackets.

        All digits are equally probable, and all letters of a case. White space and the number of an exercise don't count.
        """
        looks, hidden = shape(_LEAD.sub("", text))
        anything = -(len(looks) + 1) * math.log(SYMBOLS)
        return self._model.log_probability(looks) + hidden - anything - UNBALANCED * _unbalanced(looks)

    def score(self, texts: Sequence[str]) -> list[float]:
        """`log_probability` of each."""
        return [self.log_probability(text) for text in texts]

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The same of each text as the beginning of a line: no bracket is unbalanced yet."""
        shapes = [shape(_LEAD.sub("", text)) for text in texts]
        return [self._model.begins(looks) + hidden + len(looks) * math.log(SYMBOLS) for looks, hidden in shapes]

    def holds(self, word: str) -> bool:
        """False."""
        return False

    def follows(self, text: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def rivals(self, name: str) -> list[str]:
        """None."""
        return []


@lru_cache(maxsize=4096)
def shape(text: str) -> tuple[str, float]:
    """The shape of a text, and the natural log-probability of the text given its shape.

    The shape has no white space, 0 for every digit, a and A for every letter.

    >>> shape("17 + x")[0], shape("f(A)")[0]
    ('00+a', 'a(A)')
    """
    looks: list[str] = []
    hidden = 0.0
    for character in "".join(text.split()):
        if character in _DIGITS:
            looks.append("0")
            hidden -= _TEN
        elif character in _LETTERS:
            looks.append("a" if character.islower() else "A")
            hidden -= _LETTER
        else:
            looks.append(character)
    return "".join(looks), hidden


def _unbalanced(text: str) -> int:
    """Number of unbalanced brackets."""
    opened = unopened = 0
    for character in text:
        opened += character == "("
        if character == ")":
            unopened += opened == 0
            opened -= opened > 0
    return unopened + opened
