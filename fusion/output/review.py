"""The list a person works through: stretches that need a look, the most expensive first, and what becomes of the answers.

Written into a folder: `review.html` (one page that works with the network off: the stretch boxed in its crop, one-key
choices or typing, export), `review.csv` with an empty column for the correction, a crop of each line in `crops/`, and the
pages themselves (`pages.jsonl`), to which `apply` adds the corrections. Knows items of `review`; decides nothing.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fusion.errors import InputError
from fusion.page import GAP, Page, Place
from fusion.records import dump_page, load_page
from fusion.review import Item, Review, review

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
)
HTML, CSV, PAGES, CROPS = "review.html", "review.csv", "pages.jsonl", "crops"
CHOICES = 9
"""Most one-key choices of a stretch."""
_GUARD = "'"
"""Put before a cell that a spreadsheet would take for a formula."""


class Correction(BaseModel):
    """What a person decided about one stretch.

    Attributes:
        page: id of the page.
        line: id of the line.
        start: code points of the line's text, half-open.
        end: see `start`.
        text: what stands there; "" for nothing.
        by: who decided, and when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    page: str
    line: str
    start: int
    end: int
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class _Row:
    """An item with its pictures and the text around it; the photograph is no longer needed."""

    item: Item
    before: str
    after: str
    picture: str | None


class ReviewList:
    """Collects pages one by one, so that no photograph has to be kept, and writes the list of all."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made if it is missing."""
        self._folder = folder
        (folder / CROPS).mkdir(parents=True, exist_ok=True)
        self._pages = (folder / PAGES).open("w", encoding="utf-8", newline="\n")
        self._rows: list[_Row] = []
        self._found = Review((), 0, frozenset())
        self._crops = 0

    def add(self, page: Page, photo: NDArray[np.uint8] | None) -> None:
        """Take a page; `photo` is uint8 (H, W, 3), RGB, as displayed; without it there are no pictures."""
        found = review(page, page.max_error)
        self._found += found
        self._pages.write(dump_page(page))
        lines = {line.id: line for line in page.lines}
        for item in found.items:
            text = lines[item.line].text
            picture = _boxed(photo, page, item) if photo is not None else None
            self._rows.append(_Row(item, text[: item.start], text[item.end :], picture))
        if photo is not None:
            self._write_crops(page, photo, {line for _, line in found.lines})

    def close(self) -> Review:
        """Write the list; returns what stands on it."""
        self._pages.close()
        rows = sorted(self._rows, key=lambda row: -row.item.expected_cost)
        (self._folder / CSV).write_text(review_csv([row.item for row in rows]), encoding="utf-8-sig", newline="")
        (self._folder / HTML).write_text(_html(rows, self._found), encoding="utf-8")
        return self._found

    def _write_crops(self, page: Page, photo: NDArray[np.uint8], wanted: set[str]) -> None:
        """A crop of each line that is wanted, named so that `apply` finds it."""
        from PIL import Image

        from fusion.output.crops import crop_line, photo_scale

        scale = photo_scale(photo, page)
        with (self._folder / CROPS / "crops.jsonl").open("a" if self._crops else "w", encoding="utf-8") as index:
            for line in page.lines:
                crop = crop_line(photo, line.polygon, scale) if line.id in wanted else None
                if crop is None or not crop.size:
                    continue
                self._crops += 1
                name = f"{self._crops:05}.png"
                Image.fromarray(crop).save(self._folder / CROPS / name)
                index.write(json.dumps({"page": page.id, "line": line.id, "image": name}, ensure_ascii=False) + "\n")


def _boxed(photo: NDArray[np.uint8], page: Page, item: Item) -> str | None:
    from fusion.output.crops import at_most, crop_boxed, data_uri, photo_scale

    line = next(line for line in page.lines if line.id == item.line)
    crop = crop_boxed(photo, line.polygon, item.polygon, photo_scale(photo, page))
    return data_uri(at_most(crop, 1400, 260)) if crop.size else None


def _html(rows: Sequence[_Row], found: Review) -> str:
    from importlib.resources import files

    import jinja2

    from fusion.output.marks import visible

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["visible"] = visible
    template = environment.from_string((files("fusion.output") / HTML).read_text(encoding="utf-8"))
    items = [
        {
            **asdict(row.item),
            "before": row.before,
            "after": row.after,
            "picture": row.picture,
            "choices": _choices(row.item),
        }
        for row in rows
    ]
    return template.render(items=items, total=found.total, flagged=found.flagged)


