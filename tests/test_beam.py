"""The search for hypotheses against what it must find: every string of a small alphabet, scored one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.ctc import Posterior, Views
from fusion.domain.lexicon import Lexicon
from fusion.fuse.beam import Look, search
from fusion.fuse.hypotheses import Answers
from tests.inks import ink, inks


def every(letters: str, most: int) -> list[str]:
    return ["".join(own) for size in range(most + 1) for own in itertools.product(letters, repeat=size)]


def weighed(looks: list[Look], texts: list[str], answers: Answers | None = None) -> dict[str, float]:
    """What the search maximises, worked out from the posteriors' own scores."""
    total = np.zeros(len(texts))
    for look in looks:
        total += look.weight * np.asarray(look.ink.score(texts))
    if answers is not None:
        total += np.asarray(answers.score(texts))
    return dict(zip(texts, total.tolist(), strict=True))


def test_letters_that_only_a_reader_wrote_are_tried_however_sure_the_ink_is() -> None:
    sure = ink(*({letter: 0.999} for letter in "abcd"))
    for written in ("axcd", "xbcd"):
        found = search([Look(0.5, sure, "abcd")], [(20.0, Answers((written,)))], 8, written)
        assert found[0] == written
        assert "abcd" in found


def test_a_name_is_found_of_which_no_letter_is_what_the_ink_looks_most_like() -> None:
    views = ink(*({seen: 0.994, meant: 0.006} for seen, meant in zip("merc", "napa", strict=True)))
    looks, names = [Look(1.0, views, "merc")], Lexicon(["Napa", "Ace"])
    assert "napa" not in search(looks, [(1.0, names)], 8)
    assert search(looks, [(1.0, names)], 8, names=names)[:2] == ["napa", "merc"]


@pytest.mark.parametrize("after", [" 500", ".", " tab"])
def test_such_a_name_is_kept_to_the_end_of_the_line(after: str) -> None:
    views = ink(*({seen: 0.994, meant: 0.006} for seen, meant in zip("merc", "napa", strict=True)), after)
    looks, names = [Look(1.0, views, f"merc{after}")], Lexicon(["Napa", "Ace"], words=["tab"])
    assert set(search(looks, [(1.0, names)], 8, names=names)[:2]) == {f"napa{after}", f"merc{after}"}


def test_a_name_is_kept_beside_the_best_prefixes_of_its_length() -> None:
    place = dict.fromkeys("abcdefghijklmnop", 0.98 / 16) | {"z": 0.02}
    views = ink(place, place, place, "z", {"z": 0.9, "y": 0.1})
    looks, names = [Look(1.0, views, views.best.greedy)], Lexicon(["zzzzz"])
    assert "zzzzz" not in search(looks, [(0.1, names)], 64)
    assert "zzzzz" in search(looks, [(0.1, names)], 64, names=names)


@settings(deadline=None)
@given(inks("ab ", max_size=4), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4))
def test_names_are_weighed_like_any_expert(views: Views, listed: list[str]) -> None:
    looks, names = [Look(1.0, views, views.best.greedy)], Lexicon(listed)
    texts = every("ab ", 5)
    scores = dict(zip(texts, np.asarray(views.score(texts)) + np.asarray(names.score(texts)), strict=True))
    found = search(looks, [(1.0, names)], 8, names=names)
    assert scores[found[0]] == pytest.approx(max(scores.values()), abs=1e-6)


def test_looks_without_weight_leave_the_answer_alone() -> None:
    sure = ink("ab")
    assert search([Look(0.0, sure, "ab")], [(1.0, Answers(("b",)))], 4, "b")[0] == "b"


@settings(deadline=None)
@given(inks("ab ", max_size=4), inks("ab ", max_size=3), st.floats(0.1, 1))
def test_the_best_text_under_two_looks_is_found(first: Views, second: Views, weight: float) -> None:
    looks = [Look(1.0, first, first.best.greedy), Look(weight, second, second.best.greedy)]
    scores = weighed(looks, every("ab ", 5))
    found = search(looks, [], 8)
    assert scores[found[0]] == pytest.approx(max(scores.values()), abs=1e-6)
    ranked = [scores[text] for text in found if text in scores]
    assert ranked == pytest.approx(sorted(ranked, reverse=True), abs=1e-9)


@settings(deadline=None)
@given(inks("abc", max_size=6))
def test_no_two_texts_are_the_same_and_no_more_come_than_asked_for(views: Views) -> None:
    found = search([Look(1.0, views, views.best.greedy)], [], 5)
    assert len(found) == len(set(found)) <= 5


@settings(deadline=None)
@given(inks("ab", max_size=4), st.text("ab", min_size=1, max_size=4))
def test_a_written_answer_counts_like_any_expert(views: Views, answer: str) -> None:
    looks, said = [Look(1.0, views, views.best.greedy)], Answers([answer])
    scores = weighed(looks, every("ab", 5), said)
    found = search(looks, [(1.0, said)], 8, answer)
    assert scores[found[0]] == pytest.approx(max(scores.values()), abs=1e-6)


@given(st.text("ab二", max_size=5), st.text("ab二", min_size=1, max_size=5))
def test_what_a_prefix_costs_is_no_more_than_any_text_that_begins_so(text: str, answer: str) -> None:
    said = Answers([answer])
    (whole,) = said.score([text])
    assert all(said.begins([text[:n]])[0] >= whole for n in range(len(text) + 1))


def test_a_long_gap_between_two_words_is_crossed() -> None:
    columns = [{"": 1.0}] * 200
    table = np.zeros((len(columns), 3))
    table[:, 0] = 1.0
    table[3], table[196] = [0.02, 0.98, 0.0], [0.02, 0.0, 0.98]
    views = Views((Posterior(table, ("", "a", "b"), 8.0),))
    assert search([Look(1.0, views, "ab")], [], 3)[0] == "ab"


def test_equal_letters_need_a_blank_between_them() -> None:
    assert search([Look(1.0, ink("aa"), "aa")], [], 3)[0] == "aa"


def test_a_letter_that_a_look_does_not_know_gains_nothing_from_it() -> None:
    strange = ink("ab")
    knowing = ink("a", {"b": 0.6, "计": 0.4})
    known = Views(tuple(Posterior(p.probabilities, p.alphabet, 10.0, frozenset("ab")) for p in strange.posteriors))
    looks = [Look(1.0, knowing, "ab"), Look(1.0, known, "ab")]
    assert search(looks, [], 5)[0] == "ab"


def test_a_letter_that_nobody_knows_is_not_put_everywhere() -> None:
    made = ink("每次", {"½": 0.9, "1": 0.1}, "片")
    views = Views(tuple(Posterior(p.probabilities, p.alphabet, 10.0, None, frozenset("½")) for p in made.posteriors))
    assert all("½" not in text for text in search([Look(0.5, views, "每次½片")], [], 8))
    knowing = [Look(0.5, views, "每次½片"), Look(0.7, made, "每次½片")]
    found = search(knowing, [], 8)
    assert found[0] == "每次½片"
    assert all(text.count("½") <= 1 for text in found[:4])


def test_a_line_on_which_nothing_is_likely_is_empty() -> None:
    views = Views((Posterior(np.ones((5, 1)), ("",), 8.0),))
    assert search([Look(1.0, views, "")], [], 5) == [""]
