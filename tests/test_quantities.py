"""Quantities: which texts say the same amount, and which do not."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.ctc import fold
from fusion.quantities import Quantity, alike, quantities
from tests.strategies import nfc_texts

SAME = [
    ("500mg", "500 mg"),
    ("500 Mg", "500 mg"),
    ("５００ｍｇ", "500 mg"),
    ("½", "1/2"),
    ("1⁄2 tab", "½ tablet"),
    ("1½", "1 1/2"),
    ("2 tablets", "2 tab"),
    ("2 capsules", "2 cap"),
    ("5 cc", "5ml"),
    ("5 μg", "5 mcg"),
    ("5 µg", "5 ug"),
    ("7 days", "7 day"),
    ("10 IU", "10 units"),
    ("１０：３０", "10:30"),
    ("2片", "2 片"),
    ("37℃", "37 °C"),
    ("5㎝", "5 cm"),
    ("12㎡", "12 m²"),
    ("3㎏", "3 kg"),
    ("8㎜", "8 mm"),
    ("A2", "Az"),
    ("2ymet", "zymet"),
    ("ab2cd", "abzcd"),
    ("Napa", "Nape"),
    ("", "no number"),
]
DIFFERENT = [
    ("500 mg", "500 g"),
    ("500 mg", "500 mcg"),
    ("500 mg", "500"),
    ("500mg", "500my"),
    ("1.5", "15"),
    ("1.5", "1. 5"),
    ("1.5 mg", "1.6 mg"),
    (".5", "5"),
    ("24", "2 4"),
    ("1+0+1", "101"),
    ("1+0+1", "1+0+0"),
    ("½", "¼"),
    ("½", "¾"),
    ("¼", "¾"),
    ("½", "1"),
    ("1½", "11/2"),
    ("1/2", "1/3"),
    ("Seclo20", "Seclo40"),
    ("Seclo 20", "Seclo"),
    ("2019.2.2", "2019.2-2"),
    ("57", "S7"),
    ("q8h", "q6h"),
    ("x7 days", "x days"),
    ("x7d", "x1d"),
    ("500mgtds", "50mgtds"),
    ("Seclo20mgOD", "Seclo40mgOD"),
    ("2 tsp", "2 tbsp"),
    ("10:30 am", "10:30 pm"),
    ("10⁹", "10⁶"),
    ("⅕ cup", "⅖ cup"),
    ("5 mg/kg", "5 mg"),
    ("5 mg/dl", "5 mg/l"),
    ("3包", "3贴"),
    ("伍拾元", "陆拾元"),
    ("5‰", "5%"),
    ("25㎡", "25"),
    ("5 m²", "5 m"),
    ("36℃", "36"),
    ("2 tab", "2 cap"),
    ("2片", "2粒"),
    ("A2", "A3"),
    ("A2", "Az 3"),
    ("I cap", "1 cap"),
    ("l tab", "1 tab"),
    ("一日三次", "一日二次"),
    ("一日三次", "一日三片"),
    ("两片", "三片"),
    ("第2步", "第二步"),
    ("1)12+30=42", "112+30=42"),
    ("10:30", "1030"),
    ("100", "1O0"),
    ("1,000", "1000"),
]


@pytest.mark.parametrize(("own", "other"), SAME)
def test_the_same_quantities_in_other_words(own: str, other: str) -> None:
    assert alike(quantities(own), quantities(other))


@pytest.mark.parametrize(("own", "other"), DIFFERENT)
def test_other_quantities(own: str, other: str) -> None:
    assert not alike(quantities(own), quantities(other))
    assert not alike(quantities(f"take {own} now"), quantities(f"take {other} now"))


def test_a_sign_in_front_is_part_of_a_value_that_begins_a_text_or_a_side() -> None:
    for own, other in (("-2.50", "2.50"), ("x=-5", "x=5"), ("(-3)", "(3)")):
        assert not alike(quantities(own), quantities(other))
    assert alike(quantities("7 -5"), quantities("7-5"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Napa 500 mg", [("500", "mg", False)]),
        ("1 cap tid x 7 days", [("1", "cap", False), ("7", "day", False)]),
        ("120 mg/5 ml", [("120", "mg", False), ("5", "ml", False)]),
        ("1½ tablets", [("1", "", False), ("1/2", "tab", False)]),
        ("0.5mg", [("0.5", "mg", False)]),
        ("7+5=13", [("7", "", False), ("5", "", False), ("13", "", False)]),
        ("Seclo20", [("20", "", False)]),
        ("A2", [("2", "", True)]),
        ("2a6", [("2", "a", False), ("6", "", True)]),
        ("500my", [("500", "my", False)]),
        ("10tablets", [("10", "tab", False)]),
        ("1.Napa", [("1", "", False)]),
        ("2ymet", []),
        ("x² 甲", []),
        ("② Cleanance", [("②", "", False)]),
        ("", []),
    ],
)
def test_what_counts_as_a_quantity(text: str, found: list[tuple[str, str, bool]]) -> None:
    assert [(one.value, one.unit, one.weak) for one in quantities(text)] == found


def test_a_digit_in_a_word_may_be_missing_and_never_another() -> None:
    one, two = Quantity("2", "", weak=True), Quantity("3", "", weak=True)
    strong = Quantity("5", "mg")
    assert alike([one, strong], [strong])
    assert alike([one, strong], [one, strong])
    assert not alike([one, strong], [two, strong])
    assert not alike([one, strong], [one])
    assert not alike([one], [Quantity("2", "")])


@pytest.mark.parametrize("text", ["每次2片", "第2步", "服3天"])
def test_a_digit_behind_chinese_is_no_letter_misread(text: str) -> None:
    (found,) = quantities(text)
    assert not found.weak


def test_where_it_stands_is_no_part_of_it() -> None:
    assert quantities("2 tab") == quantities("      2 tablets")
    (found,) = quantities("take 500 mg now")
    assert (found.start, found.end) == (5, 11)


TEXTS = nfc_texts(max_size=16) | st.lists(
    st.sampled_from(
        [
            *"0123456789",
            *"½¼⅓⁄/.,:+-= 　()",
            *"mglcaxOS",
            *"一二两十半日次片第",
            "mg",
            "µg",
            "tablets",
            "cm²",
            "°C",
            "℃",
            "㎡",
            "%",
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_start_and_end_cut_the_value_with_its_unit_out(text: str) -> None:
    found = quantities(text)
    assert all(0 <= one.start < min(one.end, len(text)) for one in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    for one in found:
        cut = text[one.start : one.end]
        (alone,) = quantities(cut)
        assert (alone.value, alone.unit) == (one.value, one.unit)
        if not unicodedata.numeric(cut[0], 1.0) % 1:  # no ½
            assert fold(cut).replace("⁄", "/").startswith(one.value)


@pytest.mark.parametrize("text", ["500mg", "2tablets", "½tab"])
def test_a_quantity_ends_where_the_text_ends(text: str) -> None:
    assert quantities(text)[-1].end == len(text)


@settings(deadline=None, max_examples=200)
@given(TEXTS, TEXTS)
def test_alike_is_reflexive_and_symmetric(text: str, other: str) -> None:
    own, theirs = quantities(text), quantities(other)
    assert alike(own, own)
    assert alike(own, theirs) == alike(theirs, own)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["mg", "片", "tablets", ""]))
def test_one_digit_more_is_another_quantity(text: str, unit: str) -> None:
    assert not alike(quantities(f"5{unit} {text}"), quantities(f"51{unit} {text}"))


@settings(deadline=None)
@given(TEXTS)
def test_case_and_width_are_one(text: str) -> None:
    assert quantities(text) == quantities(fold(text))
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text)
    assert quantities(text) == quantities(wide)
