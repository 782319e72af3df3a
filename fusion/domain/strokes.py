"""What the strokes themselves say: words struck out, words put in between, and a teacher's marks.

Knows pixels (OpenCV), lines and spans; knows no reader. Everything here only marks: no text is changed by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.domain.places import pieces
from fusion.ink import InkLine, PageImage
from fusion.page import Check, Line, Mark, Page, Polygon, Span

FLAT = set("-–—_=一二三≡÷+~→…·. ")
"""Characters that are themselves level strokes."""
LETTERS = 2
"""Fewest characters that a stroke must cross: one may be the bar of a t."""
COVERED = 0.6
"""Share of a character's width that must be crossed."""
THROUGH = 0.35
"""Share of the crossing's columns that must have ink above it, and below it."""
SOLID = 0.95
"""Share of its columns that must have ink on the stroke itself: letters in a row line up, but with paper between them."""
SLOPE = 0.3
"""Steepest strike-out, rise over run."""
SIDE = 1200
"""Longest side at which a page is searched for coloured ink, px."""
RED, DARK = 2e-4, 0.5
"""A page has a teacher's ink from this share of red pixels on, if there is at least this much other ink per red."""
SMALL = 0.75
"""An inserted line is lower than this share of the line below it."""


# --- struck out -----------------------------------------------------------------------------------------------------


