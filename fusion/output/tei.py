"""A page as TEI P5 (https://tei-c.org/guidelines/p5/, chapter 11: representation of primary sources).

A line of writing is `<lb/>` and its text, with its place in `<facsimile>`. `<del>` struck out, `<add>` put in between, `<gap>` read
by nobody, `<supplied>` completed from the context, `<unclear>` doubtful: with alternatives, a `<choice>` of them, best first.
"""

from __future__ import annotations

import itertools
from urllib.parse import quote
from xml.etree.ElementTree import Element

from fusion.output.marks import MARKS
from fusion.output.markup import add, document, points, say, xml_id
from fusion.output.units import made_by, rounded
from fusion.page import Line, Page, Span

UNCLEAR = 0.5
"""A span less sure than this is `<unclear>`."""


def tei_document(page: Page) -> str:
    """One TEI document."""
    root = Element("TEI", {"xmlns": "http://www.tei-c.org/ns/1.0"})
    root.text = "\n"
    head = add(root, "teiHeader")
    description = add(head, "fileDesc")
    titles = add(description, "titleStmt")
    add(titles, "title", page.id)
    for source in sorted({span.source for line in page.lines for span in line.spans if _doubtful(span)}):
        statement = add(titles, "respStmt", xml__id=source)
        add(statement, "resp", MARKS[source].meaning)
        add(statement, "name", made_by(page))
    add(add(description, "publicationStmt"), "p", "Read by fusion.")
    add(add(description, "sourceDesc"), "p", f"Image with SHA-256 {page.image_sha256}")
    places = add(root, "facsimile")
    surface = add(places, "surface", ulx=0, uly=0, lrx=page.width, lry=page.height)
    add(surface, "graphic", url=quote(page.id))
    for line in page.lines:
        if len(line.polygon) > 2:
            add(surface, "zone", xml__id=xml_id(line.id), points=points(rounded(line.polygon, page)))
    text = add(root, "text")
    block = add(add(text, "body"), "ab")
    for line in page.lines:
        say(block, "\n")
        _line(block, line)
    say(block, "\n")
    text.tail = "\n"
    return document(root, head, places)


def _doubtful(span: Span) -> bool:
    return span.source == "supplied" or (span.confidence is not None and span.confidence < UNCLEAR)


def _line(block: Element, line: Line) -> None:
    name = xml_id(line.id)
    add(block, "lb", n=name, facs=f"#{name}" if len(line.polygon) > 2 else None)
    if not line.spans:
        add(block, "gap", reason="illegible", unit="line", extent=1)
    for mark, spans in itertools.groupby(line.spans, key=lambda span: span.mark):
        parent = block
        if mark == "deleted":
            parent = add(block, "del", rend="strikethrough")
        elif mark == "added":
            parent = add(block, "add", place="above")
        for span in spans:
            _span(parent, span)


def _span(parent: Element, span: Span) -> None:
    who = f"#{span.source}"
    if span.source == "gap":
        add(parent, "gap", reason="illegible", unit="character", extent=span.extent)
    elif span.source == "supplied":
        add(parent, "supplied", span.text, reason="illegible", cert=_cert(span.confidence), resp=who)
    elif not _doubtful(span):
        say(parent, span.text)
    else:
        if span.alternatives:
            parent = add(parent, "choice")
        add(parent, "unclear", span.text, cert=_cert(span.confidence), resp=who)
        for other in span.alternatives:
            add(parent, "unclear", other.text, cert=_cert(other.probability))


def _cert(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.2f}"
