from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fusion.domain import homework, prescription
from fusion.errors import InputError
from fusion.output.edits import Correction
from fusion.output.fhir import medication_requests
from fusion.output.review import (
    COLUMNS,
    ReviewList,
    corrected,
    read_corrections,
    review_csv,
    review_pages,
    training_rows,
)
from fusion.output.table import records_csv
from fusion.output.tei import tei_document
from fusion.page import Candidate, Failure, Line, Page, Place, Span
from fusion.records import load_page
from fusion.review import Review, review
from tests.made_pages import page
from tests.strategies import pages

RX = page("1. Amoxicillin 500 mg", "1 cap tid x 7 days pc", "2. Napa 120 mg/5 ml", "5 ml q8h prn #1")
UNITS = {"s", "min", "h", "d", "wk", "mo", "a"}


def understood(made: Page) -> Page:
    records = prescription.medications(made, lambda word: True)
    checks = prescription.checks(made, records, lambda word: True, ranges=(), lookalikes=(), most_drugs=5)
    return replace(made, records=records, checks=checks)


def nothing_empty(value: object) -> bool:
    """FHIR has neither null nor empty arrays, objects and strings."""
    if isinstance(value, dict):
        return bool(value) and all(nothing_empty(v) for v in value.values())
    if isinstance(value, list):
        return bool(value) and all(nothing_empty(v) for v in value)
    return value not in (None, "")


def test_medications_are_fhir_r4() -> None:
    bundle = json.loads(medication_requests([understood(RX)]))
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "collection")
    first, second = (entry["resource"] for entry in bundle["entry"])
    assert nothing_empty(bundle)
    for request in (first, second):
        assert request["resourceType"] == "MedicationRequest"
        assert (request["status"], request["intent"]) == ("draft", "proposal")
        assert request["subject"] == {"display": "not extracted"}
        assert len(request["dosageInstruction"]) == 1
    dosage = first["dosageInstruction"][0]
    assert dosage["text"] == "1 cap tid x 7 days pc"
    repeat = dosage["timing"]["repeat"]
    assert (repeat["frequency"], repeat["period"], repeat["periodUnit"], repeat["when"]) == (3, 1, "d", ["PC"])
    assert repeat["boundsDuration"]["code"] in UNITS
    assert dosage["doseAndRate"][0]["doseQuantity"]["value"] == 1
    assert dosage["doseAndRate"][0]["doseQuantity"]["unit"] == "capsule"
    assert second["medicationCodeableConcept"]["text"] == "Napa 120 mg/5 ml"
    assert second["dosageInstruction"][0]["asNeededBoolean"] is True
    assert second["dispenseRequest"]["quantity"]["value"] == 1
    assert second["dosageInstruction"][0]["timing"]["repeat"]["periodUnit"] in UNITS


def test_what_could_not_be_parsed_stays_text_in_fhir() -> None:
    (entry,) = json.loads(medication_requests([understood(page("1. Napa 500 mg", "I tab bid"))]))["entry"]
    dosage = entry["resource"]["dosageInstruction"][0]
    assert dosage["text"] == "I tab bid"
    assert "doseAndRate" not in dosage
    assert any("unread_dose" in e.get("valueString", "") for e in entry["resource"]["extension"])


def test_a_page_without_drugs_is_an_empty_collection() -> None:
    assert json.loads(medication_requests([page("hello")])) == {"resourceType": "Bundle", "type": "collection"}


def test_records_are_rows_of_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(records_csv([understood(RX)]))))
    assert [(row["drug"], row["strength"], row["dose"], row["frequency"]) for row in rows] == [
        ("Amoxicillin", "500 mg", "1 cap", "tid"),
        ("Napa", "120 mg/5 ml", "5 ml", "q8h"),
    ]
    assert all(row["confidence"] == "0.900" for row in rows)
    assert [row["review"] for row in rows] == ["yes", "yes"]


def test_columns_are_the_same_whatever_is_on_the_pages_and_lines_stand_for_a_page_without_records() -> None:
    header, *rows = csv.reader(io.StringIO(records_csv([understood(RX), page("hello", "you")])))
    assert header == next(csv.reader(io.StringIO(records_csv([]))))
    assert [row[1] for row in rows] == ["medication", "medication", "line", "line"]
    assert [row[header.index("text")] for row in rows[2:]] == ["hello", "you"]


def test_a_check_inside_a_field_goes_with_its_record() -> None:
    made = understood(page("1. Napa 5.0 mg", "1 tab bid"))
    assert "trailing_zero" in {check.kind for check in made.checks}
    (rows,) = csv.DictReader(io.StringIO(records_csv([made])))
    assert "trailing_zero" in rows["checks"]
    (entry,) = json.loads(medication_requests([made]))["entry"]
    assert any("trailing_zero" in e.get("valueString", "") for e in entry["resource"]["extension"])


