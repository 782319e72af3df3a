"""A teacher's red marks on a page: ticks, crosses, circles, underlines, scores and words. They are no text of the pupil's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import regex
from numpy.typing import NDArray

from fusion.domain.shapes import bounds, is_cross, is_tick, without
from fusion.ink import PageImage
from fusion.page import Check, Line, Page, Polygon
from fusion.placement import extent, overlap, to_photo
from fusion.view import shrunk

SIDE = 1200
"""Longest side of the page when searched, px."""
RED, DARK = 2e-4, 0.5
"""Least share of red pixels, and least other ink per red, of a page with a teacher's marks."""
HUES = (9, 168)
"""Hues, of OpenCV's 180, under and over which ink is red."""
SATURATED = (55, 90)
"""Saturation, of 255, over which it may be pale red and over which it is surely red ink."""
BRIGHT = 100
"""Brightness, of 255, under which a reddish dark is a shadow or brown."""
SMALLEST = 10
"""Least side of a mark, px at that scale."""
LARGE = 0.04
"""Share of the page's longer side from which a tick or a cross is a mark by itself, however close to writing."""
ALIKE, APART = 2.5, 1.5
"""Greatest ratio of the heights of two pieces that may be letters of one row, and greatest space between them, in heights."""
STRAIGHT, RULE, THIN = 0.06, 0.5, 0.03
"""Least length of a straight run, least length of a line of such runs that is a rule of the paper, and how far a line may go to
the side, as on a page that is not quite level; in sides of the page."""
STROKES = 2
"""Pieces of ink that a mark consists of at most; writing has more."""
FLAT = 6.0
"""Ratio of its sides from which a mark is a straight line."""
STRUCK = 0.15
"""Share of a level line with other ink close above and below from which it strikes that out."""
HOLLOW, ROUND = 0.5, 0.88
"""Share of the outline that a circle's inside takes at least, and greatest share of the box around it: a square takes all."""
SPARSE = 0.04
"""Share of its box that a mark fills, under which it is a long stroke around or across other ink, and no writing."""
Kind = Literal["tick", "cross", "circle", "underline", "stroke", "writing"]
WRITTEN = ("teacher_writing", "teacher_score")
_SCORE = regex.compile(r"\s*(?:[-+−]?\d{1,3}(?:\.5)?\s*(?:分|/\s*\d{1,3})?|[A-F优良甲乙][+-]?)\s*")


