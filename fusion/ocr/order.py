"""Reading order: regions of writing in the order in which a person reads them, and which of them belong together.

Knows boxes in px and where a line is a bare enumerator; knows nothing of what is written. The page is cut recursively
(Nagy, Seth and Viswanathan, "A prototype document image analysis system for technical journals", 1992) in coordinates
turned to the slant of the writing. A block of rows that white strips divide is one of three things, and each is read in
its own way:

    columns   prose or a long list: one column after the other
    labels    few on the left, each at the middle of what it embraces (a brace): a label, then its group
    grid      fields of a form, a table, answers side by side: row by row

Vertical writing is the same with the page on its side: columns from right to left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.ocr.layout import TALL, height_of, slant, width_of
from fusion.page import is_ideograph

GUTTER = 0.7
"""Least width of the white strip between two columns, in heights of a line."""
CLOSE = 0.6
"""Columns of prose stand closer than this, in widths of the narrower column."""
LIST, SHORT_LIST = 6, 3
"""Columns of so many lines are read by columns, however far apart; of so many where most lines are sums or prose."""
PROSE = 12
"""Characters from which a line is prose; a Chinese one counts twice."""
FULL = 0.6
"""A line of prose fills at least this share of its column, but for the last of a paragraph."""
SPANS = 1.2
"""A first line without which the strip is wider by this factor stands above both columns."""
SLACK = 0.1
"""Boxes beside each other may overlap by this share of the left one's width."""
CENTRED = 1.0
"""A label stands at the middle of its group to within this many heights of a line."""

_ENUMERATOR = regex.compile(r"[(（]?(?:\d{1,3}|[A-Za-z]|[①-⑳]|[一二三四五六七八九十]{1,3})[.．、,:：)）]*\s*")
_SUM = regex.compile(r"[\d(（][\d\s.()（）]*[-+−–—×x*÷/:].*=")


@dataclass(frozen=True, slots=True)
class _Box:
    """Extent of one region in turned coordinates; `bare`: an enumerator such as `1.` alone; `total`: a sum, `1+2=3`; `prose`: words."""

    number: int
    left: float
    top: float
    right: float
    bottom: float
    bare: bool = False
    total: bool = False
    prose: bool = False

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        return self.right - self.left


def reading_order(
    quads: Sequence[NDArray[np.float64]],
    texts: Sequence[str] = (),
    braces: Sequence[NDArray[np.float64]] = (),
) -> list[list[int]]:
    """Indices of the lines in reading order, those of one region together.

    Args:
        quads: float64 (4, 2) each, px, clockwise from the top left.
        texts: what each reads, if known: an enumerator alone is no label of a group, sums stand each by itself.
        braces: upper and lower end of strokes that may be braces, float64 (2, 2) each, px; not used for vertical writing.

    Returns:
        One list per region: a run of lines below each other, a column, a group behind a brace, a row of a grid.
    """
    if not quads:
        return []
    tall = [height_of(quad) > TALL * width_of(quad) for quad in quads]
    vertical = 2 * sum(tall) > len(quads)
    if vertical:  # on its side, writing in columns from right to left is writing in rows from top to bottom
        quads = [np.stack([quad[:, 1], -quad[:, 0]], axis=1) for quad in quads]
    angle = math.radians(0.0 if vertical else slant(quads))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    boxes = []
    for number, quad in enumerate(quads):
        (left, top), (right, bottom) = (quad @ turn.T).min(axis=0), (quad @ turn.T).max(axis=0)
        if tall[number] and not vertical:  # a note in the margin stands beside its middle
            middle, half = (top + bottom) / 2, (right - left) / 2
            top, bottom = middle - half, middle + half
        text = texts[number] if texts else ""
        bare, total = bool(_ENUMERATOR.fullmatch(text)), bool(_SUM.match(text))
        prose = sum(character.isalpha() + is_ideograph(character) for character in text) >= PROSE
        boxes.append(_Box(number, float(left), float(top), float(right), float(bottom), bare, total, prose))
    heights = [box.bottom - box.top for box in boxes]
    gutter = GUTTER * float(np.median(heights))
    ends = [brace @ turn.T for brace in braces] if not vertical else []
    children = _embraced(boxes, ends, float(np.median(heights)))
    inner = {child.number for group in children.values() for child in group}
    return _grown([box for box in boxes if box.number not in inner], children, gutter)


