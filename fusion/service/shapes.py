"""What goes over the wire: a page as the review page shows it, and in the shape of Azure's Read.

Derived from `Page`; adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rapidfuzz.distance import Levenshtein

from fusion.output.marks import MARKS
from fusion.page import Line, Page, Polygon, Reading
from fusion.review import Item, judge, review

CHOICES = 9
"""Most one-key choices of a stretch."""


def shown(page: Page) -> dict[str, Any]:
    """A page for the review page: lines with spans and readings, the queue, fields and remarks."""
    lines = {line.id: line for line in page.lines}
    found = review(page, page.max_error)
    return {
        "id": page.id,
        "width": page.width,
        "height": page.height,
        "lines": [_line(line) for line in page.lines],
        "queue": [_item(item, lines[item.line]) for item in found.items],
        "stretches": found.total,
        "records": [
            {"kind": record.kind, "fields": [asdict(field) for field in record.fields]} for record in page.records
        ],
        "checks": [asdict(check) for check in page.checks],
        "findings": [finding.message for finding in page.findings],
        "failures": [failure.message for failure in page.failures],
        "sources": {mark.source: {"letter": mark.letter, "meaning": mark.meaning} for mark in MARKS.values()},
    }


def _line(line: Line) -> dict[str, Any]:
    spans, start = [], 0
    for span in line.spans:
        end = start + len(span.text)
        kept = {name: getattr(span, name) for name in ("text", "source", "confidence", "because", "mark", "by")}
        spans.append({**kept, "start": start, "end": end})
        start = end
    readings = [{"by": reading.source, "text": reading.text} for reading in line.readings]
    return {"id": line.id, "polygon": line.polygon, "spans": spans, "readings": readings, "printed": line.printed}


def _item(item: Item, line: Line) -> dict[str, Any]:
    """One stretch of the queue. The first choice is what stands there; only its probability is calibrated."""
    own = [{"text": item.text, "probability": item.confidence}] if item.units else []
    others = [{"text": other.text, "probability": other.probability} for other in item.alternatives]
    return {
        **{name: getattr(item, name) for name in ("line", "start", "end", "text", "confidence", "polygon", "reasons")},
        "expected_cost": item.expected_cost,
        "choices": [*own, *others][:CHOICES],
        "readings": [_around(one, line.text, item.start, item.end) for one in line.readings],
    }


def _around(reading: Reading, text: str, start: int, end: int) -> dict[str, str]:
    """What a reading has where a stretch of the text stands, and before and after it."""
    left, right = aligned(reading.text, text, start, end)
    parts = {"before": reading.text[:left], "text": reading.text[left:right], "after": reading.text[right:]}
    return {"by": reading.source, **parts}


def aligned(reading: str, text: str, start: int, end: int) -> tuple[int, int]:
    """Where a reading has the stretch from `start` to `end` of a text, by the shortest edits between the two."""
    found = []
    for op in Levenshtein.opcodes(text, reading):
        left, right = max(op.src_start, start), min(op.src_end, end)
        inserted = op.src_start == op.src_end and start <= op.src_start <= end
        if op.tag == "equal" and left < right:
            shift = op.dest_start - op.src_start
            found.append((left + shift, right + shift))
        elif op.tag != "equal" and (left < right or inserted):
            found.append((op.dest_start, op.dest_end))
    return (found[0][0], found[-1][1]) if found else (0, 0)


def azure(pages: Sequence[Page]) -> dict[str, Any]:
    """Pages in the shape of Azure's Read: words and lines with polygon and place in one text. Unknown confidence is null."""
    texts = ["\n".join(line.text for line in page.lines) for page in pages]
    starts = [sum(len(text) + 1 for text in texts[:n]) for n in range(len(texts))]
    made = [_azure_page(page, number, start) for number, (page, start) in enumerate(zip(pages, starts, strict=True), 1)]
    return {
        "status": "succeeded",
        "analyzeResult": {
            "apiVersion": "2024-11-30",
            "modelId": "prebuilt-read",
            "stringIndexType": "unicodeCodePoint",
            "content": "\n".join(texts),
            "pages": made,
        },
    }


def _azure_page(page: Page, number: int, start: int) -> dict[str, Any]:
    words: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for line, units, _ in judge(page, page.max_error):
        words += _azure_words(units, start)
        extent = {"offset": start, "length": len(line.text)}
        lines.append({"content": line.text, "polygon": _flat(line.polygon), "spans": [extent]})
        start += len(line.text) + 1
    first = lines[0]["spans"][0]["offset"] if lines else start
    return {
        "pageNumber": number,
        "angle": page.angle,
        "width": page.width,
        "height": page.height,
        "unit": "pixel",
        "words": words,
        "lines": lines,
        "spans": [{"offset": first, "length": max(0, start - 1 - first)}],
    }


def _azure_words(units: Sequence[Item], start: int) -> Iterator[dict[str, Any]]:
    for unit in units:
        yield {
            "content": unit.text,
            "polygon": _flat(unit.polygon),
            "confidence": unit.confidence,
            "span": {"offset": start + unit.start, "length": unit.end - unit.start},
        }


def _flat(polygon: Polygon) -> list[float]:
    return [round(value, 1) for point in polygon for value in point]
