"""What decisions are worth: margin, thresholds, and confidences that are as often right as they say.

Knows cases and weights; fits no weight. Maps after Platt ("Probabilistic outputs for support vector machines", 1999),
thresholds after conformal risk control (Angelopoulos et al. 2022). The unit is a word, since a word is what a person
accepts; it is as sure as the least sure of its characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.cases import Case
from fusion.fuse import decide, evidence
from fusion.fuse.align import clusters, key

Maps = Mapping[evidence.Support, Mapping[str, float]]
"""The numbers of `evidence.CONFIDENCE` for each support."""
Judge = Callable[[Case], NDArray[np.float64]]
"""The weights for a case: float64 (F,)."""
WIDEST_MARGIN = 6.0
"""Nats; the widest margin that is tried."""
SOFT = 4.0
"""How sharply the least sure character stands for its word while the map is fitted."""


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

    def words(self) -> list[tuple[NDArray[np.float64], bool]]:
        """Each word of the decision: what its characters' confidences rest on, and whether it is right.

        Returns:
            float64 (n, 5), in the order of `evidence.CONFIDENCE`; in a line of several words one is right if all its
            characters are, and nothing is missing beside them.
        """
        case, text = self.case, self.case.texts[self.chosen]
        ocr = decide.counterpart(text, case.texts[0])
        vlm = decide.counterpart(text, case.others[0]) if case.others else None
        who = decide.voices(text, ocr, vlm, case.prior)
        rows = np.array([evidence.grounds(float(p), one) for p, one in zip(self.agreement, who, strict=True)])
        own = clusters(text)
        if len(text.split()) == 1:
            return [(rows, bool(case.errors[self.chosen] == 0))]
        truth = decide.counterpart(text, case.reference)
        same = [key(a) == key(b) for a, b in zip(own, truth, strict=True)]
        inked = [not cluster.isspace() for cluster in own]
        edges = np.flatnonzero(np.diff([False, *inked, False])).reshape(-1, 2).tolist()
        return [(rows[a:b], all(same[a:b])) for a, b in edges]


def confidences(decided: Sequence[Decided], maps: Maps) -> list[tuple[float, bool]]:
    """Least confidence of every word, and whether the word is right."""
    found = []
    for one in decided:
        vector = np.array([maps[one.case.support][name] for name in evidence.CONFIDENCE])
        found += [(float(1 / (1 + np.exp(-(rows @ vector).min()))), right) for rows, right in one.words()]
    return found


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


def calibration(decided: Sequence[Decided], l2: float = 1e-3) -> dict[str, float]:
    """The numbers of `evidence.CONFIDENCE` under which the words are most probably as right or wrong as they are.

    A voice more never makes less sure: what the three voices add is kept from falling below 0.
    """
    words = [word for one in decided for word in one.words()]
    widest = max(len(rows) for rows, _ in words)
    table = torch.zeros(len(words), widest, len(evidence.CONFIDENCE), dtype=torch.float64)
    absent = torch.full((len(words), widest), 1e9, dtype=torch.float64)
    for n, (rows, _) in enumerate(words):
        table[n, : len(rows)] = torch.from_numpy(rows)
        absent[n, : len(rows)] = 0.0
    right = torch.tensor([float(ok) for _, ok in words], dtype=torch.float64)
    free = torch.tensor([0.4, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def bounded() -> torch.Tensor:
        return torch.cat([free[:2], torch.nn.functional.softplus(free[2:])])

    def loss() -> Any:
        optimiser.zero_grad()
        numbers = bounded()
        least = -torch.logsumexp(-SOFT * (table @ numbers + absent), dim=1) / SOFT
        value = torch.nn.functional.binary_cross_entropy_with_logits(least, right) + l2 * (numbers**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return dict(zip(evidence.CONFIDENCE, (round(value, 4) for value in bounded().detach().tolist()), strict=True))


def margin_for(cases: Sequence[Case], weights: Judge, harm: float) -> float:
    """Least margin, nats, with which at most `harm` lines are broken per line mended; if none is, that of the least harm.

    One line more than was seen is taken as broken (Laplace's rule of succession): where few lines speak, it is careful.
    """
    best = (math.inf, WIDEST_MARGIN)
    for margin in np.arange(0.0, WIDEST_MARGIN + 0.01, 0.25).tolist():
        chosen = [Decided.of(case, weights(case), margin).chosen for case in cases]
        mended = sum(c.errors[0] > 0 == c.errors[n] for c, n in zip(cases, chosen, strict=True))
        broken = sum(c.errors[0] == 0 < c.errors[n] for c, n in zip(cases, chosen, strict=True))
        if mended:
            best = min(best, (max(harm, (broken + 1) / mended), margin))
    return best[1]


def sure_from(cases: Sequence[Case], weights: Judge, idle: float) -> float:
    """Quality of the OCR's look from which asking the witness is worth at most `idle` of what it is worth in all."""
    ranked = sorted(cases, key=lambda case: -case.quality[0])
    gains = np.array([(c.errors[0] - c.errors[Decided.of(c, weights(c), 0.0).chosen]) / c.length for c in ranked])
    spared = np.cumsum(gains) <= idle * max(float(gains.sum()), 0.0)
    count = int(np.argmin(spared)) if not spared.all() else len(spared)
    return ranked[count - 1].quality[0] if count else 1.0
