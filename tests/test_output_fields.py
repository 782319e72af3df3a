from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusion import output
from fusion.domain import homework, prescription
from fusion.page import Candidate, Check, Page, Place, Span
from fusion.review import DISPUTED
from tests.made_pages import page
from tests.strategies import pages

RX = page("1. Amoxicillin 500 mg", "1 cap tid x 7 days pc", "2. Napa 120 mg/5 ml", "5 ml q8h prn #1")
UNITS = {"s", "min", "h", "d", "wk", "mo", "a"}


def understood(made: Page) -> Page:
    records = prescription.medications(made, lambda word: True)
    checks = prescription.checks(made, records, lambda word: True, ranges=(), most_drugs=5)
    return replace(made, records=records, checks=checks)


def nothing_empty(value: object) -> bool:
    """FHIR has neither null nor empty arrays, objects and strings."""
    if isinstance(value, dict):
        return bool(value) and all(nothing_empty(v) for v in value.values())
    if isinstance(value, list):
        return bool(value) and all(nothing_empty(v) for v in value)
    return value not in (None, "")


def test_medications_are_fhir_r4() -> None:
    bundle = json.loads(output.medication_requests(understood(RX)))
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
    (entry,) = json.loads(output.medication_requests(understood(page("1. Napa 500 mg", "I tab bid"))))["entry"]
    dosage = entry["resource"]["dosageInstruction"][0]
    assert dosage["text"] == "I tab bid"
    assert "doseAndRate" not in dosage
    assert any("unread_dose" in e.get("valueString", "") for e in entry["resource"]["extension"])


def test_a_page_without_drugs_is_an_empty_collection() -> None:
    assert json.loads(output.medication_requests(page("hello"))) == {"resourceType": "Bundle", "type": "collection"}


def test_records_are_rows_of_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(output.records_csv([understood(RX)]))))
    assert [(row["drug"], row["strength"], row["dose"], row["frequency"]) for row in rows] == [
        ("Amoxicillin", "500 mg", "1 cap", "tid"),
        ("Napa", "120 mg/5 ml", "5 ml", "q8h"),
    ]
    assert all(row["confidence"] == "0.900" for row in rows)


def test_a_cell_that_looks_like_a_formula_is_text() -> None:
    made = page("-3+5=2")
    made = replace(made, records=homework.exercises(made))
    (row,) = csv.DictReader(io.StringIO(output.records_csv([made])))
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
    root = ET.fromstring(output.tei_document(page(spans)))
    body = root.find(f"{TEI}text/{TEI}body/{TEI}ab")
    assert body is not None
    found = [(child.tag.removeprefix(TEI), child.text) for child in body]
    assert found == [("lb", None), ("del", "old"), ("add", "new"), ("unclear", "dim"), ("gap", None), ("supplied", "5")]
    assert body.find(f"{TEI}gap").attrib["extent"] == "2"  # type: ignore[union-attr]


@settings(deadline=None, max_examples=40)
@given(pages())
def test_any_page_is_well_formed_tei_fhir_and_csv(made: Page) -> None:
    ET.fromstring(output.tei_document(made))
    assert nothing_empty(json.loads(output.medication_requests(made)))
    assert list(csv.reader(io.StringIO(output.records_csv([made]))))


# --- review -------------------------------------------------------------------------------------------------------


def items(made: Page, bound: float = 0.8) -> dict[str, tuple[str, ...]]:
    return {item.text: item.reasons for item in output.review_items(made, bound, DISPUTED)}


def test_words_are_listed_with_their_reasons() -> None:
    spans = (
        Span("sure ", "agreed", 0.95, "agreed"),
        Span("d", "agreed", 0.95, "agreed"),
        Span("im", "ocr", 0.3, "ocr_preferred", (Candidate("un", 0.25), Candidate("in", 0.2))),
        Span(" Napa", "lexicon", 0.9, "lexicon_lookalike", (Candidate(" Nape", 0.1, -3.0),)),
        Span(" 5", "ocr", 0.99, "digits_disagree"),
        Span(" ok", "agreed", 0.99, "agreed"),
        Span("□", "gap", None, "unread_ink", extent=1),
    )
    assert items(page(spans)) == {
        "dim": ("confidence",),
        "Napa": ("lexicon_lookalike",),
        "5": ("digits_disagree",),
        "ok□": ("confidence", "gap"),
    }
    dim = next(item for item in output.review_items(page(spans), 0.8, DISPUTED) if item.text == "dim")
    assert [(other.text, other.probability) for other in dim.alternatives] == [("dun", 0.25), ("din", 0.2)]


def test_a_check_of_the_profile_lists_the_word_it_points_at() -> None:
    made = replace(
        page("take 5OO mg"),
        checks=(
            Check("letter_in_number", "", (Place("l000", 5, 8),)),
            Check("x", "", (Place("l000", 0, 4),), review=False),
        ),
    )
    assert items(made) == {"5OO": ("letter_in_number",)}


def test_nothing_is_listed_when_all_is_sure() -> None:
    assert items(page("all is well")) == {}
    assert len(items(page("all is well"), float("inf"))) == 3


def test_the_list_is_written_with_crops(tmp_path: Path) -> None:
    made = page((Span("=dim", "ocr", 0.2, "x", (Candidate("dun", 0.3, -2.0),)),))
    found = output.review_items(made, 0.5, DISPUTED)
    output.write_review(tmp_path, found, {"made.png": np.full((400, 300, 3), 200, np.uint8)})
    (row,) = csv.DictReader(io.StringIO((tmp_path / "review.csv").read_text(encoding="utf-8-sig")))
    assert (row["text"], row["reasons"], row["alternatives"]) == ("'=dim", "confidence", "dun (0.30)")
    assert (tmp_path / row["crop"]).is_file()
    (entry,) = json.loads((tmp_path / "review.json").read_text(encoding="utf-8"))
    assert entry["alternatives"] == [{"text": "dun", "probability": 0.3, "ink": -2.0}]


@pytest.mark.parametrize("bound", [0.0, 0.5, float("inf")])
@settings(deadline=None, max_examples=40)
@given(made=pages())
def test_items_are_words_of_the_transcript(bound: float, made: Page) -> None:
    lines = {line.id: line.text for line in made.lines}
    for item in output.review_items(made, bound, DISPUTED):
        assert item.reasons
        assert item.text == lines[item.line][item.start : item.end]
        assert not any(c.isspace() for c in item.text)
