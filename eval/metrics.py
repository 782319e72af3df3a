"""Figures: pooled character error rate, exact match, bootstrap intervals, calibration error.

Knows strings and counts. CER is pooled, Σ edits / Σ reference lengths over grapheme clusters, never a mean of rates.
Intervals are percentile bootstraps over items (Efron 1979); a comparison resamples both systems with the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein


def edits(reference: str, hypothesis: str) -> tuple[int, int]:
    """Levenshtein distance and reference length, both in grapheme clusters.

    >>> edits("第二步", "第2步")
    (1, 3)
    """
    own = regex.findall(r"\X", reference)
    return int(Levenshtein.distance(own, regex.findall(r"\X", hypothesis))), len(own)


@dataclass(frozen=True, slots=True)
class Counts:
    """Edits, lengths and exactness per item: int64 (n,), int64 (n,), bool (n,)."""

    edits: NDArray[np.int64]
    lengths: NDArray[np.int64]
    exact: NDArray[np.bool_]

    @classmethod
    def of(cls, references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
        """Count normalised strings against each other."""
        pairs = [edits(r, h) for r, h in zip(references, hypotheses, strict=True)]
        exact = [r == h for r, h in zip(references, hypotheses, strict=True)]
        return cls(np.array([e for e, _ in pairs]), np.array([n for _, n in pairs]), np.array(exact, dtype=np.bool_))

    @property
    def cer(self) -> float:
        """Pooled character error rate; may exceed 1."""
        return float(self.edits.sum() / max(1, self.lengths.sum()))

    @property
    def exact_match(self) -> float:
        """Share of items read without any error."""
        return float(self.exact.mean()) if len(self.exact) else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _resamples(n: int, rounds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, (rounds, n))


def _interval(value: float, samples: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def cer_interval(counts: Counts, rounds: int, seed: int) -> Interval:
    """Pooled CER with its interval."""
    pick = _resamples(len(counts.edits), rounds, seed)
    return _interval(counts.cer, counts.edits[pick].sum(axis=1) / np.maximum(1, counts.lengths[pick].sum(axis=1)))


def exact_interval(counts: Counts, rounds: int, seed: int) -> Interval:
    """Exact match with its interval."""
    return _interval(counts.exact_match, counts.exact[_resamples(len(counts.exact), rounds, seed)].mean(axis=1))


def cer_difference(a: Counts, b: Counts, rounds: int, seed: int) -> Interval:
    """CER of a minus CER of b on the same items, paired."""
    pick = _resamples(len(a.edits), rounds, seed)
    lengths = np.maximum(1, a.lengths[pick].sum(axis=1))
    return _interval(a.cer - b.cer, (a.edits[pick].sum(axis=1) - b.edits[pick].sum(axis=1)) / lengths)


def calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over bins of equal count (Naeini et al. 2015), in [0, 1]."""
    order = np.argsort(confidences, kind="stable")
    values, hits = np.asarray(confidences)[order], np.asarray(correct, dtype=np.float64)[order]
    parts = [(v, h) for v, h in zip(np.array_split(values, bins), np.array_split(hits, bins), strict=True) if len(v)]
    return float(sum(len(v) * abs(v.mean() - h.mean()) for v, h in parts) / max(1, len(values)))
