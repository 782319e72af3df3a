"""Struck-out words and insertions: they are marked, and no text is changed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from fusion.domain.places import pieces
from fusion.ink import InkLine
from fusion.page import Page, Span
from fusion.placement import Extent, edges, extent

FLAT = set("-–—_=一二三≡÷+~→…·. ")
"""Characters that are themselves level strokes."""
COVERED = 0.6
"""Share of a character's width that must be struck out."""
SMALL = 0.75
"""Greatest height of an inserted line, in heights of the line below it."""


# --- struck out -----------------------------------------------------------------------------------------------------


def struck(line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans of a line with what is crossed out marked `deleted`; a span is cut where the stroke begins or ends."""
    text = "".join(span.text for span in spans)
    if line.ink is None or not line.struck or not text:
        return tuple(spans)
    crossed = []
    for left, right in itertools.pairwise(edges(line.ink.place(text), float(line.crop.shape[1]))):
        shared = max(min(right, b) - max(left, a) for a, b in line.struck)
        crossed.append(right > left and shared >= COVERED * (right - left))
    stretches, end = [], 0
    for hit, run in itertools.groupby(crossed):
        start, end = end, end + len(list(run))
        letters = [character for character in text[start:end] if not character.isspace()]
        if hit and letters and set(letters) - FLAT:
            stretches.append((start, end))
    return pieces(spans, stretches, lambda span: replace(span, mark="deleted")) if stretches else tuple(spans)


# --- insertions -----------------------------------------------------------------------------------------------------


def inserted(page: Page) -> Page:
    """The page with small lines on the upper edge of a larger one marked `added`, each after that one."""
    boxes = [extent(line.polygon, page.angle) for line in page.lines]
    hosts = {
        n: host
        for n, box in enumerate(boxes)
        for host, other in enumerate(boxes)
        if _sits_on(box, other) and not any(_in_column(box, one) for k, one in enumerate(boxes) if k not in (n, host))
    }
    lines = list(page.lines)
    for n in hosts:
        lines[n] = replace(lines[n], spans=tuple(replace(span, mark="added") for span in lines[n].spans))
    order = sorted(range(len(lines)), key=lambda n: (hosts.get(n, n), n in hosts, n))
    ordered = tuple(replace(lines[n], order=place) for place, n in enumerate(order))
    return replace(page, lines=ordered) if hosts else page


def _sits_on(box: Extent, other: Extent) -> bool:
    """Whether a box is lower and narrower than another one and on its upper edge."""
    height, below = box[3] - box[1], other[3] - other[1]
    inside = other[0] + 0.5 * height < box[0] and box[2] < other[2] + height
    narrow = box[2] - box[0] < 0.6 * (other[2] - other[0])
    touches = other[1] - 0.25 * below < box[3] < other[1] + 0.5 * below
    return 0 < height < SMALL * below and inside and narrow and touches and box[1] < other[1]


def _in_column(box: Extent, other: Extent) -> bool:
    """Whether a box stands right above or below another one, as high and with the same left edge: it is a line of its own."""
    height, theirs = box[3] - box[1], other[3] - other[1]
    gap = max(box[1], other[1]) - min(box[3], other[3])
    return (
        abs(box[0] - other[0]) < 0.5 * height and 0.7 < height / max(theirs, 1.0) < 1.4 and -0.4 * height < gap < height
    )