def _grown(boxes: list[_Box], children: dict[int, list[_Box]], gutter: float) -> list[list[int]]:
    """Regions of boxes of which some stand before a brace: what it embraces follows its label."""
    if not children:
        return [[box.number for box in region] for region in _ordered(boxes, gutter)]
    regions: list[list[int]] = []
    for region in _ordered([_with(box, children) for box in boxes], gutter):
        run: list[int] = []
        for box in region:
            run.append(box.number)
            if box.number in children:
                regions += [run, *_grown(children[box.number], children, gutter)]
                run = []
        regions += [run] if run else []
    return regions


def _with(box: _Box, children: dict[int, list[_Box]]) -> _Box:
    """A label's box and all that it embraces."""
    boxes = [box, *(_with(child, children) for child in children.get(box.number, []))]
    return _Box(
        box.number,
        min(one.left for one in boxes),
        min(one.top for one in boxes),
        max(one.right for one in boxes),
        max(one.bottom for one in boxes),
        box.bare,
        box.total,
        box.prose,
    )


def _embraced(boxes: list[_Box], braces: Sequence[NDArray[np.float64]], height: float) -> dict[int, list[_Box]]:
    """Label → boxes that a brace to its right embraces. Each has one label; a brace embraces two boxes at least."""
    nearest: dict[int, tuple[float, _Box]] = {}
    for (x, top), (_, bottom) in braces:
        before = [b for b in boxes if b.right <= x + height and b.bottom > top - height and b.top < bottom + height]
        before = [b for b in before if x - b.right < 3 * height]
        behind = [b for b in boxes if b.left >= x - height / 2 and top - height / 3 < b.middle < bottom + height / 3]
        behind = [b for b in behind if b.left - x < 2 * height]
        if not before:
            continue
        label = min(before, key=lambda b: abs(x - b.right) + abs(b.middle - (top + bottom) / 2))
        behind = [b for b in behind if b is not label and b.left >= label.right - SLACK * label.width]
        for box in behind:
            if box.number not in nearest or abs(box.left - x) < nearest[box.number][0]:
                nearest[box.number] = (abs(box.left - x), label)
    children: dict[int, list[_Box]] = {}
    for box in boxes:
        if box.number in nearest:
            children.setdefault(nearest[box.number][1].number, []).append(box)
    return {label: group for label, group in children.items() if len(group) > 1}


def _ordered(boxes: list[_Box], gutter: float) -> list[list[_Box]]:
    rows = _rows(boxes)
    regions: list[list[_Box]] = []
    run: list[_Box] = []
    start = 0
    while start < len(rows):
        end, strips = _block(rows, start, gutter)
        if not strips:
            run += sorted(rows[start], key=lambda box: (box.left, box.middle))
            start += 1
            continue
        if run:
            regions.append(run)
            run = []
        regions += _within(rows[start:end], strips, gutter)
        start = end
    return [*regions, run] if run else regions


def _within(rows: list[list[_Box]], strips: list[float], gutter: float) -> list[list[_Box]]:
    """Regions of a block that white strips divide at these places."""
    block = [box for row in rows for box in row]
    columns = [
        [box for box in block if low <= box.left < high] for low, high in pairwise([-math.inf, *strips, math.inf])
    ]
    labelled = _labelled(columns[0], [box for column in columns[1:] for box in column])
    if labelled:
        return [part for label, group in labelled for part in ([label], *_ordered(group, gutter))]
    if _are_columns(columns):
        return [part for column in columns for part in _ordered(column, gutter)]
    return [sorted(row, key=lambda box: (box.left, box.middle)) for row in rows]


def _rank(box: _Box) -> tuple[float, ...]:
    """From top to bottom; the rest makes the order independent of that of detection."""
    return (box.middle, box.left, box.top, box.right)


def _rows(boxes: list[_Box]) -> list[list[_Box]]:
    """Boxes whose middles lie within each other's height stand on one row; rows from top to bottom.

    Of two boxes above each other only one is on a row: the slant of a wide page doesn't run its rows together.
    """
    rows: list[list[_Box]] = []
    for box in sorted(boxes, key=_rank):
        fitting = [
            (max(_shared(box, other) for other in row), -number)
            for number, row in enumerate(rows)
            if all(_apart(box, other) for other in row) and any(_shared(box, other) > 0.5 for other in row)
        ]
        if fitting:
            rows[-max(fitting)[1]].append(box)
        else:
            rows.append([box])
    return sorted(rows, key=lambda row: sum(box.middle for box in row) / len(row))


