"""English as an expectation: how probable the letters of a line are as prose or as directions, word by word.

A character n-gram with Witten-Bell smoothing (see `domain.ngram`), made by `python -m fusion.train languages` and kept as sorted
arrays: it loads in milliseconds and answers for many texts at once. It is a likelihood ratio against any string, and any
word may be one that it knows nothing of: such a word costs at most -log(1 - `KNOWN`), and one of another language may gain where
it looks English. Digits, and letters by themselves, have no language.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from importlib.resources import files
from io import BytesIO
from typing import BinaryIO

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.ctc import fold

SYMBOLS = " abcdefghijklmnopqrstuvwxyz'.,-?!:()0\x01"
"""Symbols of the model; 0 stands for any number, the last one for everything else."""
BASE = 40
"""At least as many as there are symbols; an n-gram is a number to this base."""
ORDER = 6
"""Of the n-gram: BASE ** ORDER fits 32 bits."""
STEPS = 16.0
"""Steps per nat of the stored costs, which are uint8."""
KNOWN = 0.5
"""Probability, before any ink is seen, that a word is English; otherwise it is any string."""
LEAST = 3
"""Words of a line from which it may be prose: names and numbers stand by themselves."""
PAST: int = BASE ** (ORDER - 1)
"""Number of contexts of `ORDER` - 1 symbols."""
SEEN = 32
"""Characters before a word that are looked at: enough for `ORDER` - 1 symbols and a number."""
MOST = 8_000
"""Words whose probabilities are kept."""
_SPACE, _OTHER = 0, len(SYMBOLS) - 1
_DIGIT = SYMBOLS.index("0")
_CODES = {symbol: number for number, symbol in enumerate(SYMBOLS)} | dict.fromkeys("123456789", _DIGIT)
_CODES |= dict.fromkeys("’‘", _CODES["'"]) | dict.fromkeys("–—", _CODES["-"])
_WORD = regex.compile(r"\p{Latin}+")
_FOREIGN = regex.compile(r"[\p{L}--[\p{Latin}µμ]]", regex.V1)
_NUMBER = regex.compile(r"\d+(?:[.,/]\d+)*")
_NATS = 300.0
"""No word counts for more: the exponential of a nat more would be no number."""


@lru_cache(maxsize=4096)
def code(character: str) -> int:
    """The number of a character's symbol."""
    return _SPACE if character.isspace() else _CODES.get(fold(character), _OTHER)


def numbered(text: str) -> str:
    """A text with one digit for each number: how many digits it has is nothing that a language knows."""
    return str(_NUMBER.sub("0", text))


def _is_mute(word: str) -> bool:
    """Whether a word has a digit, or no two letters: one by itself may be a misread digit, as in I tab or s gm."""
    return any(code(character) == _DIGIT for character in word) or sum(map(str.isalpha, word)) < 2


def _after(recent: int, symbol: int) -> int:
    """The last `ORDER` - 1 symbols, as one number, when one more has come."""
    return (recent * BASE + symbol) % PAST


@lru_cache(maxsize=4096)
def _recent(text: str) -> int:
    """The last `ORDER` - 1 symbols of a text, a number as one digit; before it there is space."""
    return reduce(_after, map(code, numbered(text)[1 - ORDER :]), _SPACE)


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[tuple[int, str], ...]:
    """The words of a text, each with the space behind it, and the symbols before it."""
    starts = [0, *(n for n in range(1, len(text)) if text[n - 1] == " "), len(text)]
    return tuple((_recent(text[max(0, a - SEEN) : a]), text[a:b]) for a, b in itertools.pairwise(starts) if a < b)


