"""Geometry of lines: corners, slant and level crops. Knows quadrilaterals in px; knows nothing of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

ROUND, ASKEW = 1.4, 32.0
"""Least ratio of a region's sides that gives it a direction, and tilt of the box around one that has none, degrees."""
TALL = 1.5
"""A region this many times taller than wide may be vertical writing, or turned by a right angle."""


class Region(NamedTuple):
    """Where the detector sees writing: float64 (4, 2) corners, px, and its mean probability inside, in [0, 1]."""

    corners: NDArray[np.float64]
    probability: float


def slant(quads: Sequence[NDArray[np.float64]]) -> float:
    """Median direction of the lines, degrees counter-clockwise, weighted by their length; 0.0 for no lines."""
    angles, weights = [], []
    for quad in quads:
        dx, dy = (quad[1] + quad[2] - quad[0] - quad[3]) / 2
        length = math.hypot(dx, dy)
        if length > 2 * height_of(quad):  # a short region has no direction of its own
            angles.append(-math.degrees(math.atan2(dy, dx)))
            weights.append(length)
    if not angles:
        return 0.0
    order = np.argsort(angles)
    cumulated = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(angles)[order][np.searchsorted(cumulated, cumulated[-1] / 2)])


def height_of(quad: NDArray[np.float64]) -> float:
    """Mean length of the sides across the line, px."""
    return float(np.linalg.norm(quad[3] - quad[0]) + np.linalg.norm(quad[2] - quad[1])) / 2


def width_of(quad: NDArray[np.float64]) -> float:
    """Mean length of the sides along the line, px."""
    return float(np.linalg.norm(quad[1] - quad[0]) + np.linalg.norm(quad[2] - quad[3])) / 2


def cut_out(pixels: NDArray[np.uint8], quad: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The region as a level crop: uint8 (h, w, 3), at least 1 px each way."""
    width = max(1, round(float(max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3])))))
    height = max(1, round(float(max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1])))))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    cut = cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, dtype=np.uint8)


def around(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The level box around points, float64 (n, 2), as corners clockwise from the top left."""
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def upright_corners(quad: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same quadrilateral, clockwise from the corner at the top left of the writing.

    A region about as wide as high has no direction: a plus sign stands in its smallest box on a corner. It gets a level box.
    """
    sides = sorted((width_of(quad), height_of(quad)))
    tilt = math.degrees(math.atan2(*(quad[1] - quad[0])[::-1])) % 90
    if sides[1] < ROUND * sides[0] and ASKEW < tilt < 90 - ASKEW:
        return around(quad)
    order = np.argsort(quad.sum(axis=1))
    first = int(order[0])
    rolled = np.roll(quad, -first, axis=0)
    edge, other = rolled[1] - rolled[0], rolled[3] - rolled[0]
    clockwise = edge[0] * other[1] - edge[1] * other[0] > 0
    return rolled if clockwise else rolled[[0, 3, 2, 1]]
