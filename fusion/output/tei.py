"""The transcript as TEI P5 (https://tei-c.org/guidelines/p5/, chapter 11: representation of primary sources).

Knows spans and their marks; knows no picture.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from fusion.page import Line, Page, Span

UNCLEAR = 0.5
"""A span less sure than this is `<unclear>`, with its confidence as `cert`."""
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|[\ud800-\udfff]")


def tei_document(page: Page) -> str:
    """One TEI document: a line of writing is `<lb/>` and its text.

    `<del>` struck out, `<add>` put in between, `<gap>` read by nobody, `<supplied>` completed, `<unclear>` doubtful.
    Characters that XML does not allow become U+FFFD.
    """
    lines = "\n".join(_line(line) for line in page.lines)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<TEI xmlns="http://www.tei-c.org/ns/1.0">\n'
        f"<teiHeader><fileDesc><titleStmt><title>{_text(page.id)}</title></titleStmt>"
        "<publicationStmt><p>Read by fusion.</p></publicationStmt>"
        f"<sourceDesc><p>Image with SHA-256 {_text(page.image_sha256)}</p></sourceDesc></fileDesc></teiHeader>\n"
        f"<text><body><ab>\n{lines}\n</ab></body></text>\n</TEI>\n"
    )


def _line(line: Line) -> str:
    return f"<lb n={quoteattr(_FORBIDDEN.sub('�', line.id))}/>" + "".join(_span(span) for span in line.spans)


def _span(span: Span) -> str:
    text = _text(span.text)
    if span.source == "gap":
        text = f'<gap reason="illegible" unit="character" extent="{span.extent}"/>'
    elif span.source == "supplied":
        text = f'<supplied reason="illegible">{text}</supplied>'
    elif span.confidence is not None and span.confidence < UNCLEAR:
        text = f'<unclear cert="{span.confidence:.2f}">{text}</unclear>'
    return {"": text, "deleted": f"<del>{text}</del>", "added": f"<add>{text}</add>"}[span.mark]


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("�", text))