def _shared(a: _Box, b: _Box) -> float:
    """Overlap of two boxes' heights, as a share of the lower one's."""
    return (min(a.bottom, b.bottom) - max(a.top, b.top)) / max(min(a.bottom - a.top, b.bottom - b.top), 1e-9)


def _apart(a: _Box, b: _Box) -> bool:
    return a.left >= b.right - SLACK * b.width or b.left >= a.right - SLACK * a.width


def _block(rows: list[list[_Box]], start: int, gutter: float) -> tuple[int, list[float]]:
    """Longest block of rows from `start` that the same strips divide: its end, and where its columns start."""
    best: tuple[int, list[float]] = (start, [])
    for end in range(start + 2, len(rows) + 1):
        strips = _strips([box for row in rows[start:end] for box in row], gutter)
        if strips:
            best = (end, [place for _, place in strips])
        elif best[1]:
            break
    if best[1] and len(rows[start]) == 1:  # a headline that reaches into the strip stands above both columns
        whole = max(_strips([box for row in rows[start : best[0]] for box in row], gutter))
        below = max(_strips([box for row in rows[start + 1 : best[0]] for box in row], gutter), default=whole)
        if below[0] > SPANS * whole[0]:
            return start, []
    return best


def _strips(block: list[_Box], least: float) -> list[tuple[float, float]]:
    """White strips with two rows or more on both sides, from left to right: (width, where the right side starts)."""
    found: list[tuple[float, float]] = []
    edge, reach = -math.inf, -math.inf
    for box in sorted(block, key=lambda box: box.left):
        if math.isfinite(reach) and box.left - reach >= least:
            between = [other for other in block if edge <= other.left < box.left]
            after = [other for other in block if other.left >= box.left]
            if len(_rows(between)) >= 2 and len(_rows(after)) >= 2:
                found.append((box.left - reach, box.left))
                edge = box.left
        reach = max(reach, box.right)
    return found


def _are_columns(columns: list[list[_Box]]) -> bool:
    """Whether each column is read by itself: lines that fill it, close to its neighbour, or a long list."""
    widths = [max(box.width for box in column) for column in columns]
    filled = all(
        np.mean([box.width >= FULL * widest for box in sorted(column, key=_rank)[:-1]]) >= 0.7
        for column, widest in zip(columns, widths, strict=True)
        if len(column) > 1
    )
    if not filled:
        return False
    gaps = [min(box.left for box in after) - max(box.right for box in before) for before, after in pairwise(columns)]
    close = all(gap <= CLOSE * min(pair) for gap, pair in zip(gaps, pairwise(widths), strict=True))
    lines = [box for column in columns for box in column]
    long = np.mean([box.total or box.prose for box in lines]) > 0.5
    return close or min(map(len, columns)) >= (SHORT_LIST if long else LIST)


def _labelled(left: list[_Box], right: list[_Box]) -> list[tuple[_Box, list[_Box]]]:
    """Labels with the groups that they stand at the middle of; empty when the left side is none of labels.

    Rows of the right side are dealt out, in order, so that the groups' middles lie
    nearest to their labels (dynamic programming over the places of the cuts).
    """
    if any(box.bare for box in left):
        return []
    labels = sorted(left, key=_rank)
    rows = _rows(right)
    if not rows or len(labels) > len(rows) / 2:
        return []
    tops = [min(box.top for box in row) for row in rows]
    bottoms = [max(box.bottom for box in row) for row in rows]
    cost = np.full((len(labels) + 1, len(rows) + 1), np.inf)
    came = np.zeros(cost.shape, dtype=int)
    cost[0, 0] = 0.0
    for label, box in enumerate(labels):
        for end in range(label + 1, len(rows) + 1):
            tried = [
                cost[label, start] + abs((tops[start] + bottoms[end - 1]) / 2 - box.middle)
                for start in range(label, end)
            ]
            came[label + 1, end] = label + int(np.argmin(tried))
            cost[label + 1, end] = min(tried)
    height = float(np.median([box.bottom - box.top for box in right]))
    if cost[-1, -1] > CENTRED * height * len(labels):
        return []
    groups: list[tuple[_Box, list[_Box]]] = []
    end = len(rows)
    for label in range(len(labels), 0, -1):
        start = int(came[label, end])
        groups.append((labels[label - 1], [box for row in rows[start:end] for box in row]))
        end = start
    return groups[::-1]
