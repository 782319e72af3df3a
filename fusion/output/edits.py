"""Texts that a person corrected in another program, as corrections of stretches."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydantic import BaseModel, ConfigDict

from fusion.output.markup import clean, xml_id
from fusion.page import Line, Page, stretches

SEEN = ("page", "image_sha256", "text_sha256")
"""What a file must carry so that its corrections find back: the page, its photograph, and the text as it stood."""


class Correction(BaseModel):
    """What a person decided about one stretch.

    Attributes:
        page, image_sha256: id of the page, and SHA-256 of its input.
        line: id of the line.
        start, end: code points of the line's text, half-open.
        old: what the person saw there.
        text: what stands there; "" for nothing.
        by: who decided, and when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    page: str
    image_sha256: str
    line: str
    start: int
    end: int
    old: str
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Edited:
    """A page as it came back.

    Attributes:
        seen: what was shown: the values of `SEEN`.
        texts: id of each line in the file → its text.
        by: who corrected it, and when; "" where the file does not say.
    """

    seen: Mapping[str, str]
    texts: Mapping[str, str]
    by: str = ""


def seen(page: Page) -> dict[str, str]:
    """The values of `SEEN`."""
    text = "\n".join(f"{line.id} {line.diplomatic}" for line in page.lines)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return dict(zip(SEEN, (clean(page.id), page.image_sha256, digest), strict=True))


def corrections_of(page: Page, edited: Edited, by: str) -> list[Correction]:
    """What differs between the page as it was shown, without supplied text, and as it came back.

    Raises:
        ValueError: it was made from another photograph or text, or has a line that the page has not.
    """
    if dict(edited.seen) != seen(page):
        other = "photograph" if edited.seen.get("image_sha256") != page.image_sha256 else "reading of the photograph"
        raise ValueError(f"was made from another {other}")
    lines = {xml_id(line.id): line for line in page.lines} | {line.id: line for line in page.lines}
    if strange := sorted(set(edited.texts) - set(lines)):
        raise ValueError(f"has a line {strange[0]} that the page has not")
    who = edited.by or by
    return [
        Correction(
            page=page.id,
            image_sha256=page.image_sha256,
            line=lines[name].id,
            start=start,
            end=end,
            old=lines[name].text[start:end],
            text=new,
            by=who,
        )
        for name, text in edited.texts.items()
        for start, end, new in _changes(lines[name], unicodedata.normalize("NFC", clean(text)))
    ]


def _changes(line: Line, new: str) -> Iterator[tuple[int, int, str]]:
    """Stretches of a line's text that differ, and what stands there now: whole words, Chinese by character."""
    old = clean(line.diplomatic)
    a, b = _edges(old), _edges(new)
    matcher = SequenceMatcher(None, _cut(old, a), _cut(new, b), autojunk=False)
    found: list[tuple[int, int, int, int]] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            continue
        if i == j and i:  # an insertion has no place of its own: it is one with the word before, or after
            i, k = i - 1, k - 1
        elif i == j and j < len(a) - 1:
            j, m = j + 1, m + 1
        if found and i < found[-1][1]:
            i, k = found[-1][0], found.pop()[2]
        found.append((i, j, k, m))
    cells = _cells(line)
    for i, j, k, m in found:
        place = (cells[a[i]][0], cells[a[j] - 1][1]) if cells else (0, 0)
        yield *place, new[b[k] : b[m]]


def _edges(text: str) -> list[int]:
    """Where its words and the white space between them begin and end."""
    return sorted({0, len(text), *(edge for stretch in stretches(text) for edge in stretch)})


def _cut(text: str, edges: list[int]) -> list[str]:
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def _cells(line: Line) -> list[tuple[int, int]]:
    """For each code point of the line as on the paper, the code points of its text: a supplied text is one piece."""
    found: list[tuple[int, int]] = []
    at = 0
    for span in line.spans:
        end = at + len(span.text)
        found += [(at, end)] * span.extent if span.source == "supplied" else [(n, n + 1) for n in range(at, end)]
        at = end
    return found
