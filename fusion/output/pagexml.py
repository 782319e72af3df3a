"""A page as PAGE XML 2019-07-15 (PRImA, https://github.com/PRImA-Research-Lab/PAGE-XML): lines, words, characters; and back.

The text of index 0 is what is on the paper, gaps as `□`. Texts of higher index are alternatives, candidates and each reader's own
reading; `comments` say which. Somebody corrects the text of a line or of its words in any editor of PAGE that keeps the ids and
the metadata; `page_edits` reads it back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import PurePath
from xml.etree.ElementTree import Element, ParseError, fromstring

from fusion.output.edits import SEEN, Edited, seen
from fusion.output.markup import add, clean, document, points, xml_id
from fusion.output.units import Word, baseline, box, corners, made_by, regions, rounded, words
from fusion.page import Line, Page, Polygon

NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"


def page_document(page: Page) -> str:
    """One PAGE document."""
    root = Element("PcGts", {"xmlns": NAMESPACE, "pcGtsId": xml_id(page.id)})
    metadata = add(root, "Metadata")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, text in (("Creator", made_by(page)), ("Created", now), ("LastChange", now)):
        add(metadata, name, text)
    for name, text in page.identities.items():
        add(metadata, "MetadataItem", type="processingStep", name=name, value=text)
    for name, text in seen(page).items():
        add(metadata, "MetadataItem", type="other", name=name, value=text)
    file = PurePath(page.id).name
    sheet = add(root, "Page", imageFilename=file, imageWidth=page.width, imageHeight=page.height)
    parts = list(regions(page))
    if parts:
        order = add(add(sheet, "ReadingOrder"), "OrderedGroup", id="order")
        for number, (name, _) in enumerate(parts):
            add(order, "RegionRefIndexed", index=number, regionRef=name)
    for name, lines in parts:
        text = "\n".join(line.diplomatic for line in lines)
        region = add(sheet, "TextRegion", id=name, type="paragraph", custom=_digest(text))
        left, top, right, bottom = box([line.polygon for line in lines], page)
        _coords(region, ((left, top), (right, top), (right, bottom), (left, bottom)), page)
        for line in lines:
            _line(region, line, page)
        _text(region, text)
    return document(root, root)


def _line(region: Element, line: Line, page: Page) -> None:
    name = xml_id(line.id)
    element = add(region, "TextLine", id=name, custom=_digest(line.diplomatic))
    _coords(element, line.polygon, page)
    add(element, "Baseline", points=points(rounded(baseline(line), page)))
    for number, word in enumerate(words(line)):
        _word(element, word, f"{name}w{number}", page)
    _text(element, line.diplomatic, line.confidence)
    for index, reading in enumerate(line.readings, 1):
        _text(element, reading.text, index=index, comments=f"{reading.source}: {reading.recipe.model}")


def _digest(text: str) -> str:
    """Names the text of a line as it was written, white space aside, to tell which level somebody corrected."""
    return f"written {{sha256:{sha256(clean(' '.join(text.split())).encode()).hexdigest()[:16]};}}"


def _word(line: Element, word: Word, name: str, page: Page) -> None:
    because = " ".join(dict.fromkeys(glyph.span.because for glyph in word.glyphs))
    element = add(line, "Word", id=name, custom=f"source {{value:{word.sources};}} because {{value:{because};}}")
    _coords(element, word.polygon, page)
    for number, glyph in enumerate(word.glyphs):
        if glyph.placed:
            sign = add(element, "Glyph", id=f"{name}g{number}")
            _coords(sign, glyph.polygon, page)
            _text(sign, glyph.text, glyph.confidence)
            others = [candidate for candidate in glyph.candidates if candidate.text != glyph.text]
            for index, candidate in enumerate(others, 1):
                _text(sign, candidate.text, candidate.probability, index, "ocr")
    _text(element, word.text, word.confidence)
    for index, other in enumerate(word.others, 1):
        _text(element, other.text, other.probability, index, "supplied" if other.supplied else "alternative")
    if word.deleted:
        add(element, "TextStyle", strikethrough=True)


def _text(
    parent: Element, text: str, confidence: float | None = None, index: int = 0, comments: str | None = None
) -> None:
    equivalent = add(parent, "TextEquiv", index=index, conf=confidence, comments=comments)
    add(equivalent, "Unicode", text)


def _coords(parent: Element, polygon: Polygon, page: Page) -> None:
    add(parent, "Coords", points=points(rounded(corners(polygon), page)))


# --- the way back ------------------------------------------------------------------------------------------------------


def page_edits(text: str) -> Edited:
    """The lines of a PAGE document as they stand in it now.

    Where the words of a line say something else than the line, the level counts that no longer says what was written.

    Raises:
        ValueError: it is no PAGE document that `fusion` wrote, or line and words were corrected to different texts.
    """
    try:
        root = fromstring(text)
    except ParseError as error:
        raise ValueError(f"is no XML ({error})") from error
    items = {item.get("name", ""): item.get("value", "") for item in root.iterfind(".//{*}MetadataItem[@type='other']")}
    if not items.keys() >= set(SEEN):
        raise ValueError("names no page that fusion read; its MetadataItem elements are gone")
    for region in root.iterfind(".//{*}TextRegion"):
        whole, lines = _main(region), " ".join(_main(line) or "" for line in region.iterfind("{*}TextLine"))
        if whole is None or region.get("custom") in (None, _digest(whole)):
            continue
        if whole.split() != lines.split():  # else an editor has kept it up with the lines
            raise ValueError(f"is corrected in the text of region {region.get('id')}; correct its lines or words")
    texts: dict[str, str] = {}
    for line in root.iterfind(".//{*}TextLine"):
        name, said = line.get("id", ""), _corrected(line)
        if name in texts:
            raise ValueError(f"has two lines {name}")
        if said is not None:
            texts[name] = said
    return Edited({name: items[name] for name in SEEN}, texts)


def _corrected(line: Element) -> str | None:
    """The text of a line, or of its words where they were corrected; None where the file does not say."""
    whole = _main(line)
    said = [_main(word) for word in line.iterfind("{*}Word")]
    if not said or None in said:
        return whole
    words = " ".join(text for text in said if text is not None)
    if whole is None:
        return words
    if not words or words.split() == whole.split():
        return whole
    was = line.get("custom", "")
    if was == _digest(words):
        return whole
    if was == _digest(whole):
        return words
    raise ValueError(f"has two texts for line {line.get('id')}: its own and that of its words")


def _main(element: Element) -> str | None:
    """The text of lowest index; the first where none has one. None where there is no text, which is not an empty one."""
    found = element.findall("{*}TextEquiv")
    numbers = [one.get("index", "0") for one in found]
    if strange := [number for number in numbers if not number.isdecimal()]:
        raise ValueError(f"has a TextEquiv of index {strange[0]!r}")
    first = min(zip(map(int, numbers), found, strict=True), key=lambda pair: pair[0], default=None)
    return (first[1].findtext("{*}Unicode") or "") if first is not None else None