@dataclass(frozen=True, slots=True)
class Table:
    """The n-grams of one order.

    Attributes:
        keys: uint32 (N,), ascending.
        costs: float32 (N,), -log P(last symbol | those before it), nats.
        backoffs: float32 (N,), -log of the weight of lower orders after this n-gram, nats.
    """

    keys: NDArray[np.uint32]
    costs: NDArray[np.float32]
    backoffs: NDArray[np.float32]

    def find(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where n-grams stand, and whether they are there."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.keys, keys.astype(np.uint32)), len(self.keys) - 1)
        return places, self.keys[places] == keys


_Key = tuple[int, str]
"""The last `ORDER` - 1 symbols before a word, and the word, which may go on."""


class _Word:
    """A word after what stands before it: the symbols to its end, its nats, and its value as one that may be unknown."""

    __slots__ = ("nats", "recent", "value")

    def __init__(self, recent: int, nats: float = 0.0, mute: bool = True) -> None:
        self.recent, self.nats = recent, nats
        self.value = 0.0 if mute else math.log(1 - KNOWN + KNOWN * math.exp(min(nats, _NATS)))


def packaged() -> bytes:
    """The file of the packaged model."""
    return (files("fusion.domain") / "lists" / "english.npz").read_bytes()


class English:
    """The model as an expectation of whole lines. May be used from several threads at once."""

    def __init__(self, tables: Sequence[Table] | None = None) -> None:
        """Take the tables of the orders from 1 on; None: the packaged ones, read when they are first asked."""
        self._given = tables
        self._words: dict[_Key, _Word] = {}  # texts differ from each other in few words, and words in few letters
        self._heads: dict[str, tuple[float, int]] = {}

    @cached_property
    def _tables(self) -> Sequence[Table]:
        if self._given is not None:
            return self._given
        return read_tables(BytesIO(packaged()))

    @cached_property
    def identity(self) -> str:
        """Name and version of the model."""
        return f"en@{hashlib.sha256(packaged()).hexdigest()[:12]}" if self._given is None else "en, given"

    def concerns(self, text: str) -> bool:
        """Whether a line may be English prose: `LEAST` words or more, and all its letters are Latin."""
        return len(_WORD.findall(text)) >= LEAST and not _FOREIGN.search(text)

    def log_probability(self, text: str) -> float:
        """Natural log-probability of a whole line, less that of any string of its length."""
        return self.score([text])[0]

    def score(self, texts: Sequence[str]) -> list[float]:
        """`log_probability` of each."""
        return self.begins([f"{text} " for text in texts])

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The same of each text as the beginning of a line."""
        if len(self._words) + len(self._heads) > MOST:
            self._words, self._heads = {}, {}
        known = self._heads  # another thread may forget them meanwhile
        parted = [(text[:cut], text[cut:]) for text in texts for cut in [text.rfind(" ", 0, -1) + 1]]
        heads = {head: _words(head) for head, _ in parted if head not in known}
        words = self._read([key for own in heads.values() for key in own])
        for head, own in heads.items():
            known[head] = sum(words[key].value for key in own), _recent(head[-SEEN:])
        dones = [known[head] for head, _ in parted]
        keys = [(recent, word) for (_, recent), (_, word) in zip(dones, parted, strict=True)]
        words = self._read(keys)
        return [done + words[key].value for (done, _), key in zip(dones, keys, strict=True)]

    def _read(self, keys: Sequence[_Key]) -> dict[_Key, _Word]:
        """Words, each with the symbols before it, as far as they go. A search asks for words that are one letter longer."""
        known = self._words
        ways: dict[_Key, list[str]] = {key: [] for key in keys if key not in known}
        for (recent, word), missing in ways.items():
            known.setdefault((recent, ""), _Word(recent))
            size = len(word)
            while (recent, word[:size]) not in known:
                missing.append(word[:size])
                size -= 1
        while ways:
            new = list({(recent, missing.pop()): None for (recent, _), missing in ways.items() if missing})
            befores = [known[recent, word[:-1]] for recent, word in new]
            symbols = [code(word[-1]) for _, word in new]
            more = self.nats(np.array([before.recent for before in befores]), np.array(symbols)).tolist()
            for key, before, symbol, nats in zip(new, befores, symbols, more, strict=True):
                known[key] = _Word(_after(before.recent, symbol), before.nats + nats, _is_mute(key[1]))
            ways = {key: missing for key, missing in ways.items() if missing}
        return known

    def nats(self, recent: NDArray[np.int64], symbols: NDArray[np.int64]) -> NDArray[np.float64]:
        """Natural log-probability of symbols after the `ORDER` - 1 before them, less that of any: float64 (N,)."""
        found, costs = np.zeros(len(symbols), dtype=np.bool_), np.zeros(len(symbols))
        for order in range(len(self._tables), 0, -1):
            context = recent % BASE ** (order - 1)
            places, there = self._tables[order - 1].find(context * BASE + symbols)
            new = there & ~found
            costs[new] += self._tables[order - 1].costs[places[new]]
            found |= there
            if order > 1:
                places, there = self._tables[order - 2].find(context)
                costs += np.where(there & ~found, self._tables[order - 2].backoffs[places], 0.0)
        return math.log(BASE) - costs


def tables(codes: NDArray[np.uint8], least: Sequence[int]) -> list[Table]:
    """The model of a text.

    Args:
        codes: its symbols, one after the other.
        least: how often an n-gram of each order from 1 on must occur to be kept.
    """
    made: list[Table] = []
    keys = np.zeros(len(codes), dtype=np.uint32)
    for order, few in enumerate(least, 1):
        keys = (keys[: len(codes) - order + 1] * np.uint32(BASE) + codes[order - 1 :]).astype(np.uint32)
        grams, counts = np.unique(keys, return_counts=True)
        if order == 1:  # every symbol may occur
            grams, counts = np.arange(BASE, dtype=np.uint32), np.bincount(codes, minlength=BASE)
        contexts, owner = np.unique(grams // BASE, return_inverse=True)
        totals, kinds = np.bincount(owner, counts), np.bincount(owner, counts > 0)
        wide = grams.astype(np.int64)
        lower = np.exp(English(made).nats(wide // BASE, wide % BASE)) / BASE if made else np.full(BASE, 1 / BASE)
        chances = (counts + kinds[owner] * lower) / (totals + kinds)[owner]
        kept = (counts >= few) | (order == 1)
        if made:  # what the kept n-grams leave is shared as the lower order shares it (Katz, 1987)
            left = 1 - np.bincount(owner[kept], chances[kept], len(contexts))
            below = 1 - np.bincount(owner[kept], lower[kept], len(contexts))
            places, there = made[-1].find(contexts.astype(np.int64))
            made[-1].backoffs[places[there]] = -np.log(np.maximum(left, 1e-6) / np.maximum(below, 1e-6))[there]
        costs = -np.log(chances[kept]).astype(np.float32)
        made.append(Table(grams[kept].astype(np.uint32), costs, np.zeros(len(costs), dtype=np.float32)))
    return made


def write_tables(made: Sequence[Table], file: BinaryIO) -> None:
    """Write tables, compressed: the differences of the keys, and costs in steps."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for order, table in enumerate(made, 1):
        arrays[f"keys{order}"] = np.diff(table.keys, prepend=np.uint32(0)).astype(np.uint32)
        arrays[f"costs{order}"] = _steps(table.costs)
        arrays[f"backoffs{order}"] = _steps(table.backoffs)
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_tables(file: BinaryIO) -> list[Table]:
    """What `write_tables` wrote."""
    with np.load(file) as arrays:
        return [
            Table(
                np.cumsum(arrays[f"keys{order}"], dtype=np.uint32),
                (arrays[f"costs{order}"] / STEPS).astype(np.float32),
                (arrays[f"backoffs{order}"] / STEPS).astype(np.float32),
            )
            for order in range(1, ORDER + 1)
        ]


def _steps(nats: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.round(nats * STEPS), 0, 255).astype(np.uint8)
