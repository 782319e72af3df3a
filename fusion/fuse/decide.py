"""From a distribution over whole-line hypotheses to spans, each with its source, confidence and rule.

Knows hypotheses, their probabilities, and both readers' texts; computes no evidence. One small function per rule: its
name is the span's `because`. Confidence of a stretch is the probability of all hypotheses that agree on it (posterior
marginal; Wessel et al., "Confidence measures for large vocabulary continuous speech recognition", 2001), calibrated.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.fuse.align import align, clusters, key, keys
from fusion.fuse.evidence import Voices
from fusion.ink import Prior
from fusion.page import Candidate, Source, Span

NEGLIGIBLE = 1e-4
"""Hypotheses under this probability say nothing about a stretch."""
LISTED = 0.005
"""Least probability of an alternative worth showing to a person."""
SETTLED = 0.95
"""From this marginal on, neighbouring characters share a span."""
TOLERATED = 3.0
"""Nats (odds of 20 to 1) by which the ink may prefer another text before it no longer supports one; other numbers are
refused then. A policy, not a fitted value: a fit would trade doses for letters."""
UNIT = 3
"""Most letters that a run of digits may have and still be a number: 500mg and 3ml are, 2ymet is a word."""
_DIGIT = regex.compile(r"\p{Nd}")
_NUMERAL = "零〇一二两三四五六七八九十百千半"
_RUN = regex.compile(
    rf"(?:[.,](?=\p{{Nd}}))?[\p{{Latin}}\p{{Nd}}]+(?:(?<=\p{{Nd}})[.,/:⁄](?=\p{{Nd}})[\p{{Latin}}\p{{Nd}}]+)*|[{_NUMERAL}]"
)
_SIGN = regex.compile(rf"\p{{Nd}}|[.,/:⁄{_NUMERAL}]")
_LETTER = regex.compile(r"\p{Latin}")
_LONG_UNIT = regex.compile(r"(?:tab(?:let)?|cap(?:sule)?|drop|unit|puff|time|hour|day|week|month)s?", regex.IGNORECASE)
_PLAIN = str.maketrans("零〇一二两三四五六七八九⁄", "001223456789/")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decided text of a line and what the readers had for each of its characters.

    Attributes:
        text: the decided text.
        ocr: what the OCR has for each cluster of `text`.
        vlm: the same for the second reader's reading that is nearest to `text`; None when there is none.
        confidences: one per cluster, in [0, 1].
        settled: bool (n,), whether hardly any probable text has another character there.
        supported: the ink prefers no other text by more than `TOLERATED`.
        numbers_kept: a text with other numbers was more probable but was refused.
    """

    text: str
    ocr: tuple[str, ...]
    vlm: tuple[str, ...] | None
    confidences: Sequence[float]
    settled: NDArray[np.bool_]
    supported: bool
    numbers_kept: bool


def numbers(text: str) -> list[str]:
    """Signs of the numbers in a text, in order: digits with points, slashes and at most a unit, and Chinese numerals.

    >>> "".join(numbers("第2步 0.5mg")), "".join(numbers("2ymet"))
    ('20.5', '')
    """
    found = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text)):
        letters = "".join(_LETTER.findall(run))
        if len(letters) <= UNIT or _LONG_UNIT.fullmatch(letters):
            found += _SIGN.findall(run)
    return found


def units(text: str) -> list[str]:
    """Letters that are written onto each number of a text, in order; "" where there are none.

    >>> units("500mg 2 tab"), units("500 mg")
    (['mg', ''], [''])
    """
    runs = [run for run in _RUN.findall(unicodedata.normalize("NFKC", text)) if _DIGIT.search(run)]
    return ["".join(_LETTER.findall(run)).casefold() for run in runs]


def _same_units(own: list[str], other: list[str]) -> bool:
    """Whether no number has changed its unit: 500mg and 500g are two doses, 500mg and 500 mg are one."""
    return len(own) != len(other) or all(a == b or not a or not b for a, b in zip(own, other, strict=True))


def choose(
    texts: Sequence[str],
    probabilities: NDArray[np.float64],
    ink: NDArray[np.float64],
    others: Sequence[str],
    prior: Prior | None,
    margin: float = 0.0,
) -> tuple[int, bool]:
    """The most probable hypothesis that keeps to two rules, or the OCR's reading where that is hardly less probable.

    Its numbers are the OCR's, or the second reader's and carried by the ink: no mixture and no list of names invents
    one; a model of sums, whose business they are, may choose among those that the ink carries. And a list of names, when
    nothing else speaks, changes words into names and leaves the rest of the line alone.

    Args:
        texts: hypotheses, the OCR's reading first.
        probabilities: float64 (N,).
        ink: float64 (N,), log-probability given the strokes.
        others: readings of the second reader.
        prior: names to expect, or None.
        margin: nats by which a hypothesis must be more probable than the OCR's reading to replace it.

    Returns:
        Its index, and whether a more probable hypothesis was refused for its numbers.
    """
    found = [numbers(text) for text in texts]
    said = [numbers(text) for text in others]
    floor = max(value for value, n in zip(ink, found, strict=True) if n == found[0]) - TOLERATED
    attached = [units(text) for text in texts]
    refused = False
    least = probabilities[0] * math.exp(margin)
    for n in np.argsort(-probabilities, kind="stable").tolist():
        if n and probabilities[n] < least:
            return 0, refused
        if not others and prior is not None and prior.kind != "sums" and not _only_names(texts[0], texts[n], prior):
            continue
        if found[n] == found[0] and _same_units(attached[0], attached[n]):
            return n, refused
        if (found[n] in said or (prior is not None and prior.kind == "sums")) and ink[n] >= floor:
            return n, refused
        refused = True
    return 0, refused


