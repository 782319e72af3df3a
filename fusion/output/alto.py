"""A page as ALTO 4.2 (Library of Congress, https://www.loc.gov/standards/alto/): words with confidences, alternatives, characters.

`CONTENT` is what is on the paper; a gap is `□`, and what was supplied for it an `ALTERNATIVE` whose `PURPOSE` says so. In `CC`
0 is sure and 9 unsure.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from fusion.output.marks import MARKS
from fusion.output.markup import add, document, points, xml_id
from fusion.output.units import Glyph, Word, baseline, box, regions, rounded, words
from fusion.page import Line, Page, Polygon

NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_LONGEST = 3
"""Most characters of a `Variant`, as the schema says."""


def alto_document(page: Page) -> str:
    """One ALTO document."""
    root = Element("alto", {"xmlns": NAMESPACE, "SCHEMAVERSION": "4.2"})
    description = add(root, "Description")
    add(description, "MeasurementUnit", "pixel")
    source = add(description, "sourceImageInformation")
    add(source, "fileName", page.id)
    add(source, "fileIdentifier", f"sha256:{page.image_sha256}")
    made = add(description, "Processing", ID="fusion")
    add(made, "processingStepSettings", "; ".join(f"{name} {value}" for name, value in page.identities.items()))
    software = add(made, "processingSoftware")
    add(software, "softwareName", "fusion")
    add(software, "softwareVersion", page.identities.get("fusion", ""))
    tags = add(root, "Tags")
    for mark in MARKS.values():
        add(tags, "OtherTag", ID=mark.source, TYPE="source", LABEL=mark.source, DESCRIPTION=mark.meaning)
    size = {"HPOS": 0, "VPOS": 0, "WIDTH": page.width, "HEIGHT": page.height}
    sheet = add(add(root, "Layout"), "Page", ID="p1", PHYSICAL_IMG_NR=1, WIDTH=page.width, HEIGHT=page.height)
    space = add(sheet, "PrintSpace", **size)
    for name, lines in regions(page):
        around = _place(page, *(line.polygon for line in lines))
        block = add(space, "TextBlock", ID=name, **around)
        for line in lines:
            _line(block, line, page)
    return document(root, root)


def _line(block: Element, line: Line, page: Page) -> None:
    name = xml_id(line.id)
    stands = " ".join(f"{x},{y}" for x, y in rounded(baseline(line), page))
    element = add(block, "TextLine", ID=name, BASELINE=stands, **_place(page, line.polygon))
    _shape(element, line.polygon, page)
    found = words(line)
    for number, word in enumerate(found):
        if number:
            add(element, "SP")
        _word(element, word, f"{name}w{number}", page)
    if not found:  # a line needs a word
        add(element, "String", CONTENT="", WC=0, TAGREFS="gap")


def _word(line: Element, word: Word, name: str, page: Page) -> None:
    element = add(
        line,
        "String",
        ID=name,
        CONTENT=word.text,
        WC=word.confidence,
        CC=_digits(word.glyphs),
        CS=True if "human" in word.sources else None,
        STYLE="strikethrough" if word.deleted else None,
        TAGREFS=word.sources,
        **_place(page, word.polygon),
    )
    _shape(element, word.polygon, page)
    for other in word.others:
        add(element, "ALTERNATIVE", other.text, PURPOSE="supplied" if other.supplied else f"p={other.probability:.4f}")
    if any(len(glyph.text) > 1 or not glyph.placed for glyph in word.glyphs):
        return  # a character is one code point here, and all of a word or none
    for number, glyph in enumerate(word.glyphs):
        place = _place(page, glyph.polygon)
        sign = add(element, "Glyph", ID=f"{name}g{number}", CONTENT=glyph.text, GC=glyph.confidence, **place)
        for candidate in glyph.candidates:
            if candidate.text != glyph.text and len(candidate.text) <= _LONGEST:
                add(sign, "Variant", CONTENT=candidate.text, VC=candidate.probability)


def _digits(glyphs: tuple[Glyph, ...]) -> str | None:
    """`CC`: one digit per code point, 0 sure, 9 unsure; None when a confidence is unknown."""
    found: list[str] = []
    for glyph in glyphs:
        if glyph.confidence is None:
            return None
        found += [str(round(9 * (1 - glyph.confidence)))] * len(glyph.text)
    return " ".join(found)


def _place(page: Page, *polygons: Polygon) -> dict[str, int]:
    left, top, right, bottom = box(polygons, page)
    return {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}


def _shape(element: Element, polygon: Polygon, page: Page) -> None:
    add(add(element, "Shape"), "Polygon", POINTS=points(rounded(polygon, page)))
