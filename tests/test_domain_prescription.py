from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.config import DomainConfig
from fusion.domain import open_profile, prescription, sig
from fusion.errors import InputError
from fusion.page import Page, Span
from tests.made_pages import line, page

DAY = {"period": 1, "periodUnit": "d"}


def said(text: str) -> list[tuple[str, str, dict]]:
    return [(part.name, text[part.start : part.end], part.value) for part in sig.parse(text)]


@pytest.mark.parametrize(
    ("text", "name", "stretch", "value"),
    [
        ("Napa 500 mg", "strength", "500 mg", {"value": 500.0, "unit": "mg"}),
        ("125mg/5ml", "strength", "125mg/5ml", {"value": 125.0, "unit": "mg", "per_value": 5.0, "per_unit": "ml"}),
        ("阿莫西林 0.5克", "strength", "0.5克", {"value": 0.5, "unit": "g"}),
        ("1/2 tab", "dose", "1/2 tab", {"value": 0.5, "unit": "tablet"}),
        ("每次两片", "dose", "每次两片", {"value": 2.0, "unit": "tablet"}),
        ("每次0.5g", "dose", "0.5g", {"value": 0.5, "unit": "g"}),
        ("I cap bid", "dose", "I cap", {}),
        ("1 tab T.I.D for a week", "frequency", "T.I.D", {"frequency": 3, **DAY}),
        ("q 8 h", "frequency", "q 8 h", {"frequency": 1, "period": 8.0, "periodUnit": "h"}),
        ("每8小时一次", "frequency", "每8小时一次", {"frequency": 1, "period": 8.0, "periodUnit": "h"}),
        ("一日三次", "frequency", "一日三次", {"frequency": 3, **DAY}),
        ("每天4次", "frequency", "每天4次", {"frequency": 4, **DAY}),
        ("1+0+1", "frequency", "1+0+1", {"frequency": 2, **DAY}),
        ("3 times a day", "frequency", "3 times a day", {"frequency": 3, **DAY}),
        ("qod", "frequency", "qod", {"frequency": 1, "period": 2, "periodUnit": "d"}),
        ("x 7 days", "duration", "x 7 days", {"value": 7.0, "unit": "d"}),
        ("连服3天", "duration", "连服3天", {"value": 3.0, "unit": "d"}),
        ("for 2 weeks", "duration", "for 2 weeks", {"value": 2.0, "unit": "wk"}),
        ("#20", "quantity", "#20", {"value": 20.0}),
        ("静脉滴注", "route", "静脉滴注", {"code": "intravenous drip"}),
        ("p.o. after meals", "when", "after meals", {"when": "PC"}),
        ("必要时", "as_needed", "必要时", {"as_needed": True}),
    ],
)
def test_what_directions_say(text: str, name: str, stretch: str, value: dict) -> None:
    assert (name, stretch, value) in said(text)


@pytest.mark.parametrize("text", ["Amoxicillin", "tidy", "Ibuprofen", "poor", "第2步", "Sodamint", "", "mgso", "basic"])
def test_words_that_hold_a_code_are_no_directions(text: str) -> None:
    assert said(text) == []


@settings(deadline=None, max_examples=150)
@given(st.text("0123456789½/.,xX+- 一二两每日次片mgtabidqhpocOlI#()\n", max_size=60) | st.text(max_size=40))
def test_parts_never_overlap_and_stay_inside(text: str) -> None:
    parts = sig.parse(text)
    assert all(0 <= part.start < part.end <= len(text) for part in parts)
    assert all(a.end <= b.start for a, b in itertools.pairwise(parts))


def test_a_division_by_zero_is_no_number() -> None:
    assert sig.number("1/0") is None


# --- medications --------------------------------------------------------------------------------------------------


def meds(made: Page, *names: str) -> list[dict[str, str]]:
    known = {name.casefold() for name in names}
    return [
        {field.name: field.text for field in record.fields}
        for record in prescription.medications(made, lambda word: word.casefold() in known)
    ]


def test_a_drug_gathers_the_directions_below_it() -> None:
    found = meds(
        page(
            "Dr. P. Inkwell, MBBS",
            "Rx",
            "1. Amoxicillin 500 mg",
            "1 cap tid x 7 days",
            "2. Napa 120 mg/5 ml",
            "5 ml q8h prn",
        )
    )
    assert found == [
        {"drug": "Amoxicillin", "item": "1.", "strength": "500 mg"}
        | {"dose": "1 cap", "frequency": "tid", "duration": "x 7 days"},
        {"drug": "Napa", "item": "2.", "strength": "120 mg/5 ml"}
        | {"dose": "5 ml", "frequency": "q8h", "as_needed": "prn"},
    ]


