"""Boxes to tick on a form: where they are, and how they are marked. They are taken off the page before it is read.

Knows ink on a page, no text. A box stands apart, is square, has four straight unbroken sides and its label on the right, with
nothing on the left; so neither the character 口 in a word is one nor a box to fill in, as in 3 + □ = 7 or Qty □. What is in it
is a tick, a cross or nothing: writing stays.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.domain.shapes import bounds, is_cross, is_tick, without
from fusion.ink import PageImage
from fusion.page import Check, Line, Page, Place, Polygon, stretches
from fusion.placement import Extent, extent, to_photo
from fusion.view import shrunk

SIDE = 1600
"""Longest side of the page when searched, px."""
LENGTHS, LARGEST = (12, 20, 32), 80
"""Least lengths of a straight line, tried one after the other (a thick tick holds short ones), and greatest side of a box,
px at that scale."""
SHARE = 0.3
"""Greatest side, in heights of the page: a lone square on a crop is a character."""
SQUARE = 1.25
"""Greatest ratio of its sides."""
STRAIGHT = 0.9
"""Least share of a side that is drawn within the box's edge."""
LONG = 0.7
"""Share of a row, or column, of a box that is ink where one of its lines runs."""
APART, CLEAR = 0.4, 0.15
"""White space on the left and right of a box, in sides (half of it below): a character of a word has less; and the largest
share of ink above it."""
ROW, LABEL = 2, 4
"""How far on the left of a box, in sides, there is no writing, and how far on the right there is some: its label."""
INSET = 0.15
"""Width of the strip along a side, in sides, that counts as the box and not as its mark."""
FINE = 9
"""Greatest width of a stroke when it is asked whether ink is dark or light, px."""
EMPTY = 0.03
"""Share of the inside that is ink in an empty box."""
SOLID = 0.6
"""Share from which it is a blot and no box."""

KINDS = ("box_empty", "box_ticked", "box_crossed")
Box = tuple[int, int, int, int]


