"""The fuse room: one OCR reading, the second reader's readings, the ink and a prior in; spans out.

Knows readings, ink and prior through their protocols; knows no engine, image or file. Two promises: a reading fused
with itself is agreed throughout, and without a second reader and without a prior the text is the OCR's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fusion.config import FuseConfig
from fusion.fuse import decide, evidence
from fusion.fuse.align import distance, keys
from fusion.fuse.evidence import load_weights
from fusion.fuse.hypotheses import gather
from fusion.fuse.names import mark_names
from fusion.ink import Ink, Prior
from fusion.page import GAP, Failure, Reading, Span

__all__ = ["WEIGHED", "Fuser", "Scorer", "support_of"]

Scorer = Callable[[Sequence[str]], "list[float] | None"]
SCORED = 32
"""Most hypotheses scored by teacher forcing: each costs a pass of a large model."""
WEIGHED = 16
"""The same for the decoder behind a witness, which has to keep pace with the OCR."""


class Fuser:
    """Decides lines. Holds the fitted weights and nothing else."""

    def __init__(self, config: FuseConfig) -> None:
        """Load the weights; a bad weights file is a ConfigError."""
        self._config = config
        self._weights = load_weights(config.weights)

    def doubtful(self, ink: Ink) -> bool:
        """Whether a second look at a line can change anything, by how sure the OCR's own look is."""
        return ink.quality < self._weights.sure

    def accepts(self, max_error: float) -> float:
        """Confidence from which a word is accepted; see `evidence.Weights.accepts`."""
        return self._weights.accepts(max_error)

    def fuse(
        self,
        ocr: Reading,
        ink: Ink,
        others: Sequence[Reading] = (),
        prior: Prior | None = None,
        score: Scorer | None = None,
        witness: Ink | None = None,
    ) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        """Decide one line.

        Args:
            ocr: the OCR's reading.
            ink: answers about any string.
            others: accepted readings of the second reader.
            prior: names to expect, or None.
            score: log-probabilities under the second reader, when it can say.
            witness: the second reader's own look at the ink, when it has one; then it is scored, never copied.

        Returns:
            Spans that together are the line's text, and a Failure when there was no second reader to ask.
        """
        prior = prior if prior is not None and prior.concerns(ocr.text) else None
        failures = (
            () if others else (Failure("vlm", "not_asked", "no second reader: OCR candidates and evidence only"),)
        )
        # What a reader marks as illegible is no hypothesis about what stands there.
        clear = [replace(other, text=other.text.replace(GAP, "").strip()) for other in others]
        others = [other for other in clear if other.text]
        texts = gather(ocr, others, ink, prior, self._config.hypotheses)
        support = support_of(ocr.text, others, prior, witness)
        vector = self._weights.vector(support)
        table = evidence.features(texts, ink, others, prior, witness, self._weights.gate)
        if score is not None and others:
            race = np.argsort(-(table @ vector), kind="stable")[: SCORED if witness is None else WEIGHED]
            evidence.add_scores(
                table, texts, race.tolist(), score, witnessed=witness is not None, gate=self._weights.gate
            )
        probabilities = evidence.distribution(table, vector)
        chosen, numbers_kept = self._choose(texts, probabilities, table, others, prior, support)
        texts[chosen] = text = self._cased(texts[chosen], [ocr, *others], ink, prior, witness, support)
        agreement, versions = decide.marginals(texts, probabilities, chosen)
        nearest = min(others, key=lambda other: distance(keys(text), keys(other.text)), default=None)
        own = decide.counterpart(text, ocr.text)
        theirs = decide.counterpart(text, nearest.text) if nearest is not None else None
        speakers = decide.voices(text, own, theirs, prior)
        verdict = decide.Verdict(
            text,
            own,
            theirs,
            [self._weights.calibrated(float(p), support, who) for p, who in zip(agreement, speakers, strict=True)],
            agreement >= decide.SETTLED,
            bool(table[chosen, evidence.FEATURES.index("ink")] >= -decide.TOLERATED),
            numbers_kept,
        )
        decided = decide.spans(verdict, versions, self._config.alternatives)
        if prior is not None and prior.kind != "sums":
            decided = mark_names(decided, [ocr, *others], prior, ink)
        return decided, failures

    def _choose(
        self,
        texts: list[str],
        probabilities: NDArray[np.float64],
        table: NDArray[np.float64],
        others: list[Reading],
        prior: Prior | None,
        support: evidence.Support,
    ) -> tuple[int, bool]:
        """Nothing else speaks, the OCR reads nothing, or both read the same: it stands. Else the evidence decides."""
        same = [keys(other.text) == keys(texts[0]) for other in others]
        if not texts[0] or (prior is None and all(same)):
            return 0, False
        said = [other.text for other in others]
        margin = self._weights.margin.get(support, 0.0)
        return decide.choose(texts, probabilities, table[:, evidence.FEATURES.index("ink")], said, prior, margin)

    def _cased(
        self,
        text: str,
        readings: Sequence[Reading],
        ink: Ink,
        prior: Prior | None,
        witness: Ink | None,
        support: evidence.Support,
    ) -> str:
        """Once the letters are settled, the ink says which reading's case they have; in a sum every letter has its own."""
        said = [reading.text for reading in readings]
        if witness is not None:
            said += [hypothesis.text for reading in readings for hypothesis in reading.nbest]
        versions = [text, *(other for other in said if keys(other) == keys(text))]
        sums = prior if support == "sums" else None
        if sums is not None:
            versions += [v for v in (text.lower(), text.upper()) if len(v) == len(text)]
            versions += [text[:n] + c.swapcase() + text[n + 1 :] for n, c in enumerate(text) if len(c.swapcase()) == 1]
        versions = list(dict.fromkeys(versions))
        if len(versions) == 1:
            return text
        weight = dict(zip(evidence.FEATURES, self._weights.vector(support), strict=True))
        scores = weight["ink"] * np.asarray(ink.score_cased(versions))
        if witness is not None:
            trust = witness.quality**self._weights.gate
            scores = scores + weight["witness"] * trust * np.asarray(witness.score_cased(versions))
        if sums is not None:
            scores = scores + weight["sums"] * np.asarray([sums.log_probability(version) for version in versions])
        return versions[int(np.argmax(scores))]


def support_of(text: str, others: Sequence[Reading], prior: Prior | None, witness: Ink | None) -> evidence.Support:
    """Who speaks besides the OCR, whose reading is `text`."""
    if others and witness is None:
        return "supported"
    if prior is None and witness is not None:
        inked = [character for character in text if not character.isspace()]
        return "witnessed" if 2 * sum(c.isalpha() for c in inked) >= len(inked) else "witnessed_signs"
    if prior is None:
        return "alone"
    if prior.kind == "sums":
        return "sums"
    if prior.kind == "formulary":
        return "formulary_witnessed" if witness is not None else "formulary"
    return "names_witnessed" if witness is not None else "names"
