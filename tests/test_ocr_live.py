"""The OCR room with the real models: facts that hold for any version of them, not strings."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusion import ocr
from fusion.config import IntakeConfig, OcrConfig
from fusion.ctc import Views
from fusion.ink import InkLine, PageImage, image_sha256
from fusion.intake import open_pages
from fusion.ocr import OcrReader, _sized
from fusion.ocr.onnx import COLUMN, HEIGHT

pytestmark = pytest.mark.live

SAMPLES = Path(__file__).parent.parent / "eval" / "samples"
LINES = {
    "forecast_gap.png": 1,
    "homework_zh.jpg": 6,
    "letter_en_skewed.jpg": 5,
    "note_zh.jpg": 2,
    "prescription.jpg": 7,
    "report_gap.png": 1,
    "two_columns.png": 8,
}
Read = dict[str, tuple[PageImage, tuple[InkLine, ...]]]


@pytest.fixture(scope="session")
def reader() -> Iterator[OcrReader]:
    reader = OcrReader(OcrConfig())
    yield reader
    reader.close()


def sample(name: str, *, crop: bool = False) -> PageImage:
    (page,) = open_pages(SAMPLES / name, IntakeConfig(), crop=crop)
    return page


@pytest.fixture(scope="session")
def read(reader: OcrReader) -> Read:
    pages = {name: sample(name) for name in LINES}
    return {name: (page, reader.read(page)) for name, page in pages.items()}


def page_of(pixels: NDArray[np.uint8]) -> PageImage:
    return PageImage("made here", "0" * 64, pixels, pixels, np.eye(3))


def texts(lines: tuple[InkLine, ...]) -> list[str]:
    return [line.reading.text for line in lines if line.reading is not None]


def views(line: InkLine) -> Views:
    assert isinstance(line.ink, Views)
    return line.ink


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINES)
def test_every_written_line_is_found_once(read: Read, name: str) -> None:
    lines = read[name][1]
    assert len(lines) == LINES[name]
    assert [line.id for line in lines] == [f"l{number:03d}" for number in range(len(lines))]


@pytest.mark.parametrize("name", LINES)
def test_every_polygon_lies_on_the_page_and_starts_at_the_top_left(read: Read, name: str) -> None:
    page, lines = read[name]
    height, width = page.pixels.shape[:2]
    for line in lines:
        corners = np.array(line.polygon)
        assert corners.shape == (4, 2)
        assert (corners >= -1).all()
        assert (corners <= (width + 1, height + 1)).all()
        along, down = corners[1] - corners[0], corners[3] - corners[0]
        assert along[0] > abs(along[1])
        assert down[1] > abs(down[0])


@pytest.mark.parametrize("name", LINES)
def test_a_reading_is_whole(read: Read, name: str) -> None:
    for line in read[name][1]:
        reading = line.reading
        assert reading is not None
        assert reading.source == "ocr"
        assert reading.text == reading.raw
        assert unicodedata.is_normalized("NFC", reading.text)
        assert "".join(p.candidates[0].text for p in reading.positions if not p.optional) == reading.text
        assert reading.recipe.engine == "pp-ocr/onnx"
        assert (reading.recipe.model or "").startswith("PP-OCRv6_small_rec@")
        assert reading.recipe.image_sha256 == image_sha256(line.crop)
        assert reading.score is not None
        assert reading.score <= 0
        assert len(reading.nbest) <= 20
        assert len({h.text.casefold() for h in reading.nbest}) == len(reading.nbest)
        assert reading.text.casefold() in {h.text.casefold() for h in reading.nbest}
        assert 0 < views(line).quality <= 1


@pytest.mark.parametrize("name", LINES)
def test_positions_lie_on_the_crop_and_go_from_left_to_right(read: Read, name: str) -> None:
    for line in read[name][1]:
        assert line.reading is not None
        height, width = line.crop.shape[:2]
        late = 3 * COLUMN * height / HEIGHT  # the network writes up to some columns after the ink, into the padding
        places = line.reading.positions
        assert all(0 <= p.left < p.right <= width + late and p.left < width for p in places)
        assert all(a.right <= b.left + 1e-6 for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("name", LINES)
def test_ink_answers_about_the_reading_and_about_strangers(read: Read, name: str) -> None:
    for line in read[name][1]:
        assert line.reading is not None
        assert line.ink is not None
        own, shouted, stranger = line.ink.score([line.reading.text, line.reading.text.upper(), "qqqq"])
        assert own == pytest.approx(line.reading.score)
        assert shouted == pytest.approx(own)
        assert stranger < own - 10
        places = line.ink.place(line.reading.text)
        assert len(places) == len(line.reading.text)
        assert all(a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(places))


def test_two_columns_of_sums_are_read_left_column_first(read: Read) -> None:
    digits = ["".join(c for c in text if c.isdigit()) for text in texts(read["two_columns.png"][1])]
    assert digits == ["8715", "1468", "9327", "3649", "251742", "502822", "7854", "6397"]  # 7×8=54 is written so


def test_a_wrong_sum_is_read_as_it_is_written(read: Read) -> None:
    assert any(text.endswith("7+5=13") for text in texts(read["homework_zh.jpg"][1]))


def test_a_photographed_letter_is_read_from_top_to_bottom(read: Read) -> None:
    firsts = [text.split()[0].casefold() for text in texts(read["letter_en_skewed.jpg"][1])]
    assert [word.strip(",") for word in firsts] == ["dear", "found", "could", "to", "yours"]


def test_a_page_reads_the_same_twice_and_after_other_pages(reader: OcrReader, read: Read) -> None:
    page, lines = read["homework_zh.jpg"]
    again = reader.read(page)
    assert [line.reading for line in again] == [line.reading for line in lines]
    assert [line.polygon for line in again] == [line.polygon for line in lines]


def test_pages_may_be_read_from_several_threads_at_once(reader: OcrReader, read: Read) -> None:
    names = ("note_zh.jpg", "two_columns.png", "report_gap.png")
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda name: reader.read(read[name][0]), names))
    for name, lines in zip(names, together, strict=True):
        assert [(line.polygon, line.reading) for line in lines] == [
            (line.polygon, line.reading) for line in read[name][1]
        ]


def test_the_page_is_not_written_to(reader: OcrReader) -> None:
    page = sample("note_zh.jpg")
    before = page.pixels.copy()
    reader.read(page)
    assert np.array_equal(page.pixels, before)


# --- squashed words -----------------------------------------------------------------------------------------------


def test_a_squashed_word_is_read_at_several_widths_and_best_stretched(reader: OcrReader) -> None:
    page = sample("word_squashed.png", crop=True)
    (line,) = reader.read(page, crop=True)
    looks = views(line).posteriors
    plain_px = COLUMN * page.pixels.shape[0] / HEIGHT
    assert len(looks) > 1
    assert looks[0].column_px < 0.8 * plain_px
    assert [look.quality for look in looks] == sorted((look.quality for look in looks), reverse=True)
    assert line.reading is not None
    assert "Amlodipine" in [h.text for h in line.reading.nbest]
    plain = OcrReader(OcrConfig(poor=0.0, cramped=0.0))
    try:
        (unstretched,) = plain.read(page, crop=True)
    finally:
        plain.close()
    assert len(views(unstretched).posteriors) == 1
    assert views(unstretched).posteriors[0].column_px == pytest.approx(plain_px, rel=0.02)
    assert views(unstretched).best.quality < looks[0].quality


@pytest.mark.parametrize("stretches", [(), (2.25,), (1.5, 2.25, 3.0, 4.0)])
def test_both_recognisers_look_at_a_squashed_word_at_the_same_widths(stretches: tuple[float, ...]) -> None:
    reader = OcrReader(OcrConfig(stretches=stretches))
    try:
        (line,) = reader.read(sample("word_squashed.png", crop=True), crop=True)
    finally:
        reader.close()
    assert isinstance(line.hand_ink, Views)
    widths = [sorted(look.column_px for look in ink.posteriors) for ink in (views(line), line.hand_ink)]
    assert widths[0] == widths[1]
    assert len(widths[0]) == min(3, 1 + len(stretches))
    assert [look.quality for look in line.hand_ink.posteriors] == sorted(
        (look.quality for look in line.hand_ink.posteriors), reverse=True
    )


@pytest.mark.parametrize(
    ("name", "turns"),  # Chinese on its side may be vertical writing
    [
        *itertools.product(["two_columns.png", "prescription.jpg"], range(4)),
        ("homework_zh.jpg", 0),
        ("homework_zh.jpg", 2),
    ],
)
def test_the_way_up_is_found_however_a_page_lies(reader: OcrReader, name: str, turns: int) -> None:
    lying = page_of(np.ascontiguousarray(np.rot90(sample(name).pixels, -turns)))
    assert reader.turns(lying, reader.read(lying)) == turns


@given(
    sides=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    factor=st.sampled_from((1.0, 1.5, 2.25, 3.0)),
    rule=st.data(),
)
def test_a_high_crop_is_shrunk_with_all_its_rows(sides: tuple[int, int], factor: float, rule: st.DataObject) -> None:
    height, width = sides
    crop = np.full((height, width, 3), 255, np.uint8)
    crop[rule.draw(st.integers(0, height - 1))] = 0  # a stroke of one row
    shown = _sized(crop, factor)
    assert shown.shape[0] == min(height, HEIGHT)
    assert shown.shape[1] == pytest.approx(factor * width * shown.shape[0] / height, abs=1.5)
    assert (255 - shown.astype(float)).mean() == pytest.approx(255 / height, rel=0.3, abs=0.3)
    assert height > HEIGHT or factor != 1.0 or shown is crop


def test_a_clear_line_is_read_once(read: Read) -> None:
    assert all(len(views(line).posteriors) == 1 for line in read["two_columns.png"][1])


# --- crops --------------------------------------------------------------------------------------------------------


def test_a_crop_is_one_line_and_reads_as_it_does_on_its_page(reader: OcrReader, read: Read) -> None:
    for line in read["two_columns.png"][1][:3]:
        (alone,) = reader.read(page_of(line.crop), crop=True)
        height, width = line.crop.shape[:2]
        assert alone.polygon == ((0, 0), (width, 0), (width, height), (0, height))
        assert np.array_equal(alone.crop, line.crop)
        assert texts((alone,)) == texts((line,))


def test_a_line_turned_by_a_right_angle_is_turned_back(reader: OcrReader, read: Read) -> None:
    line = read["two_columns.png"][1][4]
    turned = np.ascontiguousarray(np.rot90(line.crop, k=-1))  # written downwards
    (found,) = reader.read(page_of(turned), crop=True)
    height, width = turned.shape[:2]
    assert np.array_equal(found.crop, line.crop)
    assert texts((found,)) == texts((line,))
    assert found.polygon == ((width, 0), (width, height), (0, height), (0, 0))  # the line starts at the top right


def test_single_digits_stay_upright_though_they_are_tall(reader: OcrReader, read: Read) -> None:
    turned = []
    for line in read["two_columns.png"][1][4:7]:
        (text,) = texts((line,))
        assert line.ink is not None
        middles = [(left + right) / 2 for left, right in line.ink.place(text)]
        edges = [0, *((a + b) / 2 for a, b in itertools.pairwise(middles)), line.crop.shape[1]]
        for character, (left, right) in zip(text, itertools.pairwise(edges), strict=True):
            crop = np.ascontiguousarray(line.crop[:, int(left) : int(right)])
            if character.isdigit() and crop.shape[0] > 1.5 * crop.shape[1]:
                (found,) = reader.read(page_of(crop), crop=True)
                turned += [character] * (found.polygon[0] != (0, 0))
    assert not turned


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (48, 1)])
def test_a_crop_of_any_shape_is_one_line(reader: OcrReader, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    (line,) = reader.read(page_of(pixels), crop=True)
    assert line.reading is not None
    assert {tuple(corner) for corner in line.polygon} == {
        (x, y) for x in (0.0, float(shape[1])) for y in (0.0, float(shape[0]))
    }
    assert bool(line.failures) == (line.reading.text == "")


def test_a_crop_on_which_nothing_is_read_is_a_line_with_a_failure(reader: OcrReader) -> None:
    (line,) = reader.read(page_of(np.full((60, 300, 3), 235, np.uint8)), crop=True)
    assert texts((line,)) == [""]
    assert [(failure.stage, failure.kind) for failure in line.failures] == [("ocr", "empty")]
    assert line.ink is not None
    assert line.ink.score([""])[0] > line.ink.score(["word"])[0]


# --- pages without writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_page_has_no_lines(reader: OcrReader, grey: int) -> None:
    assert reader.read(page_of(np.full((600, 800, 3), grey, np.uint8))) == ()


def test_a_page_of_noise_is_read_without_harm(reader: OcrReader) -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (500, 700, 3), dtype=np.uint8)
    coarse = cv2.resize(rng.integers(0, 256, (25, 35, 3), dtype=np.uint8), (700, 500))
    for pixels in (fine, np.asarray(coarse, dtype=np.uint8)):
        for line in reader.read(page_of(pixels)):
            assert line.reading is not None
            assert min(line.crop.shape[:2]) >= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (30, 30), (4000, 40)])
def test_a_page_of_any_shape_is_read(reader: OcrReader, shape: tuple[int, int]) -> None:
    assert reader.read(page_of(np.full((*shape, 3), 240, np.uint8))) == ()


def test_lines_at_the_border_and_upside_down_do_not_crash(reader: OcrReader, read: Read) -> None:
    line = read["two_columns.png"][1][0]
    half = np.ascontiguousarray(line.crop[: line.crop.shape[0] // 2])
    for pixels in (half, np.ascontiguousarray(line.crop[::-1, ::-1])):
        reader.read(page_of(pixels))
        (found,) = reader.read(page_of(pixels), crop=True)
        assert found.reading is not None


def test_a_line_of_a_page_is_as_wide_as_it_was_written_and_a_crop_may_be_squashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = OcrConfig(poor=1.0, stretches=(1.5, 3.0), page_stretches=(2.0,))  # every line is poor
    factors: set[float] = set()
    real = ocr._wider
    monkeypatch.setattr(ocr, "_wider", lambda crop, factor, look: (factors.add(factor), real(crop, factor, look))[1])
    reader = OcrReader(config)
    reader.read(sample("note_zh.jpg"))
    assert factors == {1.0, 2.0}
    factors.clear()
    reader.read(sample("word_squashed.png", crop=True), crop=True)
    assert factors == {1.0, 1.5, 3.0}


def test_which_way_is_up_is_told_from_what_was_read(reader: OcrReader, monkeypatch: pytest.MonkeyPatch) -> None:
    page = sample("prescription.jpg")
    lines = reader.read(page)
    monkeypatch.setattr(ocr, "UPRIGHT", 1.1)  # in doubt
    seen: list[NDArray[np.uint8]] = []
    plain = OcrReader._plain
    monkeypatch.setattr(OcrReader, "_plain", lambda self, crop: (seen.append(crop), plain(self, crop))[1])
    assert reader.turns(page, lines) == 0
    crops = [line.crop for line in lines]
    assert seen
    assert not any(np.array_equal(one, crop) for one in seen for crop in crops)
    assert all(any(np.array_equal(one[::-1, ::-1], crop) for crop in crops) for one in seen)
