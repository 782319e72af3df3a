"""Output: records come back as they were, pictures and reports say what the page says, and no text can break them."""

from __future__ import annotations

import base64
import doctest
import importlib
import io
import json
import re
import subprocess
import sys
import unicodedata
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from fusion import records
from fusion.errors import InputError
from fusion.output import marks
from fusion.output.compare import cer, clusters, compare_page, differing, fused_runs, page_cer
from fusion.output.console import terminal
from fusion.output.crops import crop_line, photo_scale
from fusion.output.formats import plain
from fusion.output.overlay import draw_overlay
from fusion.output.report import html
from fusion.page import SCHEMA, Failure, Hypothesis, Line, Page, Span
from fusion.review import review
from tests.sample_pages import HOMEWORK_TEXT, PRESCRIPTION_TEXT, SHA, box, homework, ocr, prescription, span, vlm
from tests.strategies import nfc_texts, pages, spans

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = Path(__file__).parents[1] / "eval" / "samples"
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def photograph(name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(SAMPLES / name).convert("RGB"))


def page_of(*lines: Line, width: int = 200, height: int = 100, name: str = "a.png") -> Page:
    return Page(name, SHA, width, height, lines=lines)


def blank(width: int = 200, height: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 200, np.uint8)


# --- records -------------------------------------------------------------------------------------------------------


@some
@given(pages())
def test_a_page_comes_back_from_its_record(page: Page) -> None:
    assert records.load_page(records.dump_page(page)) == page
    assert records.load_page(records.dump_page(page).encode()) == page


def test_the_record_is_readable_and_follows_the_dataclass() -> None:
    text = records.dump_page(homework())
    record = json.loads(text)
    assert "解题思路正确" in text  # as itself, not escaped
    assert list(record) == [field.name for field in fields(Page)]
    assert record["schema"] == SCHEMA
    assert text.count("\n") == 1  # many pages are one a row


@some
@given(pages())
def test_a_record_says_of_each_line_its_text_its_confidence_and_whether_it_needs_a_look(page: Page) -> None:
    record = page.to_dict()
    flagged = {line for _, line in review(page, page.max_error).lines}
    for line, stored in zip(page.lines, record["lines"], strict=True):
        assert (stored["text"], stored["confidence"]) == (line.text, line.confidence)
        assert stored["review"] == (line.id in flagged)
        stored["text"] = "something else"  # follows from the spans, and is read from nowhere else
    assert Page.from_dict(record) == page


def broken(change: str) -> str:
    record = json.loads(records.dump_page(prescription()))
    first = record["lines"][0]["spans"][0]
    match change:
        case "unknown key":
            record["lines"][0]["colour"] = "red"
        case "confidence over 1":
            first["confidence"] = 1.5
        case "number as text":
            record["width"] = "1200"
        case "not NFC":
            first["text"] = "e\u0301"
        case "unknown source":
            first["source"] = "guess"
        case "missing field":
            del record["image_sha256"]
        case "line without anything":
            record["lines"][0]["spans"] = []
        case "other schema":
            record["schema"] = "fusion.page/0"
        case "no schema":
            del record["schema"]
        case "a list":
            record = [record]
        case "no width":
            record["width"] = 0
        case "angle that is no number":
            record["angle"] = float("nan")
        case "limit over 1":
            record["max_error"] = 5
        case "empty id":
            record["id"] = ""
        case "same line twice":
            record["lines"].append(record["lines"][0])
        case "cut off":
            return records.dump_page(prescription())[:-30]
    return json.dumps(record)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("unknown key", "lines.0.colour"),
        ("confidence over 1", "lines.0.spans.0: .*1.5"),
        ("number as text", "width"),
        ("not NFC", "lines.0.spans.0: .*NFC"),
        ("unknown source", "lines.0.spans.0.source"),
        ("missing field", "image_sha256"),
        ("line without anything", "lines.0: .*l000"),
        ("other schema", "fusion.page/0"),
        ("no schema", "names no schema"),
        ("a list", "names no schema"),
        ("no width", "0 x 900 px"),
        ("angle that is no number", "not finite"),
        ("limit over 1", "max_error 5"),
        ("empty id", "a page has an id"),
        ("same line twice", "not unique"),
        ("cut off", "not JSON"),
    ],
)
def test_a_wrong_record_is_refused_by_name(change: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        records.load_page(broken(change), name="run/a.json")
    assert str(caught.value).startswith("run/a.json: ")
    assert "Inkwell" not in str(caught.value)  # a message may end up in a log; the page's text must not


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InputError, match="not JSON"):
        records.load_page(b"\xff\xfe{}")


