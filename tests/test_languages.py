"""The models of English and Chinese: likelihood ratios that have nothing to say about digits and other languages."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.domain import english
from fusion.domain.chinese import LONGEST, Chinese
from fusion.domain.english import KNOWN, English, read_tables, write_tables
from fusion.train.languages import encoded

TEXT = "take one tablet after food. take two tablets before sleep. the patient is well, and so is the doctor. " * 3
WORDS = {"我们": 50, "我": 80, "们": 1, "已经": 40, "经": 2, "以": 60, "老师": 30, "老": 9, "师": 3}
CHINESE = Chinese()
LEAST = (1,) * english.ORDER
ENGLISH = English()


@pytest.fixture(scope="module")
def small() -> English:
    return English(english.tables(encoded(TEXT), LEAST))


@pytest.mark.parametrize("least", [LEAST, (1, 1, 1, 2, 4, 4)])
@given(st.text("take on", min_size=5, max_size=5))
def test_what_may_follow_is_a_distribution(least: tuple[int, ...], context: str) -> None:
    model = English(english.tables(encoded(TEXT + "take tea at ten on a kettle. "), least))
    recent = english._recent(context)
    every = np.arange(english.BASE)
    chances = np.exp(model.nats(np.full(english.BASE, recent), every)) / english.BASE
    assert chances.sum() == pytest.approx(1, abs=1e-4)


def test_stored_tables_say_the_same(small: English) -> None:
    file = BytesIO()
    write_tables(english.tables(encoded(TEXT), LEAST), file)
    file.seek(0)
    stored = English(read_tables(file))
    texts = ["take one tablet", "teke ona tablot", "the doctor"]
    assert stored.score(texts) == pytest.approx(small.score(texts), abs=0.05 * 20)


def test_words_that_are_english_are_likelier_than_their_look_alikes() -> None:
    right, wrong = ENGLISH.score(["to wash the face", "to uoshe thue fa ce"])
    assert right > wrong + 10


@given(st.text("qzxjvwk ", min_size=1, max_size=30))
def test_a_word_that_it_does_not_know_costs_no_more_than_not_knowing_it(text: str) -> None:
    assert ENGLISH.log_probability(text) >= (len(text.split()) + 2 + text.count(" ")) * math.log(1 - KNOWN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("500mg", "5000mg"),
        ("1+0+1", "7+0+7"),
        ("take 5 tablets daily", "take 50 tablets daily"),
        ("give 1.5 ml at night", "give 15 ml at night"),
        ("for 7 days", "for 12345678901234567890 days"),
    ],
)
def test_digits_have_no_language(one: str, other: str) -> None:
    assert ENGLISH.log_probability(one) == pytest.approx(ENGLISH.log_probability(other))


@given(st.text("abcdefgilmnoprstu .0", min_size=5, max_size=5))
def test_after_any_letters_the_packaged_model_is_a_distribution(context: str) -> None:
    every = np.arange(english.BASE)
    recent = english._recent(context)
    chances = np.exp(ENGLISH.nats(np.full(english.BASE, recent), every)) / english.BASE
    assert chances.sum() == pytest.approx(1, abs=0.25)  # costs are kept in steps of 1/16 nat, of up to six orders


@pytest.mark.parametrize("model", [ENGLISH, CHINESE])
def test_a_very_long_line_is_no_trouble(model: English | Chinese) -> None:
    assert math.isfinite(model.score(["我 a " * 3000])[0])


@pytest.mark.parametrize(("one", "other"), [("I", "1"), ("s", "5"), ("O", "0")])
def test_a_letter_by_itself_may_be_a_digit(one: str, other: str) -> None:
    assert ENGLISH.log_probability(one) == ENGLISH.log_probability(other)
    assert ENGLISH.log_probability(f"take {one} tablets daily") <= ENGLISH.log_probability(
        f"take {other} tablets daily"
    )


def test_a_beginning_is_read_as_far_as_it_goes() -> None:
    assert ENGLISH.begins(["take one tab"])[0] > ENGLISH.begins(["take one tqb"])[0]
    assert ENGLISH.begins([""]) == [0.0]


@pytest.mark.parametrize(
    ("text", "concerned"),
    [
        ("to be taken after meals", True),
        ("take 50 µg two times daily", True),
        ("Napa", False),
        ("Разо 20 мг два раза", False),
        ("我在学校读书", False),
    ],
)
def test_it_concerns_lines_of_latin_words(text: str, concerned: bool) -> None:
    assert ENGLISH.concerns(text) is concerned


# --- Chinese ------------------------------------------------------------------------------------------------------


@given(st.text("我们已经以老师天2a", max_size=8))
def test_a_chinese_line_is_summed_over_all_ways_to_part_it(text: str) -> None:
    model = Chinese(WORDS)
    words = {word: model._model.last_words([word])[0, LONGEST - len(word), 0] for word in WORDS}

    def ways(rest: str) -> float:
        if not rest:
            return 1.0
        if not "一" <= rest[0] <= "龥":
            return ways(rest[1:])
        total = 0.1 * ways(rest[1:])
        for size in range(1, len(rest) + 1):
            if rest[:size] in words:
                total += math.exp(words[rest[:size]]) * ways(rest[size:])
        return total

    assert model.score([text])[0] == pytest.approx(math.log(ways(text)), abs=1e-9)


@given(st.text("我们已经以老师天", max_size=8))
def test_a_chinese_beginning_is_at_least_as_likely_as_the_line(text: str) -> None:
    (begun,), (whole,) = CHINESE.begins([text]), CHINESE.score([text])
    assert begun >= whole - 1e-9
    assert whole >= len(text) * math.log(1 - 0.9) - 1e-9


@pytest.mark.parametrize(
    ("traditional", "simplified"),
    [("時候", "时候"), ("當我們樂觀開朗", "当我们乐观开朗"), ("繁榮", "繁荣")],
)
def test_which_form_of_a_character_is_written_is_no_matter_of_language(traditional: str, simplified: str) -> None:
    assert CHINESE.score([traditional]) == CHINESE.score([simplified])
    assert CHINESE.begins([traditional]) == CHINESE.begins([simplified])
    assert CHINESE.score([traditional])[0] > 3


def test_words_that_a_line_of_chinese_can_not_hold_are_left_out() -> None:
    model = Chinese({"著名": 3, "纸A": 5, "天下第一关": 9, "": 2})
    assert model.score(["著名", "纸A", "天下第一关"]) == Chinese({"著名": 3}).score(["著名", "纸A", "天下第一关"])
    assert model.score(["第一关"]) == pytest.approx([3 * math.log(1 - 0.9)])


@pytest.mark.parametrize("text", ["𠀀", "我\ud800", "\0\0我们", "😀们"])
def test_any_character_may_stand_beside_chinese_ones(text: str) -> None:
    assert np.isfinite([*CHINESE.score([text]), *CHINESE.begins([text])]).all()


def test_rare_characters_are_no_others() -> None:
    model = Chinese({"我们": 5, "们": 1, "𠀀我": 7, "我": 2}, {"𠀀": "我", "閖": "𨴐"})
    plain = Chinese({"我们": 5, "们": 1, "我": 2, "甲乙": 7})
    texts = ["😀们", "\0们", "我", "我们", "閖"]
    assert model.score(texts) == plain.score(texts)
    assert model.score(["😀们"]) == model.score(["们"])


def test_words_that_differ_in_the_form_of_a_character_alone_count_together() -> None:
    model = Chinese({"著名": 3, "着名": 1, "也": 4}, {"著": "着"})
    assert model.score(["著名"]) == model.score(["着名"]) == Chinese({"着名": 4, "也": 4}).score(["着名"])


def test_chinese_words_are_likelier_than_their_look_alikes() -> None:
    right, wrong, drug, other = CHINESE.score(["马克思主义者", "马克思生义者", "阿莫西林胶囊", "阿莫西休胶囊"])
    assert right > wrong + 3
    assert drug > other + 3


@pytest.mark.parametrize(
    ("text", "concerned"), [("我在学校读书", True), ("2片", False), ("Napa", False), ("每日2次", True)]
)
def test_it_concerns_lines_with_chinese_words(text: str, concerned: bool) -> None:
    assert CHINESE.concerns(text) is concerned


def test_several_threads_may_ask_while_others_make_it_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(english, "MOST", 20)
    model, plain = English(), English()
    lines = [f"take {word} tablets after every meal with a little water" for word in ("one", "two", "three", "four")]
    asked = [line[:n] for line in lines for n in range(len(line))]
    expected = plain.begins(asked)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: [model.begins([text])[0] for text in asked], range(4)))
    finally:
        sys.setswitchinterval(before)
    assert all(own == pytest.approx(expected) for own in found)