def test_chinese_prescriptions_have_drug_and_form_apart() -> None:
    (found,) = meds(page("姓名：王小明 性别：男", "阿莫西林胶囊 0.5g", "口服 每次2粒 一日三次 饭后"))
    assert found["drug"] == "阿莫西林"
    assert found["form"] == "胶囊"
    assert (found["route"], found["dose"], found["frequency"], found["when"]) == ("口服", "每次2粒", "一日三次", "饭后")


def test_nothing_of_the_patient_is_a_field() -> None:
    made = page("Name: John Smith  Age: 45", "Date 12/03/2024", "Tab. Seclo 20 mg 1+0+1")
    texts = " ".join(text for found in meds(made) for text in found.values())
    assert "John" not in texts
    assert "12/03" not in texts
    assert meds(made)[0]["drug"] == "Seclo"


def test_a_word_that_was_cut_out_is_a_drug() -> None:
    assert meds(page("Vildamet")) == [{"drug": "Vildamet"}]


def test_words_that_nobody_understands_are_kept_as_text() -> None:
    (found,) = meds(page("1. Napa 500 mg", "1 tab bid shake well"))
    assert found["text"] == "shake well"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("1234. 0mgtabNapcOI次每日片阿莫西林胶囊xq/", max_size=25), max_size=6))
def test_a_field_is_the_transcript_and_as_sure_as_its_least_sure_span(texts: list[str]) -> None:
    halves = [
        tuple(Span(part, "ocr", sure, "x") for part, sure in ((t[:7], 0.9), (t[7:], 0.4)) if part) for t in texts if t
    ]
    made = page(*halves)
    lines = {line.id: line for line in made.lines}
    for record in prescription.medications(made, lambda word: False):
        for field in record.fields:
            assert field.text == " ".join(lines[p.line].text[p.start : p.end] for p in field.places)
            assert field.confidence == (0.4 if any(p.end > 7 for p in field.places) else 0.9)


# --- checks -------------------------------------------------------------------------------------------------------


def kinds(made: Page, ranges: tuple[prescription.Range, ...] = (), known: bool = True, most: int = 5) -> set[str]:
    records = prescription.medications(made, lambda word: known)
    return {
        check.kind
        for check in prescription.checks(
            made, records, lambda word: known, ranges=ranges, lookalikes=(), most_drugs=most
        )
    }


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Insulin 10 U bid", "abbreviation_unit"),
        ("Napa 1 tab QD", "abbreviation_daily"),
        ("Napa 1 tab q.o.d.", "abbreviation_other_day"),
        ("Thyrox 50 μg", "abbreviation_microgram"),
        ("Syp. Napa 5 cc", "abbreviation_cc"),
        ("Napa 1.0 mg", "trailing_zero"),
        ("Napa .5 mg", "naked_decimal"),
        ("Napa 5OO mg", "letter_in_number"),
        ("1. Napa", "missing_dose"),
        ("1. Napa 500 mg 1 tab", "missing_frequency"),
        ("1. Napa 500 mg I tab bid", "unread_dose"),
    ],
)
def test_what_is_error_prone_is_remarked(text: str, kind: str) -> None:
    assert kind in kinds(page(text))


def test_what_is_missing_points_at_the_drug_and_a_word_by_itself_misses_nothing() -> None:
    made = page("1. Napa", "2. Seclo 20 mg 1 cap bd")
    records = prescription.medications(made, lambda word: True)
    found = prescription.checks(made, records, lambda word: True, ranges=(), lookalikes=(), most_drugs=5)
    assert {(c.kind, c.places[0].line, c.review) for c in found if c.kind.startswith("missing")} == {
        ("missing_dose", "l000", False),
        ("missing_frequency", "l000", False),
    }
    assert kinds(page("Napa")) == set()


def test_a_dose_whose_number_is_gone_is_an_unread_one() -> None:
    made = page("2. 布洛芬缓释胶囊 0.3g", "每次粒 必要时 口服")
    (record,) = prescription.medications(made, lambda word: word == "布洛芬")
    assert {f.name: f.text for f in record.fields if f.name in ("drug", "form", "dose")} == {
        "drug": "布洛芬",
        "form": "缓释胶囊",
        "dose": "每次粒",
    }
    assert "unread_dose" in kinds(made)


