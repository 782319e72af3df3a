"""`eval fit`: the weights of the log-linear model and their calibration, from training data only.

Knows the OCR, the fuse room's features and a simulated second reader. The loss is the expected error rate of a line
under the model's own distribution (minimum risk: Och 2003; Smith and Eisner 2006) with an L2 penalty; one half of the
lines fits the weights; the other half and lines with trusted labels fit the calibration (Platt 1999).
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.datasets import NORMALISATIONS, Item, Normalisation, load_split
from eval.metrics import edits
from eval.simulate import SimulatedReader
from fusion.config import Config, load_config
from fusion.domain.lexicon import Lexicon
from fusion.errors import ConfigError
from fusion.fuse import decide, evidence
from fusion.fuse.align import clusters, key
from fusion.fuse.hypotheses import gather
from fusion.intake import open_pages
from fusion.ocr import OcrReader
from fusion.ocr.ctc import Views
from fusion.page import Reading, Recipe

FLOOR = -40.0
"""Ink log-probabilities are cut here while fitting: beyond it a hypothesis is simply impossible."""


class Source(BaseModel):
    """Training lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data: Path = Field(description="Training split, a TSV.")
    normalise: Normalisation = Field(description="Name of the normalisation under which errors are counted.")
    limit: int = Field(ge=1, description="Lines drawn.")
    formulary: bool = Field(False, description="Also with the texts of the other folds as formulary.")


class FitConfig(BaseModel):
    """What the weights are fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weights_from: tuple[Source, ...] = Field(min_length=1, description="Lines that the weights are fitted on.")
    calibrate_on: tuple[Source, ...] = Field(min_length=1, description="Lines with trusted labels: calibration only.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    mend: float = Field(0.4, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    invent: float = Field(0.06, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    noise: float = Field(0.34, ge=0, description="A line whose best hypothesis is further off is taken as mislabelled.")
    folds: int = Field(5, ge=2, description="Folds for the formulary.")
    l2: float = Field(3e-4, ge=0, description="Penalty on squared weights.")
    seed: int = Field(20261122, description="Seed of draws and simulation.")
    output: Path = Field(description="Weights file to write.")


@dataclass(frozen=True, slots=True)
class Case:
    """One training line under one condition: hypotheses, second readings, features, errors."""

    texts: tuple[str, ...]
    others: tuple[str, ...]
    table: NDArray[np.float64]
    errors: NDArray[np.float64]
    length: int
    reference: str
    image: str
    prior: Lexicon | None

    @property
    def supported(self) -> bool:
        """Whether anything but the ink speaks."""
        return bool(self.others) or self.prior is not None


def load_fit(path: Path) -> FitConfig:
    """Load a fit; ConfigError names what is wrong."""
    try:
        return FitConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no fit ({error})", "See configs/eval/fit.yaml.") from error


def fit(config: FitConfig, command: str, progress: Callable[[str], None]) -> str:
    """Fit, write the weights file, and return a summary."""
    torch.set_num_threads(1)
    engine = load_config(overrides=["ocr.threads=1"])
    reader = OcrReader(engine.ocr)
    rng = random.Random(config.seed)
    counts: dict[str, int] = {}

    def gathered(sources: Sequence[Source]) -> list[Case]:
        cases: list[Case] = []
        for source in sources:
            progress(str(source.data))
            own = _cases(source, config, engine, reader, rng)
            counts["/".join(source.data.parts[-2:])] = len(own)
            cases += own
        rng.shuffle(cases)
        return cases

    drawn, trusted = gathered(config.weights_from), gathered(config.calibrate_on)
    images = sorted({case.image for case in drawn})  # a line's conditions stay in one half
    first = set(rng.sample(images, len(images) // 2))
    vector = minimum_risk([case for case in drawn if case.supported and case.image in first], config.l2)
    rest = [case for case in drawn if case.image not in first]
    alone = platt(*marginal_pairs([case for case in trusted if not case.supported], vector))
    supported = platt(*marginal_pairs([case for case in [*rest, *trusted] if case.supported], vector))
    features = {name: round(float(w), 4) for name, w in zip(evidence.FEATURES, vector, strict=True)}
    # No training reader gives scores: its log-probability is taken to be worth a quarter of an edit per nat.
    features["vlm_score"] = round(features["vlm_distance"] / 4, 4)
    fitted = {"features": features, "alone": _rounded(alone), "supported": _rounded(supported)}
    simulated = {"mend": config.mend, "invent": config.invent}
    content = {
        "version": 1,
        "command": command,
        "fitted_on": {"cases": counts, "simulated_reader": simulated, "seed": config.seed},
        "weights": fitted,
    }
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tested = [case for case in rest if case.supported]
    before, after = error_rate(tested, None), error_rate(tested, vector)
    return f"{json.dumps(fitted, indent=1)}\nheld-out half: OCR {before:.4f}, fused {after:.4f} ({len(tested)} cases)"


def _rounded(pair: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in pair]


def _cases(source: Source, config: FitConfig, engine: Config, reader: OcrReader, rng: random.Random) -> list[Case]:
    normal = NORMALISATIONS[source.normalise]
    simulated = SimulatedReader(config.mend, config.invent)
    items = [
        i for i in load_split(source.data) if normal(i.reference) and not any(n in i.note for n in config.skip_notes)
    ]
    rng.shuffle(items)
    items = items[: source.limit]
    texts = [item.reference for item in items]
    folds = [number % config.folds for number in range(len(items))]
    lexicons = [Lexicon(t for t, f in zip(texts, folds, strict=True) if f != fold) for fold in range(config.folds)]
    cases = []
    for item, fold in zip(items, folds, strict=True):
        image = next(open_pages(item.path, engine.intake, crop=True))
        (line,) = reader.read(image, crop=True)
        if line.reading is None or not isinstance(line.ink, Views):
            continue
        seen = unicodedata.normalize("NFC", simulated.read(line.ink, item.reference, texts, rng))
        second = [Reading("vlm", seen, Recipe("simulated", "1", "simulated", ""))]
        conditions: list[tuple[list[Reading], Lexicon | None]] = [([], None), (second, None)]
        if source.formulary:
            conditions += [(second, lexicons[fold]), ([], lexicons[fold])]
        for others, prior in conditions:
            case = _case(item, line.reading, line.ink, others, prior, source, engine.fuse.hypotheses)
            if case.errors.min() <= config.noise * case.length:
                cases.append(case)
    return cases


def _case(
    item: Item,
    ocr: Reading,
    ink: Views,
    others: list[Reading],
    prior: Lexicon | None,
    source: Source,
    limit: int,
) -> Case:
    normal = NORMALISATIONS[source.normalise]
    texts = gather(ocr, others, ink, prior, limit)
    table = evidence.features(texts, ink, others, prior)
    reference = normal(item.reference)
    errors = np.array([edits(reference, normal(text))[0] for text in texts], dtype=np.float64)
    return Case(
        tuple(texts),
        tuple(other.text for other in others),
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
    table[:, :, evidence.FEATURES.index("ink")].clamp_(min=FLOOR)
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
    if not case.supported:
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
