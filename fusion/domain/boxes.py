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

from fusion.domain.ink import is_cross, is_tick, shrunk, without
from fusion.ink import PageImage
from fusion.page import Check, Line, Page, Place, Polygon, stretches
from fusion.placement import to_photo

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
BOARD = 110
"""Level of grey under which the page is dark and its ink light."""
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
    if np.median(grey) < BOARD:
        grey = cv2.bitwise_not(grey)  # chalk on a board
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
    corners = [_bounds(check) for check in page.checks if check.kind in KINDS]

    def with_label(check: Check) -> Check:
        left, _, right, bottom = _bounds(check)
        side, state = right - left, check.kind.removeprefix("box_")
        for line in page.lines:
            low, high = min(y for _, y in line.polygon), max(y for _, y in line.polygon)
            if not low < bottom - side / 2 < high:  # a tick may stick out above
                continue
            end = min((a for a, _, c, d in corners if a > right and low < d - (c - a) / 2 < high), default=math.inf)
            words = [word for word in stretches(line.text) if right - side / 2 <= _left(line, word[0]) < end]
            if words and _left(line, words[0][0]) - right < LABEL * side:
                place = Place(line.id, words[0][0], words[-1][1])
                label = line.text[place.start : place.end]
                return replace(check, message=f"a box to tick, {state}: {label}", places=(place,))
        return replace(check, message=f"a box to tick, {state}", places=())

    return replace(page, checks=tuple(with_label(c) if c.kind in KINDS else c for c in page.checks))


def _bounds(check: Check) -> tuple[float, float, float, float]:
    xs, ys = zip(*(check.polygon or ()), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _left(line: Line, start: int) -> float:
    """Where a code point of a line begins along x, px of the photograph: within its span, an even share."""
    for span in line.spans:
        if start < len(span.text):
            xs = [x for x, _ in span.polygon or line.polygon]
            return min(xs) + start / len(span.text) * (max(xs) - min(xs))
        start -= len(span.text)
    return math.inf


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
    rows, columns = np.flatnonzero(mark.any(axis=1)), np.flatnonzero(mark.any(axis=0))
    shape = mark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return None if share >= SOLID else "crossed" if is_cross(shape) else "ticked" if is_tick(shape) else None


def _place(box: Box, factor: float, image: PageImage) -> Polygon:
    left, top, right, bottom = (side / factor for side in box)
    return to_photo([(left, top), (right, top), (right, bottom), (left, bottom)], image.transform)
