"""Transcript and legend as pictures. Knows how text is set in rows; knows no photograph."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusion.output.compare import clusters
from fusion.output.fonts import HOW_TO_GET_CJK, Pen
from fusion.output.marks import MARKS, RGB, percent, visible
from fusion.page import GAP, Line, Page, Source

_PAPER: RGB = (255, 255, 255)
_INK: RGB = (38, 42, 48)
_FAINT: RGB = (112, 118, 126)
_ROW = 1.65
"""Row height in em."""
_NOTE = 0.62
"""Size of a note beside the text's."""
_LINE_SPACE = 0.6
"""Space after a line's last row, em."""


@dataclass
class _Glyph:
    """One grapheme cluster to be set: what, from where, how wide (px)."""

    text: str
    source: Source
    width: float


@dataclass
class _Block:
    """One line of the page, broken into rows of glyphs; `note` is set faint in a row of its own."""

    number: str
    rows: list[list[_Glyph]] = field(default_factory=list)
    note: str = ""
    failed: bool = False


def draw_transcript(page: Page, pen: Pen, widest: int, height: int) -> tuple[NDArray[np.uint8], str]:
    """The transcript, line by line, coloured and underlined by source, each line level with its ink where it can be.

    Args:
        page: what was read.
        pen: fonts.
        widest: px; longer lines are broken.
        height: of the photograph, px; the picture is taller when the transcript needs it.

    Returns:
        uint8 RGB picture, and the characters that no installed font can draw.
    """
    margin, gutter = pen.size * 1.2, pen.size * 1.8
    small = Pen(max(10, round(pen.size * _NOTE)))
    unwritten = "".join(dict.fromkeys(c for line in page.lines for c in pen.missing(visible(line.text)) if c != GAP))
    blocks = [_block(line, pen, widest - gutter - 2 * margin) for line in page.lines]
    room = max([10.0 * pen.size, *(sum(g.width for g in row) for block in blocks for row in block.rows)])
    tops = _tops(page, blocks, pen, height)
    bottom = max([0.0, *(top + _height(block, pen) for top, block in zip(tops, blocks, strict=True))])
    size = (int(np.ceil(room + gutter + 2 * margin)), max(height, int(np.ceil(bottom + margin))))
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    for top, block in zip(tops, blocks, strict=True):
        _draw_block(draw, block, (margin, top), gutter, (pen, small), room)
    return np.asarray(picture).copy(), unwritten


def _tops(page: Page, blocks: list[_Block], pen: Pen, height: int) -> list[float]:
    """Where each block starts: level with its line, or below the block before it.

    Where the reading order jumps up (columns), being level would leave holes, so the blocks are simply stacked.
    """
    middles = [
        sum(y for _, y in line.polygon) / max(1, len(line.polygon)) * height / max(1, page.height)
        for line in page.lines
    ]
    level = all(-pen.size < b - a for a, b in pairwise(middles)) and all(0 <= y <= height for y in middles)
    tops: list[float] = []
    free = pen.size * 1.0
    for middle, block in zip(middles, blocks, strict=True):
        tops.append(max(free, middle - pen.size) if level else free)
        free = tops[-1] + _height(block, pen)
    return tops


def _height(block: _Block, pen: Pen) -> float:
    return (len(block.rows) * _ROW + (_ROW * _NOTE if block.note else 0) + _LINE_SPACE) * pen.size


def _draw_block(
    draw: ImageDraw.ImageDraw, block: _Block, at: tuple[float, float], gutter: float, pens: tuple[Pen, Pen], room: float
) -> None:
    (left, top), (pen, small) = at, pens
    colour = MARKS["gap"].rgb if block.failed else _FAINT
    draw.text((left + gutter * 0.6, top + pen.size * 1.2), block.number, fill=colour, font=pen.latin, anchor="rs")
    for row in block.rows:
        _set_row(draw, row, left + gutter, top, pen)
        top += _ROW * pen.size
    base = top + (small.size if block.rows else pen.size * 1.2)
    _write(draw, (left + gutter, base), _shortened(block.note, small, room), small, colour)


