from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fusion.domain import strokes
from fusion.domain.places import pieces
from fusion.ink import InkLine
from fusion.ocr import marks
from fusion.ocr.marks import Marker
from fusion.page import Span
from tests.made_pages import line, page

WIDE = 40
"""Px per letter of a drawn word."""


class Spread:
    """Ink that only knows where letters stand: one after the other, equally wide."""

    quality = 1.0

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        return tuple((20.0 + WIDE * n + 12, 20.0 + WIDE * n + 28) for n in range(len(text)))


def drawn(text: str, *lines: tuple[tuple[int, int], tuple[int, int]], height: int = 80) -> InkLine:
    """A word in block letters on paper, with strokes over it."""
    crop = np.full((height, WIDE * len(text) + 40, 3), 235, np.uint8)
    for number, letter in enumerate(text):
        cv2.putText(crop, letter, (24 + WIDE * number, 58), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (40, 40, 60), 4)
    for start, end in lines:
        cv2.line(crop, start, end, (40, 40, 60), 3)
    return InkLine("l000", ((0, 0),) * 4, crop, None, Spread())  # type: ignore[arg-type]


def deleted(made: InkLine, *texts: str) -> list[str]:
    made = replace(made, struck=Marker(1).look(made.crop).struck)
    spans = strokes.struck(made, [Span(text, "ocr", 0.9, "x") for text in texts])
    assert "".join(span.text for span in spans) == "".join(texts)
    return [span.text for span in spans if span.mark == "deleted"]


def test_a_word_that_is_crossed_out_is_kept_and_marked() -> None:
    assert "".join(deleted(drawn("HOUSE", ((10, 42), (228, 46))), "HOUSE")) == "HOUSE"


def test_the_span_is_cut_where_the_stroke_ends() -> None:
    found = "".join(deleted(drawn("HOUSEWARE", ((12, 44), (222, 44))), "HOUSEWARE"))
    assert found in ("HOUS", "HOUSE", "HOUSEW")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("nothing", drawn("HOUSE")),
        ("underline", drawn("HOUSE", ((18, 68), (222, 68)))),
        ("ruled line", drawn("HOUSE", ((0, 44), (240, 44)))),
        ("blank", drawn("     ")),
    ],
)
def test_what_is_not_crossed_out_stays(name: str, made: InkLine) -> None:
    assert deleted(made, "HOUSE") == []


def test_signs_that_are_strokes_are_not_crossed_out() -> None:
    made = drawn("---", ((10, 44), (150, 44)))
    assert deleted(made, "---") == []


def test_a_stretch_is_as_sure_as_its_surest_column_and_one_column_is_none() -> None:
    sure = np.array([0.1, 0.6, 0.99, 0.7, 0.1, 0.1, 0.995, 0.1, 0.6, 0.8, 0.6], np.float32)
    assert marks._stretches(sure, 44.0, lambda own: bool(own.max() >= marks.STRUCK)) == [(4.0, 16.0)]


def test_a_line_without_ink_stays() -> None:
    made = drawn("HOUSE", ((10, 42), (228, 46)))
    assert deleted(replace(made, ink=None), "HOUSE") == []


def test_a_change_in_the_middle_of_a_span_keeps_the_text() -> None:
    spans = [Span("abc", "ocr", 0.9, "x"), Span("□□", "gap", None, "y", extent=2), Span("def", "vlm", 0.5, "z")]
    assert [s.text for s in pieces(spans, [(1, 7)], lambda s: s)] == ["a", "bc", "□□", "de", "f"]


# --- inserted lines -----------------------------------------------------------------------------------------------


def test_a_small_line_on_a_large_ones_edge_is_added() -> None:
    made = page("the cat sat")
    low = line("the cat sat", 1, (0, 50, 300, 90))
    high = line("black", 0, (100, 32, 160, 54))
    both = strokes.inserted(type(made)("x", "0" * 64, 300, 300, lines=(high, low)))
    assert [[span.mark for span in one.spans] for one in both.lines] == [[""], ["added"]]  # behind its host


def test_ordinary_lines_are_not_added() -> None:
    made = page("one line", "another line", "short")
    assert strokes.inserted(made) is made
