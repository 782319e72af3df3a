"""Training lines as the fit sees them: hypotheses, what the experts say of each, and errors, under each condition.

Knows the engine's own parts (OCR, small reader, hypotheses, model) and a simulated second reader; fits nothing. A condition
is a second reader, or none, with something to expect, or nothing. No writer and no word of a source is in both parts of its lines: those
that weights are fitted on, and those that confidences are calibrated on.
"""

from __future__ import annotations

import random
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from fusion.domain import languages
from fusion.domain.formulary import drug_names
from fusion.domain.lexicon import Lexicon
from fusion.domain.sums import SumModel
from fusion.errors import ConfigError
from fusion.fuse import Decision, LineEvidence, decide, spoken, trusted
from fusion.fuse.model import Weights
from fusion.ink import InkLine, Language, Prior, Weighed
from fusion.intake import open_pages
from fusion.ocr import OcrReader
from fusion.page import Reading, Recipe
from fusion.vlm import Look, Looks, Query, open_reader


class Source(BaseModel):
    """Training lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data: Path = Field(description="Training split, a TSV.")
    normalise: Normalisation = Field(description="Name of the normalisation under which errors are counted.")
    limit: int = Field(ge=1, description="Lines drawn.")
    skip: int = Field(
        0, ge=0, description="Of these, the first so many are left out: something else was fitted on them."
    )
    priors: tuple[Literal["none", "formulary", "names", "sums"], ...] = Field(
        ("none",),
        description="What is expected: nothing; the texts of the file's other folds as formulary; packaged names; sums.",
    )
    readers: tuple[Literal["simulated", "small", "none"], ...] = Field(
        ("small", "none"), description="Second readers that look at these lines; none: the OCR speaks alone."
    )
    weigh: bool = Field(True, description="Weights may be fitted on these lines.")
    calibrate: bool = Field(True, description="Confidences may be fitted on these lines: their labels are trusted.")
    noise: float = Field(
        0.34, ge=0, description="No weights from lines whose best hypothesis is further off: mislabelled."
    )
    lacking: float = Field(
        0.0, ge=0, lt=1, description="Share of the names that each formulary lacks: none is complete."
    )
    skip_writers: tuple[str, ...] = Field((), description="Rows of these writers are left out.")
    only_writers: tuple[str, ...] = Field((), description="Only rows of these writers; none: of all.")


class FitConfig(BaseModel):
    """What the weights are fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sources: tuple[Source, ...] = Field(min_length=1, description="Training lines.")
    calibration_share: float = Field(
        0.4, ge=0, le=1, description="Share of the writers (of the words, where none is named) kept for calibration."
    )
    set: tuple[str, ...] = Field((), description="Settings of the engine, `ocr.hand_model=…` say.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    mend: tuple[float, ...] = Field((0.4, 0.0), description="See `simulate.SimulatedReader`; one reader for each.")
    invent: float = Field(0.06, ge=0, le=1, description="See `simulate.SimulatedReader`.")
    signs: tuple[float, ...] = Field((0.25, 0.5, 1.0), description="Values tried for `Weights.signs`.")
    change: float = Field(2.0, ge=1, description="Policy: cost of a wrong change, a missed one being 1.")
    quantity: float = Field(3.0, ge=1, description="Policy: cost of a wrong quantity.")
    tolerance: float = Field(4.0, ge=0, description="Policy: nats by which the OCR may prefer its own quantity.")
    idle: float = Field(0.01, ge=0, le=1, description="Share of the reader's gain that sparing sure lines may cost.")
    folds: int = Field(5, ge=2, description="Folds for the formulary.")
    l2: float = Field(3e-4, ge=0, description="Penalty on squared weights.")
    seed: int = Field(20261122, description="Seed of draws and simulation.")
    output: Path = Field(description="Weights file to write.")


@dataclass(frozen=True, slots=True)
class Case:
    """One training line under one condition.

    Attributes:
        source: data file, for counts.
        condition: second reader and prior.
        cluster: writer, or word where none is named: what the two parts don't share.
        reference: what is written.
        normalise: how errors are counted.
        weighed: hypotheses, and what every expert makes of them.
        others: readings of all that looked beside the OCR.
        prior: what is expected, or None.
        errors: float64 (N,), edits of each hypothesis.
        length: of the reference.
        looks: see `LineEvidence.qualities`.
    """

    source: str
    condition: tuple[str, str]
    cluster: str
    reference: str
    normalise: Normalisation
    weighed: Weighed
    others: tuple[str, ...]
    prior: Prior | None
    errors: NDArray[np.float64]
    length: int
    looks: tuple[float, float, float]

    @property
    def by_word(self) -> bool:
        """Whether no writer is named, so that the cluster is the word."""
        return self.cluster == self.reference.casefold()

    @property
    def held_back(self) -> int:
        """Number in [0, 1000) of the cluster, the same in every run: which part the line is in."""
        return zlib.crc32(self.cluster.encode()) % 1000

    def judged(self, weights: Weights) -> Decision:
        """Hypotheses and evidence, the second reader trusted as far as the weights say; nothing chosen yet."""
        return trusted(self.weighed, weights)

    def decided(self, weights: Weights) -> Decision:
        """With the choice that the engine would make."""
        return decide(self.judged(weights), self.others, self.prior, weights)


class Bench:
    """The engine's own parts, opened once: OCR and small reader."""

    def __init__(self, settings: Sequence[str]) -> None:
        """One thread each; `settings` as for `--set`."""
        self.config = load_config(overrides=["ocr.threads=1", "vlm.threads=1", *settings])
        self.ocr = OcrReader(self.config.ocr)
        reader = open_reader(self.config.vlm)
        if not isinstance(reader, Looks):
            raise ConfigError(
                "set", "names no second reader that looks", "Leave vlm.engine: local, with the small reader."
            )
        self.small: Looks = reader
        self.languages: tuple[Language, ...] = languages(self.config.fuse.languages)


def read_cases(source: Source, config: FitConfig, bench: Bench, rng: random.Random) -> list[Case]:
    """Lines of a source, each once per second reader and prior."""
    rows = load_split(source.data)
    items = [
        item
        for item in rows
        if not any(mark in item.note for mark in config.skip_notes)
        and item.writer not in source.skip_writers
        and (not source.only_writers or item.writer in source.only_writers)
    ]
    rng.shuffle(items)
    expected = _priors(source, config, rows)
    texts = sorted({row.reference for row in rows})
    cases = []
    for item in items[source.skip : source.limit]:
        page = next(iter(open_pages(item.path, bench.config.intake, crop=True)))
        (line,) = bench.ocr.read(page, crop=True)
        if line.reading is None or line.ink is None:
            continue
        for name, others, seen in _second(source, config, bench, item, line, texts, rng):
            for kind, prior in expected(item.image):
                cases.append(_case(source, item, line, (name, kind), others, seen, prior, bench))
    return cases


def _second(
    source: Source,
    config: FitConfig,
    bench: Bench,
    item: Item,
    line: InkLine,
    texts: Sequence[str],
    rng: random.Random,
) -> list[tuple[str, list[Reading], Look | None]]:
    """Each second reader's name, what it reads, and its look where it has one."""
    found: list[tuple[str, list[Reading], Look | None]] = []
    if "small" in source.readers:
        seen = bench.small.look(Query(item.image, line))
        if isinstance(seen, Look) and seen.reading is not None:
            found.append(("small", [seen.reading], seen))
    if "none" in source.readers or ("small" in source.readers and not found):
        found.append(("none", [], None))
    if "simulated" in source.readers:
        for mend in config.mend:
            assert isinstance(line.ink, Views)
            text = SimulatedReader(mend, config.invent).read(line.ink, item.reference, texts, rng)
            text = unicodedata.normalize("NFC", text)
            recipe = Recipe("simulated", "1", str(mend), line.reading.recipe.image_sha256 if line.reading else "")
            found.append(("simulated", [Reading("vlm", text, recipe, raw=text)], None))
    return found


def _priors(source: Source, config: FitConfig, rows: Sequence[Item]) -> Callable[[str], list[tuple[str, Prior | None]]]:
    """What is expected of a row, by its image: the formulary is what the file's rows in other folds say."""
    fold = {row.image: zlib.crc32(row.image.encode()) % config.folds for row in rows}
    lists = []
    for number in range(config.folds if "formulary" in source.priors else 0):
        names = names_of([row for row in rows if fold[row.image] != number])
        kept = random.Random(number).sample(names, round(len(names) * (1 - source.lacking)))
        lists.append(Lexicon(kept))
    fixed: dict[str, Prior | None] = {"none": None}
    if "names" in source.priors:
        fixed["names"] = Lexicon(drug_names(), "names")
    if "sums" in source.priors:
        fixed["sums"] = SumModel.load()

    def of(image: str) -> list[tuple[str, Prior | None]]:
        return [(kind, lists[fold[image]] if kind == "formulary" else fixed[kind]) for kind in source.priors]

    return of


def _case(
    source: Source,
    item: Item,
    line: InkLine,
    condition: tuple[str, str],
    others: list[Reading],
    seen: Look | None,
    prior: Prior | None,
    bench: Bench,
) -> Case:
    assert line.reading is not None
    assert line.ink is not None
    prior = prior if prior is not None and prior.concerns(line.reading.text) else None
    limit = bench.config.fuse.hypotheses
    witness = seen.ink if seen is not None else None
    language = spoken(bench.languages, line.reading.text, prior)
    read = LineEvidence(line.reading, line.ink, others, prior, {}, witness, line.hand, line.hand_ink, language)
    if seen is not None:
        asked = read.shortlist(limit)
        read = replace(read, scores=dict(zip(asked, seen.score(asked), strict=True)))
    weighed = read.weigh(limit)
    normal = NORMALISATIONS[source.normalise]
    reference = normal(item.reference)
    return Case(
        "/".join(source.data.parts[-2:]),
        condition,
        item.writer or item.reference.casefold(),
        item.reference,
        source.normalise,
        weighed,
        tuple(other.text for other in read.looked),
        prior,
        np.array([edits(reference, normal(text))[0] for text in weighed.texts], dtype=np.float64),
        max(1, edits(reference, "")[1]),
        read.qualities,
    )
