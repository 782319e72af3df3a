"""CTC: every figure of `fusion.ctc` against brute force over all alignments of small posteriors."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusion.ctc import ALIVE, FLOOR, HIDDEN, MISSED, Posterior, Views, fold
from tests.inks import ink

small = settings(deadline=None, max_examples=60)
Alphabet = tuple[str, ...]


# --- brute force --------------------------------------------------------------------------------------------------


def collapse(path: Sequence[str]) -> str:
    """What CTC reads from one path: repeats merged, then blanks dropped."""
    return "".join(letter for letter, _ in itertools.groupby(path))


def all_paths(posterior: Posterior, dead: str = "") -> dict[str, list[tuple[float, tuple[str, ...]]]]:
    """Text → (probability, path) of each of its alignments; letters in `dead` have the floor everywhere."""
    alphabet = (*posterior.alphabet, *dead)
    found: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
    rows = [[max(float(p), FLOOR) for p in row] + [FLOOR] * len(dead) for row in posterior.probabilities]
    for path in itertools.product(range(len(alphabet)), repeat=len(rows)):
        letters = tuple(alphabet[index] for index in path)
        probability = math.prod(row[index] for row, index in zip(rows, path, strict=True))
        found.setdefault(collapse(letters), []).append((probability, letters))
    return found


def sums(posterior: Posterior, dead: str = "") -> dict[str, float]:
    return {text: math.log(sum(p for p, _ in paths)) for text, paths in all_paths(posterior, dead).items()}


def columns_needed(text: str) -> int:
    """Fewest columns that a text can stand in: one a letter, and one between two that are the same."""
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))


def added(a: float, b: float) -> float:
    """log(eᵃ + eᵇ)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def slow_score(posterior: Posterior, text: str) -> float:
    """The forward variable in logarithms, state by state, straight from the definition; -inf without an alignment."""
    column = {letter: number for number, letter in enumerate(posterior.alphabet)}
    states = ["", *itertools.chain.from_iterable((letter, "") for letter in text)]
    alpha = [0.0] + [-math.inf] * len(states)  # before the first column; the last state can be ended in, not left
    for number, row in enumerate(posterior.probabilities):
        new = []
        for n, letter in enumerate(states):
            reach = alpha[n] if number else (0.0 if n < 2 else -math.inf)
            if number and n:
                reach = added(reach, alpha[n - 1])
            if number and n > 1 and letter and letter != states[n - 2]:
                reach = added(reach, alpha[n - 2])
            new.append(reach + math.log(max(float(row[column[letter]]) if letter in column else 0.0, FLOOR)))
        alpha = new
    return added(alpha[-1], alpha[-2]) if text else alpha[-1]


# --- strategies ---------------------------------------------------------------------------------------------------


def make(rows: Sequence[Sequence[float]], alphabet: Alphabet, column_px: float = 4.0) -> Posterior:
    table = np.asarray(rows, dtype=np.float64)
    return Posterior(table / table.sum(axis=1, keepdims=True), alphabet, column_px)


@st.composite
def posteriors(
    draw: st.DrawFn,
    least: int = 0,
    columns: int = 5,
    alphabets: Sequence[Alphabet] = (("", "a", "b"), ("", "a", "b", "c")),
) -> Posterior:
    alphabet = draw(st.sampled_from(list(alphabets)))
    weight = st.integers(least, 20)
    row = st.lists(weight, min_size=len(alphabet), max_size=len(alphabet)).filter(any)
    return make(draw(st.lists(row, min_size=1, max_size=columns)), alphabet, draw(st.sampled_from([0.5, 4.0, 7.3])))


CASED: list[Alphabet] = [("", "a", "A"), ("", "a", "A", "b"), ("", "A", "B"), ("", "D", "e")]


def peaks(*columns: dict[str, float], column_px: float = 4.0) -> Posterior:
    """A posterior from the probabilities of its letters; what is left in a column is blank."""
    alphabet = ("", *dict.fromkeys(letter for column in columns for letter in column))
    table = np.array([[column.get(letter, 0.0) for letter in alphabet] for column in columns])
    table[:, 0] = 1 - table[:, 1:].sum(axis=1)
    return Posterior(table, alphabet, column_px)