def _only_names(own: str, text: str, prior: Prior) -> bool:
    """Whether a line of several words differs in names only; a single word may differ in any way."""
    before, after = own.split(), text.split()
    if len(before) <= 1:
        return True
    return len(before) == len(after) and all(a == b or prior.holds(b) for a, b in zip(before, after, strict=True))


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


def voices(text: str, ocr: Sequence[str], vlm: Sequence[str] | None, prior: Prior | None) -> list[Voices]:
    """Who has each cluster of a text.

    Args:
        text: the decided text.
        ocr: what the OCR has for each of its clusters; see `counterpart`.
        vlm: the same for the second reader; None when there is none.
        prior: names to expect, or None.
    """
    listed: list[bool] = []
    if prior is not None:
        whole = prior.holds(text)
        for word in regex.findall(r"\s+|\S+", text):
            listed += [whole or word.isspace() or prior.holds(word)] * len(clusters(word))
    own = keys(text)
    return [
        Voices(key(ocr[n]) == own[n], vlm is not None and key(vlm[n]) == own[n], prior is not None and listed[n])
        for n in range(len(own))
    ]


def marginals(
    texts: Sequence[str], probabilities: NDArray[np.float64], chosen: int
) -> tuple[NDArray[np.float64], list[tuple[float, tuple[str, ...]]]]:
    """How probable each cluster of the chosen text is.

    Returns:
        float64 (n,) marginals, and per hypothesis that matters its probability and counterpart.
    """
    own = keys(texts[chosen])
    agreement = np.zeros(len(own))
    versions = []
    for number in np.flatnonzero(probabilities >= NEGLIGIBLE):
        theirs = counterpart(texts[chosen], texts[number])
        same = [key(t) == o for t, o in zip(theirs, own, strict=True)]
        agreement += probabilities[number] * np.array(same, dtype=float)
        versions.append((float(probabilities[number]), theirs))
    return np.clip(agreement, 0.0, 1.0), versions


def spans(verdict: Verdict, versions: list[tuple[float, tuple[str, ...]]], alternatives: int) -> tuple[Span, ...]:
    """Runs of clusters with one source, one rule and one state of doubt; together they are the verdict's text."""
    own = clusters(verdict.text)
    # A doubtful stretch is a span of its own: its alternatives are then characters, not whole lines.
    labels = [(*_rule(verdict, own, n), verdict.settled[n]) for n in range(len(own))]
    result = []
    start = 0
    for end in range(1, len(own) + 1):
        if end < len(own) and labels[end] == labels[start]:
            continue
        source, because, _ = labels[start]
        text = "".join(own[start:end])
        confidence = min(verdict.confidences[start:end])
        result.append(Span(text, source, confidence, because, _alternatives(text, versions, start, end, alternatives)))
        start = end
    return tuple(result)


def _alternatives(
    text: str, versions: list[tuple[float, tuple[str, ...]]], start: int, end: int, count: int
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
    if by_ocr and by_vlm:
        return "agreed", "agreed"
    if not by_ocr and digits_disagree(text, ocr):
        return "vlm" if by_vlm else "ocr", "digits_changed"
    if by_vlm:
        return "vlm", "vlm_supported_by_ink" if verdict.supported else "vlm_preferred"
    if by_ocr and vlm is None:
        return "ocr", "only_reader"
    if by_ocr:
        return "ocr", _why_not_vlm(verdict, text, vlm or "")
    return "ocr", "candidate"


def _why_not_vlm(verdict: Verdict, text: str, vlm: str) -> str:
    """Why the second reader's version did not win where the OCR's did."""
    for rule in (paraphrase_rejected, unsupported_insertion_rejected, unsupported_omission_rejected):
        if rule(text, vlm):
            return rule.__name__
    if digits_disagree(text, vlm):
        return "digits_kept_by_ink" if verdict.numbers_kept else digits_disagree.__name__
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


def digits_disagree(text: str, vlm: str) -> bool:
    """Two different digits, or a digit against something else."""
    return bool(_DIGIT.search(text) or _DIGIT.search(vlm))
