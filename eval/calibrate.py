"""What decisions are worth: margin, thresholds, and confidences that are as often right as they say.

Knows cases and weights; fits no weight. Maps after Platt ("Probabilistic outputs for support vector machines", 1999),
thresholds after conformal risk control (Angelopoulos et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.cases import Case
from fusion.fuse import decide, evidence
from fusion.fuse.align import clusters, key

Maps = Mapping[evidence.Support, tuple[float, float]]
"""(slope, offset) for each support."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A case with what the weights make of it: index of the chosen text, and the marginal of each of its characters."""

    case: Case
    chosen: int
    agreement: NDArray[np.float64]

    @classmethod
    def of(cls, case: Case, vector: NDArray[np.float64], margin: float) -> Decided:
        """Decide as the fuse room does."""
        probabilities = evidence.distribution(case.table, vector)
        chosen = 0
        if case.support != "alone":
            chosen, _ = decide.choose(case.texts, probabilities, case.table[:, 0], case.others, case.prior, margin)
        return cls(case, chosen, decide.marginals(case.texts, probabilities, chosen)[0])

    def word(self, maps: Maps) -> tuple[float, bool]:
        """Its least confidence, and whether the text is right."""
        slope, offset = maps[self.case.support]
        least = float(np.clip(self.agreement.min() if len(self.agreement) else 0.0, 1e-6, 1 - 1e-6))
        odds = slope * math.log(least / (1 - least)) + offset
        return 1 / (1 + math.exp(-odds)), bool(self.case.errors[self.chosen] == 0)


def thresholds(words: Sequence[tuple[float, bool]], shares: Sequence[float]) -> list[list[float]]:
    """Confidence from which words are accepted, for each share that may be wrong; shares that can't be kept are left out.

    The bound is that of conformal risk control (Angelopoulos et al. 2022): one more wrong word is counted than was seen.

    Args:
        words: (confidence, right) of calibration words.
        shares: in (0, 1), rising.
    """
    ranked = sorted(words, key=lambda word: -word[0])
    wrong = np.cumsum([not right for _, right in ranked])
    worst = (wrong + 1) / (np.arange(len(ranked)) + 2)
    ends = [n for n in range(len(ranked)) if n + 1 == len(ranked) or ranked[n + 1][0] < ranked[n][0]]
    found = []
    for share in shares:
        kept = [n for n in ends if worst[n] <= share]
        if kept:
            found.append([share, round(ranked[max(kept)][0], 4)])
    return found


def pairs(decided: Sequence[Decided]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Marginals of all decided characters, and whether each was right: float64 (n,), float64 (n,)."""
    marginals: list[float] = []
    right: list[float] = []
    for one in decided:
        text = one.case.texts[one.chosen]
        truth = decide.counterpart(text, one.case.reference)
        marginals += one.agreement.tolist()
        right += [float(key(a) == key(b)) for a, b in zip(clusters(text), truth, strict=True)]
    return np.array(marginals), np.array(right)


def platt(marginals: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset of the logistic map from the marginal's log-odds to the share that is right."""
    p = np.clip(marginals, 1e-6, 1 - 1e-6)
    x, y = torch.from_numpy(np.log(p / (1 - p))), torch.from_numpy(right)
    both = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([both], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(both[0] * x + both[1], y)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = both.detach().tolist()
    return slope, offset


def margin_for(cases: Sequence[Case], vector: NDArray[np.float64], harm: float) -> float:
    """Least margin, nats, with which at most `harm` lines are broken per line mended."""
    for margin in np.arange(0.0, 6.01, 0.25):
        chosen = [Decided.of(case, vector, float(margin)).chosen for case in cases]
        mended = sum(c.errors[0] > 0 == c.errors[n] for c, n in zip(cases, chosen, strict=True))
        broken = sum(c.errors[0] == 0 < c.errors[n] for c, n in zip(cases, chosen, strict=True))
        if broken <= harm * mended:
            break
    return float(margin)


def sure_from(cases: Sequence[Case], vector: NDArray[np.float64], idle: float) -> float:
    """Quality of the OCR's look from which asking the witness is worth at most `idle` of what it is worth in all."""
    ranked = sorted(cases, key=lambda case: -case.quality[0])
    gains = np.array([(c.errors[0] - c.errors[Decided.of(c, vector, 0.0).chosen]) / c.length for c in ranked])
    spared = np.cumsum(gains) <= idle * max(float(gains.sum()), 0.0)
    count = int(np.argmin(spared)) if not spared.all() else len(spared)
    return ranked[count - 1].quality[0] if count else 1.0
