"""A comparison as one self-contained HTML file: crop, readings and decision of every line side by side.

Knows what the file says; how it looks is in `compare.html`. It has no script and loads nothing from outside, and every
text of a page goes through the template's escaping: a reading is whatever a model answered.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from numpy.typing import NDArray

from fusion.output.compare import Comparison, Errors, compare_page, differing, fused_runs, page_cer
from fusion.output.crops import at_most, crop_line, data_uri, photo_scale
from fusion.output.marks import MARKS, alternatives, describe, percent, visible
from fusion.output.overlay import draw_overlay
from fusion.page import Page, Source, Span

Picture = NDArray[np.uint8] | Mapping[str, NDArray[np.uint8]] | None
"""The photograph, uint8 (H, W, 3) RGB; or crops by line id; or nothing."""

_CROP = (1200, 160)
_PAGE = (1200, 1600)
"""Largest embedded pictures, px: a page of 60 lines stays a file of a few MB."""
_SCRIPTS = (("HIRAGANA", "ja"), ("KATAKANA", "ja"), ("HANGUL", "ko"), ("CJK", "zh"))


@dataclass(frozen=True, slots=True)
class _Row:
    """One line for the template."""

    line: Comparison
    crop: str | None
    fused: list[tuple[Span, list[tuple[str, bool]]]]


@dataclass(frozen=True, slots=True)
class _Sheet:
    """One page for the template; `failed` counts lines without any decision."""

    page: Page
    rows: tuple[_Row, ...]
    picture: str | None
    changed: int
    failed: int
    sources: Counter[Source]
    errors: Errors | None


def html(
    pages: Sequence[tuple[Page, Picture]],
    title: str = "OCR and fusion compared",
    *,
    references: Mapping[str, str] | None = None,
) -> str:
    """One HTML file that compares what the OCR alone read with the fused text.

    Args:
        pages: results with the photograph (a smaller copy will do), or crops by line id, or None.
        title: heading of the file.
        references: page id → transcription by a person, rows separated by newlines. Pages that have one get
            their character error rates; the total is over these pages only.

    Raises:
        InputError: a photograph does not fit its page.
    """
    known = references or {}
    sheets = [_sheet(page, picture, known.get(page.id)) for page, picture in pages]
    measured = [sheet.errors for sheet in sheets if sheet.errors is not None]
    total = {
        "lines": sum(len(sheet.rows) for sheet in sheets),
        "changed": sum(sheet.changed for sheet in sheets),
        "failed": sum(sheet.failed for sheet in sheets),
        "sources": sum((sheet.sources for sheet in sheets), Counter[Source]()),
        "errors": sum(measured, Errors()) if measured else None,
        "measured": len(measured),
    }
    return _template().render(title=title, sheets=sheets, total=total, marks=list(MARKS.values()))


def _sheet(page: Page, picture: Picture, reference: str | None) -> _Sheet:
    comparisons = compare_page(page, reference)
    crops = _crops(page, picture)
    rows = tuple(
        _Row(c, crops.get(c.line_id), list(zip(c.spans, fused_runs(c.spans, c.ocr), strict=True))) for c in comparisons
    )
    return _Sheet(
        page=page,
        rows=rows,
        picture=_regions(page, picture) if isinstance(picture, np.ndarray) else None,
        changed=sum(c.changed for c in comparisons),
        failed=sum(not c.spans for c in comparisons),
        sources=sum((c.sources for c in comparisons), Counter[Source]()),
        errors=page_cer(page, reference) if reference is not None else None,
    )


def _crops(page: Page, picture: Picture) -> dict[str, str]:
    if picture is None:
        return {}
    if isinstance(picture, np.ndarray):
        scale = photo_scale(picture, page)
        cut = {line.id: crop_line(picture, line.polygon, scale) for line in page.lines}
    else:
        cut = {line.id: picture[line.id] for line in page.lines if line.id in picture}
    return {line_id: data_uri(at_most(crop, *_CROP)) for line_id, crop in cut.items() if crop.size}


def _regions(page: Page, photo: NDArray[np.uint8]) -> str:
    """Made small first, so that badges and outlines keep their size on the screen."""
    return data_uri(draw_overlay(at_most(photo, *_PAGE), page), quality=80)


def language(text: str) -> str:
    """BCP 47 tag by script, for fonts and screen readers: Latin letters alone don't tell, so they are `und`.

    >>> language("第2步"), language("2 tab")
    ('zh', 'und')
    """
    names = [unicodedata.name(character, "") for character in text if not character.isascii()]
    return next((tag for script, tag in _SCRIPTS if any(name.startswith(script) for name in names)), "und")


def _rate(edits: int, length: int) -> str:
    return f"{edits / length:.3f}" if length else "–"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Any] = {
        "visible": visible,
        "percent": percent,
        "describe": describe,
        "alternatives": alternatives,
        "language": language,
        "differing": differing,
    }
    environment.filters.update(filters)
    environment.globals.update(rate=_rate, MARKS=MARKS)
    return environment.from_string(files("fusion.output").joinpath("compare.html").read_text(encoding="utf-8"))
