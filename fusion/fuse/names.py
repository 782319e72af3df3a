"""Words that come from a list, and names that are easily confused: two thirds of brand names have another within two letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from fusion.fuse.align import clusters, keys
from fusion.ink import Ink, Prior
from fusion.page import Candidate, Reading, Span, lowest

SHOWN = 3
"""Most rivals listed as alternatives of a name."""
_WORD = re.compile(r"\S+")


def listed(text: str, prior: Prior | None) -> list[bool]:
    """For each cluster, whether the list holds its word, or the whole text; white space counts as held."""
    if prior is None or prior.holds(text):
        return [prior is not None] * len(clusters(text))
    found: list[bool] = []
    for word in re.findall(r"\s+|\S+", text):
        found += [word.isspace() or prior.holds(word)] * len(clusters(word))
    return found


def mark_names(spans: Sequence[Span], readings: Sequence[Reading], prior: Prior, ink: Ink) -> tuple[Span, ...]:
    """Attribute to the list every listed word of a line that no reader has as it stands.

    A name with rivals becomes one span with them as alternatives, each with its log-probability under the OCR's `ink`.
    """
    text = "".join(span.text for span in spans)
    read = {tuple(keys(word)) for reading in readings for word in [reading.text, *reading.text.split()]}
    places = [(0, len(text))] if prior.holds(text) else [match.span() for match in _WORD.finditer(text)]
    result: list[Span] = []
    done = 0
    for start, end in places:
        word = text[start:end]
        if not prior.holds(word) or tuple(keys(word)) in read:
            continue
        own = _cut(spans, start, end)
        if any(span.because == "quantity_changed" for span in own):
            continue  # that is the more important remark
        result += _cut(spans, done, start)
        if rivals := prior.rivals(word):
            result.append(_beside(own, rivals, (text[:start], text[end:]), ink))
        else:
            result += [
                replace(span, source="lexicon", because="lexicon_snapped") if span.because == "candidate" else span
                for span in own
            ]
        done = end
    return (*result, *_cut(spans, done, len(text)))


def _cut(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """The spans of a range of code points; a cut span keeps its confidence and loses its alternatives."""
    found, left = [], 0
    for span in spans:
        right = left + len(span.text)
        if left < end and right > start:
            piece = span.text[max(start - left, 0) : end - left]
            found.append(span if piece == span.text else replace(span, text=piece, alternatives=()))
        left = right
    return found


def _beside(own: Sequence[Span], rivals: Sequence[str], around: tuple[str, str], ink: Ink) -> Span:
    """A name as one span with the confidence of its least certain part and its rivals as alternatives."""
    word = "".join(span.text for span in own)
    names = [unicodedata.normalize("NFC", name) for name in rivals[:SHOWN]]
    scores = ink.score([around[0] + name + around[1] for name in names])
    others = own[0].alternatives if len(own) == 1 else ()
    chance = {tuple(keys(other.text)): other.probability for other in others}
    ranked = [
        Candidate(name, chance.pop(tuple(keys(name)), 0.0), min(score, 0.0))
        for name, score in zip(names, scores, strict=True)
    ]
    ranked += [other for other in others if tuple(keys(other.text)) in chance]
    ranked.sort(key=lambda other: -other.probability)
    confidence = lowest(span.confidence for span in own)
    return Span(word, "lexicon", confidence, "lexicon_lookalike", tuple(ranked))