# --- score --------------------------------------------------------------------------------------------------------


@small
@given(posteriors())
def test_score_is_the_sum_over_all_alignments(posterior: Posterior) -> None:
    expected = sums(posterior)
    assert posterior.score(list(expected)) == pytest.approx(list(expected.values()), abs=1e-9)


@small
@given(posteriors(alphabets=CASED))
def test_score_cased_is_the_sum_over_all_alignments(posterior: Posterior) -> None:
    expected = sums(posterior)
    assert posterior.score_cased(list(expected)) == pytest.approx(list(expected.values()), abs=1e-9)


@small
@given(posteriors(alphabets=CASED))
def test_score_is_that_of_the_posterior_over_letters(posterior: Posterior) -> None:
    expected = sums(posterior.letters)
    for text, score in expected.items():
        for written in (text.lower(), text.upper()):
            assert posterior.score([written]) == pytest.approx([score], abs=1e-9)


@small
@given(posteriors(columns=6, alphabets=[("", "a")]), st.integers(0, 5))
def test_score_of_repeated_letters_needs_blanks_between(posterior: Posterior, count: int) -> None:
    expected = sums(posterior).get("a" * count)
    if expected is None:
        assert columns_needed("a" * count) > len(posterior.probabilities)
    else:
        assert posterior.score(["a" * count]) == pytest.approx([expected], abs=1e-9)


@small
@given(posteriors(), st.lists(st.text("abcx", max_size=4), max_size=5))
def test_scores_do_not_depend_on_what_is_asked_beside(posterior: Posterior, texts: list[str]) -> None:
    together = posterior.score(texts)
    assert together == pytest.approx([posterior.score([text])[0] for text in texts], abs=1e-9)


@small
@given(posteriors(least=1))
def test_probabilities_of_all_texts_sum_to_one(posterior: Posterior) -> None:
    texts = list(sums(posterior))
    assert sum(math.exp(score) for score in posterior.score(texts)) == pytest.approx(1.0)


@small
@given(posteriors(columns=4, alphabets=[("", "a"), ("", "a", "b")]))
def test_a_letter_that_is_not_alive_has_the_floor(posterior: Posterior) -> None:
    expected = sums(posterior, dead="x")
    texts = [text for text in expected if "x" in text]
    assert posterior.score(texts) == pytest.approx([expected[text] for text in texts], abs=1e-9)


@small
@given(posteriors(columns=4, alphabets=[("", "a")]))
def test_two_different_letters_that_are_not_alive_need_no_blank_between(posterior: Posterior) -> None:
    expected = sums(posterior, dead="xy")
    texts = [text for text in expected if "xy" in text or "yx" in text]
    assert posterior.score(texts) == pytest.approx([expected[text] for text in texts], abs=1e-9)


def test_a_long_line_is_scored_without_underflow() -> None:
    columns = [{"a": 0.9}, {"a": 0.01}, {"b": 0.8}, {"b": 0.02}] * 100
    posterior = peaks(*columns)
    good, bad, floor = posterior.score(["ab" * 100, "ab" * 99 + "aa", "x" * 100])
    assert -200 < good < 0
    assert math.isfinite(floor)
    assert floor < bad < good


@small
@given(posteriors(columns=6), st.lists(st.text("abxy", max_size=14), min_size=2, max_size=6))
def test_a_text_that_does_not_fit_scores_under_every_text_that_fits(posterior: Posterior, texts: list[str]) -> None:
    columns = len(posterior.probabilities)
    found = list(zip(map(columns_needed, texts), posterior.score(texts), strict=True))
    fitting = [score for needed, score in found if needed <= columns]
    others = [score for needed, score in found if needed > columns]
    assert all(map(math.isfinite, [*fitting, *others]))
    assert max(others, default=-math.inf) < columns * math.log(FLOOR) <= min(fitting, default=0.0) + 1e-9


