"""From stretches of a line's text to fields that point at it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fusion.page import Field, Line, Place, Span, Value, lowest


def _confidences(line: Line, start: int, end: int) -> Iterator[float | None]:
    """Confidences of the spans that a stretch of code points touches; None where it is unknown or a gap."""
    left = 0
    for span in line.spans:
        right = left + len(span.text)
        if left < end and right > start:
            yield None if span.source == "gap" else span.confidence
        left = right


def field_at(name: str, stretches: Sequence[tuple[Line, int, int]], value: Value | None = None) -> Field:
    """A field over stretches (line, start, end) of text; its confidence is the lowest of its spans.

    >>> from fusion.page import Span
    >>> line = Line("l1", ((0.0, 0.0),), 0, spans=(Span("Napa ", "agreed", 0.9, "agreed"), Span("5 ml", "ocr", 0.4, "x")))
    >>> field_at("dose", [(line, 5, 9)]).confidence
    0.4
    """
    return Field(
        name,
        " ".join(line.text[start:end] for line, start, end in stretches),
        tuple(Place(line.id, start, end) for line, start, end in stretches),
        lowest(lowest(_confidences(*stretch)) for stretch in stretches),
        dict(value or {}),
    )


def pieces(
    spans: Sequence[Span], stretches: Sequence[tuple[int, int]], change: Callable[[Span], Span]
) -> tuple[Span, ...]:
    """Spans of a line with a change to disjoint ranges of code points; a span that is cut loses its alternatives."""
    result: list[Span] = []
    left = 0
    for span in spans:
        right = left + len(span.text)
        borders = sorted({left, right, *(b for stretch in stretches for b in stretch if left < b < right)})
        whole = len(borders) == 2 or span.extent > 0  # a gap is not cut
        for a, b in [(left, right)] if whole else itertools.pairwise(borders):
            piece = span if whole else replace(span, text=span.text[a - left : b - left], alternatives=())
            inside = any(start <= a and b <= end for start, end in stretches)
            result.append(change(piece) if inside else piece)
        left = right
    return tuple(result)
