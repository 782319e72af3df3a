"""Provenance: a decided text as spans, each with its source, confidence, alternatives and rule (`because`).

The confidence of a character rests on the total probability of the hypotheses that agree on it (posterior marginal; Wessel
et al., "Confidence measures for large vocabulary continuous speech recognition", 2001).
"""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion.fuse.align import align, clusters, key, keys, starts
from fusion.page import Candidate, Source, Span, stretches
from fusion.quantities import alike, quantities

NEGLIGIBLE = 1e-4
"""Hypotheses below this probability are left out of marginals and alternatives."""
LISTED = 0.005
"""Least probability of an alternative."""
SETTLED = 0.95
"""Characters above and below this marginal stand in different spans."""
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
"""Stretches whose confidences lie in different intervals stand in different spans."""
_PLAIN = str.maketrans("零〇一二两三四五六七八九⁄", "001223456789/")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decided text of a line and what the readers have for each of its clusters.

    Attributes:
        text: the decided text.
        ocr: what the OCR has for each cluster of `text`.
        vlm: the same for the second reader's nearest reading; None without a second reader.
        hand: the same for the OCR's Latin recogniser; None where it did not run.
        changed: bool (n,), clusters of quantities that the OCR has otherwise.
        disputed: bool (n,), clusters of quantities that the second reader has otherwise.
        supported: the OCR's posterior prefers no other text by more than `Weights.tolerance`.
    """

    text: str
    ocr: tuple[str, ...]
    vlm: tuple[str, ...] | None
    hand: tuple[str, ...] | None
    changed: NDArray[np.bool_]
    disputed: NDArray[np.bool_]
    supported: bool


def verdict(text: str, ocr: str, vlm: str | None, hand: str | None, *, disputes: bool, supported: bool) -> Verdict:
    """Set a decided text beside the readings, see `Verdict`; `disputes`: whether the second reader disputes quantities."""
    nothing = np.zeros(len(clusters(text)), dtype=np.bool_)
    return Verdict(
        text,
        counterpart(text, ocr),
        counterpart(text, vlm) if vlm is not None else None,
        counterpart(text, hand) if hand is not None else None,
        quantities_differ(text, ocr),
        quantities_differ(text, vlm) if vlm is not None and disputes else nothing,
        supported,
    )


def quantities_differ(text: str, other: str) -> NDArray[np.bool_]:
    """Which clusters of a text stand in a quantity, unit included, that another text has otherwise: bool (n,).

    If the other text has more quantities, all clusters count that differ: `I cap` for `1 cap`.
    """
    own, theirs = quantities(text), quantities(other)
    split, edges = clusters(text), starts(text)
    found = np.zeros(len(split), dtype=np.bool_)
    if alike(own, theirs):
        return found
    for op in Levenshtein.opcodes(own, theirs):
        if op.tag != "equal":
            for quantity in own[op.src_start : op.src_end]:
                found |= (edges[1:] > quantity.start) & (edges[:-1] < quantity.end)
    if len(own) < len(theirs):
        same, _ = agreeing(text, [other])
        differs = ~same[0]
        # A difference in white space counts for both its neighbours.
        spaces = differs & np.array([one.isspace() for one in split], dtype=np.bool_)
        differs[1:] |= spaces[:-1]
        differs[:-1] |= spaces[1:]
        found |= differs
    return found


def counterpart(text: str, other: str) -> tuple[str, ...]:
    """What `other` has for each cluster of `text`: none, one or several characters.

    Characters that only `other` has go to the cluster before them, or to the first one.
    """
    theirs = clusters(other)
    found = [""] * len(clusters(text))
    for segment in align(keys(text), keys(other)) if found else ():
        (a, b), (c, d) = segment.ocr_range, segment.vlm_range
        if segment.kind == "equal" or b - a == d - c:
            for n in range(b - a):
                found[a + n] += theirs[c + n]
        else:
            found[max(b - 1, 0)] += "".join(theirs[c:d])
    return tuple(found)


def agreeing(text: str, hypotheses: Sequence[str]) -> tuple[NDArray[np.bool_], list[tuple[str, ...]]]:
    """Which hypotheses have each cluster of a text as it is: bool (N, n); and their counterparts of the text."""
    own = keys(text)
    versions = [counterpart(text, other) for other in hypotheses]
    same = [[key(has) == one for has, one in zip(version, own, strict=True)] for version in versions]
    return np.array(same, dtype=np.bool_).reshape(len(hypotheses), len(own)), versions


def spans(
    verdict: Verdict,
    confidences: Sequence[float],
    marginals: NDArray[np.float64],
    versions: Sequence[tuple[float, tuple[str, ...]]],
    alternatives: int,
) -> tuple[Span, ...]:
    """Runs of clusters with one source, one rule and one level of certainty; together they are the verdict's text.

    Args:
        verdict: the decided text and what the readers have.
        confidences: n, calibrated.
        marginals: float64 (n,), probability of each cluster under the model.
        versions: probability of each probable hypothesis, and what it has for every cluster.
        alternatives: most alternatives of a span.
    """
    own = clusters(verdict.text)
    levels = _levels(verdict.text, confidences)
    # An uncertain stretch is a span of its own, so that its alternatives are characters, not whole lines.
    labels = [(*_rule(verdict, own, n), bool(marginals[n] >= SETTLED), levels[n]) for n in range(len(own))]
    result = []
    end = 0
    for (source, because, *_), run in itertools.groupby(labels):
        start, end = end, end + len(list(run))
        text = "".join(own[start:end])
        confidence = min(confidences[start:end])
        result.append(Span(text, source, confidence, because, _alternatives(text, versions, start, end, alternatives)))
    return tuple(result)


def _levels(text: str, confidences: Sequence[float]) -> list[int]:
    """The interval of `LEVELS` of each cluster's stretch; white space goes with what is before it."""
    begins = starts(text)[:-1]
    found = [0] * len(begins)
    for start, end in stretches(text):
        inside = np.flatnonzero((begins >= start) & (begins < end)).tolist()
        least = min((confidences[n] for n in inside), default=0.0)  # empty: it begins within a cluster
        for n in inside:
            found[n] = bisect.bisect_right(LEVELS, least)
    for n, cluster in enumerate(clusters(text)):
        if n and cluster.isspace():
            found[n] = found[n - 1]
    return found


