"""Names to expect: membership, neighbours, and a character model made from them.

Knows a list of names; knows nothing of ink, readers or decisions. Names are compared by their letters and digits alone,
lower-case: "Napa-Extra" and "napa extra" are one name. The character model is an interpolated n-gram with Witten-Bell
smoothing (Witten and Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), 1991, method C).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from fusion.errors import InputError

ORDER = 5
"""Characters that the model looks at, the predicted one included."""
SYMBOLS = 40
"""Least size of the alphabet behind the uniform floor: letters, digits, end and a little more."""
_START, _END = "\x02", "\x03"


def letters(text: str) -> str:
    """Letters and digits of a text, case-folded: what two spellings of a name share."""
    return "".join(c for c in text.casefold() if c.isalnum())


class Lexicon:
    """A list of names as evidence."""

    def __init__(self, names: Iterable[str]) -> None:
        """Build the model; a few thousand names take some tens of milliseconds.

        Args:
            names: one name each; empty ones are skipped, the first spelling of a name is kept.
        """
        self._names: dict[str, str] = {}
        for name in names:
            stripped = name.strip()
            if letters(stripped):
                self._names.setdefault(letters(stripped), stripped)
        self._keys = list(self._names)
        self._counts: dict[str, dict[str, int]] = {}
        for name in self._keys:
            padded = _START * (ORDER - 1) + name + _END
            for end in range(ORDER - 1, len(padded)):
                for size in range(ORDER):
                    after = self._counts.setdefault(padded[end - size : end], {})
                    after[padded[end]] = after.get(padded[end], 0) + 1
        alphabet = {symbol for after in self._counts.values() for symbol in after}
        self._floor = 1 / max(SYMBOLS, len(alphabet) + 4)
        self._totals = {context: sum(after.values()) for context, after in self._counts.items()}
        self._log = lru_cache(maxsize=4096)(self._log_uncached)

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read a formulary: UTF-8, one name a line; lines that start with # are comments.

        Raises:
            InputError: the file can't be read, is not UTF-8, or holds no name.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise InputError(path, f"can't be read ({error.strerror})", "Check domain.formulary.") from error
        except UnicodeDecodeError as error:
            raise InputError(path, "is not UTF-8", "Save the formulary as UTF-8 text, one name a line.") from error
        lexicon = cls(line for line in lines if not line.startswith("#"))
        if not lexicon._names:
            raise InputError(path, "holds no name", "Write one name a line.")
        return lexicon

    def __len__(self) -> int:
        return len(self._names)

    def holds(self, word: str) -> bool:
        """Whether the word is one of the names."""
        return letters(word) in self._names

    def near(self, word: str, count: int) -> list[str]:
        """Names within about half the word's length of edits, nearest first."""
        sought = letters(word)
        if len(sought) < 3:
            return []
        cutoff = max(2, len(sought) // 2)
        found = process.extract(sought, self._keys, scorer=Levenshtein.distance, limit=count, score_cutoff=cutoff)
        return [self._names[name] for name, _, _ in found]

    def log_probability(self, text: str) -> float:
        """Natural log-probability of the letters of a text, its end included."""
        return self._log(letters(text))

    def _log_uncached(self, text: str) -> float:
        padded = _START * (ORDER - 1) + text + _END
        return sum(
            math.log(self._next(padded[end - ORDER + 1 : end], padded[end])) for end in range(ORDER - 1, len(padded))
        )

    def _next(self, context: str, symbol: str) -> float:
        probability = self._floor
        for size in range(ORDER):
            known = context[len(context) - size :]
            after = self._counts.get(known)
            if after is None:
                break
            kinds = len(after)
            probability = (after.get(symbol, 0) + kinds * probability) / (self._totals[known] + kinds)
        return probability
