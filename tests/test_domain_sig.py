"""The terms of directions: every row of `sig.tsv` can be loaded, says something a reader knows, and is found in a text."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from fusion.domain import sig

ROWS = [tuple(row.split("\t")) for row in (files("fusion.domain") / "sig.tsv").read_text(encoding="utf-8").splitlines()]
KEYS = {
    "form": {"unit"},
    "unit": {"unit"},
    "time": {"unit"},
    "route": {"code"},
    "when": {"when"},
    "as_needed": {"as_needed"},
    "frequency": {"frequency", "period", "periodUnit", "when", "count"},
}
EVENTS = {"MORN", "NOON", "EVE", "NIGHT", "HS", "AC", "PC", "C", "ACM", "PCM", "ACD", "PCD", "ACV", "PCV"}
"""Codes of FHIR R4 EventTiming that the terms use."""
TIMES = {"min", "h", "d", "wk", "mo", "a"}


def test_every_row_has_a_term_a_known_kind_and_a_value_and_stands_once() -> None:
    assert ROWS[0] == ("term", "kind", "value")
    assert {len(row) for row in ROWS} == {3}
    assert {row[1] for row in ROWS[1:]} == set(KEYS)
    assert len({row[:2] for row in ROWS}) == len(ROWS)
    assert [row[0] for row in ROWS if row[0] != row[0].lower().strip()] == []


def test_values_use_the_names_that_readers_of_records_know() -> None:
    for term, kind, written in ROWS[1:]:
        value = json.loads(written)
        assert value, term
        assert set(value) <= KEYS[kind], term
        assert value.get("when", "AC") in EVENTS, term
        assert value.get("periodUnit", "d") in TIMES, term
        assert kind != "time" or value["unit"] in TIMES, term


@pytest.mark.parametrize("kind", ["route", "when", "as_needed", "frequency"])
def test_a_term_that_stands_alone_is_found_whole_with_its_value(kind: str) -> None:
    for term, own, written in ROWS[1:]:
        if own == kind:
            (part,) = sig.parse(term)
            assert (part.name, part.start, part.end, part.value) == (kind, 0, len(term), json.loads(written)), term


@pytest.mark.parametrize("kind", ["unit", "form"])
def test_a_number_before_a_unit_is_an_amount_of_it(kind: str) -> None:
    for term, own, written in ROWS[1:]:
        if own == kind:
            (part,) = sig.parse(f"2 {term}")
            expected = {"value": 2.0, **json.loads(written)}
            assert (part.name, part.value) == ("strength" if kind == "unit" else "dose", expected), term


def test_a_time_after_a_number_is_a_duration() -> None:
    for term, kind, written in ROWS[1:]:
        if kind == "time":
            (part,) = sig.parse(f"x 3 {term}")
            assert (part.name, part.value) == ("duration", {"value": 3.0, **json.loads(written)}), term
