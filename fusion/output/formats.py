"""Pages in the formats that can be asked for by name, printed or written as files.

Knows which format is written by which part of this room, and file names; knows no format itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.errors import ConfigError
from fusion.page import Page
from fusion.records import dump_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENDINGS = {"json": ".json", "text": ".txt", "csv": ".csv", "fhir": ".fhir.json", "tei": ".tei.xml"}
"""File name endings of the formats that are text."""
_LONGEST = 200
"""Bytes of a file name that are kept: file systems allow 255, and endings are added."""


def as_text(pages: Sequence[Page], name: str, *, diplomatic: bool = False) -> str:
    """Pages as one text without a line break at its end.

    JSON has one page a row; CSV one header; a FHIR Bundle holds the medications of all pages; plain text names the page
    where there are several.

    Raises:
        ConfigError: TEI of several pages, which is one document each.
    """
    if name == "tei" and len(pages) > 1:
        raise ConfigError(
            "--format tei", "is one document for each page, and there are several", "Give a folder: --out."
        )
    return _writers(diplomatic)[name](pages).rstrip("\r\n")


def _writers(diplomatic: bool) -> dict[str, Callable[[Sequence[Page]], str]]:
    from fusion.output import fhir, table, tei, text

    def plain(pages: Sequence[Page]) -> str:
        rows = [text.plain(page, diplomatic=diplomatic) for page in pages]
        return (
            rows[0] if len(rows) == 1 else "\n".join(f"== {p.id}\n{row}\n" for p, row in zip(pages, rows, strict=True))
        )

    return {
        "text": plain,
        "json": lambda pages: "".join(map(dump_page, pages)),
        "csv": table.records_csv,
        "fhir": fhir.medication_requests,
        "tei": lambda pages: "".join(map(tei.tei_document, pages)),
    }


def write_page(
    page: Page,
    photo: NDArray[np.uint8] | None,
    folder: Path,
    stem: str,
    formats: Sequence[str],
    *,
    diplomatic: bool = False,
) -> Iterator[str]:
    """Write one page in the wanted formats; yields the names of the files. Pages of one file are told by `.p1`, `.p2`."""
    stem += f".p{page.id.rpartition('#')[2]}" if re.search(r"#\d+$", page.id) else ""
    for name in formats:
        if name != "overlay":
            text = as_text([page], name, diplomatic=diplomatic) + "\n"
            (folder / f"{stem}{ENDINGS[name]}").write_text(text, encoding="utf-8", newline="")
            yield f"{stem}{ENDINGS[name]}"
    if "overlay" in formats and photo is not None:
        from PIL import Image

        from fusion.output.overlay import draw_overlay

        Image.fromarray(draw_overlay(photo, page)).save(folder / f"{stem}.overlay.png")
        yield f"{stem}.overlay.png"


def stems(names: Sequence[str]) -> list[str]:
    """One file name per input, distinct on every file system: `a/note.jpg` and `b/note.jpg` must not meet."""
    taken: set[str] = set()
    found = []
    for name in names:
        base = re.sub(r"[^\w.-]", "_", Path(name).name)
        base = base.encode()[-_LONGEST:].decode(errors="ignore")  # the end tells files apart more often than the start
        stem, number = base, 2
        while stem.casefold() in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem.casefold())
        found.append(stem)
    return found
