"""Labels that are probably wrong: slipped runs and lone mistakes, put in on purpose, are found, and sound ones are not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.datasets import Item
from eval.labels import REACH, Suspect, agreement, fit, search, slips, suspects, table
from fusion.errors import InputError

WORDS = ["napa", "aceta", "fexo", "rolac", "alatrol", "metro", "bislol", "seclo", "omidon", "tofen", "leptic", "monas"]


def rows(labels: list[str]) -> list[Item]:
    return [Item(f"{n}.png", Path(), label, "") for n, label in enumerate(labels)]


def misread(word: str, rng: random.Random) -> str:
    n = rng.randrange(len(word))
    return word[:n] + rng.choice("aeiou") + word[n + 1 :] if rng.random() < 0.5 else word


def found(truth: list[str], labels: list[str], seed: int = 1) -> dict[str, Suspect]:
    rng = random.Random(seed)
    readings = [[misread(word, rng) for _ in range(3)] for word in truth]
    return {one.item.image: one for one in suspects(rows(labels), readings, [0.9] * len(labels), "letters")}


def test_sound_labels_are_left_alone() -> None:
    assert found(WORDS, WORDS) == {}


@pytest.mark.parametrize("slip", [-2, -1, 1, 2])
def test_a_run_of_slipped_labels_is_found_and_says_whose_label_fits(slip: int) -> None:
    truth = WORDS * 3
    labels = list(truth)
    for n in range(10, 22):
        labels[n] = truth[n - slip]  # the label of item n stands on item n + slip
    suspect = found(truth, labels)
    assert {f"{n}.png" for n in range(11, 20)} <= set(suspect) <= {f"{n}.png" for n in range(8, 25)}
    for n in range(12, 19):
        one = suspect[f"{n}.png"]
        assert (one.kind, one.better) == ("shifted", truth[n])


def test_a_lone_wrong_label_differs_and_the_worst_comes_first() -> None:
    labels = [*WORDS[:4], "xylomet", *WORDS[5:]]
    (one,) = found(WORDS, labels).values()
    assert (one.item.image, one.kind) == ("4.png", "differs")
    readings = [["napa", "napa"], ["rolac", "rolac"], ["fexo", "fexo"]]
    worst = suspects(rows(["napa", "rola1234", "qqqqq"]), readings, [None] * 3, "letters")
    assert [one.item.image for one in worst] == ["2.png", "1.png"]


def test_readers_that_disagree_accuse_nobody() -> None:
    assert suspects(rows(["napa"]), [["rolac", "fexo", "bislol"]], [0.1], "letters") == []
    assert suspects(rows(["napa"]), [["rolac"]], [0.9], "letters") == []
    assert suspects(rows(["napa"]), [[]], [None], "letters") == []
    assert suspects([], [], [], "letters") == []


@given(st.lists(st.lists(st.floats(0, 1), min_size=2 * REACH + 1, max_size=2 * REACH + 1), max_size=12))
def test_slips_are_within_reach_and_none_where_the_own_label_fits_best(fits: list[list[float]]) -> None:
    table_ = np.array(fits).reshape(-1, 2 * REACH + 1)
    course = slips(table_)
    assert len(course) == len(fits)
    assert (abs(course) <= REACH).all()
    table_[:, REACH] = 1.0
    assert not slips(table_).any()


def test_fit_and_agreement_are_shares() -> None:
    assert fit(["napa"], [["napa", "nap"]])[0, REACH] == pytest.approx(0.875)
    assert agreement(["napa", "napa", ""]) == 1.0
    assert agreement(["napa"]) == 0.0


def test_the_table_keeps_one_row_per_suspect() -> None:
    one = Suspect(Item("1.png", Path(), "a\nb", ""), "differs", "c\td", ("x", "y"), None, 0.5)
    header, row = table([one]).rstrip("\n").split("\n")
    assert len(header.split("\t")) == len(row.split("\t")) == 7


def test_pages_and_unknown_normalisations_are_refused(tmp_path: Path) -> None:
    split = tmp_path / "dev_pages.tsv"
    split.write_text("image\ttext\na.png\tx\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds pages"):
        search(split, tmp_path / "out.tsv", "plain", None, ())
    split = split.rename(tmp_path / "dev.tsv")
    with pytest.raises(InputError, match="no normalisation"):
        search(split, tmp_path / "out.tsv", "word", None, ())
