"""Training lines as the fit sees them: hypotheses, features and errors of each line under each condition.

Knows the engine's own parts (OCR, small reader, hypotheses, features) and a simulated second reader; fits nothing.
"""

from __future__ import annotations

import math
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from eval.datasets import NORMALISATIONS, Item, Normalisation, load_split, names_of
from eval.metrics import edits
from eval.simulate import SimulatedReader
from fusion.config import load_config
from fusion.ctc import Views
from fusion.domain.formulary import drug_names
from fusion.domain.lexicon import Lexicon
from fusion.domain.sums import SumModel
from fusion.fuse import WEIGHED, Scorer, evidence, support_of
from fusion.fuse.hypotheses import gather
from fusion.ink import Ink, InkLine, Prior
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


class Source(BaseModel):
    """Training lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data: Path = Field(description="Training split, a TSV.")
    normalise: Normalisation = Field(description="Name of the normalisation under which errors are counted.")
    limit: int = Field(ge=1, description="Lines drawn.")
    priors: tuple[Literal["none", "formulary", "names", "sums"], ...] = Field(
        ("none",),
        description="What is expected: nothing; the texts of the file's other folds as formulary; packaged names; sums.",
    )
    readers: tuple[Literal["simulated", "small"], ...] = Field(
        ("simulated", "small"), description="Second readers that look at these lines."
    )
    noise: float = Field(0.34, ge=0, description="A line whose best hypothesis is further off is taken as mislabelled.")
    lacking: float = Field(
        0.0, ge=0, lt=1, description="Share of the names that each formulary lacks: none is complete."
    )
    unseen_by: Path | None = Field(None, description="Recipe of the small reader: only rows it was not trained on.")


class FitConfig(BaseModel):
    """What the weights are fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weights_from: tuple[Source, ...] = Field(min_length=1, description="Lines that the weights are fitted on.")
    calibrate_on: tuple[Source, ...] = Field((), description="Lines with trusted labels: calibration only.")
    reader: str = Field("small", description="Checkpoint of the second reader `small`: its name, or a folder.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    mend: tuple[float, ...] = Field(
        (0.4, 0.0), min_length=1, description="See `simulate.SimulatedReader`; one reader for each: they differ."
    )
    invent: float = Field(0.06, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    harm: float = Field(
        0.05, ge=0, le=1, description="Most lines broken per line mended under a witness: sets the margin."
    )
    shares: tuple[float, ...] = Field(
        (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2), description="Shares of wrong words for which a threshold is written."
    )
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
    prior: Prior | None

    def gated(self, gate: float) -> Case:
        """The same with the witness weakened where it is unsure."""
        table = self.table.copy()
        table[:, WITNESS] *= self.quality[1] ** gate
        table[:, WITNESS + 1] *= self.quality[2] ** gate
        return replace(self, table=table)


class Bench:
    """The engine's own parts, opened once: OCR and small reader."""

    def __init__(self, checkpoint: str) -> None:
        """One thread each; `checkpoint` is a name or folder as in `vlm.model`."""
        self.config = load_config(overrides=["ocr.threads=1", "vlm.threads=1", f"vlm.model={checkpoint}"])
        self.ocr = OcrReader(self.config.ocr)
        reader = open_reader(self.config.vlm)
        assert reader is not None
        self.small = reader


def read_cases(source: Source, config: FitConfig, bench: Bench, rng: random.Random) -> list[Case]:
    """Lines of a source, each once per second reader and prior; lines without a close hypothesis are left out."""
    normal = NORMALISATIONS[source.normalise]
    simulated = [SimulatedReader(mend, config.invent) for mend in config.mend]
    unseen = _unseen(source)
    priors = _priors(source, config, rng)
    items = [
        i for i in load_split(source.data) if normal(i.reference) and not any(n in i.note for n in config.skip_notes)
    ]
    items = [item for item in items if unseen is None or item.image in unseen]
    rng.shuffle(items)
    items = items[: source.limit]
    texts = [item.reference for item in items]
    cases = []
    for item in items:
        image = next(open_pages(item.path, bench.config.intake, crop=True))
        (line,) = bench.ocr.read(image, crop=True)
        if line.reading is None or not isinstance(line.ink, Views):
            continue
        conditions: list[tuple[list[Reading], Ink | None]] = [([], None)]
        if "simulated" in source.readers:
            for reader in simulated:
                seen = unicodedata.normalize("NFC", reader.read(line.ink, item.reference, texts, rng))
                conditions.append(([Reading("vlm", seen, Recipe("simulated", "1", "simulated", ""))], None))
        query = Query(item.image, line)
        if "small" in source.readers:
            readings = [r for r in bench.small.read([query])[0] if isinstance(r, Reading)]
            conditions += [(readings, bench.small.witness(query))] if readings else []
        for others, witness in conditions:
            for prior in priors(item.image):
                score = partial(bench.small.score, query) if witness is not None else None
                case = _case(item, line, others, witness, score, prior, source, bench.config.fuse.hypotheses)
                if case.errors.min() <= source.noise * case.length:
                    cases.append(case)
    return cases


def _priors(source: Source, config: FitConfig, rng: random.Random) -> Callable[[str], list[Prior | None]]:
    """What is expected of a row, by its image: the formulary is what the file's rows in other folds say."""
    rows = load_split(source.data)
    rng.shuffle(rows)
    fold = {row.image: number % config.folds for number, row in enumerate(rows)}
    lists = []
    for number in range(config.folds if "formulary" in source.priors else 0):
        names = names_of([row for row in rows if fold[row.image] != number])
        lists.append(Lexicon(rng.sample(names, round(len(names) * (1 - source.lacking)))))
    fixed: dict[str, Prior | None] = {}
    if "names" in source.priors:
        fixed["names"] = Lexicon(drug_names(), "names")
    if "sums" in source.priors:
        fixed["sums"] = SumModel.load()

    def of(image: str) -> list[Prior | None]:
        own: dict[str, Prior | None] = {**fixed, "none": None, "formulary": lists[fold[image]] if lists else None}
        return [own[kind] for kind in source.priors]

    return of


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
    prior: Prior | None,
    source: Source,
    limit: int,
) -> Case:
    assert line.reading is not None
    assert line.ink is not None
    normal = NORMALISATIONS[source.normalise]
    prior = prior if prior is not None and prior.concerns(line.reading.text) else None
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
        support_of(line.reading.text, others, prior, witness),
        (line.ink.quality, witness.quality if witness is not None else 0.0, trust),
        table,
        errors,
        max(1, edits(reference, "")[1]),
        item.reference,
        item.image,
        prior,
    )
