"""Gaps and completion: what is unread stays visible, what is supplied says so, and a dose is never guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.complete import Completer, mark_gaps
from fusion.config import CompleteConfig
from fusion.errors import ConfigError
from fusion.ink import InkLine
from fusion.page import Failure, Span
from fusion.vlm.protocol import Answer
from tests.inks import ink, ocr_reading, vlm_reading

POLYGON = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def line(text: str, blot: int | None = None) -> InkLine:
    """A line drawn as one ring per letter, 40 px apart; `blot` leaves room for one letter there and fills it with ink."""
    places, x = [], 30
    crop = np.full((60, 60 + 40 * (len(text) + (blot is not None)), 3), 235, np.uint8)
    for number, letter in enumerate(text):
        if number == blot:
            cv2.ellipse(crop, (x, 30), (16, 22), 0, 0, 360, (20, 20, 20), -1)
            x += 40
        cv2.circle(crop, (x, 30), 12, (30, 30, 30), 2)
        places.append((letter, x))
        x += 40
    columns: list[Any] = []
    at = 0
    for letter, x in places:  # columns of 10 px, the letter's peak on the middle of its ring
        columns += [{"": 1.0}] * (x // 10 - at) + [{letter: 0.97}]
        at = x // 10 + 1
    views = _columns(columns, crop.shape[1] // 10)
    return InkLine("l000", POLYGON, crop, ocr_reading(views), views)


def _columns(columns: list[dict[str, float]], count: int) -> Any:
    from fusion.ctc import Posterior, Views

    alphabet = ["", *sorted({k for c in columns for k in c if k})]
    table = np.zeros((count, len(alphabet)))
    table[:, 0] = 1.0
    for row, column in zip(table, columns, strict=False):
        for letter, p in column.items():
            row[alphabet.index(letter)] = p
        row[0] = 1.0 - row[1:].sum()
    return Views((Posterior(table, tuple(alphabet), 10.0),))


def decided(text: str) -> tuple[Span, ...]:
    return (Span(text, "ocr", 0.9, "only_reader"),)


def text_of(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_blot_where_a_letter_would_stand_is_a_gap(at: int) -> None:
    spans = mark_gaps(line("abcdef", blot=at), decided("abcdef"), [])
    assert text_of(spans) == "abcdef"[:at] + "□" + "abcdef"[at:]
    assert [s.because for s in spans if s.source == "gap"] == ["unread_ink"]


@pytest.mark.parametrize(
    ("text", "where", "shown"),
    [
        ("Pazo 20 mr", [(0, 190), (320, 500)], "□□□□ 20 □□"),
        ("Pazo 20 mr", [(0, 500)], "□□□□ 20 □□"),
        ("say Pazo now", [(170, 350)], "say Pazo now"),  # a line is in one script
        ("TAB XARELTO", [(0, 600)], "TAB XARELTO"),  # capitals are the same in several
        ("Na 140", [(0, 300)], "Na 140"),
        ("Разо 20 мг", [(0, 500)], "Разо 20 мг"),  # really read in that script
        ("x", [(0, 100)], "x"),  # a lone character that looks strange is a character
        ("12 5", [(0, 300)], "12 5"),
    ],
)
def test_what_is_in_another_script_is_a_gap_and_numbers_stay(
    text: str, where: list[tuple[float, float]], shown: str
) -> None:
    made = replace(line(text), other_script=tuple(where))
    spans = mark_gaps(made, decided(text), [])
    assert text_of(spans) == shown
    assert {span.because for span in spans if span.source == "gap"} <= {"other_script"}


def test_a_line_that_is_read_has_no_gap() -> None:
    assert mark_gaps(line("abcdef"), decided("abcdef"), []) == decided("abcdef")


def test_an_illegible_mark_is_a_gap_where_the_ocr_has_nothing() -> None:
    spans = mark_gaps(line("abdf"), decided("abdf"), [vlm_reading("ab□df")])
    assert text_of(spans) == "ab□df"
    assert [s.because for s in spans if s.source == "gap"] == ["marked_illegible"]


def test_an_illegible_mark_does_not_overrule_a_letter_the_ocr_is_sure_of() -> None:
    assert text_of(mark_gaps(line("abcdf"), decided("abcdf"), [vlm_reading("ab□df")])) == "abcdf"


@pytest.mark.parametrize(
    ("written", "weak", "said", "shown"),
    [
        ("abc", "b", "a□c", "a□c"),
        ("zbcd", "z", "□bcd", "□bcd"),
        ("abcd", "", "ab□", "abcd"),
        ("helloworld", "", "hello□", "helloworld"),
        ("xyxy", "", "□", "xyxy"),
        ("请于月日前提交报告", "", "请于□月□日前提交报告", "请于□月□日前提交报告"),
        ("请于月日前提交报告", "", "请于□月□□日前提交报告", "请于□月□□日前提交报告"),
    ],
)
def test_illegible_marks_against_what_the_ocr_believes(written: str, weak: str, said: str, shown: str) -> None:
    views = ink(*[{c: 0.4, "q": 0.3} if c in weak else c for c in written])
    crop = np.full((40, 10 * (2 * len(written) + 1), 3), 235, np.uint8)
    blank = InkLine("l000", POLYGON, crop, ocr_reading(views), views)
    single = tuple(Span(c, "ocr", 0.5, "only_reader") for c in written)
    for spans in (decided(written), single):
        assert text_of(mark_gaps(blank, spans, [vlm_reading(said)])) == shown


def test_ink_that_nobody_reads_at_all_is_one_gap() -> None:
    full = line("abc")
    spans = mark_gaps(full, (), [])
    assert {span.source for span in spans} == {"gap"}
    empty = InkLine("l000", POLYGON, np.full((40, 200, 3), 235, np.uint8), full.reading, full.ink)
    assert mark_gaps(empty, (), []) == ()


def test_what_nobody_could_read_is_a_gap_only_where_its_ink_is_seen() -> None:
    hopeless = (Span("abc", "ocr", 0.05, "only_reader"),)
    full = line("abc")
    assert {span.source for span in mark_gaps(full, hopeless, [])} == {"gap"}
    faint = InkLine("l000", POLYGON, np.full((40, 200, 3), 235, np.uint8), full.reading, full.ink)
    assert mark_gaps(faint, hopeless, []) == hopeless


@pytest.mark.parametrize("answer", ["\u0301", "5\u202e", "\u1161"])
def test_a_proposal_that_would_change_its_neighbours_is_not_taken(answer: str) -> None:
    spans, _ = complete(gapped("e\u1100", "c"), Scripted(answer))
    assert spans[1].source == "gap"


@given(st.integers(0, 6), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_gaps_never_lose_or_move_a_decision(at: int, sizes: list[int]) -> None:
    from fusion.complete.gaps import _Gap, _insert

    letters = "abcdefghijkl"[: sum(sizes)]
    spans, start = [], 0
    for size in sizes:
        spans.append(Span(letters[start : start + size], "ocr", 0.5, "only_reader"))
        start += size
    at = min(at, len(letters))
    result = _insert(spans, _Gap(at, 2, "unread_ink"))
    assert text_of(result) == letters[:at] + "□□" + letters[at:]


# --- completion ----------------------------------------------------------------------------------------------------


class Scripted:
    """Answers questions from a list, remembers them."""

    def __init__(self, *answers: str | Failure) -> None:
        self.answers, self.questions = list(answers), []

    def __call__(self, pixels: Any, question: str) -> Answer | Failure:
        self.questions.append(question)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Failure) else Answer(answer)


def gapped(before: str, after: str, extent: int = 1) -> tuple[Span, ...]:
    return (
        Span(before, "ocr", 0.9, "only_reader"),
        Span("□" * extent, "gap", None, "unread_ink", extent=extent),
        Span(after, "ocr", 0.9, "only_reader"),
    )


def complete(spans: tuple[Span, ...], ask: Scripted, score: Any = lambda texts: None, **settings: Any) -> Any:
    config = CompleteConfig(enabled=True, **settings)
    return Completer(config).complete(line("ab"), spans, "上一行", "下一行", ask, score)


def test_a_supplied_text_says_so_and_the_diplomatic_text_has_the_gap() -> None:
    ask = Scripted("5\n零下5\n3")
    spans, failures = complete(gapped("明天气温会降到", "度"), ask)
    assert not failures
    supplied = spans[1]
    assert (supplied.text, supplied.source, supplied.diplomatic) == ("5", "supplied", "□")
    assert supplied.confidence is None  # nobody scored it
    assert [c.text for c in supplied.alternatives] == ["零下5", "3"]
    assert "明天气温会降到□度" in ask.questions[0]
    assert "上一行" in ask.questions[0]


def test_several_gaps_are_asked_one_by_one() -> None:
    spans = (*gapped("请于", "月"), *gapped("", "日前提交报告", 2)[1:])
    ask = Scripted("1. 3\n2. 4", "15\n30")
    result, _ = complete(spans, ask)
    assert text_of(result) == "请于3月15日前提交报告"
    assert len(ask.questions) == 2


def test_what_is_forbidden_is_listed_and_never_inserted() -> None:
    spans, _ = complete(gapped("Napa ", "mg", 3), Scripted("500\n650"), never=(r"\d",))
    assert (spans[1].source, spans[1].text, spans[1].because) == ("gap", "□□□", "completion_forbidden")
    assert [c.text for c in spans[1].alternatives] == ["500", "650"]


def test_scores_decide_between_proposals_and_give_confidence() -> None:
    spans, _ = complete(
        gapped("ab", ""), Scripted("c\nd"), score=lambda texts: [0.0 if t == "abd" else -3.0 for t in texts]
    )
    assert spans[1].text == "d"
    assert spans[1].confidence == pytest.approx(0.95, abs=0.03)


def test_an_unsure_proposal_stays_a_gap() -> None:
    spans, _ = complete(
        gapped("ab", ""), Scripted("c\nd"), score=lambda texts: [0.0 for _ in texts], min_confidence=0.6
    )
    assert (spans[1].source, spans[1].because) == ("gap", "completion_uncertain")


@pytest.mark.parametrize("answer", ["", "□", "一段比空白长得多的文字，不可能写在这里", "\n\n"])
def test_an_unusable_answer_is_a_failure_and_the_gap_stays(answer: str) -> None:
    spans, failures = complete(gapped("ab", "c"), Scripted(answer))
    assert spans == gapped("ab", "c")
    assert [f.kind for f in failures] == ["no_proposal"]


def test_a_reader_that_fails_leaves_the_gap() -> None:
    spans, failures = complete(gapped("ab", "c"), Scripted(Failure("vlm", "timeout", "no answer")))
    assert spans == gapped("ab", "c")
    assert [(f.stage, f.kind) for f in failures] == [("complete", "timeout")]


def test_braces_on_the_page_are_text() -> None:
    ask = Scripted("x")
    complete(gapped("{count} {line} ", "}"), ask)
    assert "{count} {line} □}" in ask.questions[0]


def test_a_broken_pattern_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"complete\.never"):
        Completer(CompleteConfig(enabled=True, never=("(",)))


def test_ink_reading_of_made_lines_is_what_was_drawn() -> None:
    assert line("abcdef", blot=2).reading.text == "abcdef"
    assert ink("ab").best.greedy == "ab"


@pytest.mark.parametrize(("nats", "least", "most"), [(-60.0, 0.0, 1e-6), (-0.2, 0.9, 1.0)])
def test_a_proposal_is_not_sure_because_it_is_the_only_one(nats: float, least: float, most: float) -> None:
    spans, _ = complete(gapped("ab", ""), Scripted("c"), score=lambda texts: [nats] * len(texts))
    listed = spans[1].alternatives[0].probability if spans[1].source == "gap" else spans[1].confidence
    assert listed is not None
    assert least <= listed <= most