def test_no_two_medications_share_an_id() -> None:
    pages = [understood(RX), replace(understood(RX), id="b/scan.jpg")]
    entries = json.loads(medication_requests(pages))["entry"]
    assert len({entry["fullUrl"] for entry in entries}) == len(entries) == 4
    assert json.loads(medication_requests(pages))["entry"] == entries  # read again, the same ids


def test_a_cell_that_looks_like_a_formula_is_text() -> None:
    made = page("-3+5=2")
    made = replace(made, records=homework.exercises(made))
    (row,) = csv.DictReader(io.StringIO(records_csv([made])))
    assert row["sum"] == "'-3+5=2"
    assert row["holds"] == "yes"


# --- TEI ----------------------------------------------------------------------------------------------------------

TEI = "{http://www.tei-c.org/ns/1.0}"


def test_tei_tells_what_is_struck_out_added_doubtful_and_supplied() -> None:
    spans = (
        Span("a<b ", "agreed", 0.9, "x"),
        Span("old", "ocr", 0.9, "x", mark="deleted"),
        Span("new", "ocr", 0.9, "x", mark="added"),
        Span("dim", "ocr", 0.2, "x"),
        Span("□□", "gap", None, "x", extent=2),
        Span("5", "supplied", 0.4, "x", extent=1),
    )
    root = ET.fromstring(tei_document(page(spans)))
    body = root.find(f"{TEI}text/{TEI}body/{TEI}ab")
    assert body is not None
    found = [(child.tag.removeprefix(TEI), child.text) for child in body]
    assert found == [("lb", None), ("del", "old"), ("add", "new"), ("unclear", "dim"), ("gap", None), ("supplied", "5")]
    assert body.find(f"{TEI}gap").attrib["extent"] == "2"  # type: ignore[union-attr]


@settings(deadline=None, max_examples=40)
@given(pages())
def test_any_page_is_well_formed_tei_fhir_and_csv(made: Page) -> None:
    ET.fromstring(tei_document(made))
    assert nothing_empty(json.loads(medication_requests([made])))
    assert list(csv.reader(io.StringIO(records_csv([made]))))


# --- review -------------------------------------------------------------------------------------------------------


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def photo(value: int = 200) -> NDArray[np.uint8]:
    return np.full((400, 300, 3), value, np.uint8)


def doubtful() -> Page:
    """One sure line between two with something to look at."""
    rivals = (Candidate("dun", 0.3, -2.0), Candidate("", 0.2), Candidate(" ", 0.1), Candidate("dim", 0.05))
    return page(
        (Span("so ", "agreed", 0.999, "agreed"), Span("dim", "ocr", 0.4, "x", rivals)),
        (Span("all is well", "agreed", 0.999, "agreed"),),
        (Span("服药 5 片", "ocr", None, "decision_failed"),),
    )