@pytest.mark.parametrize("columns", [5, 60, 100, 300])
def test_a_text_that_does_not_fit_a_long_line_scores_under_the_worst_that_fits(columns: int) -> None:
    posterior = peaks(*[{"a": 1.0}] * columns)
    worst, longer, longest, repeated = posterior.score(
        ["xy" * (columns // 2) + "x" * (columns % 2), "xy" * columns, "xy" * 2 * columns, "x" * columns]
    )
    assert worst == pytest.approx(columns * math.log(FLOOR))
    assert worst > repeated > longest
    assert worst > longer > longest
    assert math.isfinite(longest)


LONG = st.builds(
    lambda rows, times: make([row for row in rows for _ in range(times)], ("", "a", "b")),
    st.lists(st.sampled_from([(1, 500, 1), (500, 1, 1), (1, 1, 500), (3, 2, 1)]), min_size=4, max_size=9),
    st.integers(4, 12),
)


@settings(deadline=None, max_examples=40)
@given(LONG, st.lists(st.text("abx", min_size=1, max_size=12), min_size=1, max_size=3))
def test_what_fits_long_ink_badly_is_scored_exactly_too(posterior: Posterior, texts: list[str]) -> None:
    assert posterior.score(texts) == pytest.approx([slow_score(posterior, text) for text in texts], abs=1e-6)


@pytest.mark.parametrize("text", ["b", "bab", "x", "xy" * 20, "ax" * 60, "b" * 50])
def test_what_fits_long_ink_not_at_all_is_scored_exactly_too(text: str) -> None:
    posterior = peaks(*[{"a": 1.0}, {"a": 1.0}, {}] * 60)
    (score,) = posterior.score([text])
    assert score < -200
    assert score == pytest.approx(slow_score(posterior, text), abs=1e-6)


@pytest.mark.xfail(
    strict=True, reason="ctc.Posterior._forward: a share under 1e-308 of its row is lost, and may grow again"
)
def test_what_fits_badly_first_and_well_later_is_scored_exactly_too() -> None:
    posterior = peaks(*[{"b": 1.0}] * 70, *[{"a": 1.0}] * 100, *[{"b": 1.0}] * 70)
    assert posterior.score(["ab"]) == pytest.approx([slow_score(posterior, "ab")], abs=1e-6)


def test_nothing_asked_nothing_answered() -> None:
    assert peaks({"a": 0.9}).score([]) == []
    assert peaks({"a": 0.9}).score_cased([]) == []


# --- case ---------------------------------------------------------------------------------------------------------


def test_case_is_merged_though_the_alphabet_holds_no_pair() -> None:
    posterior = peaks({"D": 0.9})
    assert posterior.score(["d"]) == posterior.score(["D"]) == pytest.approx([math.log(0.9)])
    assert posterior.score_cased(["d", "D"]) == pytest.approx([math.log(FLOOR), math.log(0.9)])
    assert posterior.nbest(5)[0].text == "D"


def test_upper_and_lower_case_share_their_probability() -> None:
    posterior = peaks({"d": 0.5, "D": 0.4})
    assert posterior.score(["d"]) == posterior.score(["D"]) == pytest.approx([math.log(0.9)])
    assert posterior.score_cased(["d", "D"]) == pytest.approx([math.log(0.5), math.log(0.4)])


@small
@given(posteriors(alphabets=CASED))
def test_letters_hold_no_case_pair_and_lose_no_probability(posterior: Posterior) -> None:
    merged = posterior.letters
    assert merged.alphabet[0] == ""
    assert len({text.casefold() for text in merged.alphabet}) == len(merged.alphabet)
    assert merged.probabilities.sum(axis=1) == pytest.approx(posterior.probabilities.sum(axis=1))
    assert merged.probabilities[:, 0] == pytest.approx(posterior.probabilities[:, 0])


@pytest.mark.parametrize("letter", ["ß", "İ", "ŉ", "ǰ"])
def test_a_letter_that_folds_to_two_code_points_is_one_letter(letter: str) -> None:
    # The four of PP-OCRv6's 18,708 characters whose case folding has two code points: ß → ss.
    posterior = peaks({}, {letter: 0.9}, {})
    assert posterior.score([letter]) == pytest.approx([math.log(0.9)], abs=1e-4)
    assert posterior.nbest(3)[0].text == letter
    unlikely = peaks({}, {letter: 0.4}, {})
    assert [h.text for h in unlikely.nbest(3)] == ["", letter]
    assert Views((unlikely, unlikely)).nbest(3)[1].score == pytest.approx(math.log(0.4), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("１０：３０ AM", "10:30 am"),
        ("Ｎａｐａ", "napa"),
        ("ＡＢＣ", "abc"),
        ("ﾊﾞ", "ハ\u3099"),
        ("x² ② ½", "x² ② ½"),
        ("ß İ ŉ", "ß İ ŉ"),
        ("É Ω", "é ω"),
        ("第二步", "第二步"),
        ("", ""),
    ],
)
def test_width_and_case_are_one_and_nothing_else_is(text: str, folded: str) -> None:
    assert fold(text) == folded


@small
@given(st.text(st.characters() | st.sampled_from("ＡａＺ０９：，（）　ßİŉǰĀΣςﾊﾞ㎎℃①²½"), max_size=12))
def test_folding_goes_code_point_by_code_point(text: str) -> None:
    assert fold(text) == "".join(map(fold, text))
    assert len(fold(text)) == len(text)
    assert fold(fold(text)) == fold(text)


def test_wide_and_narrow_form_share_their_probability() -> None:
    posterior = peaks({":": 0.5, "：": 0.4})
    assert posterior.score([":"]) == posterior.score(["："]) == pytest.approx([math.log(0.9)])
    assert posterior.score_cased([":", "："]) == pytest.approx([math.log(0.5), math.log(0.4)])


# --- a reader that can't spell all --------------------------------------------------------------------------------


@small
@given(posteriors(columns=4, alphabets=[("", "a"), ("", "a", "b")]))
def test_a_known_letter_that_is_not_alive_costs_and_an_unknown_one_does_not(posterior: Posterior) -> None:
    reader = replace(posterior, spells=frozenset("abx"))
    texts = ["x", "ax", "xa", "a"]
    assert reader.score(texts) == posterior.score(texts)
    assert all(
        a >= b
        for a, b in zip(replace(posterior, spells=frozenset("ab")).score(texts), reader.score(texts), strict=True)
    )


@small
@given(posteriors(columns=5), st.sampled_from(["x", "ax", "xb", "axb", "xx"]), st.sampled_from("abc"))
def test_a_mute_letter_counts_as_the_best_guess_in_its_place(posterior: Posterior, text: str, guess: str) -> None:
    assume(columns_needed(text.replace("x", guess)) <= len(posterior.probabilities))
    reader = replace(posterior, mute=frozenset("x"))
    mute, known, own = reader.score([text, text.replace("x", guess), reader.greedy])
    assert mute >= min(known, own) + text.count("x") * math.log(MISSED) - 1e-9  # at most as if it had been overlooked
    assert not reader.knows(text)
    assert reader.greedy == posterior.greedy


def test_a_letter_that_the_reader_does_not_know_is_nowhere_for_nothing() -> None:
    for views in (ink("abc"), ink("a", {"b": 0.9, "c": 0.1})):
        for one in (replace(views.best, mute=frozenset("½")), replace(views.best, spells=frozenset("abc"))):
            own, more = one.score([one.greedy, one.greedy + "½"])
            assert more <= own + math.log(MISSED) + 0.01


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_an_unknown_letter_is_as_probable_as_that_it_is_no_other(p: float) -> None:
    reader = replace(peaks({"a": p, "b": 0.05}), spells=frozenset("ab"))
    assert reader.score(["x"])[0] == pytest.approx(math.log(1 - p))


@small
@given(posteriors(columns=4, alphabets=[("", "a", "b")]), st.text("abxy", min_size=1, max_size=4))
def test_an_unknown_letter_is_never_liked_better_than_what_the_reader_sees(posterior: Posterior, text: str) -> None:
    assume(set(text) & set("xy"))
    reader = replace(posterior, spells=frozenset("ab"))
    assert reader.score([text])[0] <= max(reader.score(list(sums(posterior)))) + 1e-9


def test_what_is_known_is_known_in_either_case_and_width() -> None:
    reader = replace(peaks({"a": 0.9}), spells=frozenset("AB"))
    known, also, wide, unknown = reader.score(["b", "B", "Ｂ", "c"])
    assert known == also == wide == pytest.approx(math.log(FLOOR))
    assert unknown == pytest.approx(math.log(0.1))


# --- n-best -------------------------------------------------------------------------------------------------------


@small
@given(posteriors(least=1, alphabets=[("", "a", "b"), ("", "a", "b", "c"), *CASED]))
def test_a_wide_beam_finds_every_text_with_its_probability(posterior: Posterior) -> None:
    expected = sums(posterior.letters)
    found = posterior.nbest(10_000)
    assert {h.text.casefold(): h.score for h in found} == pytest.approx(expected, abs=1e-6)
    assert len(found) == len(expected)


@small
@given(posteriors(alphabets=[("", "a", "b"), *CASED]), st.integers(1, 8))
def test_nbest_is_sorted_and_no_two_differ_only_in_case(posterior: Posterior, count: int) -> None:
    found = posterior.nbest(count)
    assert 1 <= len(found) <= count
    assert all(a.score >= b.score for a, b in itertools.pairwise(found))
    assert len({h.text.casefold() for h in found}) == len(found)


def test_a_letter_that_only_another_look_sees_keeps_its_case() -> None:
    looks = Views((ink("Xa").best, ink("XB").best))
    assert {hypothesis.text for hypothesis in looks.nbest(4)} >= {"Xa", "XB"}


@small
@given(posteriors(least=2), st.integers(1, 8))
def test_nbest_scores_never_exceed_the_exact_ones_and_the_first_is_near(posterior: Posterior, count: int) -> None:
    found = posterior.nbest(count)
    exact = posterior.score([h.text for h in found])
    assert all(h.score <= score + 1e-6 for h, score in zip(found, exact, strict=True))
    wide = posterior.nbest(500)
    assert [h.score for h in wide] == pytest.approx(posterior.score([h.text for h in wide]), abs=1e-6)


def test_each_letter_of_a_hypothesis_has_its_more_probable_case() -> None:
    posterior = peaks({"r": 0.4, "R": 0.5}, {"o": 0.9}, {"s": 0.3, "S": 0.2}, {"u": 0.6, "v": 0.3})
    texts = [h.text for h in posterior.nbest(50)]
    assert texts[0] == "Rosu"
    assert "Rosv" in texts
    assert not {"rosv", "RoSv", "ROSV"} & set(texts)


def test_the_greedy_text_keeps_its_own_case_in_the_list() -> None:
    posterior = peaks({"i": 0.48, "I": 0.5}, {}, {"i": 0.6, "I": 0.3})
    assert posterior.greedy == "Ii"
    assert posterior.nbest(3)[0].text == "Ii"


# --- greedy and runs ----------------------------------------------------------------------------------------------


@small
@given(posteriors(columns=8, alphabets=[("", "a", "b"), *CASED]))
def test_greedy_is_the_collapsed_best_path(posterior: Posterior) -> None:
    best = [posterior.alphabet[int(index)] for index in posterior.probabilities.argmax(axis=1)]
    assert posterior.greedy == collapse(best)


@small
@given(posteriors(columns=8))
def test_runs_tile_the_columns(posterior: Posterior) -> None:
    runs = posterior.runs
    assert runs[0][0] == 0
    assert runs[-1][1] == len(posterior.probabilities)
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in itertools.pairwise(runs))
    assert all(start < end for start, end, _ in runs)


