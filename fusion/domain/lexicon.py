"""Lists of names as a prior: membership, neighbours, a character model made from them, and how their names go on.

Names are compared by letters and digits alone, lower-case: "Napa-Extra" and "napa extra" are one name. Other signs inside a
word are none of the habits of spelling: "25/mg" is no "25 mg".
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import regex
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from fusion.domain.formulary import read_names
from fusion.domain.ngram import SYMBOLS, NGram, count

COVERAGE: dict[str, float] = {"formulary": 0.98, "names": 0.5}
"""Probability that a word is on the list, a user's own or the packaged one; of a line, that one of its words is."""
SPELT_ALIKE = 0.5
"""Share of the other words that are spelt like those on the list; the rest is any string."""
RIVAL = 2
"""Most edits between names that are easily confused."""
_LAST = "\U0010ffff"
"""Sorts after every letter."""
_HABITS = regex.compile(r"[\s\-\u2010-\u2015'’·]")
"""Signs inside a name that one may write or leave out."""
_ENDS = regex.compile(r"^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$")
_ABBREVIATION = regex.compile(r"(?:\w\.)+\w")
_HAN = regex.compile(r"\p{Han}")
_STROKES = {"rn": "m", "cl": "d", "vv": "w", "li": "h", "0": "o", "1": "l", "i": "l", "5": "s", "u": "n"}
"""Letters that look like others in hasty writing."""


def hasty(name: str) -> str:
    """A name with letters that look alike in hasty writing made one.

    >>> hasty("clonex") == hasty("donex")
    True
    """
    for drawn, seen in _STROKES.items():
        name = name.replace(drawn, seen)
    return name


def letters(text: str) -> str:
    """Letters and digits of a text, case-folded."""
    return "".join(c for c in text.casefold() if c.isalnum())


def key(word: str) -> str:
    """What a word is looked up by: its `letters`, and other signs than spaces and hyphens where they stand inside it.

    >>> key("(Napa-Extra,"), key("b.i.d."), key("Dr.IP")
    ('napaextra', 'bid', 'dr.ip')
    """
    inside = _HABITS.sub("", _ENDS.sub("", word.casefold()))
    return letters(word) if inside.isalnum() or _ABBREVIATION.fullmatch(inside) else inside


