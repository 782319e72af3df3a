"""Figures: pooled character error rate, exact match, words found in any order, bootstrap intervals, trust in confidences.

Knows strings and counts. CER is pooled, Σ edits / Σ reference lengths over grapheme clusters, never a mean of rates.
Intervals are percentile bootstraps over clusters (Efron 1979; Field and Welsh 2007): lines of one writer, or copies of one
word, err alike and are drawn together. A comparison resamples both systems with the same clusters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def word_counts(references: Sequence[str], hypotheses: Sequence[str], normal: Callable[[str], str]) -> Counts:
    """The same over words, runs without white space, each normalised; a word of which nothing is left is none."""
    pairs = [
        [[w for w in map(normal, text.split()) if w] for text in pair]
        for pair in zip(references, hypotheses, strict=True)
    ]
    edits = [int(Levenshtein.distance(own, theirs)) for own, theirs in pairs]
    return Counts(
        np.array(edits), np.array([len(own) for own, _ in pairs]), np.array([not e for e in edits], dtype=np.bool_)
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _sums(values: NDArray[np.float64], clusters: Sequence[str]) -> NDArray[np.float64]:
    """Sums of the columns of values (n, k) per cluster: float64 (c, k)."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, [names[name] for name in clusters], values)
    return sums


def ratio_interval(
    over: Sequence[float] | NDArray[Any],
    under: Sequence[float] | NDArray[Any],
    clusters: Sequence[str],
    rounds: int,
    seed: int,
) -> Interval:
    """Σ over / Σ under with its interval, clusters drawn whole."""
    sums = _sums(np.stack([np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)], axis=1), clusters)
    pick = np.random.default_rng(seed).integers(0, len(sums), (rounds, len(sums)))
    drawn = sums[pick].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-9), [2.5, 97.5])
    total = sums.sum(axis=0)
    return Interval(float(total[0] / max(total[1], 1e-9)), float(low), float(high))


def cer_interval(counts: Counts, clusters: Sequence[str], rounds: int, seed: int) -> Interval:
    """Pooled CER with its interval."""
    return ratio_interval(counts.edits, counts.lengths, clusters, rounds, seed)


def exact_interval(counts: Counts, clusters: Sequence[str], rounds: int, seed: int) -> Interval:
    """Exact match with its interval."""
    return ratio_interval(counts.exact, np.ones(len(counts.exact)), clusters, rounds, seed)


def cer_difference(a: Counts, b: Counts, clusters: Sequence[str], rounds: int, seed: int) -> Interval:
    """CER of a minus CER of b on the same items, paired."""
    return ratio_interval(a.edits - b.edits, a.lengths, clusters, rounds, seed)


def bags(reference: str, hypothesis: str, *, chinese: bool) -> tuple[int, int, int]:
    """What two pages have in common, order aside: tokens shared, of the reference, of the hypothesis.

    Tokens are runs of letters and runs of digits, case and accents aside; in Chinese pairs of neighbouring characters of a
    line, width and punctuation aside.
    """
    own, theirs = (_pairs(text) if chinese else _words(text) for text in (reference, hypothesis))
    return (own & theirs).total(), own.total(), theirs.total()


def _words(text: str) -> Counter[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    return Counter(regex.findall(r"[a-z]+|[0-9]+", plain))


def _pairs(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in unicodedata.normalize("NFKC", text).lower().split("\n"):
        row = "".join(c for c in line if unicodedata.category(c)[0] not in "PZC" and c != "□")
        found.update([row] if len(row) == 1 else [row[n : n + 2] for n in range(len(row) - 1)])
    return found


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Probability that a right one scores above a wrong one, ties counting half (Hanley and McNeil 1982); nan for one kind."""
    values, good = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    above, below = values[good], values[~good]
    if not len(above) or not len(below):
        return float("nan")
    return float(np.mean((above[:, None] > below) + 0.5 * (above[:, None] == below)))


def calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over bins of equal count (Naeini et al. 2015), in [0, 1]."""
    order = np.argsort(confidences, kind="stable")
    values, hits = np.asarray(confidences)[order], np.asarray(correct, dtype=np.float64)[order]
    parts = [(v, h) for v, h in zip(np.array_split(values, bins), np.array_split(hits, bins), strict=True) if len(v)]
    return float(sum(len(v) * abs(v.mean() - h.mean()) for v, h in parts) / max(1, len(values)))
