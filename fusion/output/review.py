"""The list a person works through: stretches that need a look, the most expensive first; and the corrections that come back.

Written into a folder: `review.html` (one page that works with the network off: the stretch boxed in its crop, one-key
choices or typing, export), `review.csv` with an empty column for the correction, a crop of each line in `crops/`, and the
pages themselves (`pages.jsonl`), into which `corrected` puts the corrections.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from fusion.errors import InputError
from fusion.output.crops import at_most, crop_line, data_uri, photo_scale
from fusion.output.edits import Correction, Edited, corrections_of, seen
from fusion.output.labelstudio import task_edits
from fusion.output.marks import template
from fusion.output.pagexml import page_edits
from fusion.output.table import FORMULA
from fusion.page import GAP, Line, Page, Place
from fusion.records import dump_page, load_page, load_pages
from fusion.review import NOTHING, Item, Review, review

_WHERE = ("rank", "page", "line", "start", "end")
COLUMNS = (*_WHERE, "text", "correction", "confidence", "cost", "reasons", "alternatives", "image_sha256")
PAGES = "pages.jsonl"
CROPS = "crops/crops.jsonl"
CHOICES = 9
"""Most one-key choices of a stretch."""
_GUARD = "'"
"""Put before a cell that a spreadsheet would take for a formula."""


class ReviewList:
    """Collects pages one by one, so that no photograph has to be kept, and writes the list of all."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made if it is missing."""
        self._folder = folder
        (folder / CROPS).parent.mkdir(parents=True, exist_ok=True)
        self._pages = (folder / PAGES).open("w", encoding="utf-8", newline="\n")
        self._index = (folder / CROPS).open("w", encoding="utf-8", newline="\n")
        self._cards: list[tuple[Item, dict[str, Any]]] = []
        self._found = NOTHING
        self._crops = 0

    def add(self, page: Page, photo: NDArray[np.uint8] | None) -> None:
        """Take a page; `photo` is uint8 (H, W, 3), RGB, as displayed; without it there are no pictures."""
        found = review(page, page.max_error)
        self._found += found
        self._pages.write(dump_page(page))
        lines = {line.id: line for line in page.lines}
        flagged = found.lines
        for item in found.items:
            line = lines[item.line]
            card = {"before": line.text[: item.start], "after": line.text[item.end :], "picture": None}
            if photo is not None:
                crop = crop_line(photo, line.polygon, photo_scale(photo, page), item.polygon)
                card["picture"] = data_uri(at_most(crop, 1400, 260)) if crop.size else None
            self._cards.append((item, asdict(item) | card | {"choices": _choices(item)}))
        for line in page.lines:
            if photo is not None and (page.id, line.id) in flagged:
                self._write_crop(page, line, crop_line(photo, line.polygon, photo_scale(photo, page)))

    def close(self) -> Review:
        """Write the list; returns what stands on it."""
        self._pages.close()
        self._index.close()
        self._cards.sort(key=lambda card: -card[0].expected_cost)
        table = review_csv([item for item, _ in self._cards])
        (self._folder / "review.csv").write_text(table, encoding="utf-8-sig", newline="")
        html = template("review.html").render(items=[card for _, card in self._cards], found=self._found)
        (self._folder / "review.html").write_text(html, encoding="utf-8")
        return self._found

    def _write_crop(self, page: Page, line: Line, crop: NDArray[np.uint8]) -> None:
        """A crop of a line, named so that `training_rows` finds it."""
        if crop.size:
            self._crops += 1
            file = f"{self._crops:05}.png"
            Image.fromarray(crop).save((self._folder / CROPS).with_name(file))
            row = {"page": page.id, "line": line.id, "image": file}
            self._index.write(json.dumps(row, ensure_ascii=False) + "\n")


def _choices(item: Item) -> list[dict[str, str]]:
    """What stands there, with its confidence; then what else may, the most probable first.

    Probabilities of alternatives are the model's own, not calibrated: they are not shown beside a confidence.
    """
    known = "" if item.confidence is None else f"{item.confidence:.0%}"
    own = [{"text": item.text, "chance": known}] if item.units else []
    return [*own, *({"text": other.text, "chance": ""} for other in item.alternatives[: CHOICES - len(own)])]


