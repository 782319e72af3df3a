"""What speaks for each hypothesis, and how much: features, fitted weights, a distribution.

Knows strings, readings, ink and prior; decides nothing. The model is log-linear (Berger, Della Pietra and Della Pietra,
"A maximum entropy approach to natural language processing", 1996): P(h) ∝ exp(Σ weight · feature(h)). The weights are
few, fitted by `python -m eval fit` on training data by minimum risk, and kept in `weights.json` with that command.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ConfigError
from fusion.fuse.align import distance, keys
from fusion.ink import Ink, Prior
from fusion.page import Reading

FEATURES = ("ink", "witness", "decoder", "vlm_distance", "vlm_match", "vlm_score", "names", "sums", "listed", "length")
"""Names of the features, in the order of the weight vector:

ink            log P(h | strokes) under the OCR's CTC, best hypothesis 0
witness        log P(h | strokes) under the second reader's own look at the ink, best hypothesis 0, times that look's quality
               to the power `Weights.gate`: the less sure the witness is of this line, the less it says
decoder        log P(h | crop) under the decoder behind that witness, best hypothesis 0, times the probability per token
               of its best hypothesis to the same power: the more this line surprises it, the less it says
vlm_distance   minus the edits to each of the second reader's readings, mean over readings, white space aside
vlm_match      share of those readings that h equals
vlm_score      log P(h | crop) under the second reader by teacher forcing, best hypothesis 0, when it can say
names          log P(h) under the character model of the expected names, best hypothesis 0; only for single words,
               since in a line of several most words are no names and the model would bend them
sums           log P(h) under the character model of sums and algebra, best hypothesis 0; only for lines that are such
listed         how many of its words are among those names
length         number of inked characters, minus that of the OCR's reading; only where something else than a list of
               names for a line of several words balances it
"""

Support = Literal[
    "alone",
    "witnessed",
    "witnessed_signs",
    "formulary",
    "formulary_witnessed",
    "names",
    "names_witnessed",
    "sums",
    "supported",
]
"""Who speaks besides the OCR: nobody; the ink's second witness, about words or about a line of digits and signs; a list of
names, alone or with that witness; a model of sums; a reader that writes, with or without a list. How far to trust what
depends on it, so each has its own weights."""
SUPPORT: tuple[Support, ...] = get_args(Support)


@dataclass(frozen=True, slots=True)
class Voices:
    """Who has a character as it was decided: the OCR's reading, the second reader's, and a list that holds its word."""

    ocr: bool
    second: bool
    listed: bool


CONFIDENCE = ("slope", "offset", "ocr", "second", "listed")
"""Numbers of the logistic map from a character's marginal probability to its confidence: what the marginal's log-odds are
worth, log-odds of its own, and log-odds more where the OCR's reading has the character, the second reader's has it, and a
list holds its word."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted numbers.

    Attributes:
        features: for each of `SUPPORT`, feature name → weight; one that is missing weighs nothing.
        margin: nats by which a text must beat the OCR's own reading before it replaces it, for some of `SUPPORT`; else 0.
            Fitted so that few lines are broken for each one mended (`harm` of the fit).
        gate: how fast the witness loses its say as its quality falls; 0 would trust it everywhere alike.
        sure: quality of the OCR's look from which a second look has nothing to add.
        confidence: for each of `SUPPORT`, the numbers named in `CONFIDENCE`.
        accept: (share wrong, confidence) pairs, rising shares: accepting words from that confidence on kept the share of
            wrong ones among the calibration words under it.
    """

    features: Mapping[Support, Mapping[str, float]]
    margin: Mapping[Support, float]
    gate: float
    sure: float
    confidence: Mapping[Support, Mapping[str, float]]
    accept: tuple[tuple[float, float], ...]

    def vector(self, support: Support) -> NDArray[np.float64]:
        """float64 (F,), in the order of `FEATURES`."""
        own = self.features.get(support, {})
        return np.array([own.get(name, 0.0) for name in FEATURES])

    def calibrated(self, probability: float, support: Support, voices: Voices) -> float:
        """Confidence for a character's marginal probability, both in [0, 1]."""
        numbers = self.confidence[support]
        return 1 / (
            1
            + math.exp(
                -sum(numbers[name] * x for name, x in zip(CONFIDENCE, grounds(probability, voices), strict=True))
            )
        )

    def accepts(self, max_error: float) -> float:
        """Confidence from which words are accepted if at most this share of them may be wrong; infinite if none is."""
        return next((bound for share, bound in reversed(self.accept) if share <= max_error), math.inf)


def grounds(probability: float, voices: Voices) -> tuple[float, ...]:
    """What a confidence rests on, in the order of `CONFIDENCE`."""
    p = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p)), 1.0, float(voices.ocr), float(voices.second), float(voices.listed)