@small
@given(posteriors(columns=8))
def test_quality_is_the_geometric_mean_per_character_of_the_best_path(posterior: Posterior) -> None:
    letters = sum(index != 0 for _, _, index in posterior.runs)
    expected = float(np.prod(posterior.probabilities.max(axis=1))) ** (1 / max(1, letters))
    assert posterior.quality == pytest.approx(expected)
    assert 0 < posterior.quality <= 1


# --- place --------------------------------------------------------------------------------------------------------


def path_of(places: Sequence[tuple[float, float]], text: str, posterior: Posterior) -> tuple[str, ...]:
    path = [""] * len(posterior.probabilities)
    for letter, (left, right) in zip(text, places, strict=True):
        for column in range(round(left / posterior.column_px), round(right / posterior.column_px)):
            assert path[column] == ""
            path[column] = letter
    return tuple(path)


@small
@given(posteriors(), st.data())
def test_place_is_the_best_alignment(posterior: Posterior, data: st.DataObject) -> None:
    alignments = all_paths(posterior)
    text = data.draw(st.sampled_from(sorted(alignments)))
    path = path_of(posterior.place(text), text, posterior)
    assert collapse(path) == text
    probability = dict(zip((p for _, p in alignments[text]), (p for p, _ in alignments[text]), strict=True))[path]
    assert probability == pytest.approx(max(p for p, _ in alignments[text]))