def _choices(item: Item) -> list[dict[str, str]]:
    """What stands there, with its confidence; then what else may, the most probable first.

    Probabilities of alternatives are the model's own, not calibrated: they are not shown beside a confidence.
    """
    known = "" if item.confidence is None else f"{item.confidence:.0%}"
    own = [{"text": item.text, "chance": known}]
    return [*own, *({"text": other.text, "chance": ""} for other in item.alternatives[: CHOICES - 1])]


def review_csv(items: Sequence[Item]) -> str:
    """One row per item; alternatives as `text (probability)`, separated by ` | `; `correction` is left for the person."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for rank, item in enumerate(items, 1):
        others = " | ".join(f"{other.text} ({other.probability:.2f})" for other in item.alternatives)
        sure = "" if item.confidence is None else f"{item.confidence:.3f}"
        place = [item.page, item.line, str(item.start), str(item.end), item.text, ""]
        cells = [*place, sure, f"{item.cost:g}", "; ".join(item.reasons), others]
        writer.writerow(
            [str(rank), *(_GUARD + c if c[:1] in ("=", "+", "-", "@", "\t", "\r", _GUARD) else c for c in cells)]
        )
    return out.getvalue()


# --- what becomes of the answers --------------------------------------------------------------------------------------


def read_corrections(path: Path, by: str) -> list[Correction]:
    """Corrections from the JSON that `review.html` saves, or from `review.csv` with its column filled in.

    Args:
        path: the file.
        by: who filled in the CSV.

    Raises:
        InputError: it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".csv":
            return TypeAdapter(list[Correction]).validate_json(text)
        return [
            Correction(
                page=_unguarded(row["page"]),
                line=row["line"],
                start=int(row["start"]),
                end=int(row["end"]),
                text=_unguarded(row["correction"]),
                by=by,
            )
            for row in csv.DictReader(io.StringIO(text, newline=""))
            if row["correction"]
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False)[0]
            kind = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            kind = f"no column {error}" if isinstance(error, KeyError) else type(error).__name__
        way = "Give corrections.json as the review page saves it, or review.csv with the column `correction` filled in."
        raise InputError(path, f"holds no corrections that can be understood ({kind})", way) from error


def _unguarded(cell: str) -> str:
    return cell.removeprefix(_GUARD)


def corrected(folder: Path, corrections: Sequence[Correction]) -> Iterator[Page]:
    """The pages of a review with what a person decided: `human` spans, without records and remarks about text.

    Raises:
        InputError: the folder holds no review, or a correction names a page or stretch that is not in it.
    """
    try:
        stored = (folder / PAGES).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            folder, f"holds no {PAGES}", "Give a folder that `fusion transcribe --review` wrote."
        ) from error
    wanted: dict[str, list[Correction]] = {}
    for one in corrections:
        wanted.setdefault(one.page, []).append(one)
    for row in filter(None, stored):
        page = load_page(row, name=str(folder / PAGES))
        # From the end of a line to its start, so that the places of the others stay.
        ordered = sorted(wanted.pop(page.id, []), key=lambda one: (one.line, -one.start, -one.end))
        for later, one in itertools.pairwise(ordered):
            if later.line == one.line and later.start < one.end:
                problem = f"two corrections overlap at {later.start}"
                raise InputError(f"{one.page} {one.line}", problem, "Keep one of them.")
        for one in ordered:
            try:
                page = page.edit(Place(one.line, one.start, one.end), one.text, one.by)
            except ValueError as error:
                raise InputError(f"{one.page} {one.line}", str(error), "Correct the list of the same run.") from error
        yield page
    if wanted:
        raise InputError(next(iter(wanted)), "is no page of this review", "Correct the list of the same run.")


def training_rows(folder: Path, pages: Sequence[Page]) -> str:
    """Lines that a person decided, as rows of JSON {"image", "text"} that `python -m fusion.train adapt` takes.

    A line with a stretch that still needs a look, or with anything illegible in it, teaches nothing certain.
    """
    try:
        rows: list[dict[str, Any]] = [
            json.loads(row) for row in (folder / CROPS / "crops.jsonl").read_text(encoding="utf-8").split("\n") if row
        ]
    except (OSError, ValueError):
        rows = []
    crops = {(row["page"], row["line"]): folder / CROPS / row["image"] for row in rows}
    found = []
    for page in pages:
        unsure = {line for _, line in review(page, page.max_error).lines}
        for line in page.lines:
            human = any(span.source == "human" for span in line.spans)
            image = crops.get((page.id, line.id))
            if human and image is not None and line.id not in unsure and GAP not in line.text:
                text = unicodedata.normalize("NFC", line.text)
                found.append(json.dumps({"image": str(image.resolve()), "text": text}, ensure_ascii=False))
    return "\n".join(found) + ("\n" if found else "")
