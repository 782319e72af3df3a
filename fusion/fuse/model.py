"""The model: which of a line's hypotheses is how probable, and which one costs least to write down.

Knows strings, what each expert says of them, and the fitted numbers; knows no image and builds no span. The model is
log-linear (Och and Ney, "Discriminative training and maximum entropy models for statistical machine translation", ACL
2002): score(h) = Σ λ · log P(h) over the experts, each a distribution over the same hypotheses. An absent expert adds 0.
What is chosen is decided by minimum risk (Goel and Byrne, "Minimum Bayes-risk automatic speech recognition", 2000) under
a loss matrix of three numbers: a missed change costs 1, a wrong change `change`, a wrong quantity `quantity`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ConfigError
from fusion.fuse.align import align, distance, keys
from fusion.fuse.names import listed
from fusion.ink import Ink, Prior
from fusion.page import is_ideograph, stretches
from fusion.quantities import alike, quantities

VERSION = 6
"""Of the weights file."""
MOST = 1000.0
"""Greatest number in it."""
EXPERTS = ("ocr", "hand", "reader", "decoder", "answer", "list", "language", "length")
"""Columns of a table of evidence, and names of the weights λ:

ocr       log P(strokes as h): the OCR's CTC posterior
hand      the same under its second look, by a recogniser of Latin hands; where there is none, the first stands for both
reader    the same under the second reader's own look at the ink, as far as it is to be trusted: `Weights.trust`
decoder   log P(h | crop) under the second reader's decoder, as far as that is to be trusted
answer    log P(answers | h): a noisy channel in which every edit costs the same (Kernighan, Church and Gale 1990)
list      log P(h) under a list of expected names; see `domain.lexicon`
language  log P(h) under a model of what such lines look like; see `domain.sums`
length    number of inked characters: what a product of probabilities takes from longer texts, this gives back
"""
SHORTLIST = np.array(
    [
        {"ocr": 0.5, "hand": 0.7, "reader": 0.7, "answer": 1.0, "list": 1.0, "language": 0.3, "length": 1.0}.get(n, 0.0)
        for n in EXPERTS
    ]
)
"""Weights by which hypotheses are chosen that a decoder is asked about: the same for all fitted weights, so that what was
asked can be decided on again under others."""
PRIORS = [EXPERTS.index("list"), EXPERTS.index("language")]
"""Columns of the experts that have not seen the ink."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted numbers.

    Attributes:
        experts: λ of each of `EXPERTS`.
        reliability: power to which the second reader's quality scales what it says: the less sure of a line, the less it
            says.
        signs: share of its say that it keeps on a line of digits and signs.
        ask_below: quality of the OCR's look under which a second look is worth its time.
        change: cost of a wrong change of a word, where a missed one costs 1.
        quantity: the same for a quantity.
        tolerance: nats by which the OCR's ink may prefer its own text and still leave another open: a condition for
            another quantity, and what tells `vlm_supported_by_ink` from `vlm_preferred`.
        confidence: script → calibration; see `calibration`.
    """

    experts: Mapping[str, float]
    reliability: float
    signs: float
    ask_below: float
    change: float
    quantity: float
    tolerance: float
    confidence: Mapping[str, tuple[float, ...]]

    def trust(self, quality: float, text: str) -> float:
        """How far the second reader is to be trusted on a line.

        Args:
            quality: its own, in [0, 1].
            text: the OCR's reading, which tells words from digits and signs.
        """
        inked = [character for character in text if not character.isspace()]
        words = 2 * sum(character.isalpha() for character in inked) >= len(inked)
        return float(quality**self.reliability) * (1.0 if words else self.signs)

    @property
    def vector(self) -> NDArray[np.float64]:
        """float64 (R,), in the order of `EXPERTS`."""
        return np.array([self.experts[name] for name in EXPERTS])


def evidence(
    texts: Sequence[str],
    ink: Ink,
    answers: Sequence[str] = (),
    prior: Prior | None = None,
    witness: Ink | None = None,
    trust: float = 1.0,
    hand: Ink | None = None,
) -> NDArray[np.float64]:
    """What the experts say of each hypothesis: float64 (N, R); `decoder` stays 0.

    Log-probabilities are natural, the best hypothesis at 0; `answer` is minus the mean number of edits, `length` counts the
    inked characters that a text has more than the OCR's.

    Args:
        texts: hypotheses, the OCR's own reading first.
        ink: the OCR's look.
        answers: readings that a second reader wrote down; none where it only looks.
        prior: what is expected, or None.
        witness: the second reader's own look, or None.
        trust: how far it is to be trusted.
        hand: the OCR's second look, or None.
    """
    table = np.zeros((len(texts), len(EXPERTS)))
    column = {name: table[:, number] for number, name in enumerate(EXPERTS)}
    column["ocr"][:] = below_best(ink.score(texts))
    column["hand"][:] = below_best(hand.score(texts)) if hand is not None else column["ocr"]
    if witness is not None:
        column["reader"][:] = below_best(witness.score(texts)) * trust
    split = [_inked(text) for text in texts]
    if answers:
        said = [_inked(answer) for answer in answers]
        column["answer"][:] = [-float(np.mean([distance(own, other) for other in said])) for own in split]
    if prior is not None:
        own = "language" if prior.kind == "sums" else "list"
        column[own][:] = below_best([prior.log_probability(text) for text in texts])
    if answers or hand is not None or witness is not None or prior is not None:
        column["length"][:] = [len(own) - len(split[0]) for own in split]
    return table


def add_decoder(
    table: NDArray[np.float64],
    texts: Sequence[str],
    scores: Mapping[str, float],
    trust: Callable[[float], float] = lambda quality: 1.0,
) -> float:
    """Add what the second reader's decoder says; texts that it was not asked about count as the lowest of the others.

    Args:
        table: evidence, changed in place.
        texts: hypotheses.
        scores: natural log-probabilities of some of them.
        trust: how far it is to be trusted, given its quality.

    Returns:
        Its quality: the probability per token of the hypothesis that it likes best; 0 where it says nothing.
    """
    asked = [n for n, text in enumerate(texts) if text in scores]
    if not asked:
        return 0.0
    values = np.array([scores[texts[n]] for n in asked])
    lengths = np.array([len(texts[n]) + 1 for n in asked])
    quality = math.exp(min(0.0, float((values / lengths).max())))
    column = table[:, EXPERTS.index("decoder")]
    column[:] = (values.min() - values.max()) * trust(quality)
    column[asked] = (values - values.max()) * trust(quality)
    return quality


def below_best(scores: Sequence[float]) -> NDArray[np.float64]:
    """Scores with the best one at 0: what all hypotheses share decides nothing."""
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(values - values.max(), dtype=np.float64)


def distribution(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each hypothesis, float64 (N,), from its score."""
    mass = np.exp(scores - scores.max())
    return np.asarray(mass / mass.sum())


