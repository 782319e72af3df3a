"""The photograph with its lines and spans as SVG: what `overlay` draws, with a tooltip for every stretch.

It has no script, loads nothing from outside, and opens in any browser.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from fusion.output.crops import data_uri, photo_scale
from fusion.output.marks import MARKS, describe, visible
from fusion.output.markup import add, document, points
from fusion.page import Line, Page

_STYLE = "polygon { stroke-width: 2; vector-effect: non-scaling-stroke } .line { fill: none; stroke: #262a30 } .unread, .unknown { stroke-dasharray: 6 4 }"
_FAINTEST, _STRONGEST = 0.08, 0.34
"""Opacity of a span of confidence 0 and 1, as in the picture."""


def svg_document(page: Page, photo: NDArray[np.uint8]) -> str:
    """One SVG document.

    Args:
        page: what was read.
        photo: uint8 (H, W, 3), RGB, as displayed.

    Raises:
        InputError: the photograph does not fit the page.
    """
    photo_scale(photo, page)
    size = {"width": page.width, "height": page.height}
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {page.width} {page.height}"})
    add(root, "title", visible(page.id))
    colours = " ".join(f".{m.source} {{ fill: {m.colour}; stroke: {m.colour} }}" for m in MARKS.values())
    add(root, "style", f"{_STYLE} {colours} .gap {{ fill: none }}")
    add(root, "image", href=data_uri(photo, quality=90), preserveAspectRatio="none", **size)
    for line in page.lines:
        _line(add(root, "g", id=line.id), line)
    return document(root, pretty=False)


def _line(group: Element, line: Line) -> None:
    outline = add(group, "polygon", points=points(line.polygon), class_="line" if line.spans else "gap unread")
    failures = "; ".join(failure.message for failure in line.troubles)
    add(outline, "title", visible(f"{line.order + 1}. {line.marked or failures}"))
    for span in line.spans:
        if span.polygon:
            known = span.confidence is not None
            share = _FAINTEST + (_STRONGEST - _FAINTEST) * (span.confidence or 0.0)
            look = f"{span.source} unknown" if not known and not span.extent else span.source
            shape = add(group, "polygon", points=points(span.polygon), class_=look, fill_opacity=share)
            text = f"[{span.text}]" if span.source == "supplied" else span.text
            add(shape, "title", visible(f"{text} · {describe(span)}"))
