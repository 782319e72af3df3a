"""`eval fit`: the weights of the log-linear model and their calibration, from training data only.

Knows the OCR, the fuse room's features and a simulated second reader. The loss is the expected error rate of a line
under the model's own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty; one half of the
lines fits the weights; the other half and lines with trusted labels fit the calibration (Platt 1999).
"""

from __future__ import annotations

import json
import math
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.datasets import NORMALISATIONS, Item, Normalisation, load_split
from eval.metrics import edits
from eval.simulate import SimulatedReader
from fusion.config import load_config
from fusion.ctc import Views
from fusion.domain.lexicon import Lexicon
from fusion.errors import ConfigError
from fusion.fuse import WEIGHED, Scorer, decide, evidence, support_of
from fusion.fuse.align import clusters, key
from fusion.fuse.hypotheses import gather
from fusion.ink import Ink, InkLine
from fusion.intake import open_pages
from fusion.ocr import OcrReader
from fusion.page import Reading, Recipe
from fusion.train.crops import held_out_names
from fusion.train.recipe import load_recipe
from fusion.vlm import Query, open_reader

WITNESS = evidence.FEATURES.index("witness")
"""Column of the feature; the decoder's stands beside it."""
ROUGH = {"ink": 1.0, "witness": 0.5, "prior": 0.5, "listed": 2.0}
"""Weights by which the hypotheses are chosen that the decoder is asked about, before any are fitted."""
FLOOR = -40.0
"""Ink log-probabilities are cut here while fitting: beyond it a hypothesis is simply impossible."""