def review_csv(items: Sequence[Item]) -> str:
    """One row per item; alternatives as `text (probability)`, separated by ` | `; `correction` is left for the person."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for rank, item in enumerate(items, 1):
        others = " | ".join(f"{other.text} ({other.probability:.2f})" for other in item.alternatives)
        sure = "" if item.confidence is None else f"{item.confidence:.3f}"
        cells = [item.page, item.line, str(item.start), str(item.end), item.text, ""]
        cells += [sure, f"{item.cost:g}", "; ".join(item.reasons), others, item.image_sha256]
        guarded = [_GUARD + cell if cell.startswith((*FORMULA, _GUARD)) else cell for cell in cells]
        writer.writerow([str(rank), *guarded])
    return out.getvalue()


# --- the corrections that come back -----------------------------------------------------------------------------------


def read_corrections(path: Path, by: str, pages: Sequence[Page]) -> tuple[list[Correction], list[InputError]]:
    """Corrections from what a person filled in.

    That is the JSON that `review.html` saves, `review.csv` with its column filled in, PAGE XML (a file, or a folder of
    them), or an export of Label Studio.

    Args:
        path: the file or folder.
        by: who made them, where it does not say.
        pages: what was corrected.

    Returns:
        The corrections, and an error for each page that they don't fit.

    Raises:
        InputError: it is none of these.
    """
    try:
        files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
        if files and files[0].suffix.lower() == ".xml":
            written = {str(file): file.read_text(encoding="utf-8-sig") for file in files}
            return _of_edits({name: partial(page_edits, text) for name, text in written.items()}, by, pages)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return [_filled_in(row, by) for row in rows if row["correction"]], []
        exported = json.loads(text)
        if isinstance(exported, list) and exported and all("data" in one for one in exported):
            tasks = {f"task {number}": partial(task_edits, task) for number, task in enumerate(exported, 1)}
            return _of_edits(tasks, by, pages)
        return TypeAdapter(list[Correction]).validate_json(text), []
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except KeyError as error:
        problem = f"no column {error}"
    except (OSError, csv.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = type(error).__name__
    way = "Give corrections.json, review.csv filled in, PAGE XML that fusion wrote, or Label Studio's export as JSON."
    raise InputError(path, f"holds no corrections that can be understood ({problem})", way)


def _of_edits(
    edits: Mapping[str, Callable[[], Edited | None]], by: str, pages: Sequence[Page]
) -> tuple[list[Correction], list[InputError]]:
    """Corrections of whole pages, each read when its turn comes; keys name them in messages."""
    known = {seen(page)["page"]: page for page in pages}
    found, refused = list[Correction](), list[InputError]()
    for name, read in edits.items():
        try:
            if (edited := read()) is None:
                continue
            if edited.seen["page"] not in known:
                raise ValueError("is for no page of this review")
            found += corrections_of(known[edited.seen["page"]], edited, by)
        except ValueError as error:
            refused.append(InputError(name, str(error), "Correct what was written from the same pages."))
    return found, refused


def _filled_in(row: dict[str, str], by: str) -> Correction:
    cells = {name: row[name].removeprefix(_GUARD) for name in ("page", "image_sha256", "line", "start", "end")}
    old, text = row["text"].removeprefix(_GUARD), row["correction"].removeprefix(_GUARD)
    return Correction.model_validate({**cells, "old": old, "text": text, "by": by})


def review_pages(path: Path) -> list[Page]:
    """The pages of a review's folder, or of a file of page records.

    Raises:
        InputError: there are none.
    """
    if path.is_file():
        return load_pages(path)
    return [load_page(row, name=str(path / PAGES)) for row in _rows(path, PAGES)]


def corrected(before: Sequence[Page], corrections: Sequence[Correction]) -> tuple[list[Page], list[InputError]]:
    """The pages of a review with what a person decided: `human` spans, without records and remarks about text.

    Returns:
        All pages, and an error for each correction that could not be applied: for another photograph or another text
        than the person saw, for no stretch of the review, or overlapping another correction.
    """
    pages = []
    refused: list[InputError] = []
    wanted: dict[str, list[Correction]] = {}
    for one in corrections:
        wanted.setdefault(one.page, []).append(one)
    for page in before:
        fitting = [one for one in wanted.pop(page.id, []) if _applied(page, one, refused) is not page]
        fitting.sort(key=lambda one: (one.line, -one.start, -one.end))  # so that the places of the others stay
        clashing: list[Correction] = []
        for later, one in itertools.pairwise(fitting):
            if later.line == one.line and (later.start < one.end or later.start == one.start):
                clashing += [later, one]
        for one in fitting:
            if one in clashing:
                refused.append(_refusal(one, "overlaps another one; keep one of them"))
            else:
                page = _applied(page, one, refused)
        pages.append(page)
    refused += [_refusal(one, "names no page of this review") for others in wanted.values() for one in others]
    return pages, refused


def _applied(page: Page, one: Correction, refused: list[InputError]) -> Page:
    """The page with a correction; the page itself where it is refused."""
    try:
        edited = page.edit(Place(one.line, one.start, one.end), one.text, one.by)
    except ValueError as error:
        refused.append(_refusal(one, f"can't be made: {error}"))
        return page
    text = next(line.text for line in page.lines if line.id == one.line)[one.start : one.end]
    if one.image_sha256 == page.image_sha256 and one.old == text:
        return edited
    other = f"another text: “{text}” stands there" if one.image_sha256 == page.image_sha256 else "another photograph"
    refused.append(_refusal(one, f"is for {other}"))
    return page


def _refusal(one: Correction, problem: str) -> InputError:
    subject = f"{one.page} {one.line}, “{one.old}” → “{one.text}”"
    return InputError(subject, f"the correction {problem}", "Correct the list of the same run.")


def training_rows(folder: Path, pages: Sequence[Page]) -> str:
    """Lines that a person decided, as rows of JSON {"image", "text"} that `python -m fusion.train adapt` takes.

    A line with a stretch that still needs a look, or with anything illegible in it, is left out.
    """
    index = [json.loads(row) for row in _rows(folder, CROPS)] if folder.is_dir() else []
    crops = {(row["page"], row["line"]): (folder / CROPS).with_name(row["image"]) for row in index}
    found = ""
    for page in pages:
        unsure = {line for _, line in review(page, page.max_error).lines}
        for line in page.lines:
            human = any(span.source == "human" for span in line.spans)
            image = crops.get((page.id, line.id))
            if human and image is not None and line.id not in unsure and GAP not in line.text:
                row = {"image": str(image.resolve()), "text": unicodedata.normalize("NFC", line.text)}
                found += json.dumps(row, ensure_ascii=False) + "\n"
    return found


def _rows(folder: Path, name: str) -> list[str]:
    try:
        return [row for row in (folder / name).read_text(encoding="utf-8").split("\n") if row]
    except (OSError, UnicodeDecodeError) as error:
        way = "Give a folder that `fusion transcribe --review` wrote, or the .json file of a page."
        raise InputError(folder, f"holds no {name}" if folder.exists() else "does not exist", way) from error
