"""Characters on squared paper: whatever the detector joined them to, those beside each other are a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.ink import InkLine
from fusion.ocr.layout import height_of, width_of
from fusion.ocr.squares import rows
from fusion.page import Candidate, Polygon, Position, Reading, Recipe

SIZE = 50.0
RECIPE = Recipe("test", "1", "none", "0" * 64)


def line(name: str, corners: np.ndarray, text: str) -> InkLine:
    """A line whose characters stand evenly from its start to its end; without text one that nobody could read."""
    polygon: Polygon = tuple((float(x), float(y)) for x, y in corners)  # type: ignore[assignment]
    step = width_of(corners) / max(1, len(text))
    places = tuple(Position(n * step, (n + 1) * step, (Candidate(c, 0.9),)) for n, c in enumerate(text))
    crop = np.zeros((max(1, round(height_of(corners))), max(1, round(width_of(corners))), 3), np.uint8)
    reading = Reading("ocr", text, RECIPE, positions=places) if text else None
    return InkLine(name, polygon, crop, reading, None)


def column(name: str, start: tuple[float, float], pitch: float, count: int) -> InkLine:
    """Characters from top to bottom; the line starts above the first, and its left side, as it is written, is on the right."""
    x, y, half = *start, SIZE / 2
    top, bottom = y - pitch / 2, y + (count - 0.5) * pitch
    return line(
        name, np.array([(x + half, top), (x + half, bottom), (x - half, bottom), (x - half, top)]), "字" * count
    )


def row(name: str, start: tuple[float, float], pitch: float, text: str) -> InkLine:
    x, y, half = *start, SIZE / 2
    left, right = x - pitch / 2, x + (max(1, len(text)) - 0.5) * pitch
    return line(name, np.array([(left, y - half), (right, y - half), (right, y + half), (left, y + half)]), text)


@given(
    across=st.floats(1.2, 3.0),
    down=st.floats(1.1, 2.0),
    slope=st.floats(-0.08, 0.08),
    sizes=st.tuples(st.integers(2, 9), st.integers(2, 8)),
    jitter=st.lists(st.floats(-0.12, 0.12), min_size=9, max_size=9),
)
def test_columns_become_the_rows_that_they_cross(
    across: float, down: float, slope: float, sizes: tuple[int, int], jitter: list[float]
) -> None:
    wide, high = sizes
    starts = [(100 + n * across * SIZE, 200 + SIZE * (n * across * slope + jitter[n])) for n in range(wide)]
    found = rows([column(f"l{n}", start, down * SIZE, high) for n, start in enumerate(starts)])
    assert len(found) == high
    for corners, sure in found:
        assert sure == 1.0
        assert width_of(corners) == pytest.approx(SIZE * ((wide - 1) * across + 1.2), rel=0.05)
        assert height_of(corners) == pytest.approx(1.2 * SIZE)
    middles = sorted(float(corners[:, 1].mean()) for corners, _ in found)
    assert np.diff(middles) == pytest.approx(down * SIZE, abs=1)


@pytest.mark.parametrize("gap", [1.3, 2.0, 3.5])
def test_lone_characters_become_rows(gap: float) -> None:
    lone = [row(f"l{n}", (100 + n % 4 * gap * SIZE, 100 + n // 4 * 90.0), SIZE, "字") for n in range(12)]
    assert [round(float(corners[:, 1].mean())) for corners, _ in rows(lone)] == [100, 190, 280]


def test_what_stands_in_rows_stays_and_other_lines_keep_their_place_and_how_sure_they_are() -> None:
    prose = [row(f"l{n}", (100, 100 + 80.0 * n), 55, "一行字一行字") for n in range(3)]
    assert rows(prose) == []
    assert rows([column("l0", (100, 100), 55, 6)]) == []
    assert rows([row("l0", (100, 100), 30, "Amoxicillin"), row("l1", (100, 200), 30, "500 mg")]) == []
    columns = [column(f"c{n}", (100 + 70.0 * n, 100), 55, 6) for n in range(4)]
    heading, unread = row("h", (100, 20), 30, "Name"), row("u", (500, 20), 30, "")
    corners, sure = zip(*rows([heading, unread, *columns]), strict=True)
    assert sure[:2] == (1.0, 0.0)
    np.testing.assert_allclose(corners[0], np.array(heading.polygon))
    np.testing.assert_allclose(corners[1], np.array(unread.polygon))
    assert len(corners) == 2 + 6