@small
@given(posteriors(columns=8), st.text("abcx", max_size=12))
def test_places_are_in_order_in_range_and_one_per_code_point(posterior: Posterior, text: str) -> None:
    places = posterior.place(text)
    end = len(posterior.probabilities) * posterior.column_px
    assert len(places) == len(text)
    assert all(0 <= left < right <= end + 1e-9 for left, right in places)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(places))


def test_a_text_longer_than_the_columns_is_spread_evenly() -> None:
    posterior = peaks({"a": 0.9}, {"b": 0.9}, column_px=6.0)
    assert posterior.place("abab") == ((0, 3), (3, 6), (6, 9), (9, 12))
    assert posterior.place("aa") == ((0, 6), (6, 12))  # two columns can't hold a, blank, a
    assert posterior.place("ab") == ((0, 6), (6, 12))


def test_nothing_is_placed_nowhere() -> None:
    assert peaks({"a": 0.9}, {}).place("") == ()


@small
@given(posteriors(columns=6), st.lists(st.text("ab", max_size=4), min_size=1, max_size=4))
def test_places_do_not_depend_on_what_is_asked_beside(posterior: Posterior, texts: list[str]) -> None:
    together = posterior._aligned(texts)
    assert together == [posterior._aligned([text])[0] for text in texts]


