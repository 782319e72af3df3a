"""Formats: files keep to their schemas, evidence survives in them, nothing supplied is read out of them, and corrections come back."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from lxml import etree, html
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from PIL import Image, ImageOps
from typer.testing import CliRunner

from fusion import cli, records
from fusion.config import load_config
from fusion.domain import open_profile
from fusion.errors import ConfigError, InputError
from fusion.formats import Format
from fusion.output.edits import Edited, corrections_of, seen
from fusion.output.formats import Sheet, content
from fusion.output.labelstudio import task_edits
from fusion.output.pagexml import page_edits
from fusion.output.pdf import _to_unicode, pdf_document
from fusion.output.review import corrected, read_corrections
from fusion.output.units import glyphs, words, written
from fusion.page import Candidate, Field, Line, Page, Place, Position, Record, Span
from tests.made_pages import line, page
from tests.sample_pages import SHA, box, homework, ocr, prescription
from tests.strategies import pages

SCHEMAS = Path(__file__).parent / "schemas"
SUPPLIED = "QZX"
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def blank(one: Page) -> NDArray[np.uint8]:
    return np.full((one.height, one.width, 3), 230, np.uint8)


def made(one: Page, format_: Format) -> str:
    data = content([Sheet(one, blank(one))], format_)
    return "" if format_.binary else data.decode()


def tree(text: str) -> Any:
    return etree.fromstring(text.encode(), etree.XMLParser(resolve_entities=False))


def texts(root: Any, path: str) -> list[str]:
    return [str(found) for found in root.xpath(path.replace("//", "//*[local-name()='").replace("/@", "']/@", 1))]


def with_supplied() -> Page:
    spans = (
        Span("take ", "agreed", 0.9, "agreed", polygon=box(0, 0, 100, 30), cuts=(0.2, 0.4, 0.6, 0.8)),
        Span(SUPPLIED, "supplied", 0.6, "completed_from_context", (Candidate("QZY", 0.2),), box(100, 0, 160, 30), 2),
        Span(" mg", "ocr", 0.8, "agreed", (), box(160, 0, 300, 30), cuts=(0.3, 0.6)),
    )
    return page(spans, "next line", (Span("□", "gap", None, "unread_ink", extent=1),))


# --- the list ---------------------------------------------------------------------------------------------------------


def test_every_format_of_the_list_can_be_written() -> None:
    for format_ in Format:
        assert content([Sheet(prescription(), blank(prescription()))], format_)
    assert load_config(overrides=["batch.formats=[hocr, pdf]"]).batch.formats == (Format.HOCR, Format.PDF)
    with pytest.raises(ConfigError, match="'text', 'json'"):
        load_config(overrides=["batch.formats=[docx]"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.page.xml", Format.PAGE),
        ("a.ALTO.xml", Format.ALTO),
        ("a.xml", Format.TEI),
        ("a.json", Format.JSON),
        ("a.jsonl", Format.JSON),
        ("a.fhir.json", Format.FHIR),
        ("a.txt", Format.TEXT),
        ("csv", None),
        ("a.docx", None),
        ("v1.2", None),
    ],
)
def test_the_name_of_a_file_asks_for_a_format(name: str, expected: Format | None) -> None:
    assert Format.of(name) is expected


def test_a_document_of_one_page_takes_no_second() -> None:
    two = [Sheet(prescription(), blank(prescription()))] * 2
    for format_ in Format:
        if format_.many:
            assert content(two, format_)
        else:
            with pytest.raises(ConfigError, match="there are several"):
                content(two, format_)


# --- schemas ----------------------------------------------------------------------------------------------------------


class _Local(etree.Resolver):
    """The schema that ALTO imports from the net, from the folder instead."""

    def resolve(self, url: str, public: str | None, context: Any) -> Any:
        return self.resolve_filename(str(SCHEMAS / "xlink.xsd"), context) if url.endswith("xlink.xsd") else None


@cache
def schema(format_: Format) -> Any:
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_Local())
    if format_ is Format.TEI:
        return etree.RelaxNG(etree.parse(SCHEMAS / "tei-written.rng", parser))
    name = {Format.ALTO: "alto-4-2.xsd", Format.PAGE: "page-2019-07-15.xsd"}[format_]
    return etree.XMLSchema(etree.parse(SCHEMAS / name, parser))


@pytest.mark.parametrize("format_", [Format.TEI, Format.PAGE, Format.ALTO])
@few
@given(one=pages())
def test_xml_keeps_to_its_schema_whatever_is_on_the_page(format_: Format, one: Page) -> None:
    schema(format_).assertValid(tree(made(one, format_)))


@pytest.mark.parametrize("format_", [Format.TEI, Format.PAGE, Format.ALTO])
@pytest.mark.parametrize("one", [prescription(), homework(), with_supplied(), page()], ids=lambda one: one.id)
def test_xml_of_whole_pages_keeps_to_its_schema(format_: Format, one: Page) -> None:
    schema(format_).assertValid(tree(made(one, format_)))


@few
@given(pages())
def test_html_and_svg_are_well_formed_and_load_nothing(one: Page) -> None:
    for format_ in (Format.HOCR, Format.OVERLAY):
        root = tree(made(one, format_))
        assert not root.xpath("//*[local-name()='script' or local-name()='foreignObject']")
        links = root.xpath("//@href | //@src")
        assert all(link.startswith("data:image/") for link in links)


def test_hocr_says_what_the_specification_requires() -> None:
    root = html.fromstring(made(prescription(), Format.HOCR).encode())
    assert {m.get("name") for m in root.xpath("//meta[@name]")} >= {"ocr-system", "ocr-capabilities"}
    for inner, outer in (("ocr_carea", "ocr_page"), ("ocr_line", "ocr_carea"), ("ocrx_word", "ocr_line")):
        found = root.xpath(f"//*[@class='{inner}']")
        assert found
        for element in found:
            left, top, right, bottom = bbox(element)
            around = bbox(element.xpath(f"ancestor::*[@class='{outer}']")[0])
            assert around[0] <= left < right <= around[2]
            assert around[1] <= top < bottom <= around[3]
    for word in root.xpath("//*[@class='ocrx_word'][contains(@title, 'x_confs')]"):
        confs = re.search(r"x_confs ([\d ]+)", word.get("title"))
        assert confs is not None
        assert len(confs[1].split()) == len(word.text_content())


def bbox(element: Any) -> tuple[int, ...]:
    found = re.search(r"bbox (\d+) (\d+) (\d+) (\d+)", element.get("title"))
    assert found is not None
    return tuple(map(int, found.groups()))


# --- nothing supplied is read -----------------------------------------------------------------------------------------


def alto_text(text: str) -> str:
    return " ".join(tree(text).xpath("//*[local-name()='String']/@CONTENT"))


def page_text(text: str) -> str:
    return " ".join(tree(text).xpath("//*[local-name()='TextEquiv'][@index='0']/*[local-name()='Unicode']/text()"))


def hocr_text(text: str) -> str:
    return str(html.fromstring(text.encode()).find("body").text_content())


def tei_text(text: str) -> str:
    return "".join(tree(text).xpath("//*[local-name()='ab']//text()[not(parent::*[local-name()='supplied'])]"))


def label_text(text: str) -> str:
    return json.dumps([r["value"].get("text") for r in json.loads(text)[0]["predictions"][0]["result"]])


READERS: dict[Format, Callable[[str], str]] = {
    Format.ALTO: alto_text,
    Format.PAGE: page_text,
    Format.HOCR: hocr_text,
    Format.TEI: tei_text,
    Format.LABELSTUDIO: label_text,
    Format.PADDLEOCR: str,
    Format.TEXT: lambda text: re.sub(r"\[.*?\]", "", text),
    Format.MARKDOWN: lambda text: re.sub(r"\\\[.*?\\\]|\[.*?\]", "", text),
    Format.CSV: lambda text: re.sub(r"\[.*?\]", "", text),
}


@pytest.mark.parametrize("format_", READERS)
def test_what_a_reader_takes_for_text_holds_nothing_supplied(format_: Format) -> None:
    text = READERS[format_](made(with_supplied(), format_))
    assert "take" in text or format_ is Format.PADDLEOCR
    assert "QZ" not in text


def test_what_was_supplied_survives_where_the_format_can_say_that_it_was() -> None:
    one = with_supplied()
    alto = tree(made(one, Format.ALTO))
    assert alto.xpath("//*[local-name()='ALTERNATIVE'][@PURPOSE='supplied']/text()") == [SUPPLIED, "QZY"]
    page_ = tree(made(one, Format.PAGE))
    assert page_.xpath("//*[@comments='supplied'][@index>0]/*/text()") == [SUPPLIED, "QZY"]
    hocr = html.fromstring(made(one, Format.HOCR).encode())
    assert hocr.xpath('//*[contains(@title, \'x_supplied "QZX" 0.6000 "QZY" 0.2000\')]/text()') == ["□□"]
    (supplied,) = tree(made(one, Format.TEI)).xpath("//*[local-name()='supplied']")
    assert (supplied.text, dict(supplied.attrib)) == (
        SUPPLIED,
        {"reason": "illegible", "cert": "0.60", "resp": "#supplied"},
    )
    assert "take [QZX] mg" in made(one, Format.TEXT)
    assert json.loads(made(one, Format.PADDLEOCR).split("\t")[1])[0]["transcription"] == "###"


def test_records_on_supplied_text_have_brackets_and_no_value() -> None:
    dose = Field("dose", "QZX mg", (Place("l000", 5, 11),), 0.6, {"value": 5.0, "unit": "mg"})
    drug = Field("drug", "take", (Place("l000", 0, 4),), 0.9, {"x": 1})
    one = replace(with_supplied(), records=(Record("medication", (drug, dose)),))
    (record,) = written(one)
    assert [(field.text, field.value) for field in record.fields] == [("take", {"x": 1}), ("[QZX] mg", {})]
    assert "doseQuantity" not in made(one, Format.FHIR)
    assert "[QZX] mg" in made(one, Format.FHIR)
    assert "[QZX] mg" in made(one, Format.CSV)


# --- evidence survives ------------------------------------------------------------------------------------------------


def test_alternatives_and_sources_survive() -> None:
    one = prescription()
    alto = tree(made(one, Format.ALTO))
    (word,) = alto.xpath("//*[local-name()='String'][@CONTENT='Amoxicillin']")
    assert word.get("TAGREFS") == "vlm"
    assert word.get("WC") == "0.93"
    assert word.xpath("*[local-name()='ALTERNATIVE']/text()") == ["Amoxicillm", "Amoxycillin"]
    (human,) = alto.xpath("//*[local-name()='String'][@CS='true']")
    assert human.get("CONTENT") == "prn"
    page_ = tree(made(one, Format.PAGE))
    (word,) = page_.xpath("//*[local-name()='Word'][*[local-name()='TextEquiv'][@index='0']/*='Amoxicillin']")
    equivalents = word.xpath("*[local-name()='TextEquiv']")
    assert [(e.get("index"), e.get("conf"), e[0].text) for e in equivalents] == [
        ("0", "0.93", "Amoxicillin"),
        ("1", "0.05", "Amoxicillm"),
        ("2", "0.012", "Amoxycillin"),
    ]
    assert "vlm_supported_by_ink" in word.get("custom")
    readings = page_.xpath("//*[local-name()='TextLine'][@id='l002']/*[local-name()='TextEquiv'][@index>0]/*/text()")
    assert readings == [reading.text for reading in one.lines[2].readings]
    hocr = html.fromstring(made(one, Format.HOCR).encode())
    (word,) = hocr.xpath("//*[text()='Amoxicillin']")
    assert 'x_alternatives "Amoxicillm" 0.0500 "Amoxycillin" 0.0120' in word.get("title")
    assert hocr_text(made(one, Format.HOCR)).split() == one.diplomatic.split()  # nothing else is text


def test_in_alto_zero_is_sure() -> None:
    spans = (Span("ab", "agreed", 1.0, "x"), Span("c", "ocr", 0.0, "x"), Span("d", "ocr", 0.5, "x"))
    (word,) = tree(made(page(spans), Format.ALTO)).xpath("//*[local-name()='String']")
    assert (word.get("CC"), word.get("WC")) == ("0 0 9 4", "0")
    unknown = tree(made(page((Span("a", "ocr", None, "x"),)), Format.ALTO)).xpath("//*[local-name()='String']")[0]
    assert (unknown.get("CC"), unknown.get("WC")) == (None, None)


def test_tei_has_alternatives_of_what_is_doubtful_and_lines_that_nobody_read() -> None:
    spans = (Span("dim", "ocr", 0.2, "x", (Candidate("dun", 0.1),)), Span(" sum", "ocr", 0.9, "x"))
    lost = replace(prescription().lines[6], id="l009")
    body = tree(made(replace(page(spans), lines=(line(spans), lost)), Format.TEI))
    (choice,) = body.xpath("//*[local-name()='choice']")
    assert [(one.text, one.get("cert")) for one in choice] == [("dim", "0.20"), ("dun", "0.10")]
    (gap,) = body.xpath("//*[local-name()='gap']")
    assert (gap.get("unit"), gap.get("reason")) == ("line", "illegible")


def test_struck_out_text_is_marked() -> None:
    one = page((Span("old", "ocr", 0.9, "x", mark="deleted"), Span(" new", "ocr", 0.9, "x")))
    assert made(one, Format.MARKDOWN).strip() == "~~old~~ new"
    assert tree(made(one, Format.ALTO)).xpath("//@STYLE") == ["strikethrough"]
    assert tree(made(one, Format.PAGE)).xpath("//@strikethrough") == ["true"]
    assert "<s>old</s>" in made(one, Format.HOCR)


# --- places -----------------------------------------------------------------------------------------------------------


def aligned() -> Page:
    """ "ab c" whose characters are 10, 40, 20 and 30 px wide; the OCR saw "ob c"."""
    candidates = [("o", "a"), ("b",), (" ",), ("c", "e")]
    edges = [0, 20, 100, 140, 200]  # px on a crop twice as large
    positions = tuple(
        Position(left + 1, right - 1, tuple(Candidate(text, 0.6 / (n + 1)) for n, text in enumerate(some)))
        for (left, right), some in zip(itertools.pairwise(edges), candidates, strict=True)
    )
    reading = replace(ocr("ob c"), positions=positions)
    spans = (
        Span("ab", "vlm", 0.9, "x", polygon=box(100, 50, 150, 80), cuts=(0.2,)),
        Span(" c", "agreed", 0.9, "x", polygon=box(150, 50, 200, 80), cuts=(0.4,)),
    )
    one = Line("l000", box(100, 50, 200, 80), 0, (reading,), spans, crop_width=200)
    return Page("a.png", SHA, 300, 100, lines=(one,))


def test_places_are_those_of_the_alignment() -> None:
    (one,) = aligned().lines
    assert [(glyph.text, glyph.polygon[0][0], glyph.polygon[1][0]) for glyph in glyphs(one)] == [
        ("a", 100, 110),
        ("b", 110, 150),
        (" ", 150, 170),
        ("c", 170, 200),
    ]
    assert [(word.text, word.polygon) for word in words(one)] == [
        ("ab", box(100, 50, 150, 80)),
        ("c", box(170, 50, 200, 80)),
    ]
    assert [[c.text for c in glyph.candidates] for glyph in glyphs(one)] == [["o", "a"], ["b"], [" "], ["c", "e"]]
    (variant,) = tree(made(aligned(), Format.ALTO)).xpath("//*[@CONTENT='a']/*[local-name()='Variant']")
    assert (variant.get("CONTENT"), variant.get("VC")) == ("o", "0.6")


def test_a_place_that_is_unknown_is_that_of_the_smallest_stretch_around_and_no_share_of_it() -> None:
    (one,) = aligned().lines
    bare = replace(one, spans=(replace(one.spans[0], cuts=()), replace(one.spans[1], cuts=(), polygon=None)))
    assert [glyph.placed for glyph in glyphs(bare)] == [False] * 4
    assert [word.polygon for word in words(bare)] == [box(100, 50, 150, 80), box(100, 50, 200, 80)]
    assert tree(made(replace(aligned(), lines=(bare,)), Format.PAGE)).xpath("//*[local-name()='Glyph']") == []


def test_a_piece_of_a_span_keeps_its_place() -> None:
    edited = aligned().edit(Place("l000", 1, 2), "d", "Ada")
    (one,) = edited.lines
    assert [(span.text, span.polygon) for span in one.spans[:2]] == [
        ("a", box(100, 50, 110, 80)),
        ("d", box(110, 50, 150, 80)),
    ]


@few
@given(pages())
def test_words_are_the_text_on_the_paper(one: Page) -> None:
    for each in one.lines:
        assert "".join(glyph.text for glyph in glyphs(each)) == each.diplomatic
        assume(not any(glyph.text[0].isspace() and len(glyph.text) > 1 for glyph in glyphs(each)))  # a mark on a space
        assert [word.text for word in words(each)] == re.split(r"\s+", each.diplomatic.strip()) or not words(each)


# --- FHIR R4 ----------------------------------------------------------------------------------------------------------

# https://hl7.org/fhir/R4: of each type, element → type of its value (with * repeats, with ! required).
EXTENSION = {"extension": "Extension*"}
R4: dict[str, dict[str, str]] = {
    "Bundle": {"resourceType": "code!", "type": "bundle-type!", "entry": "Entry*"},
    "Entry": {"fullUrl": "uri", "resource": "MedicationRequest"},
    "MedicationRequest": {
        "resourceType": "code!",
        "id": "id",
        "status": "status!",
        "intent": "intent!",
        "medicationCodeableConcept": "CodeableConcept!",
        "subject": "Reference!",
        "dosageInstruction": "Dosage*",
        "dispenseRequest": "DispenseRequest",
        **EXTENSION,
    },
    "CodeableConcept": {"text": "string", **EXTENSION},
    "Reference": {"display": "string"},
    "Dosage": {
        "text": "string",
        "timing": "Timing",
        "asNeededBoolean": "boolean",
        "route": "CodeableConcept",
        "doseAndRate": "DoseAndRate*",
        **EXTENSION,
    },
    "DoseAndRate": {"doseQuantity": "Quantity"},
    "DispenseRequest": {"quantity": "Quantity"},
    "Quantity": {"value": "decimal", "unit": "string", "system": "uri", "code": "code", **EXTENSION},
    "Timing": {"repeat": "Repeat"},
    "Repeat": {
        "boundsDuration": "Quantity",
        "frequency": "positiveInt",
        "frequencyMax": "positiveInt",
        "period": "decimal",
        "periodMax": "decimal",
        "periodUnit": "units-of-time",
        "when": "event-timing*",
    },
    "Extension": {"url": "uri!", "valueDecimal": "decimal", "valueString": "string"},
}
CODES = {
    "bundle-type": "collection",
    "status": "draft",
    "intent": "proposal",
    "units-of-time": "s min h d wk mo a",
    "event-timing": "MORN MORN.early MORN.late NOON AFT AFT.early AFT.late EVE EVE.early EVE.late NIGHT PHS "
    "HS WAKE C CM CD CV AC ACM ACD ACV PC PCM PCD PCV",
}


def conforms(value: Any, kind: str) -> bool:
    """Whether a value is of a type of `R4`."""
    if kind in R4:
        known = R4[kind]
        required = {name for name, of in known.items() if "!" in of}
        if not isinstance(value, dict) or not value or not required <= value.keys() <= known.keys():
            return False
        return ("periodUnit" in value) == ("period" in value) and all(
            all(conforms(one, known[name].strip("*!")) for one in (inner if "*" in known[name] else [inner]))
            for name, inner in value.items()
        )
    if kind in CODES:
        return value in CODES[kind].split()
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("decimal", "positiveInt"):
        number = isinstance(value, int if kind == "positiveInt" else int | float) and not isinstance(value, bool)
        return number and (value > 0 or kind == "decimal")
    return isinstance(value, str) and bool(value.strip()) and (kind == "string" or " " not in value)


@pytest.mark.parametrize(
    "rows",
    [
        ["1. Amoxicillin 500 mg", "1 cap tid x 7 days pc", "2. Napa 120 mg/5 ml", "5 ml q8h prn, dispense 1 bottle"],
        ["1. Paracetamol 500 mg", "1-2 tab q4-6h prn", "2. Insulin 10 units sc hs"],
        ["1. 阿莫西林胶囊 0.5g", "每次1粒 一日三次 饭后口服 7天"],
        ["Hello"],
    ],
)
def test_fhir_keeps_to_the_constraints_of_r4(rows: list[str]) -> None:
    understood = open_profile(load_config("prescription").domain).understand(page(*rows))
    assert conforms(json.loads(made(understood, Format.FHIR)), "Bundle")


# --- Markdown ---------------------------------------------------------------------------------------------------------


@few
@example(
    Page(
        "a",
        "0" * 64,
        1,
        1,
        lines=(Line("l0", ((0, 0), (1, 0), (1, 1), (0, 1)), 0, spans=(Span("\u3000", "agreed", None, "agreed"),)),),
    )
)
@given(pages())
def test_markdown_shows_the_transcript_and_nothing_of_it_is_a_mark(one: Page) -> None:
    shown = html.fromstring(f"<div>{MarkdownIt().render(made(one, Format.MARKDOWN))}</div>").text_content()
    wanted = "".join(
        each.marked if each.marked.strip() else "[---]" for each in one.lines
    )  # a row of spaces shows nothing
    assert "".join(shown.split()) == "".join(wanted.split())


# --- PDF --------------------------------------------------------------------------------------------------------------

HAN = "".join(chr(code) for code in (*range(0x4E00, 0x4E00 + 150), *range(0x20000, 0x20020), 0x2A6D6, 0x30000))


def rows_of(text: str) -> list[str]:
    return [" ".join(row.split()) for row in text.replace("\x0c", "\n").splitlines() if row.strip()]


def placed(*rows: str, slope: float = 0.0) -> Page:
    """Rows with the place of every character, below each other."""
    lines = []
    for number, row in enumerate(rows):
        edges = list(itertools.accumulate((14.0 if char.isascii() else 30.0 for char in row), initial=20.0))
        top, right = 20 + 60.0 * number, edges[-1]
        low = top + slope * (right - 20)
        polygon = ((20.0, top), (right, low), (right, low + 40), (20.0, top + 40))
        cuts = tuple((edge - 20) / (right - 20) for edge in edges[1:-1])
        lines.append(
            Line(f"l{number:03}", polygon, number, (), (Span(row, "agreed", 0.9, "x", (), polygon, cuts=cuts),))
        )
    return Page("made.png", SHA, 1600, 100 + 60 * len(rows), lines=tuple(lines))


def by_pdfium(data: bytes) -> str:
    with pypdfium2.PdfDocument(data) as pdf:
        return "\n".join(pdf[n].get_textpage().get_text_range() for n in range(len(pdf)))


def by_poppler(data: bytes) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (Debian: poppler-utils) is not installed")
    done = subprocess.run(["pdftotext", "-", "-"], input=data, capture_output=True, check=True, timeout=60)
    assert done.stderr == b""
    return done.stdout.decode()


ROWS = [
    "1. Amoxicillin 500 mg",
    "每次1粒 一日三次",
    "I cap tid x 7 days",
    *(HAN[n : n + 40] for n in range(0, len(HAN), 40)),
]


@pytest.mark.parametrize("read", [by_pdfium, by_poppler])
@pytest.mark.parametrize("slope", [0.0, 0.01, -0.02])
def test_the_text_of_a_pdf_is_read_back_line_by_line(read: Callable[[bytes], str], slope: float) -> None:
    one = placed(*ROWS, slope=slope)
    assert len(set(one.text)) > 200  # more than a block of the CMap holds
    assert rows_of(read(content([Sheet(one, blank(one))], Format.PDF))) == ROWS


@pytest.mark.parametrize("read", [by_pdfium, by_poppler])
def test_the_text_of_a_pdf_is_what_is_on_the_paper(read: Callable[[bytes], str]) -> None:
    data = content([Sheet(with_supplied(), blank(with_supplied())), Sheet(homework(), blank(homework()))], Format.PDF)
    text = read(data)
    assert "QZ" not in text
    wanted = with_supplied().diplomatic + homework().diplomatic  # wide spaces look like columns: order aside
    assert sorted("".join(text.split())) == sorted("".join(wanted.split()))


def test_characters_of_a_pdf_are_where_they_were_aligned() -> None:
    one = aligned()
    with pypdfium2.PdfDocument(content([Sheet(one, blank(one))], Format.PDF)) as pdf:
        text = pdf[0].get_textpage()
        scale = pdf[0].get_width() / one.width
        edges = [[round(side / scale) for side in text.get_charbox(n)[::2]] for n in range(4)]
    assert edges == [[100, 110], [110, 150], [150, 170], [170, 200]]


def test_a_pdf_shows_the_photograph_and_no_text() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (120, 200, 3), np.uint8)
    one = replace(page("hello"), width=200, height=120)
    for text in (one, replace(one, lines=())):
        with pypdfium2.PdfDocument(pdf_document([(text, photo, None)])) as pdf:
            (picture,) = pdf[0].get_objects([pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
            assert np.array_equal(picture.get_bitmap().to_numpy()[..., ::-1], photo)  # without loss
            drawn = pdf[0].render(scale=200 / pdf[0].get_width()).to_numpy()
            if text.lines:
                first = drawn
    assert np.array_equal(first, drawn)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_jpeg_is_embedded_as_it_is_and_stands_upright(turn: int) -> None:
    stored = Image.new("RGB", (160, 96), "white")
    stored.paste("black", (8, 8, 60, 30))
    stored.paste("red", (120, 60, 150, 90))
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    stored.save(out, "JPEG", quality=95, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(out)).convert("RGB"))
    one = replace(page("hello"), width=shown.shape[1], height=shown.shape[0])
    data = pdf_document([(one, shown, out.getvalue())])
    assert out.getvalue() in data
    with pypdfium2.PdfDocument(data) as pdf:
        drawn = pdf[0].render(scale=shown.shape[1] / pdf[0].get_width(), rev_byteorder=True).to_numpy()
    height, width = shown.shape[:2]  # PDFium rounds the size of a page up
    assert np.abs(drawn[:height, :width, :3].astype(int) - shown).mean() < 4


def test_no_block_of_the_character_map_is_longer_than_ghostscript_takes() -> None:
    codes = {char: code for code, char in enumerate(HAN, 1)}
    mapped = _to_unicode(codes).decode()
    counts = [int(count) for count in re.findall(r"(\d+) beginbfchar", mapped)]
    assert max(counts) <= 100
    assert sum(counts) == mapped.count("> <") - 1 == len(HAN)  # one more is the range of codes
    assert "<D840DC00>" in mapped  # U+20000


@few
@given(pages())
def test_any_page_becomes_a_pdf(one: Page) -> None:
    with pypdfium2.PdfDocument(content([Sheet(one, blank(one))], Format.PDF)) as pdf:
        assert len(pdf) == 1
        assert pdf.count_attachments() == 1


def test_the_record_is_attached_to_a_pdf() -> None:
    with pypdfium2.PdfDocument(content([Sheet(homework(), blank(homework()))], Format.PDF)) as pdf:
        (attached,) = [pdf.get_attachment(n) for n in range(pdf.count_attachments())]
        assert attached.get_name() == "page00001.json"
        assert records.load_page(bytes(attached.get_data())) == homework()


# --- corrections come back --------------------------------------------------------------------------------------------


def in_page(text: str, changes: dict[str, str], level: str = "TextLine") -> str:
    """A PAGE document with other text for some elements of a level, as an editor would save it."""
    root = tree(text)
    for name, new in changes.items():
        (element,) = root.xpath(f"//*[local-name()='{level}'][@id='{name}']")
        element.xpath("*[local-name()='TextEquiv'][@index='0']/*")[0].text = new
        if level == "TextLine":
            for word in element.xpath("*[local-name()='Word']"):
                element.remove(word)
    return etree.tostring(root, encoding="unicode")


def in_tasks(text: str, changes: dict[str, str]) -> list[dict[str, Any]]:
    """Tasks as Label Studio exports them after an annotator changed some lines."""
    (task,) = json.loads(text)
    (prediction,) = task.pop("predictions")
    for part in prediction["result"]:
        if part["type"] == "textarea" and part["id"] in changes:
            part["value"]["text"] = [changes[part["id"]]]
    task["annotations"] = [
        {"result": [], "was_cancelled": True, "updated_at": "2027"},
        {"result": prediction["result"], "completed_by": {"email": "ada@x.org"}, "updated_at": "2026-11-26"},
    ]
    return [task]


@pytest.mark.parametrize("way", [Format.PAGE, Format.LABELSTUDIO])
def test_corrections_become_human_spans(way: Format, tmp_path: Path) -> None:
    one = prescription()
    changes = {"l003": "I cap tid x 5 days", "l005": "1 tab qid prn", "l006": "3. Napa 120 mg"}
    file = tmp_path / ("a.xml" if way is Format.PAGE else "a.json")
    back = in_page(made(one, way), changes) if way is Format.PAGE else json.dumps(in_tasks(made(one, way), changes))
    file.write_text(back, encoding="utf-8")
    wanted, refused = read_corrections(file, "Ada", [one])
    assert refused == []
    (after,), refused = corrected([one], wanted)
    assert refused == []
    assert [each.text for each in after.lines[3:]] == [
        "I cap tid x 5 days",
        one.lines[4].text,
        "1 tab qid prn",
        "3. Napa 120 mg",
    ]
    human = {span.text: span for each in after.lines for span in each.spans if span.source == "human"}
    assert {"I", "5", "qid"} <= set(human)  # whole words, and only those that changed
    assert human["5"].by == ("Ada" if way is Format.PAGE else "ada@x.org, 2026-11-26")
    assert [each.readings for each in after.lines] == [each.readings for each in one.lines]


def test_words_may_be_corrected_in_page_and_two_texts_of_a_line_are_refused() -> None:
    one = prescription()
    whole = made(one, Format.PAGE)
    edited = page_edits(in_page(whole, {"l003w4": "5"}, "Word"))
    assert [(c.old, c.text) for c in corrections_of(one, edited, "Ada")] == [("7", "5")]
    line_too = re.sub(
        r"(<Unicode>)1 cap tid x 7 days(</Unicode>\s*</TextEquiv>\s*<TextEquiv index=\"1\")", r"\1nothing\2", whole
    )
    assert line_too != whole
    assert [c.text for c in corrections_of(one, page_edits(line_too), "Ada")] == ["nothing"]
    with pytest.raises(ValueError, match="two texts for line l003"):
        page_edits(in_page(line_too, {"l003w4": "5"}, "Word"))


def test_a_level_without_text_says_nothing() -> None:
    one = prescription()
    root = etree.fromstring(made(one, Format.PAGE).encode())
    lines, words = root.findall(".//{*}TextLine"), root.findall(".//{*}Word")
    for tag, elements in (("lines", lines), ("words", words)):
        for element in elements:
            for equivalent in element.findall("{*}TextEquiv"):
                element.remove(equivalent)
        edited = page_edits(etree.tostring(root, encoding="unicode"))
        assert corrections_of(one, edited, "Ada") == []  # first lines alone are silent, then lines and words
        assert bool(edited.texts) is (tag == "lines")
    emptied = made(one, Format.PAGE).replace("<Unicode>1 tab □id prn</Unicode>", "<Unicode />")
    (change,) = corrections_of(one, page_edits(emptied), "Ada")
    assert (change.line, change.text) == ("l005", "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace('id="l001"', 'id="l000"'), "has two lines l000"),
        (lambda text: text.replace('<TextEquiv index="0"', '<TextEquiv index=""', 1), "TextEquiv of index ''"),
        (lambda text: text.replace("Rx\n", "Ry\n", 1), "is corrected in the text of region"),
    ],
)
def test_page_files_that_say_too_much_are_refused(change: Callable[[str], str], named: str) -> None:
    changed = change(made(prescription(), Format.PAGE))
    assert changed != made(prescription(), Format.PAGE)
    with pytest.raises(ValueError, match=named):
        page_edits(changed)


def test_an_editor_may_keep_a_region_up_with_its_lines() -> None:
    whole = made(prescription(), Format.PAGE)
    changed = in_page(whole, {"l001": "Ry"}).replace("MBBS\nRx\n", "MBBS\nRy\n")
    assert changed.count("Ry") == 2
    assert [c.text for c in corrections_of(prescription(), page_edits(changed), "Ada")] == ["Ry"]


def test_a_text_of_label_studio_may_be_a_string_and_stands_once() -> None:
    one = prescription()
    (task,) = in_tasks(made(one, Format.LABELSTUDIO), {})
    texts = [part for part in task["annotations"][1]["result"] if part["type"] == "textarea"]
    texts[1]["value"]["text"] = "Rx 2"
    edited = task_edits(task)
    assert edited is not None
    assert [c.text for c in corrections_of(one, edited, "Ada")] == ["Rx 2"]
    texts[2]["id"] = texts[1]["id"]
    with pytest.raises(ValueError, match="two texts for one line"):
        task_edits(task)
    for wrong in ({"annotations": {}}, {"annotations": [{"result": [{**texts[0], "value": {"text": 5}}]}]}):
        with pytest.raises(ValueError, match="no annotated page"):
            task_edits({**task, **wrong})


@few
@given(pages(), st.data())
def test_any_text_comes_back_as_a_person_left_it(one: Page, data: st.DataObject) -> None:
    plain = st.text(st.sampled_from("ab 12□天气"), max_size=8).map(lambda text: unicodedata.normalize("NFC", text))
    new = {each.id: data.draw(plain | st.just(each.diplomatic)) for each in one.lines}
    wanted = corrections_of(one, Edited(seen(one), new), "Ada")
    (after,), refused = corrected([one], wanted)
    for each in after.lines:
        if not any(each.id in str(error) for error in refused):
            assert each.diplomatic == new[each.id] or unicodedata.normalize("NFC", each.diplomatic) == new[each.id]
        else:  # only where new text would compose with its neighbours
            assert each.diplomatic != new[each.id]


@few
@given(pages())
def test_a_file_that_nobody_changed_corrects_nothing(one: Page) -> None:
    assert corrections_of(one, page_edits(made(one, Format.PAGE)), "Ada") == []
    (task,) = in_tasks(made(one, Format.LABELSTUDIO), {})
    edited = task_edits(task)
    assert edited is not None
    assert corrections_of(one, edited, "Ada") == []


@few
@given(pages())
def test_regions_of_label_studio_lie_on_the_picture(one: Page) -> None:
    (task,) = json.loads(made(one, Format.LABELSTUDIO))
    for part in task["predictions"][0]["result"]:
        assert all(0 <= part["value"][side] <= 100 for side in ("x", "y", "width", "height"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<PcGts", "is no XML"),
        ("<PcGts/>", "names no page that fusion read"),
        (made(replace(prescription(), image_sha256="1" * 64), Format.PAGE), "another photograph"),
        (made(replace(prescription(), lines=prescription().lines[:2]), Format.PAGE), "another reading"),
        (made(replace(prescription(), id="other.jpg"), Format.PAGE), "no page of this review"),
        (made(prescription(), Format.PAGE).replace('id="l003"', 'id="l999"'), "line l999"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_the_others_count(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text(text, encoding="utf-8")
    good = in_page(made(homework(), Format.PAGE), {"l000": "红球5个"})
    (tmp_path / "good.xml").write_text(good, encoding="utf-8")
    wanted, (error,) = read_corrections(tmp_path, "Ada", [prescription(), homework()])
    assert "bad.xml" in str(error)
    assert named in str(error)
    assert wanted
    assert all(one.page == homework().id for one in wanted)


def test_tasks_that_nobody_annotated_are_left_alone(tmp_path: Path) -> None:
    (task,) = in_tasks(made(prescription(), Format.LABELSTUDIO), {"l000": "x"})
    skipped = {**task, "annotations": []}
    strange = {"data": {"image": "x"}, "annotations": [{"result": []}]}
    (tmp_path / "a.json").write_text(json.dumps([skipped, strange]), encoding="utf-8")
    wanted, (error,) = read_corrections(tmp_path / "a.json", "", [prescription()])
    assert wanted == []
    assert "task 2" in str(error)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A photograph and its page record beside it."""
    photo = tmp_path / "scans" / "note.jpg"
    photo.parent.mkdir()
    Image.new("RGB", (300, 400), "white").save(photo)
    import hashlib

    sha = hashlib.sha256(photo.read_bytes()).hexdigest()
    one = replace(with_supplied(), id="elsewhere/note.jpg", image_sha256=sha)
    (tmp_path / "page.json").write_text(records.dump_page(one), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("format_", list(Format))
def test_stored_pages_become_any_format(stored: Path, format_: Format) -> None:
    result = run("convert", stored / "page.json", "-f", format_, "-o", stored / "out", "--images", stored / "scans")
    assert result.exit_code == 0, result.output
    assert [file.name for file in (stored / "out").iterdir()] == [f"note.jpg{format_.ending}"]
    file = stored / f"result{format_.ending}"
    assert run("convert", stored / "page.json", "-o", file, "--images", stored / "scans" / "note.jpg").exit_code == 0
    assert file.stat().st_size > 0


def test_pages_in_one_file_and_laid_out_by_hand_are_converted_together(stored: Path) -> None:
    one = json.loads((stored / "page.json").read_text(encoding="utf-8"))
    rows = json.dumps(one, indent=2) + "\n" + records.dump_page(homework())
    (stored / "two.jsonl").write_text(rows, encoding="utf-8")
    result = run("convert", stored / "two.jsonl", "--diplomatic")
    assert result.stdout.startswith("== elsewhere/note.jpg\ntake □□ mg\n")
    assert "== homework_zh.jpg" in result.stdout


def test_two_pictures_of_one_name_become_two_files(stored: Path) -> None:
    one = json.loads((stored / "page.json").read_text(encoding="utf-8"))
    (stored / "other.json").write_text(json.dumps({**one, "image_sha256": "1" * 64}), encoding="utf-8")
    assert (
        run("convert", stored / "page.json", stored / "other.json", "-f", "text", "-o", stored / "out").exit_code == 0
    )
    assert sorted(file.name for file in (stored / "out").iterdir()) == ["note.jpg-2.txt", "note.jpg.txt"]


def test_what_can_not_be_converted_is_named_and_the_rest_is_written(stored: Path) -> None:
    (stored / "bad.json").write_text("{}", encoding="utf-8")
    result = run("convert", stored / "bad.json", stored / "page.json", "--out", stored / "out")
    assert result.exit_code == InputError.exit_code
    assert "bad.json" in result.stderr
    assert len(list((stored / "out").iterdir())) == 1


@pytest.mark.parametrize("found", ["missing", "another"])
def test_a_photograph_that_is_not_there_or_another_is_named(stored: Path, found: str) -> None:
    photo = stored / "scans" / "note.jpg"
    photo.unlink()
    if found == "another":
        Image.new("RGB", (300, 400), "black").save(photo)
    result = run("convert", stored / "page.json", "-f", "pdf", "-o", stored / "out", "--images", stored / "scans")
    assert result.exit_code == InputError.exit_code
    assert "--images" in result.stderr
    assert ("not there" if found == "missing" else "another picture") in result.stderr


def test_an_input_is_never_overwritten(stored: Path) -> None:
    before = (stored / "page.json").read_bytes()
    refused = run("convert", stored / "page.json", "--out", stored / "page.json").exception
    assert isinstance(refused, ConfigError)
    assert (stored / "page.json").read_bytes() == before


def test_a_corrected_page_is_applied_without_a_review(stored: Path) -> None:
    assert run("convert", stored / "page.json", "-o", stored / "a.page.xml").exit_code == 0
    back = in_page((stored / "a.page.xml").read_text(encoding="utf-8"), {"l000": "take 7 mg"})
    (stored / "a.page.xml").write_text(back, encoding="utf-8")
    result = run("apply", stored / "page.json", stored / "a.page.xml", "-o", stored / "done", "--by", "Ada")
    assert result.exit_code == 0, result.output
    assert "1 corrections on 1 pages" in result.stdout
    (after,) = records.load_pages(stored / "done" / "note.jpg.json")
    assert after.lines[0].text == "take 7 mg"
    assert [(s.source, s.by) for s in after.lines[0].spans if s.source == "human"] == [("human", "Ada")]


def test_the_schema_is_printed() -> None:
    assert json.loads(run("schema").stdout) == records.page_schema()
