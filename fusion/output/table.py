"""Records as CSV (RFC 4180): one row per medication, question or sum, and per line of a page that has none.

Knows records; knows no page image. A spreadsheet takes a cell that begins with = + - or @ for a formula; such cells get a
leading apostrophe, as OWASP advises for CSV injection, so a pupil's “-3+5” shows as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from fusion.page import Field, Page, Place, Record, lowest
from fusion.review import review

COLUMNS = {
    "medication": (
        "drug",
        "strength",
        "form",
        "dose",
        "route",
        "frequency",
        "when",
        "as_needed",
        "duration",
        "quantity",
        "text",
    ),
    "question": ("number", "question", "answer"),
    "sum": ("sum", "holds", "left", "right"),
    "formula": ("formula", "latex"),
    "line": ("text",),
}
"""Fields of each kind of record, in the order of the columns. All columns are always there: the files of many runs fit
together."""


def records_csv(pages: Iterable[Page]) -> str:
    """All records of some pages as one CSV text with a header.

    Each row has page, kind, number on the page, the fields of its kind, the lowest confidence (empty when unknown),
    whether a person must look at it, and the kinds of checks that point at it.
    """
    names = list(dict.fromkeys(name for columns in COLUMNS.values() for name in columns))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["page", "kind", "number_on_page", *names, "confidence", "review", "checks"])
    for page in pages:
        flagged = {(item.line, n) for item in review(page, page.max_error).items for n in range(item.start, item.end)}
        for number, record in enumerate(page.records or _lines(page), 1):
            cells = [page.id, record.kind, str(number), *(_cell(record, name) for name in names)]
            places = {
                (place.line, n) for f in record.fields for place in f.places for n in range(place.start, place.end)
            }
            look = "yes" if flagged & places else "no"
            writer.writerow([_harmless(cell) for cell in [*cells, _confidence(record), look, _checks(page, record)]])
    return out.getvalue()


def _lines(page: Page) -> list[Record]:
    """Lines as records, for pages of which no profile understands anything."""
    return [
        Record("line", (Field("text", line.text, (Place(line.id, 0, len(line.text)),), line.confidence),))
        for line in page.lines
        if line.text
    ]


def _cell(record: Record, name: str) -> str:
    """The transcript's words for a field; for what is only a value, the value."""
    found = [field.text for field in record.fields if field.name == name]
    if found:
        return " ".join(found)
    values = [field.value[name] for field in record.fields if name in field.value]
    return ("yes" if values[0] is True else "no" if values[0] is False else str(values[0])) if values else ""


def _confidence(record: Record) -> str:
    sure = lowest(field.confidence for field in record.fields)
    return "" if sure is None else f"{sure:.3f}"


def _checks(page: Page, record: Record) -> str:
    return " ".join(sorted({check.kind for check in page.about(record)}))


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
