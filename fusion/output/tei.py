"""The transcript as TEI P5 (https://tei-c.org/guidelines/p5/, chapter 11: representation of primary sources)."""

from __future__ import annotations

import itertools
import re
from xml.sax.saxutils import escape, quoteattr

from fusion.page import Line, Page, Span

UNCLEAR = 0.5
"""A span less sure than this is `<unclear>`, with its confidence as `cert`."""
_MARKED = {"": "{}", "deleted": "<del>{}</del>", "added": '<add place="above">{}</add>'}
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
    text = ""
    for mark, spans in itertools.groupby(line.spans, key=lambda span: span.mark):
        text += _MARKED[mark].format("".join(map(_span, spans)))
    return f"<lb n={quoteattr(_FORBIDDEN.sub('�', line.id))}/>{text}"


def _span(span: Span) -> str:
    text = _text(span.text)
    if span.source == "gap":
        return f'<gap reason="illegible" unit="character" extent="{span.extent}"/>'
    if span.source == "supplied":
        return f'<supplied reason="illegible">{text}</supplied>'
    if span.confidence is not None and span.confidence < UNCLEAR:
        return f'<unclear cert="{span.confidence:.2f}">{text}</unclear>'
    return text


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("�", text))
