"""A character model: an interpolated n-gram with Witten-Bell smoothing.

Witten and Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), 1991, method C.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import lru_cache

ORDER = 5
"""Order of the n-gram: the predicted character and up to four before it."""
SYMBOLS = 40
"""Least alphabet size for the uniform floor: letters, digits, end and a few more."""
_START, _END = "\x02", "\x03"

Counts = dict[str, dict[str, int]]
"""Context of up to `ORDER` - 1 characters → next character → count."""


def count(texts: Iterable[str]) -> Counts:
    """Counts of all contexts of some texts."""
    counts: Counts = {}
    for text in texts:
        padded = _START * (ORDER - 1) + text + _END
        for end in range(ORDER - 1, len(padded)):
            for size in range(ORDER):
                after = counts.setdefault(padded[end - size : end], {})
                after[padded[end]] = after.get(padded[end], 0) + 1
    return counts


class NGram:
    """The model with given counts."""

    def __init__(self, counts: Counts) -> None:
        """Take over counts; nothing is copied."""
        self._counts = counts
        alphabet = set(counts.get("", {}))
        self._floor = 1 / max(SYMBOLS, len(alphabet) + 4)
        self._totals = {context: sum(after.values()) for context, after in counts.items()}
        self.log_probability = lru_cache(maxsize=4096)(self._log_probability)
        self.begins = lru_cache(maxsize=4096)(self._begins)

    @staticmethod
    def dumps(counts: Counts) -> str:
        """Counts as JSON."""
        return json.dumps(counts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    def _log_probability(self, text: str) -> float:
        """Natural log-probability of a text, its end included."""
        padded = _START * (ORDER - 1) + text + _END
        return sum(
            math.log(self.next(padded[end - ORDER + 1 : end], padded[end])) for end in range(ORDER - 1, len(padded))
        )

    def _begins(self, text: str) -> float:
        """Natural log-probability that a text begins so."""
        if not text:
            return 0.0
        context = (_START * (ORDER - 1) + text)[-ORDER:-1]
        return self.begins(text[:-1]) + math.log(self.next(context, text[-1]))

    def next(self, context: str, symbol: str) -> float:
        """Probability of a symbol after a context of at most `ORDER` - 1 characters."""
        probability = self._floor
        for size in range(ORDER):
            known = context[len(context) - size :]
            after = self._counts.get(known)
            if after is None:
                break
            kinds = len(after)
            probability = (after.get(symbol, 0) + kinds * probability) / (self._totals[known] + kinds)
        return probability
