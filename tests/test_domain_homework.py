from __future__ import annotations

import cmath
import math
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.config import DomainConfig
from fusion.domain import arithmetic, homework, open_profile, sums
from fusion.page import Candidate, Line, Page, Reading, Recipe, Span
from fusion.train import grammar
from tests.made_pages import line, page


@pytest.mark.parametrize(
    ("text", "stretch", "holds"),
    [
        ("7+5=13", "7+5=13", False),
        ("(1) 7+5=12", "7+5=12", True),
        ("1. 7+5=12", "7+5=12", True),
        ("1) 7 + 5 = 12", "7 + 5 = 12", True),
        ("第二步 7+5=13", "7+5=13", False),
        ("解：5-2=3", "5-2=3", True),
        ("7÷2=3…1", "7÷2=3…1", True),
        ("20÷3=6余1", "20÷3=6余1", False),
        ("5-3=(1+1+1)-(1)=2", "5-3=(1+1+1)-(1)=2", True),
        ("1/2+1/2=1", "1/2+1/2=1", True),
        ("2/3÷7/10=20/21", "2/3÷7/10=20/21", True),
        ("3×(2+4)≥18", "3×(2+4)≥18", True),
        ("3x4=12", "3x4=12", True),
        ("8-10=-2", "8-10=-2", True),
        ("50%×4=2", "50%×4=2", True),
        ("0÷0=1", "0÷0=1", None),
        ("1+1≈2", "1+1≈2", None),
    ],
)
def test_sums_are_found_and_worked_out(text: str, stretch: str, holds: bool | None) -> None:
    found = arithmetic.check(text)
    assert found is not None
    assert (text[found.start : found.end], found.holds) == (stretch, holds)


@pytest.mark.parametrize(
    "text", ["x+1=2", "7+5=", "12", "f(2)=4", "2a=b", "答: 12", "1.5 2=3", "", "(((", "=", "a 7+5=12b", "3=3"]
)
def test_what_is_no_sum_is_left_alone(text: str) -> None:
    assert arithmetic.check(text) is None