def test_a_sound_line_has_no_remark() -> None:
    assert kinds(page("1. Napa 500 mg 1 tab tid x 10 days")) == set()
    assert kinds(page("1. Napa 0.5 g 1 tab 1+0+1")) == set()


def test_doses_are_compared_with_given_ranges(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("drug,low,high,unit\nnapa,500,1000,mg\n", encoding="utf-8")
    ranges = prescription.read_ranges(tmp_path / "r.csv")
    assert "dose_out_of_range" not in kinds(page("1. Napa 500 mg 2 tab tid"), ranges)
    assert "dose_out_of_range" in kinds(page("1. Napa 500 mg 3 tab tid"), ranges)
    assert "dose_out_of_range" in kinds(page("1. Napa 120 mg/5 ml", "5 ml tid"), ranges)
    assert "dose_out_of_range" not in kinds(page("1. Napa 120 mg/5 ml", "25 ml tid"), ranges)


@pytest.mark.parametrize(
    "text", ["drug,low\nnapa,1\n", "drug,low,high,unit\nnapa,9,1,mg\n", "drug,low,high,unit\nnapa,a,b,mg\n"]
)
def test_a_bad_range_names_file_and_row(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"r\.csv: row 2"):
        prescription.read_ranges(tmp_path / "r.csv")


def test_many_drugs_and_unlisted_names_are_remarked_and_flag_nothing() -> None:
    made = page("1. Napa 500 mg 1 tab bid", "2. Ace 500 mg 1 tab bid")
    assert kinds(made, most=2) == set()
    assert kinds(made, most=1) == {"many_drugs"}
    assert kinds(made, known=False) == {"unlisted_drug"}
    records = prescription.medications(made, lambda word: False)
    found = prescription.checks(made, records, lambda word: False, ranges=(), lookalikes=(), most_drugs=1)
    assert [(check.kind, check.review) for check in found] == [
        ("unlisted_drug", False),
        ("unlisted_drug", False),
        ("many_drugs", False),
    ]
    assert [made.lines[n].text[place.start : place.end] for n in (0, 1) for place in found[n].places] == ["Napa", "Ace"]


def test_what_is_error_prone_or_could_not_be_understood_has_to_be_looked_at() -> None:
    made = page("1. Napa 5OO mg I tab bid", "2. Seclo .5 mg 10 U QD")
    records = prescription.medications(made, lambda word: True)
    found = prescription.checks(made, records, lambda word: True, ranges=(), lookalikes=(), most_drugs=5)
    assert {check.kind for check in found if check.review} >= {
        "letter_in_number",
        "letter_for_number",
        "unread_dose",
        "naked_decimal",
        "abbreviation_unit",
        "abbreviation_daily",
    }
    assert all(check.places and check.message for check in found)


@pytest.mark.parametrize("because", ["quantity_disputed", "quantity_changed", "ocr_preferred", "candidate"])
def test_how_surely_a_field_is_read_is_no_remark_of_the_profile(because: str) -> None:
    doubtful = (
        Span("1. Napa ", "agreed", 0.9, "agreed"),
        Span("500", "ocr", 0.3, because),
        Span(" mg 1 tab bid", "agreed", 0.9, "agreed"),
    )
    assert kinds(page(doubtful)) == set()


# --- the profile --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile():
    return open_profile(DomainConfig(profile="prescription"))


@pytest.mark.parametrize(
    ("before", "proposal", "after"),
    [
        ("take ", "2", " with food"),
        ("Amox", "i", "cillin"),
        ("1 tab ", "bid", ""),
        ("Napa 5", "0", "0 mg"),
        ("每日", "三", "次"),
        ("阿莫", "西", "林"),
        ("", "mg", ""),
        ("", "Paracetamol", ""),
    ],
)
def test_nothing_of_a_prescription_is_ever_supplied(profile, before: str, proposal: str, after: str) -> None:
    assert profile.forbids(before, proposal, after)


def test_a_pleasantry_may_be_supplied(profile) -> None:
    assert not profile.forbids("祝您早日", "康", "复")


def test_the_profile_speaks_the_language_of_the_line(profile) -> None:
    assert "处方" in profile.instructions("阿莫西林")
    assert "prescription" in profile.instructions("Napa")
    assert open_profile(DomainConfig()).instructions("Napa") == ""


def test_the_general_profile_changes_nothing() -> None:
    general = open_profile(DomainConfig())
    made = page("1. Napa 500 mg", "7+5=13")
    assert general.understand(made) is made
    assert general.prior is None
    assert not general.forbids("", "2", " mg")


def test_a_formulary_takes_the_place_of_the_packaged_names(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Zzyxal\n", encoding="utf-8")
    own = open_profile(DomainConfig(profile="prescription", formulary=tmp_path / "mine.txt"))
    assert own.prior is not None
    assert own.prior.holds("zzyxal")
    assert own.prior.holds("tab")
    assert not own.prior.holds("paracetamol")
    assert own.prior.kind == "formulary"


def test_vitals_complaints_and_dates_beside_the_drugs_are_part_of_none() -> None:
    found = meds(
        page(
            "BP 130/85 mmHg", "Wt 58 kg", "FBS 110 mg/dl", "Hb 10.4 g/dl", "Tab Losartan 50 mg OD",
            "c/o cough 4 days", "Review after 10 days", "allergic to penicillin 500 mg",
        )
    )  # fmt: skip
    assert found == [{"drug": "Losartan", "form": "Tab", "strength": "50 mg", "frequency": "OD"}]


@pytest.mark.parametrize(
    ("drug", "below", "belongs"), [(0.02, 0.99, False), (0.02, 0.4, True), (0.97, 0.99, True), (None, 0.99, True)]
)
def test_print_below_a_handwritten_drug_is_none_of_its_directions(
    drug: float | None, below: float, belongs: bool
) -> None:
    made = page("Tab. Seclo 20 mg", "twice daily before meals")
    lines = tuple(replace(line, printed=own) for line, own in zip(made.lines, (drug, below), strict=True))
    (found,) = meds(replace(made, lines=lines))
    assert ("frequency" in found) is belongs


def test_directions_that_were_given_to_no_drug_are_listed() -> None:
    made = page("Tab. Seclo 20 mg", "twice daily before meals", "BP 130/85 mmHg", "Dr. Who 2 tablets")
    lines = tuple(replace(line, printed=own) for line, own in zip(made.lines, (0.02, 0.99, 0.02, 0.02), strict=True))
    understood = open_profile(DomainConfig(profile="prescription")).understand(replace(made, lines=lines))
    found = [check for check in understood.checks if check.kind == "unplaced"]
    assert [check.places[0].line for check in found] == ["l001"]
    assert all(check.review for check in found)


@pytest.mark.parametrize(
    ("text", "remarked"),
    [
        ("Napa 500 mg 1+0+17 days", True), ("Napa 1+0+15", True), ("Napa 1-0-17 days", True),
        ("Napa 500 mg 1+0+1 7 days", False), ("Napa 1-0-1-0", False), ("12-05-2024", False), ("1-2-2024", False),
        ("3-3-25", False), ("Napa 1-0-1 x 7 days", False), ("tel 2-3-15 44", False),
    ],
)  # fmt: skip
def test_a_number_run_into_a_schedule_is_remarked(text: str, remarked: bool) -> None:
    understood = open_profile(DomainConfig(profile="prescription")).understand(page(text))
    assert ("run_together" in {check.kind for check in understood.checks}) is remarked


def test_words_of_directions_and_single_letters_are_no_name_but_short_drugs_are() -> None:
    assert meds(page("S. 3 dd 5 ml", "da 100 ml")) == []
    assert [found["drug"] for found in meds(page("Tab. Seclo 20 mg", "S. 3 dd 5 ml"))] == ["Seclo"]
    for second in ("2. Fe 100 mg daily", "Tab. Fe 100 mg", "D3 1000 IU", "1. D3 60000 IU weekly"):
        found = meds(page("Tab. Seclo 20 mg", second))
        assert len(found) == 2, second
        assert "dose" not in found[0]


def test_no_part_of_numbers_run_together_is_a_duration_or_a_frequency() -> None:
    (found,) = meds(page("Napa 500 mg 1+0+15 days"))
    assert "duration" not in found
    (found,) = meds(page("Napa 500 mg 1+0+1+1"))
    assert "frequency" not in found


def test_complaints_before_the_first_drug_are_not_listed() -> None:
    made = page("Fever for 3 days", "Open daily 10 am", "Tab. Seclo 20 mg", "Cough 2 weeks")
    understood = open_profile(DomainConfig(profile="prescription")).understand(made)
    assert "unplaced" not in {check.kind for check in understood.checks}


def test_directions_on_a_page_without_a_drug_are_listed() -> None:
    understood = open_profile(DomainConfig(profile="prescription")).understand(page("5 ml tid", "after food"))
    assert "unplaced" in {check.kind for check in understood.checks}


def test_print_between_a_drug_and_its_directions_parts_them_not() -> None:
    made = page("Tab. Seclo 20 mg", "twice daily before meals", "1+0+1 for 7 days")
    lines = tuple(replace(line, printed=own) for line, own in zip(made.lines, (0.02, 0.99, 0.02), strict=True))
    (found,) = meds(replace(made, lines=lines))
    assert (found["frequency"], found["duration"]) == ("1+0+1", "for 7 days")


def test_what_is_printed_under_the_list_is_no_part_of_the_last_drug() -> None:
    texts = ("Napa 500 mg", "1 tab tid", "LABEL", "REFILL 0 1 2 3 PRN", "signature", "1-800-555-0123", "PRN")
    assert meds(page(*texts)) == [{"drug": "Napa", "strength": "500 mg", "dose": "1 tab", "frequency": "tid"}]


@pytest.mark.parametrize(
    "text", ["Telmisartan 40 mg od", "Namenda 10 mg od", "Co-amoxiclav 625 mg bd", "Allergex 4 mg od"]
)
def test_drugs_that_begin_like_a_heading_are_drugs(text: str) -> None:
    assert [one["drug"] for one in meds(page(text))] == [text.split()[0]]


def test_directions_far_below_belong_to_no_drug() -> None:
    near, far = (0.0, 40.0, 300.0, 70.0), (0.0, 400.0, 300.0, 430.0)
    for box, count in ((near, 1), (far, 0)):
        lines = (line("Napa 500 mg", 0), line("1 tab tid", 1, box))
        (found,) = meds(replace(page(), lines=lines))
        assert ("frequency" in found) == bool(count)


def test_letters_with_a_point_before_a_name_are_its_form() -> None:
    assert [(one["form"], one["drug"]) for one in meds(page("T. Pan 40 mg 1-0-0 x 5 d", "C. Becosules 0-1-0", "T. Dolo 650 mg SOS"))] == [
        ("T.", "Pan"), ("C.", "Becosules"), ("T.", "Dolo"),
    ]  # fmt: skip


def test_a_missing_item_is_flagged() -> None:
    for numbers, missing in (("123", 0), ("124", 1), ("13", 1)):
        texts = [f"{number}. Napa {number}00 mg" for number in numbers]
        kinds = [
            check.kind for check in open_profile(DomainConfig(profile="prescription")).understand(page(*texts)).checks
        ]
        assert kinds.count("missing_item") == missing


@pytest.mark.parametrize(
    "text", ["Rx Paracetamol 500 mg", "Rx: Tab Napa 500 mg", "R/ Napa 500 mg 1+0+1", "℞ Napa 500 mg"]
)
def test_a_drug_on_the_line_of_rx_is_a_drug(text: str) -> None:
    made = open_profile(DomainConfig(profile="prescription")).understand(page(text, "1 tab tid"))
    assert [record.get("strength").text for record in made.records] == ["500 mg"]  # type: ignore[union-attr]


def test_a_sites_own_look_alikes_are_shown_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "lasa.csv").write_text(
        "Losec, Lasix\n\nNapa,Napro,Nexa\n阿莫西林,阿奇霉素\nWeißdorn,Weissdorn C\n", encoding="utf-8"
    )
    config = DomainConfig(profile="prescription", lookalikes=tmp_path / "lasa.csv")
    texts = ("1. LASIX 40 mg od", "2. Losecar 5 mg", "napa 500 mg bd", "4. 阿莫西林胶囊 0.5g", "WEISSDORN")
    made = open_profile(config).understand(page(*texts))
    found = [(check.message, check.places[0].line) for check in made.checks if check.kind == "look_alike"]
    assert found == [
        ("“LASIX” may be taken for Losec", "l000"),
        ("“napa” may be taken for Napro, Nexa", "l002"),
        ("“阿莫西林” may be taken for 阿奇霉素", "l003"),
        ("“WEISSDORN” may be taken for Weissdorn C", "l004"),
    ]


@pytest.mark.parametrize(("text", "problem"), [("Losec\n", "row 1 has one name"), (None, "can't be read")])
def test_a_bad_list_of_look_alikes_is_named(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "lasa.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"lasa\.csv.*{problem}"):
        prescription.read_lookalikes(tmp_path / "lasa.csv")