def test_an_infinite_score_is_not_written_as_unknown() -> None:
    reading = replace(ocr("x"), nbest=(Hypothesis("x", float("-inf")),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.dump_page(page_of(Line("l0", box(0, 0, 9, 9), 0, (reading,), (span("x"),))))


def test_the_schema_is_the_model() -> None:
    schema = records.page_schema()
    assert set(schema["properties"]) == {field.name for field in fields(Page)}
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert {"Line", "Span", "Reading", "Failure", "Finding", "Recipe"} <= set(schema["$defs"])
    assert all(d["additionalProperties"] is False for d in [schema, *schema["$defs"].values()])
    assert {"text", "confidence", "review"} <= set(schema["$defs"]["Line"]["required"])
    assert "supplied" in schema["$defs"]["Span"]["properties"]["source"]["enum"]


# --- text ----------------------------------------------------------------------------------------------------------


def test_three_transcripts() -> None:
    rows = plain(homework()).splitlines()
    assert rows[3] == "答 一共有[13]个球"
    assert plain(homework(), diplomatic=True).splitlines()[3] == "答 一共有□□个球"
    assert plain(prescription()).splitlines()[5:] == ["1 tab □id prn", "[---]"]


# --- comparison ----------------------------------------------------------------------------------------------------


@some
@given(nfc_texts(), nfc_texts())
def test_runs_are_the_text_and_differ_where_it_differs(text: str, other: str) -> None:
    runs = differing(text, other)
    assert "".join(run for run, _ in runs) == text
    assert not any(new for _, new in differing(text, text))
    same = "".join(run for run, new in runs if not new)
    assert same == "".join(run for run, new in differing(other, text) if not new)


@some
@given(spans(), nfc_texts())
def test_runs_of_spans_tile_the_spans(decided: tuple[Span, ...], seen: str) -> None:
    assert tuple(one for one, _ in fused_runs(decided, seen)) == decided
    for one, runs in fused_runs(decided, seen):
        assert "".join(run for run, _ in runs) == one.text


def test_a_line_is_compared_with_the_ocr_alone() -> None:
    found = compare_page(prescription(), PRESCRIPTION_TEXT)
    assert [c.number for c in found if c.changed] == [3, 5, 6]
    third, last = found[2], found[6]
    assert third.ocr == "1. Amoxicillm 500 mg"
    assert third.vlm == (("informed-en", "1. Amoxicillin 500mg"), ("blind-en", "1. Amoxicillin 500 mg"))
    assert third.line.text == third.reference == "1. Amoxicillin 500 mg"
    assert (last.ocr, last.vlm, last.line) == (None, (), prescription().lines[6])


def test_rows_are_paired_only_when_their_number_fits() -> None:
    fewer = "\n".join(HOMEWORK_TEXT.splitlines()[1:])
    assert all(c.reference is None for c in compare_page(homework(), fewer))
    spaced = HOMEWORK_TEXT.replace("\n", "\n\n")
    assert [c.reference for c in compare_page(homework(), spaced)] == HOMEWORK_TEXT.splitlines()


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("abc", "abc", (0, 3)),
        ("abc", "", (3, 3)),
        ("", "ab", (2, 0)),
        ("第2步", "第二步", (1, 3)),
        ("👩‍⚕️ok", "ok", (1, 3)),
        ("\u00e9", "e\u0301", (0, 1)),
        ("Mg", "mg", (1, 2)),
    ],
)
def test_cer_counts_grapheme_clusters(reference: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert cer(reference, hypothesis) == expected


@some
@given(nfc_texts(), nfc_texts())
def test_cer_does_not_depend_on_the_unicode_form(a: str, b: str) -> None:
    assert cer(a, b) == cer(unicodedata.normalize("NFD", a), b)
    assert cer(a, a) == (0, len(clusters(a)))


def test_page_cer_pools_over_the_whole_page() -> None:
    errors = page_cer(homework(), HOMEWORK_TEXT)
    # OCR: one space, 笫 for 第, □ for 13. Fused: none left.
    assert (errors.ocr, errors.fused, errors.length) == (4, 0, len(HOMEWORK_TEXT))
    rearranged = HOMEWORK_TEXT.replace("\n", "  ")
    assert page_cer(homework(), rearranged) == errors  # where rows break is not what is measured here
    # OCR: m for in, n for m, the missing n; fused: □ for q. Both: line 7 and the space before it.
    missed = page_cer(prescription(), PRESCRIPTION_TEXT)
    assert (missed.ocr, missed.fused) == (2 + 1 + 1 + 20, 1 + 20)
    assert (errors + missed).length == len(HOMEWORK_TEXT) + len(PRESCRIPTION_TEXT)


# --- crops ---------------------------------------------------------------------------------------------------------


def test_a_turned_line_is_cut_out_level() -> None:
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[20:80, 40:60] = (255, 0, 0)
    photo[20:30, 40:60] = (0, 0, 255)  # the line starts here and runs downwards
    crop = crop_line(photo, ((60, 20), (60, 80), (40, 80), (40, 20)), (1.0, 1.0))
    assert crop.shape[1] > 2.5 * crop.shape[0]
    middle = crop[crop.shape[0] // 2]
    assert middle[8][2] > 200
    assert middle[40][0] > 200


def test_a_polygon_without_area_has_no_crop() -> None:
    assert crop_line(blank(), ((5, 5), (5, 5), (5, 5), (5, 5)), (1.0, 1.0)).size == 0
    assert crop_line(blank(), (), (1.0, 1.0)).size == 0
    assert crop_line(blank(), box(-1e7, -1e7, 1e7, 1e7), (1.0, 1.0)).shape[0] < 6000


def test_another_photograph_is_refused() -> None:
    page = page_of()
    assert photo_scale(blank(100, 50), page) == (0.5, 0.5)
    for photo in (blank(100, 200), blank()[..., 0], blank().astype(np.float32)):
        with pytest.raises(InputError, match=r"a\.png"):
            draw_overlay(photo, page)


# --- overlay -------------------------------------------------------------------------------------------------------


def drawn(page: Page, photo: NDArray[np.uint8] | None = None) -> ET.Element:
    return ET.fromstring(draw_overlay(photo if photo is not None else blank(page.width, page.height), page))


def region(source: str, confidence: float | None = 0.9) -> ET.Element:
    """The polygon of a span."""
    extent = 1 if source in ("gap", "supplied") else 0
    text = "□" if source == "gap" else "x"
    made = span(text, source, confidence, "rule", at=box(60, 30, 160, 80), extent=extent)  # type: ignore[arg-type]
    return drawn(page_of(Line("l0", box(60, 30, 160, 80), 0, spans=(made,)))).findall(f".//{SVG}polygon")[1]


@pytest.mark.parametrize("source", list(marks.MARKS))
def test_each_source_has_its_look(source: str) -> None:
    shape = region(source)
    assert shape.attrib["class"] == source
    assert shape.attrib["points"] == "60,30 160,30 160,80 60,80"
    assert marks.MARKS[source].label in (shape.findtext(f"{SVG}title") or "")  # type: ignore[index]
    style = drawn(page_of()).findtext(f"{SVG}style") or ""
    assert marks.MARKS[source].colour in style  # type: ignore[index]
    assert ".gap { fill: none }" in style  # nobody may take a tint for a reading


def test_confidence_is_opacity_and_unknown_is_not_zero() -> None:
    weak, strong = (float(region("vlm", sure).attrib["fill-opacity"]) for sure in (0.1, 0.9))
    assert 0 < weak < strong < 0.5  # ink stays readable
    assert region("vlm", None).attrib["fill-opacity"] == "0"
    assert "dashed" in region("vlm", None).attrib["class"]
    assert float(region("vlm", 0.0).attrib["fill-opacity"]) > 0


def test_the_overlay_is_the_photograph_with_what_was_read_drawn_on_it() -> None:
    photo = photograph("prescription.jpg")
    root = drawn(prescription(), photo)
    image = root.find(f"{SVG}image")
    assert image is not None
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.attrib["href"].partition(",")[2]))))
    assert np.abs(kept.astype(int) - photo).mean() < 3
    labels = [text.text for text in root.iter(f"{SVG}text")]
    assert [label for label in labels if label and label[0].isdigit()] == ["1", "2", "3", "4", "5", "6", "7!"]
    assert {"O", "V", "L", "H", "G"} <= set(labels)
    outlines = [shape for shape in root.iter(f"{SVG}polygon") if shape.attrib["class"] == "gap dashed"]
    assert len(outlines) == 1  # the line that nobody read


