"""Reading order and level crops: pages as a writer lays them out, and properties that hold for any regions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusion.ocr import order
from fusion.ocr.layout import cut_out, slant, upright_corners

Quad = NDArray[np.float64]


def reading_order(quads: Sequence[Quad], **known: Any) -> list[int]:
    return [index for region in order.reading_order(quads, **known) for index in region]


def box(left: float, top: float, width: float, height: float = 40) -> Quad:
    return np.array(
        [[left, top], [left + width, top], [left + width, top + height], [left, top + height]], dtype=np.float64
    )


def turned(quads: Sequence[Quad], degrees: float) -> list[Quad]:
    """Regions turned counter-clockwise (y points down) about a point of the page."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = np.array([500.0, 400.0])
    return [(quad - centre) @ turn.T + centre for quad in quads]


def shuffled(quads: Sequence[Quad], seed: int = 3) -> tuple[list[Quad], list[int]]:
    """The regions in another order, and for each its place in the reading order that is meant."""
    places = np.random.default_rng(seed).permutation(len(quads)).tolist()
    return [quads[place] for place in places], places


def order_of(quads: Sequence[Quad], seed: int = 3, sums: bool = False) -> list[int]:
    """Meant places in the order in which the regions are read; right when it counts from 0 upwards."""
    mixed, places = shuffled(quads, seed)
    return [places[index] for index in reading_order(mixed, texts=["8+7=15"] * len(mixed) if sums else ())]


