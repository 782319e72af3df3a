"""Pages in the formats that can be asked for by name, printed or written as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.errors import ConfigError
from fusion.output.fhir import medication_requests
from fusion.output.table import records_csv
from fusion.output.tei import tei_document
from fusion.page import Page
from fusion.records import dump_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENDINGS = {
    "json": ".json",
    "text": ".txt",
    "csv": ".csv",
    "fhir": ".fhir.json",
    "tei": ".tei.xml",
    "overlay": ".overlay.png",
}
UNREAD = "[---]"
"""A line of unknown length that nobody read, as the Leiden conventions write a lost line."""
_LONGEST = 200
"""Bytes of a file name that are kept: file systems allow 255, and endings are added."""


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


def as_text(pages: Sequence[Page], name: str, *, diplomatic: bool = False) -> str:
    """Pages as one text without a line break at its end.

    JSON has one page a row; CSV one header; a FHIR Bundle holds the medications of all pages; plain text names the page
    where there are several.

    Raises:
        ConfigError: TEI of several pages, which is one document each.
    """
    if name == "tei" and len(pages) > 1:
        problem = "is one document for each page, and there are several"
        raise ConfigError("--format tei", problem, "Give a folder: --out.")
    writers = {
        "json": lambda: "".join(map(dump_page, pages)),
        "csv": lambda: records_csv(pages),
        "fhir": lambda: medication_requests(pages),
        "tei": lambda: "".join(map(tei_document, pages)),
    }
    if name in writers:
        return writers[name]().rstrip("\r\n")
    if len(pages) == 1:
        return plain(pages[0], diplomatic=diplomatic).rstrip("\r\n")
    return "\n".join(f"== {page.id}\n{plain(page, diplomatic=diplomatic)}\n" for page in pages).rstrip("\r\n")


def write_page(
    page: Page, photo: NDArray[np.uint8] | None, folder: Path, stem: str, name: str, *, diplomatic: bool = False
) -> str:
    """Write one page in one format; returns the name of the file. Pages of one input are told apart by `.p1`, `.p2`."""
    number = re.search(r"#(\d+)$", page.id)
    file = f"{stem}{f'.p{number[1]}' if number else ''}{ENDINGS[name]}"
    if name != "overlay":
        text = as_text([page], name, diplomatic=diplomatic) + "\n"
        (folder / file).write_text(text, encoding="utf-8", newline="")
    else:
        from PIL import Image

        from fusion.output.overlay import draw_overlay

        assert photo is not None
        Image.fromarray(draw_overlay(photo, page)).save(folder / file)
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
