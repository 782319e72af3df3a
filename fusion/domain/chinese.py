"""Chinese as an expectation: how probable the characters of a line are as words.

A line is words one after the other, each as probable as a dictionary counts it, summed over all ways to part it (the model of
Sproat, Shih, Gale and Chang, "A stochastic finite-state word-segmentation algorithm for Chinese", Computational Linguistics
22(3), 1996, without its classes); any character may also be one that it knows nothing of. It is a likelihood ratio against any
characters. Digits, letters and signs have no language and part words. A traditional character is the same to it as its
simplified form: which of them is written, the ink decides. Made by `python -m fusion.train languages`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

CHARACTERS = 5000
"""Any string is as probable as characters drawn from so many."""
KNOWN = 0.9
"""Probability, before any ink is seen, that what follows is a word of the dictionary; otherwise it is any character."""
LONGEST = 4
"""Characters of the longest word."""
LEAST = 2
"""Chinese characters of a line from which it may be prose."""
MOST = 8_000
"""Texts whose probabilities are kept."""
STEPS = 12.0
"""Steps per nat of the stored costs, which are uint8; the last one says that there is no such word."""
_NONE = 255
_HAN = regex.compile(r"\p{Han}")
_ANY = math.log(1 - KNOWN)
_UNIFORM = math.log(CHARACTERS)
_is_han = lru_cache(maxsize=65536)(lambda character: bool(_HAN.match(character)))


_Costs = list[tuple[int, float]]
"""Lengths of words, and their natural log-probabilities."""


def packaged() -> bytes:
    """The file of the packaged model."""
    return (files("fusion.domain") / "lists" / "chinese.npz").read_bytes()


class Chinese:
    """The model as an expectation of whole lines. May be used from several threads at once."""

    def __init__(self, counts: Mapping[str, int] | None = None, variants: Mapping[str, str] | None = None) -> None:
        """Take words with their counts, and the simplified forms of characters; None: the packaged ones, read when first asked."""
        self._given = (counts, variants or {}) if counts is not None else None
        self._known: dict[str, tuple[float, ...]] = {"": (0.0,)}  # a search asks letter by letter
        self._tails: dict[str, tuple[_Costs, _Costs]] = {}

    @cached_property
    def _model(self) -> Words:
        if self._given is not None:
            file = BytesIO()
            write_words(*self._given, file)
            file.seek(0)
            return read_words(file)
        return read_words(BytesIO(packaged()))

    @cached_property
    def identity(self) -> str:
        """Name and version of the model."""
        return f"zh@{hashlib.sha256(packaged()).hexdigest()[:12]}" if self._given is None else "zh, given"

    def concerns(self, text: str) -> bool:
        """Whether a line may be Chinese prose: it has `LEAST` Chinese characters or more."""
        return len(_HAN.findall(text)) >= LEAST

    def log_probability(self, text: str) -> float:
        """Natural log-probability of a whole line, less that of any characters."""
        return self._ends(text.translate(self._model.variants))[-1]

    def score(self, texts: Sequence[str]) -> list[float]:
        """`log_probability` of each."""
        return [self.log_probability(text) for text in texts]

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The same of each text as the beginning of a line: its last characters may begin a longer word."""
        found = []
        for text in (text.translate(self._model.variants) for text in texts):
            ends, (_, begun) = self._ends(text), self._last_words(text[-LONGEST:])
            found.append(_log_sum([ends[-1], *[ends[-1 - size] + cost for size, cost in begun]]))
        return found

    def _ends(self, text: str) -> tuple[float, ...]:
        """Log-probability that a word ends after each of the last `LONGEST` characters of a text, and before the first of them."""
        if len(self._known) > MOST:
            self._known = {"": (0.0,)}
        known, size = self._known, len(text)
        while text[:size] not in known:
            size -= 1
        ends = known[text[:size]]
        for end in range(size + 1, len(text) + 1):
            words, _ = self._last_words(text[max(0, end - LONGEST) : end])
            unknown = ends[-1] + _ANY if _is_han(text[end - 1]) else ends[-1]
            last = _log_sum([unknown, *[ends[-size] + cost for size, cost in words]])
            ends = known[text[:end]] = (*ends[-LONGEST:], last)
        return ends

    def _last_words(self, tail: str) -> tuple[_Costs, _Costs]:
        """The words that a text with these last characters may end with, and the beginnings of longer ones."""
        found = self._tails.get(tail)
        if found is None:
            if len(self._tails) > MOST:
                self._tails = {}
            chinese = next((n for n in range(len(tail)) if not _is_han(tail[-1 - n])), len(tail))
            sizes = range(1, chinese + 1)
            tables = self._model.words, self._model.begun
            words, begun = ([(n, table[tail[-n:]]) for n in sizes if tail[-n:] in table] for table in tables)
            found = self._tails[tail] = (words, begun)
        return found


def _log_sum(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


class Words(NamedTuple):
    """The model as it is stored.

    Attributes:
        words: natural log-probability of each word, less that of any characters.
        begun: the same of beginning a longer one.
        variants: traditional character → simplified form, as `str.translate` takes them.
    """

    words: dict[str, float]
    begun: dict[str, float]
    variants: dict[int, str]


def write_words(counts: Mapping[str, int], variants: Mapping[str, str], file: BinaryIO) -> None:
    """Write the model of some words: every word and every beginning of one, with their costs, and the forms of characters."""
    simple = str.maketrans(dict(variants))
    merged: Counter[str] = Counter()
    for word, count in counts.items():
        merged[word.translate(simple)] += count
    total = sum(merged.values())
    begun: Counter[str] = Counter()
    for word, count in merged.items():
        for size in range(1, len(word)):
            begun[word[:size]] += count
    keys = sorted({*merged, *begun})
    costs = [[_stored(table.get(key, 0), total) for key in keys] for table in (merged, begun)]
    np.savez_compressed(
        file,
        keys=_bytes("\n".join(keys)),
        words=np.array(costs[0], np.uint8),
        begun=np.array(costs[1], np.uint8),
        variants=_bytes("".join(map("".join, sorted(variants.items())))),
    )


def read_words(file: BinaryIO) -> Words:
    """What `write_words` wrote."""
    with np.load(file) as arrays:
        keys = _text(arrays["keys"]).split("\n")
        sizes = np.array([len(key) for key in keys])

        def table(stored: NDArray[np.uint8]) -> dict[str, float]:
            nats = math.log(KNOWN) - stored / STEPS + sizes * _UNIFORM
            here = stored != _NONE
            return dict(zip(np.array(keys, dtype=object)[here].tolist(), nats[here].tolist(), strict=True))

        pairs = _text(arrays["variants"])
        variants = {ord(one): other for one, other in zip(pairs[::2], pairs[1::2], strict=True)}
        return Words(table(arrays["words"]), table(arrays["begun"]), variants)


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _text(stored: NDArray[np.uint8]) -> str:
    return stored.tobytes().decode("utf-8")


def _stored(count: int, total: int) -> int:
    return min(_NONE - 1, round(-math.log(count / total) * STEPS)) if count else _NONE
