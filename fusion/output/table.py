"""Records as CSV (RFC 4180): one row per medication, question or sum, and per line of a page that has none.

A spreadsheet takes a cell that begins with = + - or @ for a formula; such cells get a leading apostrophe, as OWASP
advises for CSV injection, so a pupil's “-3+5” shows as text. Supplied text stands in square brackets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from fusion.output.units import written
from fusion.page import Field, Page, Place, Record, lowest
from fusion.review import review

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a cell that a spreadsheet takes for a formula."""
_MEDICATION = "drug strength form dose route frequency when as_needed duration quantity text"
COLUMNS = (*_MEDICATION.split(), "number", "question", "answer", "sum", "holds", "left", "right", "formula", "latex")
"""Fields of medications (and the text of lines), questions, sums and formulas. All columns are always there, so that the
files of many runs fit together."""


def records_csv(pages: Iterable[Page]) -> str:
    """All records of some pages as one CSV text with a header.

    Each row has page, kind, number on the page, the fields of its kind, the lowest confidence (empty when unknown),
    whether a person must look at it, and the kinds of checks that point at it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["page", "kind", "number_on_page", *COLUMNS, "confidence", "review", "checks"])
    for page in pages:
        flagged = [Place(i.line, i.start, i.end) for i in review(page, page.max_error).items]
        for number, record in enumerate(written(page) or _lines(page), 1):
            sure = lowest(field.confidence for field in record.fields)
            cells = [
                page.id,
                record.kind,
                str(number),
                *(_cell(record, name) for name in COLUMNS),
                "" if sure is None else f"{sure:.3f}",
                "yes" if any(own.overlaps(place) for own in record.places for place in flagged) else "no",
                " ".join(sorted({check.kind for check in page.about(record)})),
            ]
            writer.writerow([f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells])
    return out.getvalue()


def _lines(page: Page) -> list[Record]:
    """Lines as records, for pages of which no profile understands anything."""
    return [
        Record("line", (Field("text", line.marked, (Place(line.id, 0, len(line.text)),), line.confidence),))
        for line in page.lines
        if line.text
    ]


def _cell(record: Record, name: str) -> str:
    """The transcript's words for a field; for what is only a value, the value."""
    found = [field.text for field in record.fields if field.name == name]
    if found:
        return " ".join(found)
    value = next((field.value[name] for field in record.fields if name in field.value), "")
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
