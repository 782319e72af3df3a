"""What is a line and what is no writing: geometry and ink, without a model."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fusion.intake.stamps import fade_stamps
from fusion.ocr.layout import Region
from fusion.ocr.search import is_faint, is_no_writing, join_upright
from tests.test_layout import box

RED, BLUE = (215, 40, 40), (30, 40, 120)


def crop(text: str, *, paper: int = 240, ink: int = 40) -> NDArray[np.uint8]:
    made = np.full((60, 60 + 40 * len(text), 3), paper, np.uint8)
    cv2.putText(made, text, (20, 45), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (ink, ink, ink), 3, cv2.LINE_AA)
    return made


@pytest.mark.parametrize("text", ["+ - × ÷", "(+/-)", "√ √ √ √", "++++", "？？？？", "> < = >"])
def test_signs_are_writing(text: str) -> None:
    assert not is_no_writing(crop(text), text)


@pytest.mark.parametrize("text", ["..........", "……………。", ": : : : : : : : : :", "— — — —"])
def test_dots_and_dashes_are_none(text: str) -> None:
    assert is_no_writing(crop("."), text)


def test_a_digit_in_chalk_or_among_specks_is_writing() -> None:
    assert not is_no_writing(crop("7", paper=30, ink=230), "7")
    specked = crop("8")
    specked[np.random.default_rng(0).random(specked.shape[:2]) < 0.01] = 60
    assert not is_no_writing(specked, "8")
    assert not is_no_writing(specked, "")


@pytest.mark.parametrize("digit", ["1", "7", "8"])
def test_a_digit_beside_a_blot_is_writing_and_a_blot_alone_is_none(digit: str) -> None:
    blotted = crop(digit)
    cv2.rectangle(blotted, (70, 15), (104, 49), (40, 40, 40), -1)
    assert not is_no_writing(blotted, digit)
    alone = crop("")
    cv2.rectangle(alone, (70, 15), (104, 49), (40, 40, 40), -1)
    assert is_no_writing(alone, digit)


def test_chalk_is_not_faint_and_pale_ink_is() -> None:
    assert not is_faint(crop("Napa", paper=30, ink=230))
    assert is_faint(crop("Napa", paper=245, ink=215))


def test_the_pieces_of_an_upright_line_are_joined() -> None:
    pieces = [Region(box(60, 40 + 160 * n, 30, 150), 0.9 - 0.1 * n) for n in (2, 0, 1)]
    apart = [Region(box(300, 40, 30, 150), 0.5), Region(box(400, 40, 300, 40), 0.7)]
    joined = join_upright([*pieces, *apart])
    assert len(joined) == 3
    (whole,) = [region for region in joined if np.ptp(region.corners[:, 1]) > 400]
    assert whole.probability == pytest.approx(0.9)


def stamped(*, letters: bool, under: bool) -> NDArray[np.uint8]:
    page = np.full((700, 900, 3), 245, np.uint8)
    if under:
        cv2.putText(page, "Napa 500 mg", (250, 360), cv2.FONT_HERSHEY_SIMPLEX, 2, BLUE, 4, cv2.LINE_AA)
    cv2.circle(page, (450, 350), 150, RED, 8, cv2.LINE_AA)
    if letters:
        cv2.putText(page, "CLINIC", (370, 290), cv2.FONT_HERSHEY_SIMPLEX, 1.5, RED, 4, cv2.LINE_AA)
    return page


def test_a_stamp_is_faded_where_other_ink_lies_under_it() -> None:
    faded, findings = fade_stamps(stamped(letters=True, under=True))
    assert [finding.kind for finding in findings] == ["stamp"]
    red = (faded[..., 0].astype(int) - faded[..., 1]) > 60
    assert not red.any()
    assert (faded.max(axis=2) < 140).sum() > 1000


def sealed(*, carved: bool) -> NDArray[np.uint8]:
    """A red square over a word: a seal full of strokes, or a box of a form with a word in it."""
    page = np.full((700, 900, 3), 245, np.uint8)
    cv2.putText(page, "Napa 500 mg", (250, 360), cv2.FONT_HERSHEY_SIMPLEX, 2, BLUE, 4, cv2.LINE_AA)
    cv2.rectangle(page, (370, 270), (530, 430), RED, 7)
    for row in range(300, 420, 30) if carved else ():
        cv2.putText(page, "HHHH", (385, row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, RED, 4, cv2.LINE_AA)
    return page


@pytest.mark.parametrize("carved", [True, False])
def test_a_square_seal_is_faded_and_a_red_box_of_a_form_is_not(carved: bool) -> None:
    page = sealed(carved=carved)
    faded, findings = fade_stamps(page)
    assert [finding.kind for finding in findings] == (["stamp"] if carved else [])
    assert (faded is page) is not carved


def test_a_label_and_a_ring_that_writing_keeps_clear_of_stay() -> None:
    page = np.full((900, 900, 3), 245, np.uint8)
    cv2.rectangle(page, (100, 100), (330, 330), RED, 7)
    for row, word in ((180, "DRUG"), (250, "ALLERGY")):
        cv2.putText(page, word, (120, row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, RED, 5, cv2.LINE_AA)
    cv2.putText(page, "Penicillin", (120, 310), cv2.FONT_HERSHEY_SIMPLEX, 1, BLUE, 3, cv2.LINE_AA)
    cv2.circle(page, (650, 600), 150, RED, 8, cv2.LINE_AA)
    cv2.putText(page, "13", (620, 560), cv2.FONT_HERSHEY_SIMPLEX, 2, RED, 6, cv2.LINE_AA)
    cv2.putText(page, "1+3=4", (560, 660), cv2.FONT_HERSHEY_SIMPLEX, 1.6, BLUE, 4, cv2.LINE_AA)
    assert fade_stamps(page)[0] is page


@pytest.mark.parametrize(("letters", "under"), [(True, False), (False, True), (False, False)])
def test_a_teachers_circle_and_red_writing_stay(letters: bool, under: bool) -> None:
    page = stamped(letters=letters, under=under)
    faded, findings = fade_stamps(page)
    assert findings == []
    assert faded is page


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_images_of_one_row_are_no_reason_to_fall(size: tuple[int, int]) -> None:
    page = np.full((*size, 3), 200, np.uint8)
    assert fade_stamps(page)[0] is page
