"""The fuse room: one OCR reading, the second reader's readings, the ink and a prior in; spans out.

    hypotheses   which strings are weighed
    align        texts as clusters, side by side
    model        what each expert says of them, their probabilities, and the one that costs least
    spans        the decision as spans, each with its source, rule and confidence
    names        words that come from a list, and those they may be taken for

Knows readings, ink and prior through their protocols; knows no engine, image or file. Two promises: a reading fused
with itself, with nothing expected, is agreed throughout, and without a second reader and without a prior the text is the
OCR's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fusion.config import FuseConfig
from fusion.fuse import model, spans
from fusion.fuse.align import distance, keys, starts
from fusion.fuse.hypotheses import gather
from fusion.fuse.model import EXPERTS, Weights, load_weights, weights_identity
from fusion.fuse.names import listed, mark_names
from fusion.ink import Ink, Prior
from fusion.page import GAP, Failure, Reading, Span, stretches

__all__ = ["Decision", "Fuser", "confidence_inputs", "decide", "shortlist", "weigh"]

SCORED = 16
"""Most hypotheses that a second reader's decoder is asked about: it has to keep pace with the OCR."""
SECOND = ("hand", "reader", "decoder", "answer")
"""Experts that have looked beside the OCR's own look."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A line's hypotheses with what the experts say of each, and the one that was chosen.

    Attributes:
        texts: hypotheses, the OCR's own reading first.
        table: float64 (N, R), see `model.evidence`.
        chosen: index of the decided one.
        refused: a more probable one was refused for its quantities.
    """

    texts: tuple[str, ...]
    table: NDArray[np.float64]
    chosen: int = 0
    refused: bool = False

    @property
    def text(self) -> str:
        """The decided text."""
        return self.texts[self.chosen]


