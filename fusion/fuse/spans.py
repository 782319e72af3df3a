"""From a distribution over whole-line hypotheses to spans, each with its source, confidence and rule.

Knows the decided text, the probable hypotheses and both readers' texts; weighs nothing. One small function per rule: its
name is the span's `because`. Confidence of a character rests on the probability of all hypotheses that agree on it
(posterior marginal; Wessel et al., "Confidence measures for large vocabulary continuous speech recognition", 2001).
"""

from __future__ import annotations

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
"""Hypotheses under this probability say nothing about a stretch."""
LISTED = 0.005
"""Least probability of an alternative worth showing to a person."""
SETTLED = 0.95
"""From this marginal on, neighbouring characters share a span, if their stretches are about equally sure."""
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
"""Confidences between which stretches count as equally sure."""
_PLAIN = str.maketrans("零〇一二两三四五六七八九⁄", "001223456789/")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decided text of a line and what the readers had for each of its characters.

    Attributes:
        text: the decided text.
        ocr: what the OCR has for each cluster of `text`.
        vlm: the same for the second reader's reading that is nearest to `text`; None when there is none.
        hand: the same for the OCR's second look; None when there is none.
        changed: bool (n,), clusters of quantities that the OCR has otherwise.
        disputed: bool (n,), clusters of quantities that the second reader has otherwise.
        supported: the OCR's ink prefers no other text by more than `Weights.tolerance`.
    """

    text: str
    ocr: tuple[str, ...]
    vlm: tuple[str, ...] | None
    hand: tuple[str, ...] | None
    changed: NDArray[np.bool_]
    disputed: NDArray[np.bool_]
    supported: bool


def verdict(
    text: str, ocr: str, vlm: str | None, hand: str | None = None, *, written: bool, supported: bool, refused: bool
) -> Verdict:
    """Set a decided text beside the readings; `vlm` None: no second reader read the line.

    A reader that only looks (not `written`) disputes a quantity if its evidence nearly changed it (`refused`); how far it
    disagrees otherwise is part of the confidence.
    """
    nothing = np.zeros(len(clusters(text)), dtype=np.bool_)
    return Verdict(
        text,
        counterpart(text, ocr),
        counterpart(text, vlm) if vlm is not None else None,
        counterpart(text, hand) if hand is not None else None,
        quantities_differ(text, ocr),
        quantities_differ(text, vlm) if vlm is not None and (written or refused) else nothing,
        supported,
    )


def quantities_differ(text: str, other: str) -> NDArray[np.bool_]:
    """Which clusters of a text stand in a quantity, unit included, that another text has otherwise: bool (n,).

    Where the other text has one and this has none, what differs there counts: `I cap` for `1 cap`.
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
        beside = zip(split, counterpart(text, other), strict=True)
        differs = np.array([key(has) != key(one) for one, has in beside], dtype=np.bool_)
        # White space has no reader: what is missing there is missing beside both its neighbours.
        gaps = differs & np.array([one.isspace() for one in split], dtype=np.bool_)
        differs[1:] |= gaps[:-1]
        differs[:-1] |= gaps[1:]
        found |= differs
    return found


def counterpart(text: str, other: str) -> tuple[str, ...]:
    """What `other` has for each cluster of `text`: equal, different, several characters or none.

    Characters that only `other` has go to the cluster before them, or to the first one.
    """
    own, theirs = clusters(text), clusters(other)
    found = ["" for _ in own]
    for segment in align(keys(text), keys(other)):
        (a, b), (c, d) = segment.ocr_range, segment.vlm_range
        if not own:
            break
        if segment.kind == "equal" or b - a == d - c:
            for n in range(b - a):
                found[a + n] += theirs[c + n]
        else:
            found[min(max(a, b - 1), len(own) - 1) if a < b else max(a - 1, 0)] += "".join(theirs[c:d])
    return tuple(found)


