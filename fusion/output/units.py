"""What exchange formats are made of: the words and characters of a line, where they sit, and what else may stand there.

A place comes from the alignment of the text with the ink (`Span.cuts`); where that is unknown, it is the smallest stretch whose
place is known. Nothing is split evenly. Supplied text is a gap here, as on the paper: what was supplied is an alternative that
says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import regex

from fusion.page import Candidate, Field, Line, Page, Place, Polygon, Record, Span, joined, lowest

BASELINE = 0.7
"""Where writing stands, as a share of the height of its line, from the top. Baselines are not measured; on the samples the lower edge
of the letters lies at .62 (Latin) and .75 (Chinese) of the height, medians of 25 and 14 lines."""
_LEAST = 1e-4
"""Probability under which a candidate of a character is left out: formats show four decimals."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Other:
    """Another text for a word.

    Attributes:
        text: of the whole word.
        probability: of the piece in which it differs.
        supplied: nobody read it: it was completed from the context, or is a guess at a gap.
    """

    text: str
    probability: float
    supplied: bool


@dataclass(frozen=True, slots=True)
class Glyph:
    """One character (grapheme cluster), or one gap.

    Attributes:
        text: as on the paper: `□` once per character of a gap or of supplied text.
        span: the decision that it belongs to.
        polygon: where it sits, px of the photograph.
        placed: whether that is its own place, not one that it shares.
        candidates: what the OCR saw there, best first.
    """

    text: str
    span: Span
    polygon: Polygon
    placed: bool
    candidates: tuple[Candidate, ...] = ()

    @property
    def confidence(self) -> float | None:
        """That of its decision; 0 where nobody read."""
        return 0.0 if self.span.extent else self.span.confidence


@dataclass(frozen=True, slots=True)
class Word:
    """Characters without white space between them."""

    glyphs: tuple[Glyph, ...]

    @property
    def text(self) -> str:
        """As on the paper."""
        return "".join(glyph.text for glyph in self.glyphs)

    @property
    def polygon(self) -> Polygon:
        """From its first character to its last."""
        return joined(self.glyphs[0].polygon, self.glyphs[-1].polygon)

    @property
    def confidence(self) -> float | None:
        """Of the least sure character that somebody read, None when any is unknown; 0 where nobody read anything."""
        read = [glyph.confidence for glyph in self.glyphs if not glyph.span.extent]
        return lowest(read) if read else 0.0

    @property
    def sources(self) -> str:
        """Who it comes from, in order: `agreed vlm`."""
        return " ".join(dict.fromkeys(glyph.span.source for glyph in self.glyphs))

    @property
    def deleted(self) -> bool:
        """Whether the writer struck it out."""
        return all(glyph.span.mark == "deleted" for glyph in self.glyphs)

    @property
    def others(self) -> tuple[Other, ...]:
        """What else it may be: one decision that lies within it replaced by an alternative, most probable first."""
        found: dict[str, Other] = {}
        before = ""
        for _, group in itertools.groupby(self.glyphs, key=lambda glyph: id(glyph.span)):
            glyphs = list(group)
            span, own = glyphs[0].span, "".join(glyph.text for glyph in glyphs)
            guesses = (Candidate(span.text, span.confidence or 0.0),) if span.source == "supplied" else ()
            if own == span.diplomatic:
                for other in (*guesses, *span.alternatives):
                    text = before + other.text + self.text[len(before) + len(own) :]
                    found.setdefault(text, Other(text, other.probability, span.extent > 0))
            before += own
        found.pop(self.text, None)
        return tuple(sorted(found.values(), key=lambda other: -other.probability))


