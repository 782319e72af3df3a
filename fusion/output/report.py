"""A comparison as one self-contained HTML file (`compare.html`): crop, readings and decision of every line side by side.

It has no script, loads nothing from outside, and escapes every text of a page.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.output.compare import Errors, compare_page, differing, fused_runs, page_cer
from fusion.output.crops import at_most, crop_line, data_uri, photo_scale, svg_uri
from fusion.output.marks import MARKS, alternatives, describe, template
from fusion.output.overlay import draw_overlay
from fusion.page import Page

_CROP = (1200, 160)
_PAGE = (1200, 1600)
"""Largest embedded pictures, px: a page of 60 lines stays a file of a few MB."""
_SCRIPTS = (("HIRAGANA", "ja"), ("KATAKANA", "ja"), ("HANGUL", "ko"), ("CJK", "zh"))


def html(
    pages: Iterable[tuple[Page, NDArray[np.uint8] | None]],
    title: str = "OCR and fusion compared",
    *,
    references: Mapping[str, str] | None = None,
) -> str:
    """One HTML file that compares what the OCR alone read with the fused text.

    Args:
        pages: results with the photograph, uint8 (H, W, 3) RGB (a smaller copy will do), or None; taken one by one, and
            only what is shown of them is kept.
        title: heading of the file.
        references: page id → transcription by a person, rows separated by newlines. Pages that have one get
            their character error rates; the total is over these pages only.

    Raises:
        InputError: a photograph does not fit its page.
    """
    sheets = [_sheet(page, photo, (references or {}).get(page.id)) for page, photo in pages]
    measured = [sheet["errors"] for sheet in sheets if sheet["errors"] is not None]
    return template(
        "compare.html",
        alternatives=alternatives,
        describe=describe,
        language=language,
        differing=differing,
        fused_runs=fused_runs,
    ).render(
        title=title,
        sheets=sheets,
        counts=sum((sheet["counts"] for sheet in sheets), Counter[str]()),
        errors=sum(measured, Errors()) if measured else None,
        measured=len(measured),
        MARKS=MARKS,
    )


def _sheet(page: Page, photo: NDArray[np.uint8] | None, reference: str | None) -> dict[str, Any]:
    """One page for the template; `counts` are of lines and, by source, of spans."""
    comparisons = compare_page(page, reference)
    counts = Counter[str](span.source for line in page.lines for span in line.spans)
    counts["lines"] = len(page.lines)
    counts["changed"] = sum(comparison.changed for comparison in comparisons)
    counts["failed"] = sum(not line.spans for line in page.lines)
    crops: dict[str, str] = {}
    picture = None
    if photo is not None:
        scale = photo_scale(photo, page)
        cut = {line.id: crop_line(photo, line.polygon, scale) for line in page.lines}
        crops = {name: data_uri(at_most(crop, *_CROP)) for name, crop in cut.items() if crop.size}
        picture = svg_uri(draw_overlay(at_most(photo, *_PAGE), page))
    return {
        "page": page,
        "comparisons": comparisons,
        "crops": crops,
        "picture": picture,
        "counts": counts,
        "errors": page_cer(page, reference) if reference is not None else None,
    }


def language(text: str) -> str:
    """BCP 47 tag by script, for fonts and screen readers; `und` where only Latin letters stand.

    >>> language("第2步"), language("2 tab")
    ('zh', 'und')
    """
    names = [unicodedata.name(character, "") for character in text if not character.isascii()]
    return next((tag for script, tag in _SCRIPTS if any(name.startswith(script) for name in names)), "und")
