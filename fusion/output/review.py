"""The list a person works through: stretches that need a look, dearest first, why, and what else may stand there.

Knows items of `review` and how to write them; decides nothing. The text goes into these files because the user asks for
them; nothing of it is logged.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.page import Page
from fusion.review import Item, Review

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = (
    "rank",
    "page",
    "line",
    "start",
    "end",
    "text",
    "correction",
    "confidence",
    "cost",
    "reasons",
    "alternatives",
    "crop",
)


def review_csv(items: Sequence[Item], crops: Mapping[tuple[str, str], str] | None = None) -> str:
    """One row per item; alternatives as `text (probability)`, separated by ` | `; `correction` is left for the person."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for rank, item in enumerate(items, 1):
        others = " | ".join(f"{other.text} ({other.probability:.2f})" for other in item.alternatives)
        sure = "" if item.confidence is None else f"{item.confidence:.3f}"
        place = [item.page, item.line, str(item.start), str(item.end), item.text, ""]
        cells = [
            *place,
            sure,
            f"{item.cost:g}",
            "; ".join(item.reasons),
            others,
            (crops or {}).get((item.page, item.line), ""),
        ]
        # A cell that begins like a formula would be one in a spreadsheet.
        writer.writerow([str(rank), *(f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell for cell in cells)])
    return out.getvalue()


def review_json(found: Review, crops: Mapping[tuple[str, str], str] | None = None) -> str:
    """The same as a JSON object, with how many stretches there are and need a look."""
    rows = [
        {"rank": rank, **asdict(item), "crop": (crops or {}).get((item.page, item.line))}
        for rank, item in enumerate(found.items, 1)
    ]
    content = {"stretches": found.total, "to_review": found.flagged, "items": rows}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def write_review(
    folder: Path, found: Review, pages: Sequence[tuple[Page, NDArray[np.uint8] | None]]
) -> tuple[str, ...]:
    """Write `review.csv`, `review.json` and a crop of each line of `found.lines`; returns the names of the lists.

    Args:
        folder: exists.
        found: what needs a look.
        pages: each page with its photograph, uint8 (H, W, 3) RGB; without one there are no crops of that page.
    """
    from PIL import Image

    from fusion.output.crops import crop_line

    (folder / "review").mkdir(exist_ok=True)
    crops: dict[tuple[str, str], str] = {}
    for page, photo in pages:
        for line in page.lines:
            if (page.id, line.id) not in found.lines or photo is None:
                continue
            crop = crop_line(photo, line.polygon, (1.0, 1.0))
            if crop is not None and crop.size:
                name = f"review/{len(crops) + 1:04}.png"
                Image.fromarray(crop).save(folder / name)
                crops[page.id, line.id] = name
    (folder / "review.csv").write_text(review_csv(found.items, crops), encoding="utf-8-sig", newline="")
    (folder / "review.json").write_text(review_json(found, crops), encoding="utf-8")
    return "review.csv", "review.json"