def struck(line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans with what is crossed out marked `deleted`; a span is cut where the stroke begins or ends.

    Args:
        line: crop, uint8 (h, w, 3) RGB, and its ink.
        spans: of the line; they stay as they are where nothing is crossed out.
    """
    text = "".join(span.text for span in spans)
    if line.ink is None or len(text) < LETTERS or min(line.crop.shape[:2]) < 8:
        return tuple(spans)
    strokes = _crossings(_inked(line.crop))
    if not strokes:
        return tuple(spans)
    crossed = [False] * len(text)
    for (left, right), number in zip(_extents(line.ink.place(text), line.crop.shape[1]), range(len(text)), strict=True):
        shared = max((min(right, b) - max(left, a) for a, b in strokes), default=0.0)
        crossed[number] = right > left and shared >= COVERED * (right - left)
    stretches = [
        (start, end)
        for start, end in _runs(crossed)
        if sum(not c.isspace() for c in text[start:end]) >= LETTERS and set(text[start:end]) - FLAT
    ]
    return pieces(spans, stretches, lambda span: replace(span, mark="deleted")) if stretches else tuple(spans)


def _inked(crop: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where there is ink: Otsu's threshold on grey; nothing on paper without contrast."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    if float(np.percentile(grey, 95)) - float(grey.min()) < 40:
        return np.zeros(grey.shape, dtype=np.bool_)
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    return np.asarray(mask > 0)


def _crossings(ink: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Level strokes through the middle of writing: (left, right) px.

    A ruled line runs on over blank paper from edge to edge, an underline has nothing below it, and the bar of a letter
    is shorter than the writing is high.
    """
    rows = np.flatnonzero(ink.any(axis=1))
    if not len(rows):
        return []
    tall = max(8, int(rows[-1] - rows[0]))
    found = cv2.HoughLinesP(
        ink.astype(np.uint8) * 255, 1, np.pi / 360, max(12, tall // 3), minLineLength=0.8 * tall, maxLineGap=tall // 8
    )
    kept = []
    for x1, y1, x2, y2 in [] if found is None else found.reshape(-1, 4).tolist():
        if abs(y2 - y1) <= SLOPE * abs(x2 - x1) and not _ruled(ink, x1, x2) and _through(ink, (x1, y1, x2, y2), tall):
            kept.append((float(min(x1, x2)), float(max(x1, x2))))
    return _joined(kept, tall / 4)


def _ruled(ink: NDArray[np.bool_], x1: float, x2: float) -> bool:
    width = ink.shape[1]
    return bool(min(x1, x2) <= 0.02 * width and max(x1, x2) >= 0.98 * width)


def _through(ink: NDArray[np.bool_], stroke: tuple[float, float, float, float], tall: int) -> bool:
    """Whether a stroke is one, and a good part of its columns has ink clearly above and clearly below it."""
    x1, y1, x2, y2 = stroke
    columns = np.arange(int(min(x1, x2)), int(max(x1, x2)) + 1)
    middle = y1 + (columns - x1) * (y2 - y1) / (x2 - x1)
    near, far = max(3.0, 0.12 * tall), 0.6 * tall
    beside = max(1, round(0.02 * tall))
    on = above = below = 0
    for column, y in zip(columns, middle, strict=True):
        strip = ink[:, min(column, ink.shape[1] - 1)]
        on += bool(strip[max(0, round(y) - beside) : round(y) + beside + 1].any())
        above += bool(strip[max(0, int(y - far)) : max(0, int(y - near))].any())
        below += bool(strip[int(y + near) + 1 : int(y + far) + 1].any())
    return on >= SOLID * len(columns) and min(above, below) >= THROUGH * len(columns)


def _joined(strokes: list[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Overlapping or nearly touching stretches as one."""
    result: list[tuple[float, float]] = []
    for left, right in sorted(strokes):
        if result and left <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(result[-1][1], right))
        else:
            result.append((left, right))
    return result


def _extents(places: Sequence[tuple[float, float]], width: float) -> list[tuple[float, float]]:
    """Where each character begins and ends: half-way to its neighbours, since a CTC peak is narrower than a letter."""
    centres = [(left + right) / 2 for left, right in places]
    borders = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    half = (borders[0] - centres[0]) if borders else width / 2
    tail = (centres[-1] - borders[-1]) if borders else width / 2
    edges = [max(0.0, centres[0] - half), *borders, min(width, centres[-1] + tail)]
    return list(itertools.pairwise(edges))


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([0, *map(int, flags), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


# --- put in between -------------------------------------------------------------------------------------------------


def inserted(page: Page) -> Page:
    """The page with small lines that sit on the upper edge of a larger one marked `added`, each behind that one."""
    boxes = [_box(line.polygon) for line in page.lines]
    hosts = {
        number: host
        for number, box in enumerate(boxes)
        for host, other in enumerate(boxes)
        if host != number and _sits_on(box, other)
    }
    if not hosts:
        return page
    order = sorted(range(len(boxes)), key=lambda number: (hosts.get(number, number), number in hosts, number))
    return replace(page, lines=tuple(_marked(page.lines[n], "added") if n in hosts else page.lines[n] for n in order))


def _marked(line: Line, mark: Mark) -> Line:
    return replace(line, spans=tuple(replace(span, mark=mark) for span in line.spans))


def _box(polygon: Polygon) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)


def _sits_on(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    height, below = box[3] - box[1], other[3] - other[1]
    inside = other[0] - height < box[0] and box[2] < other[2] + height
    narrow = box[2] - box[0] < 0.6 * (other[2] - other[0])
    touches = other[1] - 0.25 * below < box[3] < other[1] + 0.5 * below
    return 0 < height < SMALL * below and inside and narrow and touches and box[1] < other[1]


# --- a teacher's ink ------------------------------------------------------------------------------------------------


def teacher(image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
    """The page without red ticks and crosses, and what is red on it, if the rest is written in another colour.

    A page written wholly in red is the pupil's and stays. Ticks and crosses are painted over, since they run through the
    pupil's writing; red writing stays to be read. `teacher_tick`, `teacher_cross` and `teacher_writing` have their place on
    the photograph.
    """
    factor = min(1.0, SIDE / max(image.pixels.shape[:2]))
    small = cv2.resize(image.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    red, other = _inks(small)
    if red.sum() < RED * red.size or other.sum() < DARK * red.sum():
        return image, ()
    erased = np.zeros(red.shape, np.uint8)
    checks = []
    for kind, mask in _marks(red):
        checks.append(Check(f"teacher_{kind}", f"a {kind} in red ink", (), False, _on_photo(mask, factor, image)))
        if kind != "writing":
            erased[mask] = 1
    if erased.any():
        wide = np.asarray(cv2.dilate(erased, np.ones((5, 5), np.uint8)), dtype=np.uint8)
        height, width = image.pixels.shape[:2]
        mask_full = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST)
        paper = cv2.resize(_without(small, wide), (width, height), interpolation=cv2.INTER_LINEAR)
        image = replace(image, pixels=np.where(mask_full[..., None] > 0, paper, image.pixels).astype(np.uint8))
    return image, tuple(checks)


def is_teachers(line: Line, checks: Sequence[Check]) -> bool:
    """Whether a line is one that stands in red ink."""
    left, top, right, bottom = _box(line.polygon)
    for check in checks:
        if check.kind == "teacher_writing" and check.polygon is not None:
            a, b, c, d = _box(check.polygon)
            shared = max(0.0, min(right, c) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
            if shared > 0.5 * (right - left) * (bottom - top):
                return True
    return False


def _inks(pixels: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of red ink and of other ink, bool (H, W)."""
    hue, saturation, value = cv2.split(cv2.cvtColor(np.asarray(pixels, dtype=np.uint8), cv2.COLOR_RGB2HSV))
    grey = cv2.cvtColor(np.asarray(pixels, dtype=np.uint8), cv2.COLOR_RGB2GRAY)
    paper = float(np.percentile(grey, 80))
    red = ((hue < 9) | (hue > 168)) & (saturation > 90) & (value > 70)
    return np.asarray(red), np.asarray((grey < paper - 60) & ~red)


def _without(pixels: NDArray[Any], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the masked pixels filled from around them."""
    return np.asarray(cv2.inpaint(np.asarray(pixels, dtype=np.uint8), mask, 3, cv2.INPAINT_TELEA), dtype=np.uint8)


def _marks(red: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Red ink that stands together: a tick or a cross by itself, or else writing; each with its mask, bool (H, W)."""
    strokes = cv2.morphologyEx(red.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    reach = max(9, max(red.shape) // 35)
    groups, labels = cv2.connectedComponents(cv2.dilate(strokes, np.ones((reach // 2, reach), np.uint8)))
    found = []
    for number in range(1, groups):
        own = (labels == number) & (strokes > 0)
        rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
        if max(np.ptp(rows), np.ptp(columns)) < 10:
            continue
        single = cv2.connectedComponents(own.astype(np.uint8))[0] - 1 <= 2
        kind = _shape(own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]) if single else "writing"
        found.append((kind, np.asarray(own)))
    return found


def _on_photo(mask: NDArray[np.bool_], factor: float, image: PageImage) -> Polygon:
    """Corners of a mask's box, px of the photograph."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64) / factor
    photo = cv2.perspectiveTransform(corners[None], image.transform)[0]
    return tuple((float(x), float(y)) for x, y in photo)


def _shape(mark: NDArray[np.bool_]) -> str:
    """`cross` where ink fills all four corners and the middle, `tick` where it goes down to the left and up to the right."""
    square = cv2.resize(mark.astype(np.uint8), (30, 30), interpolation=cv2.INTER_AREA)
    height, width = mark.shape
    if not 0.3 < width / height < 4:
        return "writing"
    corners = [
        bool(square[rows, columns].any())
        for rows in (slice(0, 9), slice(21, 30))
        for columns in (slice(0, 9), slice(21, 30))
    ]
    sides = [square[0:6, 12:18], square[24:30, 12:18], square[12:18, 0:6], square[12:18, 24:30]]
    if all(corners) and square[11:19, 11:19].any() and not any(side.any() for side in sides):
        return "cross"
    lowest = float(np.mean(np.flatnonzero(mark[-max(1, height // 10) :].any(axis=0)))) / width
    if corners[1] and not corners[3] and 0.08 < lowest < 0.62 and not square[0:6, 0:15].any():
        return "tick"
    return "writing"