class Fuser:
    """Decides lines. Holds the fitted weights and nothing else."""

    def __init__(self, config: FuseConfig) -> None:
        """Load the weights; a bad weights file is a ConfigError."""
        self._config = config
        self._weights = load_weights(config.weights)
        self.identity = weights_identity(config.weights)

    def doubtful(self, ink: Ink) -> bool:
        """Whether a second look at a line is worth its time, by how sure the OCR's own look is; see `Weights.ask_below`."""
        return ink.quality < self._weights.ask_below

    def fuse(
        self,
        ocr: Reading,
        ink: Ink,
        others: Sequence[Reading] = (),
        prior: Prior | None = None,
        scores: Mapping[str, float] | None = None,
        witness: Ink | None = None,
        hand: Reading | None = None,
        hand_ink: Ink | None = None,
    ) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        """Decide one line.

        Args:
            ocr: the OCR's reading.
            ink: answers about any string.
            others: accepted readings of the second reader.
            prior: what to expect, or None.
            scores: log-probabilities of texts under the second reader's decoder, as far as it was asked; see `shortlist`.
            witness: the second reader's own look at the ink, when it has one; then it is scored, never copied.
            hand: what the OCR's second look reads, or None.
            hand_ink: that look.

        Returns:
            Spans that together are the line's text, and a Failure when there was no second reader to ask.
        """
        prior = prior if prior is not None and prior.concerns(ocr.text) else None
        failures = (
            () if others else (Failure("vlm", "not_asked", "no second reader: OCR candidates and evidence only"),)
        )
        others = _clear(others)
        looked = [*([hand] if hand is not None else []), *others]
        limit = self._config.hypotheses
        weighed = weigh(ocr, ink, others, prior, scores or {}, witness, self._weights, limit, hand, hand_ink)
        decision = decide(weighed, [other.text for other in looked], prior, self._weights)
        looks = [("ocr", ink, 1.0), *self._others(witness, hand_ink, ocr)]
        text = self._cased(decision.text, [ocr, *looked], looks, prior)
        n = decision.chosen  # case is no evidence of its own: the hypothesis keeps its row of the table
        decision = replace(decision, texts=(*decision.texts[:n], text, *decision.texts[n + 1 :]))
        nearest = min(others, key=lambda other: distance(keys(text), keys(other.text)), default=None)
        supported = decision.table[decision.chosen, EXPERTS.index("ocr")] >= -self._weights.tolerance
        verdict = spans.verdict(
            text,
            ocr.text,
            nearest.text if nearest is not None else None,
            hand.text if hand is not None else None,
            written=witness is None,
            supported=bool(supported),
            refused=decision.refused,
        )
        inputs, marginals, versions = confidence_inputs(decision, ink.quality, prior, self._weights)
        confidences = model.calibrated(inputs, scripts_of(text), self._weights)
        decided = spans.spans(verdict, confidences, marginals, versions, self._config.alternatives)
        if prior is not None and prior.kind != "sums":
            decided = mark_names(decided, [ocr, *looked], prior, ink)
        return decided, failures

    def shortlist(
        self,
        ocr: Reading,
        ink: Ink,
        others: Sequence[Reading],
        prior: Prior | None,
        witness: Ink | None,
        hand: Reading | None = None,
        hand_ink: Ink | None = None,
    ) -> list[str]:
        """The texts that a decoder is to be asked about. Arguments as for `fuse`; the fitted weights have no say."""
        prior = prior if prior is not None and prior.concerns(ocr.text) else None
        return shortlist(ocr, ink, _clear(others), prior, witness, self._config.hypotheses, hand, hand_ink)

    def _others(self, witness: Ink | None, hand: Ink | None, ocr: Reading) -> list[tuple[str, Ink, float]]:
        """Looks beside the OCR's own, each as its expert with how far it is trusted."""
        found: list[tuple[str, Ink, float]] = []
        if hand is not None:
            found.append(("hand", hand, 1.0))
        if witness is not None:
            found.append(("reader", witness, self._weights.trust(witness.quality, ocr.text)))
        return found

    def _cased(
        self, text: str, readings: Sequence[Reading], looks: Sequence[tuple[str, Ink, float]], prior: Prior | None
    ) -> str:
        """Once the letters are settled, the ink says which reading's case they have; in a sum every sign has its own form."""
        said = [reading.text for reading in readings]
        if len(looks) > 1:
            said += [hypothesis.text for reading in readings for hypothesis in reading.nbest]
        versions = [text, *(other for other in said if keys(other) == keys(text))]
        sums = prior if prior is not None and prior.kind == "sums" else None
        if sums is not None:
            versions += [v for v in (text.lower(), text.upper()) if len(v) == len(text)]
            versions += [text[:n] + c.swapcase() + text[n + 1 :] for n, c in enumerate(text) if len(c.swapcase()) == 1]
            # x and × are one stroke pattern: which it is, what stands around it says.
            versions += [text[:n] + "×" + text[n + 1 :] for n, c in enumerate(text) if c in "xX"]
            versions.append(text.replace("x", "×").replace("X", "×"))
        versions = list(dict.fromkeys(versions))
        if len(versions) == 1:
            return text
        weight = self._weights.experts
        scores = np.zeros(len(versions))
        for expert, ink, trust in looks:
            scores = scores + weight[expert] * trust * np.asarray(ink.score_cased(versions))
        if sums is not None:
            scores = scores + weight["language"] * np.asarray([sums.log_probability(version) for version in versions])
        return versions[int(np.argmax(scores))]


def _clear(others: Sequence[Reading]) -> list[Reading]:
    """Readings without their marks of what is illegible, and without those that are then empty."""
    clear = [replace(other, text=other.text.replace(GAP, "").strip()) for other in others]
    return [other for other in clear if other.text]


