"""Fusing one line: readings, CTC posteriors and a prior in, spans out.

    score(h) = Σ λ · log P(h)   over the experts, for each hypothesis h

    hypotheses   which strings h are weighed
    beam         the search for them, under all who looked at the line
    model        what each expert says of them, the weights λ, the minimum-risk decision, calibrated confidence
    spans        the decision as spans, each with its source, rule and confidence
    names        words that come from a list, and names that are easily confused
    align        alignment of two texts over grapheme clusters

Two invariants: a reading fused with itself, without a prior, is agreed throughout; and without a second reader and a prior
the text is the OCR's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fusion.config import FuseConfig
from fusion.ctc import fold
from fusion.fuse import model, spans
from fusion.fuse.align import distance, keys, starts
from fusion.fuse.beam import Look
from fusion.fuse.hypotheses import gather
from fusion.fuse.model import EXPERTS, SEARCH, Weights, load_weights, weights_identity
from fusion.fuse.names import listed, mark_names
from fusion.ink import Ink, Language, Prior, Weighed
from fusion.page import GAP, Failure, Reading, Span, stretches

__all__ = ["Decision", "Fuser", "LineEvidence", "confidence_inputs", "decide", "spoken", "trusted"]

SCORED = 16
"""Most hypotheses that the second reader's decoder scores: it is slower than the OCR."""
SECOND = ("hand", "reader", "decoder", "answer")
"""Experts beside the OCR that have seen the ink."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A line's hypotheses, the evidence, and the chosen one.

    Attributes:
        texts: hypotheses, the OCR's own reading first.
        table: float64 (N, R), see `model.evidence`.
        silent: which of them the OCR has no evidence against, since it can't read one of their characters; empty: none.
        chosen: index of the decided one.
        refused: a better one was refused for its quantities.
    """

    texts: tuple[str, ...]
    table: NDArray[np.float64]
    silent: tuple[bool, ...] = ()
    chosen: int = 0
    refused: bool = False

    @property
    def text(self) -> str:
        """The decided text."""
        return self.texts[self.chosen]


