"""Output: a finished Page becomes JSON, plain text, a picture, and a comparison that a person can check.

Knows the data model and how to show it. Does not read, decide or change anything: whatever is written here is derived
from a `Page`, so that it can be thrown away and written again.

    text      plain, marked and diplomatic transcripts
    marks     the one table of how a source looks: colour, letter, underline
    crops     lines cut out of the photograph
    overlay   the photograph with lines and spans drawn on it
    compare   OCR-only against fused: differences, counts, character error rate
    console   a comparison in the terminal
    report    a comparison as one self-contained HTML file
    fhir      medications as FHIR R4
    table     records as CSV
    tei       the transcript as TEI, with what is struck out, added, unclear, supplied
    review    the stretches that a person must look at, and what becomes of the answers
    formats   all of these by name, printed or as files

Importing this room loads none of Pillow, OpenCV, jinja2, pydantic and rich; using a function loads what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.output.compare import Comparison, cer, compare_page, page_cer
    from fusion.output.console import terminal
    from fusion.output.fhir import medication_requests
    from fusion.output.overlay import draw_overlay
    from fusion.output.report import html
    from fusion.output.review import ReviewList, corrected, read_corrections, training_rows
    from fusion.output.table import records_csv
    from fusion.output.tei import tei_document
    from fusion.output.text import plain

__all__ = [
    "Comparison",
    "ReviewList",
    "cer",
    "compare_page",
    "corrected",
    "draw_overlay",
    "html",
    "medication_requests",
    "page_cer",
    "plain",
    "read_corrections",
    "records_csv",
    "tei_document",
    "terminal",
    "training_rows",
]

_HOMES = {
    "Comparison": "compare",
    "cer": "compare",
    "compare_page": "compare",
    "draw_overlay": "overlay",
    "html": "report",
    "medication_requests": "fhir",
    "page_cer": "compare",
    "plain": "text",
    "records_csv": "table",
    "tei_document": "tei",
    "terminal": "console",
    "ReviewList": "review",
    "corrected": "review",
    "read_corrections": "review",
    "training_rows": "review",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion.output' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(f"fusion.output.{_HOMES[name]}"), name)