@few
@given(pages())
def test_any_page_can_be_drawn(page: Page) -> None:
    assert drawn(page).attrib["viewBox"] == f"0 0 {page.width} {page.height}"


# --- report --------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Reads a report back: balanced tags, all attributes, all text."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.inside: dict[str, list[str]] = {"del": [], "ins": [], "mark": []}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)

    def attributes(self, name: str) -> list[str]:
        return [values[name] for _, values in self.tags if name in values]


@pytest.fixture(scope="module")
def report() -> Reader:
    both = [(prescription(), photograph("prescription.jpg")), (homework(), photograph("homework_zh.jpg"))]
    references = {"prescription.jpg": PRESCRIPTION_TEXT, "homework_zh.jpg": HOMEWORK_TEXT}
    return Reader(html(both, "Two pages", references=references))


def test_the_report_is_one_file_without_script(report: Reader) -> None:
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in report.tags}
    assert all(re.match(r"data:image/(jpeg|svg\+xml);base64,", src) for src in report.attributes("src"))
    assert all(href.startswith("#") for href in report.attributes("href"))
    assert {href[1:] for href in report.attributes("href")} <= set(report.attributes("id"))
    assert not any(name.startswith("on") for _, values in report.tags for name in values)
    styles = "".join(report.text) + "".join(report.attributes("style"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert len("".join(report.attributes("src"))) < 2_000_000


def test_the_report_shows_every_line_as_a_crop(report: Reader) -> None:
    crops = [values for tag, values in report.tags if tag == "img" and values["alt"].startswith("Line")]
    assert len(crops) == 13
    picture = Image.open(io.BytesIO(base64.b64decode(crops[2]["src"].partition(",")[2])))
    assert picture.width > 3 * picture.height


def test_the_report_marks_differences_and_says_why(report: Reader) -> None:
    assert "m" in report.inside["del"]
    assert "in" in report.inside["ins"]
    assert "笫" in report.inside["del"]
    assert report.inside["mark"] == ["overlined", "q", "3. Napa 120 mg/5 ml"]
    titles = report.attributes("title")
    assert "VLM · vlm_supported_by_ink · confidence 93 % · or “Amoxicillm” 5 %, “Amoxycillin” 1 %" in titles
    assert "supplied · completed_from_context · confidence 62 % · or “12” 30 %, “18” 4 %" in titles
    text = re.sub(r"\s+", " ", "".join(report.text))
    for shown in ("no answer within 60 s", "hold the camera still", "blur 41, limit 60", "repeated itself twice"):
        assert shown in text
    assert report.attributes("lang").count("zh") >= 15
    letters = {values["class"]: values["data-letter"] for _, values in report.tags if "data-letter" in values}
    assert letters["s supplied"] == "S"  # colour is not the only signal
    assert letters["s vlm"] == "V"


def test_the_report_counts_and_pools(report: Reader) -> None:
    text = re.sub(r"\s+", " ", " ".join(report.text))
    total = len(HOMEWORK_TEXT) + len(PRESCRIPTION_TEXT)
    assert f"28 → 21 of {total}" in text
    assert f"{28 / total:.3f}" in text
    assert f"{21 / total:.3f}" in text
    row = re.search(r" all ([\d .]+)", text)
    assert row is not None
    # lines, changed, agreed, ocr, vlm, lexicon, human, supplied, gap, not read
    assert row[1].split()[:10] == ["13", "6", "18", "6", "3", "1", "1", "1", "1", "1"]


def test_without_references_there_is_no_cer() -> None:
    text = html([(homework(), None)])
    assert "CER" not in text
    assert "<img" not in text


def test_a_report_keeps_no_photograph() -> None:
    seen: list[weakref.ref[NDArray[np.uint8]]] = []

    def pages() -> Iterator[tuple[Page, NDArray[np.uint8]]]:
        for _ in range(4):
            assert [one() for one in seen[:-1]] == [None] * len(seen[:-1])
            photo = photograph("homework_zh.jpg").copy()
            seen.append(weakref.ref(photo))
            yield homework(), photo

    assert html(pages()).count("data:image/svg") == 4


def test_text_of_a_page_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"
    line = Line(
        "l<b>0",
        box(10, 10, 190, 60),
        0,
        (ocr(evil), vlm(evil + "!", evil)),
        (span(evil, "vlm", 0.5, evil, {evil: 0.5}),),
        (Failure("vlm", evil, evil),),
    )
    page = replace(page_of(line, name=evil), failures=(Failure("intake", evil, evil),))
    text = html([(page, blank())], evil, references={evil: evil})
    found = Reader(text)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not found.attributes("onerror")
    assert all(src.startswith("data:") for src in found.attributes("src"))
    assert "49" not in "".join(found.text).replace("{{ 7*7 }}", "")
    assert text.count("&lt;script&gt;") >= 10
    assert found.attributes("title")[0].count("<script>") == 2  # quotes did not end the attribute


@few
@given(pages())
def test_any_page_can_be_reported(page: Page) -> None:
    photo = np.full((page.height, page.width, 3), 230, np.uint8)
    shown = "".join(Reader(html([(page, photo)], references={page.id: page.text})).text)
    for line in page.lines:
        for one in line.spans:
            if one.text.isprintable() and one.text.strip():
                assert one.text in shown


# --- terminal ------------------------------------------------------------------------------------------------------


def printed(page: Page, reference: str | None = None, *, styles: bool = False) -> str:
    console = Console(width=120, file=io.StringIO(), record=True, force_terminal=True)
    console.print(terminal(compare_page(page, reference)))
    return console.export_text(styles=styles)


def test_the_terminal_shows_readings_reasons_and_failures() -> None:
    text = printed(prescription(), PRESCRIPTION_TEXT)
    for shown in (
        "1. Amoxicillm 500 mg",
        "V “Amoxicillin” vlm_supported_by_ink 93 %; or “Amoxicillm” 5 %",
        "O “ ” unsupported_omission_rejected 71 %; or nothing 27 %",
        "not read",
        "! vlm: no answer within 60 s (timeout)",
        "lines: 7, changed by fusion: 3, gaps: 1, supplied: 0, not read: 1",
    ):
        assert shown in text
    assert "[13]" in printed(homework())
    styled = printed(prescription(), styles=True)
    assert re.search(r"\x1b\[9;31mm\x1b\[0m", styled)  # the OCR's m, struck through
    assert re.search(r"\x1b\[1;4;33min\x1b\[0m", styled)  # what stands there now: bold, underlined


def test_a_reading_cannot_write_to_the_terminal() -> None:
    evil = "[red]5[/red] \x1b]0;owned\x07mg\u202e"
    page = page_of(Line("l0", box(0, 0, 9, 9), 0, (ocr(evil), vlm("x")), (span(evil, "ocr"),)))
    text = printed(page, styles=True)
    assert "\x1b]0;" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[red]5[/red] ␛]0;owned␇mg⟨U+202E⟩" in printed(page)


# --- the room ------------------------------------------------------------------------------------------------------


def test_importing_the_room_is_cheap() -> None:
    code = (
        "import sys, fusion.output; "
        "print(sorted({'PIL', 'cv2', 'jinja2', 'pydantic', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["formats", "marks", "compare", "report"])
def test_examples_hold(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"fusion.output.{name}"))
    assert done.attempted > 0
    assert done.failed == 0