# Pages, their regions in the order in which they are meant to be read.
SINGLE = [box(60, 80 + 70 * n, 820 - 90 * (n % 3)) for n in range(8)]
TWO_COLUMNS = [box(60 + 500 * (n // 6), 80 + 70 * (n % 6), 400 - 50 * (n % 3)) for n in range(12)]
UNEVEN_COLUMNS = [
    *(box(60, 80 + 70 * n, 400) for n in range(7)),
    *(box(560, 96 + 85 * n, 400) for n in range(4)),
]
HEADLINE = [
    box(100, 10, 800, 50),
    *(box(60 + 500 * (n // 5), 90 + 70 * (n % 5), 400) for n in range(10)),
    box(300, 460, 500),
]
WORDS = [box(60 + 300 * (n % 3), 80 + 70 * (n // 3) + 4 * (n % 2), 276) for n in range(12)]
SUMS = [box(80 + 400 * (n // 4), 100 + 118 * (n % 4) + (7, -5, 3)[n % 3], 190, 70) for n in range(8)]
THREE_COLUMNS = [box(40 + 340 * (n // 4), 80 + 70 * (n % 4), 240) for n in range(12)]

PAGES = {
    "single": SINGLE,
    "two_columns": TWO_COLUMNS,
    "uneven_columns": UNEVEN_COLUMNS,
    "headline": HEADLINE,
    "words": WORDS,
    "sums": SUMS,
    "three_columns": THREE_COLUMNS,
}


# --- reading order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [-5.0, -2.0, 0.0, 2.0, 5.0])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_read_as_they_are_meant_whatever_their_slant(name: str, degrees: float) -> None:
    quads = turned(PAGES[name], degrees)
    for seed in range(3):
        assert order_of(quads, seed, sums=name == "sums") == list(range(len(quads)))


def test_a_signature_under_the_right_column_does_not_break_the_columns() -> None:
    quads = [*TWO_COLUMNS, box(300, 600, 480)]
    assert order_of(quads) == list(range(len(quads)))


def test_two_blocks_of_columns_are_read_one_after_the_other() -> None:
    block = [box(60 + 500 * (n // 3), 90 + 70 * (n % 3), 400) for n in range(6)]
    quads = [*block, box(80, 320, 850), *(quad + np.array([0, 320]) for quad in block)]
    assert order_of(quads) == list(range(len(quads)))


def test_words_of_one_row_stay_together_though_the_rows_below_are_long() -> None:
    quads = [box(60, 80, 100), box(180, 84, 90), box(290, 78, 120), box(60, 150, 800), box(60, 220, 700)]
    assert order_of(quads) == [0, 1, 2, 3, 4]


def test_a_date_at_the_right_of_the_first_row_is_no_column() -> None:
    quads = [box(60, 20, 250), box(700, 22, 180), *(box(60, 90 + 70 * n, 830) for n in range(4))]
    assert order_of(quads) == list(range(len(quads)))


def test_one_note_at_the_right_makes_no_column() -> None:
    quads = [box(60, 20, 250), box(700, 22, 180), *(box(60, 90 + 70 * n, 300) for n in range(3))]
    assert order_of(quads) == list(range(len(quads)))


def test_sums_without_their_texts_are_a_grid_of_few_rows() -> None:
    """Four rows of narrow cells far apart: a table, unless each cell is a sum."""
    assert order_of(SUMS) == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_label_at_the_middle_of_its_group_comes_first() -> None:
    groups = [box(300, 60 + 60 * n, 500 - 40 * (n % 2)) for n in range(8)]
    quads = [box(60, 120, 120), *groups[:3], box(60, 360, 120), *groups[3:]]
    assert order_of(quads) == list(range(len(quads)))


def test_item_numbers_are_no_labels() -> None:
    items = [box(200, 60 + 60 * n, 500 - 40 * (n % 2)) for n in range(6)]
    quads = [box(60, 60, 60), items[0], items[1], items[2], box(60, 240, 60), items[3], items[4], items[5]]
    texts = ["1.", "a", "b", "c", "2.", "d", "e", "f"]
    assert reading_order(quads, texts=texts) == list(range(8))


def test_rows_of_a_wide_slanted_table_do_not_run_together() -> None:
    table = [box(60 + 300 * (n % 4), 80 + 50 * (n // 4), 60 + 40 * (n % 3)) for n in range(16)]
    quads = [quad + np.array([0.0, 0.03 * quad[0, 0]]) for quad in table]
    assert order_of(quads) == list(range(16))


def test_vertical_writing_is_read_from_right_to_left() -> None:
    quads = [box(700 - 120 * n, 60, 70, 500 - 90 * (n % 2)) for n in range(5)]
    assert order_of(quads) == list(range(5))


def test_a_brace_gives_what_it_embraces_to_its_label() -> None:
    quads = [box(60, 200, 150), *(box(330, 60 + 60 * n, 300) for n in range(3)), box(60, 430, 150)]
    brace = np.array([[300.0, 55.0], [300.0, 235.0]])
    assert reading_order(quads, braces=[brace]) == list(range(5))
    assert order.reading_order(quads, braces=[brace])[:2] == [[0], [1, 2, 3]]


def test_a_label_of_no_width_is_not_its_own_group() -> None:
    quads = [box(100, 100, 0), box(140, 60, 200), box(140, 140, 200)]
    brace = np.array([[100.0, 50.0], [100.0, 190.0]])
    assert sorted(reading_order(quads, braces=[brace])) == [0, 1, 2]


def test_no_region_and_one_region() -> None:
    assert reading_order([]) == []
    assert reading_order([box(3, 4, 5)]) == [0]


REGION = st.builds(
    box, st.integers(0, 900), st.integers(0, 700), st.integers(1, 600), st.sampled_from([1, 20, 40, 41, 90])
)


@settings(deadline=None)
@given(st.lists(REGION, max_size=12), st.floats(-8, 8))
def test_every_region_is_read_exactly_once(quads: list[Quad], degrees: float) -> None:
    assert sorted(reading_order(turned(quads, degrees))) == list(range(len(quads)))


@settings(deadline=None)
@given(st.lists(REGION, max_size=12, unique_by=lambda quad: quad.tobytes()), st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_detection(quads: list[Quad], random: object) -> None:
    places = list(range(len(quads)))
    random.shuffle(places)  # type: ignore[attr-defined]
    mixed = [quads[place] for place in places]
    assert [places[index] for index in reading_order(mixed)] == reading_order(quads)


@pytest.mark.parametrize("degrees", [0.0, 3.0])
def test_overlapping_regions_of_equal_height_are_ordered_by_place(degrees: float) -> None:
    quads = turned([box(60, 80, 500), box(60, 80, 520), box(90, 80, 500), box(60, 150, 480)], degrees)
    for places in itertools.permutations(range(4)):
        assert [places[index] for index in reading_order([quads[place] for place in places])] == reading_order(quads)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(PAGES)), st.floats(-3000, 3000), st.floats(0.25, 4))
def test_order_does_not_depend_on_place_or_resolution(name: str, shift: float, scale: float) -> None:
    quads = [quad * scale + shift for quad in PAGES[name]]
    assert order_of(quads, sums=name == "sums") == list(range(len(quads)))


# --- slant --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [-5.0, -1.0, 0.0, 0.5, 5.0])
def test_slant_is_measured_counter_clockwise(degrees: float) -> None:
    assert slant(turned(SINGLE, degrees)) == pytest.approx(degrees, abs=1e-6)


def test_slant_goes_by_long_lines() -> None:
    level = [box(60, 80 + 70 * n, 800) for n in range(3)]
    short = turned([box(60 + 50 * n, 500, 30) for n in range(9)], 20)  # regions without a direction of their own
    stray = turned([box(60, 600, 120)], 30)
    assert slant([*level, *short, *stray]) == pytest.approx(0.0)
    assert slant([]) == 0.0
    assert slant(short) == 0.0


# --- crops --------------------------------------------------------------------------------------------------------


def painted() -> NDArray[np.uint8]:
    """A page whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((300, 500, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 249, 500)
    pixels[..., 1] = np.linspace(0, 239, 300)[:, None]
    return pixels


@pytest.mark.parametrize("degrees", [-15.0, -5.0, 0.0, 5.0, 15.0])
def test_a_crop_is_level_and_as_large_as_its_region(degrees: float) -> None:
    angle = math.radians(degrees)
    right = np.array([math.cos(angle), -math.sin(angle)])
    down = np.array([math.sin(angle), math.cos(angle)])
    corner = np.array([120.0, 130.0])
    quad = np.array([corner, corner + 200 * right, corner + 200 * right + 60 * down, corner + 60 * down])
    crop = cut_out(painted(), quad)
    assert crop.shape == (60, 200, 3)
    assert crop.dtype == np.uint8
    for x, y in [(5, 5), (195, 5), (195, 55), (5, 55), (100, 30)]:
        on_page = corner + x * right + y * down
        assert crop[y, x, :2].astype(float) == pytest.approx(on_page * [249 / 499, 239 / 299], abs=2)


def test_a_crop_from_whole_pixels_is_a_copy_of_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    assert np.array_equal(cut_out(pixels, box(10, 5, 30, 20)), pixels[5:25, 10:40])


@pytest.mark.parametrize("quad", [box(5, 5, 0, 0), box(5, 5, 0.2, 30), box(5, 5, 30, 0.2), box(-40, -40, 20, 20)])
def test_a_crop_has_at_least_one_pixel(quad: Quad) -> None:
    crop = cut_out(painted(), quad)
    assert crop.shape[0] >= 1
    assert crop.shape[1] >= 1


def test_a_crop_over_the_border_repeats_the_border() -> None:
    crop = cut_out(painted(), box(480, 100, 40, 20))
    assert crop.shape == (20, 40, 3)
    assert (crop[:, 30:, 0] == 249).all()


# --- corners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [-30.0, -5.0, 0.0, 5.0, 30.0])
@pytest.mark.parametrize("width", [400, 60, 30], ids=["long", "short", "tall"])
def test_corners_start_at_the_top_left_and_go_clockwise_from_any_corner(width: float, degrees: float) -> None:
    (quad,) = turned([box(300, 380, width)], degrees)
    for start in range(4):
        rolled = np.roll(quad, start, axis=0)
        assert np.allclose(upright_corners(rolled), quad)
        assert np.allclose(upright_corners(rolled[::-1]), quad)


def test_corners_of_a_photographed_rectangle() -> None:
    quad = np.array([[12.0, 30], [390, 8], [402, 71], [7, 88]])
    for start in range(4):
        assert np.array_equal(upright_corners(np.roll(quad, start, axis=0)), quad)
        assert np.array_equal(upright_corners(np.roll(quad[::-1], start, axis=0)), quad)


def test_a_region_without_direction_gets_a_level_box() -> None:
    diamond = np.array([[50.0, 0.0], [100.0, 50.0], [50.0, 100.0], [0.0, 50.0]])
    np.testing.assert_allclose(upright_corners(diamond), [[0, 0], [100, 0], [100, 100], [0, 100]])
    long = turned([box(0, 0, 200)], 30)[0]
    np.testing.assert_allclose(np.sort(upright_corners(long), axis=0), np.sort(long, axis=0))
