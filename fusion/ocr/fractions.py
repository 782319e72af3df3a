"""Fractions with one number above the other: a row of them is laid out anew as one line, `1/2+3/4=5/4`, for the recogniser.

Knows quadrilaterals, ink and pixels; knows no model. A bar counts if a number stands close above and close below it, no
wider than the bar. A row of fractions is an equation: an equals sign and other signs stand beside them at the bars' level, and
no other ink is between. So neither a vertical sum is one, nor a form with numbers above and below its rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import regex
from numpy.typing import NDArray

from fusion.view import View

SHORTEST = 8
"""Least length of a bar on the view, px."""
FLAT = 0.25
"""Greatest height of a bar, in its lengths."""
WIDER = 1.34
"""Greatest width of a term, in lengths of its bar."""
CLOSE = 0.9
"""Greatest distance of a term from its bar, in heights of the term."""
LEVEL = 0.5
"""Greatest distance of a sign's or another bar's middle from the row's level, in heights of a term."""
LOW = 1.3
"""Greatest height of a sign, in heights of a term: two numbers and a bar that were found as one are no sign."""
LOOSE = 5
"""Px of the view from which ink between the parts of a row is something that belongs to it and was not found."""
BESIDE = 6.0
"""Greatest distance of neighbours in a row, in heights of a term."""
HEIGHT = 64
"""Height of the new line, px."""
_TERM = regex.compile(r"\p{N}{1,4}|\p{Latin}")
_SIGN = regex.compile(r"[-+=×xX*÷:<>≤≥—–二三一十士]{1,2}|\d{1,3}")
"""What the OCR reads on a lone sign of a row (the last five characters look like one), or on a whole number."""

_EQUALS = regex.compile(r"[=二三]")
Quad = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, px of the page."""


@dataclass(frozen=True, slots=True)
class Part:
    """A fraction or a sign.

    Attributes:
        numbers: of the regions it takes; of a fraction, one that is the bar may be among them.
        boxes: what stands above the bar and below it, without the bar; or the sign.
        level: height of the bar, or of the middle of the sign.
    """

    numbers: tuple[int, ...]
    boxes: tuple[Box, ...]
    level: float


def rows(quads: Sequence[Quad], texts: Sequence[str], view: View, scale: float) -> list[list[Part]]:
    """Rows of fractions and signs, each from left to right.

    Args:
        quads: regions, float64 (4, 2) each, px of the page.
        texts: what the OCR reads on them.
        view: small look at the page.
        scale: px of the page per px of the view.
    """
    boxes = [_box(quad) for quad in quads]
    around = (_around(bar, boxes, texts) for bar in _bars(view, scale))
    fractions = list({one.numbers[:2]: one for one in around if one is not None}.values())
    terms = {number for one in fractions for number in one.numbers}
    found: list[list[Part]] = []
    used: set[int] = set()
    for first in fractions:
        if used.intersection(first.numbers):
            continue
        reach = first.boxes[0][3] - first.boxes[0][1]
        free = [one for one in fractions if not used.intersection(one.numbers)]
        parts = [one for one in free if abs(one.level - first.level) < LEVEL * reach]
        for number, box in enumerate(boxes):
            middle = (box[1] + box[3]) / 2
            near = abs(middle - first.level) < LEVEL * reach and box[3] - box[1] < LOW * reach
            if number not in terms | used and near and _SIGN.fullmatch(texts[number]):
                parts.append(Part((number,), (box,), middle))
        row = _neighbours(parts, first, BESIDE * reach)
        if any(_EQUALS.fullmatch(texts[part.numbers[0]]) for part in row) and not _between(row, view, scale):
            found.append(row)
            used.update(number for part in row for number in part.numbers)
    return found


def _between(row: Sequence[Part], view: View, scale: float) -> bool:
    """Whether there is ink inside the row's outline that none of its parts and bars holds: a minus sign, say, or a word."""
    boxes = np.array([box for part in row for box in part.boxes]) / scale
    left, top = np.maximum(np.floor(boxes[:, :2].min(axis=0)), 0).astype(int)
    right, bottom = np.ceil(boxes[:, 2:].max(axis=0)).astype(int)
    rest = view.ink[top:bottom, left:right].astype(np.uint8)
    for box in boxes:
        a, b, c, d = np.round(box).astype(int) - (left, top, left, top)
        rest[max(0, b - 1) : d + 1, max(0, a - 1) : c + 1] = 0
    for part in row:
        if len(part.boxes) > 1:  # its bar
            level, reach = round(part.level / scale) - top, round((part.boxes[0][3] - part.boxes[0][1]) / scale / 4) + 2
            a, c = (round(side(box[edge] for box in part.boxes) / scale) - left for side, edge in ((min, 0), (max, 2)))
            rest[max(0, level - reach) : level + reach, max(0, a - 2 * reach) : c + 2 * reach] = 0
    sizes = cv2.connectedComponentsWithStats(rest)[2][1:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_HEIGHT + 1]
    return bool(len(sizes) and sizes.max() >= LOOSE)


