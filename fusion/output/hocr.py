"""Pages as hOCR 1.2 (https://kba.github.io/hocr-spec/1.2/): words with boxes and confidences of each character.

The text is what is on the paper, gaps as `□`. Alternatives and supplied text stand in properties of the word, `x_alternatives` and
`x_supplied`. The specification has `<del class="alt">` for alternatives; there programs that take all text of a line, as its own
example does, read two doses as one: `<ins>5</ins><del>15</del> mg`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import PurePath
from xml.etree.ElementTree import Element

from fusion.output.markup import add, clean, document, say, xml_id
from fusion.output.units import Word, baseline, box, made_by, regions, words
from fusion.page import Line, Page, Polygon

_CAPABILITIES = "ocr_page ocr_carea ocr_line ocrx_word"
_STEEP = 45.0
"""Degrees from which a line has a `textangle` and no slope."""


def hocr_document(pages: Iterable[Page]) -> str:
    """Some pages as one XHTML document."""
    root = Element("html", {"xmlns": "http://www.w3.org/1999/xhtml"})
    head, body = add(root, "head"), add(root, "body")
    add(head, "meta", http_equiv="Content-Type", content="text/html; charset=utf-8")
    title = add(head, "title", "fusion")
    system = add(head, "meta", name="ocr-system", content="fusion")
    add(head, "meta", name="ocr-capabilities", content=_CAPABILITIES)
    count = add(head, "meta", name="ocr-number-of-pages")
    add(head, "style", ".ocr_line { display: block }")
    number = 0
    for number, page in enumerate(pages, 1):
        if number == 1:
            title.text = clean(page.id)
            system.set("content", made_by(page))
        _page(body, page, number)
        say(body, "\n")
    count.set("content", str(number))
    return document(root, doctype="<!DOCTYPE html>\n")


def _page(body: Element, page: Page, number: int) -> None:
    name = f"page_{number}"
    stands = f"image {_quoted(PurePath(page.id).name)}; bbox 0 0 {page.width} {page.height}; ppageno {number - 1}"
    sheet = add(body, "div", class_="ocr_page", id=name, title=stands)
    for part, lines in regions(page):
        around = _bbox(page, *(line.polygon for line in lines))
        area = add(sheet, "div", class_="ocr_carea", id=f"{name}_{part}", title=around)
        for line in lines:
            say(area, "\n")
            _line(area, line, page, f"{name}_{xml_id(line.id)}")
        say(area, "\n")


def _line(area: Element, line: Line, page: Page, name: str) -> None:
    element = add(area, "span", class_="ocr_line", id=name, title=f"{_bbox(page, line.polygon)}; {_slope(line, page)}")
    for number, word in enumerate(words(line)):
        if number:
            say(element, " ")
        _word(element, word, page, f"{name}_w{number}")


def _word(parent: Element, word: Word, page: Page, name: str) -> None:
    properties = [_bbox(page, word.polygon)]
    if word.confidence is not None:
        each = " ".join(_percent(glyph.confidence or 0.0) for glyph in word.glyphs for _ in glyph.text)
        properties += [f"x_wconf {_percent(word.confidence)}", f"x_confs {each}"]
    if all(glyph.placed for glyph in word.glyphs):
        boxes = [box([glyph.polygon], page) for glyph in word.glyphs for _ in glyph.text]
        properties.append("x_bboxes " + " ".join(str(edge) for one in boxes for edge in one))
    properties.append(f"x_source {word.sources}")
    for kind, supplied in (("x_alternatives", False), ("x_supplied", True)):
        if others := [other for other in word.others if other.supplied is supplied]:
            properties.append(kind + "".join(f" {_quoted(other.text)} {other.probability:.4f}" for other in others))
    element = add(parent, "span", class_="ocrx_word", id=name, title="; ".join(properties))
    add(element, "s", word.text) if word.deleted else say(element, word.text)


def _bbox(page: Page, *polygons: Polygon) -> str:
    return "bbox {} {} {} {}".format(*box(polygons, page))


def _slope(line: Line, page: Page) -> str:
    """`baseline`, a line from the lower left corner of the box; or `textangle` of writing that runs up or down."""
    (x, y), (end, low) = baseline(line)
    angle = math.degrees(math.atan2(y - low, end - x))
    if abs(angle) > _STEEP:
        return f"textangle {angle:.1f}"
    left, _, _, bottom = box([line.polygon], page)
    slope = (low - y) / ((end - x) or 1.0)
    return f"baseline {slope:.4f} {y + slope * (left - x) - bottom:.1f}"


def _percent(confidence: float) -> str:
    """Whole per cent; 100 only for what is certain."""
    return str(int(100 * confidence + 1e-9))


def _quoted(text: str) -> str:
    """A string of a property; quotes and semicolons, which part properties, become their look-alikes."""
    return '"' + text.replace('"', "\u2033").replace(";", "\u037e") + '"'
