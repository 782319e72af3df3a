"""Review: which stretches of a decided page somebody must look at, in which order, and why."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.domain import prescription
from fusion.page import (
    GAP,
    Candidate,
    Check,
    Failure,
    Line,
    Page,
    Place,
    Polygon,
    Source,
    Span,
    is_ideograph,
    stretches,
)
from fusion.review import ALWAYS, COSTS, NOTHING, SACRED, UNREAD, UNREAD_LINE, Item, Review, judge, review
from tests.made_pages import page
from tests.strategies import pages

LIMITS = st.sampled_from([0.01, 0.05, 0.2, 0.45])


def sure(text: str, confidence: float | None = 0.999, source: Source = "agreed", because: str = "agreed") -> Span:
    return Span(text, source, confidence, because)


def flagged(made: Page, max_error: float = 0.05) -> list[str]:
    return [item.text for item in review(made, max_error).items]


def reasons(made: Page, max_error: float = 0.05) -> dict[str, tuple[str, ...]]:
    return {item.text: item.reasons for item in review(made, max_error).items}


def understood(made: Page) -> Page:
    return replace(made, records=prescription.medications(made, lambda word: True))


# --- what is flagged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cost"), [("Napa", COSTS["word"]), ("500", COSTS["quantity"]), ("片", COSTS["word"]), ("…", COSTS["sign"])]
)
def test_a_stretch_is_left_alone_while_its_expected_cost_is_within_the_limit(text: str, cost: float) -> None:
    wrong = 0.05 / cost
    assert flagged(page((sure(text, 1 - wrong + 1e-6),))) == []
    (item,) = review(page((sure(text, 1 - wrong - 1e-6),)), 0.05).items
    assert (item.text, item.cost) == (text, cost)
    assert item.expected_cost == pytest.approx(0.05, abs=1e-4)


def test_a_dose_has_to_be_surer_than_another_number_and_that_surer_than_a_word_and_a_sign() -> None:
    assert COSTS["sacred"] > COSTS["quantity"] > COSTS["word"] > COSTS["sign"]
    made = understood(page((sure("Napa ", 0.97), sure("500 mg ", 0.97), sure("room 12 ! ", 0.97))))
    assert {(field.name, field.text) for record in made.records for field in record.fields} >= {
        ("drug", "Napa"),
        ("strength", "500 mg"),
    }
    costs = {item.text: item.cost for _, units, _ in judge(made, 0.05) for item in units}
    assert costs == {"Napa": 10.0, "500": 10.0, "mg": 10.0, "room": 1.0, "12": 5.0, "!": 0.5}
    assert sorted(flagged(made, 0.1)) == ["12", "500", "Napa", "mg"]
    assert sorted(flagged(made, 0.2)) == ["500", "Napa", "mg"]
    assert flagged(made, 0.31) == []


def test_what_else_a_prescription_says_is_not_sacred() -> None:
    assert {"drug", "strength", "dose", "frequency", "duration", "quantity"} == set(SACRED)
    made = understood(page((sure("1. Napa 500 mg 1 tab bid shake well", 0.97),)))
    assert {"shake", "well"} <= {item.text for _, units, _ in judge(made, 0.05) for item in units if item.cost == 1.0}


def test_a_unit_is_as_dear_as_its_value() -> None:
    made = page((sure("take 500 mg now", 0.97),))
    assert {item.text: item.cost for _, units, _ in judge(made, 0.05) for item in units} == {
        "take": 1.0,
        "500": 5.0,
        "mg": 5.0,
        "now": 1.0,
    }


@pytest.mark.parametrize("max_error", [0.01, 0.2, 0.99])
def test_what_nobody_read_is_always_looked_at(max_error: float) -> None:
    gap = Span(GAP * 2, "gap", None, "unread_ink", extent=2)
    supplied = Span("5", "supplied", 1.0, "completed_from_context", extent=1)
    made = page((sure("all ", 1.0), gap, sure(" day ", 1.0), supplied, sure("x ok", 1.0)))
    found = reasons(made, max_error)
    assert set(found) == {GAP * 2, "5x"}
    assert found[GAP * 2][0] == UNREAD["gap"]
    assert found["5x"] == (UNREAD["supplied"], "chance of a mistake: 0 %")


@pytest.mark.parametrize("max_error", [0.01, 0.2, 0.99])
def test_what_is_unknown_counts_as_wrong(max_error: float) -> None:
    made = page((sure("so ", 1.0), sure("and 5 片", None, "ocr", "decision_failed")))
    assert reasons(made, max_error) == dict.fromkeys(["and", "5", "片"], ("chance of a mistake: unknown",))
    assert {item.confidence for item in review(made, max_error).items} == {None}


def test_an_unknown_sign_is_looked_at_whatever_the_limit() -> None:
    assert flagged(page((sure("so ", 1.0), sure("!", None, "ocr", "decision_failed"))), 0.6) == ["!"]


def test_a_gap_is_as_dear_as_a_word() -> None:
    made = page((sure("all ", 0.3), Span(GAP, "gap", None, "unread_ink", extent=1), sure(" ok", 0.3)))
    assert flagged(made)[0] == GAP


@pytest.mark.parametrize(("because", "reason"), ALWAYS.items())
def test_what_a_rule_left_to_a_person_is_looked_at_however_sure(because: str, reason: str) -> None:
    made = page((sure("take ", 1.0), sure("5", 1.0, "ocr", because), sure(" now", 1.0)))
    assert reasons(made, 0.9) == {"5": (reason, "chance of a mistake: 0 %")}


def test_reasons_are_words_for_people() -> None:
    for reason in [*ALWAYS.values(), *UNREAD.values()]:
        assert " " in reason
        assert "_" not in reason


def test_a_check_flags_the_stretch_that_it_points_at_and_a_remark_flags_nothing() -> None:
    made = replace(
        page((sure("take 5OO mg", 1.0),), (sure("now", 1.0),)),
        checks=(
            Check("letter_in_number", "holds a letter that looks like a digit", (Place("l000", 5, 8),)),
            Check("unlisted_drug", "in no list", (Place("l000", 0, 4),), review=False),
            Check("many_drugs", "9 drugs, more than 5", review=True),
            Check("tick", "a teacher's tick", review=True, polygon=((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))),
        ),
    )
    found = review(made, 0.05)
    (item,) = found.items
    assert (item.text, item.start, item.end) == ("5OO", 5, 8)
    assert item.reasons == ("holds a letter that looks like a digit", "chance of a mistake: 0 %")
    assert found.lines == {("made.png", "l000")}


def test_a_reason_stands_once_and_the_confidence_last() -> None:
    twice = (Check("a", "same", (Place("l000", 0, 4),)), Check("b", "same", (Place("l000", 0, 2),)))
    made = replace(page((sure("Na", 0.4, "ocr", "quantity_disputed"), sure("pa", 0.7))), checks=twice)
    assert reasons(made) == {"Napa": (ALWAYS["quantity_disputed"], "same", "chance of a mistake: 60 %")}


# --- order --------------------------------------------------------------------------------------------------------


def test_the_dearest_stands_first_and_equals_in_reading_order() -> None:
    made = page((sure("a ", 0.5), sure("b ", 0.2), sure("5 ", 0.7), sure("c ", 0.5), sure("d", None, "ocr", "x")))
    assert [(item.text, round(item.expected_cost, 3)) for item in review(made, 0.05).items] == [
        ("5", 1.5),
        ("d", 1.0),
        ("b", 0.8),
        ("a", 0.5),
        ("c", 0.5),
    ]


@settings(deadline=None, max_examples=60)
@given(pages(), LIMITS)
def test_items_are_ranked_by_expected_cost(made: Page, max_error: float) -> None:
    costs = [item.expected_cost for item in review(made, max_error).items]
    assert costs == sorted(costs, reverse=True)


@settings(deadline=None, max_examples=60)
@given(pages(), LIMITS, LIMITS)
def test_a_smaller_limit_flags_at_least_as_much(made: Page, one: float, other: float) -> None:
    strict, lax = review(made, min(one, other)), review(made, max(one, other))
    assert strict.flagged >= lax.flagged
    assert strict.lines >= lax.lines
    assert strict.total == lax.total


# --- items, lines and totals --------------------------------------------------------------------------------------


def test_neighbouring_chinese_characters_are_one_item_and_count_one_by_one() -> None:
    made = page((sure("服药", 0.5), sure("后", 0.4), sure("休", 1.0), sure("息 再", 0.6)))
    found = review(made, 0.05)
    assert {(item.text, item.start, item.end, item.units, item.confidence) for item in found.items} == {
        ("服药后", 0, 3, 3, 0.4),
        ("息", 4, 5, 1, 0.6),
        ("再", 6, 7, 1, 0.6),
    }
    assert (found.flagged, found.total) == (5, 6)


def test_a_word_and_the_chinese_beside_it_are_two_items() -> None:
    assert sorted(flagged(page((sure("服Napa药", 0.5),)))) == ["Napa", "服", "药"]


def test_merged_characters_have_the_reasons_of_all() -> None:
    made = page((sure("服", 0.9), sure("两", 0.5, "ocr", "quantity_disputed")))
    assert reasons(made) == {"服两": (ALWAYS["quantity_disputed"], "chance of a mistake: 50 %")}


def test_only_lines_with_something_to_look_at_and_unread_ones_are_named() -> None:
    made = page((sure("sure"),), (sure("unsure", 0.5),), (sure("sure too"),))
    empty = Line("l003", made.lines[0].polygon, 3, failures=(Failure("ocr", "empty", "nothing"),))
    blank = Line("l004", made.lines[0].polygon, 4, spans=(sure(" "),))
    found = review(replace(made, lines=(*made.lines, empty, blank)), 0.05)
    assert found.lines == {("made.png", "l001"), ("made.png", "l003"), ("made.png", "l004")}
    assert (found.flagged, found.total) == (1, 4)
    assert [(item.line, item.text, item.start, item.end, item.units) for item in found.items] == [
        ("l003", "", 0, 0, 0),
        ("l004", " ", 0, 1, 0),
        ("l001", "unsure", 0, 6, 1),
    ]
    assert found.items[0].reasons == (UNREAD_LINE,)
    assert found.items[0].polygon == empty.polygon
    assert str(found) == "1 of 4 stretches need a look, and 2 lines that nobody read"


def test_reviews_of_several_pages_add_up() -> None:
    one = page((sure("a", 0.5), sure(" b")))
    two = replace(page((sure("c", 0.1), sure(" 服药", 0.8))), id="other.png")
    both = sum((review(made, 0.05) for made in (one, two)), NOTHING)
    assert [item.text for item in both.items] == ["c", "a", "服药"]
    assert (both.flagged, both.total) == (4, 5)
    assert both.lines == {("made.png", "l000"), ("other.png", "l000")}
    assert review(one, 0.05) + NOTHING == review(one, 0.05)


def test_nothing_is_flagged_where_all_is_sure() -> None:
    assert review(page((sure("all is well"),)), 0.05) == Review((), 3)
    assert review(page(), 0.05) == NOTHING


@settings(deadline=None, max_examples=100)
@given(pages(), LIMITS)
def test_items_are_stretches_of_their_lines(made: Page, max_error: float) -> None:
    found = review(made, max_error)
    texts = {line.id: line.text for line in made.lines}
    for item in found.items:
        assert (item.page, item.image_sha256) == (made.id, made.image_sha256)
        assert (item.page, item.line) in found.lines
        assert item.text == texts[item.line][item.start : item.end]
        if item.units == 0:
            assert item.text == texts[item.line]
            assert not item.text.strip()
            continue
        assert not any(character.isspace() for character in item.text)
        assert item.reasons[-1].startswith("chance of a mistake: ")
        inside = [pair for pair in stretches(texts[item.line]) if item.start <= pair[0] and pair[1] <= item.end]
        assert len(inside) == item.units
        assert (inside[0][0], inside[-1][1]) == (item.start, item.end)
        assert item.units == 1 or all(map(is_ideograph, item.text))
    for a, b in itertools.combinations(found.items, 2):
        assert a.line != b.line or a.end <= b.start or b.end <= a.start
    named = {item.line for item in found.items} | {line.id for line in made.lines if not line.text.strip()}
    assert found.lines == {(made.id, line) for line in named}
    assert found.total == sum(len(stretches(text)) for text in texts.values())


@settings(deadline=None, max_examples=100)
@given(pages(), LIMITS)
def test_review_flags_what_judge_flags_and_judge_what_may_cost_too_much(made: Page, max_error: float) -> None:
    judged = [
        (unit, flag) for _, units, flags in judge(made, max_error) for unit, flag in zip(units, flags, strict=True)
    ]
    assert sum(flag for _, flag in judged) == review(made, max_error).flagged
    assert len(judged) == review(made, max_error).total
    for unit, flag in judged:
        decided = sources(made, unit) == {"human"}
        assert flag == ((bool(unit.reasons) or unit.expected_cost > max_error) and not decided)
        assert unit.cost in COSTS.values()
        assert flag or decided or unit.confidence is not None


def sources(made: Page, unit: Item) -> set[str]:
    """Who decided the characters of a stretch."""
    (line,) = (line for line in made.lines if line.id == unit.line)
    return set([span.source for span in line.spans for _ in span.text][unit.start : unit.end])


@settings(deadline=None, max_examples=100)
@given(pages(), LIMITS)
def test_whatever_nobody_read_is_flagged(made: Page, max_error: float) -> None:
    covered = {(item.line, place) for item in review(made, max_error).items for place in range(item.start, item.end)}
    for line in made.lines:
        left = 0
        for span in line.spans:
            right = left + len(span.text)
            unread = span.source in UNREAD or span.confidence is None or span.because in ALWAYS
            if unread and span.source != "human":
                marks = [place for place in range(left, right) if not line.text[place].isspace()]
                assert all((line.id, place) in covered for place in marks)
            left = right


# --- alternatives and places --------------------------------------------------------------------------------------


def only(made: Page) -> Item:
    (item,) = review(made, 0.05).items
    return item


def others(item: Item) -> list[tuple[str, float]]:
    return [(other.text, other.probability) for other in item.alternatives]


def test_alternatives_are_whole_words_best_first() -> None:
    doubtful = Span("im", "ocr", 0.3, "x", (Candidate("in", 0.2), Candidate("un", 0.25)))
    assert others(only(page((sure("d"), doubtful, sure("ly now"))))) == [("dunly", 0.25), ("dinly", 0.2)]


def test_of_a_longer_span_a_word_has_its_own_part() -> None:
    doubtful = Span("Nape 500 mg", "ocr", 0.9, "x", (Candidate("Napa 500 mg", 0.1), Candidate("Nape 600 mg", 0.05)))
    found = {item.text: others(item) for item in review(page((doubtful,)), 0.05).items}
    assert found == {"Nape": [("Napa", 0.1)], "500": [("600", 0.05)], "mg": []}


def test_nothing_white_space_and_the_same_text_are_no_alternatives() -> None:
    told = (
        Candidate("", 0.4),
        Candidate("  ", 0.3),
        Candidate("dim ", 0.2),
        Candidate("dun", 0.1),
        Candidate(" dun", 0.05),
    )
    assert others(only(page((Span("dim", "ocr", 0.3, "x", told),)))) == [("dun", 0.1)]


def test_the_ink_of_a_rival_is_kept() -> None:
    rival = Span("Napa", "lexicon", 0.9, "lexicon_lookalike", (Candidate("Nape", 0.1, -3.0),))
    item = only(page((rival,)))
    assert item.alternatives == (Candidate("Nape", 0.1, -3.0),)
    assert item.reasons == (ALWAYS["lexicon_lookalike"], "chance of a mistake: 10 %")


@settings(deadline=None, max_examples=100)
@given(pages(), LIMITS)
def test_alternatives_are_other_texts_each_once_best_first(made: Page, max_error: float) -> None:
    for item in review(made, max_error).items:
        texts = [other.text for other in item.alternatives]
        chances = [other.probability for other in item.alternatives]
        assert len(set(texts)) == len(texts)
        assert chances == sorted(chances, reverse=True)
        assert all(text.strip() == text != item.text and text for text in texts)


def test_a_word_stands_at_its_share_of_its_span() -> None:
    at: Polygon = ((10.0, 0.0), (110.0, 20.0), (110.0, 50.0), (10.0, 30.0))
    made = page((replace(sure("ab cd efgh", 0.5), polygon=at),))
    places = {item.text: item.polygon for item in review(made, 0.05).items}
    assert places["ab"] == ((10.0, 0.0), (30.0, 4.0), (30.0, 34.0), (10.0, 30.0))
    assert places["cd"] == ((40.0, 6.0), (60.0, 10.0), (60.0, 40.0), (40.0, 36.0))
    assert places["efgh"] == ((70.0, 12.0), (110.0, 20.0), (110.0, 50.0), (70.0, 42.0))


def test_a_word_of_several_spans_reaches_from_the_first_to_the_last() -> None:
    left: Polygon = ((0.0, 0.0), (20.0, 0.0), (20.0, 30.0), (0.0, 30.0))
    right: Polygon = ((20.0, 0.0), (60.0, 0.0), (60.0, 30.0), (20.0, 30.0))
    made = page((replace(sure("Na", 0.5), polygon=left), replace(sure("pa 5 ", 1.0), polygon=right)))
    assert only(made).polygon == ((0.0, 0.0), (36.0, 0.0), (36.0, 30.0), (0.0, 30.0))


def test_what_has_no_place_stands_on_its_line() -> None:
    made = page((sure("dim", 0.5),))
    assert only(made).polygon == made.lines[0].polygon


@settings(deadline=None, max_examples=100)
@given(pages(), LIMITS)
def test_the_place_of_an_item_is_inside_those_of_its_spans(made: Page, max_error: float) -> None:
    lines = {line.id: line for line in made.lines}
    for item in review(made, max_error).items:
        line, left = lines[item.line], 0
        corners = [*line.polygon] if item.polygon == line.polygon else []
        for span in line.spans:
            right = left + len(span.text)
            if left < item.end and right > item.start:
                corners += span.polygon or line.polygon
            left = right
        for axis in (0, 1):
            own, around = [point[axis] for point in item.polygon], [point[axis] for point in corners]
            assert min(around) - 1e-6 <= min(own) <= max(own) <= max(around) + 1e-6


def test_what_a_person_decided_is_not_asked_again_whatever_is_remarked() -> None:
    made = page(
        (
            sure("5", source="human"),
            sure(" mg x"),
        ),
        (Span("", "human", 1.0, "decided_by_person"),),
    )
    check = Check("odd", "an odd dose", (Place("l000", 0, 4),))
    assert flagged(replace(made, checks=(check,))) == ["mg"]
