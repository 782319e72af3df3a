"""`eval fit`: the weights of the log-linear model and their calibration, from training data only.

Knows the OCR, the fuse room's features and a simulated second reader. The loss is the expected error rate of a line
under the model's own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty, for each kind of
support by itself: a closed list of names deserves another trust than a large one. One half of the lines fits the weights;
the other half and lines with trusted labels fit margin, calibration (Platt 1999) and thresholds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from eval.calibrate import Decided, calibration, confidences, margin_for, sure_from, thresholds
from eval.cases import Bench, Case, FitConfig, Source, read_cases
from fusion.errors import ConfigError
from fusion.fuse import evidence

Vectors = dict[evidence.Support, NDArray[np.float64]]
"""Weights, float64 (F,), for each support."""
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
    """Fit, write the weights file, and return a summary; a kind of support without lines keeps the packaged numbers."""
    torch.set_num_threads(1)
    rng = random.Random(config.seed)
    bench = Bench(config.reader)
    drawn, counts = _gathered(config.weights_from, config, bench, rng, progress)
    trusted, more = _gathered(config.calibrate_on, config, bench, rng, progress)
    images = sorted({case.image for case in drawn})  # a line's conditions stay in one half
    first = set(rng.sample(images, len(images) // 2))
    gate = _gate(drawn, first, config, progress)
    halves = [case.gated(gate) for case in drawn if case.image in first]
    kinds = {case.support for case in halves} - {"alone"}
    vectors = {name: _fitted(halves, name, config.l2) for name in evidence.SUPPORT if name in kinds}
    vectors["alone"] = vectors["witnessed"]  # nothing is chosen then; for the confidences
    unseen = [case.gated(gate) for case in drawn if case.image not in first]
    fitted, decided = _calibrated(vectors, unseen, [case.gated(gate) for case in trusted], config)
    content = {
        "version": 4,
        "command": command,
        "fitted_on": {
            "cases": counts | more,
            "simulated_reader": {"mend": config.mend, "invent": config.invent},
            "seed": config.seed,
        },
        "weights": _written(vectors) | {"gate": gate} | fitted,
    }
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [_summary(name, own) for name in vectors if (own := [d for d in decided if d.case.support == name])]
    return "\n".join([json.dumps(content["weights"], indent=1), *rows])


def _gathered(
    sources: Sequence[Source], config: FitConfig, bench: Bench, rng: random.Random, progress: Callable[[str], None]
) -> tuple[list[Case], dict[str, int]]:
    """Cases of some sources, shuffled, and how many each gave."""
    cases: list[Case] = []
    counts: dict[str, int] = {}
    for source in sources:
        progress(str(source.data))
        own = read_cases(source, config, bench, rng)
        name = "/".join(source.data.parts[-2:])
        counts[name] = counts.get(name, 0) + len(own)
        cases += own
    rng.shuffle(cases)
    return cases, counts


def _gate(drawn: Sequence[Case], first: set[str], config: FitConfig, progress: Callable[[str], None]) -> float:
    """The gate with which the half that nothing is fitted on comes out best."""
    tried = []
    for gate in config.gates:
        vector = _fitted([case.gated(gate) for case in drawn if case.image in first], "witnessed", config.l2)
        tested = [case.gated(gate) for case in drawn if case.image not in first and case.support == "witnessed"]
        tried.append((error_rate(tested, vector), gate))
        progress(f"gate {gate}: held-out half, witnessed: CER {tried[-1][0]:.4f}")
    return min(tried)[1]


def _written(vectors: Vectors) -> dict[str, Any]:
    """The weights as they stand in the file."""
    features: dict[str, dict[str, float]] = {
        name: {
            feature: round(float(w), 4) for feature, w in zip(evidence.FEATURES, vector, strict=True) if abs(w) >= 5e-4
        }
        for name, vector in vectors.items()
        if name != "alone"
    }
    if "supported" in features:  # no training reader gives scores: one nat is taken for a quarter of an edit
        features["supported"]["vlm_score"] = round(features["supported"]["vlm_distance"] / 4, 4)
    return {"features": _packaged()["features"] | features}


def _packaged() -> dict[str, Any]:
    """The weights that ship."""
    content = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
    return dict(content["weights"])


def _calibrated(
    vectors: Vectors, unseen: Sequence[Case], trusted: Sequence[Case], config: FitConfig
) -> tuple[dict[str, Any], list[Decided]]:
    """Everything but the weights, and what was decided about the lines that no weight was fitted on."""
    base = _packaged()
    cases = [case for case in (*unseen, *trusted) if case.support in vectors]
    own = {name: [case for case in cases if case.support == name] for name in vectors}
    # Where no list is given, nobody asked for a change of the text: there it must do no harm.
    margins = base["margin"] | {
        name: margin_for(own[name], vectors[name], config.harm) for name in CAREFUL if name in vectors
    }
    decided = [Decided.of(case, vectors[case.support], margins.get(case.support, 0.0)) for case in cases]
    labelled = {id(case) for case in trusted or unseen}
    judged = {name: [d for d in decided if d.case.support == name] for name in vectors}
    judged["alone"] = [d for d in judged["alone"] if id(d.case) in labelled]
    maps = base["confidence"] | {name: calibration(about) for name, about in judged.items() if about}
    fitted = {
        "margin": margins,
        "sure": round(sure_from(own["witnessed"], vectors["witnessed"], config.idle), 4),
        "confidence": maps,
        "accept": thresholds(confidences(decided, maps), config.shares),
    }
    fresh = {id(case) for case in unseen}
    return fitted, [d for d in decided if id(d.case) in fresh]


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


def error_rate(cases: Sequence[Case], vector: NDArray[np.float64] | None) -> float:
    """Pooled CER of the OCR's reading (no weights) or of the decision."""
    picked = [0 if vector is None else int((case.table @ vector).argmax()) for case in cases]
    return float(
        sum(case.errors[n] for case, n in zip(cases, picked, strict=True)) / sum(case.length for case in cases)
    )