def _block(line: Line, pen: Pen, room: float) -> _Block:
    number = f"{line.order + 1}"
    if not line.spans:
        reasons = ", ".join(f"{failure.stage}: {failure.kind}" for failure in line.failures)
        return _Block(number + "!", note=f"not read ({reasons})", failed=True)
    if not pen.writes_cjk and any(_is_cjk(character) for character in pen.missing(line.text)):
        return _Block(number, note=f"{len(clusters(line.text))} characters; no font for them")
    rows: list[list[_Glyph]] = [[]]
    used = 0.0
    for span in line.spans:
        shown = f"[{span.text}]" if span.source == "supplied" else span.text
        for cluster in clusters(visible(shown)):
            width = pen.size * 0.95 if cluster == GAP else pen.width(cluster)
            if used + width > room and rows[-1]:
                rows.append([])
                used = 0.0
            rows[-1].append(_Glyph(cluster, span.source, width))
            used += width
    failed = ", ".join(f"{failure.stage}: {failure.kind}" for failure in line.troubles)
    notes = [f"confidence {percent(line.confidence)}"] if line.confidence is not None else []
    return _Block(number, rows, " · ".join([*notes, failed] if failed else notes))


def _is_cjk(character: str) -> bool:
    """Scripts that only the large East Asian fonts have; emoji, which they lack too, are not meant."""
    return 0x2E80 <= ord(character) < 0x1F000 or ord(character) >= 0x20000


