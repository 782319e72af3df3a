"""Whole pages as people bring them: on their side, long, ruled, in columns, with notes in the margin. Drawn here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusion import Engine, Page
from fusion.config import load_config
from fusion.intake import open_pages
from fusion.intake.geometry import project, turned_back

pytestmark = pytest.mark.live

Pixels = NDArray[np.uint8]
SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
PAGES = ("prescription.jpg", "letter_en_skewed.jpg", "prescription_zh.jpg", "two_columns.png")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The OCR alone: what is tested here is what it finds, and in which order."""
    with Engine(load_config(None, ["vlm.engine=none"])) as opened:
        yield opened


def read(engine: Engine, pixels: Pixels) -> Page:
    (page,) = engine.read(pixels)
    return page


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


def drawn(size: tuple[int, int], *words: tuple[float, float, str], height: int = 36, ink: int = 30) -> Pixels:
    """A white page of this width and height with words at their places."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(height)
    for left, top, text in words:
        ImageDraw.Draw(image).text((left, top), text, font=font, fill=(ink, ink, ink))
    return np.asarray(image)


# --- squared paper ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells(engine: Engine) -> dict[str, Pixels]:
    """Characters of a sample page, cut out: drawn ones, but as different from each other as a hand's."""
    (image,) = open_pages(SAMPLES / "homework_zh.jpg", engine.config.intake)
    found = {}
    for line in (seen.line for seen in engine.look(image).lines):
        high = line.crop.shape[0]
        for place in line.reading.positions if line.reading is not None else ():
            left = max(0, round((place.left + place.right - high) / 2))
            found[place.candidates[0].text] = line.crop[:, left : left + high]
    return found


ROWS = ("解题思路正确", "计算过程有误", "请检查第二步", "我写完在检查")


def squared(cells: dict[str, Pixels], across: int, down: int, *, columns: bool = False, size: int = 60) -> Pixels:
    """A page with `ROWS` on it, one character a square; in columns from right to left if asked."""
    count, longest = len(ROWS), max(map(len, ROWS))
    wide, high = (count, longest) if columns else (longest, count)
    page = np.full((high * down + 200, wide * across + 200, 3), 235, np.uint8)
    for r, row in enumerate(ROWS):
        for c, character in enumerate(row):
            x, y = (count - 1 - r, c) if columns else (c, r)
            place = page[100 + y * down :, 100 + x * across :][:size, :size]
            place[:] = np.minimum(place, cv2.resize(cells[character], (size, size)))
    return page


def read_right(page: Page, rows: tuple[str, ...]) -> float:
    """Share of pairs of neighbours that are neighbours on the page too."""
    pairs = [pair for row in rows for pair in pairwise(row)]
    said = [pair for text in texts(page) for pair in pairwise(text)]
    return sum(pair in said for pair in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("across", "down", "quarters"),  # upside down, columns are not told from writing on its side
    [(62, 80, 0), (62, 80, 2), (100, 66, 0), (130, 70, 0), (130, 70, 2), (110, 110, 0), (140, 130, 0), (140, 130, 2)],
)
def test_rows_on_squared_paper_are_read_as_rows(
    engine: Engine, cells: dict[str, Pixels], across: int, down: int, quarters: int
) -> None:
    page = read(engine, np.ascontiguousarray(np.rot90(squared(cells, across, down), quarters)))
    assert read_right(page, ROWS) > 0.8
    first = [
        next(n for n, text in enumerate(texts(page)) if word in text) for word in ("思路", "过程", "检查第", "写完")
    ]
    assert first == sorted(first)
    joined = [one for one in page.findings if one.kind == "joined"]
    assert len(joined) == (across >= down)
    assert all(re.search(r"joined into \d+ lines.*the detector had \d+", one.message) for one in joined)


@pytest.mark.parametrize(("across", "down"), [(80, 62), (100, 66)])
def test_columns_that_make_words_stay_columns(engine: Engine, cells: dict[str, Pixels], across: int, down: int) -> None:
    assert read_right(read(engine, squared(cells, across, down, columns=True)), ROWS) > 0.8