def shortlist(
    ocr: Reading,
    ink: Ink,
    others: Sequence[Reading],
    prior: Prior | None,
    witness: Ink | None,
    limit: int,
    hand: Reading | None = None,
    hand_ink: Ink | None = None,
) -> list[str]:
    """See `Fuser.shortlist`; `limit` bounds the hypotheses that they are chosen from."""
    texts = gather(ocr, [*([hand] if hand is not None else []), *others], ink, prior, limit)
    answers = [other.text for other in others] if witness is None else []
    table = model.evidence(texts, ink, answers, prior, witness, hand=hand_ink)
    return [texts[n] for n in np.argsort(-(table @ model.SHORTLIST), kind="stable")[:SCORED].tolist()]


def weigh(
    ocr: Reading,
    ink: Ink,
    others: Sequence[Reading],
    prior: Prior | None,
    scores: Mapping[str, float],
    witness: Ink | None,
    weights: Weights,
    limit: int,
    hand: Reading | None = None,
    hand_ink: Ink | None = None,
) -> Decision:
    """A line's hypotheses with what every expert says of them; nothing is chosen yet. Arguments as for `Fuser.fuse`."""
    texts = gather(ocr, [*([hand] if hand is not None else []), *others], ink, prior, limit)
    answers = [other.text for other in others] if witness is None else []
    trust = weights.trust(witness.quality, ocr.text) if witness is not None else 1.0
    table = model.evidence(texts, ink, answers, prior, witness, trust, hand_ink)
    model.add_decoder(table, texts, scores, lambda quality: weights.trust(quality, ocr.text))
    return Decision(tuple(texts), table)


def decide(weighed: Decision, said: Sequence[str], prior: Prior | None, weights: Weights) -> Decision:
    """Choose. Where nobody has anything else to say, and where all read the same, the OCR's reading stands.

    Args:
        weighed: hypotheses and evidence.
        said: the best readings of the others who looked at the line.
        prior: what is expected, or None.
        weights: the fitted numbers.
    """
    own = keys(weighed.texts[0])
    if prior is None and all(keys(text) == own for text in said):
        return weighed
    chosen, refused = model.choose(weighed.texts, weighed.table, said, prior, weights)
    return replace(weighed, chosen=chosen, refused=refused)


def confidence_inputs(
    decision: Decision, quality: float, prior: Prior | None, weights: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[float, tuple[str, ...]]]]:
    """What the confidence of each character of a decision rests on; `quality` is that of the OCR's look.

    Returns:
        float64 (n, 6), in the order of `model.CONFIDENCE`; float64 (n,), the marginals under the model; and the probable
        hypotheses, each with what it has for every character.
    """
    under = model.distribution(decision.table @ weights.vector)
    ocr, second = model.alone(decision.table, ("ocr",), weights), None
    if decision.table[:, [EXPERTS.index(name) for name in SECOND]].any():  # somebody else looked and tells them apart
        second = model.alone(decision.table, SECOND, weights)
    present = [p for p in (under, ocr, second) if p is not None]
    probable = np.flatnonzero(np.max(present, axis=0) >= spans.NEGLIGIBLE)
    same, versions = spans.agreeing(decision.text, [decision.texts[n] for n in probable])

    def marginal(p: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.clip(p[probable] @ same, 0.0, 1.0) if p is not None else np.full(same.shape[1], 0.5)

    inputs = np.zeros((same.shape[1], len(model.CONFIDENCE)))
    inputs[:, 0] = 1.0
    inputs[:, 1:4] = np.stack([model.log_odds(marginal(p)) for p in (under, ocr, second)], axis=1)
    inputs[:, 4] = model.log_odds(quality)
    if prior is not None:
        inputs[:, 5] = prior.coverage * np.array(listed(decision.text, prior))
    return inputs, marginal(under), [(float(under[n]), v) for n, v in zip(probable, versions, strict=True)]


def scripts_of(text: str) -> list[model.Script]:
    """The script of the stretch that each grapheme cluster of a text stands in."""
    found: list[model.Script] = ["Common"] * len(text)
    for start, end in stretches(text):
        found[start:end] = [model.script(text[start:end])] * (end - start)
    return [found[start] for start in starts(text)[:-1].tolist()]
