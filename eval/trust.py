"""How far a result can be trusted: what confidences are worth, and what a person who follows the review still gets wrong.

Knows reads and metrics; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eval import metrics
from eval.calibrate import wrong_in
from eval.datasets import Normalisation
from eval.systems import Read
from fusion.review import judge

BUDGET = 0.35
"""Share of the stretches that a person may be willing to look at."""
SEED = 20261125


def lines(name: str, reads: Sequence[Read], references: Sequence[str], normal: Callable[[str], str]) -> str:
    """What the confidence of whole lines is worth: AUROC, calibration error, errors among the surest half."""
    known = [
        (read.confidence, normal(read.fused) == reference)
        for read, reference in zip(reads, references, strict=True)
        if read.confidence is not None
    ]
    if len(known) < 5:
        return f"{name}: too few confidences for a figure ({len(known)})"
    values, right = [value for value, _ in known], [ok for _, ok in known]
    half = sorted(known, key=lambda one: -one[0])[: len(known) // 2]
    wrong = sum(not ok for _, ok in half)
    return (
        f"{name}: line confidence: AUROC {metrics.auroc(values, right):.3f}, calibration error "
        f"{metrics.calibration_error(values, right):.3f}, wrong among the surest half {wrong}/{len(half)} (n = {len(known)})"
    )


def review(
    name: str,
    reads: Sequence[Read],
    clusters: Sequence[str],
    normalise: Normalisation,
    *,
    crop: bool,
    rounds: int,
) -> str:
    """How many wrong stretches the review flags, and the share of wrong ones among the others, with its interval."""
    found = judged(reads, clusters, normalise, crop=crop)
    if not len(found.wrong):
        return f"{name}: nothing to review"
    flagged, wrong = found.flagged, found.mistaken
    order = found.dearest[: round(BUDGET * len(wrong))]
    caught = f"{wrong[order].sum() / max(1, wrong.sum()):.2f}"
    left = metrics.ratio_interval(wrong & ~flagged, ~flagged, found.clusters, rounds, SEED)
    return (
        f"{name}: review flags {flagged.sum()} of {len(wrong)} stretches ({flagged.mean():.2f}), catches "
        f"{(wrong & flagged).sum()} of {wrong.sum()} wrong ones ({(wrong & flagged).sum() / max(1, wrong.sum()):.2f}; the "
        f"dearest {BUDGET:.0%}: {caught}); wrong among the others {left} (n = {(~flagged).sum()})"
    )


# --- stretches and their curves -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretches:
    """The stretches that a system decided on a split: words, or Chinese characters; n in all.

    Attributes:
        confidence: float64 (n,), in [0, 1]; an unknown one is 0.
        cost: float64 (n,), expected cost of leaving it alone, see `review`.
        flagged: bool (n,), the review asks for a look.
        disputed: bool (n,), its readers differ.
        wrong: int64 (n,), characters that are not the reference's.
        clusters: n names of what errs alike.
    """

    confidence: NDArray[np.float64]
    cost: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    disputed: NDArray[np.bool_]
    wrong: NDArray[np.int64]
    clusters: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float, bool, bool, int, str]]) -> Stretches:
        """From one row per stretch."""
        sure, cost, flagged, disputed, wrong, clusters = zip(*rows, strict=True) if rows else ((),) * 6
        return cls(
            np.array(sure, dtype=np.float64),
            np.array(cost, dtype=np.float64),
            np.array(flagged, dtype=np.bool_),
            np.array(disputed, dtype=np.bool_),
            np.array(wrong, dtype=np.int64),
            tuple(clusters),
        )

    @property
    def mistaken(self) -> NDArray[np.bool_]:
        """Which stretches are wrong: bool (n,)."""
        return self.wrong > 0

    @property
    def dearest(self) -> NDArray[np.int64]:
        """The order in which a person looks at them: what is flagged first, then by expected cost."""
        return np.asarray(np.lexsort((-self.cost, ~self.flagged)), dtype=np.int64)


@lru_cache(maxsize=1 << 16)
def _wrong(text: str, reference: str, normalise: Normalisation, within: bool) -> tuple[int | None, ...]:
    """See `wrong_in`; systems that are compared read most lines alike."""
    return tuple(wrong_in(text, reference, normalise, within=within))


AGREED = ("agreed", "only_reader")
"""Rules of spans on which no reader differs from another."""


def judged(reads: Sequence[Read], clusters: Sequence[str], normalise: Normalisation, *, crop: bool) -> Stretches:
    """The stretches of what was decided."""
    rows = []
    for read, cluster in zip(reads, clusters, strict=True):
        for page in read.pages:
            for line, units, flags in judge(page, read.bound):
                differs = [span.because not in AGREED for span in line.spans for _ in span.text]
                counts = _wrong(line.text, read.item.reference, normalise, not crop)
                rows += [
                    (
                        unit.confidence or 0.0,
                        unit.expected_cost,
                        flag,
                        any(differs[unit.start : unit.end]),
                        wrong,
                        cluster,
                    )
                    for unit, flag, wrong in zip(units, flags, counts, strict=True)
                    if wrong is not None
                ]
    return Stretches.of(rows)


def scored(
    said: Sequence[Sequence[tuple[str, float | None]]],
    references: Sequence[str],
    clusters: Sequence[str],
    normalise: Normalisation,
    *,
    crop: bool,
) -> Stretches:
    """The stretches of a system that gives lines and a score of each: every stretch is as sure as its line."""
    rows = []
    for lines_, reference, cluster in zip(said, references, clusters, strict=True):
        for text, score in lines_:
            sure = score or 0.0
            counts = _wrong(text, reference, normalise, not crop)
            rows += [(sure, 1 - sure, False, False, wrong, cluster) for wrong in counts if wrong is not None]
    return Stretches.of(rows)


COVERAGES = (0.5, 0.8, 0.95)
GRID = np.linspace(0.01, 1, 100)
ROUNDS = 500


@dataclass(frozen=True)
class Risk:
    """How much is wrong among the surest: the risk–coverage curve (El-Yaniv and Wiener 2010).

    Attributes:
        values: float64 (3, 100), at the coverages of `GRID`: the share that is wrong, and its 95 % interval.
        area: under the curve, the mean over all coverages (Geifman and El-Yaniv 2017); less is better.
        at: at the `COVERAGES`.
        areas: float64 (R,), of the resamples; those of two systems on one split are paired.
        best: the area if all wrong ones were the least sure.
    """

    values: NDArray[np.float64]
    area: metrics.Interval
    at: tuple[metrics.Interval, ...]
    areas: NDArray[np.float64]
    best: float


def risk(found: Stretches, clusters: Sequence[str], rounds: int = ROUNDS) -> Risk:
    """The curve, resampled over all clusters of the split, whether a stretch is in them or not."""
    order = np.argsort(-found.confidence, kind="stable")
    wrong = found.mistaken[order].astype(np.float64)
    number = {name: n for n, name in enumerate(dict.fromkeys(clusters))}
    owner = np.array([number[found.clusters[n]] for n in order])
    pick = np.random.default_rng(SEED).integers(0, len(number), (rounds, len(number)))
    drawn = np.stack([np.bincount(row, minlength=len(number)) for row in pick])[:, owner]
    weights = np.concatenate([np.ones((1, len(wrong))), drawn])
    accepted = np.cumsum(weights, axis=1)
    rates = np.cumsum(weights * wrong, axis=1) / np.maximum(accepted, 1)
    total = np.maximum(accepted[:, -1:], 1)
    curves = np.stack([np.interp(GRID, a / t, r) for a, t, r in zip(accepted, total, rates, strict=True)])
    areas = (weights * rates).sum(axis=1) / total[:, 0]
    perfect = np.cumsum(np.sort(wrong)) / np.arange(1, len(wrong) + 1)
    low, high = np.percentile(curves[1:], [2.5, 97.5], axis=0)
    at = [np.argmin(np.abs(GRID - coverage)) for coverage in COVERAGES]
    return Risk(
        np.stack([curves[0], low, high]),
        _interval(areas),
        tuple(_interval(curves[:, n]) for n in at),
        areas,
        float(perfect.mean()),
    )


def _interval(values: NDArray[np.float64]) -> metrics.Interval:
    """Of a figure and its resamples, the figure first."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return metrics.Interval(float(values[0]), float(low), float(high))