def _set_row(draw: ImageDraw.ImageDraw, row: list[_Glyph], left: float, top: float, pen: Pen) -> None:
    base = top + pen.size * 1.2
    start = 0
    for end in range(1, len(row) + 1):
        if end < len(row) and row[end].source == row[start].source:
            continue
        run = row[start:end]
        width = sum(glyph.width for glyph in run)
        _set_run(draw, run, (left, base), pen)
        _underline(draw, run[0].source, (left, left + width), base + pen.size * 0.24, max(1, pen.size // 12))
        left += width
        start = end


def _set_run(draw: ImageDraw.ImageDraw, run: list[_Glyph], at: tuple[float, float], pen: Pen) -> None:
    left, base = at
    colour = MARKS[run[0].source].rgb
    for glyph in run:
        if glyph.text == GAP:  # drawn, so that it needs no font and never looks like a missing glyph
            box = (left + 0.1 * pen.size, base - 0.74 * pen.size, left + 0.8 * pen.size, base - 0.02 * pen.size)
            draw.rectangle(box, outline=colour, width=max(1, pen.size // 12))
        else:
            _write(draw, (left, base), glyph.text, pen, colour)
        left += glyph.width


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, pen: Pen, colour: RGB) -> None:
    """Write from a baseline; each run in the font that has it."""
    left, base = at
    for run, font in pen.runs(text):
        draw.text((left, base), run, fill=colour, font=font, anchor="ls")
        left += font.getlength(run)


def _underline(draw: ImageDraw.ImageDraw, source: Source, extent: tuple[float, float], y: float, width: int) -> None:
    """Each source its own line: solid, dashed, dotted, double, wavy; none for what both readers agree on."""
    style = MARKS[source].underline.partition(" ")[0]
    colour = MARKS[source].rgb
    left, right = extent
    step = {"dashed": 7.0 * width, "dotted": 3.0 * width, "wavy": 4.0 * width}.get(style, 0.0)
    if style in ("solid", "double"):
        draw.line((left, y, right, y), fill=colour, width=width)
    if style == "double":
        draw.line((left, y + 2.5 * width, right, y + 2.5 * width), fill=colour, width=width)
    if style in ("dashed", "dotted"):
        for at in np.arange(left, right, step).tolist():
            draw.line((at, y, min(at + step * 0.6, right), y), fill=colour, width=width)
    if style == "wavy":
        xs = np.arange(left, right, 1.0)
        points = [(float(x), float(y + width * np.sin((x - left) * 2 * np.pi / (2 * step)))) for x in xs]
        draw.line(points, fill=colour, width=width)


def _shortened(text: str, pen: Pen, room: float) -> str:
    if pen.width(text) <= room:
        return text
    while text and pen.width(text + "…") > room:
        text = text[:-1]
    return text + "…"


def draw_legend(page: Page, pen: Pen, width: int, unwritten: str) -> NDArray[np.uint8]:
    """What colours, letters and outlines mean; and what could not be drawn, with the way out.

    Args:
        page: names the picture.
        pen: fonts.
        width: of the picture, px.
        unwritten: characters that no installed font can draw.

    Returns:
        uint8 RGB (h, width, 3).
    """
    small = Pen(max(11, round(pen.size * 0.7)))
    margin, step = pen.size * 1.2, small.size * 1.9
    items = [(mark.source, f"{mark.letter or '–'}  {mark.label}: {mark.meaning}") for mark in MARKS.values()]
    swatch = small.size * 2.2
    column = max(swatch + small.size * 1.6 + max(small.width(text) for _, text in items), 1)
    columns = max(1, int((width - margin) // column))
    rows = -(-len(items) // columns)
    notes = _notes(page, small, width - 2 * margin, unwritten)
    height = int(margin + (rows + len(notes)) * step + margin * 0.6)
    picture = Image.new("RGB", (width, height), (246, 247, 248))
    draw = ImageDraw.Draw(picture)
    draw.line((0, 0, width, 0), fill=(208, 212, 217), width=max(1, pen.size // 14))
    for n, (source, text) in enumerate(items):
        left = margin + (n // rows) * column
        base = margin + (n % rows) * step + small.size
        _swatch(draw, source, (left, base - small.size, left + swatch, base + small.size * 0.25), small.size)
        _write(draw, (left + swatch + small.size * 0.6, base), text, small, _INK)
    for n, (text, colour) in enumerate(notes):
        _write(draw, (margin, margin + (rows + n) * step + small.size), text, small, colour)
    return np.asarray(picture).copy()


def _notes(page: Page, pen: Pen, room: float, unwritten: str) -> list[tuple[str, RGB]]:
    texts: list[tuple[str, RGB]] = [
        (f"Stronger tint: more confident. Dashed outline: confidence unknown. {visible(page.id)}", _FAINT)
    ]
    if unwritten and not pen.writes_cjk:
        texts.append((f"A font for Chinese is missing, so text is left out. {HOW_TO_GET_CJK}", MARKS["gap"].rgb))
    texts += [(f"{visible(failure.stage)}: {visible(failure.message)}", MARKS["gap"].rgb) for failure in page.failures]
    texts += [(f"Photograph: {visible(finding.message)}", _INK) for finding in page.findings]
    return [(_shortened(text, pen, room), colour) for text, colour in texts]


def _swatch(draw: ImageDraw.ImageDraw, source: Source, box: tuple[float, float, float, float], em: int) -> None:
    """A small sample that looks like the span on the photograph."""
    colour = MARKS[source].rgb
    soft = tuple(round(255 * 0.65 + part * 0.35) for part in colour)
    width = max(1, em // 9)
    left, top, right, bottom = box
    if source == "supplied":
        draw.rectangle(box, fill=_PAPER)
        for x in np.arange(left, right, em * 0.45).tolist():
            draw.line((x, bottom, min(x + em * 0.5, right), top), fill=colour, width=width)
    elif source != "gap":
        draw.rectangle(box, fill=(soft[0], soft[1], soft[2]))
    draw.rectangle(box, outline=colour, width=width * (2 if source == "gap" else 1))