def test_lines_of_latin_words_with_a_chinese_one_stay_whole(engine: Engine, cells: dict[str, Pixels]) -> None:
    page = drawn(
        (900, 500),
        *((80, 80 + 120 * n, "Take one") for n in range(3)),
        *((330, 80 + 120 * n, "daily with food") for n in range(3)),
    )
    page = page.copy()
    for n, character in enumerate("球白黑"):
        page[75 + 120 * n : 123 + 120 * n, 265:313] = cv2.resize(cells[character], (48, 48))
    (image,) = open_pages(page, engine.config.intake)
    found = engine._ocr.read(image)
    assert len(found) >= 3
    assert texts(read(engine, page)) == [line.reading.text for line in found if line.reading is not None]


# --- which way is up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_turned_page_is_read_as_the_upright_one(engine: Engine, name: str) -> None:
    photo = np.asarray(Image.open(SAMPLES / name).convert("RGB"))
    upright = read(engine, photo)
    for quarters in (1, 2, 3) if name == PAGES[0] else (1,):
        page = read(engine, np.ascontiguousarray(np.rot90(photo, quarters)))
        assert texts(page) == texts(upright)
        assert [finding.value for finding in page.findings if finding.kind == "turned"] == [360 - 90 * quarters]
        back = turned_back(quarters, photo.shape[1::-1])
        for line, same in zip(page.lines, upright.lines, strict=True):
            np.testing.assert_allclose(project(back, np.array(line.polygon)), np.array(same.polygon), atol=1.5)
    assert not [finding for finding in upright.findings if finding.kind == "turned"]


def test_a_crop_and_a_lone_stroke_are_never_turned(engine: Engine) -> None:
    word = drawn((260, 60), (10, 8, "Amoxicillin"))
    (page,) = engine.read(np.ascontiguousarray(np.rot90(word, 2)), crop=True)
    assert page.angle == 0
    assert read(engine, drawn((600, 300), (90, 90, "1"))).angle == 0


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_note_in_the_margin_is_read_turned(engine: Engine, quarters: int) -> None:
    page = drawn((1000, 520), *((260, 80 + 110 * n, f"the main text goes on {n}") for n in range(4))).copy()
    note = np.rot90(drawn((330, 60), (10, 8, "see page nine")), quarters)
    page[90 : 90 + note.shape[0], 60 : 60 + note.shape[1]] = note
    found = texts(read(engine, page))
    assert found[0] == "see page nine"
    assert [text for text in found if text.startswith("the main")] == [f"the main text goes on {n}" for n in range(4)]


def test_chinese_from_top_to_bottom_is_read_from_right_to_left(engine: Engine) -> None:
    """Characters of a sample line, set one under the other."""
    (image,) = open_pages(SAMPLES / "prescription_zh.jpg", load_config().intake)
    lines = [line for line in engine.look(image).lines if len(set(line.line.reading.text)) > 4]
    page, words = np.full((900, 760, 3), 255, np.uint8), []
    for number, seen in enumerate(lines[:3]):
        reading, crop = seen.line.reading, seen.line.crop
        wanted = [p for p in reading.positions if not p.optional and "\u4e00" <= p.candidates[0].text <= "\u9fff"][:5]
        words.append("".join(position.candidates[0].text for position in wanted))
        for row, position in enumerate(wanted):
            middle = round(position.left)  # a column is late by about half a character
            cell = crop[:, max(0, middle - 30) : middle + 34]
            page[60 + 115 * row :, 560 - 220 * number :][:110, :110] = cv2.resize(cell, (110, 110))
    found = read(engine, page)
    assert found.angle == 0
    assert len(words) == 3
    joined = "".join(texts(found))
    places = [min(joined.find(character) for character in word if character in joined) for word in words]
    assert places == sorted(places)
    assert sum(character in joined for word in words for character in word) >= 0.7 * sum(map(len, words))


# --- nothing lost -------------------------------------------------------------------------------------------------


