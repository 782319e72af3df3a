"""Confidences that are as often right as they say: which stretches are right, and one map per script from that.

Knows cases, decisions and references; fits no weight of an expert. The map is a logistic one (Platt, "Probabilistic outputs
for support vector machines", 1999) of a few log-odds. The unit is a stretch, since that is what a person accepts; it is as
sure as the least sure of its characters. From the map follow limits, under which the share of mistakes among what is left
alone holds for other writers too (conformal risk control). `crossed` shows both on writers that they have not seen.
"""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from eval import metrics
from eval.cases import Case
from eval.datasets import NORMALISATIONS, Normalisation
from fusion.ctc import fold
from fusion.fuse import confidence_inputs
from fusion.fuse.align import clusters, starts
from fusion.fuse.model import CONFIDENCE, SCRIPTS, Script, Weights, script
from fusion.page import stretches

SOFT = 4.0
"""How sharply the least sure character stands for its stretch while the map is fitted."""
MATCH = 0.5
"""Edits per character of a line beyond which no part of a page is its counterpart."""
SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
"""Shares of mistakes among what is left alone for which a limit is sought."""
FOLDS = 5
"""Parts, by writer or word, each of which is judged by what was fitted on the others."""
SEED, ROUNDS = 20261126, 2000
LEAST = 200
"""Stretches of a script under which it keeps the map that it has."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A decided stretch: what the confidences of its characters rest on, and whether it is right.

    Attributes:
        script: of the stretch.
        inputs: float64 (n, 8), see `model.CONFIDENCE`.
        right: all its characters are the reference's, and nothing is missing beside them.
        cluster: of its line.
        source: of its line.
        condition: of its line.
    """

    script: Script
    inputs: NDArray[np.float64]
    right: bool
    cluster: str
    source: str
    condition: tuple[str, str]

    def confidence(self, weights: Weights) -> float:
        """As the engine works it out."""
        return float(1 / (1 + np.exp(-(self.inputs @ np.array(weights.confidence[self.script])).min())))


def right_stretches(text: str, reference: str, normalise: Normalisation, *, within: bool = False) -> list[bool | None]:
    """Whether each stretch of a text is what the reference has there; None where nothing of it counts. See `wrong_in`."""
    found = wrong_in(text, reference, normalise, within=within)
    return [None if wrong is None else wrong == 0 for wrong in found]


def wrong_in(text: str, reference: str, normalise: Normalisation, *, within: bool = False) -> list[int | None]:
    """How many characters of each stretch of a text are not the reference's; None where nothing of it counts.

    Characters that are missing are a mistake of the one before them.

    Args:
        text: what was decided.
        reference: what is written.
        normalise: what counts; case never does here.
        within: the reference is a whole page, of which the text is one line: the best matching part of it is compared. Of
            a line that matches no part (read across columns, say) each character is right that the page has at all.
    """
    own, places = _counted(text, normalise)
    theirs, _ = _counted(reference, normalise)
    lost, has = False, set[str]()
    if within and own:
        start, end, edits = best_part(own, theirs)
        if edits > MATCH * len(own):
            lost, has = True, set(theirs)
        else:
            theirs = theirs[start:end]
    good = np.array([one in has for one in own] if lost else [True] * len(own), dtype=np.bool_)
    for op in () if lost else Levenshtein.opcodes(own, theirs):
        if op.tag in ("replace", "delete"):
            good[op.src_start : op.src_end] = False
        elif op.tag == "insert" and len(own):  # what is missing is missing beside the character before it
            good[max(0, op.src_start - 1)] = False
    counts: list[int | None] = []
    for start, end in stretches(text):
        inside = [bool(good[n]) for n, place in enumerate(places) if start <= place < end]
        counts.append(inside.count(False) if inside else None)
    return counts


def best_part(own: Sequence[str], theirs: Sequence[str]) -> tuple[int, int, int]:
    """The part of a longer sequence that takes the fewest edits to become `own`: its start, its end, and how many.

    Approximate string matching by dynamic programming, O(n m): Sellers, "The theory and computation of evolutionary
    distances: pattern recognition", 1980. Of equal parts the one whose length is nearest is taken.
    """
    row = [(0, -start) for start in range(len(theirs) + 1)]  # edits, minus the start: later starts are shorter
    for n, one in enumerate(own, 1):
        above, row = row, [(n, 0)]
        for m, other in enumerate(theirs, 1):
            kept = (above[m - 1][0] + (one != other), above[m - 1][1])
            row.append(min(kept, (above[m][0] + 1, above[m][1]), (row[m - 1][0] + 1, row[m - 1][1])))
    end = min(range(len(row)), key=lambda m: (row[m][0], abs(m + row[m][1] - len(own))))
    return -row[end][1], end, row[end][0]


