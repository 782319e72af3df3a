"""The lexicon: what counts as one name, what is near, and how much likelier a list makes a text than any string."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from fusion.domain.formulary import read_names
from fusion.domain.lexicon import COVERAGE, SPELT_ALIKE, Lexicon, letters
from fusion.domain.ngram import ORDER, SYMBOLS
from fusion.errors import InputError

DRUGS = ["Amlodipine", "Amoxicillin", "Napa", "Napa Extra", "Paracetamol", "Vitamin B12"]
LEXICON = Lexicon(DRUGS)
START = "\x02"
NAMES = st.lists(st.text("abcdeé19", min_size=1, max_size=8), min_size=1, max_size=12)


def symbols_of(names: list[str]) -> list[str]:
    return [*sorted({c for name in names for c in letters(name)}), "\x03"]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["napa-extra", "NAPA EXTRA", "Napa  Extra.", "NapaExtra"])
def test_spelling_habits_do_not_make_another_name(word: str) -> None:
    assert LEXICON.holds(word)


@pytest.mark.parametrize("word", ["Napa Ext", "Vitamin B", "Vitamin B1", "", " ", "-"])
def test_holds_no_part_of_a_name_and_nothing_empty(word: str) -> None:
    assert not LEXICON.holds(word)


@pytest.mark.parametrize("word", ["Na.pa", "Napa/Extra", "Vitamin≠B12", "Dr.IP", "25→mg"])
def test_signs_inside_a_word_make_another_word(word: str) -> None:
    assert not Lexicon([*DRUGS, "25 mg"], words=["drip"]).holds(word)


@pytest.mark.parametrize("word", ["b.i.d.", "bid", "(bid)", "B.I.D"])
def test_an_abbreviation_may_have_its_dots(word: str) -> None:
    assert Lexicon(["Napa"], words=["bid"]).holds(word)
    assert Lexicon(["Napa"], words=["b.i.d."]).holds(word)


def test_first_spelling_is_kept_and_empty_names_are_skipped() -> None:
    lexicon = Lexicon(["Napa Extra", "napa-extra", "", " -- "])
    assert len(lexicon) == 1
    assert lexicon.near("napaextra", 5) == ["Napa Extra"]


def test_near_gives_the_nearest_first_in_its_own_spelling() -> None:
    assert LEXICON.near("amlodipin", 1) == ["Amlodipine"]
    assert LEXICON.near("VITAMIN-B12", 3)[0] == "Vitamin B12"


def test_nothing_is_near_a_very_short_or_an_alien_word() -> None:
    assert LEXICON.near("n", 5) == []
    assert LEXICON.near("xxxxxxxx", 5) == []
    assert LEXICON.near("", 5) == []


@settings(deadline=None)
@given(st.text("amlodipnetrcx", min_size=3, max_size=12), st.integers(1, 4))
def test_near_is_sorted_by_distance_and_shares_a_fifth_of_the_letters(word: str, count: int) -> None:
    found = LEXICON.near(word, count)
    far = [Levenshtein.distance(letters(word), letters(name)) for name in found]
    assert len(found) <= count
    assert all(a <= b for a, b in pairwise(far))
    assert all(distance <= max(2, len(word) * 4 // 5) for distance in far)
    missed = [name for name in DRUGS if name not in found]
    if len(found) < count:
        assert all(Levenshtein.distance(letters(word), letters(n)) > max(2, len(word) * 4 // 5) for n in missed)


# --- character model ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(NAMES, st.text("abcdeé19x", max_size=ORDER - 1))
def test_probabilities_after_any_context_sum_to_at_most_one(names: list[str], context: str) -> None:
    lexicon = Lexicon(names)
    padded = (START * (ORDER - 1) + context)[-(ORDER - 1) :]
    total = sum(lexicon._model.next(padded, symbol) for symbol in symbols_of(names))
    assert 0 < total <= 1 + 1e-9


def test_probabilities_sum_to_at_most_one_when_a_formulary_has_many_characters() -> None:
    names = [chr(0x4E00 + 3 * n) + chr(0x4E01 + 3 * n) + "片" for n in range(60)]
    lexicon = Lexicon(names)
    assert len(symbols_of(names)) > SYMBOLS
    assert sum(lexicon._model.next(START * (ORDER - 1), symbol) for symbol in symbols_of(names)) <= 1 + 1e-9


def test_witten_bell_by_hand() -> None:
    # After "a" stands c twice and b once: 3 events of 2 kinds. Without context: 7 letters and 3 ends of 4 kinds, 3 are c.
    lexicon = Lexicon(["ac", "acc", "ab"])
    unigram = (3 + 4 / SYMBOLS) / (10 + 4)
    assert lexicon._model.next("zzza", "c") == pytest.approx((2 + 2 * unigram) / (3 + 2))


# --- while a word is being spelt ----------------------------------------------------------------------------------


@given(NAMES, st.text("abcdeé19", max_size=4))
def test_a_name_goes_on_with_the_letters_that_come_next_in_the_list(names: list[str], begin: str) -> None:
    keys = {letters(name) for name in names} - {""}
    longer = {key for key in keys if key.startswith(begin) and key != begin}
    assert Lexicon(names).follows(begin) == {key[len(begin)] for key in longer}


def test_names_go_on_after_a_space_and_across_it() -> None:
    assert LEXICON.follows("take n") == {"a"}
    assert LEXICON.follows("napa ") == {"a", "n", "p", "v", "e"}
    assert LEXICON.follows("vitamin b") == {"1"}
    assert LEXICON.follows("xyz") == LEXICON.follows("napa.") == LEXICON.follows("n.") == frozenset()
    assert LEXICON.follows("napa-") == {"e"}


@settings(deadline=None)
@given(NAMES, st.text("abcdeé19", min_size=1, max_size=8))
def test_the_beginning_of_a_word_is_as_probable_as_all_that_it_may_become(names: list[str], begin: str) -> None:
    for kind in ("formulary", "names"):
        lexicon = Lexicon(names, kind)
        assume(any(map(str.isalpha, begin)) and len(lexicon))
        share = sum(key.startswith(begin) for key in {letters(name) for name in names} - {""})
        spelt = math.exp(lexicon._model.begins(begin)) * SPELT_ALIKE
        other = (1 - COVERAGE[kind]) * (spelt + (1 - SPELT_ALIKE) * SYMBOLS ** -len(begin))
        probability = COVERAGE[kind] * share / len(lexicon) + other
        (found,) = lexicon.begins([begin])
        assert found == pytest.approx(math.log(probability) + len(begin) * math.log(SYMBOLS))
        assert lexicon.score([begin])[0] - math.log(SYMBOLS) <= found + 1e-9  # it may end here, and may go on


def test_names_and_words_share_what_is_listed_and_none_counts_twice() -> None:
    lexicon, apart = Lexicon(["napa"], words=["napa", "tab"]), Lexicon(["napa"], words=["tab"])
    assert lexicon.begins(["na", "ta"]) == apart.begins(["na", "ta"])
    assert lexicon.follows("") == {"n"}  # words are no names
    assert lexicon.begins(["ta"])[0] == pytest.approx(lexicon.begins(["na"])[0], abs=0.5)


def test_words_before_the_last_are_whole() -> None:
    (alone,), (after,) = LEXICON.begins(["napa 50"]), LEXICON.begins(["napa "])
    assert alone == after == pytest.approx(LEXICON.log_probability("napa"))
    assert LEXICON.begins(["napa ext"])[0] > LEXICON.begins(["napo ext"])[0] + 3
    assert LEXICON.begins([""]) == [0.0]


# --- against any string -------------------------------------------------------------------------------------------

PACKAGED = Lexicon(DRUGS, "names")
BOTH = pytest.mark.parametrize("lexicon", [LEXICON, PACKAGED], ids=["formulary", "names"])
ODD = ["xqzxqz", "药片", "Zzz", "ß", "x" * 100]


@BOTH
@pytest.mark.parametrize("text", ["", " ", "500", "1+0+1", "5.5 / 7", "½ — ②", "+", "()"])
def test_of_numbers_and_signs_a_list_says_nothing(lexicon: Lexicon, text: str) -> None:
    assert lexicon.log_probability(text) == 0.0
    assert lexicon.log_probability(f"Napa {text}") == pytest.approx(lexicon.log_probability("Napa"))


@BOTH
def test_a_name_is_likelier_than_any_string_and_a_stranger_less_likely(lexicon: Lexicon) -> None:
    for name in DRUGS:
        assert lexicon.log_probability(name) > 1
    for word in ODD:
        assert lexicon.log_probability(word) < 0


@BOTH
@pytest.mark.parametrize("around", ["{}", "{} 500", "take {} now", "1. {} 500 mg 1 tab bid", "({})", "{}."])
@pytest.mark.parametrize(
    ("name", "stranger"), [("Napa", "Nape"), ("Paracetamol", "Paracetanol"), ("Amlodipine", "Xqzwv")]
)
def test_a_name_is_likelier_than_a_stranger_in_a_line_as_alone(
    lexicon: Lexicon, around: str, name: str, stranger: str
) -> None:
    assert lexicon.log_probability(around.format(name)) > lexicon.log_probability(around.format(stranger)) + 3


@BOTH
def test_what_is_spelt_like_names_is_likelier_than_what_is_not(lexicon: Lexicon) -> None:
    assert lexicon.log_probability("Paracetamil") > 0 > lexicon.log_probability("qzxqzxqzxqz")
    assert lexicon.log_probability("Napa") > lexicon.log_probability("Nap")  # the end is part of a name


@BOTH
@settings(deadline=None)
@given(word=st.text("abnpxzé19 -", max_size=30) | st.sampled_from(ODD))
def test_a_word_on_no_list_costs_no_more_than_that_no_list_is_complete(lexicon: Lexicon, word: str) -> None:
    coverage = COVERAGE[lexicon.kind]
    count = sum(any(c.isalpha() for c in part) for part in word.split())
    worst = count * math.log((1 - coverage / max(1, count)) * (1 - SPELT_ALIKE))
    assert lexicon.log_probability(word) >= worst - 1e-9
    assert worst > -math.inf


@BOTH
@pytest.mark.parametrize("text", ["Napa-Extra", "NAPA EXTRA", "napa  extra.", "NapaExtra"])
def test_case_and_hyphens_are_one(lexicon: Lexicon, text: str) -> None:
    assert lexicon.log_probability(text) == lexicon.log_probability("Napa Extra")
    assert lexicon.log_probability("take NAPA, now") == pytest.approx(lexicon.log_probability("take napa now"))


def test_the_users_own_list_is_trusted_more_than_the_packaged_one() -> None:
    assert 0 < PACKAGED.coverage < LEXICON.coverage < 1
    for name in DRUGS:
        assert LEXICON.log_probability(name) > PACKAGED.log_probability(name)
    for word in [*ODD, "Nape", "Paracetanol"]:
        assert LEXICON.log_probability(word) < PACKAGED.log_probability(word)


def test_every_name_is_as_probable_as_another_of_its_length() -> None:
    lexicon = Lexicon(["abab", "abac", "zqxw"])
    alike = [lexicon.log_probability(name) for name in ("abab", "abac", "zqxw")]
    assert alike == pytest.approx([alike[0]] * 3, abs=0.01)


def test_a_longer_list_says_less_for_each_of_its_names() -> None:
    few, many = Lexicon(["Napa"]), Lexicon(["Napa", *(f"drug{n:03}" for n in range(500))])
    assert few.log_probability("Napa") > many.log_probability("Napa") > 0


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5))
def test_times_the_probability_of_any_string_it_is_a_distribution_over_words(names: list[str]) -> None:
    lexicon = Lexicon(names)
    texts = ["".join(word) for size in range(1, 8) for word in product("ab", repeat=size)]
    mass = [math.exp(lexicon.log_probability(text)) / SYMBOLS ** (len(text) + 1) for text in texts]
    assert COVERAGE["formulary"] <= sum(mass) <= 1 + 1e-9


def test_a_very_long_word_is_a_stranger() -> None:
    assert LEXICON.log_probability("x" * 400) < 0


# --- formulary files ----------------------------------------------------------------------------------------------


def test_reads_names_skips_comments_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffNapa\r\n# a comment: Aspirin\r\n\r\n  Vitamin B12  \r\n".encode())
    lexicon = Lexicon.read(path)
    assert len(lexicon) == 2
    assert lexicon.holds("Napa")
    assert lexicon.holds("vitamin b12")
    assert not lexicon.holds("a comment: Aspirin")


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\n \n--\n"])
def test_a_file_without_names_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no name") as caught:
        Lexicon.read(path)
    assert caught.value.subject == str(path)


def test_a_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("Aspirin für Kinder".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        Lexicon.read(path)


def test_a_missing_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=r"domain\.formulary"):
            Lexicon.read(path)


# --- names that are taken for each other --------------------------------------------------------------------------


def test_rivals_are_within_two_letters_or_one_stroke() -> None:
    lexicon = Lexicon(["Napa", "Clonex"], known=["Nape", "Donex", "Losectil", "Napa"])
    assert lexicon.rivals("napa") == ["Nape"]
    assert lexicon.rivals("Clonex") == ["Donex"]
    assert lexicon.rivals("Losectil") == []
    assert not lexicon.holds("Donex")  # known, but not expected


def test_words_are_held_and_never_proposed() -> None:
    lexicon = Lexicon(["Tabex"], words=["tab"])
    assert lexicon.holds("Tab")
    assert lexicon.near("tab", 5) == ["Tabex"]


def test_english_names_have_no_say_about_chinese() -> None:
    assert not Lexicon(["Napa"]).concerns("阿莫西林")
    assert Lexicon(["Napa", "阿莫西林"]).concerns("阿莫西林")
    assert Lexicon(["Napa"]).concerns("2 tab")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("name,unit\nNapa,mg\n\n Ace ,g\n", ["Napa", "Ace"]),
        ("Napa\nAce\n", ["Napa", "Ace"]),
        ("id,Name\n1,Napa", ["Napa"]),
    ],
)
def test_a_formulary_may_be_csv(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    assert read_names(path) == names


@pytest.mark.parametrize("text", ["drug,unit\nNapa,mg\n", "name\n", "", 'name\n"Napa'])
def test_csv_that_names_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.csv"):
        read_names(path)
