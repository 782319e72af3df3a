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
"""Texts of earlier searches whose probabilities are kept."""
STEPS = 12.0
"""Steps per nat of the stored costs, which are uint8; the last one says that there is no such word."""
_NONE = 255
_BITS = 16
"""Of a character in a key; a word with a character outside Unicode's basic plane is not known."""
_HAN = regex.compile(r"\p{Han}")
WORD = regex.compile(rf"\p{{Han}}{{1,{LONGEST}}}")
"""What a word of the model is."""
_ANY = math.log(1 - KNOWN)
_UNIFORM = math.log(CHARACTERS)
_NEVER = -1e9
"""Logarithm of 0: finite, so that differences stay numbers."""
_START = [*[_NEVER] * LONGEST, 0.0, 0.0]
"""What `Chinese._grown` knows of an empty text."""
_is_han = lru_cache(maxsize=65536)(lambda character: bool(_HAN.match(character)))


def packaged() -> bytes:
    """The file of the packaged model."""
    return (files("fusion.domain") / "lists" / "chinese.npz").read_bytes()


class Chinese:
    """The model as an expectation of whole lines. May be used from several threads at once."""

    def __init__(self, counts: Mapping[str, int] | None = None, variants: Mapping[str, str] | None = None) -> None:
        """Take words with their counts, and the simplified forms of characters; None: the packaged ones, read when first asked."""
        self._given = (counts, variants or {}) if counts is not None else None
        self._known: dict[str, list[float]] = {"": _START}  # a search asks letter by letter

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

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text as a whole line, less that of any characters."""
        return [row[-2] for row in self._rows(texts)]

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The same of each text as the beginning of a line: its last characters may begin a longer word."""
        return [row[-1] for row in self._rows(texts)]

    def _rows(self, texts: Sequence[str]) -> list[list[float]]:
        """What `_grown` knows of each text."""
        known = self._known if len(self._known) <= MOST else {"": _START}
        self._known = known
        new: dict[int, dict[str, None]] = {}  # by length, since each needs the text that is a character shorter
        for text in texts:
            while text not in known and text not in new.setdefault(len(text), {}):
                new[len(text)][text] = None
                text = text[:-1]
        for size in sorted(new):
            known.update(
                zip(new[size], self._grown([known[text[:-1]] for text in new[size]], list(new[size])), strict=True)
            )
        return [known[text] for text in texts]

    def _grown(self, before: Sequence[list[float]], texts: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of each text: that words end `LONGEST` characters before its end, …, at its end; that a line begins so.

        Args:
            before: the same of each text without its last character.
            texts: none of them empty.
        """
        ends = np.array(before)[:, 1:-1]
        costs = self._model.last_words([text[-LONGEST:] for text in texts])
        unknown = ends[:, -1] + np.array([_ANY if _is_han(text[-1]) else 0.0 for text in texts])
        whole = np.logaddexp(unknown, np.logaddexp.reduce(ends + costs[:, :, 0], axis=1))
        ends = np.hstack([ends, whole[:, None]])
        begun = np.logaddexp(whole, np.logaddexp.reduce(ends[:, :-1] + costs[:, :, 1], axis=1))
        rows: list[list[float]] = np.hstack([ends, begun[:, None]]).tolist()
        return rows


class Words(NamedTuple):
    """The model as it is asked.

    Attributes:
        keys: uint64 (K,), ascending: words and beginnings of words, `_BITS` for each character.
        costs: float64 (K + 1, 2), natural log-probability of each as a word, and as the beginning of a longer one, less that of
            any characters; the last row is of what is no key.
        simple: uint16 (65536,), the simplified form of every character.
    """

    keys: NDArray[np.uint64]
    costs: NDArray[np.float64]
    simple: NDArray[np.uint16]

    def last_words(self, tails: Sequence[str]) -> NDArray[np.float64]:
        """The costs of the last `LONGEST` characters of each text, …, and of its last one: float64 (N, LONGEST, 2)."""
        codes = _codes("".join(tail.rjust(LONGEST, "\0") for tail in tails)).reshape(-1, LONGEST)
        keys, whole = _keys(self.simple[codes])
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.asarray(self.costs[np.where(whole & (self.keys[found] == keys), found, -1)])


def write_words(counts: Mapping[str, int], variants: Mapping[str, str], file: BinaryIO) -> None:
    """Write the model of some words: every word and every beginning of one, with their costs, and the forms of characters.

    Words that are longer than `LONGEST`, or of other characters than Chinese ones, are left out.
    """
    simple = str.maketrans(dict(variants))
    merged: Counter[str] = Counter()
    for word, count in counts.items():
        if WORD.fullmatch(word):
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
        listed = _codes("\n" + _text(arrays["keys"]) + "\n")
        pairs = _codes(_text(arrays["variants"]))
        stored = np.stack([arrays["words"], arrays["begun"]], axis=1)
    breaks = np.flatnonzero(listed == ord("\n"))
    sizes = np.diff(breaks) - 1
    back = np.arange(LONGEST, 0, -1)
    last, _ = _keys(
        np.where(back <= sizes[:, None], listed[np.maximum(breaks[1:, None] - back, 0)], 0).astype(np.uint16)
    )
    keys = last[:, 0]  # of a shorter word the missing characters are 0
    known = np.add.reduceat(listed == 0, breaks[:-1]) == 0
    nats = np.where(stored == _NONE, _NEVER, math.log(KNOWN) - stored / STEPS + sizes[:, None] * _UNIFORM)
    order = np.flatnonzero(known)[np.argsort(keys[known])]
    both = (pairs[::2] > 0) & (pairs[1::2] > 0)
    simple = np.arange(1 << _BITS, dtype=np.uint16)
    simple[pairs[::2][both]] = pairs[1::2][both]
    return Words(keys[order], np.vstack([nats[order], [_NEVER, _NEVER]]), simple)


def _codes(text: str) -> NDArray[np.uint16]:
    """The characters of a text as numbers, 0 for one outside the basic plane."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.where(codes < 1 << _BITS, codes, 0).astype(np.uint16)


def _keys(codes: NDArray[np.uint16]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Keys of the last `LONGEST` characters of some texts, …, and of the last one: uint64 and bool (N, LONGEST).

    The second says whether there are so many characters.

    Args:
        codes: uint16 (N, LONGEST), the last characters of each text.
    """
    from_the_last = codes[:, ::-1].astype(np.uint64) << np.arange(0, _BITS * LONGEST, _BITS, dtype=np.uint64)
    keys = np.cumsum(from_the_last, axis=1, dtype=np.uint64)
    return keys[:, ::-1], np.minimum.accumulate(codes[:, ::-1] > 0, axis=1)[:, ::-1]


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _text(stored: NDArray[np.uint8]) -> str:
    return stored.tobytes().decode("utf-8")


def _stored(count: int, total: int) -> int:
    return min(_NONE - 1, round(-math.log(count / total) * STEPS)) if count else _NONE