def _alternatives(
    text: str, versions: Sequence[tuple[float, tuple[str, ...]]], start: int, end: int, count: int
) -> tuple[Candidate, ...]:
    mass: dict[str, float] = {}
    for probability, theirs in versions:
        other = unicodedata.normalize("NFC", "".join(theirs[start:end]))
        if keys(other) != keys(text):
            mass[other] = mass.get(other, 0.0) + probability
    ranked = sorted(mass.items(), key=lambda item: (-item[1], item[0]))[:count]
    return tuple(Candidate(other, min(1.0, p)) for other, p in ranked if p >= LISTED)


def _rule(verdict: Verdict, own: list[str], n: int) -> tuple[Source, str]:
    """Source and rule of a cluster."""
    text = own[n]
    vlm = verdict.vlm[n] if verdict.vlm is not None else None
    by_ocr, by_vlm = key(verdict.ocr[n]) == key(text), vlm is not None and key(vlm) == key(text)
    if verdict.changed[n]:
        return "agreed" if by_ocr and by_vlm else "vlm" if by_vlm else "ocr", "quantity_changed"
    if by_ocr and by_vlm:
        return "agreed", "agreed"
    if by_vlm:
        return "vlm", "vlm_supported_by_ink" if verdict.supported else "vlm_preferred"
    if by_ocr and vlm is None:
        return "ocr", "only_reader"
    if by_ocr:
        why = _why_not_vlm(text, vlm or "")
        return "ocr", "quantity_disputed" if verdict.disputed[n] and why != "paraphrase_rejected" else why
    by_hand = verdict.hand is not None and key(verdict.hand[n]) == key(text)
    return "ocr", "second_look" if by_hand else "candidate"  # `second_look` is the OCR's Latin recogniser


def _why_not_vlm(text: str, vlm: str) -> str:
    """Why the OCR's cluster stands and not the second reader's, which is another.

    >>> _why_not_vlm("2", "二"), _why_not_vlm("a", "ab"), _why_not_vlm("a", ""), _why_not_vlm("a", "b")
    ('paraphrase_rejected', 'unsupported_insertion_rejected', 'unsupported_omission_rejected', 'ocr_preferred')
    """
    if not vlm:
        return "unsupported_omission_rejected"
    if _plain(text) == _plain(vlm):
        return "paraphrase_rejected"
    return "unsupported_insertion_rejected" if vlm.startswith(text) else "ocr_preferred"


def _plain(text: str) -> str:
    """A text with other signs of the same meaning made one: 二 and 2, ½ and 1/2."""
    return unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold()