class Source(BaseModel):
    """Training lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data: Path = Field(description="Training split, a TSV.")
    normalise: Normalisation = Field(description="Name of the normalisation under which errors are counted.")
    limit: int = Field(ge=1, description="Lines drawn.")
    formulary: bool = Field(False, description="Also with the texts of the other folds as formulary.")
    readers: tuple[Literal["simulated", "small"], ...] = Field(
        ("simulated", "small"), description="Second readers that look at these lines."
    )
    unseen_by: Path | None = Field(None, description="Recipe of the small reader: only rows it was not trained on.")


class FitConfig(BaseModel):
    """What the weights are fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weights_from: tuple[Source, ...] = Field(min_length=1, description="Lines that the weights are fitted on.")
    calibrate_on: tuple[Source, ...] = Field(min_length=1, description="Lines with trusted labels: calibration only.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    mend: float = Field(0.4, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    invent: float = Field(0.06, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    noise: float = Field(0.34, ge=0, description="A line whose best hypothesis is further off is taken as mislabelled.")
    gates: tuple[float, ...] = Field((0.0, 0.5, 1.0, 2.0, 4.0), description="Values tried for `Weights.gate`.")
    idle: float = Field(0.01, ge=0, le=1, description="Share of the witness's gain that sparing sure lines may cost.")
    folds: int = Field(5, ge=2, description="Folds for the formulary.")
    l2: float = Field(3e-4, ge=0, description="Penalty on squared weights.")
    seed: int = Field(20261122, description="Seed of draws and simulation.")
    output: Path = Field(description="Weights file to write.")


@dataclass(frozen=True, slots=True)
class Case:
    """One training line under one condition: hypotheses, second readings, features (ungated), errors."""

    texts: tuple[str, ...]
    others: tuple[str, ...]
    support: evidence.Support
    quality: tuple[float, float, float]
    table: NDArray[np.float64]
    errors: NDArray[np.float64]
    length: int
    reference: str
    image: str
    prior: Lexicon | None

    def gated(self, gate: float) -> Case:
        """The same with the witness weakened where it is unsure."""
        table = self.table.copy()
        table[:, WITNESS] *= self.quality[1] ** gate
        table[:, WITNESS + 1] *= self.quality[2] ** gate
        return replace(self, table=table)


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
            own = _cases(source, config, bench, rng)
            counts["/".join(source.data.parts[-2:])] = len(own)
            cases += own
        rng.shuffle(cases)
        return cases

    drawn, trusted = gathered(config.weights_from), gathered(config.calibrate_on)
    images = sorted({case.image for case in drawn})  # a line's conditions stay in one half
    first = set(rng.sample(images, len(images) // 2))
    tried = []
    for gate in config.gates:
        gated = [case.gated(gate) for case in drawn]
        vector = minimum_risk([c for c in gated if c.support != "alone" and c.image in first], config.l2)
        rest = [case for case in gated if case.image not in first]
        tried.append((error_rate([c for c in rest if c.support == "witnessed"], vector), gate, vector))
        progress(f"gate {gate}: held-out half, witnessed: CER {tried[-1][0]:.4f}")
    _, gate, vector = min(tried, key=lambda item: item[:2])
    rest = [case.gated(gate) for case in drawn if case.image not in first]
    trusted = [case.gated(gate) for case in trusted]
    confidence = {
        name: _rounded(
            platt(
                *marginal_pairs(
                    [c for c in (trusted if name == "alone" else rest + trusted) if c.support == name], vector
                )
            )
        )
        for name in evidence.SUPPORT
    }
    features = {name: round(float(w), 4) for name, w in zip(evidence.FEATURES, vector, strict=True)}
    # No training reader gives scores: its log-probability is taken to be worth a quarter of an edit per nat.
    features["vlm_score"] = round(features["vlm_distance"] / 4, 4)
    sure = _sure([case for case in rest + trusted if case.support == "witnessed"], vector, config.idle)
    fitted = {"features": features, "gate": gate, "sure": round(sure, 4), "confidence": confidence}
    simulated = {"mend": config.mend, "invent": config.invent}
    content = {
        "version": 2,
        "command": command,
        "fitted_on": {"cases": counts, "simulated_reader": simulated, "seed": config.seed},
        "weights": fitted,
    }
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [json.dumps(fitted, indent=1)]
    for name in ("witnessed", "supported"):
        tested = [case for case in rest if case.support == name]
        before, after = error_rate(tested, None), error_rate(tested, vector)
        rows.append(f"held-out half, {name}: OCR {before:.4f}, fused {after:.4f} ({len(tested)} cases)")
    return "\n".join(rows)


def _sure(cases: Sequence[Case], vector: NDArray[np.float64], idle: float) -> float:
    """Quality of the OCR's look from which asking the witness is worth at most `idle` of what it is worth in all."""
    ranked = sorted(cases, key=lambda case: -case.quality[0])
    gains = np.array([(c.errors[0] - c.errors[_chosen(c, vector)[0]]) / c.length for c in ranked])
    spared = np.cumsum(gains) <= idle * max(float(gains.sum()), 0.0)
    count = int(np.argmin(spared)) if not spared.all() else len(spared)
    return ranked[count - 1].quality[0] if count else 1.0


class Bench:
    """The engine's own parts, opened once: OCR and small reader."""

    def __init__(self) -> None:
        """One thread each."""
        self.config = load_config(overrides=["ocr.threads=1", "vlm.threads=1"])
        self.ocr = OcrReader(self.config.ocr)
        reader = open_reader(self.config.vlm)
        assert reader is not None
        self.small = reader


def _rounded(pair: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in pair]


def _cases(source: Source, config: FitConfig, bench: Bench, rng: random.Random) -> list[Case]:
    normal = NORMALISATIONS[source.normalise]
    simulated = SimulatedReader(config.mend, config.invent)
    unseen = _unseen(source)
    items = [
        i for i in load_split(source.data) if normal(i.reference) and not any(n in i.note for n in config.skip_notes)
    ]
    items = [item for item in items if unseen is None or item.image in unseen]
    rng.shuffle(items)
    items = items[: source.limit]
    texts = [item.reference for item in items]
    folds = [number % config.folds for number in range(len(items))]
    lexicons = [Lexicon(t for t, f in zip(texts, folds, strict=True) if f != fold) for fold in range(config.folds)]
    cases = []
    for item, fold in zip(items, folds, strict=True):
        image = next(open_pages(item.path, bench.config.intake, crop=True))
        (line,) = bench.ocr.read(image, crop=True)
        if line.reading is None or not isinstance(line.ink, Views):
            continue
        conditions: list[tuple[list[Reading], Ink | None]] = [([], None)]
        if "simulated" in source.readers:
            seen = unicodedata.normalize("NFC", simulated.read(line.ink, item.reference, texts, rng))
            conditions.append(([Reading("vlm", seen, Recipe("simulated", "1", "simulated", ""))], None))
        query = Query(item.image, line)
        if "small" in source.readers:
            readings = [r for r in bench.small.read([query])[0] if isinstance(r, Reading)]
            conditions += [(readings, bench.small.witness(query))] if readings else []
        for others, witness in conditions:
            for prior in (None, lexicons[fold]) if source.formulary else (None,):
                score = partial(bench.small.score, query) if witness is not None else None
                case = _case(item, line, others, witness, score, prior, source, bench.config.fuse.hypotheses)
                if case.errors.min() <= config.noise * case.length:
                    cases.append(case)
    return cases


def _unseen(source: Source) -> set[str] | None:
    """Rows that the small reader was not trained on; None: all of them."""
    if source.unseen_by is None:
        return None
    recipe = load_recipe(source.unseen_by)
    own = [ink for ink in recipe.ink if ink.data.resolve() == source.data.resolve()]
    return {name for ink in own for name in held_out_names(ink)}


def _case(
    item: Item,
    line: InkLine,
    others: list[Reading],
    witness: Ink | None,
    score: Scorer | None,
    prior: Lexicon | None,
    source: Source,
    limit: int,
) -> Case:
    assert line.reading is not None
    assert line.ink is not None
    normal = NORMALISATIONS[source.normalise]
    texts = gather(line.reading, others, line.ink, prior, limit)
    table = evidence.features(texts, line.ink, others, prior, witness)
    trust = 0.0
    if witness is not None and score is not None:
        rough = table @ np.array([ROUGH.get(name, 0.0) for name in evidence.FEATURES])
        race = np.argsort(-rough, kind="stable")[:WEIGHED].tolist()
        scores: list[float] = []

        def remembered(asked: Sequence[str]) -> list[float]:
            scores.extend(score(asked) or [0.0] * len(asked))
            return scores

        evidence.add_scores(table, texts, race, remembered, witnessed=True, gate=0.0)
        trust = math.exp(max(s / (len(texts[n]) + 1) for s, n in zip(scores, race, strict=True)))
    reference = normal(item.reference)
    errors = np.array([edits(reference, normal(text))[0] for text in texts], dtype=np.float64)
    return Case(
        tuple(texts),
        tuple(other.text for other in others),
        support_of(others, prior, witness),
        (line.ink.quality, witness.quality if witness is not None else 0.0, trust),
        table,
        errors,
        max(1, edits(reference, "")[1]),
        item.reference,
        item.image,
        prior,
    )


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


def _chosen(case: Case, vector: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    probabilities = evidence.distribution(case.table, vector)
    if case.support == "alone":
        return 0, probabilities
    return decide.choose(case.texts, probabilities, case.table[:, 0], case.others, case.prior)[0], probabilities


def marginal_pairs(
    cases: Sequence[Case], vector: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Marginals of all decided characters, and whether each was right: float64 (n,), float64 (n,)."""
    marginals, right = [], []
    for case in cases:
        chosen, probabilities = _chosen(case, vector)
        agreement, _ = decide.marginals(case.texts, probabilities, chosen)
        truth = decide.counterpart(case.texts[chosen], case.reference)
        marginals += agreement.tolist()
        right += [float(key(a) == key(b)) for a, b in zip(clusters(case.texts[chosen]), truth, strict=True)]
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