@dataclass(frozen=True, slots=True)
class LineEvidence:
    """All that was read on one line, and what is expected of it.

    Attributes:
        ocr: the OCR's reading.
        ink: its posterior.
        others: accepted readings of the second reader.
        prior: names or sums to expect, or None.
        scores: natural log-probabilities of texts under the second reader's decoder; see `Fuser.shortlist`.
        posterior: the second reader's CTC posterior, if it has one; its readings then count for nothing else.
        hand: the reading of the OCR's Latin recogniser, or None.
        hand_ink: the posterior of that recogniser, or None.
        language: that the line may be in, or None.
    """

    ocr: Reading
    ink: Ink
    others: Sequence[Reading] = ()
    prior: Prior | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    posterior: Ink | None = None
    hand: Reading | None = None
    hand_ink: Ink | None = None
    language: Language | None = None

    @property
    def looked(self) -> list[Reading]:
        """Readings of all that looked beside the OCR."""
        return [*([self.hand] if self.hand is not None else []), *self.others]

    @property
    def answers(self) -> list[str]:
        """What a reader without a posterior wrote."""
        return [other.text for other in self.others] if self.posterior is None else []

    @property
    def looks(self) -> list[Look]:
        """The posteriors, as the search takes them."""
        looks = [Look(SEARCH["ocr"], self.ink, self.ocr.text)]
        if self.hand is not None and self.hand_ink is not None:
            looks.append(Look(SEARCH["hand"], self.hand_ink, self.hand.text))
        if self.posterior is not None and self.others:
            looks.append(Look(SEARCH["reader"] * self.posterior.quality, self.posterior, self.others[0].text))
        return looks

    @property
    def qualities(self) -> tuple[float, float, float]:
        """How sure of the line the OCR is, its Latin recogniser (or the OCR again), and the second reader (or ½)."""
        hand = self.hand_ink if self.hand_ink is not None else self.ink
        return self.ink.quality, hand.quality, self.posterior.quality if self.posterior is not None else 0.5

    def texts(self, limit: int) -> list[str]:
        """At most `limit` hypotheses, the OCR's own reading first; see `hypotheses.gather`."""
        return gather(self.ocr, self.looked, self.looks, self.answers, self.prior, self.language, limit)

    def table(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """What the experts say of hypotheses; see `model.evidence`."""
        said = (self.answers, self.prior, self.posterior, self.hand_ink, self.language)
        return model.evidence(texts, self.ink, *said)

    def shortlist(self, limit: int) -> list[str]:
        """The hypotheses for the decoder to score, of at most `limit`; independent of the fitted weights."""
        texts = self.texts(limit)
        best = np.argsort(-(self.table(texts) @ model.SHORTLIST), kind="stable")[:SCORED]
        return [texts[n] for n in best.tolist()]

    def weigh(self, limit: int) -> Weighed:
        """At most `limit` hypotheses with all that is known of them; independent of the fitted weights."""
        texts = self.texts(limit)
        table = self.table(texts)
        spells = self.posterior.spells if self.posterior is not None else None
        decoder = model.add_decoder(table, texts, self.scores, spells)
        reader = self.posterior.quality if self.posterior is not None else 0.0
        silent = tuple(not self.ink.knows(text) for text in texts)
        return Weighed(tuple(texts), table, silent, (self.ink.quality, reader, decoder))


class Fuser:
    """Decides lines with one set of fitted weights."""

    def __init__(self, config: FuseConfig, languages: Sequence[Language] = ()) -> None:
        """Load the weights; a bad weights file is a ConfigError. `languages`: that lines may be in."""
        self._config, self._languages = config, languages
        self._weights = load_weights(config.weights).speaking(config.language_weight)
        self.identity = weights_identity(config.weights)

    def doubtful(self, ink: Ink) -> bool:
        """Whether the second reader should read a line too, given the OCR's posterior; see `Weights.ask_below`."""
        return ink.quality < self._weights.ask_below

    def limit(self, share: float) -> float:
        """Greatest chance of a mistake at which a stretch is left alone, if `share` of them may be wrong; see `Weights`."""
        return self._weights.limit(share)

    def shortlist(self, line: LineEvidence) -> list[str]:
        """The texts of a line for the second reader's decoder to score; independent of the fitted weights."""
        return self._expected(line).shortlist(self._config.hypotheses)

    def weigh(self, line: LineEvidence) -> Weighed:
        """What a line may say, and how much every expert makes of it; independent of the fitted weights."""
        return self._expected(line).weigh(self._config.hypotheses)

    def fuse(self, line: LineEvidence, weighed: Weighed | None = None) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        """Decide one line.

        Args:
            line: what was read.
            weighed: what `weigh` makes of it, where that is known.

        Returns:
            Spans that together are the line's text, and a Failure if there is no second reader.
        """
        weighed = weighed or self.weigh(line)
        missing = Failure("vlm", "not_asked", "no second reader: OCR candidates and evidence only")
        failures = () if line.others else (missing,)
        line = self._expected(line)
        prior, others, looked = line.prior, line.others, line.looked

        decision = decide(trusted(weighed, self._weights), [other.text for other in looked], prior, self._weights)
        text = self._cased(decision.text, line, weighed)
        n = decision.chosen  # case is no evidence: the hypothesis keeps its row of the table
        decision = replace(decision, texts=(*decision.texts[:n], text, *decision.texts[n + 1 :]))

        nearest = min(others, key=lambda other: distance(keys(text), keys(other.text)), default=None)
        verdict = spans.verdict(
            text,
            line.ocr.text,
            nearest.text if nearest is not None else None,
            line.hand.text if line.hand is not None else None,
            # A reader with a posterior disputes a quantity if its evidence nearly changed it.
            disputes=line.posterior is None or decision.refused,
            supported=bool(decision.table[n, EXPERTS.index("ocr")] >= -self._weights.tolerance),
        )
        inputs, marginals, versions = confidence_inputs(decision, line.qualities, prior, self._weights)
        confidences = model.calibrated(inputs, scripts_of(text), self._weights)
        decided = spans.spans(verdict, confidences, marginals, versions, self._config.alternatives)
        if prior is not None and prior.kind != "sums":
            decided = mark_names(decided, [line.ocr, *looked], prior, line.ink)
        return decided, failures

    def _expected(self, line: LineEvidence) -> LineEvidence:
        """A line with the prior and the language that have something to say about it, and what others could read."""
        prior = line.prior if line.prior is not None and line.prior.concerns(line.ocr.text) else None
        language = spoken(self._languages, line.ocr.text, prior)
        return replace(line, others=_legible(line.others), prior=prior, language=language)

    def _cased(self, text: str, line: LineEvidence, weighed: Weighed) -> str:
        """The spelling of a decided text that the posteriors prefer: case; in a sum x or ×."""
        said = [reading.text for reading in (line.ocr, *line.looked)]
        trust = self._weights.trust(weighed.quality[1], weighed.texts[0])
        looks = [("ocr", line.ink, 1.0), ("hand", line.hand_ink, 1.0), ("reader", line.posterior, trust)]
        posteriors = [(expert, ink, factor) for expert, ink, factor in looks if ink is not None]
        versions = [text, *(other for other in said if keys(other) == keys(text))]
        versions += [one for _, posterior, _ in posteriors for one in posterior.cased([fold(text)], [text])]
        sums = line.prior if line.prior is not None and line.prior.kind == "sums" else None
        if sums is not None:
            versions += [version for version in (text.lower(), text.upper()) if len(version) == len(text)]
            versions += [text[:n] + c.swapcase() + text[n + 1 :] for n, c in enumerate(text) if len(c.swapcase()) == 1]
            # x and × look alike: only the context tells them apart.
            versions += [text[:n] + "×" + text[n + 1 :] for n, c in enumerate(text) if c in "xX"]
            versions.append(text.replace("x", "×").replace("X", "×"))
        versions = list(dict.fromkeys(versions))
        if len(versions) == 1:
            return text
        weight = self._weights.experts
        scores = np.zeros(len(versions))
        for expert, posterior, factor in posteriors:
            scores = scores + weight[expert] * factor * np.asarray(posterior.score_cased(versions))
        if sums is not None:
            scores = scores + weight["sums"] * np.asarray(sums.score(versions))
        return versions[int(np.argmax(scores))]


def _legible(others: Sequence[Reading]) -> list[Reading]:
    """Readings without their marks for illegible ink, and without those that are then empty."""
    legible = [replace(other, text=other.text.replace(GAP, "").strip()) for other in others]
    return [other for other in legible if other.text]


def spoken(languages: Sequence[Language], text: str, prior: Prior | None) -> Language | None:
    """The language that a line of this text, as the OCR reads it, may be in; None where it is a sum."""
    maths = prior is not None and prior.kind == "sums"
    return next((one for one in languages if not maths and one.concerns(text)), None)


def trusted(weighed: Weighed, weights: Weights) -> Decision:
    """A line as it can be decided: the second reader counts as far as it is trusted there."""
    table = weighed.table.copy()
    for expert, quality in zip(("reader", "decoder"), weighed.quality[1:], strict=True):
        table[:, EXPERTS.index(expert)] *= weights.trust(quality, weighed.texts[0])
    return Decision(weighed.texts, table, weighed.silent)


def decide(decision: Decision, said: Sequence[str], prior: Prior | None, weights: Weights) -> Decision:
    """Choose a hypothesis, given what the other readers of the line `said`.

    Without a prior it is the OCR's reading if all readers agree, or if it reads alone and no language is asked.
    """
    own = keys(decision.texts[0])
    asked = not said and decision.table[:, EXPERTS.index("language")].any()
    if prior is None and not asked and all(keys(text) == own for text in said):
        return decision
    silent = np.array(decision.silent or [False] * len(decision.texts))
    chosen, refused = model.choose(decision.texts, decision.table, silent, said, prior, weights)
    return replace(decision, chosen=chosen, refused=refused)


def confidence_inputs(
    decision: Decision, qualities: Sequence[float], prior: Prior | None, weights: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[float, tuple[str, ...]]]]:
    """What the confidence of each character of a decision rests on; see `LineEvidence.qualities`.

    Returns:
        float64 (n, 8), in the order of `model.CONFIDENCE`; float64 (n,), the marginals under the model; and the probable
        hypotheses with their probabilities, each as what it has for every character.
    """
    under = model.distribution(decision.table @ weights.vector)
    ocr, second = model.alone(decision.table, ("ocr",), weights), None
    if decision.table[:, [EXPERTS.index(name) for name in SECOND]].any():
        second = model.alone(decision.table, SECOND, weights)
    present = [p for p in (under, ocr, second) if p is not None]
    probable = np.flatnonzero(np.max(present, axis=0) >= spans.NEGLIGIBLE)
    same, versions = spans.agreeing(decision.text, [decision.texts[n] for n in probable])

    def marginal(p: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.clip(p[probable] @ same, 0.0, 1.0) if p is not None else np.full(same.shape[1], 0.5)

    inputs = np.zeros((same.shape[1], len(model.CONFIDENCE)))
    inputs[:, 0] = 1.0
    inputs[:, 1:4] = np.stack([model.log_odds(marginal(p)) for p in (under, ocr, second)], axis=1)
    inputs[:, 4:7] = model.log_odds(np.array(qualities))
    if prior is not None:
        inputs[:, 7] = prior.coverage * np.array(listed(decision.text, prior))
    return inputs, marginal(under), [(float(under[n]), v) for n, v in zip(probable, versions, strict=True)]


def scripts_of(text: str) -> list[model.Script]:
    """The script of the stretch that each cluster of a text stands in."""
    found: list[model.Script] = ["Common"] * len(text)
    for start, end in stretches(text):
        found[start:end] = [model.script(text[start:end])] * (end - start)
    return [found[start] for start in starts(text)[:-1].tolist()]
