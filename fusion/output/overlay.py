"""The photograph with its lines and spans drawn on it, as SVG: tinted by source, the surer the stronger, a tooltip for each.

It has no script, loads nothing from outside, and opens in any browser.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from fusion.output.crops import data_uri, photo_scale
from fusion.output.marks import MARKS, describe, visible
from fusion.output.markup import add, document, points
from fusion.output.units import corners
from fusion.page import Line, Page, Span

_FAINTEST, _STRONGEST, _HATCH = 0.08, 0.34, 0.5
"""Opacity of a span of confidence 0 and 1, and of a supplied one. Under the strongest tint the ink must still be readable."""
_INK = "#262a30"
_STYLE = """
polygon { stroke-width: 2; vector-effect: non-scaling-stroke; mix-blend-mode: multiply }
.line { fill: none; stroke: #262a30 } .dashed { stroke-dasharray: 6 4 } .gap { fill: none } .supplied { fill: url(#hatch) }
text { stroke: white; stroke-width: 5px; paint-order: stroke; font-family: sans-serif; pointer-events: none }
"""


def draw_overlay(photo: NDArray[np.uint8], page: Page) -> str:
    """One SVG document, of the page's size.

    Args:
        photo: uint8 (H, W, 3), RGB, as displayed; a smaller copy of what was read will do.
        page: what was read.

    Raises:
        InputError: the photograph does not fit the page.
    """
    photo_scale(photo, page)
    size = min(page.width, page.height) / 45
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {page.width} {page.height}"})
    add(root, "title", visible(page.id))
    colours = " ".join(f".{m.source} {{ fill: {m.colour}; stroke: {m.colour} }}" for m in MARKS.values())
    add(root, "style", f"{colours}{_STYLE}text {{ font-size: {size:.1f}px }}")
    stripes = add(root, "pattern", id="hatch", width=9, height=9, patternUnits="userSpaceOnUse")
    add(stripes, "path", d="M0,9 L9,0", stroke=MARKS["supplied"].colour, stroke_width=3)
    whole = {"width": page.width, "height": page.height}
    add(root, "image", href=data_uri(photo, quality=90), preserveAspectRatio="none", **whole)
    for line in page.lines:
        _line(add(root, "g"), line)
    for finding in page.findings:
        if finding.kind == "uncovered" and finding.polygon is not None:
            outline = add(root, "polygon", points=points(finding.polygon), class_="gap dashed")
            add(outline, "title", visible(finding.message))
    return document(root)


def _line(group: Element, line: Line) -> None:
    """Outline with its number in the reading order, and its spans; dashed is what was found and not read."""
    outline = add(group, "polygon", points=points(line.polygon), class_="line" if line.spans else "gap dashed")
    failures = "; ".join(failure.message for failure in line.troubles)
    add(outline, "title", visible(line.marked or failures))
    for span in line.spans:
        if span.polygon:
            _span(group, span)
    (x, y), *_, (left, bottom) = corners(line.polygon)
    number, colour = (f"{line.order + 1}", _INK) if line.spans else (f"{line.order + 1}!", MARKS["gap"].colour)
    add(group, "text", number, x=(x + left) / 2, y=(y + bottom) / 2, fill=colour, text_anchor="end")


def _span(group: Element, span: Span) -> None:
    known = span.confidence is not None or bool(span.extent)
    share = _HATCH if span.extent else _FAINTEST + (_STRONGEST - _FAINTEST) * (span.confidence or 0.0)
    look = {"class_": span.source if known else f"{span.source} dashed", "fill_opacity": share if known else 0}
    shape = add(group, "polygon", points=points(span.polygon or ()), **look)
    text = f"[{span.text}]" if span.source == "supplied" else span.text
    add(shape, "title", visible(f"{text} · {describe(span)}"))
    if letter := MARKS[span.source].letter:
        x, y = corners(span.polygon or ())[0]
        add(group, "text", letter, x=x, y=y, fill=MARKS[span.source].colour)
