"""Pages as a label file of PaddleOCR (PPOCRLabel): file name, tab, JSON list of lines with four corners and a transcription.

It trains detectors and recognisers, so nothing that was not read may stand in it: a line with a gap, with supplied text or without
text is `###` and difficult, which PaddleOCR leaves out of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath

from fusion.output.units import corners, rounded
from fusion.page import Line, Page

IGNORED = "###"
"""Transcription of a line that is not trained on."""


def labels(pages: Iterable[Page]) -> str:
    """One row per page."""
    return "".join(
        f"{' '.join(PurePath(page.id).name.split())}\t"
        f"{json.dumps([_line(line, page) for line in page.lines], ensure_ascii=False)}\n"
        for page in pages
    )


def _line(line: Line, page: Page) -> dict[str, object]:
    unread = not line.text.strip() or any(span.extent for span in line.spans)
    place = [list(point) for point in rounded(corners(line.polygon), page)]
    return {"transcription": IGNORED if unread else line.text, "points": place, "difficult": unread}
