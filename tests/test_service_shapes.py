"""What the service shows and answers, for any page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.config import DomainConfig
from fusion.domain import open_profile
from fusion.page import Page, Reading, Recipe
from fusion.service.answers import cited, from_page
from fusion.service.shapes import azure, shown
from tests.made_pages import line, page
from tests.strategies import pages
from tests.test_service_archive import either

QUESTIONS = st.sampled_from(
    ["这张处方开了哪些药", "Which drugs?", "算得对吗", "总结一下", "请逐行转录", "what is 5 mg for?", "?", ""]
)


def read(text: str) -> Reading:
    return Reading("vlm", text, Recipe("e", "1", "m", "0"))


@settings(max_examples=60)
@given(pages())
def test_what_is_shown_is_json_and_its_places_fit(made: Page) -> None:
    told = json.loads(json.dumps(shown(made)))
    texts = {one.id: one.text for one in made.lines}
    for one in told["lines"]:
        assert "".join(span["text"] for span in one["spans"]) == texts[one["id"]]
        for span in one["spans"]:
            assert texts[one["id"]][span["start"] : span["end"]] == span["text"]
    for item in told["queue"]:
        assert texts[item["line"]][item["start"] : item["end"]] == item["text"]
        assert len(item["choices"]) <= 9


@settings(max_examples=60)
@given(st.lists(pages(), max_size=3))
def test_azures_places_are_places_in_its_one_text(made: list[Page]) -> None:
    found = azure(made)["analyzeResult"]
    assert found["content"] == "\n".join(one.text for one in made)
    for one in found["pages"]:
        for part in [*one["words"], *({**each, "span": each["spans"][0]} for each in one["lines"])]:
            start, length = part["span"]["offset"], part["span"]["length"]
            assert found["content"][start : start + length] == part["content"]


def test_unknown_confidence_is_null_in_azures_shape() -> None:
    (word,) = azure([page((replace(either("5", "6"), confidence=None),))])["analyzeResult"]["pages"][0]["words"]
    assert word["confidence"] is None


@pytest.mark.parametrize(
    ("reading", "parts"),
    [
        ("take 5O mg", ("take ", "5O", " mg")),
        ("take 50mg", ("take ", "50", "mg")),
        ("take mg", ("take ", "", "mg")),
        ("", ("", "", "")),
        ("take 5 0 mg", ("take ", "5 0", " mg")),
    ],
)
def test_what_a_reader_has_at_a_stretch(reading: str, parts: tuple[str, str, str]) -> None:
    made = page((either("take", "tako", 0.1), either(" 50", " 60"), either(" mg", " mq")))
    made = replace(made, lines=(replace(made.lines[0], readings=(read(reading),)),))
    item = next(one for one in shown(made)["queue"] if one["text"] == "50")
    assert item["readings"] == [{"by": "vlm", **dict(zip(("before", "text", "after"), parts, strict=True))}]


@settings(max_examples=60)
@given(pages(), QUESTIONS)
def test_an_answer_cites_lines_of_the_page_and_never_fails(made: Page, question: str) -> None:
    answer = from_page(made, question)
    assert set(answer.lines) <= {one.id for one in made.lines}
    assert answer.text or not made.lines or answer.by == "transcript"


@pytest.mark.parametrize(
    ("question", "has", "has_not"),
    [
        ("Which drugs were prescribed?", ["Napa", "Amoxil"], []),
        ("How often is Napa taken?", ["Napa", "tid", "[l000]"], ["Amoxil"]),
        ("给我总结", ["Napa", "Amoxil"], []),
        ("Where is room 12?", ["room 12"], ["Napa"]),
        ("What is the blood group?", ["does not say"], ["Napa"]),
        ("Who prescribed Napa?", ["Napa 500 mg"], ["Amoxil"]),
        ("这张处方是谁开的？", ["没有写"], ["Napa"]),
    ],
)
def test_questions_about_a_prescription(question: str, has: list[str], has_not: list[str]) -> None:
    profile = open_profile(DomainConfig(profile="prescription"))
    made = profile.understand(page("1. Napa 500 mg 1 tab tid", "2. Amoxil 250 mg 1 cap bid", "room 12"))
    text = from_page(made, question).text
    assert [word for word in has if word not in text] == []
    assert [word for word in has_not if word in text] == []


def test_a_wrong_sum_is_told_and_the_right_ones_too() -> None:
    profile = open_profile(DomainConfig(profile="homework"))
    made = profile.understand(page("4+3=7", "7+5=13"))
    assert from_page(made, "算得对吗").text == "4+3=7 对 [l000]\n7+5=13 不对，左边是 12 [l001]"


def test_lines_that_a_model_cites() -> None:
    made = replace(page("a", "b"), lines=(line("a", 0), line("b", 1), line("c", 2)))
    assert cited(made, "It says a [l000] and c [l002, l009]; l001 not.") == ("l000", "l002")