def test_a_page_ten_times_as_long_as_wide_is_read_to_its_end(engine: Engine) -> None:
    rows = [(60.0, 40.0 + 90 * n, f"{n} yellow garden") for n in range(88)]
    found = texts(read(engine, drawn((800, 8000), *rows, height=32)))
    assert [text.split()[0] for text in found] == [str(n) for n in range(88)]


@pytest.mark.parametrize("digit", ["1", "4", "7", "0"])
def test_a_digit_alone_on_a_page_is_read(engine: Engine, digit: str) -> None:
    assert texts(read(engine, drawn((700, 420), (120, 130, digit), height=60))) == [digit]


# --- no writing ---------------------------------------------------------------------------------------------------


def dotted() -> Pixels:
    page = np.full((1400, 1000, 3), 255, np.uint8)
    for top in range(150, 1300, 90):
        page[top : top + 3, 80:900:9] = page[top : top + 3, 81:900:9] = page[top : top + 3, 82:900:9] = 120
    return page


def ruled() -> Pixels:
    page = np.full((1400, 1000, 3), 250, np.uint8)
    for top in range(150, 1300, 60):
        page[top : top + 2] = (150, 180, 230)
    page[:, 120:123] = (230, 140, 140)
    return page


def punched() -> Pixels:
    page = np.full((1400, 1000, 3), 250, np.uint8)
    for top in (420, 980):
        cv2.circle(page, (60, top), 22, (35, 35, 35), -1, cv2.LINE_AA)
    return page


def shown_through() -> Pixels:
    written = drawn((1000, 600), (80, 100, "this is on the other side"), (80, 200, "of a thin sheet"), ink=216)
    return np.ascontiguousarray(written[:, ::-1])


@pytest.mark.parametrize(("page", "told"), [(dotted, True), (ruled, False), (punched, False), (shown_through, True)])
def test_what_is_no_writing_becomes_no_text(engine: Engine, page: Callable[[], Pixels], told: bool) -> None:
    made = read(engine, page())
    found = [finding for finding in made.findings if finding.kind == "not_writing"]
    assert texts(made) == []
    assert found or not told
    assert all(finding.polygon is not None for finding in found)


def test_pale_writing_is_no_show_through(engine: Engine) -> None:
    assert texts(read(engine, drawn((1000, 300), (80, 100, "written with a pale pen"), ink=216))) == [
        "written with a pale pen"
    ]


@pytest.mark.parametrize("text", ["8+7=15", "take 12"])
def test_short_lines_that_show_through_are_no_writing_either(engine: Engine, text: str) -> None:
    right = drawn((600, 200), (80, 100, text), ink=216)
    assert texts(read(engine, right)) == [text]
    assert texts(read(engine, np.ascontiguousarray(right[:, ::-1]))) == []


@pytest.mark.parametrize("text", ["bd", "od", "25 ml", "52 mg", "AHA", "toot", "8008", "bob"])
def test_pale_writing_that_reads_as_well_in_the_mirror_stays(engine: Engine, text: str) -> None:
    assert texts(read(engine, drawn((600, 200), (80, 100, text), ink=216))) == [text]


# --- order --------------------------------------------------------------------------------------------------------

LEFT, RIGHT = (
    ("The cat sat on the", "mat and looked out", "of the big window"),
    ("Then the dog", "came in and bark", "so loud it ran"),
)


@pytest.mark.parametrize("gutter", [45, 150])
def test_columns_are_read_one_after_the_other_even_where_they_nearly_touch(engine: Engine, gutter: int) -> None:
    font = ImageFont.load_default(36)
    right = 60 + max(font.getlength(text) for text in LEFT) + gutter
    words = [(60.0, 80.0 + 80 * n, text) for n, text in enumerate(LEFT)]
    words += [(right, 80.0 + 80 * n, text) for n, text in enumerate(RIGHT)]
    assert texts(read(engine, drawn((1200, 480), *words))) == [*LEFT, *RIGHT]


