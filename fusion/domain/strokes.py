"""Struck-out words, insertions and a teacher's marks. Everything here only marks; no text is changed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.domain.places import pieces
from fusion.ink import InkLine, PageImage
from fusion.page import Check, Line, Page, Polygon, Span
from fusion.placement import edges, to_photo

FLAT = set("-–—_=一二三≡÷+~→…·. ")
"""Characters that are themselves level strokes."""
COVERED = 0.6
"""Share of a character's width that must be struck out."""
SIDE = 1200
"""Longest side of the page when searched for red ink, px."""
RED, DARK = 2e-4, 0.5
"""Least share of red pixels, and least other ink per red, of a page with a teacher's marks."""
SMALL = 0.75
"""Greatest height of an inserted line, in heights of the line below it."""


# --- struck out -----------------------------------------------------------------------------------------------------


def struck(line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans of a line with what is crossed out marked `deleted`; a span is cut where the stroke begins or ends."""
    text = "".join(span.text for span in spans)
    if line.ink is None or not line.struck or not text:
        return tuple(spans)
    crossed = []
    for left, right in itertools.pairwise(edges(line.ink.place(text), float(line.crop.shape[1]))):
        shared = max(min(right, b) - max(left, a) for a, b in line.struck)
        crossed.append(right > left and shared >= COVERED * (right - left))
    stretches, end = [], 0
    for hit, run in itertools.groupby(crossed):
        start, end = end, end + len(list(run))
        letters = [character for character in text[start:end] if not character.isspace()]
        if hit and letters and set(letters) - FLAT:
            stretches.append((start, end))
    return pieces(spans, stretches, lambda span: replace(span, mark="deleted")) if stretches else tuple(spans)


# --- insertions -----------------------------------------------------------------------------------------------------


def inserted(page: Page) -> Page:
    """The page with small lines on the upper edge of a larger one marked `added`, each after that one."""
    boxes = [_box(line.polygon) for line in page.lines]
    hosts = {
        n: host
        for n, box in enumerate(boxes)
        for host, other in enumerate(boxes)
        if _sits_on(box, other) and not any(_in_column(box, one) for k, one in enumerate(boxes) if k not in (n, host))
    }
    lines = list(page.lines)
    for n in hosts:
        lines[n] = replace(lines[n], spans=tuple(replace(span, mark="added") for span in lines[n].spans))
    order = sorted(range(len(lines)), key=lambda n: (hosts.get(n, n), n in hosts, n))
    ordered = tuple(replace(lines[n], order=place) for place, n in enumerate(order))
    return replace(page, lines=ordered) if hosts else page


def _box(polygon: Polygon) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)


def _sits_on(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether a box is lower and narrower than another one and on its upper edge."""
    height, below = box[3] - box[1], other[3] - other[1]
    inside = other[0] + 0.5 * height < box[0] and box[2] < other[2] + height
    narrow = box[2] - box[0] < 0.6 * (other[2] - other[0])
    touches = other[1] - 0.25 * below < box[3] < other[1] + 0.5 * below
    return 0 < height < SMALL * below and inside and narrow and touches and box[1] < other[1]


def _in_column(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether a box stands right above or below another one, as high and with the same left edge: it is a line of its own."""
    height, theirs = box[3] - box[1], other[3] - other[1]
    gap = max(box[1], other[1]) - min(box[3], other[3])
    return (
        abs(box[0] - other[0]) < 0.5 * height and 0.7 < height / max(theirs, 1.0) < 1.4 and -0.4 * height < gap < height
    )


# --- a teacher's ink ------------------------------------------------------------------------------------------------


def teacher(image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
    """The page without red ticks and crosses, and checks with the place of all red ink on the photograph.

    Checks are `teacher_tick`, `teacher_cross` and `teacher_writing`; red writing stays to be read. A page wholly in red is
    the pupil's.
    """
    small, factor = shrunk(image.pixels, SIDE)
    red, other = _inks(small)
    if red.sum() < RED * red.size or other.sum() < DARK * red.sum():
        return image, ()
    erased = np.zeros(red.shape, np.uint8)
    checks = []
    for kind, mask in _marks(red):
        checks.append(Check(f"teacher_{kind}", f"a {kind} in red ink", (), False, _on_photo(mask, factor, image)))
        if kind != "writing":
            erased[mask] = 1
    return without(image, small, erased), tuple(checks)


def shrunk(pixels: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], float]:
    """A page, uint8 (H, W, 3), at most `longest` px long and wide, and the factor of its sides, in (0, 1]."""
    height, width = pixels.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8), factor


def without(image: PageImage, small: NDArray[np.uint8], erased: NDArray[np.uint8]) -> PageImage:
    """The page with paper where `erased`, uint8 (h, w), is not 0; `small` is the page as `shrunk` gives it."""
    if not erased.any():
        return image
    wide = cv2.dilate(erased, np.ones((5, 5), np.uint8)).astype(np.uint8)
    size = image.pixels.shape[1::-1]
    paper = cv2.resize(cv2.inpaint(small, wide, 3, cv2.INPAINT_TELEA), size, interpolation=cv2.INTER_LINEAR)
    covered = cv2.resize(wide, size, interpolation=cv2.INTER_NEAREST)
    return replace(image, pixels=np.where(covered[..., None] > 0, paper, image.pixels).astype(np.uint8))


def is_teachers(line: Line, checks: Sequence[Check]) -> bool:
    """Whether a line is the teacher's writing: more than half of it is inside one."""
    left, top, right, bottom = _box(line.polygon)
    for check in checks:
        if check.kind == "teacher_writing" and check.polygon is not None:
            a, b, c, d = _box(check.polygon)
            shared = max(0.0, min(right, c) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
            if shared > 0.5 * (right - left) * (bottom - top):
                return True
    return False


def _inks(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of red ink and of other ink, bool (H, W)."""
    hue, saturation, value = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    paper = float(np.percentile(grey, 80))
    red = ((hue < 9) | (hue > 168)) & (saturation > 90) & (value > 70)
    return np.asarray(red), np.asarray((grey < paper - 60) & ~red)


def _marks(red: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Groups of red ink: kind (`tick`, `cross` or `writing`) and mask, bool (H, W)."""
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
        kind = shape_of(own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]) if single else "writing"
        found.append((kind, np.asarray(own)))
    return found


def _on_photo(mask: NDArray[np.bool_], factor: float, image: PageImage) -> Polygon:
    """Corners of a mask's box, px of the photograph."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return to_photo([(x / factor, y / factor) for x, y in corners], image.transform)


def shape_of(mark: NDArray[np.bool_]) -> str:
    """The kind of a mark, bool (h, w) cut to its ink.

    `cross`: ink in the four corners and the middle; `tick`: down on the left, up to the right; else `writing`.
    """
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