def _counted(text: str, normalise: Normalisation) -> tuple[list[str], list[int]]:
    """The characters of a text that count, normalised, and the code point where each stands."""
    normal = NORMALISATIONS[normalise]
    found: list[str] = []
    places: list[int] = []
    start = 0
    for cluster in clusters(text):
        plain = fold(normal(unicodedata.normalize("NFKC", cluster)))  # ③ is 3
        if normalise == "arithmetic" and plain in ("x", "*"):
            plain = "×"  # one between digits is one: the two can't be told where that matters
        for character in plain:
            if not character.isspace():
                found.append(character)
                places.append(start)
        start += len(cluster)
    return found, places


def judged(case: Case, weights: Weights) -> list[Stretch]:
    """The stretches of what the weights decide about a case."""
    decision = case.decided(weights)
    inputs, _, _ = confidence_inputs(decision, case.looks, case.prior, weights)
    begins = starts(decision.text)[:-1]
    found = []
    rights = right_stretches(decision.text, case.reference, case.normalise)
    for (start, end), right in zip(stretches(decision.text), rights, strict=True):
        if right is not None:
            rows = inputs[(begins >= start) & (begins < end)]
            kind = script(decision.text[start:end])
            found.append(Stretch(kind, rows, right, case.cluster, case.source, case.condition))
    return found