def laid_out(pixels: NDArray[np.uint8], row: Sequence[Part]) -> NDArray[np.uint8]:
    """A row as one line, uint8 (HEIGHT, w, 3): what stands on a bar and below it on both sides of a slash."""
    crops = [[_cut(pixels, box) for box in part.boxes] for part in row]
    heights = [crop.shape[0] for part in crops for crop in part if len(part) > 1]
    factor = 0.9 * HEIGHT / max(heights)
    paper = np.median(np.concatenate([crop.reshape(-1, 3) for part in crops for crop in part]), axis=0)
    ink = np.min([np.percentile(part[0].reshape(-1, 3), 2, axis=0) for part in crops], axis=0)
    pieces = [_space(HEIGHT // 4, paper)]
    for part in crops:
        for number, crop in enumerate(part):
            if number:
                slash = _space(HEIGHT // 2, paper)
                ends = (HEIGHT // 10, round(0.9 * HEIGHT)), (round(0.4 * HEIGHT), round(0.1 * HEIGHT))
                cv2.line(slash, *ends, ink.tolist(), max(2, HEIGHT // 20), cv2.LINE_AA)
                pieces.append(slash)
            pieces.append(_set(crop, factor, paper))
        pieces.append(_space(HEIGHT // 4, paper))
    return np.hstack(pieces)


def _box(quad: Quad) -> Box:
    (left, top), (right, bottom) = quad.min(axis=0).tolist(), quad.max(axis=0).tolist()
    return left, top, right, bottom


def _cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """A level cut, at least 1 px each way: a region as small as a sign has no direction."""
    left, top, right, bottom = (max(0, round(side)) for side in box)
    return pixels[top : max(top + 1, bottom), left : max(left + 1, right)]


def _bars(view: View, scale: float) -> list[Box]:
    """Flat strokes; the stroke of a 7 is shorter than the region of the 7, which tells it from a bar."""
    level = cv2.morphologyEx(view.ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((1, SHORTEST), np.uint8))
    found = []
    for left, top, width, height, _ in cv2.connectedComponentsWithStats(level)[2][1:].tolist():
        if height <= max(3, FLAT * width):
            found.append((left * scale, top * scale, (left + width) * scale, (top + height) * scale))
    return found


def _around(bar: Box, boxes: Sequence[Box], texts: Sequence[str]) -> Part | None:
    """The fraction of a bar, if a term stands close on both sides."""
    left, top, right, bottom = bar
    above: list[tuple[float, int]] = []
    below: list[tuple[float, int]] = []
    for number, (a, b, c, d) in enumerate(boxes):
        height, middle = d - b, (a + c) / 2
        if not left <= middle <= right or c - a > WIDER * (right - left) or not _TERM.fullmatch(texts[number]):
            continue
        if -height / 2 < top - d < CLOSE * height:
            above.append((abs(top - d), number))
        elif -height / 2 < b - bottom < CLOSE * height:
            below.append((abs(b - bottom), number))
    if not above or not below:
        return None
    high, low = min(above)[1], min(below)[1]
    up, down = boxes[high], boxes[low]
    trimmed = (up[0], up[1], up[2], min(up[3], top - 1)), (down[0], max(down[1], bottom + 1), down[2], down[3])
    slack = (up[3] - up[1]) / 4
    on_bar = [
        number
        for number, (a, b, c, d) in enumerate(boxes)
        if number not in (high, low)
        and left - slack < (a + c) / 2 < right + slack
        and abs(b + d - top - bottom) < 2 * slack
        and c - a <= WIDER * (right - left)
    ]
    return Part((high, low, *on_bar), trimmed, (top + bottom) / 2)


def _neighbours(parts: Sequence[Part], first: Part, most: float) -> list[Part]:
    """The parts, left to right, that follow each other without a wide gap and hold the first fraction."""
    run: list[Part] = []
    end = 0.0
    for part in sorted(parts, key=lambda part: min(box[0] for box in part.boxes)):
        if run and min(box[0] for box in part.boxes) - end > most:
            if first in run:
                break
            run = []
        run.append(part)
        end = max(box[2] for box in part.boxes)
    return run if first in run else []


def _set(crop: NDArray[np.uint8], factor: float, paper: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A crop on the line, half-way up, uint8 (HEIGHT, w, 3)."""
    height, width = (max(1, round(side * factor)) for side in crop.shape[:2])
    height = min(height, HEIGHT)
    line, top = _space(width, paper), (HEIGHT - height) // 2
    line[top : top + height] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    return line


def _space(width: int, paper: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.full((HEIGHT, width, 3), paper, np.uint8)