SIGNS = st.sampled_from("+-×÷")
EXPRESSION = st.recursive(
    st.integers(0, 999).map(str),
    lambda inner: st.tuples(inner, SIGNS, inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


def worth(text: str) -> Fraction:
    """Python's own answer, with fractions for numbers."""
    import re

    plain = text.replace("×", "*").replace("÷", "/")
    return eval(re.sub(r"\d+", lambda m: f"Fraction({int(m[0])})", plain), {"Fraction": Fraction})


@settings(deadline=None, max_examples=150)
@given(EXPRESSION, EXPRESSION)
def test_values_are_those_of_exact_arithmetic(a: str, b: str) -> None:
    found = arithmetic.check(f"{a}+0={b}")
    assert found is not None
    try:
        left, right = worth(a), worth(b)
    except ZeroDivisionError:
        assert found.holds is None
        return
    assert (found.left, found.right, found.holds) == (left, right, left == right)


@settings(deadline=None, max_examples=200)
@given(st.text("0123456789+-×÷=()/.%≤ x答解：…余", max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    found = arithmetic.check(text)
    assert found is None or 0 <= found.start < found.end <= len(text)


def test_deep_brackets_are_no_sum() -> None:
    assert arithmetic.check("(" * 90 + "1" + ")" * 90 + "+1=2") is None


# --- questions ----------------------------------------------------------------------------------------------------


def test_questions_have_numbers_and_answers() -> None:
    made = page(
        "Homework", "1. What is 3+4?", "Ans: 7", "2、小明有5个苹果，吃了2个，还有几个？", "解：5-2=3", "答：还有3个。"
    )
    questions = [r for r in homework.exercises(made) if r.kind == "question"]
    assert [{f.name: f.text for f in r.fields} for r in questions] == [
        {"number": "1.", "question": "What is 3+4?", "answer": "7"},
        {"number": "2、", "question": "小明有5个苹果，吃了2个，还有几个？", "answer": "5-2=3 答：还有3个。"},
    ]


@pytest.mark.parametrize(
    ("lines", "numbers", "sums"),
    [
        (["1.12+30=42", "2.7×8=54"], ["1.", "2."], ["12+30=42", "7×8=54"]),  # what a reader makes of "1. 12+30=42"
        (["1. Name it.", "2.7+5=12"], ["1.", "2."], ["7+5=12"]),
        (["3.5+1=4.5"], [], ["3.5+1=4.5"]),
        (["1.5+2=3.5", "2.5+1=3.5"], [], ["1.5+2=3.5", "2.5+1=3.5"]),  # true as they stand
        (["4.2×3=9", "9.1+1=3"], [], ["4.2×3=9", "9.1+1=3"]),  # nothing counts on
        (["1. x", "Ans: 9-4=5"], ["1."], ["9-4=5"]),
    ],
)
def test_a_number_of_its_own_is_told_from_a_decimal_by_counting(
    lines: list[str], numbers: list[str], sums: list[str]
) -> None:
    records = homework.exercises(page(*lines))
    assert [field.text for record in records for field in record.fields if field.name == "number"] == numbers
    assert [field.text for record in records for field in record.fields if field.name == "sum"] == sums


def test_a_wrong_sum_stays_and_is_marked_beside_it() -> None:
    made = page("第二步 7+5=13")
    records = homework.exercises(made)
    (check,) = homework.checks(made, records)
    assert (check.kind, check.review) == ("sum_wrong", False)
    (place,) = check.places
    assert made.lines[0].text[place.start : place.end] == "7+5=13"
    assert records[0].fields[0].value == {"holds": False, "left": "12", "right": "13"}


def test_a_digit_that_would_make_the_sum_right_is_shown_and_decides_nothing() -> None:
    doubtful = (
        Span("7+5=1", "agreed", 0.9, "agreed"),
        Span("3", "ocr", 0.5, "x", (Candidate("2", 0.4), Candidate("8", 0.1))),
    )
    made = page(doubtful)
    checks = homework.checks(made, homework.exercises(made))
    hints = [check for check in checks if check.kind == "sum_hint"]
    assert len(hints) == 1
    assert hints[0].review
    assert "“2”" in hints[0].message
    assert made.lines[0].text == "7+5=13"


def test_latex_of_a_reader_is_a_field_with_its_source() -> None:
    made = page("x/2=3")
    reading = Reading("vlm", r"\frac{x}{2}=3", Recipe("served", "1", "GLM-OCR", "0" * 64))
    made = replace(made, lines=(replace(made.lines[0], readings=(reading,)),))
    (record,) = homework.exercises(made)
    assert record.kind == "formula"
    assert record.fields[0].value == {"latex": r"\frac{x}{2}=3", "source": "served GLM-OCR"}
    assert record.fields[0].text == "x/2=3"


# --- the model of sums --------------------------------------------------------------------------------------------

MODEL = sums.SumModel.load()


@settings(deadline=None)
@given(st.text("0123456789+-×÷=()xyz", min_size=1, max_size=20), st.randoms())
def test_no_digit_is_more_probable_than_another(text: str, rng) -> None:
    other = "".join(str(rng.randrange(10)) if c.isdigit() else c for c in text)
    assert MODEL.log_probability(text) == pytest.approx(MODEL.log_probability(other))


def test_signs_in_their_places_are_more_probable() -> None:
    for right, wrong in [("0+0=0", "O+O=O"), ("1+1+1=3", "1+|+1=3"), ("4x=x+x", "4X=x+X"), ("(1)(1)", "(1(1)")]:
        assert MODEL.log_probability(right) > MODEL.log_probability(wrong)


@pytest.mark.parametrize("number", ["3)", "(3)", "（3）", "3）", "3、", "12)", "(107) ", " 3) "])
@pytest.mark.parametrize("text", ["7+5=13", "x-1=2", "(2+3)×4"])
def test_the_number_of_an_exercise_is_no_part_of_the_sum(number: str, text: str) -> None:
    assert MODEL.log_probability(number + text) == pytest.approx(MODEL.log_probability(text))


@pytest.mark.parametrize("text", ["(3)×4=12", "(3)+4=7"])
def test_a_number_in_brackets_that_is_reckoned_with_is_part_of_the_sum(text: str) -> None:
    assert MODEL.log_probability(text) > MODEL.log_probability(text[3:])


def test_white_space_is_no_part_of_a_sum() -> None:
    assert MODEL.log_probability(" 7 + 5 = 13 ") == MODEL.log_probability("7+5=13")


def test_a_sum_is_likelier_than_any_signs_and_other_lines_are_not() -> None:
    for text in ("7+5=13", "12×8=95", "x+2y=8", "f(2)=4"):
        assert MODEL.log_probability(text) > 0
    for text in ("=+×7", "α+β≈γ", "7|5_13", "((((("):
        assert MODEL.log_probability(text) < 0


@pytest.mark.parametrize("text", ["7+5=13", "2x-8y=20", "3×4=12", "(1+2)×3=9"])
def test_a_whole_sum_is_likelier_than_its_beginning(text: str) -> None:
    for end in range(len(text)):
        assert MODEL.log_probability(text) > MODEL.log_probability(text[:end])


@pytest.mark.parametrize(
    ("text", "concerned"),
    [
        ("7+5=13", True),
        ("i=〇", True),
        ("2log(x)=1", True),
        ("第2步", False),
        ("Napa 500 mg", False),
        ("Amoxicillin", False),
        ("我有3个", False),
        ("hello 7", False),
    ],
)
def test_the_model_speaks_about_lines_of_maths(text: str, concerned: bool) -> None:
    assert MODEL.concerns(text) is concerned


def test_the_grammar_is_seeded_and_balanced() -> None:
    made = grammar.lines(300, 7)
    assert made == grammar.lines(300, 7) != grammar.lines(300, 8)
    assert all(line.count("(") == line.count(")") and " " not in line for line in made)


def test_results_are_drawn_and_not_worked_out() -> None:
    checked = [found.holds for text in grammar.lines(3000, 3) if (found := arithmetic.check(text)) and "=" in text]
    assert len(checked) > 300
    assert sum(holds is True for holds in checked) < 0.1 * len(checked)


def test_the_homework_profile_expects_sums() -> None:
    profile = open_profile(DomainConfig(profile="homework"))
    assert profile.prior is not None
    assert profile.prior.kind == "sums"
    assert "照录" in profile.instructions("一共有13个球")


@pytest.mark.parametrize("profile", ["homework", "prescription"])
def test_understanding_a_page_twice_adds_nothing(profile: str) -> None:
    known = open_profile(DomainConfig(profile=profile))
    once = known.understand(page("1. Napa U 5.0 mg", "7+5=13", "qd x 7 days"))
    assert once.checks
    assert known.understand(once).checks == once.checks


@pytest.mark.parametrize(
    ("rows", "written", "holds"),
    [
        (("456", "+ 278", "734"), "456+278=734", True),
        (("456", "+278", "744"), "456+278=744", False),
        (("12", "+ 3", "+ 4", "19"), "12+3+4=19", True),
        (("90", "- 45", "45"), "90-45=45", True),
        (("15", "× 4", "60"), "15×4=60", True),
        (("90", "— 45", "45"), "90-45=45", True),
    ],
)
def test_a_vertical_sum_is_a_block(rows: tuple[str, ...], written: str, holds: bool) -> None:
    made = page("Work it out", *rows, "the end")
    (record,) = homework.exercises(made)
    (field,) = record.fields
    assert (field.value["written"], field.value["holds"]) == (written, holds)
    assert [place.line for place in field.places] == [line.id for line in made.lines[1:-1]]
    assert [check.kind for check in homework.checks(made, (record,))] == ([] if holds else ["sum_wrong"])


def test_answers_below_each_other_are_no_wrong_sum() -> None:
    for texts in (("5", "-3", "7"), ("5", "+ 3", "2", "+ 6", "9")):
        made = page(*texts)
        assert homework.checks(made, homework.exercises(made)) == ()


@pytest.mark.parametrize(
    "rows",
    [("456", "278", "734"), ("+ 278", "734"), ("456", "+ 278"), ("456", "+ 278", "the end"), ("12", "+3", "×4", "60")],
)
def test_numbers_below_each_other_alone_are_no_vertical_sum(rows: tuple[str, ...]) -> None:
    assert not [record for record in homework.exercises(page(*rows)) if len(record.places) > 1]


def test_two_vertical_sums_side_by_side_are_two_blocks() -> None:
    rows = (("12", "30"), ("+ 5", "+ 4"), ("17", "35"))
    boxes = [(left, 40.0 * n, left + 100, 40.0 * n + 30) for n in range(3) for left in (0.0, 200.0)]
    texts = [text for row in rows for text in row]
    lines = tuple(line(text, n, box) for n, (text, box) in enumerate(zip(texts, boxes, strict=True)))
    found = homework.exercises(replace(page(), lines=lines))
    blocks = [record.fields[0].value for record in found if "written" in record.fields[0].value]
    assert [(block["written"], block["holds"]) for block in blocks] == [("12+5=17", True), ("30+4=35", False)]


def test_a_row_of_a_vertical_sum_begins_no_question() -> None:
    (found,) = homework.exercises(page("3.50", "+ 1.25", "4.75"))
    assert found.fields[0].value["written"] == "3.50+1.25=4.75"


@pytest.mark.parametrize(
    ("confidence", "second", "kind"),
    [(0.95, "46+7=3", "sum_wrong"), (0.8, "46+7=3", "sum_unsure"), (0.95, "46+7=53", "sum_unsure")],
)
def test_a_sum_that_may_be_misread_is_not_called_wrong(confidence: float, second: str, kind: str) -> None:
    made = page((Span("46+7=3", "ocr", confidence, "ocr_preferred"),))
    recipe = Recipe("made", "1", "m", "0" * 64)
    readings = (Reading("ocr", "46+7=3", recipe), Reading("hand", second, recipe))
    made = replace(made, lines=(replace(made.lines[0], readings=readings),))
    (check,) = homework.checks(made, homework.exercises(made))
    assert (check.kind, check.review) == (kind, kind == "sum_unsure")
    assert made.text == "46+7=3"


def placed(*rows: tuple[str, float, float]) -> Page:
    """Lines 30 px high at their left edge and top, px; 20 px a character."""
    boxes = [(left, top, left + 20 * len(text), top + 30) for text, left, top in rows]
    lines = tuple(line(text, n, box) for n, ((text, *_), box) in enumerate(zip(rows, boxes, strict=True)))
    return replace(page(), lines=lines)


def written(made: Page) -> list[tuple[object, object]]:
    found = [record.fields[0].value for record in homework.exercises(made)]
    return [(value["written"], value.get("holds")) for value in found if "written" in value]


def test_rows_of_a_vertical_sum_may_be_regions_of_their_own_but_not_far_apart() -> None:
    made = page("456", "+ 278", "734")
    regions = tuple(replace(one, region=f"r{n:03d}") for n, one in enumerate(made.lines))
    assert written(replace(made, lines=regions)) == [("456+278=734", True)]
    assert written(placed(("456", 40, 0), ("+278", 20, 40), ("734", 40, 200))) == []


@pytest.mark.parametrize("sign", ["+", "十"])
def test_the_sign_of_a_vertical_sum_may_be_a_line_by_itself(sign: str) -> None:
    made = placed(("456", 40, 0), (sign, 0, 42), ("278", 40, 40), ("734", 40, 80))
    assert written(made) == [("456+278=734", True)]
    (record,) = (r for r in homework.exercises(made) if r.get("sum"))
    assert record.fields[0].text == f"456 {sign} 278 734"  # the text stays as it was read


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("18", 80, 0), ("4", 20, 40), ("72", 80, 40), ("4", 80, 80), ("32", 80, 120), ("32", 80, 160), ("0", 100, 200)], ("72÷4=18", True)),
        ([("1 8", 80, 0), ("4)7 4", 40, 40), ("4", 80, 80), ("3 4", 80, 120), ("3 2", 80, 160), ("2", 120, 200)], ("74÷4=18…2", True)),
        ([("17", 80, 0), ("4", 20, 40), ("72", 80, 40), ("28", 80, 80), ("44", 80, 120)], ("72÷4=17…44", False)),
        ([("18", 80, 0), ("4)72", 40, 40), ("4", 80, 80), ("32", 80, 120), ("-32", 60, 160), ("0", 100, 200)], ("72÷4=18", True)),
    ],
)  # fmt: skip
def test_a_long_division_is_a_block(rows: list[tuple[str, float, float]], expected: tuple[str, bool]) -> None:
    made = placed(*rows)
    assert written(made) == [expected]
    assert len(homework.exercises(made)) == 1  # its numbers begin no question


