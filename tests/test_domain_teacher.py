"""A teacher's red marks: told by their kind, taken off the page, and never the pupil's text."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fusion.domain import teacher
from fusion.ink import PageImage
from fusion.page import Check, Place
from tests.made_pages import line, page


def paper(*marks: str, pupil: bool = True) -> PageImage:
    pixels = np.full((600, 800, 3), 240, np.uint8)
    red, dark = (200, 30, 40), (40, 45, 110)
    if pupil:
        for y in range(80, 560, 80):
            cv2.putText(pixels, "7 + 5 = 12  abc", (60, y), cv2.FONT_HERSHEY_SIMPLEX, 1.2, dark, 3)
    if "tick" in marks:
        cv2.polylines(pixels, [np.array([[560, 110], [580, 140], [650, 60]])], False, red, 4)
    if "cross" in marks:
        cv2.line(pixels, (570, 220), (630, 280), red, 4)
        cv2.line(pixels, (630, 220), (570, 280), red, 4)
    if "circle" in marks:
        cv2.ellipse(pixels, (240, 70), (60, 34), 0, 0, 360, red, 3)
    if "ring" in marks:
        cv2.ellipse(pixels, (650, 420), (30, 40), 0, 0, 360, red, 4)
    if "underline" in marks:
        cv2.line(pixels, (60, 254), (230, 258), red, 3)
    if "rule" in marks:
        cv2.line(pixels, (40, 0), (40, 599), red, 2)
    if "writing" in marks:
        cv2.putText(pixels, "see me after class", (60, 590), cv2.FONT_HERSHEY_SIMPLEX, 1.0, red, 3)
    return PageImage("p", "0" * 64, pixels, pixels, np.eye(3))


def kinds(image: PageImage) -> list[str]:
    return sorted(check.kind for check in teacher.marks(image)[1])


def test_ticks_and_crosses_are_told_apart_and_painted_over() -> None:
    image = paper("tick", "cross")
    clean, checks = teacher.marks(image)
    assert sorted(check.kind for check in checks) == ["teacher_cross", "teacher_tick"]
    red = (clean.pixels[..., 0].astype(int) - clean.pixels[..., 2]) > 60
    assert red.sum() == 0
    assert (clean.pixels[:, :540] == image.pixels[:, :540]).all()  # the pupil's ink is untouched
    tick = next(check for check in checks if check.kind == "teacher_tick")
    assert tick.polygon is not None
    assert 550 <= tick.polygon[0][0] <= 565
    assert 50 <= tick.polygon[0][1] <= 65


def test_red_writing_stays_to_be_read() -> None:
    image = paper("writing")
    clean, checks = teacher.marks(image)
    assert {check.kind for check in checks} == {"teacher_writing"}
    assert (clean.pixels == image.pixels).all()
    assert teacher.is_teachers(line("see me after class", 0, (60, 565, 380, 598)), checks)
    assert not teacher.is_teachers(line("7 + 5 = 12", 0, (60, 55, 380, 85)), checks)


def test_a_page_in_red_is_the_pupils() -> None:
    image = paper("writing", "tick", pupil=False)
    assert teacher.marks(image) == (image, ())


def test_a_page_without_red_is_the_same_page() -> None:
    image = paper()
    assert teacher.marks(image)[0] is image


def test_marks_are_told_by_their_kind_and_a_rule_of_the_paper_is_none() -> None:
    found = kinds(paper("circle", "ring", "underline", "rule", "tick"))
    assert found == ["teacher_circle", "teacher_tick", "teacher_underline", "teacher_writing"]  # a ring is a 0


@pytest.mark.parametrize("arm", [0.15, 0.5, 0.9])
def test_a_tick_may_have_any_left_arm_and_run_over_the_pupils_writing(arm: float) -> None:
    image = paper()
    cv2.polylines(
        image.pixels, [np.array([[300, int(300 - 140 * arm)], [350, 300], [560, 150]])], False, (200, 30, 40), 4
    )
    clean, checks = teacher.marks(image)
    assert [check.kind for check in checks] == ["teacher_tick"]
    pupils = image.pixels.max(axis=2) < 130  # what he wrote under it stays
    assert (clean.pixels[pupils].max(axis=1) < 130).mean() > 0.98


@pytest.mark.parametrize(
    ("text", "kind"), [("95", "teacher_score"), ("A+", "teacher_score"), ("see me", "teacher_writing")]
)
def test_what_reads_as_a_score_is_one(text: str, kind: str) -> None:
    box = ((60.0, 565.0), (380.0, 565.0), (380.0, 598.0), (60.0, 598.0))
    check = Check("teacher_writing", "writing in red ink", (), False, box)
    made = replace(page(), lines=(line(text, 0, (60, 565, 380, 598)),), checks=(check,))
    understood = teacher.scored(made)
    assert [check.kind for check in understood.checks] == [kind]
    assert teacher.scored(understood) == understood
    assert teacher.is_teachers(understood.lines[0], understood.checks)


def test_a_score_beside_words_is_writing_and_a_corrected_one_is_no_score() -> None:
    box = ((60.0, 465.0), (380.0, 465.0), (380.0, 598.0), (60.0, 598.0))
    check = Check("teacher_writing", "writing in red ink", (), False, box)
    lines = (line("95", 0, (60, 465, 380, 520)), line("see me after class", 1, (60, 540, 380, 598)))
    assert [c.kind for c in teacher.scored(replace(page(), lines=lines, checks=(check,))).checks] == ["teacher_writing"]
    alone = teacher.scored(replace(page(), lines=lines[:1], checks=(check,)))
    edited = alone.edit(Place("l000", 0, 2), "see me", "me")
    assert [c.kind for c in teacher.scored(edited).checks] == ["teacher_writing"]


@pytest.mark.parametrize(
    "corners",
    [
        [(0, 0), (25, 80), (50, 30), (75, 80), (100, 0)],  # W
        [(0, 80), (100, 0)],  # a slash
        [(0, 0), (60, 90), (100, 60)],  # ends low
        [(0, 0), (80, 90), (100, 0)],  # turns late: V
    ],
)
def test_other_strokes_are_no_tick(corners: list[tuple[int, int]]) -> None:
    pixels = paper().pixels
    cv2.polylines(pixels, [np.add(corners, (600, 300))], False, (200, 30, 40), 4)
    assert kinds(PageImage("p", "0" * 64, pixels, pixels, np.eye(3))) == ["teacher_writing"]


def test_a_small_cross_within_red_words_stays_a_letter() -> None:
    pixels = paper().pixels
    cv2.putText(pixels, "x = 5", (480, 420), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (200, 30, 40), 2)
    clean, checks = teacher.marks(PageImage("p", "0" * 64, pixels, pixels, np.eye(3)))
    assert [check.kind for check in checks] == ["teacher_writing"]
    assert (clean.pixels == pixels).all()


@pytest.mark.parametrize("text", ["Very good V", "VIX 100", "95 Y", "-5 r"])
def test_no_letter_of_red_words_is_taken_for_a_mark(text: str) -> None:
    pixels = paper().pixels
    cv2.putText(pixels, text, (380, 560), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (200, 30, 40), 4)
    clean, checks = teacher.marks(PageImage("p", "0" * 64, pixels, pixels, np.eye(3)))
    assert {check.kind for check in checks} == {"teacher_writing"}
    assert (clean.pixels == pixels).all()


def test_red_paper_and_strokes_across_the_page_leave_the_pupils_lines() -> None:
    pixels = paper().pixels
    for y in range(100, 600, 80):
        cv2.line(pixels, (0, y), (799, y), (200, 30, 40), 2)
    cv2.line(pixels, (40, 0), (40, 599), (200, 30, 40), 2)
    assert kinds(PageImage("p", "0" * 64, pixels, pixels, np.eye(3))) == []
    pixels = paper().pixels
    cv2.line(pixels, (30, 560), (420, 40), (200, 30, 40), 3)
    _, checks = teacher.marks(PageImage("p", "0" * 64, pixels, pixels, np.eye(3)))
    assert [check.kind for check in checks] == ["teacher_stroke"]
    assert not teacher.is_teachers(line("7 + 5 = 12", 0, (60, 55, 380, 85)), checks)


def test_a_red_line_through_a_word_strikes_it_out_and_stays() -> None:
    pixels = paper().pixels
    cv2.line(pixels, (60, 228), (330, 230), (200, 30, 40), 3)  # through the middle of the letters
    clean, checks = teacher.marks(PageImage("p", "0" * 64, pixels, pixels, np.eye(3)))
    assert [check.kind for check in checks] != ["teacher_underline"]
    assert (clean.pixels == pixels).all()