def area_difference(one: Risk, other: Risk) -> metrics.Interval:
    """Area of one minus that of the other, paired."""
    return _interval(one.areas - other.areas)


@dataclass(frozen=True)
class Capture:
    """What a person finds who looks at the dearest stretches first.

    Attributes:
        looked: float64 (n + 1,), share of the stretches that was looked at.
        caught: float64 (n + 1,), share of the wrong characters in them.
        review: (looked, caught) of those that the review asks for.
        disputed: the same of those on which readers differ.
    """

    looked: NDArray[np.float64]
    caught: NDArray[np.float64]
    review: tuple[float, float]
    disputed: tuple[float, float]

    def caught_at(self, share: float) -> float:
        """Share of the wrong characters in the dearest `share` of the stretches."""
        return float(np.interp(share, self.looked, self.caught))

    def looked_for(self, share: float) -> float:
        """Share of the stretches that holds so much of the wrong characters."""
        return float(self.looked[int(np.argmax(self.caught >= share - 1e-9))])


def capture(found: Stretches) -> Capture:
    """The curve, and two points beside it."""
    wrong, total = found.wrong[found.dearest], max(1, int(found.wrong.sum()))

    def point(chosen: NDArray[np.bool_]) -> tuple[float, float]:
        return float(chosen.mean()), float(found.wrong[chosen].sum() / total)

    looked = np.arange(len(wrong) + 1) / max(1, len(wrong))
    caught = np.concatenate([[0.0], np.cumsum(wrong) / total])
    return Capture(looked, caught, point(found.flagged), point(found.disputed))


BINS = 10
LEAST = 40
"""Stretches in a point of the reliability diagram, where there are enough for three points."""


def reliability(found: Stretches) -> tuple[NDArray[np.float64], float]:
    """Mean confidence and share that is right in bins of equal count, float64 (2, b); and the expected calibration error.

    The error is over `BINS` bins; the points are fewer where stretches are few.
    """
    order = np.argsort(found.confidence, kind="stable")
    points = max(3, min(BINS, len(order) // LEAST))
    parts = [part for part in np.array_split(order, points) if len(part)]
    said = [float(found.confidence[part].mean()) for part in parts]
    right = [float(1 - found.mistaken[part].mean()) for part in parts]
    error = metrics.calibration_error(found.confidence.tolist(), (~found.mistaken).tolist(), BINS)
    return np.array([said, right]), error
