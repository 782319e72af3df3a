"""The log-linear model of a line: scores of hypotheses, the decision of minimum risk, and calibrated confidence.

    score(h) = Σ λ · log P(h)   over the experts (Och and Ney, "Discriminative training and maximum entropy models for
                                statistical machine translation", ACL 2002); an absent expert adds 0

The decision minimises expected loss (Goel and Byrne, "Minimum Bayes-risk automatic speech recognition", 2000): a missed
change costs 1, a wrong change `change`, a wrong quantity `quantity`. Confidence is a logistic map of a few log-odds, one
map per script.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.errors import ConfigError
from fusion.fuse.align import align, distance, inked, keys
from fusion.fuse.names import listed
from fusion.ink import Ink, Language, Prior
from fusion.page import is_ideograph, stretches
from fusion.quantities import alike, quantities
from fusion.review import UNPROVEN

VERSION = 10
"""Of the weights file."""
MOST = 1000.0
"""Greatest number in it."""
EXPERTS = ("ocr", "hand", "reader", "decoder", "answer", "list", "sums", "language")
"""Columns of a table of evidence and names of the weights λ:

ocr       log P(strokes as h): the OCR's CTC posterior
hand      the same under the OCR's second recogniser, for Latin handwriting; where it did not run, the value of `ocr`
reader    the same under the second reader's CTC posterior; counts as far as `Weights.trust` says
decoder   log P(h | crop) under the second reader's decoder; likewise
answer    log P(answers | h): a noisy channel in which every edit costs the same (Kernighan, Church and Gale 1990)
list      log P(h) under a list of expected names; see `domain.lexicon`
sums      log P(h) under a character model of sums; see `domain.sums`
language  log P(h) in a language; see `domain.english` and `domain.chinese`
"""
SEARCH = {
    "ocr": 0.5,
    "hand": 0.7,
    "reader": 0.7,
    "answer": 1.0,
    "list": 0.7,
    "sums": 0.3,
    "language": 0.3,
}
"""Weights of the search for hypotheses and of the choice of those that the decoder scores. They are not fitted, so that
stored decoder scores stay usable under any fitted weights."""
SHORTLIST = np.array([SEARCH.get(name, 0.0) for name in EXPERTS])
PRIORS = [EXPERTS.index(name) for name in ("list", "sums", "language")]
"""Columns of the experts that have not seen the ink."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted numbers.

    Attributes:
        experts: λ of each of `EXPERTS`.
        signs: factor on the second reader's evidence where the line is digits and signs.
        ask_below: quality of the OCR's posterior below which the second reader is asked.
        change: cost of a wrong change of a word, where a missed one costs 1.
        quantity: the same for a quantity.
        tolerance: nats by which the OCR's posterior may prefer its own text and still leave another open: required for
            another quantity; also separates `vlm_supported_by_ink` from `vlm_preferred`.
        confidence: script → calibration, in the order of `CONFIDENCE`.
        limits: largest share of what is left alone that may be wrong → greatest chance of a mistake at which a stretch is
            left alone, so that the share holds for writers that nobody has seen; see `eval.calibrate.limits`.
    """

    experts: Mapping[str, float]
    signs: float
    ask_below: float
    change: float
    quantity: float
    tolerance: float
    confidence: Mapping[str, tuple[float, ...]]
    limits: Mapping[float, float]

    def limit(self, share: float) -> float:
        """Greatest chance of a mistake at which a stretch is left alone so that at most `share` of them is wrong.

        That of the nearest share below for which there is one; `UNPROVEN`, so that nothing is left alone, where there is none.
        """
        return max((limit for proven, limit in self.limits.items() if proven <= share), default=UNPROVEN)

    def trust(self, quality: float, text: str) -> float:
        """Factor on the second reader's evidence: its own quality in [0, 1], less where the OCR reads digits and signs."""
        characters = [character for character in text if not character.isspace()]
        words = 2 * sum(character.isalpha() for character in characters) >= len(characters)
        return float(quality) * (1.0 if words else self.signs)

    def speaking(self, factor: float) -> Weights:
        """The same with the weight of the language times a factor."""
        return replace(self, experts={**self.experts, "language": factor * self.experts["language"]})

    @property
    def vector(self) -> NDArray[np.float64]:
        """float64 (R,), in the order of `EXPERTS`."""
        return np.array([self.experts[name] for name in EXPERTS])


