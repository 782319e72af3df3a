"""Where decided characters sit on the photograph, and how far things go along the writing.

Knows the geometry of lines and asks the ink where each character of a text stands; decides nothing about the text.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.ink import InkLine
from fusion.page import Polygon, Span

Extent = tuple[float, float, float, float]
"""Left, top, right, bottom, px."""


def extent(polygon: Polygon, angle: float = 0.0) -> Extent:
    """How far a polygon goes, along the writing.

    Args:
        polygon: px of the photograph.
        angle: degrees counter-clockwise that make the writing level, as in `Page`.
    """
    turn = cmath.rect(1.0, -math.radians(angle))  # y runs down
    points = [complex(x, y) * turn for x, y in polygon]
    xs, ys = [point.real for point in points], [point.imag for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def overlap(one: Extent, other: Extent, axis: int) -> float:
    """How much of an axis (0: across, 1: down) two things share, px; negative: the space between them."""
    return min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis])


def to_photo(points: Sequence[tuple[float, float]], transform: NDArray[np.float64]) -> Polygon:
    """Points in px of the upright page as points in px of the photograph.

    Args:
        points: (x, y) pairs.
        transform: float64 (3, 3), see `PageImage.transform`.
    """
    array = np.asarray(points, dtype=np.float64).reshape(-1, 1, 2)
    moved = cv2.perspectiveTransform(array, transform).reshape(-1, 2)
    return tuple((float(x), float(y)) for x, y in moved)


def place_spans(line: InkLine, spans: Sequence[Span], transform: NDArray[np.float64]) -> tuple[Span, ...]:
    """The same spans, each with its polygon on the photograph and its cuts; without ink they stay unplaced."""
    text = "".join(span.text for span in spans)
    if line.ink is None or not text:
        return tuple(spans)
    borders = edges(line.ink.place(text), float(line.crop.shape[1]))
    matrix = transform @ _crop_to_page(line)
    height = float(line.crop.shape[0])
    placed, start = [], 0
    for span in spans:
        end = start + len(span.text)
        left, right = borders[start], borders[end]
        polygon = to_photo([(left, 0), (right, 0), (right, height), (left, height)], matrix)
        inner = borders[start + 1 : end] if right > left else []
        cuts = tuple(round((edge - left) / (right - left), 4) for edge in inner)
        placed.append(replace(span, polygon=polygon, cuts=cuts))
        start = end
    return tuple(placed)


def edges(places: Sequence[tuple[float, float]], width: float) -> list[float]:
    """Borders between characters, px on the crop: CTC peaks are narrow, so a border lies midway between two peaks."""
    middles = [(left + right) / 2 for left, right in places]
    pitch = (middles[-1] - middles[0]) / (len(middles) - 1) if len(middles) > 1 else 2 * min(middles[0], width)
    inner = [(a + b) / 2 for a, b in itertools.pairwise(middles)]
    return [min(max(edge, 0.0), width) for edge in (middles[0] - pitch / 2, *inner, middles[-1] + pitch / 2)]


def _crop_to_page(line: InkLine) -> NDArray[np.float64]:
    height, width = line.crop.shape[:2]
    crop = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    return np.asarray(cv2.getPerspectiveTransform(crop, np.asarray(line.polygon, dtype=np.float32)), dtype=np.float64)
