"""Geometry of lines: reading order and level crops.

Knows quadrilaterals in px; knows nothing of text. Reading order is a recursive X-Y cut (Nagy, Seth and Viswanathan,
"A prototype document image analysis system for technical journals", 1992) in coordinates turned to the slant of the
writing, with one refinement: a block of rows that shares a gutter is read column by column even when a headline above
or a signature below spans both columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

GUTTER = 1.2
"""Least width of the white strip between two columns, in heights of a line."""


@dataclass(frozen=True, slots=True)
class _Box:
    """Extent of one region in turned coordinates."""

    number: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def slant(quads: Sequence[NDArray[np.float64]]) -> float:
    """Median direction of the lines, degrees counter-clockwise, weighted by their length; 0.0 for no lines."""
    angles, weights = [], []
    for quad in quads:
        dx, dy = (quad[1] + quad[2] - quad[0] - quad[3]) / 2
        length = math.hypot(dx, dy)
        if length > 2 * _height(quad):  # a short region has no direction of its own
            angles.append(-math.degrees(math.atan2(dy, dx)))
            weights.append(length)
    if not angles:
        return 0.0
    order = np.argsort(angles)
    cumulated = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(angles)[order][np.searchsorted(cumulated, cumulated[-1] / 2)])


def reading_order(quads: Sequence[NDArray[np.float64]]) -> list[int]:
    """Indices of the regions in reading order: columns left to right, each top to bottom.

    Args:
        quads: float64 (4, 2) each, px, clockwise from the start of the line.
    """
    angle = math.radians(slant(quads))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    boxes = []
    for number, quad in enumerate(quads):
        turned = quad @ turn.T
        (left, top), (right, bottom) = turned.min(axis=0), turned.max(axis=0)
        boxes.append(_Box(number, float(left), float(top), float(right), float(bottom)))
    if not boxes:
        return []
    gutter = GUTTER * float(np.median([_height(quad) for quad in quads]))
    return [box.number for box in _ordered(boxes, gutter)]


def _ordered(boxes: list[_Box], gutter: float) -> list[_Box]:
    rows = _rows(boxes)
    result: list[_Box] = []
    start = 0
    while start < len(rows):
        end, cut = _columns_from(rows, start, gutter)
        if cut is None:
            result += sorted(rows[start], key=lambda box: (box.left, box.middle))
            start += 1
            continue
        block = [box for row in rows[start:end] for box in row]
        result += _ordered([box for box in block if box.left < cut], gutter)
        result += _ordered([box for box in block if box.left >= cut], gutter)
        start = end
    return result


def _rank(box: _Box) -> tuple[float, ...]:
    """From top to bottom; the rest makes the order independent of that of detection."""
    return (box.middle, box.left, box.top, box.right)


def _rows(boxes: list[_Box]) -> list[list[_Box]]:
    """Regions whose middles lie within each other's height stand on one row; rows from top to bottom."""
    rows: list[list[_Box]] = []
    for box in sorted(boxes, key=_rank):
        home = next((row for row in reversed(rows) if any(_beside(box, other) for other in row)), None)
        if home is None:
            rows.append([box])
        else:
            home.append(box)
    return rows


def _beside(a: _Box, b: _Box) -> bool:
    overlap = min(a.bottom, b.bottom) - max(a.top, b.top)
    apart = a.left >= b.right or b.left >= a.right
    return apart and overlap > 0.5 * min(a.bottom - a.top, b.bottom - b.top)


def _columns_from(rows: list[list[_Box]], start: int, gutter: float) -> tuple[int, float | None]:
    """Longest block of rows from `start` that one gutter divides: (end, x of the cut), or (start, None)."""
    best: tuple[int, float | None] = (start, None)
    for end in range(start + 2, len(rows) + 1):
        block = [box for row in rows[start:end] for box in row]
        cut = _gutter(block, gutter)
        if cut is None:
            if best[1] is not None:
                break
            continue
        best = (end, cut)
    return best


def _gutter(block: list[_Box], least: float) -> float | None:
    """Widest white strip with at least two regions, one above the other, on both sides."""
    widest, cut = least, None
    reach = -math.inf
    for box in sorted(block, key=lambda box: box.left):
        gap = box.left - reach
        if gap >= widest and math.isfinite(reach):
            sides = ([b for b in block if b.left < box.left], [b for b in block if b.left >= box.left])
            if all(len(_rows(side)) >= 2 for side in sides):
                widest, cut = gap, box.left
        reach = max(reach, box.right)
    return cut


def _height(quad: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(quad[3] - quad[0]) + np.linalg.norm(quad[2] - quad[1])) / 2


def cut_out(pixels: NDArray[np.uint8], quad: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The region as a level crop: uint8 (h, w, 3), at least 1 px each way."""
    width = max(1, round(float(max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3])))))
    height = max(1, round(float(max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1])))))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    cut = cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, dtype=np.uint8)


def upright_corners(quad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same quadrilateral, clockwise from the corner at the top left of the writing."""
    order = np.argsort(quad.sum(axis=1))
    first = int(order[0])
    rolled = np.roll(quad, -first, axis=0)
    edge, other = rolled[1] - rolled[0], rolled[3] - rolled[0]
    clockwise = edge[0] * other[1] - edge[1] * other[0] > 0
    return rolled if clockwise else rolled[[0, 3, 2, 1]]