# --- positions ----------------------------------------------------------------------------------------------------


@small
@given(posteriors(columns=8, alphabets=[("", "a", "b"), ("", "a", "b", "c"), *CASED]), st.integers(1, 4))
def test_positions_spell_the_greedy_text_from_left_to_right(posterior: Posterior, top_k: int) -> None:
    places = posterior.positions(top_k)
    assert "".join(place.candidates[0].text for place in places if not place.optional) == posterior.greedy
    assert all(a.right <= b.left + 1e-9 for a, b in itertools.pairwise(places))
    assert all(0 <= p.left < p.right <= len(posterior.probabilities) * posterior.column_px + 1e-9 for p in places)
    for place in places:
        values = [candidate.probability for candidate in place.candidates]
        assert len(values) <= top_k
        assert values == sorted(values, reverse=True)
        assert all(candidate.text for candidate in place.candidates)


def test_a_position_has_the_probabilities_of_its_peak_column() -> None:
    posterior = peaks({"a": 0.6, "b": 0.3}, {"a": 0.95, "c": 0.04}, {"a": 0.7, "b": 0.2}, {}, column_px=5.0)
    (place,) = posterior.positions(5)
    assert (place.left, place.right) == (0.0, 15.0)
    assert [(c.text, c.probability) for c in place.candidates] == [("a", 0.95), ("c", 0.04)]


def test_top_k_counts_characters_and_not_the_blank() -> None:
    posterior = peaks({"a": 0.5, "b": 0.2, "c": 0.1})
    assert [c.text for c in posterior.positions(2)[0].candidates] == ["a", "b"]
    assert [c.text for c in posterior.positions(3)[0].candidates] == ["a", "b", "c"]


def test_a_character_hidden_between_two_peaks_becomes_an_optional_position() -> None:
    posterior = peaks({"a": 0.9}, {"x": 0.1}, {"x": 0.3, "y": 0.2}, {"x": 0.2}, {"b": 0.9}, column_px=5.0)
    assert posterior.greedy == "ab"
    first, hidden, last = posterior.positions(5)
    assert (first.optional, hidden.optional, last.optional) == (False, True, False)
    assert (hidden.left, hidden.right) == (10.0, 15.0)
    assert [(c.text, c.probability) for c in hidden.candidates] == [("x", 0.3), ("y", 0.2)]


