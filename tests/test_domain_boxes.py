"""Boxes to tick: found, told by how they are marked, and taken off the page."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fusion.domain.boxes import boxes, labelled
from fusion.ink import PageImage
from fusion.page import Check, Page, Place, Polygon
from tests.made_pages import line

INK = (30, 30, 60)


def page(pixels: NDArray[np.uint8], shift: float = 0.0) -> PageImage:
    transform = np.array([[1.0, 0, shift], [0, 1, shift], [0, 0, 1]])
    return PageImage("p", "0" * 64, pixels, pixels, transform)


def form(*marks: str, side: int = 40) -> NDArray[np.uint8]:
    """A form with a box for each mark, below each other, and a word beside each."""
    pixels = np.full((120 + 100 * len(marks), 600, 3), 245, np.uint8)
    for number, mark in enumerate(marks):
        x, y = 60, 60 + 100 * number
        cv2.rectangle(pixels, (x, y), (x + side, y + side), INK, 2)
        cv2.putText(pixels, "Fever", (x + 2 * side, y + side - 4), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 3)
        if mark == "ticked":
            corners = np.array([(0.15, 0.45), (0.4, 0.8), (1.15, -0.2)]) * side + (x, y)
            cv2.polylines(pixels, [corners.astype(np.int32)], False, INK, side // 10)
        if mark == "crossed":
            cv2.line(pixels, (x + 5, y + 5), (x + side - 5, y + side - 5), INK, 2)
            cv2.line(pixels, (x + 5, y + side - 5), (x + side - 5, y + 5), INK, 2)
    return pixels


def kinds(found: tuple[Check, ...]) -> list[str]:
    return [check.kind.removeprefix("box_") for check in found]


@pytest.mark.parametrize("side", [24, 40, 60])
def test_boxes_are_told_by_their_marks(side: int) -> None:
    marks = ("ticked", "crossed", "empty")
    _, found = boxes(page(form(*marks, side=side), shift=5.0))
    assert kinds(found) == list(marks)
    for number, check in enumerate(found):
        assert check.polygon is not None
        assert not check.review
        assert np.allclose(check.polygon[3], (65, 65 + side + 100 * number), atol=3)  # a tick may stick out above


def test_boxes_and_marks_are_taken_off_and_the_words_stay() -> None:
    marks = ("ticked", "crossed", "empty")
    image, _ = boxes(page(form(*marks)))
    plain = form(*marks)
    assert int(image.pixels[:, :112].min()) > 200
    np.testing.assert_array_equal(image.pixels[:, 130:], plain[:, 130:])


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("behind its label", (320, 85, 360, 125)),
        ("wide", (60, 60, 160, 100)),
        ("as large as the page", (20, 20, 580, 380)),
        ("in a word", (170, 88, 205, 123)),
    ],
)
def test_other_frames_stay(name: str, corners: tuple[int, int, int, int]) -> None:
    pixels = np.full((400, 600, 3), 245, np.uint8)
    cv2.putText(pixels, "oral", (210, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 3)
    cv2.putText(pixels, "per", (100, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 3)
    cv2.rectangle(pixels, corners[:2], corners[2:], INK, 2)
    image, found = boxes(page(pixels))
    assert found == ()
    assert image.pixels is pixels


def test_a_square_character_on_a_crop_stays() -> None:
    pixels = np.full((60, 60, 3), 245, np.uint8)
    cv2.rectangle(pixels, (12, 12), (46, 46), INK, 3)
    assert boxes(page(pixels))[1] == ()


@pytest.mark.parametrize("inside", ["", "4", "A"])
def test_a_box_to_fill_in_stays(inside: str) -> None:
    pixels = np.full((300, 600, 3), 245, np.uint8)
    cv2.rectangle(pixels, (200, 100), (250, 150), INK, 2)
    for x, text in ((80, "3 +"), (212, inside), (290, "= 7")):
        cv2.putText(pixels, text, (x, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 2)
    image, found = boxes(page(pixels))
    assert found == ()
    assert image.pixels is pixels


def test_writing_in_a_box_stays() -> None:
    pixels = np.full((300, 600, 3), 245, np.uint8)
    cv2.putText(pixels, "Losartan", (290, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 2)
    cv2.rectangle(pixels, (200, 100), (250, 150), INK, 2)
    cv2.putText(pixels, "4", (212, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.2, INK, 2)
    assert boxes(page(pixels))[1] == ()


def test_a_blot_is_none() -> None:
    pixels = np.full((300, 300, 3), 250, np.uint8)
    cv2.rectangle(pixels, (100, 100), (140, 140), INK, -1)
    assert boxes(page(pixels))[1] == ()


def test_a_blank_page_has_none() -> None:
    pixels = np.full((300, 300, 3), 250, np.uint8)
    assert boxes(page(pixels))[1] == ()


def test_boxes_on_a_dark_page_are_found() -> None:
    marks = ("ticked", "crossed", "empty")
    image, found = boxes(page(255 - form(*marks)))
    assert kinds(found) == list(marks)
    assert int(image.pixels[:, :112].max()) < 60


@pytest.mark.parametrize("paper", [95, 110])
def test_boxes_on_dim_paper_are_found(paper: int) -> None:
    marks = ("ticked", "crossed", "empty")
    dim = (form(*marks).astype(np.float32) * paper / 245).astype(np.uint8)
    assert kinds(boxes(page(dim))[1]) == list(marks)


@pytest.mark.parametrize("angle", [0.0, 5.0, 180.0])
def test_labels_are_found_on_a_turned_photograph(angle: float) -> None:
    back = cmath.rect(1, math.radians(angle))

    def turned(polygon: Polygon) -> Polygon:
        points = [complex(x, y) * back for x, y in polygon]
        return tuple((point.real, point.imag) for point in points)

    texts = ("Fever above 39 degrees in the night", "Rash on the arms and on both the legs")
    lines = [line(text, n, (60, 60.0 * n, 700, 60.0 * n + 30)) for n, text in enumerate(texts)]
    corners = [((20, top), (44, top), (44, top + 24), (20, top + 24)) for top in (3.0, 63.0)]
    checks = tuple(Check("box_ticked", "a box to tick, ticked", (), False, turned(one)) for one in corners)
    made = Page(
        "p", "0" * 64, 800, 400, angle, tuple(replace(one, polygon=turned(one.polygon)) for one in lines), checks=checks
    )
    assert [check.places[0].line for check in labelled(made).checks] == ["l000", "l001"]


def test_a_box_has_the_words_on_its_right_as_its_label() -> None:
    def box(kind: str, left: float, top: float) -> Check:
        corners = ((left, top), (left + 20, top), (left + 20, top + 20), (left, top + 20))
        return Check(f"box_{kind}", f"a box to tick, {kind}", (), False, corners)

    lines = (line("dry cough Fever", 0, (40, 0, 190, 30)), line("Rash", 1, (40, 60, 90, 90)))
    checks = (box("ticked", 10, 4), box("empty", 122, 4), box("crossed", 10, 64), box("empty", 10, 200))
    made = labelled(Page("p", "0" * 64, 300, 300, lines=lines, checks=checks))
    found = [[made.lines[int(p.line[1:])].text[p.start : p.end] for p in check.places] for check in made.checks]
    assert found == [["dry cough"], ["Fever"], ["Rash"], []]
    assert labelled(made) == made
    edited = made.edit(Place("l001", 0, 4), "Rashes", "me")
    assert [check.places for check in edited.checks] == [()] * 4  # the boxes stay, and their labels are found anew
    (place,) = labelled(edited).checks[2].places
    assert place == Place("l001", 0, 6)
