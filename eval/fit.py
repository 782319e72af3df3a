"""`eval fit` and `eval calibrate`: the weights of the log-linear model, and their calibration, from training data only.

Knows cases; opens the OCR and the readers through them. The loss is the expected error rate of a line under the model's
own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty, one vector for all conditions. What
scales the second reader is chosen by two-fold cross-validation over writers. Calibration has the other part of the lines,
decided by the finished weights; a change of the weights asks for it anew.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from eval.calibrate import FOLDS, Stretch, crossed, judged, limits, maps, sure_from, table
from eval.cases import Bench, Case, FitConfig, read_cases
from fusion.errors import ConfigError
from fusion.fuse.model import EXPERTS, VERSION, Weights, load_weights, parse_weights

FLOOR = -40.0
"""Evidence is cut here while fitting: beyond it a hypothesis is simply impossible."""
CALIBRATION = ("confidence", "limits", "calibration_command", "calibrated_on")
"""What `calibrate` writes into a weights file."""
WIDEST = 150
"""Most hypotheses of a case that take part in the fit, the most probable first."""


def load_fit(path: Path) -> FitConfig:
    """Load a fit; ConfigError names what is wrong."""
    try:
        return FitConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no fit ({error})", "See configs/eval/fit.yaml.") from error


def fit(config: FitConfig, command: str, progress: Callable[[str], None]) -> str:
    """Fit, write the weights file, and return a summary."""
    torch.set_num_threads(1)
    drawn, trusted = gathered(config, progress)
    content, held_out = fitted(drawn, trusted, config, progress)
    content |= {"command": command, "fitted_on": _counts(drawn, config)}
    _write(content, config)
    return "\n".join([*held_out, "Now calibrate them: python -m eval calibrate configs/eval/calibrate.yaml"])


def calibrate(config: FitConfig, command: str, progress: Callable[[str], None]) -> str:
    """Calibrate the weights file `config.output` anew, write it, and return what that is worth on unseen writers.

    Raises:
        ConfigError: there is no such file, or there are too few lines.
    """
    torch.set_num_threads(1)
    load_weights(config.output)
    content = json.loads(config.output.read_text(encoding="utf-8"))
    _, trusted = gathered(config, progress)
    if len({case.cluster for case in trusted}) < FOLDS:
        problem = "can't be calibrated: the sources have lines of fewer than five writers or words for that"
        raise ConfigError(config.output, problem, "Name more lines, or raise calibration_share.")
    found = [stretch for case in trusted for stretch in judged(case, parse_weights(content))]
    content |= calibrated(content, found)
    content |= {"calibration_command": command, "calibrated_on": _counts(trusted, config)}
    weights = parse_weights(content)
    worth = table(crossed(found, weights), weights)
    _write(content, config)
    return worth


def calibrated(content: dict[str, Any], found: Sequence[Stretch]) -> dict[str, Any]:
    """Maps and limits for the content of a weights file."""
    confidence = maps(found, content["confidence"])
    proven = limits(found, parse_weights(content | {"confidence": confidence}))
    return {"confidence": confidence, "limits": {str(share): limit for share, limit in proven.items()}}


def _write(content: dict[str, Any], config: FitConfig) -> None:
    partial = config.output.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(config.output)


def gathered(config: FitConfig, progress: Callable[[str], None]) -> tuple[list[Case], list[Case]]:
    """Cases for the weights and cases for the calibration; no word is in both, and no writer of one source."""
    bench = Bench(config.set)
    drawn: list[Case] = []
    trusted: list[Case] = []
    for source in config.sources:
        progress(str(source.data))
        for case in read_cases(source, config, bench, random.Random(f"{config.seed} {source.data}")):
            back = source.calibrate and (not source.weigh or case.held_back < 1000 * config.calibration_share)
            if back:
                if case.condition[0] != "simulated":  # how often a made reader is right says nothing about a real one
                    trusted.append(case)
            elif source.weigh and case.errors.min() <= source.noise * case.length:
                drawn.append(case)
    words = {case.cluster for case in trusted if case.by_word}
    return [case for case in drawn if not (case.by_word and case.cluster in words)], trusted


def fitted(
    drawn: Sequence[Case], trusted: Sequence[Case], config: FitConfig, progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """The content of a weights file, and rows that say what the weights do on the lines that were kept back."""
    hand = [EXPERTS.index("ocr"), EXPERTS.index("hand")]  # without a look of its own, `hand` stands for `ocr`
    speaking = [
        case for case in drawn if case.weighed.table[:, 2:].any() or np.ptp(case.weighed.table[:, hand], axis=1).any()
    ]
    old = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    shape = {"version": VERSION, "change": config.change, "quantity": config.quantity, "tolerance": config.tolerance}
    shape |= {"ask_below": 1.0} | {name: old[name] for name in CALIBRATION}

    def weights_of(vector: NDArray[np.float64], signs: float) -> dict[str, Any]:
        experts = {name: round(float(value), 4) for name, value in zip(EXPERTS, vector, strict=True)}
        return shape | {"experts": experts, "signs": signs}

    halves = [[c for c in speaking if c.held_back % 2 == n] for n in (0, 1)]
    tried = []
    for signs in config.signs:
        rate = 0.0
        for own, other in (halves, halves[::-1]):
            content = weights_of(minimum_risk(own, signs, config.l2), signs)
            rate += _rate(other, parse_weights(content)) / 2
        tried.append((rate, signs))
        progress(f"signs {signs}: cross-validated CER {rate:.4f}")
    _, signs = min(tried)
    content = weights_of(minimum_risk(speaking, signs, config.l2), signs)
    weights = parse_weights(content)
    asked = [case for case in drawn if case.condition == ("small", "none")]
    content["ask_below"] = round(sure_from(asked, weights, config.idle), 4) if asked else old["ask_below"]
    return content, _decisions(trusted, weights)


def minimum_risk(cases: Sequence[Case], signs: float, l2: float) -> NDArray[np.float64]:
    """λ ≥ 0 that minimise the expected error rate per line: float64 (R,).

    Every source and condition counts by the square root of its number of lines, so that a large one doesn't decide alone.
    """
    neutral = _neutral(signs)
    counts = Counter((case.source, case.condition) for case in cases)
    widest = min(WIDEST, max(len(case.weighed.texts) for case in cases))
    table = torch.zeros(len(cases), widest, len(EXPERTS), dtype=torch.float32)
    errors = torch.zeros(len(cases), widest, dtype=torch.float32)
    absent = torch.full((len(cases), widest), -1e9, dtype=torch.float32)
    for n, case in enumerate(cases):
        evidence = np.maximum(case.judged(neutral).table, FLOOR)
        best = np.argsort(-evidence.sum(axis=1), kind="stable")[:widest]
        table[n, : len(best)] = torch.from_numpy(evidence[best]).float()
        errors[n, : len(best)] = torch.from_numpy(np.minimum(1.0, case.errors[best] / case.length)).float()
        absent[n, : len(best)] = 0.0
    share = torch.tensor([counts[case.source, case.condition] ** -0.5 for case in cases])
    share /= share.sum()
    free = torch.full((len(EXPERTS),), 0.0, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        vector = torch.nn.functional.softplus(free)
        probabilities = (table @ vector + absent).softmax(dim=1)
        value = ((probabilities * errors).sum(dim=1) * share).sum() + l2 * (vector**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return np.asarray(torch.nn.functional.softplus(free).detach().numpy(), dtype=np.float64)


def _neutral(signs: float) -> Weights:
    """Weights that say nothing but how far the second reader is to be trusted."""
    return Weights(dict.fromkeys(EXPERTS, 1.0), signs, 1.0, 1.0, 1.0, math.inf, {}, {})


def _rate(cases: Sequence[Case], weights: Weights) -> float:
    """Error rate of the most probable hypotheses, sources and conditions counting alike."""
    edits: Counter[tuple[str, tuple[str, str]]] = Counter()
    lengths: Counter[tuple[str, tuple[str, str]]] = Counter()
    for case in cases:
        best = int((case.judged(weights).table @ weights.vector).argmax())
        edits[case.source, case.condition] += int(case.errors[best])
        lengths[case.source, case.condition] += case.length
    return float(np.mean([edits[name] / lengths[name] for name in lengths]))


def _counts(cases: Sequence[Case], config: FitConfig) -> dict[str, Any]:
    """Cases by source and condition, and the number of writers or words."""
    counts = Counter(f"{case.source}, {' and '.join(case.condition)}" for case in cases)
    clusters = {name: len({c.cluster for c in cases if c.source == name}) for name in {c.source for c in cases}}
    return {
        "cases": dict(sorted(counts.items())),
        "writers_or_words": dict(sorted(clusters.items())),
        "seed": config.seed,
    }


def _decisions(cases: Sequence[Case], weights: Weights) -> list[str]:
    """What the weights do on lines that they were not fitted on, by source and condition."""
    rows = []
    for name in sorted({(case.source, case.condition) for case in cases}):
        own = [case for case in cases if (case.source, case.condition) == name]
        chosen = [case.errors[case.decided(weights).chosen] for case in own]
        length = sum(case.length for case in own)
        mended = sum(case.errors[0] > 0 == errors for case, errors in zip(own, chosen, strict=True))
        broken = sum(case.errors[0] == 0 < errors for case, errors in zip(own, chosen, strict=True))
        before, after = sum(float(case.errors[0]) for case in own) / length, float(sum(chosen)) / length
        rows.append(
            f"{name[0]} {' '.join(name[1])}: OCR {before:.4f}, fused {after:.4f}, {mended} mended, {broken} broken ({len(own)})"
        )
    return rows