@cache
def load_weights(path: Path | None = None) -> Weights:
    """Weights from a file, or the packaged ones.

    Raises:
        ConfigError: the file is missing or is not a weights file.
    """
    source = path if path is not None else files("fusion.fuse") / "weights.json"
    try:
        fitted = json.loads(source.read_text(encoding="utf-8"))["weights"]
        maps = {name: {part: float(fitted["confidence"][name][part]) for part in CONFIDENCE} for name in SUPPORT}
        named = {
            support: {str(name): float(value) for name, value in own.items()}
            for support, own in fitted["features"].items()
        }
        accept = tuple((float(share), float(bound)) for share, bound in fitted["accept"])
        margin = {support: float(value) for support, value in fitted["margin"].items()}
        weights = Weights(named, margin, float(fitted["gate"]), float(fitted["sure"]), maps, accept)
        unknown = sorted(
            {name for own in named.values() for name in own} - set(FEATURES)
            | (named.keys() | margin.keys()) - set(SUPPORT)
        )
        numbers = [
            *(value for own in named.values() for value in own.values()),
            *margin.values(),
            weights.gate,
            weights.sure,
            *itertools.chain.from_iterable([*(own.values() for own in maps.values()), *accept]),
        ]
        if unknown or not np.isfinite(numbers).all():
            raise ValueError(f"unknown features {unknown}" if unknown else "a number is not finite")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        way = "Point fuse.weights to a file written by `python -m eval fit`, or leave it out."
        raise ConfigError(source, f"holds no usable weights ({type(error).__name__}: {error})", way) from error
    return weights


def features(
    texts: Sequence[str],
    ink: Ink,
    others: Sequence[Reading],
    prior: Prior | None,
    witness: Ink | None = None,
    gate: float = 0.0,
) -> NDArray[np.float64]:
    """Feature matrix: float64 (N, F) for N hypotheses, the OCR's reading first; what is not known is 0.

    A reader that is a witness is asked about every text, so how far each is from its reading says nothing more.
    `decoder` and `vlm_score` are left at 0: asking for them is dear, so the caller does, about a few (`add_scores`).
    """
    table = np.zeros((len(texts), len(FEATURES)))
    column = {name: table[:, number] for number, name in enumerate(FEATURES)}
    column["ink"][:] = _below_best(ink.score(texts))
    split = [keys(text) for text in texts]
    if witness is not None:
        column["witness"][:] = _below_best(witness.score(texts)) * witness.quality**gate
    elif others:
        edits = np.array(
            [[distance(_inked(own), _inked(keys(o.text))) for o in others] for own in split], dtype=np.float64
        )
        column["vlm_distance"][:] = -edits.mean(axis=1)
        column["vlm_match"][:] = (edits == 0).mean(axis=1)
    whole = prior is None or prior.kind == "sums" or len(texts[0].split()) <= 1
    if prior is not None:
        if whole:
            column["sums" if prior.kind == "sums" else "names"][:] = _below_best(
                [prior.log_probability(text) for text in texts]
            )
        column["listed"][:] = [_listed(text, prior) for text in texts]
    if others or whole:  # alone, a list of names has nothing to balance a bonus for length in a line
        column["length"][:] = [len(_inked(own)) - len(_inked(split[0])) for own in split]
    return table


def add_scores(
    table: NDArray[np.float64],
    texts: Sequence[str],
    race: Sequence[int],
    score: Callable[[Sequence[str]], list[float] | None],
    *,
    witnessed: bool,
    gate: float,
) -> None:
    """Ask the second reader's decoder about the hypotheses still in the race; the rest count as the lowest of them.

    Args:
        table: feature matrix, changed in place.
        texts: hypotheses.
        race: indices of those asked about.
        score: log-probabilities of texts, or None when the reader can't say.
        witnessed: the decoder belongs to a witness.
        gate: see `Weights.gate`.
    """
    scores = score([texts[n] for n in race])
    if scores is None:
        return
    values = np.asarray(scores, dtype=np.float64)
    trust = 1.0
    if witnessed:
        lengths = np.array([len(texts[n]) + 1 for n in race])
        trust = float(np.exp((values / lengths).max())) ** gate
    column = table[:, FEATURES.index("decoder" if witnessed else "vlm_score")]
    column[:] = (values.min() - values.max()) * trust
    column[list(race)] = (values - values.max()) * trust


def _inked(own: list[str]) -> list[str]:
    """Without white space: where a reader puts spaces says little about which letters it saw."""
    return [cluster for cluster in own if not cluster.isspace()]


def _below_best(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(values - values.max(), dtype=np.float64)


def _listed(text: str, prior: Prior) -> float:
    if prior.holds(text):
        return 1.0
    return float(sum(prior.holds(word) for word in text.split()))


def distribution(table: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each hypothesis: float64 (N,), sums to 1."""
    scores = table @ weights
    mass = np.exp(scores - scores.max())
    return np.asarray(mass / mass.sum())
