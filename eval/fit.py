"""`eval fit`: the weights of the log-linear model and their calibration, from training data only.

Knows the OCR, the fuse room's features and a simulated second reader. The loss is the expected error rate of a line
under the model's own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty, for each kind of
support by itself: a closed list of names deserves another trust than a large one. One half of the lines fits the weights;
the other half and lines with trusted labels fit margin, calibration (Platt 1999) and thresholds.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from eval.cases import Bench, Case, FitConfig, Source, read_cases
from fusion.errors import ConfigError
from fusion.fuse import decide, evidence
from fusion.fuse.align import clusters, key, keys

CAREFUL: tuple[evidence.Support, ...] = ("witnessed", "sums")
"""Kinds of support under which the OCR's reading is only replaced by a margin."""
FLOOR = -40.0
"""Ink log-probabilities are cut here while fitting: beyond it a hypothesis is simply impossible."""


def load_fit(path: Path) -> FitConfig:
    """Load a fit; ConfigError names what is wrong."""
    try:
        return FitConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no fit ({error})", "See configs/eval/fit.yaml.") from error


def fit(config: FitConfig, command: str, progress: Callable[[str], None]) -> str:
    """Fit, write the weights file, and return a summary."""
    torch.set_num_threads(1)
    rng = random.Random(config.seed)
    bench = Bench()
    counts: dict[str, int] = {}

    def gathered(sources: Sequence[Source]) -> list[Case]:
        cases: list[Case] = []
        for source in sources:
            progress(str(source.data))
            own = read_cases(source, config, bench, rng)
            counts["/".join(source.data.parts[-2:])] = len(own)
            cases += own
        rng.shuffle(cases)
        return cases

    drawn, trusted = gathered(config.weights_from), gathered(config.calibrate_on)
    images = sorted({case.image for case in drawn})  # a line's conditions stay in one half
    first = set(rng.sample(images, len(images) // 2))
    tried = []
    for gate in config.gates:
        vector = _fitted([case.gated(gate) for case in drawn if case.image in first], "witnessed", config.l2)
        tested = [case.gated(gate) for case in drawn if case.image not in first and case.support == "witnessed"]
        tried.append((error_rate(tested, vector), gate))
        progress(f"gate {gate}: held-out half, witnessed: CER {tried[-1][0]:.4f}")
    gate = min(tried)[1]
    halves = [case.gated(gate) for case in drawn if case.image in first]
    rest = [case.gated(gate) for case in drawn if case.image not in first]
    trusted = [case.gated(gate) for case in trusted]
    vectors = {name: _fitted(halves, name, config.l2) for name in evidence.SUPPORT}
    vectors["alone"] = vectors["witnessed"]  # nothing is chosen then; for the confidences
    judged = [case for case in rest + trusted if case.support == "witnessed"]
    # Where no list is given, nobody asked for a change of the text: there it must do no harm.
    margins = dict.fromkeys(evidence.SUPPORT, 0.0)
    for name in CAREFUL:
        margins[name] = _margin([c for c in rest + trusted if c.support == name], vectors[name], config.harm)
    decided = [Decided.of(case, vectors[case.support], margins[case.support]) for case in rest + trusted]
    trusty = [d for d in decided[len(rest) :] if d.case.support == "alone"]
    confidence = {
        name: platt(*_pairs(trusty if name == "alone" else [d for d in decided if d.case.support == name]))
        for name in evidence.SUPPORT
    }
    doubt = doubts(decided, confidence)
    features = {
        name: {
            feature: round(float(w), 4)
            for feature, w in zip(evidence.FEATURES, vectors[name], strict=True)
            if abs(w) >= 5e-4
        }
        for name in evidence.SUPPORT
        if name != "alone"
    }
    # No training reader gives scores: its log-probability is taken to be worth a quarter of an edit per nat.
    features["supported"]["vlm_score"] = round(features["supported"]["vlm_distance"] / 4, 4)
    fitted = {
        "features": features,
        "margin": {name: margins[name] for name in CAREFUL},
        "gate": gate,
        "sure": round(_sure(judged, vectors["witnessed"], config.idle), 4),
        "confidence": {name: _rounded(pair) for name, pair in confidence.items()},
        "doubt": dict(zip(evidence.DOUBT, _rounded(doubt), strict=True)),
        "accept": thresholds([d.word(confidence, doubt) for d in decided if not d.doubts[0]], config.shares),
    }
    content = {
        "version": 3,
        "command": command,
        "fitted_on": {
            "cases": counts,
            "simulated_reader": {"mend": config.mend, "invent": config.invent},
            "seed": config.seed,
        },
        "weights": fitted,
    }
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [json.dumps(fitted, indent=1)]
    for name in vectors:
        unseen = [d for d in decided[: len(rest)] if d.case.support == name]
        if unseen:
            rows.append(_summary(name, unseen))
    return "\n".join(rows)


def _summary(name: str, tested: Sequence[Decided]) -> str:
    """What the weights do on lines that they were not fitted on."""
    length = sum(d.case.length for d in tested)
    before = sum(float(d.case.errors[0]) for d in tested) / length
    after = sum(float(d.case.errors[d.chosen]) for d in tested) / length
    mended = sum(d.case.errors[0] > 0 == d.case.errors[d.chosen] for d in tested)
    broken = sum(d.case.errors[0] == 0 < d.case.errors[d.chosen] for d in tested)
    return f"held-out half, {name}: OCR {before:.4f}, fused {after:.4f}, {mended} mended, {broken} broken ({len(tested)} cases)"


def _fitted(cases: Sequence[Case], support: evidence.Support, l2: float) -> NDArray[np.float64]:
    return minimum_risk([case for case in cases if case.support == support], l2)


def _margin(cases: Sequence[Case], vector: NDArray[np.float64], harm: float) -> float:
    """Least margin, nats, with which at most `harm` lines are broken per line mended."""
    for margin in np.arange(0.0, 6.01, 0.25):
        chosen = [Decided.of(case, vector, float(margin)).chosen for case in cases]
        mended = sum(c.errors[0] > 0 == c.errors[n] for c, n in zip(cases, chosen, strict=True))
        broken = sum(c.errors[0] == 0 < c.errors[n] for c, n in zip(cases, chosen, strict=True))
        if broken <= harm * mended:
            break
    return float(margin)


def _sure(cases: Sequence[Case], vector: NDArray[np.float64], idle: float) -> float:
    """Quality of the OCR's look from which asking the witness is worth at most `idle` of what it is worth in all."""
    ranked = sorted(cases, key=lambda case: -case.quality[0])
    gains = np.array([(c.errors[0] - c.errors[Decided.of(c, vector, 0.0).chosen]) / c.length for c in ranked])
    spared = np.cumsum(gains) <= idle * max(float(gains.sum()), 0.0)
    count = int(np.argmin(spared)) if not spared.all() else len(spared)
    return ranked[count - 1].quality[0] if count else 1.0


def _rounded(pair: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in pair]


def minimum_risk(cases: Sequence[Case], l2: float) -> NDArray[np.float64]:
    """Weights that minimise the expected error rate per line: float64 (F,)."""
    widest = max(len(case.texts) for case in cases)
    table = torch.zeros(len(cases), widest, len(evidence.FEATURES), dtype=torch.float64)
    errors = torch.zeros(len(cases), widest, dtype=torch.float64)
    absent = torch.full((len(cases), widest), -1e9, dtype=torch.float64)
    for n, case in enumerate(cases):
        size = len(case.texts)
        table[n, :size] = torch.from_numpy(case.table)
        errors[n, :size] = torch.from_numpy(np.minimum(1.0, case.errors / case.length))
        absent[n, :size] = 0.0
    for name in ("ink", "witness", "decoder"):
        table[:, :, evidence.FEATURES.index(name)].clamp_(min=FLOOR)
    weights = torch.full((len(evidence.FEATURES),), 0.3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        probabilities = (table @ weights + absent).softmax(dim=1)
        value = (probabilities * errors).sum(dim=1).mean() + l2 * (weights**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return np.asarray(weights.detach().numpy(), dtype=np.float64)


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

    @property
    def doubts(self) -> tuple[bool, bool]:
        """Which of `DOUBT` the fuse room has about it."""
        case, text = self.case, self.case.texts[self.chosen]
        if case.prior is None or case.prior.kind == "sums":
            return False, False
        held = case.prior.holds(text)
        read = any(keys(text) == keys(other) for other in (case.texts[0], *case.others))
        return held and not read and bool(case.prior.rivals(text)), not held and len(text.split()) == 1

    def word(self, maps: Mapping[evidence.Support, tuple[float, float]], doubt: Sequence[float]) -> tuple[float, bool]:
        """Its least confidence, and whether the text is right.

        Args:
            maps: (slope, offset) for each support.
            doubt: log-odds that each of `DOUBT` takes away.
        """
        slope, offset = maps[self.case.support]
        least = float(np.clip(self.agreement.min() if len(self.agreement) else 0.0, 1e-6, 1 - 1e-6))
        odds = slope * math.log(least / (1 - least)) + offset
        odds -= sum(value for value, has in zip(doubt, self.doubts, strict=True) if has)
        return 1 / (1 + math.exp(-odds)), bool(self.case.errors[self.chosen] == 0)


def doubts(decided: Sequence[Decided], maps: Mapping[evidence.Support, tuple[float, float]]) -> tuple[float, ...]:
    """Log-odds that each of `DOUBT` takes from a word's confidence, by maximum likelihood; never below 0."""
    about = [d for d in decided if d.case.prior is not None and d.case.prior.kind != "sums"]
    words = [d.word(maps, (0.0, 0.0)) for d in about]
    base = torch.tensor([math.log(c / (1 - c)) for c, _ in words], dtype=torch.float64)
    right = torch.tensor([float(ok) for _, ok in words], dtype=torch.float64)
    flags = torch.tensor([[float(has) for has in d.doubts] for d in about], dtype=torch.float64)
    taken = torch.zeros(len(evidence.DOUBT) + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([taken], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(base - flags @ taken[:-1] - taken[-1], right)
        value.backward()
        return value

    optimiser.step(loss)
    return tuple(max(0.0, float(value)) for value in taken.detach()[:-1])


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


def _pairs(decided: Sequence[Decided]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def error_rate(cases: Sequence[Case], vector: NDArray[np.float64] | None) -> float:
    """Pooled CER of the OCR's reading (no weights) or of the decision."""
    picked = [0 if vector is None else int((case.table @ vector).argmax()) for case in cases]
    return float(
        sum(case.errors[n] for case, n in zip(cases, picked, strict=True)) / sum(case.length for case in cases)
    )