class Lexicon:
    """A list of names as a `Prior`."""

    def __init__(
        self,
        names: Iterable[str],
        kind: Literal["formulary", "names"] = "formulary",
        words: Iterable[str] = (),
        known: Iterable[str] = (),
    ) -> None:
        """Build the model; a few thousand names take some tens of milliseconds.

        Args:
            names: empty ones are skipped, the first spelling of a name is kept.
            kind: the user's own list, or the packaged one.
            words: held like names, but never proposed: `tab` and `daily` are no drugs.
            known: more names that one of `names` may be mistaken for.
        """
        self.kind: Literal["formulary", "names", "sums"] = kind
        self._names: dict[str, str] = {}
        for name in names:
            if letters(name):
                self._names.setdefault(key(name), name.strip())
        self._keys = list(self._names)
        self._words = {key(word) for word in words} - {"", *self._names}
        self._known = {**{key(name): name for name in known if letters(name)}, **self._names}
        self._han = any(_HAN.search(name) for name in self._keys)
        self._model = NGram(count(self._keys))
        self._sorted = sorted(self._keys), sorted(self._words)
        self._kinds = sum(map(bool, self._sorted))  # they share the probability equally, whatever their lengths
        self._odds = lru_cache(maxsize=16384)(self._odds_of)  # hypotheses share most of their words
        self._begun = lru_cache(maxsize=16384)(self._begun_of)
        self._following = lru_cache(maxsize=16384)(self._following_of)

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """A formulary; see `read_names`."""
        return cls(read_names(path))

    @cached_property
    def identity(self) -> str:
        """First 12 hex digits of the SHA-256 of names and words."""
        content = "\n".join(
            [self.kind, *sorted(self._names.values()), "", *sorted(self._words), "", *sorted(self._known)]
        )
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._names)

    @property
    def coverage(self) -> float:
        """Prior probability that a word is one of the names; see `COVERAGE`."""
        return COVERAGE[self.kind]

    @cached_property
    def _hasty(self) -> dict[str, str]:
        return {name: hasty(name) for name in self._known}

    def concerns(self, text: str) -> bool:
        """Whether the names may be in the script of the line: English names say nothing about Chinese."""
        return self._han or not _HAN.search(text)

    def holds(self, word: str) -> bool:
        """Whether the word is one of the names or words."""
        own = key(word)
        return own in self._names or own in self._words

    def near(self, word: str, count: int) -> list[str]:
        """Names that share at least a fifth of a word's letters, nearest first."""
        sought = letters(word)
        if len(sought) < 2:
            return []
        cutoff = max(2, len(sought) * 4 // 5)
        found = process.extract(sought, self._keys, scorer=Levenshtein.distance, limit=count, score_cutoff=cutoff)
        return [self._names[name] for name, _, _ in found]

    def rivals(self, name: str) -> list[str]:
        """Other names within `RIVAL` edits, or one edit of the `hasty` forms, nearest first."""
        own = letters(name)
        alike = process.extract(hasty(own), self._hasty, scorer=Levenshtein.distance, limit=None, score_cutoff=1)
        near = process.extract(own, list(self._known), scorer=Levenshtein.distance, limit=None, score_cutoff=RIVAL)
        found = {other: RIVAL + 1 for _, _, other in alike} | {other: distance for other, distance, _ in near}
        found.pop(own, None)
        return [self._known[other] for other in sorted(found, key=lambda other: (found[other], other))]

    def log_probability(self, text: str) -> float:
        """Natural log-probability of a text, less that of any string of `ngram.SYMBOLS` letters.

        A word is on the list (uniform), or spelt like those on it, or any string. Numbers and signs count 0.
        """
        words = [text] if self.holds(text) else text.split()
        spoken = [key(word) for word in words if any(map(str.isalpha, word))]
        coverage = self.coverage / max(1, len(spoken))
        return sum(self._odds(word, coverage) for word in spoken)

    def score(self, texts: Sequence[str]) -> list[float]:
        """`log_probability` of each."""
        return [self.log_probability(text) for text in texts]

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The same of each text as the beginning of a line: its last word counts for all the words that begin so."""
        return [self._begins(text) for text in texts]

    def _begins(self, text: str) -> float:
        begun = self._begins_with(text.split(" "))
        if " " in text and any(self._starting(key(text))):  # or a name of several words has begun
            return max(begun, self._begins_with([text]))
        return begun

    def _begins_with(self, words: Sequence[str]) -> float:
        spoken = [key(word) for word in words if any(map(str.isalpha, word))]
        coverage = self.coverage / max(1, len(spoken))
        if not any(map(str.isalpha, words[-1])) or not words[-1][-1].isalnum():  # the last word is over
            return sum(self._odds(word, coverage) for word in spoken)
        return sum(self._odds(word, coverage) for word in spoken[:-1]) + self._begun(spoken[-1], coverage)

    def follows(self, text: str) -> frozenset[str]:
        """Letters with which a name goes on that a text ends in the middle of, or may begin after it."""
        last = text.rsplit(" ", 1)[-1]
        if last and not last[-1].isalnum() and not _HABITS.fullmatch(last[-1]):
            return frozenset()  # the word is over
        return self._following(key(last)) | (self._following(key(text)) if " " in text else frozenset())

    def _starting(self, begin: str) -> list[int]:
        """How many names, and how many words, begin so."""
        return [bisect_left(kept, begin + _LAST) - bisect_left(kept, begin) for kept in self._sorted]

    def _following_of(self, begin: str) -> frozenset[str]:
        found, names = set(), self._sorted[0]
        at, end = bisect_left(names, begin), bisect_left(names, begin + _LAST)
        while at < end:
            letter = names[at][len(begin) : len(begin) + 1]
            found.add(letter)
            at = bisect_left(names, begin + letter + _LAST, at, end) if letter else at + 1
        return frozenset(found - {""})

    def _begun_of(self, begin: str, coverage: float) -> float:
        anything = -len(begin) * math.log(SYMBOLS)
        found = self._unlisted(self._model.begins(begin), anything, coverage)
        for number, kept in zip(self._starting(begin), self._sorted, strict=True):
            if number:
                found = _log_sum(found, math.log(coverage / self._kinds * number / len(kept)) - anything)
        return found

    def _odds_of(self, word: str, coverage: float) -> float:
        anything = -(len(word) + 1) * math.log(SYMBOLS)
        other = self._unlisted(self._model.log_probability(word), anything, coverage)
        own = self._names if word in self._names else self._words
        if word not in own:
            return other
        return _log_sum(other, math.log(coverage / self._kinds / len(own)) - anything)

    @staticmethod
    def _unlisted(spelt: float, anything: float, coverage: float) -> float:
        """Of a word that is on no list: log-probability that it is spelt so, or any string, less that of any string."""
        return math.log(1 - coverage) + _log_sum(math.log(SPELT_ALIKE) + spelt - anything, math.log(1 - SPELT_ALIKE))


def _log_sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