@pytest.mark.parametrize(
    "rows",
    [
        [("18", 80, 0), ("4", 20, 40), ("72", 80, 40), ("5", 20, 80), ("60", 80, 80), ("15", 80, 120)],  # two columns
        [("18", 80, 0), ("4", 20, 40), ("72", 80, 40)],
        [("18", 80, 0), ("2", 20, 40), ("72", 80, 40), ("14", 80, 80), ("32", 80, 120)],  # a question's number
        [("18", 80, 0), ("4", 20, 0), ("72", 80, 40), ("4", 80, 80), ("32", 80, 120)],  # not beside the second row
        [("18", 300, 0), ("4", 20, 40), ("72", 300, 40), ("4", 300, 80), ("32", 300, 120)],  # far away
        [("1 2", 80, 0), ("+3 4", 60, 40), ("4 6", 80, 80)],  # answers side by side
    ],
)
def test_other_numbers_below_each_other_are_no_block(rows: list[tuple[str, float, float]]) -> None:
    assert written(placed(*rows)) == []


def test_two_long_divisions_below_each_other_are_two_blocks() -> None:
    rows = [("18", 80, 0), ("4)72", 40, 40), ("4", 80, 80), ("32", 80, 120), ("32", 80, 160), ("0", 100, 200)]
    below = [("21", 80, 240), ("3)63", 40, 280), ("6", 80, 320), ("3", 100, 360), ("3", 100, 400), ("0", 100, 440)]
    assert written(placed(*rows, *below))[-1] == ("63÷3=21", True)