@pytest.mark.parametrize(("between", "hidden"), [(HIDDEN - 0.01, False), (HIDDEN + 0.01, True)])
def test_less_than_the_least_mass_hides_nothing(between: float, hidden: bool) -> None:
    places = peaks({"a": 0.9}, {"x": between}, {"b": 0.9}).positions(5)
    assert any(place.optional for place in places) == hidden


def test_the_flank_of_a_neighbour_is_no_hidden_character() -> None:
    posterior = peaks({"a": 0.9}, {"a": 0.4}, {}, {"b": 0.4}, {"b": 0.9})
    assert [place.optional for place in posterior.positions(5)] == [False, False]


# --- compact ------------------------------------------------------------------------------------------------------


def test_compact_keeps_what_is_alive_somewhere_and_the_blank() -> None:
    characters = ["blank", "a", "b", "c", "d"]
    full = np.array([[0.0, 0.9, ALIVE, ALIVE / 2, 0.0], [0.0, 0.99, 0.0, 0.0, 0.001]], dtype=np.float32)
    posterior = Posterior.compact(full, characters, 4.0)
    assert posterior.alphabet == ("", "a", "b", "d")
    assert posterior.probabilities.dtype == np.float64
    assert posterior.probabilities == pytest.approx(full[:, [0, 1, 2, 4]])


@small
@given(posteriors(columns=4, alphabets=[("", "a", "b", "c")]), st.integers(0, 40))
def test_compact_changes_no_answer(posterior: Posterior, dead: int) -> None:
    full = np.hstack([posterior.probabilities, np.zeros((len(posterior.probabilities), dead))]).astype(np.float32)
    compacted = Posterior.compact(full, ["blank", "a", "b", "c", *map(chr, range(0x4E00, 0x4E00 + dead))], 4.0)
    assert set(compacted.alphabet) <= set(posterior.alphabet)
    assert compacted.greedy == posterior.greedy
    texts = ["", "a", "ab", "abc", "bca", "aa"]
    fits = [text for text in texts if len(text) + (text == "aa") <= len(posterior.probabilities)]
    assert compacted.score(fits) == pytest.approx(posterior.score(fits), abs=1e-4)


def test_characters_that_are_one_in_nfc_share_a_column() -> None:
    compatibility, unified = "\uf92c", "\u90ce"  # both 郎; PP-OCRv6's list holds the first
    assert unicodedata.normalize("NFC", compatibility) == unified
    full = np.array([[0.1, 0.5, 0.4]], dtype=np.float32)
    posterior = Posterior.compact(full, ["blank", compatibility, unified], 4.0)
    assert posterior.alphabet == ("", unified)
    assert posterior.probabilities == pytest.approx(np.array([[0.1, 0.9]]))
    assert posterior.greedy == unified


def test_texts_are_nfc_though_an_accent_is_a_letter_of_its_own() -> None:
    posterior = peaks({"e": 0.9}, {"\N{COMBINING ACUTE ACCENT}": 0.8}, {})
    assert posterior.greedy == "é"
    assert all(unicodedata.is_normalized("NFC", h.text) for h in posterior.nbest(10))
    assert posterior.nbest(10)[0].text == "é"


@small
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9))
def test_a_posterior_in_which_nothing_is_alive_is_an_empty_line(blanks: list[float]) -> None:
    full = np.zeros((len(blanks), 20), dtype=np.float32)
    full[:, 0] = blanks
    full[:, 1:] = ALIVE / 2
    posterior = Posterior.compact(full, ["blank", *"abcdefghijklmnopqrs"], 4.0)
    assert posterior.alphabet == ("",)
    assert posterior.greedy == ""
    assert posterior.positions(5) == ()
    assert [h.text for h in posterior.nbest(5)] == [""]
    assert posterior.score([""]) == pytest.approx([sum(math.log(max(b, FLOOR)) for b in blanks)], abs=1e-5)
    assert 0 <= posterior.quality <= 1


