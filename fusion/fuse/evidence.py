"""What speaks for each hypothesis, and how much: features, fitted weights, a distribution.

Knows strings, readings, ink and prior; decides nothing. The model is log-linear (Berger, Della Pietra and Della Pietra,
"A maximum entropy approach to natural language processing", 1996): P(h) ∝ exp(Σ weight · feature(h)). The weights are
few, fitted by `python -m eval fit` on training data by minimum risk, and kept in `weights.json` with that command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ConfigError
from fusion.fuse.align import distance, keys
from fusion.page import Ink, Prior, Reading

FEATURES = ("ink", "vlm_distance", "vlm_match", "vlm_score", "prior", "listed", "length")
"""Names of the features, in the order of the weight vector:

ink            log P(h | strokes) under the OCR's CTC, best hypothesis 0
vlm_distance   minus the edits to each of the second reader's readings, mean over readings, white space aside
vlm_match      share of those readings that h equals
vlm_score      log P(h | crop) under the second reader by teacher forcing, best hypothesis 0, when it can say
prior          log P(h) under the character model of the expected names, best hypothesis 0; only for single words,
               since in a line of several most words are no names and the model would bend them
listed         how many of its words are among those names
length         number of inked characters, minus that of the OCR's reading; only where a second reader or a single word's
               prior balances it
"""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted numbers.

    Attributes:
        features: feature name → weight; one that is missing weighs nothing.
        alone, supported: (slope, offset) of the logistic map from a marginal's log-odds to a confidence, when the ink
            is the only evidence, and when a second reader or a prior speaks too.
    """

    features: Mapping[str, float]
    alone: tuple[float, float]
    supported: tuple[float, float]

    @property
    def vector(self) -> NDArray[np.float64]:
        """float64 (F,), in the order of `FEATURES`."""
        return np.array([self.features.get(name, 0.0) for name in FEATURES])

    def calibrated(self, probability: float, *, supported: bool) -> float:
        """Confidence for a marginal probability, both in [0, 1]."""
        slope, offset = self.supported if supported else self.alone
        p = min(max(probability, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-(slope * math.log(p / (1 - p)) + offset)))


@cache
def load_weights(path: Path | None = None) -> Weights:
    """Weights from a file, or the packaged ones.

    Raises:
        ConfigError: the file is missing or is not a weights file.
    """
    source = path if path is not None else files("fusion.fuse") / "weights.json"
    try:
        fitted = json.loads(source.read_text(encoding="utf-8"))["weights"]
        (a, b), (c, d) = fitted["alone"], fitted["supported"]
        weights = Weights({str(k): float(v) for k, v in fitted["features"].items()}, (a, b), (c, d))
        unknown = sorted(set(weights.features) - set(FEATURES))
        if unknown or not np.isfinite([*weights.features.values(), a, b, c, d]).all():
            raise ValueError(f"unknown features {unknown}" if unknown else "a number is not finite")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        way = "Point fuse.weights to a file written by `python -m eval fit`, or leave it out."
        raise ConfigError(source, f"holds no usable weights ({type(error).__name__}: {error})", way) from error
    return weights


def features(texts: Sequence[str], ink: Ink, others: Sequence[Reading], prior: Prior | None) -> NDArray[np.float64]:
    """Feature matrix: float64 (N, F) for N hypotheses, the OCR's reading first; what is not known is 0.

    `vlm_score` is left at 0: asking for it is dear, so the caller does, about a few.
    """
    table = np.zeros((len(texts), len(FEATURES)))
    column = {name: table[:, number] for number, name in enumerate(FEATURES)}
    column["ink"][:] = _below_best(ink.score(texts))
    split = [keys(text) for text in texts]
    if others:
        edits = np.array(
            [[distance(_inked(own), _inked(keys(o.text))) for o in others] for own in split], dtype=np.float64
        )
        column["vlm_distance"][:] = -edits.mean(axis=1)
        column["vlm_match"][:] = (edits == 0).mean(axis=1)
    if prior is not None:
        if len(texts[0].split()) <= 1:
            column["prior"][:] = _below_best([prior.log_probability(text) for text in texts])
        column["listed"][:] = [_listed(text, prior) for text in texts]
    if others or len(texts[0].split()) <= 1:  # alone, a list of names has nothing to balance a bonus for length
        column["length"][:] = [len(_inked(own)) - len(_inked(split[0])) for own in split]
    return table


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
