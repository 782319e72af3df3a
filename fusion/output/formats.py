"""Pages in the formats of `fusion.formats`: one writer each, printed or written as files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ConfigError
from fusion.formats import Format
from fusion.output.alto import alto_document
from fusion.output.fhir import medication_requests
from fusion.output.hocr import hocr_document
from fusion.output.labelstudio import tasks
from fusion.output.overlay import draw_overlay
from fusion.output.paddle import labels
from fusion.output.pagexml import page_document
from fusion.output.pdf import pdf_document
from fusion.output.table import records_csv
from fusion.output.tei import tei_document
from fusion.output.units import regions
from fusion.page import Line, Page
from fusion.records import dump_page

UNREAD = "[---]"
"""A line of unknown length that nobody read, as the Leiden conventions write a lost line."""
_LONGEST = 200
"""Bytes of a file name that are kept: file systems allow 255, and endings are added."""
_ANYWHERE = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_AT_START = re.compile(r"^(\s*\d*)([-+=.)])")
"""What Markdown takes for a mark: anywhere, and at the start of a line or after a number there."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page and what it is shown with.

    Attributes:
        page: the page.
        photo: its photograph as displayed, uint8 (H, W, 3), RGB; None for formats that show none.
        source: the file that it was decoded from, or its bytes; None where there is none.
    """

    page: Page
    photo: NDArray[np.uint8] | None = None
    source: Path | bytes | None = None

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The photograph."""
        assert self.photo is not None, "a format that shows photographs is given them"
        return self.photo


def plain(page: Page, *, diplomatic: bool = False) -> str:
    """Transcript of a page, one row per line, in reading order.

    Supplied text stands in square brackets, and a line that nobody read is `[---]`. With `diplomatic` there is only what
    is on the paper: supplied text becomes `□` again.

    >>> from fusion.page import Line, Span
    >>> line = Line("l0", ((0, 0), (9, 0), (9, 9), (0, 9)), 0, spans=(
    ...     Span("明天", "agreed", 0.9, "agreed"), Span("5", "supplied", 0.5, "context", extent=1)))
    >>> page = Page("a.png", "00", 9, 9, lines=(line,))
    >>> plain(page), plain(page, diplomatic=True)
    ('明天[5]', '明天□')
    """
    if diplomatic:
        return page.diplomatic
    return "\n".join(line.marked if line.spans else UNREAD for line in page.lines)


def markdown(page: Page, *, diplomatic: bool = False) -> str:
    """Transcript of a page as CommonMark: a paragraph for each part of the page, its lines broken as they are written.

    Struck-out text stands between `~~` (GitHub's extension), supplied text in square brackets; nothing else is a mark.
    """
    return "\n\n".join("\\\n".join(_markdown(line, diplomatic) for line in lines) for _, lines in regions(page))


def _markdown(line: Line, diplomatic: bool) -> str:
    text = ""
    for mark, spans in itertools.groupby(line.spans, key=lambda span: span.mark):
        part = "".join(f"[{s.text}]" if s.source == "supplied" and not diplomatic else s.diplomatic for s in spans)
        part = _ANYWHERE.sub(r"\\\1", part)
        if mark == "deleted" and part.strip():  # `~~` must touch what it strikes out
            part = part.replace(part.strip(), f"~~{part.strip()}~~")
        text += part
    return _AT_START.sub(r"\1\\\2", text.strip()) or _ANYWHERE.sub(r"\\\1", UNREAD)


def _named(pages: Iterable[Page], write: Callable[[Page], str], heading: str) -> str:
    """Texts of pages, each under its name where there are several."""
    texts = [(page.id, write(page)) for page in pages]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{heading} {name}\n{text}" for name, text in texts)


_OF_PAGE: dict[Format, Callable[[Page], str]] = {
    Format.TEI: tei_document,
    Format.PAGE: page_document,
    Format.ALTO: alto_document,
}
_OF_PAGES: dict[Format, Callable[[Iterable[Page]], str]] = {
    Format.JSON: lambda pages: "".join(map(dump_page, pages)),
    Format.CSV: records_csv,
    Format.FHIR: medication_requests,
    Format.HOCR: hocr_document,
    Format.LABELSTUDIO: tasks,
    Format.PADDLEOCR: labels,
}


def content(sheets: Iterable[Sheet], format_: Format, *, diplomatic: bool = False) -> bytes:
    """Pages as the content of one file.

    JSON has one page a row; CSV one header; a FHIR Bundle holds the medications of all pages; text and Markdown name the
    page where there are several. Sheets are taken one by one, and nothing is kept but what is written of them.

    Raises:
        ConfigError: several pages in a format that is one document for each page, or none in such a format.
        InputError: a photograph does not fit its page.
    """
    if format_ is Format.PDF:
        return pdf_document((sheet.page, sheet.shown, sheet.source) for sheet in sheets)
    pages = (sheet.page for sheet in sheets)
    if format_ in _OF_PAGES:
        text = _OF_PAGES[format_](pages)
    elif format_ is Format.TEXT:
        text = _named(pages, lambda page: plain(page, diplomatic=diplomatic), "==")
    elif format_ is Format.MARKDOWN:
        text = _named(pages, lambda page: markdown(page, diplomatic=diplomatic), "#")
    else:
        sheet = _only(sheets, format_)
        drawn = format_ is Format.OVERLAY
        text = draw_overlay(sheet.shown, sheet.page) if drawn else _OF_PAGE[format_](sheet.page)
    return (text.rstrip("\r\n") + "\n").encode()


def _only(sheets: Iterable[Sheet], format_: Format) -> Sheet:
    first: Sheet | None = None
    for sheet in sheets:
        if first is not None:
            problem = "is one document for each page, and there are several"
            raise ConfigError(f"--format {format_}", problem, "Give a folder: --out.")
        first = sheet
    if first is None:
        raise ConfigError(f"--format {format_}", "is one document for each page, and there is none", "Give a page.")
    return first


def write_page(
    page: Page,
    photo: NDArray[np.uint8] | None,
    folder: Path,
    stem: str,
    format_: Format,
    *,
    diplomatic: bool = False,
    source: Path | bytes | None = None,
) -> str:
    """Write one page in one format; returns the name of the file. Pages of one input are told apart by `.p1`, `.p2`.

    See `Sheet` for `photo` and `source`.
    """
    number = re.search(r"#(\d+)$", page.id)
    file = f"{stem}{f'.p{number[1]}' if number else ''}{format_.ending}"
    (folder / file).write_bytes(content([Sheet(page, photo, source)], format_, diplomatic=diplomatic))
    return file


def stems(names: Sequence[str]) -> list[str]:
    """One file name per input, distinct on every file system: `a/note.jpg` and `b/note.jpg` must not meet."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last number a name has got: names that all inputs share cost no search
    found = []
    for name in names:
        base = re.sub(r"[^\w.-]", "_", Path(name).name)
        base = base.encode()[-_LONGEST:].decode(errors="ignore")  # the end tells files apart more often than the start
        stem, number = base, numbers.get(base, 1)
        while stem.casefold() in taken:
            number += 1
            stem = f"{base}-{number}"
        numbers[base] = number
        taken.add(stem.casefold())
        found.append(stem)
    return found
