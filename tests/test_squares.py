"""Characters on squared paper: whatever the detector joined them to, those beside each other are a row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fusion.domain.chinese import Chinese
from fusion.domain.english import English
from fusion.ink import InkLine, Language
from fusion.ocr.layout import height_of, width_of
from fusion.ocr.squares import MORE, OFF, Layout, concerned, gain, layouts
from fusion.page import Candidate, Polygon, Position, Reading, Recipe

SIZE = 50.0


def rows(lines: list[InkLine]) -> Layout:
    """The layout in rows."""
    found = layouts(lines)
    return next((one for one in found if width_of(one.quads[0]) >= height_of(one.quads[0])), Layout([], []))


def likelier(made: list[InkLine], lines: list[InkLine], languages: list[Language]) -> bool:
    return gain(made, lines, languages) > MORE


RECIPE = Recipe("test", "1", "none", "0" * 64)


def line(name: str, corners: np.ndarray, text: str) -> InkLine:
    """A line whose characters stand evenly from its start to its end; without text one that nobody could read."""
    polygon: Polygon = tuple((float(x), float(y)) for x, y in corners)  # type: ignore[assignment]
    step = width_of(corners) / max(1, len(text))
    places = tuple(Position(n * step, (n + 1) * step, (Candidate(c, 0.9),)) for n, c in enumerate(text))
    crop = np.zeros((max(1, round(height_of(corners))), max(1, round(width_of(corners))), 3), np.uint8)
    reading = Reading("ocr", text, RECIPE, positions=places) if text else None
    return InkLine(name, polygon, crop, reading, None)


def column(name: str, start: tuple[float, float], pitch: float, text: str, size: float = SIZE) -> InkLine:
    """Characters from top to bottom; the line starts above the first, and its left side, as it is written, is on the right."""
    x, y, half = *start, size / 2
    top, bottom = y - pitch / 2, y + (len(text) - 0.5) * pitch
    return line(name, np.array([(x + half, top), (x + half, bottom), (x - half, bottom), (x - half, top)]), text)


def row(name: str, start: tuple[float, float], pitch: float, text: str, size: float = SIZE) -> InkLine:
    """Characters from left to right."""
    x, y, half = *start, size / 2
    left, right = x - pitch / 2, x + (max(1, len(text)) - 0.5) * pitch
    return line(name, np.array([(left, y - half), (right, y - half), (right, y + half), (left, y + half)]), text)


@example(across=2.0, down=2.0, slope=0.0, sizes=(4, 2), jitter=[0.0, 0.117, -0.117, *[0.0] * 6])
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
    assume(all(abs(across * slope + b - a) < 0.99 * OFF for a, b in pairwise(jitter[:wide])))
    starts = [(100 + n * across * SIZE, 200 + SIZE * (n * across * slope + jitter[n])) for n in range(wide)]
    apart, found = rows([column(f"l{n}", start, down * SIZE, "字" * high) for n, start in enumerate(starts)])
    assert apart == list(range(wide))
    assert len(found) == high
    for corners in found:
        assert width_of(corners) == pytest.approx(SIZE * ((wide - 1) * across + 1.2), rel=0.05)
        assert height_of(corners) == pytest.approx(1.2 * SIZE)
    middles = sorted(float(corners[:, 1].mean()) for corners in found)
    assert np.diff(middles) == pytest.approx(down * SIZE, abs=1)


@pytest.mark.parametrize("gap", [1.3, 2.0, 3.5])
@pytest.mark.parametrize("said", ["字", "字，", "字字"])  # a character may be misread as two
def test_lone_characters_become_rows(gap: float, said: str) -> None:
    lone = [row(f"l{n}", (100 + n % 4 * gap * SIZE, 100 + n // 4 * 90.0), SIZE / len(said), said) for n in range(12)]
    assert [round(float(corners[:, 1].mean())) for corners in rows(lone)[1]] == [100, 190, 280]


def test_a_title_is_no_part_of_smaller_writing_and_is_not_cut() -> None:
    title = [row(f"t{n}", (150 + 170.0 * n, 100), 130, c, size=130) for n, c in enumerate("作文题")]
    squared = [column(f"c{n}", (120 + 80.0 * n, 260), 60, "一二三四五六") for n in range(6)]
    _, found = rows([*title, *squared])
    tall = [corners for corners in found if height_of(corners) > 100]
    assert len(tall) == 1
    assert width_of(tall[0]) == pytest.approx(2 * 170 + 1.2 * 130)
    assert len(found) == 1 + 6


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [row(f"l{n}", (100, 100 + 80.0 * n), 55, "一行字一行字") for n in range(3)],
        [column("l0", (100, 100), 55, "一行字一行字")],
        [row("l0", (100, 100), 30, "Amoxicillin"), row("l1", (100, 200), 30, "500 mg")],
        [row(f"l{n}", (100, 100 + 80.0 * n), 30, f"take {n} 片 daily") for n in range(3)],
        [row(f"l{n}", (100 + 400.0 * n, 100), 40, c) for n, c in enumerate("男女")],
        [*(row(f"l{n}", (100, 200.0 + 80 * n), 30, "two tablets") for n in range(3)), *(row(f"h{n}", (90.0 * n, 50), 40, "片") for n in range(3))],
        [row("u", (100, 100), 30, ""), column("c", (300, 100), 55, "一二三")],
        [column(f"c{n}", (60.0 * n, 100), 55, "字" * 40) for n in range(26)],
    ],
    ids=["none", "prose", "one column", "Latin", "mixed", "far apart", "few of many", "unread", "too many"],
)  # fmt: skip
def test_what_does_not_stand_apart_is_not_taken_apart(lines: list[InkLine]) -> None:
    assert layouts(lines) == []


def test_a_couplet_stays_beside_its_banner() -> None:
    banner = [row(f"b{n}", (200 + 100.0 * n, 50), 50, c) for n, c in enumerate("万象更新")]
    couplet = [column("r", (800, 100), 60, "天增岁月人增寿"), column("l", (50, 100), 60, "春满乾坤福满门")]
    apart, found = rows([*banner, *couplet])
    assert apart == [0, 1, 2, 3]
    assert len(found) == 1


def test_lone_characters_are_joined_to_rows_and_to_columns() -> None:
    lone = [row(f"l{n}", (100 + n % 4 * 100.0, 100 + n // 4 * 110.0), SIZE, "字") for n in range(12)]
    across, down = layouts(lone)
    assert sorted(round(float(quad[:, 1].mean())) for quad in across.quads) == [100, 210, 320]
    assert sorted(round(float(quad[:, 0].mean())) for quad in down.quads) == [100, 200, 300, 400]
    assert all(quad[0].sum() == quad.sum(axis=1).min() for quad in down.quads)


def test_only_lines_that_stand_apart_are_taken_apart() -> None:
    lines = [
        row("h", (100, 20), 30, "Name"),
        *(column(f"c{n}", (100 + 70.0 * n, 100), 55, "一二三四五六") for n in range(4)),
    ]
    assert rows(lines)[0] == [1, 2, 3, 4]


# --- which is likelier --------------------------------------------------------------------------------------------

CHINESE = Chinese()


def lines_of(*texts: str) -> list[InkLine]:
    return [row(str(n), (0, 0), 50, text) for n, text in enumerate(texts)]


POEM = ("床前明月光", "疑是地上霜", "举头望明月", "低头思故乡")


def crossed(texts: tuple[str, ...]) -> list[str]:
    return ["".join(characters) for characters in zip(*texts, strict=True)]


@pytest.mark.parametrize("texts", [POEM, ("當我們樂觀開朗", "心存善念的時候", "容貌也就自然地")])
def test_what_makes_more_words_is_likelier(texts: tuple[str, ...]) -> None:
    assert likelier(lines_of(*texts), lines_of(*crossed(texts)), [CHINESE])
    assert not likelier(lines_of(*crossed(texts)), lines_of(*texts), [CHINESE])


@given(st.lists(st.text("王梓涵沐李雨萱妍陶侃禧睿的一", min_size=1, max_size=6), min_size=1, max_size=5))
def test_nothing_is_gained_by_parting_lines_or_leaving_characters_out(texts: list[str]) -> None:
    whole = lines_of(*texts)
    assert not likelier(lines_of(*"".join(texts)), whole, [CHINESE])
    assert not likelier(lines_of(*(text[:-1] for text in texts)), whole, [CHINESE])  # a sixth or more
    assert not likelier(whole, whole, [CHINESE])


def test_only_languages_that_lines_may_be_in_tell_rows_from_columns() -> None:
    assert concerned(lines_of("床", "前"), [English(), CHINESE]) == [CHINESE]
    assert concerned(lines_of("床", "前"), [English()]) == []
