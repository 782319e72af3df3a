"""`eval fit`: the weights of the log-linear model and their calibration, from training data only.

Knows the OCR, the fuse room's features and a simulated second reader. The loss is the expected error rate of a line
under the model's own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty, for each kind of
support by itself: a closed list of names deserves another trust than a large one. Margin, calibration (Platt 1999) and
thresholds are fitted on decisions by weights that had not seen the line (cross-fitting), noisy labels and trusted ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
CAREFUL: tuple[evidence.Support, ...] = ("witnessed", "witnessed_signs")
"""Kinds of support under which the OCR's reading is only replaced by a margin: nothing is said about what to expect, so
nobody asked for a change."""
PARTS = 4
"""Parts of the lines, each decided about by weights from the others."""
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
    images = sorted({case.image for case in drawn})  # a line's conditions stay in one part
    rng.shuffle(images)
    part = {image: number % PARTS for number, image in enumerate(images)}
    gate = _gate(drawn, part, config, progress)
    cases, trusted = [case.gated(gate) for case in drawn], [case.gated(gate) for case in trusted]
    fitted = Fitted.on(cases, part, config.l2)
    rest, decided = _calibrated(fitted, cases, trusted, config)
    content = {
        "version": 4,
        "command": command,
        "fitted_on": {
            "cases": counts,
            "calibration_cases": more,
            "simulated_reader": {"mend": config.mend, "invent": config.invent},
            "seed": config.seed,
        },
        "weights": _written(fitted.vectors) | {"gate": gate} | rest,
    }
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [_summary(name, own) for name in fitted.vectors if (own := [d for d in decided if d.case.support == name])]
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


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights from all lines, and for each part of the lines those from the others.

    Attributes:
        vectors: from all lines.
        without: from all lines but those of a part.
        part: image → its part.
    """

    vectors: Vectors
    without: tuple[Vectors, ...]
    part: Mapping[str, int]

    @classmethod
    def on(cls, cases: Sequence[Case], part: Mapping[str, int], l2: float) -> Fitted:
        """Fit every kind of support that the cases have."""
        return cls(
            _vectors(cases, l2),
            tuple(_vectors([case for case in cases if part[case.image] != number], l2) for number in range(PARTS)),
            part,
        )

    def unseen(self, case: Case) -> NDArray[np.float64]:
        """The weights for a case that its line had no part in: float64 (F,)."""
        own = self.without[self.part[case.image]] if case.image in self.part else self.vectors
        return own.get(case.support, self.vectors[case.support])


def _vectors(cases: Sequence[Case], l2: float) -> Vectors:
    kinds = {case.support for case in cases} - {"alone"}
    vectors = {name: minimum_risk([case for case in cases if case.support == name], l2) for name in kinds}
    if "witnessed" in vectors:
        vectors["alone"] = vectors["witnessed"]  # nothing is chosen then; for the confidences
    return vectors


def _gate(drawn: Sequence[Case], part: Mapping[str, int], config: FitConfig, progress: Callable[[str], None]) -> float:
    """The gate under which lines come out best by weights that had not seen them."""
    witnessed = [case for case in drawn if case.support == "witnessed"]
    if not witnessed:
        return float(_packaged()["gate"])
    tried = []
    for gate in config.gates:
        cases = [case.gated(gate) for case in witnessed]
        fitted = Fitted.on(cases, part, config.l2)
        edits = sum(float(case.errors[int((case.table @ fitted.unseen(case)).argmax())]) for case in cases)
        tried.append((edits / sum(case.length for case in cases), gate))
        progress(f"gate {gate}: cross-validated, witnessed: CER {tried[-1][0]:.4f}")
    return min(tried)[1]


def _written(vectors: Vectors) -> dict[str, Any]:
    """The weights as they stand in the file."""
    features: dict[str, dict[str, float]] = {
        name: {
            feature: round(float(w), 4) for feature, w in zip(evidence.FEATURES, vector, strict=True) if abs(w) >= 5e-3
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
    fitted: Fitted, drawn: Sequence[Case], trusted: Sequence[Case], config: FitConfig
) -> tuple[dict[str, Any], list[Decided]]:
    """Everything but the weights, and what was decided about the lines that weights were fitted on, each unseen."""
    base = _packaged()
    cases = [case for case in (*drawn, *trusted) if case.support in fitted.vectors]
    own = {name: [case for case in cases if case.support == name] for name in fitted.vectors}
    margins = {
        name: margin_for(own[name], fitted.unseen, config.harm) if name in own else base["margin"][name]
        for name in CAREFUL
    }
    decided = [Decided.of(case, fitted.unseen(case), margins.get(case.support, 0.0)) for case in cases]
    labelled = {id(case) for case in trusted or drawn}
    judged = {name: [d for d in decided if d.case.support == name] for name in fitted.vectors}
    judged["alone"] = [d for d in judged.get("alone", []) if id(d.case) in labelled]
    maps = base["confidence"] | {name: calibration(about) for name, about in judged.items() if about}
    sure = round(sure_from(own["witnessed"], fitted.unseen, config.idle), 4) if "witnessed" in own else base["sure"]
    numbers = {
        "margin": margins,
        "sure": sure,
        "confidence": maps,
        "accept": thresholds(confidences(decided, maps), config.shares),
    }
    fresh = {id(case) for case in drawn}
    return numbers, [d for d in decided if id(d.case) in fresh]


def _summary(name: str, tested: Sequence[Decided]) -> str:
    """What the weights do on lines that they were not fitted on."""
    length = sum(d.case.length for d in tested)
    before = sum(float(d.case.errors[0]) for d in tested) / length
    after = sum(float(d.case.errors[d.chosen]) for d in tested) / length
    mended = sum(d.case.errors[0] > 0 == d.case.errors[d.chosen] for d in tested)
    broken = sum(d.case.errors[0] == 0 < d.case.errors[d.chosen] for d in tested)
    return f"cross-validated, {name}: OCR {before:.4f}, fused {after:.4f}, {mended} mended, {broken} broken ({len(tested)} cases)"


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
