"""What sums and school algebra look like, as a prior: a character model of lines that a grammar wrote.

Knows signs, numbers and letters; knows no arithmetic: results are drawn at random, so that a wrong sum is as probable as a
right one and the model can never correct a pupil.
"""

from __future__ import annotations

import math
import string
from importlib.resources import files
from typing import Literal

import regex

from fusion.domain.ngram import SYMBOLS, NGram

UNBALANCED = 7.0
"""Nats that a bracket without its other half costs: a model of five characters can't see so far."""
_DIGITS, _LETTERS = frozenset(string.digits), frozenset(string.ascii_letters)
_WORD = regex.compile(r"\p{Latin}{3,}|[\p{Han}--[一二三〇十人八大工口丁卜]]", regex.V1)
"""Words, and Chinese characters but for those that an OCR sees in signs: 二 for =, 〇 for 0."""
_MATHS = regex.compile(r"\p{Nd}|[=<>≤≥≠±×÷]")
_LEAD = regex.compile(r"^\s*(?:[（(]\s*\d{1,3}\s*[)）]|\d{1,3}\s*[、)）])(?!\s*[-+×*·÷/=<>≤≥≠)])")
"""The number of an exercise, (3), 3) or 3、, and no factor: (3)×4 is a sum as a whole."""
_FUNCTIONS = ("sin", "cos", "tan", "log", "lim", "mod", "max", "min")


class SumModel:
    """The model as a `Prior` of the whole line."""

    kind: Literal["formulary", "names", "sums"] = "sums"

    def __init__(self, model: NGram) -> None:
        """Take over a model of characters."""
        self._model = model

    @classmethod
    def load(cls) -> SumModel:
        """The packaged model, made by `python -m fusion.train.lists`."""
        return cls(NGram.loads((files("fusion.domain") / "lists" / "sums.json").read_text(encoding="utf-8")))

    @property
    def coverage(self) -> float:
        """0: there are no names here."""
        return 0.0

    def concerns(self, text: str) -> bool:
        """Whether a line is one of maths: digits or relations and no words."""
        words = [word for word in _WORD.findall(text) if word.casefold() not in _FUNCTIONS]
        return not words and bool(_MATHS.search(text))

    def log_probability(self, text: str) -> float:
        """Natural log-probability of the signs of a text against that of any signs, less what its brackets cost.

        No digit is more probable than another, nor a letter than another of its case: which it is, only the ink can say.
        White space and the number of an exercise are no part of the sum.
        """
        looks, hidden = shape(_LEAD.sub("", text))
        anything = -(len(looks) + 1) * math.log(SYMBOLS)
        return self._model.log_probability(looks) + hidden - anything - UNBALANCED * _unbalanced(looks)

    def holds(self, word: str) -> bool:
        """No: there are no names here."""
        return False

    def near(self, word: str, count: int) -> list[str]:
        """None: there are no names here."""
        return []

    def rivals(self, name: str) -> list[str]:
        """None: there are no names here."""
        return []


def shape(text: str) -> tuple[str, float]:
    """A text without white space in which all digits are one sign, and all small and all capital letters, and what that hides.

    Returns:
        The shape, and the natural log-probability of the text given its shape: each digit and each letter is as probable
        as any other.

    >>> shape("17 + x")[0], shape("f(A)")[0]
    ('00+a', 'a(A)')
    """
    looks: list[str] = []
    hidden = 0.0
    for character in "".join(text.split()):
        if character in _DIGITS:
            looks.append("0")
            hidden -= math.log(10)
        elif character in _LETTERS:
            looks.append("a" if character.islower() else "A")
            hidden -= math.log(26)
        else:
            looks.append(character)
    return "".join(looks), hidden


def _unbalanced(text: str) -> int:
    """Brackets that have no other half."""
    opened = lonely = 0
    for character in text:
        if character == "(":
            opened += 1
        elif character == ")":
            lonely += opened == 0
            opened -= opened > 0
    return lonely + opened