def test_the_list_has_a_row_per_item_dearest_first() -> None:
    found = review(doubtful(), 0.05)
    rows = rows_of(review_csv(found.items))
    assert tuple(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [(row["line"], row["start"], row["end"], row["text"], row["cost"]) for row in rows] == [
        ("l002", "3", "4", "5", "5"),
        ("l002", "5", "6", "片", "5"),
        ("l002", "0", "2", "服药", "1"),
        ("l000", "3", "6", "dim", "1"),
    ]
    assert [row["confidence"] for row in rows] == ["", "", "", "0.400"]
    assert rows[-1]["reasons"] == "chance of a mistake: 60 %"
    assert rows[-1]["alternatives"] == "dun (0.30)"
    assert {row["correction"] for row in rows} == {""}  # left for the person


@pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
def test_no_cell_of_the_list_is_a_formula(sign: str) -> None:
    text = f"{sign}1"
    made = replace(page((Span(text, "ocr", 0.2, "x", (Candidate(f"{sign}7", 0.3),)),)), id=f"{sign}page.png")
    (row,) = rows_of(review_csv(review(made, 0.05).items))
    assert (row["text"], row["page"], row["alternatives"]) == (f"'{text}", f"'{sign}page.png", f"'{sign}7 (0.30)")


def written(folder: Path, *read: tuple[Page, NDArray[np.uint8] | None]) -> Review:
    listed = ReviewList(folder)
    for made, shown in read:
        listed.add(made, shown)
    return listed.close()


def crops_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(row) for row in (folder / "crops" / "crops.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_list_is_a_page_a_table_the_pages_and_a_crop_a_line(tmp_path: Path) -> None:
    made = doubtful()
    empty = Line("l003", made.lines[0].polygon, 3, failures=(Failure("ocr", "empty", "nothing"),))
    made = replace(made, lines=(*made.lines, empty))
    found = written(tmp_path, (made, photo()))
    assert (found.flagged, found.total) == (5, 9)
    assert {path.name for path in tmp_path.iterdir()} == {"review.html", "review.csv", "pages.jsonl", "crops"}
    rows = rows_of((tmp_path / "review.csv").read_text(encoding="utf-8-sig"))
    assert [row["line"] for row in rows] == ["l002", "l002", "l002", "l003", "l000"]
    assert [crop["line"] for crop in crops_of(tmp_path)] == ["l000", "l002", "l003"]  # the unread line, too
    assert load_page((tmp_path / "pages.jsonl").read_text(encoding="utf-8")) == made
    html = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert html.count("<article") == 5
    assert html.count("data:image/jpeg") == 5
    assert "5 of 9 stretches need a look, and 1 line that nobody read" in html
    unread = next(card for card in html.split("<article") if 'data-line="l003"' in card)
    assert "a line that nobody could read" in unread
    assert "<input" in unread
    assert "<button" not in unread  # there is nothing to choose from
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)  # works with the network off
    assert 'data-text="dun"' in html


def test_what_a_page_says_is_text_in_the_html(tmp_path: Path) -> None:
    made = replace(page((Span("<b>&\x1b[31m", "ocr", 0.2, "x"),)), id='a"><script>.png')
    written(tmp_path, (made, None))
    html = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert "<b>" not in html.partition("<main>")[2]
    assert html.count("<script>") == 1
    assert "\x1b" not in html.partition("<main>")[2].partition('class="choices"')[0]


def test_crops_show_their_own_photograph(tmp_path: Path) -> None:
    """Two files of one name in two folders are two pages."""
    one, two = (replace(doubtful(), id=f"{folder}/note.jpg") for folder in ("a", "b"))
    written(tmp_path, (one, photo()), (two, photo(100)), (replace(doubtful(), id="bare.png"), None))
    crops = crops_of(tmp_path)
    assert [crop["page"] for crop in crops] == ["a/note.jpg"] * 2 + ["b/note.jpg"] * 2
    for crop in crops:
        pixels = np.asarray(Image.open(tmp_path / "crops" / crop["image"]))[10:-10, 10:-10]
        assert (pixels == (200 if crop["page"] == "a/note.jpg" else 100)).all()


def test_a_list_without_items_is_written_too(tmp_path: Path) -> None:
    sure = page((Span("all is well", "agreed", 0.999, "agreed"),))
    assert written(tmp_path, (sure, photo())).items == ()
    assert "Nothing needs a look" in (tmp_path / "review.html").read_text(encoding="utf-8")


# --- corrections --------------------------------------------------------------------------------------------------


def saved(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "corrections.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def row(made: Page, line: str, start: int, end: int, text: str) -> dict[str, Any]:
    old = next((one.text for one in made.lines if one.id == line), "")[start:end]
    place = {"page": made.id, "image_sha256": made.image_sha256, "line": line, "start": start, "end": end}
    return {**place, "old": old, "text": text, "by": "Ada, 2026-11-26"}


def corrections_of(path: Path, by: str) -> list[Correction]:
    found, refused = read_corrections(path, by, [])
    assert refused == []
    return found


def applied(folder: Path, corrections: list[Correction]) -> Page:
    (page,), refused = corrected(review_pages(folder), corrections)
    assert refused == []
    return page


def test_corrections_become_human_spans_and_readings_stay(tmp_path: Path) -> None:
    made = doubtful()
    written(tmp_path, (made, photo()))
    path = saved(
        tmp_path, row(made, "l000", 3, 6, "dun"), row(made, "l002", 0, 2, "服用药"), row(made, "l002", 3, 4, "1")
    )
    page = applied(tmp_path, corrections_of(path, "nobody"))
    assert [line.text for line in page.lines] == ["so dun", "all is well", "服用药 1 片"]
    human = [span for line in page.lines for span in line.spans if span.source == "human"]
    assert [(span.text, span.confidence, span.by) for span in human] == [
        ("dun", 1.0, "Ada, 2026-11-26"),
        ("服用药", 1.0, "Ada, 2026-11-26"),
        ("1", 1.0, "Ada, 2026-11-26"),
    ]
    assert human[0].alternatives == (Candidate("dim", 0.4),)  # what stood there is not forgotten
    assert [line.readings for line in page.lines] == [line.readings for line in made.lines]


def test_a_table_filled_in_is_as_good(tmp_path: Path) -> None:
    made = doubtful()
    written(tmp_path, (made, photo()))
    table = (tmp_path / "review.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "filled.csv").write_text(table.replace(",dim,,", ",dim,'-dun,"), encoding="utf-8")
    page = applied(tmp_path, corrections_of(tmp_path / "filled.csv", "Ada"))
    assert page.lines[0].text == "so -dun"
    assert [span.by for span in page.lines[0].spans if span.source == "human"] == ["Ada"]


def test_only_lines_that_are_settled_teach(tmp_path: Path) -> None:
    made = doubtful()
    written(tmp_path, (made, photo()))
    path = saved(tmp_path, row(made, "l000", 3, 6, "dun"), row(made, "l002", 0, 2, "服药"))  # the rest of l002 is open
    page = applied(tmp_path, corrections_of(path, ""))
    (taught,) = [json.loads(one) for one in training_rows(tmp_path, [page]).splitlines()]
    assert taught["text"] == "so dun"
    assert Path(taught["image"]).is_file()
    illegible = [Correction(**row(made, "l000", 3, 6, "□"))]
    assert training_rows(tmp_path, [applied(tmp_path, illegible)]) == ""


@pytest.mark.parametrize(("start", "end"), [(3, 6), (4, 5), (0, 4), (5, 6)])
def test_corrections_that_overlap_are_refused(tmp_path: Path, start: int, end: int) -> None:
    made = doubtful()
    written(tmp_path, (made, None))
    two = [Correction(**row(made, "l000", 3, 6, "dun")), Correction(**row(made, "l000", start, end, "x"))]
    (after,), refused = corrected(review_pages(tmp_path), two)
    assert after.lines == made.lines
    assert len(refused) == 2
    assert all("overlaps" in str(error) for error in refused)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"page": "other.png"}, "no page of this review"),
        ({"image_sha256": "1" * 64}, "for another photograph"),
        ({"old": "dum"}, "for another text: “dim” stands there"),
        ({"line": "l009"}, "no stretch 3:6 on line l009"),
        ({"end": 99}, "no stretch 3:99"),
        ({"start": 6}, "no extent"),
        ({"text": "a\nb"}, "line break"),
    ],
)
def test_a_correction_of_something_else_is_named_and_the_others_are_applied(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    made = doubtful()
    written(tmp_path, (made, None))
    wrong = Correction(**(row(made, "l000", 3, 6, "dun") | change))
    (after,), (error,) = corrected(review_pages(tmp_path), [wrong, Correction(**row(made, "l002", 3, 4, "1"))])
    assert named in str(error)
    assert [line.text for line in after.lines] == ["so dim", "all is well", "服药 1 片"]


@pytest.mark.parametrize("text", ["", " "])
def test_what_a_person_reads_on_an_unread_line_is_its_text_and_teaches(tmp_path: Path, text: str) -> None:
    made = page((Span("all is well", "agreed", 0.999, "agreed"),))
    blank = (Span(" ", "ocr", 0.9, "x"),) if text else ()
    lost = Line("l001", made.lines[0].polygon, 1, spans=blank, failures=(Failure("ocr", "empty", "nothing"),))
    made = replace(made, lines=(*made.lines, lost))
    written(tmp_path, (made, photo()))
    after = applied(tmp_path, [Correction(**row(made, "l001", 0, len(text), "take 5 mg"))])
    assert [line.text for line in after.lines] == ["all is well", "take 5 mg"]
    assert [span.source for span in after.lines[1].spans] == ["human"]
    assert review(after, 0.05).items == ()
    assert json.loads(training_rows(tmp_path, [after]))["text"] == "take 5 mg"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"page": 1}]', "\xff"])
def test_what_holds_no_corrections_is_named(tmp_path: Path, content: str) -> None:
    for name in ("c.json", "c.csv"):
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"c\.json"):
        read_corrections(tmp_path / "c.json", "", [])
    with pytest.raises(InputError, match="holds no pages"):
        review_pages(tmp_path)


@settings(deadline=None, max_examples=60)
@given(pages(), st.data())
def test_an_edit_changes_its_stretch_and_nothing_else(made: Page, data: st.DataObject) -> None:
    lines = [line for line in made.lines if line.text]
    assume(lines)
    line = data.draw(st.sampled_from(lines))
    start = data.draw(st.integers(0, len(line.text) - 1))
    end = data.draw(st.integers(start + 1, len(line.text)))
    try:
        after = made.edit(Place(line.id, start, end), "x", "me")
    except ValueError as error:
        assert "NFC" in str(error) or "gap" in str(error)  # noqa: PT017
        return
    edited = next(one for one in after.lines if one.id == line.id)
    assert edited.text == line.text[:start] + "x" + line.text[end:]
    assert edited.readings == line.readings
    assert [one for one in after.lines if one.id != line.id] == [one for one in made.lines if one.id != line.id]
