"""A second reader for training lines, since recorded readings of a real one exist for dev lines only.

It errs where the ink is hard: it starts from another look at the same ink, drawn from that look's n-best list, and then
gets each disagreement with the truth right by chance; now and then it invents another word of the same kind. The rates
are set so that its exact match and CER on prescription words are those published for an 8B model (.47 and .21).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from fusion.ctc import Views


@dataclass(frozen=True, slots=True)
class SimulatedReader:
    """Rates of the simulated reader.

    Attributes:
        mend: probability that a disagreement with the truth is read right.
        invent: probability that the whole line is replaced by another with the same first letter.
        temperature: how far down the other look's n-best list it may go.
    """

    mend: float = 0.4
    invent: float = 0.06
    temperature: float = 2.0

    def read(self, ink: Views, reference: str, others: Sequence[str], rng: random.Random) -> str:
        """One reading, lower-case like the recorded ones where the truth has no Chinese."""
        if rng.random() < self.invent:
            alike = [text for text in others if text[:1].casefold() == reference[:1].casefold()]
            return rng.choice(alike or list(others)).casefold()
        look = rng.choice(ink.posteriors[1:] or ink.posteriors)
        found = look.nbest(10)
        scores = np.array([h.score for h in found]) / self.temperature
        weights = np.exp(scores - scores.max())
        seen = rng.choices([h.text for h in found], weights=weights.tolist())[0].casefold()
        truth = reference.casefold()
        parts = []
        for op in Levenshtein.opcodes(seen, truth):
            own, right = seen[op.src_start : op.src_end], truth[op.dest_start : op.dest_end]
            parts.append(own if op.tag == "equal" or rng.random() >= self.mend else right)
        return "".join(parts)
