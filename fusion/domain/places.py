"""From stretches of a line's text to fields that point at it.

Knows lines and spans; knows no domain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from fusion.page import Field, Line, Place, Span, Value, lowest


def spans_at(line: Line, start: int, end: int) -> list[Span]:
    """Spans that a stretch of the line's text touches.

    Args:
        line: a decided line.
        start: first code point of `line.text`.
        end: the one after the last.
    """
    found, left = [], 0
    for span in line.spans:
        right = left + len(span.text)
        if left < end and right > start:
            found.append(span)
        left = right
    return found


def confidence_at(line: Line, start: int, end: int) -> float | None:
    """Lowest confidence of the spans that a stretch touches; None when one is unknown or a gap."""
    return lowest(None if span.source == "gap" else span.confidence for span in spans_at(line, start, end))


def field_at(name: str, stretches: Sequence[tuple[Line, int, int]], value: Value | None = None) -> Field:
    """A field over stretches of lines; it is as sure as the least sure of its spans.

    >>> from fusion.page import Span
    >>> line = Line("l1", ((0.0, 0.0),), 0, spans=(Span("Napa ", "agreed", 0.9, "agreed"), Span("5 ml", "ocr", 0.4, "x")))
    >>> field_at("dose", [(line, 5, 9)]).confidence
    0.4
    """
    return Field(
        name,
        " ".join(line.text[start:end] for line, start, end in stretches),
        tuple(Place(line.id, start, end) for line, start, end in stretches),
        lowest(confidence_at(*stretch) for stretch in stretches),
        dict(value or {}),
    )


def pieces(
    spans: Sequence[Span], stretches: Sequence[tuple[int, int]], change: Callable[[Span], Span]
) -> tuple[Span, ...]:
    """Spans with a change made to some stretches of their text; a span that is cut in two loses its alternatives.

    Args:
        spans: of one line.
        stretches: code points of the line's text, half-open, none over another.
        change: made to every span or part of one inside a stretch; it keeps the text.
    """
    result: list[Span] = []
    left = 0
    for span in spans:
        right = left + len(span.text)
        borders = sorted({left, right, *(b for stretch in stretches for b in stretch if left < b < right)})
        whole = len(borders) == 2 or span.extent > 0  # what nobody read has no characters to cut between
        for a, b in [(left, right)] if whole else itertools.pairwise(borders):
            piece = span if whole else replace(span, text=span.text[a - left : b - left], alternatives=())
            inside = any(start <= a and b <= end for start, end in stretches)
            result.append(change(piece) if inside else piece)
        left = right
    return tuple(result)