def test_fields_are_read_in_rows(engine: Engine) -> None:
    words = [(60, 60, "Name: Ann"), (640, 60, "Age: 9"), (60, 140, "School: Hill"), (640, 140, "Class: 3B")]
    words += [(60, 260, "My cat is black"), (60, 340, "She likes fish")]
    found = read(engine, drawn((1000, 460), *words))
    assert texts(found) == [text for _, _, text in words]
    assert len({line.region for line in found.lines}) > 1


def test_a_table_is_read_by_rows(engine: Engine) -> None:
    rows = [
        ("Name", "Mon", "Tue", "Wed"),
        ("Tom", "17", "24", "35"),
        ("Ann", "90", "81", "72"),
        ("Bob", "56", "48", "63"),
    ]
    words = [(80.0 + 260 * x, 60.0 + 100 * y, text) for y, row in enumerate(rows) for x, text in enumerate(row)]
    assert texts(read(engine, drawn((1100, 480), *words, height=44))) == [text for row in rows for text in row]


def test_what_a_brace_embraces_follows_its_label(engine: Engine) -> None:
    words = [(60, 170, "Forces"), (60, 470, "Effects"), (60, 640, "The end of it")]
    words += [(340, 60 + 70 * n, text) for n, text in enumerate(("direction", "size", "point of action", "unit"))]
    words += [(340, 435 + 70 * n, text) for n, text in enumerate(("motion", "shape"))]
    page = drawn((900, 760), *words).copy()
    for top, bottom in ((70, 320), (440, 550)):
        middle = (top + bottom) // 2
        ends = np.array(
            [
                [310, top],
                [290, top + 20],
                [290, middle - 10],
                [275, middle],
                [290, middle + 10],
                [290, bottom - 20],
                [310, bottom],
            ]
        )
        cv2.polylines(page, [ends.astype(np.int32)], False, (40, 40, 40), 3, cv2.LINE_AA)
    assert texts(read(engine, page)) == [
        "Forces", "direction", "size", "point of action", "unit", "Effects", "motion", "shape", "The end of it",
    ]  # fmt: skip


# --- what lies over writing ---------------------------------------------------------------------------------------


