"""A teacher's red marks: told by their kind, taken off the page, and never the pupil's text."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fusion.domain import teacher
from fusion.ink import PageImage
from fusion.page import Check
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
    assert kinds(image) == ["teacher_tick"]


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