# --- evidence ---------------------------------------------------------------------------------------------------------


def evidence(
    texts: Sequence[str],
    ink: Ink,
    answers: Sequence[str] = (),
    prior: Prior | None = None,
    reader_posterior: Ink | None = None,
    hand: Ink | None = None,
    language: Language | None = None,
) -> NDArray[np.float64]:
    """What the experts say of each hypothesis: float64 (N, R); `decoder` stays 0.

    Log-probabilities are natural, the best hypothesis at 0; `answer` is minus the mean number of edits.

    Args:
        texts: hypotheses, the OCR's own reading first.
        ink: the OCR's posterior.
        answers: texts that the second reader wrote; none where it has a posterior.
        prior: what is expected, or None.
        reader_posterior: the second reader's CTC posterior, or None.
        hand: the posterior of the OCR's Latin recogniser, or None.
        language: of the line, or None.
    """
    table = np.zeros((len(texts), len(EXPERTS)))
    column = dict(zip(EXPERTS, table.T, strict=True))
    column["ocr"][:] = below_best(ink.score(texts))
    column["hand"][:] = below_best(hand.score(texts)) if hand is not None else column["ocr"]
    if reader_posterior is not None:
        column["reader"][:] = below_best(reader_posterior.score(texts))
    if answers:
        said = [inked(answer) for answer in answers]
        edits = [[distance(own, other) for other in said] for own in map(inked, texts)]
        column["answer"][:] = [-float(np.mean(row)) for row in edits]
    if prior is not None:
        expert = "sums" if prior.kind == "sums" else "list"
        column[expert][:] = below_best(prior.score(texts))
    if language is not None:
        spoken = np.asarray(language.score(texts))
        own = quantities(texts[0])
        same = np.array([alike(own, quantities(text)) for text in texts])
        # A language speaks for no other quantity: no such text is more probable than the best with the OCR's own.
        column["language"][:] = below_best(np.where(same, spoken, np.minimum(spoken, spoken[same].max())).tolist())
    return table


def add_decoder(
    table: NDArray[np.float64],
    texts: Sequence[str],
    scores: Mapping[str, float],
    spells: frozenset[str] | None = None,
) -> float:
    """Fill the column `decoder` of a table in place.

    Args:
        table: see `evidence`.
        texts: hypotheses, the rows of the table.
        scores: natural log-probabilities of some texts; the others count as the lowest of these.
        spells: characters that the decoder can write, or None: all. A text with others counts as the best scored text
            that differs from it in these alone.

    Returns:
        The decoder's quality: the probability per token of its best hypothesis; 0 without scores.
    """
    known = {text: scores[text] for text in texts if text in scores and (spells is None or spells.issuperset(text))}
    if not known:
        return 0.0
    lowest, highest = min(known.values()), max(known.values())
    quality = math.exp(min(0.0, max(value / (len(text) + 1) for text, value in known.items())))
    column = table[:, EXPERTS.index("decoder")]
    for n, text in enumerate(texts):
        value = known.get(text, lowest)
        if spells is not None and not spells.issuperset(text):
            same = regex.compile("".join(regex.escape(c) if c in spells else ".{0,2}" for c in text))
            value = max((own for other, own in known.items() if same.fullmatch(other)), default=lowest)
        column[n] = value - highest
    return quality


def below_best(scores: Sequence[float]) -> NDArray[np.float64]:
    """Scores with the best one at 0."""
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(values - values.max(), dtype=np.float64)


# --- decision ---------------------------------------------------------------------------------------------------------


