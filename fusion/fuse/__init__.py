"""The fuse room: one OCR reading, the second reader's readings, the ink and a prior in; spans out.

Knows readings, ink and prior through their protocols; knows no engine, image or file. Two promises: a reading fused
with itself is agreed throughout, and without a second reader and without a prior the text is the OCR's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fusion.config import FuseConfig
from fusion.fuse import decide, evidence
from fusion.fuse.align import distance, keys
from fusion.fuse.evidence import Weights, load_weights, script_of
from fusion.fuse.hypotheses import gather
from fusion.page import GAP, Failure, Ink, Prior, Reading, Span

__all__ = ["Fuser"]

Scorer = Callable[[Sequence[str]], "list[float] | None"]


class Fuser:
    """Decides lines. Holds the fitted weights and nothing else."""

    def __init__(self, config: FuseConfig) -> None:
        """Load the weights; a bad weights file is a ConfigError."""
        self._config = config
        self._weights = load_weights(config.weights)

    def weights(self, text: str) -> Weights:
        """Weights for the script of a text; scripts without their own use the Latin ones."""
        return self._weights.get(script_of(text), self._weights["latin"])

    def fuse(
        self,
        ocr: Reading,
        ink: Ink,
        others: Sequence[Reading] = (),
        prior: Prior | None = None,
        score: Scorer | None = None,
    ) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        """Decide one line.

        Args:
            ocr: the OCR's reading.
            ink: answers about any string.
            others: accepted readings of the second reader.
            prior: names to expect, or None.
            score: log-probabilities under the second reader, when it can say.

        Returns:
            Spans that together are the line's text, and a Failure when there was no second reader to ask.
        """
        weights = self.weights(ocr.text)
        texts = gather(ocr, [_without_gaps(other) for other in others], ink, prior, self._config.hypotheses)
        scores = score(texts) if score is not None and others else None
        table = evidence.features(texts, ink, others, scores, prior)
        probabilities = evidence.distribution(table, weights.vector)
        chosen, digits_kept = 0, False
        supported = bool(others) or prior is not None
        if supported:
            said = [other.text for other in others]
            chosen, digits_kept = decide.choose(texts, probabilities, table[:, 0], said)
        text = self._cased(texts[chosen], [ocr, *others], ink)
        texts[chosen] = text
        agreement, versions = decide.marginals(texts, probabilities, chosen)
        nearest = _nearest(text, others)
        verdict = decide.Verdict(
            text,
            decide.counterpart(text, ocr.text),
            decide.counterpart(text, nearest.text) if nearest is not None else None,
            agreement,
            digits_kept,
        )
        calibrated = partial(weights.calibrated, supported=supported)
        decided = decide.spans(verdict, versions, calibrated, self._config.alternatives)
        if prior is not None:
            decided = tuple(_from_list(span, text, prior) for span in decided)
        failures = (
            () if others else (Failure("vlm", "not_asked", "no second reader: OCR candidates and evidence only"),)
        )
        return decided, failures

    def _cased(self, text: str, readings: Sequence[Reading], ink: Ink) -> str:
        """Once the letters are settled, the ink says which reading's case they have."""
        same = {text: None} | {r.text: None for r in readings if keys(r.text) == keys(text)}
        versions = list(same)
        return versions[int(np.argmax(ink.score_cased(versions)))] if len(versions) > 1 else text


def _nearest(text: str, others: Sequence[Reading]) -> Reading | None:
    """The second reader's reading that is most like the decision."""
    return min(others, key=lambda other: distance(keys(text), keys(other.text)), default=None)


def _without_gaps(reading: Reading) -> Reading:
    """A reading's marks for illegible characters are no hypothesis about what stands there."""
    if GAP not in reading.text:
        return reading
    return Reading(reading.source, reading.text.replace(GAP, ""), reading.recipe, score=reading.score, raw=reading.raw)


def _from_list(span: Span, text: str, prior: Prior) -> Span:
    """A stretch that neither reader has and that makes a listed name comes from the list, and says so."""
    if span.because != "candidate" or not (prior.holds(text) or any(prior.holds(word) for word in text.split())):
        return span
    return Span(span.text, "lexicon", span.confidence, "lexicon_snapped", span.alternatives, span.polygon)