def stamped(size: tuple[int, int], *words: tuple[float, float, str]) -> Pixels:
    """Words with a round red stamp over them; where both meet, both inks absorb."""
    page, stamp = drawn(size, *words), np.full((size[1], size[0], 3), 255, np.uint8)
    cv2.circle(stamp, (size[0] - 300, 190), 140, (215, 40, 40), 8, cv2.LINE_AA)
    cv2.putText(
        stamp, "CITY CLINIC", (size[0] - 410, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (215, 40, 40), 4, cv2.LINE_AA
    )
    return (page.astype(np.uint16) * stamp // 255).astype(np.uint8)


def test_writing_under_a_red_stamp_is_read(engine: Engine) -> None:
    words = [(80, 80, "Amoxicillin 500 mg three times daily"), (80, 170, "for seven days after every meal")]
    page = read(engine, stamped((1000, 420), *words))
    assert texts(page) == [text for _, _, text in words]
    assert "stamp" in [finding.kind for finding in page.findings]


def test_small_writing_is_read_larger_and_a_finding_says_so(engine: Engine) -> None:
    words = [(20.0, 12.0 + 18 * n, f"line {n} of small writing") for n in range(6)]
    page = read(engine, drawn((320, 130), *words, height=12))
    assert [text.split()[1] for text in texts(page)] == [str(n) for n in range(6)]
    assert "small_writing" in [finding.kind for finding in page.findings]


def test_print_is_told_from_handwriting(engine: Engine) -> None:
    printed = read(engine, drawn((900, 260), (60, 60, "Department of Medicine"), (60, 150, "Telephone and address")))
    assert all(line.printed > 0.8 for line in printed.lines)
    (image,) = open_pages(SAMPLES / "word_squashed.png", load_config().intake, crop=True)
    (hand,) = engine.look(image, crop=True).lines
    assert hand.line.printed < 0.5


# --- nothing is lost ------------------------------------------------------------------------------------------------


def test_ink_that_no_line_covers_is_a_line_or_a_finding(engine: Engine) -> None:
    page = drawn((900, 600), *((80, 60 + 70 * n, f"the text goes on and on {n}") for n in range(4))).copy()
    cv2.polylines(
        page, [np.array([(600, 480), (640, 440), (620, 500), (680, 450), (660, 500)])], False, (20, 20, 20), 4
    )
    made = read(engine, page)
    spots = [*(finding.polygon for finding in made.findings if finding.kind == "uncovered")]
    spots += [one.polygon for one in made.lines if not one.text.startswith("the")]
    assert any(cv2.pointPolygonTest(np.array(spot, np.float32), (640, 470), False) >= 0 for spot in spots if spot)


def test_boxes_to_tick_are_checks_and_no_text(engine: Engine) -> None:
    page = drawn((900, 500), (150, 64, "Fever"), (150, 164, "Cough")).copy()
    for top in (60, 160):
        cv2.rectangle(page, (60, top), (104, top + 44), (30, 30, 30), 2)
    cv2.line(page, (66, 166), (98, 198), (30, 30, 30), 3)
    cv2.line(page, (66, 198), (98, 166), (30, 30, 30), 3)
    made = read(engine, page)
    assert texts(made) == ["Fever", "Cough"]
    assert [check.kind for check in made.checks] == ["box_empty", "box_crossed"]


# --- sums -----------------------------------------------------------------------------------------------------------


def stacked(*parts: str, height: int = 40) -> Pixels:
    """Fractions (`3/4`) with a bar between their numbers, and signs at the level of the bars."""
    words, bars = [], []
    for number, part in enumerate(parts):
        left = 60 + 110 * number
        if "/" not in part:
            words.append((left + 10, 120, part))
            continue
        above, below = part.split("/")
        words += [(left + 12, 70, above), (left + 12, 160, below)]
        bars.append((left, left + 48))
    page = drawn((120 + 110 * len(parts), 300), *words, height=height).copy()
    for left, right in bars:
        cv2.line(page, (left, 140), (right, 140), (20, 20, 20), 3)
    return page


@pytest.mark.parametrize("parts", [("1/2", "+", "3/4", "=", "5/4"), ("1/7", "+", "5/7", "=", "6/7")])
def test_stacked_fractions_are_read_as_one_line(engine: Engine, parts: tuple[str, ...]) -> None:
    found = texts(read(engine, stacked(*parts)))
    assert [text.replace(" ", "") for text in found] == ["".join(parts)]


def test_a_table_of_digits_is_no_fraction(engine: Engine) -> None:
    page = drawn((500, 300), (100, 60, "3"), (220, 60, "5"), (100, 110, "7"), (220, 110, "7"), height=48)
    assert "/" not in "".join(texts(read(engine, page)))


@pytest.mark.parametrize("plus", [60, 110])
def test_a_vertical_sum_is_no_fraction(engine: Engine, plus: int) -> None:
    page = drawn(
        (600, 420), (170, 60, "1200"), (plus, 140, "+"), (196, 140, "150"), (170, 260, "1350"), height=48
    ).copy()
    cv2.line(page, (60, 232), (320, 232), (20, 20, 20), 3)
    assert "/" not in "".join(texts(read(engine, page)))


def test_a_row_whose_minus_is_not_found_stays_apart(engine: Engine) -> None:
    found = "".join(texts(read(engine, stacked("3/4", "-", "1/4", "=", "1/2")))).replace(" ", "")
    assert "3/41/4" not in found
    assert "/" not in found or "-" in found


def test_a_form_with_rules_is_no_row(engine: Engine) -> None:
    page = drawn((600, 300), (70, 80, "12"), (270, 80, "11"), (60, 150, "day"), (260, 150, "mon"), height=40).copy()
    for left in (50, 250):
        cv2.line(page, (left, 138), (left + 90, 138), (20, 20, 20), 3)
    assert "/" not in "".join(texts(read(engine, page)))