def distribution(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax of scores: float64 (N,)."""
    mass = np.exp(scores - scores.max())
    return np.asarray(mass / mass.sum())


LOST = 1.0
"""Nats by which the OCR's posterior may prefer its own text to one that leaves out a digit of it and puts no letter or digit
in its place: readers overlook digits that touch a sign, or take both for another sign, and seldom invent one."""


def choose(
    texts: Sequence[str],
    table: NDArray[np.float64],
    silent: NDArray[np.bool_],
    others: Sequence[str],
    prior: Prior | None,
    weights: Weights,
) -> tuple[int, bool]:
    """The hypothesis of least expected loss, under two constraints.

    Where h changes one word of the OCR's reading h₀ and a wrong change costs c times a missed one, h is better if
    P(h) > c · P(h₀): each changed word costs log c. The constraints:

    - Another quantity must be left open by the OCR's posterior, and either be read by another reader or be preferred by
      all experts that saw the ink. Where the OCR is `silent`, since it can't read ¼ say, another reader must read it.
    - What the OCR and all `others` (best readings of the other readers of the ink) have alike stays, except for a word
      that a list replaces. Where the OCR reads alone, a language may choose among what its posterior leaves open.

    Returns:
        Its index, and whether a better one was refused for its quantities.
    """
    if not texts[0].strip():
        return 0, False
    scores = table @ weights.vector
    found = [quantities(text) for text in texts]
    same = np.array([alike(found[0], one) for one in found])
    # No text that scores less can be better than the OCR's own, whatever it changes.
    changed = np.array(
        [_changed_words(texts[0], text) if s > scores[0] else 1 for text, s in zip(texts, scores, strict=True)]
    )
    changed[0] = 0
    loss = np.where(same, math.log(weights.change) * changed, math.log(weights.quantity) * np.maximum(changed, 1))
    risk = -scores + loss

    ocr = table[:, EXPERTS.index("ocr")]
    possible = ocr >= ocr[same].max() - weights.tolerance
    said = [quantities(other) for other in others]
    read = np.array([any(alike(one, other) for other in said) for one in found])
    seen = scores - table[:, PRIORS] @ weights.vector[PRIORS]
    preferred = seen > seen[same].max() + math.log(weights.quantity)
    digits = np.array([sum(map(str.isdigit, text)) for text in texts])
    letters = np.array([sum(map(str.isalnum, text)) for text in texts])
    shorter = (digits < digits[0]) & (letters < letters[0]) & (ocr < ocr[same].max() - LOST)
    allowed = same | np.where(silent, read, possible & ~shorter & (read | preferred))

    own, agreed = _agreed(texts[0], others)
    alone = not others and table[:, EXPERTS.index("language")].any()
    refused = False
    for n in np.argsort(risk, kind="stable").tolist():
        if n == 0:
            break
        if not allowed[n]:
            refused = True
        elif (alone and possible[n] and same[n]) or _keeps(texts[n], own, agreed, prior):
            return n, refused
    return 0, refused


def _changed_words(own: str, text: str) -> int:
    """How many words of a text differ from the OCR's, white space aside."""
    theirs = keys(text)
    spaces = np.array([one.isspace() for one in theirs], dtype=np.bool_)
    words = np.cumsum(spaces)[~spaces].tolist()  # word number of each inked cluster
    changed: set[int] = set()
    for segment in align(inked(own), inked(text)):
        if segment.kind != "equal":
            start, end = segment.vlm_range
            changed |= set(words[start:end] if start < end else words[start : start + 1] or words[-1:] or [0])
    return len(changed)


def _agreed(text: str, others: Sequence[str]) -> tuple[list[str], list[bool]]:
    """Inked keys of the OCR's reading, and whether each stands in a stretch that all others read alike."""
    own = inked(text)
    agreed = [True] * len(own)
    for other in others:
        for segment in align(own, inked(other)):
            start, end = segment.ocr_range
            if segment.kind == "insert":  # something more beside it is another reading
                start = max(0, start - 1)
                end = min(len(own), max(end, start + 1))
            if segment.kind != "equal":
                agreed[start:end] = [False] * (end - start)
    start = 0
    for first, last in stretches(text):
        end = start + len(inked(text[first:last]))
        agreed[start:end] = [all(agreed[start:end])] * (end - start)
        start = end
    return own, agreed


def _keeps(text: str, own: list[str], agreed: list[bool], prior: Prior | None) -> bool:
    """Whether a text keeps all that is agreed, except for letters and digits inside words that a list holds."""
    held = [held for one, held in zip(keys(text), listed(text, prior), strict=True) if not one.isspace()]
    for segment in align(own, inked(text)):
        (a, b), (c, d) = segment.ocr_range, segment.vlm_range
        touched = any(agreed[a:b]) if a < b else all(agreed[max(0, a - 1) : a + 1])
        if segment.kind == "equal" or not touched:
            continue
        letters = segment.kind == "replace" and b - a == d - c  # a digit may be a misread letter, never nothing
        if any(agreed[n] and not (own[n].isalpha() or (letters and own[n].isalnum())) for n in range(a, b)):
            return False
        inside = held[c:d] if c < d else held[max(0, c - 1) : c + 1]
        if not inside or not all(inside):
            return False
    return True


# --- confidence -------------------------------------------------------------------------------------------------------

CONFIDENCE = ("constant", "model", "ocr", "second", "look", "hand_look", "reader_look", "listed")
"""Inputs of the calibration: 1; log-odds of the character's marginal probability under the model, under the OCR alone and
under the other readers of the ink alone (0 without any); log-odds of the quality of the posteriors of the OCR, of
its recogniser of Latin hands (where it did not run, the OCR's) and of the second reader (0 without one); and the prior
probability that a word is on the list that holds it (0 where none does)."""
SCRIPTS = ("Latin", "Han", "Common")
"""Scripts with a calibration of their own (Unicode's names; Common: digits and signs)."""
LIMIT = 7.0
"""Log-odds are clipped here: the best hypothesis by far may still be wrong."""
Script = Literal["Latin", "Han", "Common"]


def script(stretch: str) -> Script:
    """The script of a stretch of text; letters of other alphabets count as Latin."""
    if any(is_ideograph(character) for character in stretch):
        return "Han"
    return "Latin" if any(character.isalpha() for character in stretch) else "Common"


def log_odds(probability: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Log-odds of probabilities, within ± `LIMIT`."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.clip(np.log(p / (1 - p)), -LIMIT, LIMIT)


def alone(table: NDArray[np.float64], experts: Sequence[str], weights: Weights) -> NDArray[np.float64]:
    """The distribution under some experts alone: float64 (N,)."""
    columns = [EXPERTS.index(name) for name in experts]
    return distribution(table[:, columns] @ weights.vector[columns])


def calibrated(inputs: NDArray[np.float64], scripts: Sequence[Script], weights: Weights) -> list[float]:
    """Confidence in [0, 1] of each character, from its inputs, float64 (n, 8), and the script of its stretch."""
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
    """Weights from the content of their file; ValueError or LookupError if it is malformed."""
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']}, and {VERSION} is needed")
    experts = {str(name): float(value) for name, value in content["experts"].items()}
    maps = {str(name): tuple(float(own[part]) for part in CONFIDENCE) for name, own in content["confidence"].items()}
    single = {name: float(content[name]) for name in ("signs", "ask_below", "change", "quantity", "tolerance")}
    limits = {float(share): float(limit) for share, limit in content["limits"].items()}
    numbers = [
        *limits,
        *limits.values(),
        *experts.values(),
        *single.values(),
        *itertools.chain.from_iterable(maps.values()),
    ]
    if set(experts) != set(EXPERTS) or set(maps) != set(SCRIPTS):
        raise ValueError(f"experts {sorted(experts)} and scripts {sorted(maps)}")
    if not np.isfinite(numbers).all() or max(map(abs, numbers)) > MOST or min(*experts.values(), *single.values()) < 0:
        raise ValueError("a number is not finite, too large or negative")
    if experts["ocr"] == 0 or min(single["change"], single["quantity"]) < 1:
        raise ValueError("the OCR has no weight, or a wrong change costs less than a missed one")
    if not all(0 < number < 1 for pair in limits.items() for number in pair):
        raise ValueError("a share or a limit is not in (0, 1)")
    return Weights(experts=experts, confidence=maps, limits=limits, **single)