def test_one_column_is_enough() -> None:
    blank, letter = peaks({"a": 0.1}), peaks({"a": 0.9})
    assert (blank.greedy, letter.greedy) == ("", "a")
    assert [h.text for h in letter.nbest(5)] == ["a", ""]
    assert letter.score(["a", ""]) == pytest.approx([math.log(0.9), math.log(0.1)])
    assert letter.place("a") == ((0.0, 4.0),)
    assert blank.quality == pytest.approx(0.9)


# --- views --------------------------------------------------------------------------------------------------------

LOOKS = st.lists(posteriors(least=1, columns=4, alphabets=[("", "a", "b"), ("", "a", "A")]), min_size=1, max_size=3)


@small
@given(LOOKS, st.lists(st.text("abAx", max_size=3), min_size=1, max_size=4))
def test_views_score_the_mean_probability_of_their_looks(looks: list[Posterior], texts: list[str]) -> None:
    views = Views(tuple(looks))
    for ask in ("score", "score_cased"):
        table = [[math.exp(value) for value in getattr(look, ask)(texts)] for look in looks]
        means = [math.log(max(sum(column) / len(looks), 1e-320)) for column in zip(*table, strict=True)]
        assume(all(mean > -600 for mean in means))
        assert getattr(views, ask)(texts) == pytest.approx(means, abs=1e-9)


@small
@given(LOOKS, st.integers(1, 6))
def test_views_list_the_union_of_their_looks_by_the_mixture(looks: list[Posterior], count: int) -> None:
    views = Views(tuple(looks))
    found = views.nbest(count)
    assert 1 <= len(found) <= count
    assert all(a.score >= b.score for a, b in itertools.pairwise(found))
    assert len({h.text.casefold() for h in found}) == len(found)
    union = {h.text.casefold() for look in looks for h in look.nbest(count)}
    assert {h.text.casefold() for h in found} <= union
    if len(looks) > 1:
        assert [h.score for h in found] == pytest.approx(views.score([h.text for h in found]))
        left_out = [text for text in union if text not in {h.text.casefold() for h in found}]
        assert all(score <= found[-1].score + 1e-9 for score in views.score(left_out))


@small
@given(st.lists(posteriors(), min_size=1, max_size=3), st.lists(st.text("abc", max_size=4), max_size=4))
def test_views_that_have_to_agree_score_the_mean_of_the_logarithms(looks: list[Posterior], texts: list[str]) -> None:
    both = Views(tuple(looks), agree=True)
    rows = np.array([look.score(texts) for look in looks])
    assert both.score(texts) == pytest.approx(rows.mean(axis=0).tolist())
    cased = np.array([look.score_cased(texts) for look in looks])
    assert both.score_cased(texts) == pytest.approx(cased.mean(axis=0).tolist())
    assert all(a <= b + 1e-9 for a, b in zip(both.score(texts), Views(tuple(looks)).score(texts), strict=True))


@small
@given(st.lists(posteriors(), min_size=1, max_size=3))
def test_views_are_as_sure_as_their_best_look(looks: list[Posterior]) -> None:
    views = Views(tuple(sorted(looks, key=lambda look: -look.quality)))
    assert views.quality == views.best.quality == max(look.quality for look in looks)
    assert 0 < views.quality <= 1


def test_views_place_by_their_best_look() -> None:
    wide, narrow = peaks({}, {"a": 0.9}, column_px=5.0), peaks({"a": 0.5}, {}, column_px=3.0)
    assert Views((wide, narrow)).best is wide
    assert Views((wide, narrow)).place("a") == ((5.0, 10.0),)


def test_one_look_is_as_good_as_its_posterior() -> None:
    posterior = peaks({"a": 0.7, "b": 0.2}, {}, {"b": 0.9})
    views = Views((posterior,))
    assert views.nbest(5) == posterior.nbest(5)
    assert views.score(["ab", "bb", "x"]) == pytest.approx(posterior.score(["ab", "bb", "x"]))


def test_no_answer_changes_the_posterior() -> None:
    posterior = peaks({"a": 0.7, "B": 0.2}, {}, {"b": 0.9})
    before: NDArray[np.float64] = posterior.probabilities.copy()
    posterior.nbest(5), posterior.score(["ab"]), posterior.place("ab"), posterior.positions(3)
    assert np.array_equal(before, posterior.probabilities)