def choose(
    texts: Sequence[str], table: NDArray[np.float64], others: Sequence[str], prior: Prior | None, weights: Weights
) -> tuple[int, bool]:
    """The hypothesis of least expected loss.

    With one word changed from the OCR's reading h₀ to h, and a wrong change costing c times a missed one, h is the better
    choice if P(h) > c · P(h₀). So each changed word costs log c. Two things are never traded. Another quantity needs the
    ink: the OCR's must leave it open, and somebody else who looked must read it so, or all who looked together prefer it.
    And a stretch that all who looked read alike stays, but for a word that a list replaces.

    Args:
        texts: hypotheses, the OCR's reading first.
        table: float64 (N, R), see `evidence`.
        others: best readings of the others who looked at the ink.
        prior: what is expected, or None.
        weights: the fitted numbers.

    Returns:
        Its index, and whether a better one was refused for its quantities.
    """
    scores = table @ weights.vector
    if not texts[0].strip():
        return 0, False
    found = [quantities(text) for text in texts]
    same = np.array([alike(found[0], one) for one in found])
    changed = np.array([_changed_words(texts[0], text) for text in texts])
    risk = -scores + np.where(
        same, math.log(weights.change) * changed, math.log(weights.quantity) * np.maximum(changed, 1)
    )
    seen = scores - table[:, PRIORS] @ weights.vector[PRIORS]
    said = [quantities(other) for other in others]
    read = np.array([any(alike(one, other) for other in said) for one in found])
    supported = same | (
        _possible(table, same, weights) & (read | (seen > seen[same].max() + math.log(weights.quantity)))
    )
    shared = Shared.of(texts[0], others)
    refused = False
    for n in np.argsort(risk, kind="stable").tolist():
        if n == 0:
            break
        if not supported[n]:
            refused = True
        elif shared.kept(texts[n], prior):
            return n, refused
    return 0, refused