def glyphs(line: Line) -> list[Glyph]:
    """The characters of a line, white space among them."""
    whole = corners(line.polygon)
    seen = [(p.left + p.right, p.candidates) for r in line.readings[:1] for p in r.positions if not p.optional]
    found = []
    for span in line.spans:
        around = corners(span.polygon) if span.polygon else whole
        if span.extent:
            found.append(Glyph(span.diplomatic, span, around, span.polygon is not None))
            continue
        for match in regex.finditer(r"\X", span.text):
            place = span.place(*match.span())
            if place is None:
                found.append(Glyph(match[0], span, around, False))
                continue
            left, right = (_share(whole, place[a], place[b]) * 2 * line.crop_width for a, b in ((0, 3), (1, 2)))
            candidates = next((c for at, c in seen if left <= at < right), ())
            found.append(Glyph(match[0], span, place, True, tuple(c for c in candidates if c.probability >= _LEAST)))
    return found


def words(line: Line) -> list[Word]:
    """What stands between white space."""
    runs = itertools.groupby(glyphs(line), key=lambda glyph: not glyph.text.isspace())
    return [Word(tuple(run)) for solid, run in runs if solid]


def regions(page: Page) -> Iterator[tuple[str, list[Line]]]:
    """Lines in reading order, by the part of the page that they belong to; an id of each part."""
    for number, (_, run) in enumerate(itertools.groupby(page.lines, key=lambda line: line.region)):
        yield f"r{number:03}", list(run)


def baseline(line: Line) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and end of what a line stands on, px of the photograph."""
    start, end, end_below, start_below = corners(line.polygon)
    low = BASELINE
    return (
        (start[0] + (start_below[0] - start[0]) * low, start[1] + (start_below[1] - start[1]) * low),
        (end[0] + (end_below[0] - end[0]) * low, end[1] + (end_below[1] - end[1]) * low),
    )


def written(page: Page) -> list[Record]:
    """The records of a page; a field that stands on supplied text has that in square brackets, and no value."""
    lines = {line.id: line for line in page.lines}

    def as_written(field: Field) -> Field:
        places = [(lines[place.line], place) for place in field.places if place.line in lines]
        marked = [_marked(line, place) for line, place in places]
        if marked == [line.text[place.start : place.end] for line, place in places]:
            return field
        return replace(field, text=" ".join(marked), value={})

    return [replace(record, fields=tuple(map(as_written, record.fields))) for record in page.records]


def _marked(line: Line, place: Place) -> str:
    """A stretch of a line, supplied text in square brackets."""
    text, at = "", 0
    for span in line.spans:
        part = span.text[max(0, place.start - at) : max(0, place.end - at)]
        text += f"[{part}]" if part and span.source == "supplied" else part
        at += len(span.text)
    return text


def made_by(page: Page) -> str:
    """Program and version that read a page."""
    return f"fusion {page.identities.get('fusion', '')}".rstrip()


def corners(polygon: Sequence[tuple[float, float]]) -> Polygon:
    """Four corners, clockwise from the start; of another polygon, those of its upright box."""
    if len(polygon) == 4:
        return tuple(polygon)
    xs, ys = zip(*(polygon or [(0.0, 0.0)]), strict=True)
    return (min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys))


def rounded(polygon: Polygon, page: Page) -> list[tuple[int, int]]:
    """Whole px on the photograph."""
    return [(round(min(max(x, 0), page.width)), round(min(max(y, 0), page.height))) for x, y in polygon]


def box(polygons: Sequence[Polygon], page: Page) -> Box:
    """Upright box around polygons: left, top, right, bottom in whole px, on the photograph."""
    points = [point for polygon in polygons for point in rounded(polygon, page)] or [(0, 0)]
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _share(whole: Polygon, upper: tuple[float, float], lower: tuple[float, float]) -> float:
    """How far along a line, from 0 to 1, the middle between two points stands."""
    (left, top), (right, low) = whole[0], whole[1]
    width, rise = right - left, low - top
    x, y = (
        (upper[0] + lower[0]) / 2 - (whole[0][0] + whole[3][0]) / 2,
        (upper[1] + lower[1]) / 2 - (whole[0][1] + whole[3][1]) / 2,
    )
    return (x * width + y * rise) / ((width**2 + rise**2) or 1.0)