def boxes(image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
    """The page without its boxes and their marks, and a check with the place on the photograph for each.

    Checks are those of `KINDS`.
    """
    small, factor = shrunk(image.pixels, SIDE)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    fine = np.ones((FINE, FINE), np.uint8)
    light, dark_ink = (cv2.morphologyEx(grey, kind, fine).mean() for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    if light > dark_ink:  # chalk on a board
        grey = cv2.bitwise_not(grey)
    around = 2 * LARGEST + 1
    inked = cv2.adaptiveThreshold(grey, 1, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, around, 25)
    dark = np.asarray(inked, dtype=np.uint8)
    labels = np.asarray(cv2.connectedComponents(dark)[1], dtype=np.int32)
    erased, checks = np.zeros(dark.shape, np.uint8), []
    for box in _outlines(dark):
        own = _own(labels, box)
        kind = _state(own, dark, box)
        if kind is None:
            continue
        checks.append(Check(f"box_{kind}", f"a box to tick, {kind}", (), False, _place(box, factor, image)))
        erased[own] = 1
    return without(image, small, erased), tuple(checks)


def labelled(page: Page) -> Page:
    """The page with the label of each box in its check: the words on its right, up to the next box."""
    if not any(check.kind in KINDS for check in page.checks):
        return page
    known = [extent(c.polygon, page.angle) for c in page.checks if c.kind in KINDS and c.polygon is not None]

    def with_label(check: Check) -> Check:
        if check.kind not in KINDS or check.polygon is None:
            return check
        own, state = extent(check.polygon, page.angle), check.kind.removeprefix("box_")
        rows = {line.id: extent(line.polygon, page.angle) for line in page.lines}
        level = sorted(
            (line for line in page.lines if _in_row(own, rows[line.id])), key=lambda n: rows[n.id][0] < own[0]
        )
        for line in level:
            others = [one[0] for one in known if one[0] > own[2] and _in_row(one, rows[line.id])]
            place = _label(line, page.angle, own, min(others, default=math.inf))
            if place is not None:
                words = line.text[place.start : place.end]
                return replace(check, message=f"a box to tick, {state}: {words}", places=(place,))
        return replace(check, message=f"a box to tick, {state}", places=())

    return replace(page, checks=tuple(map(with_label, page.checks)))


def _in_row(own: Extent, line: Extent) -> bool:
    """Whether a box stands at the height of a line; a tick may stick out above."""
    return line[1] < own[3] - (own[2] - own[0]) / 2 < line[3]


def _label(line: Line, angle: float, own: Extent, end: float) -> Place | None:
    """The words of a line on the right of a box, before `end`, px; None where the first of them is far away."""
    lefts = {word: _left(line, word[0], angle) for word in stretches(line.text)}
    side = own[2] - own[0]
    words = [word for word, left in lefts.items() if own[2] - side / 2 <= left < end]
    if not words or lefts[words[0]] - own[2] >= LABEL * side:
        return None
    return Place(line.id, words[0][0], words[-1][1])


def _left(line: Line, start: int, angle: float) -> float:
    """Where a code point of a line begins, px along the writing; an even share of the line where its span has no place."""
    at = start
    for span in line.spans:
        if at < len(span.text):
            place = span.place(at, at + 1)
            if place is not None:
                return extent(place, angle)[0]
        at -= len(span.text)
    left, _, right, _ = extent(line.polygon, angle)
    return left + start / len(line.text) * (right - left)


def _outlines(dark: NDArray[np.uint8]) -> list[Box]:
    """Squares of four straight lines that stand apart: left, top, right, bottom, the last two exclusive."""
    found: list[Box] = []
    most = min(LARGEST, SHARE * dark.shape[0])
    for length in LENGTHS:
        level = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
        upright = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((length, 1), np.uint8))
        lines = cv2.dilate(cv2.max(level, upright), np.ones((3, 3), np.uint8))
        for left, top, width, height, _ in cv2.connectedComponentsWithStats(lines)[2][1:].tolist():
            # As it was before dilation, without the piece of a tick that sticks out.
            box = _trimmed(dark, (left + 1, top + 1, left + width - 1, top + height - 1))
            short, long = sorted((box[2] - box[0], box[3] - box[1]))
            if not length <= short <= long <= min(most, SQUARE * short) or any(_meet(box, one) for one in found):
                continue
            if _has_sides(dark, box) and _stands_apart(dark, box):
                found.append(box)
    return sorted(found, key=lambda box: (box[1], box[0]))


def _trimmed(dark: NDArray[np.uint8], box: Box) -> Box:
    """The part of a box from its first to its last long line, across and down."""
    left, top, right, bottom = box
    inside = dark[top:bottom, left:right]
    if not inside.size:
        return box
    rows, columns = (np.flatnonzero(inside.mean(axis=axis) >= LONG) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return box
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _meet(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _has_sides(dark: NDArray[np.uint8], box: Box) -> bool:
    """Whether all four sides are drawn along the edge of a box."""
    left, top, right, bottom = box
    inside = dark[top:bottom, left:right]
    edge = max(2, round(0.12 * min(inside.shape)))
    sides = (
        inside[:edge].any(axis=0),
        inside[-edge:].any(axis=0),
        inside[:, :edge].any(axis=1),
        inside[:, -edge:].any(axis=1),
    )
    return all(float(side.mean()) >= STRAIGHT for side in sides)


def _stands_apart(dark: NDArray[np.uint8], box: Box) -> bool:
    """Whether there is no ink close around; a tick may stick out at the top right."""
    left, top, right, bottom = box
    gap, middle = max(3, round(APART * (right - left))), (top + bottom) // 2
    sides = (
        dark[top:bottom, max(0, left - gap) : max(0, left - 1)],
        dark[middle:bottom, right + 1 : right + gap],
        dark[bottom + 1 : bottom + gap // 2, left:right],
    )
    above = dark[max(0, top - gap // 2) : max(0, top - 1), left:right]
    return not any(side.any() for side in sides) and float(above.sum()) <= CLEAR * above.size


def _own(labels: NDArray[np.int32], box: Box) -> NDArray[np.bool_]:
    """The ink of a box and of a mark that sticks out of it, bool (H, W); `labels` are the connected pieces of ink."""
    left, top, right, bottom = box
    side = right - left
    reach = slice(max(0, top - side // 2), bottom + side // 4), slice(max(0, left - side // 4), right + side // 2)
    pieces = np.unique(labels[top:bottom, left:right])
    own = np.zeros(labels.shape, np.bool_)
    own[reach] = np.isin(labels[reach], pieces[pieces > 0])
    return own


def _state(own: NDArray[np.bool_], dark: NDArray[np.uint8], box: Box) -> str | None:
    """How a box is marked: `empty`, `ticked` or `crossed`; None if it holds writing or a blot, or stands in a row of writing."""
    left, top, right, bottom = box
    side = right - left
    row = slice(top + side // 4, bottom - side // 4)
    before, label = dark[row, max(0, left - ROW * side) : max(0, left - 2)], dark[row, right + 2 : right + LABEL * side]
    if before.any() or not label.any():
        return None
    mark = own.copy()
    edge = max(3, round(INSET * side))
    inner = slice(top + edge, bottom - edge), slice(left + edge, right - edge)
    share = float(mark[inner].mean()) if mark[inner].size else 1.0
    if share < EMPTY:
        return "empty"
    for strip in (
        (slice(top - 1, top + edge), slice(left - 1, right + 1)),
        (slice(bottom - edge, bottom + 1), slice(left - 1, right + 1)),
        (slice(top - 1, bottom + 1), slice(left - 1, left + edge)),
        (slice(top - 1, bottom + 1), slice(right - edge, right + 1)),
    ):
        mark[strip] = False
    shape = mark[bounds(mark)]
    if share >= SOLID:
        return None
    if is_cross(shape):
        return "crossed"
    return "ticked" if is_tick(shape) else None


def _place(box: Box, factor: float, image: PageImage) -> Polygon:
    left, top, right, bottom = (side / factor for side in box)
    return to_photo([(left, top), (right, top), (right, bottom), (left, bottom)], image.transform)
