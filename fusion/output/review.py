"""The list a person works through: words that are not accepted, why, and what else may stand there.

Knows decided pages; decides nothing but what is listed. The unit is a word, a stretch without white space. The text goes
into these files because the user asks for them; nothing of it is logged.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.page import Candidate, Line, Page, Polygon, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One word to look at.

    Attributes:
        page: id of the page.
        line: id of the line.
        start: code points of the line's text, half-open.
        end: see `start`.
        text: the word as decided.
        confidence: lowest of its spans, or None when one is unknown.
        reasons: machine-readable: `confidence`, `gap`, `supplied`, a rule that disputes, or the kind of a check.
        alternatives: other words for the same place, most probable first.
        polygon: of the line, px of the photograph.
    """

    page: str
    line: str
    start: int
    end: int
    text: str
    confidence: float | None
    reasons: tuple[str, ...]
    alternatives: tuple[Candidate, ...]
    polygon: Polygon


def review_items(page: Page, bound: float, disputed: Collection[str]) -> tuple[ReviewItem, ...]:
    """Words of a page that are not accepted, in reading order.

    Args:
        page: a decided page.
        bound: confidence from which a word is accepted; see `Engine.review_below`.
        disputed: rules that settle what only a person can; see `review.DISPUTED`.
    """
    return tuple(item for line in page.lines for item in _items(page, line, bound, disputed))


def _items(page: Page, line: Line, bound: float, disputed: Collection[str]) -> Iterator[ReviewItem]:
    for start, end in _words(line.text):
        spans = list(_spans(line, start, end))
        values = [None if span.source == "gap" else span.confidence for _, span in spans]
        known = [value for value in values if value is not None]
        confidence = min(known) if known and len(known) == len(values) else None
        reasons = ["confidence"] if confidence is None or confidence < bound else []
        reasons += [span.source for _, span in spans if span.source in ("gap", "supplied")]
        reasons += [span.because for _, span in spans if span.because in disputed]
        reasons += [
            check.kind
            for check in page.checks
            for place in check.places
            if check.review and place.line == line.id and place.start < end and place.end > start
        ]
        if reasons:
            text = line.text[start:end]
            yield ReviewItem(
                page.id,
                line.id,
                start,
                end,
                text,
                confidence,
                tuple(dict.fromkeys(reasons)),
                _alternatives(line.text, start, end, spans),
                line.polygon,
            )


def _words(text: str) -> Iterator[tuple[int, int]]:
    start = None
    for place, character in enumerate(text + " "):
        if character.isspace():
            if start is not None:
                yield start, place
            start = None
        elif start is None:
            start = place


def _spans(line: Line, start: int, end: int) -> Iterator[tuple[int, Span]]:
    """Spans that a word touches, with where they begin."""
    left = 0
    for span in line.spans:
        right = left + len(span.text)
        if left < end and right > start:
            yield left, span
        left = right


def _alternatives(text: str, start: int, end: int, spans: Sequence[tuple[int, Span]]) -> tuple[Candidate, ...]:
    """The word with one of its spans read otherwise; a span that goes beyond the word changes its neighbours too."""
    found: dict[str, Candidate] = {}
    for left, span in spans:
        right = left + len(span.text)
        for other in span.alternatives:
            word = text[min(start, left) : left] + other.text + text[right : max(end, right)]
            if word not in found or found[word].probability < other.probability:
                found[word] = Candidate(word, other.probability, other.ink)
    return tuple(sorted(found.values(), key=lambda other: -other.probability))


def review_csv(items: Sequence[ReviewItem]) -> str:
    """One row per word; alternatives as `text (probability)`, separated by ` | `."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["page", "line", "start", "end", "text", "confidence", "reasons", "alternatives", "crop"])
    for number, item in enumerate(items, 1):
        others = " | ".join(f"{other.text} ({other.probability:.2f})" for other in item.alternatives)
        sure = "" if item.confidence is None else f"{item.confidence:.3f}"
        cells = [item.page, item.line, str(item.start), str(item.end), item.text, sure, " ".join(item.reasons), others]
        writer.writerow(
            [*(f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell for cell in cells), crop_name(number)]
        )
    return out.getvalue()


def review_json(items: Sequence[ReviewItem]) -> str:
    """The same as a JSON array."""
    rows = [{**asdict(item), "crop": crop_name(number)} for number, item in enumerate(items, 1)]
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def crop_name(number: int) -> str:
    """File name of an item's crop inside the folder of the list."""
    return f"review/{number:04}.png"


def write_review(folder: Path, items: Sequence[ReviewItem], photos: dict[str, NDArray[np.uint8]]) -> tuple[str, ...]:
    """Write `review.csv`, `review.json` and a crop of each item's line; returns the names of the lists.

    Args:
        folder: exists.
        items: words to look at.
        photos: page id → photograph, uint8 (H, W, 3) RGB; without one there are no crops of that page.
    """
    from PIL import Image

    from fusion.output.crops import crop_line

    (folder / "review.csv").write_text(review_csv(items), encoding="utf-8-sig", newline="")
    (folder / "review.json").write_text(review_json(items), encoding="utf-8")
    (folder / "review").mkdir(exist_ok=True)
    for number, item in enumerate(items, 1):
        photo = photos.get(item.page)
        crop = crop_line(photo, item.polygon, (1.0, 1.0)) if photo is not None else None
        if crop is not None and crop.size:
            Image.fromarray(crop).save(folder / crop_name(number))
    return "review.csv", "review.json"