def test_a_sign_belongs_to_the_nearest_number_on_its_right() -> None:
    left = [("3", 20, 0), ("-", 0, 40), ("2", 20, 40), ("1", 20, 80)]
    right = [("8", 90, 0), ("+", 70, 40), ("5", 90, 40), ("13", 80, 80)]
    assert sorted(written(placed(*left, *right))) == [("3-2=1", True), ("8+5=13", True)]


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.sampled_from([0, 90, 180, 270]))
def test_the_order_of_lines_and_a_turned_photograph_change_no_block(rng: Random, angle: int) -> None:
    made = placed(("456", 40, 0), ("+", 0, 42), ("278", 40, 40), ("734", 40, 80), ("18", 240, 0), ("4)72", 200, 40),
                  ("4", 240, 80), ("32", 240, 120), ("32", 240, 160), ("0", 260, 200))  # fmt: skip
    back = cmath.rect(1, math.radians(angle))  # as the photograph shows what has to be turned by `angle`

    def turned(one: Line) -> Line:
        points = [complex(x, y) * back for x, y in one.polygon]
        return replace(one, polygon=tuple((point.real, point.imag) for point in points))

    lines = rng.sample(made.lines, len(made.lines))
    photo = replace(made, angle=float(angle), lines=tuple(map(turned, lines)))
    assert sorted(written(photo)) == [("456+278=734", True), ("72÷4=18", True)]