def marks(image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
    """The page without red marks, and checks with the place of all red ink on the photograph.

    Checks are `teacher_tick`, `teacher_cross`, `teacher_circle` (around something), `teacher_underline`, `teacher_stroke` and
    `teacher_writing`; the last two stay to be read. Rules of the paper are no marks, and a page wholly in red is the pupil's.
    """
    small, factor = shrunk(image.pixels, SIDE)
    red, other = _inks(small)
    if red.sum() < RED * red.size or other.sum() < DARK * red.sum():
        return image, ()
    erased = np.zeros(red.shape, np.uint8)
    checks = []
    for kind, mask in _marks(red, other):
        checks.append(Check(f"teacher_{kind}", f"{kind} in red ink", (), False, _on_photo(mask, factor, image)))
        if kind not in ("stroke", "writing"):
            erased[mask] = 1
    return without(image, small, erased, other), tuple(checks)


def scored(page: Page) -> Page:
    """The page with what the teacher wrote called `teacher_score` where all of it reads as one."""

    def named(check: Check) -> Check:
        if check.kind not in WRITTEN:
            return check
        lines = [line for line in page.lines if is_teachers(line, [check])]
        kind = "score" if lines and all(_SCORE.fullmatch(line.text) for line in lines) else "writing"
        return replace(check, kind=f"teacher_{kind}", message=f"{kind} in red ink")

    return replace(page, checks=tuple(map(named, page.checks)))


def is_teachers(line: Line, checks: Sequence[Check]) -> bool:
    """Whether a line is the teacher's writing: more than half of it is inside one."""
    own = extent(line.polygon)
    for check in checks:
        if check.kind in WRITTEN and check.polygon is not None:
            theirs = extent(check.polygon)
            shared = [max(0.0, overlap(own, theirs, axis)) for axis in (0, 1)]
            if shared[0] * shared[1] > 0.5 * (own[2] - own[0]) * (own[3] - own[1]):
                return True
    return False


def _inks(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of red ink and of other ink, bool (H, W). Pale red belongs to a mark that is strongly red elsewhere."""
    hue, saturation, value = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    paper = float(np.percentile(grey, 80))
    reddish = ((hue < HUES[0]) | (hue > HUES[1])) & (saturation > SATURATED[0]) & (value > BRIGHT)
    strong = reddish & (saturation > SATURATED[1])
    _, labels = cv2.connectedComponents(reddish.astype(np.uint8), connectivity=8)
    red = reddish & np.isin(labels, np.unique(labels[strong]))
    return np.asarray(red), np.asarray((grey < paper - 60) & ~red)


def _marks(red: NDArray[np.bool_], other: NDArray[np.bool_]) -> Iterator[tuple[Kind, NDArray[np.bool_]]]:
    """Kind and mask, bool (H, W), of each mark: large ones by themselves, then the ink that stands together."""
    rest = cv2.morphologyEx(_unruled(red), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, own, stats, _ = cv2.connectedComponentsWithStats(rest)
    for number in _at_least(stats, LARGE * max(red.shape)):
        mask = np.asarray(own == number)
        kind = _kind(mask, other)
        if kind not in ("writing", "stroke") and not _in_words(number, stats):
            rest[mask] = 0
            yield kind, mask
    reach = max(9, max(red.shape) // 35)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(rest, np.ones((reach // 2, reach), np.uint8)))
    for number in _at_least(stats, SMALLEST):
        mask = np.asarray((labels == number) & (rest > 0))
        rows, columns = bounds(mask)
        if max(rows.stop - rows.start, columns.stop - columns.start) >= SMALLEST:
            yield _kind(mask, other), mask


def _at_least(stats: Any, size: float) -> list[int]:
    """Numbers of the pieces that are so wide or high, px; `stats` as OpenCV gives them, the first for the background."""
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    return [int(number) + 1 for number in np.flatnonzero(sides >= size)]


def _unruled(red: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Red ink without thin level and upright lines across the page, uint8 (H, W): rules, margins, frames and squares of paper."""
    edge = round(STRAIGHT * max(red.shape)) + 1
    ink = np.pad(red.astype(np.uint8), edge)  # or closing fills what lies between a line and the edge
    for axis, along, across in ((0, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH), (1, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)):
        side = red.shape[axis]
        length = round(STRAIGHT * side) | 1
        run = np.ones((length, 1) if axis == 0 else (1, length), np.uint8)
        bridged = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, run)  # over what the pupil wrote on the line
        joined = cv2.dilate(cv2.morphologyEx(bridged, cv2.MORPH_OPEN, run), np.ones((5, 5), np.uint8))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        thin = (stats[:, along] >= RULE * side) & (stats[:, across] <= THIN * side)
        ink[np.isin(labels, np.flatnonzero(thin[1:]) + 1)] = 0
    return ink[edge:-edge, edge:-edge]


def _in_words(number: int, stats: Any) -> bool:
    """Whether a piece stands in a row of red pieces about as high as it: then it is a letter."""
    left, top, width, height, _ = stats[number]
    heights, tops, lefts, widths = (stats[:, column] for column in (3, 1, 0, 2))
    alike = (heights > height / ALIKE) & (heights < height * ALIKE)
    level = np.minimum(tops + heights, top + height) - np.maximum(tops, top) > np.minimum(heights, height) / 2
    near = np.maximum(lefts, left) - np.minimum(lefts + widths, left + width) < APART * height
    others = np.arange(len(stats))
    return bool((alike & level & near & (others > 0) & (others != number)).any())


def _kind(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> Kind:
    """The kind of a mark, bool (H, W), beside `other` ink."""
    shape = mask[bounds(mask)]
    height, width = shape.shape
    single = cv2.connectedComponents(shape.astype(np.uint8))[0] - 1 <= STROKES
    flat = width >= FLAT * height and height <= THIN * max(mask.shape)
    if single and flat and _stands_on(mask, other):
        return "underline"
    if single and is_cross(shape):
        return "cross"
    if single and is_tick(shape):
        return "tick"
    if single and _encloses(mask, other):
        return "circle"
    return "stroke" if shape.mean() < SPARSE else "writing"


def _stands_on(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether there is other ink close above a level line, which it does not strike out."""
    rows, columns = bounds(mask)
    reach, close = max(SMALLEST, (columns.stop - columns.start) // 4), SMALLEST // 2
    above = other[max(0, rows.start - reach) : rows.start, columns]
    through = other[max(0, rows.start - close) : rows.start, columns].any(axis=0)
    through &= other[rows.stop : rows.stop + close, columns].any(axis=0)
    return bool(above.any() and through.mean() < STRUCK)


def _encloses(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether a mark is a ring around other ink."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = sum(cv2.contourArea(c) for c, node in zip(contours, tree[0], strict=True) if node[3] < 0)
    inside = np.zeros(mask.shape, np.uint8)
    for contour, node in zip(contours, tree[0], strict=True):
        area, around = cv2.contourArea(contour), cv2.boundingRect(contour)[2:]
        if node[3] >= 0 and area > HOLLOW * outer and area < ROUND * around[0] * around[1]:
            cv2.drawContours(inside, [contour], -1, (1,), cv2.FILLED)
    return bool(other[(inside > 0) & ~mask].any())


def _on_photo(mask: NDArray[np.bool_], factor: float, image: PageImage) -> Polygon:
    """Corners of a mask's box, px of the photograph."""
    rows, columns = bounds(mask)
    left, right, top, bottom = columns.start, columns.stop, rows.start, rows.stop
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return to_photo([(x / factor, y / factor) for x, y in corners], image.transform)
