"""The model of English: a likelihood ratio, word by word, that has nothing to say about digits and other languages."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.domain import prose
from fusion.domain.prose import KNOWN, Prose, read_tables, write_tables
from fusion.train.prose import encoded

TEXT = "take one tablet after food. take two tablets before sleep. the patient is well, and so is the doctor. " * 3
LEAST = (1,) * prose.ORDER
ENGLISH = Prose()


@pytest.fixture(scope="module")
def small() -> Prose:
    return Prose(prose.tables(encoded(TEXT), LEAST))


@given(st.text("take on", min_size=5, max_size=5))
def test_what_may_follow_is_a_distribution(context: str) -> None:
    model = Prose(prose.tables(encoded(TEXT), LEAST))
    recent = 0
    for letter in context:
        recent = recent * prose.BASE + prose.code(letter)
    every = np.arange(prose.BASE)
    chances = np.exp(model.nats(np.full(prose.BASE, recent), every)) / prose.BASE
    assert chances.sum() == pytest.approx(1, abs=1e-4)


def test_stored_tables_say_the_same(small: Prose) -> None:
    file = BytesIO()
    write_tables(prose.tables(encoded(TEXT), LEAST), file)
    file.seek(0)
    stored = Prose(read_tables(file))
    texts = ["take one tablet", "teke ona tablot", "the doctor"]
    assert stored.score(texts) == pytest.approx(small.score(texts), abs=0.05 * 20)


def test_words_that_are_english_are_likelier_than_their_look_alikes() -> None:
    right, wrong = ENGLISH.score(["to wash the face", "to uoshe thue fa ce"])
    assert right > wrong + 10


@given(st.text("qzxjvwk ", min_size=1, max_size=30))
def test_a_word_that_it_does_not_know_costs_no_more_than_not_knowing_it(text: str) -> None:
    assert ENGLISH.log_probability(text) >= (len(text.split()) + 2 + text.count(" ")) * math.log(1 - KNOWN)


@pytest.mark.parametrize(("one", "other"), [("500mg", "5000mg"), ("1+0+1", "7+0+7"), ("2x", "12x")])
def test_digits_have_no_language(one: str, other: str) -> None:
    assert ENGLISH.log_probability(one) == ENGLISH.log_probability(other)


def test_a_beginning_is_read_as_far_as_it_goes() -> None:
    assert ENGLISH.begins(["take one tab"])[0] > ENGLISH.begins(["take one tqb"])[0]
    assert ENGLISH.begins([""]) == [0.0]


@pytest.mark.parametrize(
    ("text", "concerned"),
    [("to be taken after meals", True), ("Napa", False), ("Разо 20 мг два раза", False), ("我在学校读书", False)],
)
def test_it_concerns_lines_of_latin_words(text: str, concerned: bool) -> None:
    assert ENGLISH.concerns(text) is concerned