def calibration(found: Sequence[Stretch], l2: float = 1e-3) -> dict[str, float]:
    """The numbers of `model.CONFIDENCE` under which stretches are most probably as right or wrong as they are.

    More evidence never makes less sure: all but the constant are kept from falling below 0.
    """
    widest = max(len(one.inputs) for one in found)
    table = torch.zeros(len(found), widest, len(CONFIDENCE), dtype=torch.float64)
    absent = torch.full((len(found), widest), 1e9, dtype=torch.float64)
    for n, one in enumerate(found):
        table[n, : len(one.inputs)] = torch.from_numpy(one.inputs)
        absent[n, : len(one.inputs)] = 0.0
    right = torch.tensor([float(one.right) for one in found], dtype=torch.float64)
    free = torch.tensor([0.0] + [0.5] * (len(CONFIDENCE) - 1), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=500, line_search_fn="strong_wolfe")

    def bounded() -> torch.Tensor:
        return torch.cat([free[:1], free[1:] ** 2])

    def loss() -> Any:
        optimiser.zero_grad()
        numbers = bounded()
        least = -torch.logsumexp(-SOFT * (table @ numbers + absent), dim=1) / SOFT
        value = torch.nn.functional.binary_cross_entropy_with_logits(least, right) + l2 * (numbers**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return dict(zip(CONFIDENCE, (round(value, 4) for value in bounded().detach().tolist()), strict=True))


def maps(found: Sequence[Stretch], old: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """One map per script; a script with too few stretches keeps the old one."""
    split = {name: [one for one in found if one.script == name] for name in SCRIPTS}
    return {name: calibration(own) if len(own) >= LEAST else old[name] for name, own in split.items()}


def limits(found: Sequence[Stretch], weights: Weights) -> dict[float, float]:
    """Share of mistakes → greatest chance of a mistake at which stretches may be left alone, where one can be shown.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2022) over writers: a writer's loss is the mean over
    their stretches of (wrong − share), 0 for those that are not left alone, at most 1 − share. A new writer exchangeable with the n
    at hand loses at most 0 on average, so that the share holds, if the n losses and one of 1 − share sum to at most 0.
    Lines of one source and condition with as many writers as could show the share by themselves must lose at most 0 as
    well: no kind of writing pays for another. The loss is not monotone in the limit, as the theorem wants it: what the largest
    limit is worth is seen in `crossed`.
    """
    own = Counter(one.cluster for one in found)
    kinds = [(one.source, one.condition) for one in found]
    writers = {kind: {one.cluster for one, its in zip(found, kinds, strict=True) if its == kind} for kind in set(kinds)}
    chance = np.array([1 - one.confidence(weights) for one in found])
    order = np.argsort(chance, kind="stable")
    parts = np.array([1 / own[one.cluster] for one in found])
    wrong = np.array([not one.right for one in found], dtype=np.float64)
    last = np.append(np.diff(chance[order]) > 0, True)  # stretches that are equally sure are left alone together
    proven: dict[float, float] = {}
    for share in SHARES:
        losses = (wrong - share) * parts
        holds = last & (np.cumsum(losses[order]) + 1 - share <= 0)
        for kind in (kind for kind, names in writers.items() if len(names) * share >= 1 - share):
            holds &= np.cumsum((losses * [its == kind for its in kinds])[order]) <= 0
        if holds.any():
            proven[share] = math.floor(1e6 * float(chance[order][holds][-1])) / 1e6
    return {share: limit for share, limit in proven.items() if 0 < limit < 1}


def crossed(found: Sequence[Stretch], weights: Weights) -> list[Judged]:
    """Each stretch judged by maps and limits that have not seen its writer."""
    judged_: list[Judged] = []
    old = {name: dict(zip(CONFIDENCE, own, strict=True)) for name, own in weights.confidence.items()}
    for part in range(FOLDS):
        parts: tuple[list[Stretch], list[Stretch]] = ([], [])
        for one in found:
            parts[zlib.crc32(f"fold {one.cluster}".encode()) % FOLDS == part].append(one)
        fitted = maps(parts[0], old)
        made = replace(weights, confidence={name: tuple(own.values()) for name, own in fitted.items()})
        made = replace(made, limits=limits(parts[0], made))
        judged_ += [Judged(one, one.confidence(made), made) for one in parts[1]]
    return judged_


@dataclass(frozen=True, slots=True)
class Judged:
    """A stretch, its confidence, and the weights that gave it without having seen its writer."""

    stretch: Stretch
    confidence: float
    weights: Weights

    def alone(self, share: float) -> bool:
        """Whether it is left alone where a share of mistakes may be."""
        return 1 - self.confidence <= self.weights.limit(share)


def table(judged_: Sequence[Judged], weights: Weights) -> str:
    """What limits are worth on writers that they have not seen: a Markdown table, and calibration errors."""
    lines = [
        "| at most wrong | greatest chance of a mistake | source | wrong among those left alone | left alone |",
        "|---|---|---|---|---|",
    ]
    sources = sorted({one.stretch.source for one in judged_})
    for share in (share for share in SHARES if share <= 0.1):
        for source in ("all", *sources) if share in weights.limits else ("all",):
            own = [one for one in judged_ if source in ("all", one.stretch.source)]
            left = np.array([one.alone(share) for one in own])
            wrong = np.array([not one.stretch.right for one in own]) & left
            clusters = [one.stretch.cluster for one in own]
            rate = metrics.ratio_interval(wrong, left, clusters, ROUNDS, SEED) if left.any() else "–"
            limit = f"{weights.limits[share]:.4f}" if share in weights.limits else "none"
            lines.append(
                f"| {share:.1%} | {limit} | {source} | {rate} | {left.mean():.3f} ({left.sum()} of {len(own)}) |"
            )
    for source in ("all", *sources):
        own = [one for one in judged_ if source in ("all", one.stretch.source)]
        values, right = [one.confidence for one in own], [one.stretch.right for one in own]
        error, area = metrics.calibration_error(values, right), metrics.auroc(values, right)
        lines.append(f"{source}: calibration error {error:.3f}, AUROC {area:.3f} (n = {len(own)})")
    return "\n".join(lines)


def sure_from(cases: Sequence[Case], weights: Weights, idle: float) -> float:
    """Quality of the OCR's look from which asking the reader is worth at most `idle` of what it is worth in all."""
    ranked = sorted(cases, key=lambda case: -case.weighed.quality[0])
    gains = np.array([(c.errors[0] - c.errors[c.decided(weights).chosen]) / c.length for c in ranked])
    spared = np.cumsum(gains) <= idle * max(float(gains.sum()), 0.0)
    count = int(np.argmin(spared)) if not spared.all() else len(spared)
    return ranked[count - 1].weighed.quality[0] if count else 1.0