def _possible(table: NDArray[np.float64], same: NDArray[np.bool_], weights: Weights) -> NDArray[np.bool_]:
    """Hypotheses that the OCR's own ink leaves open beside the best of those with its own quantities: bool (N,)."""
    ocr = table[:, EXPERTS.index("ocr")]
    return np.asarray(ocr >= ocr[same].max() - weights.tolerance)


def _changed_words(own: str, text: str) -> int:
    """How many words of a text are not the OCR's, white space aside: each stretch that holds a difference counts once."""
    ours, theirs = _inked(own), keys(text)
    words = np.cumsum([one.isspace() for one in theirs])
    words = words[[not one.isspace() for one in theirs]] if theirs else words
    hit = set()
    for segment in align(ours, _inked(text)):
        if segment.kind != "equal":
            a, b = segment.vlm_range
            hit |= set(words[a:b].tolist()) if a < b else {int(words[min(a, len(words) - 1)]) if len(words) else 0}
    return len(hit)


@dataclass(frozen=True, slots=True)
class Shared:
    """The stretches that all who looked at a line read alike, white space aside; where only the OCR looked, all it read.

    Attributes:
        own: comparison keys of the OCR's reading without white space.
        agreed: one per key, whether it stands in such a stretch.
    """

    own: list[str]
    agreed: list[bool]

    @classmethod
    def of(cls, text: str, others: Sequence[str]) -> Shared:
        """What a text has in common with the other readings."""
        own = _inked(text)
        agreed = [True] * len(own)
        for other in others:
            has = [False] * len(own)
            for segment in align(own, _inked(other)):
                first, end = segment.ocr_range
                if segment.kind == "equal":
                    has[first:end] = [True] * (end - first)
                elif segment.kind == "insert" and first:
                    has[first - 1] = False  # something more beside it is another reading
            agreed = [a and b for a, b in zip(agreed, has, strict=True)]
        start = 0
        for first, last in stretches(text):
            end = start + len(_inked(text[first:last]))
            agreed[start:end] = [all(agreed[start:end])] * (end - start)
            start = end
        return cls(own, agreed)

    def kept(self, text: str, prior: Prior | None) -> bool:
        """Whether a text keeps it: all of it, but for letters and digits inside words that a list has."""
        theirs = _inked(text)
        held = _listed(text, prior)
        for segment in align(self.own, theirs):
            (a, b), (c, d) = segment.ocr_range, segment.vlm_range
            if segment.kind == "equal" or not self._touches(a, b):
                continue
            letters = segment.kind == "substitute" and b - a == d - c  # a digit may be a misread letter, never nothing
            if any(
                self.agreed[n] and not (self.own[n].isalpha() or (letters and self.own[n].isalnum()))
                for n in range(a, b)
            ):
                return False
            inside = held[c:d] if c < d else held[max(0, c - 1) : c + 1]
            if not inside or not all(inside):
                return False
        return True

    def _touches(self, start: int, end: int) -> bool:
        """Whether a stretch has something agreed in it; one without extent, whether both its neighbours are."""
        return any(self.agreed[start:end]) if start < end else all(self.agreed[max(0, start - 1) : start + 1])


def _listed(text: str, prior: Prior | None) -> list[bool]:
    """Whether each inked cluster of a text stands in a word that a list has."""
    return [held for one, held in zip(keys(text), listed(text, prior), strict=True) if not one.isspace()]