def test_a_vertical_sum_that_one_reader_reads_right_is_not_called_wrong() -> None:
    made = page("456", "+278", "735")
    recipe = Recipe("made", "1", "m", "0" * 64)
    sure = [replace(one, spans=(replace(one.spans[0], confidence=0.99),)) for one in made.lines]
    read = replace(sure[2], readings=(Reading("ocr", "735", recipe), Reading("hand", "734", recipe)))
    for last, kind in ((sure[2], "sum_wrong"), (read, "sum_unsure")):
        one = replace(made, lines=(*sure[:2], last))
        assert [check.kind for check in homework.checks(one, homework.exercises(one))] == [kind]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("23", 80, 0), ("×45", 60, 40), ("115", 60, 80), ("92", 60, 120), ("1035", 40, 160)], ("23×45=1035", True)),
        ([("23", 80, 0), ("×45", 60, 40), ("115", 60, 80), ("92", 60, 120), ("1036", 40, 160)], ("23×45=1036", None)),
        ([("18", 80, 0), ("4)72", 40, 40), ("4", 80, 80), ("32", 80, 120), ("32", 80, 160)], ("72÷4=18", True)),
        ([("13", 80, 0), ("3)39", 40, 40), ("3", 80, 80), ("9", 100, 120), ("9", 100, 160), ("0", 100, 200)], ("39÷3=13", True)),
    ],
)  # fmt: skip
def test_work_between_the_numbers_and_the_result(
    rows: list[tuple[str, float, float]], expected: tuple[str, bool | None]
) -> None:
    assert written(placed(*rows)) == [expected]


def test_a_stroke_across_a_result_is_not_its_sign() -> None:
    assert written(placed(("456", 40, 0), ("+278", 20, 40), ("—", 50, 74), ("734", 40, 80))) == [("456+278=734", True)]


def test_answers_below_a_number_are_no_long_division() -> None:
    assert written(placed(("24", 80, 0), ("1) 12", 20, 40), ("15", 80, 80), ("18", 80, 120))) == []


def test_a_decimal_beside_a_column_is_no_divisor_and_a_sign_of_its_own_stays() -> None:
    assert written(placed(("18", 80, 0), ("3.5", 0, 40), ("72", 80, 40), ("4", 80, 80), ("32", 80, 120))) == []
    assert written(placed(("456", 40, 0), ("一", 0, 44), ("+278", 20, 40), ("734", 40, 80))) == [("456+278=734", True)]
