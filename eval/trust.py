"""How far a result can be trusted: what confidences are worth, and what a person who follows the review still gets wrong.

Knows reads and metrics; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eval import metrics
from eval.calibrate import right_stretches
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
    rows = []  # expected cost, flagged, wrong, cluster
    for read, cluster in zip(reads, clusters, strict=True):
        for page in read.pages:
            for line, units, flags in judge(page, read.bound):
                rights = right_stretches(line.text, read.item.reference, normalise, within=not crop)
                rows += [
                    (unit.expected_cost, flag, not right, cluster)
                    for unit, flag, right in zip(units, flags, rights, strict=True)
                    if right is not None
                ]
    if not rows:
        return f"{name}: nothing to review"
    flagged, wrong = (np.array([row[n] for row in rows], dtype=bool) for n in (1, 2))
    order = np.lexsort((np.array([-row[0] for row in rows]), ~flagged))[
        : round(BUDGET * len(rows))
    ]  # flagged ones first
    caught = f"{wrong[order].sum() / max(1, wrong.sum()):.2f}"
    left = metrics.ratio_interval(wrong & ~flagged, ~flagged, [row[3] for row in rows], rounds, SEED)
    return (
        f"{name}: review flags {flagged.sum()} of {len(rows)} stretches ({flagged.mean():.2f}), catches "
        f"{(wrong & flagged).sum()} of {wrong.sum()} wrong ones ({(wrong & flagged).sum() / max(1, wrong.sum()):.2f}; the "
        f"dearest {BUDGET:.0%}: {caught}); wrong among the others {left} (n = {(~flagged).sum()})"
    )