def _inked(text: str) -> list[str]:
    """Comparison keys without white space: where a reader puts spaces says little about which letters it saw."""
    return [one for one in keys(text) if not one.isspace()]


# --- confidence -------------------------------------------------------------------------------------------------------

CONFIDENCE = ("constant", "model", "ocr", "second", "look", "listed")
"""Inputs of the calibration, as log-odds unless said otherwise: 1; the character's marginal probability under the model;
under the OCR alone; under the second reader alone, 0 where none speaks; the quality of the OCR's look at the line; and,
no log-odds, how likely a word was to be on the list that holds it (0 where none does)."""
SCRIPTS = ("Latin", "Han", "Common")
"""Scripts that are calibrated by themselves (Unicode's names; Common: digits and signs)."""
LIMIT = 7.0
"""Log-odds are cut here: what is nearly certain among the hypotheses at hand may still be none of them."""
Script = Literal["Latin", "Han", "Common"]


def script(stretch: str) -> Script:
    """The script of a stretch of text; letters of other alphabets count as Latin ones do."""
    if any(is_ideograph(character) for character in stretch):
        return "Han"
    return "Latin" if any(character.isalpha() for character in stretch) else "Common"


def log_odds(probability: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Log-odds of probabilities, within ± `LIMIT`."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.clip(np.log(p / (1 - p)), -LIMIT, LIMIT)


def alone(table: NDArray[np.float64], experts: Sequence[str], weights: Weights) -> NDArray[np.float64]:
    """The distribution under some experts by themselves: float64 (N,)."""
    columns = [EXPERTS.index(name) for name in experts]
    return distribution(table[:, columns] @ weights.vector[columns])


def calibrated(inputs: NDArray[np.float64], scripts: Sequence[Script], weights: Weights) -> list[float]:
    """Confidence of each character.

    Args:
        inputs: float64 (n, 6), in the order of `CONFIDENCE`.
        scripts: of the stretch that each character stands in.
        weights: the fitted numbers.
    """
    maps = np.array([weights.confidence[name] for name in scripts]).reshape(-1, len(CONFIDENCE))
    return [float(value) for value in 1 / (1 + np.exp(-(inputs * maps).sum(axis=1)))]


# --- the file ---------------------------------------------------------------------------------------------------------


def load_weights(path: Path | None = None) -> Weights:
    """Weights from a file, or the packaged ones.

    Raises:
        ConfigError: the file is missing or is not a weights file.
    """
    source = path if path is not None else files("fusion.fuse") / "weights.json"
    try:
        return parse_weights(json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        way = "Point fuse.weights to a file written by `python -m eval fit`, or leave it out."
        raise ConfigError(source, f"holds no usable weights ({type(error).__name__}: {error})", way) from error


def weights_identity(path: Path | None = None) -> str:
    """First 12 hex digits of the SHA-256 of a weights file."""
    source = path if path is not None else files("fusion.fuse") / "weights.json"
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def parse_weights(content: Mapping[str, Any]) -> Weights:
    """Weights from the content of their file; ValueError or LookupError for what is none."""
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']}, and {VERSION} is needed")
    experts = {str(name): float(value) for name, value in content["experts"].items()}
    maps = {str(name): tuple(float(own[part]) for part in CONFIDENCE) for name, own in content["confidence"].items()}
    single = {
        name: float(content[name]) for name in ("reliability", "signs", "ask_below", "change", "quantity", "tolerance")
    }
    weights = Weights(experts=experts, confidence=maps, **single)
    numbers = [*experts.values(), *single.values(), *itertools.chain.from_iterable(maps.values())]
    if set(experts) != set(EXPERTS) or set(maps) != set(SCRIPTS):
        raise ValueError(f"experts {sorted(experts)} and scripts {sorted(maps)}")
    if not np.isfinite(numbers).all() or max(map(abs, numbers)) > MOST or min(*experts.values(), *single.values()) < 0:
        raise ValueError("a number is not finite, too large or negative")
    if experts["ocr"] == 0 or min(weights.change, weights.quantity) < 1:
        raise ValueError("the OCR has no weight, or a wrong change costs less than a missed one")
    return weights
