"""Records as CSV (RFC 4180): one row per medication, question or sum.

Knows records; knows no page image. A spreadsheet takes a cell that begins with = + - or @ for a formula; such cells get a
leading apostrophe, as OWASP advises for CSV injection, so a pupil's “-3+5” shows as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from fusion.page import Page, Record

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
}
"""Fields of each kind of record, in the order of the columns."""


def records_csv(pages: Iterable[Page]) -> str:
    """All records of some pages as one CSV text with a header; kinds that do not occur have no columns.

    Each row has page, kind, number on the page, the fields of its kind, the lowest confidence (empty when unknown), and
    the kinds of checks that point at it.
    """
    rows = [(page, number, record) for page in pages for number, record in enumerate(page.records, 1)]
    kinds = list(dict.fromkeys(record.kind for _, _, record in rows))
    names = list(dict.fromkeys(name for kind in kinds for name in COLUMNS.get(kind, ())))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["page", "kind", "number_on_page", *names, "confidence", "checks"])
    for page, number, record in rows:
        cells = [page.id, record.kind, str(number), *(_cell(record, name) for name in names)]
        writer.writerow([_harmless(cell) for cell in [*cells, _confidence(record), _checks(page, record)]])
    return out.getvalue()


def _cell(record: Record, name: str) -> str:
    """The transcript's words for a field; for what is only a value, the value."""
    found = [field.text for field in record.fields if field.name == name]
    if found:
        return " ".join(found)
    values = [field.value[name] for field in record.fields if name in field.value]
    return ("yes" if values[0] is True else "no" if values[0] is False else str(values[0])) if values else ""


def _confidence(record: Record) -> str:
    known = [field.confidence for field in record.fields if field.confidence is not None]
    return f"{min(known):.3f}" if known and len(known) == len(record.fields) else ""


def _checks(page: Page, record: Record) -> str:
    about = {place for field in record.fields for place in field.places}
    return " ".join(sorted({check.kind for check in page.checks if about & set(check.places)}))


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