def agreeing(text: str, hypotheses: Sequence[str]) -> tuple[NDArray[np.bool_], list[tuple[str, ...]]]:
    """Which hypotheses have each cluster of a text as it stands: bool (N, n), and their counterparts of it."""
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
    """Runs of clusters with one source, one rule and one state of doubt; together they are the verdict's text.

    Args:
        verdict: the decided text.
        confidences: one per cluster, in [0, 1].
        marginals: float64 (n,), probability of each cluster under the model.
        versions: the probable hypotheses, with what each has for every cluster.
        alternatives: most alternatives of a span.
    """
    own = clusters(verdict.text)
    levels = _levels(verdict.text, confidences)
    # A doubtful stretch is a span of its own: its alternatives are then characters, not whole lines.
    labels = [(*_rule(verdict, own, n), bool(marginals[n] >= SETTLED), levels[n]) for n in range(len(own))]
    result = []
    start = 0
    for end in range(1, len(own) + 1):
        if end < len(own) and labels[end] == labels[start]:
            continue
        source, because, *_ = labels[start]
        text = "".join(own[start:end])
        confidence = min(confidences[start:end])
        result.append(Span(text, source, confidence, because, _alternatives(text, versions, start, end, alternatives)))
        start = end
    return tuple(result)


def _levels(text: str, confidences: Sequence[float]) -> list[int]:
    """Of each cluster, how sure its stretch is; white space goes with what is before it."""
    own = clusters(text)
    begins = starts(text)[:-1]
    found = [0] * len(own)
    for start, end in stretches(text):
        inside = np.flatnonzero((begins >= start) & (begins < end)).tolist()
        if inside:  # else it begins within a cluster: a Chinese character with a combining mark
            least = min(confidences[n] for n in inside)
            for n in inside:
                found[n] = int(np.searchsorted(LEVELS, least, side="right"))
    for n in range(1, len(own)):
        if own[n].isspace():
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


# --- the rules: each says whether it is the reason that `own[n]` stands where it stands ----------------------------


def _rule(verdict: Verdict, own: list[str], n: int) -> tuple[Source, str]:
    text = own[n]
    ocr, vlm = verdict.ocr[n], verdict.vlm[n] if verdict.vlm is not None else None
    by_ocr, by_vlm = key(ocr) == key(text), vlm is not None and key(vlm) == key(text)
    if verdict.changed[n]:
        return "agreed" if by_ocr and by_vlm else "vlm" if by_vlm else "ocr", "quantity_changed"
    if by_ocr and by_vlm:
        return "agreed", "agreed"
    if by_vlm:
        return "vlm", "vlm_supported_by_ink" if verdict.supported else "vlm_preferred"
    if by_ocr and vlm is None:
        return "ocr", "only_reader"
    if by_ocr:
        disputed = bool(verdict.disputed[n]) and not paraphrase_rejected(text, vlm or "")
        return "ocr", "quantity_disputed" if disputed else _why_not_vlm(text, vlm or "")
    return "ocr", "second_look" if verdict.hand is not None and key(verdict.hand[n]) == key(text) else "candidate"


def _why_not_vlm(text: str, vlm: str) -> str:
    """Why the second reader's version did not win where the OCR's did."""
    for rule in (paraphrase_rejected, unsupported_insertion_rejected, unsupported_omission_rejected):
        if rule(text, vlm):
            return rule.__name__
    return "ocr_preferred"


def paraphrase_rejected(text: str, vlm: str) -> bool:
    """Same meaning, other signs: 第二步 for 第2步, ½ for 1/2. The ink decides what is written.

    >>> paraphrase_rejected("2", "二")
    True
    """

    def plain(s: str) -> str:
        return unicodedata.normalize("NFKC", s).translate(_PLAIN).casefold()

    return vlm != "" and text != vlm and plain(text) == plain(vlm)


def unsupported_insertion_rejected(text: str, vlm: str) -> bool:
    """The second reader adds characters for which there is no ink."""
    return len(vlm) > len(text) and vlm.startswith(text)


def unsupported_omission_rejected(text: str, vlm: str) -> bool:
    """The second reader leaves out a character that the ink shows."""
    return vlm == "" and text != ""
