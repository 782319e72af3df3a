"""A teacher's red marks on a page: ticks, crosses, circles, underlines, scores and words. They are no text of the pupil's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import regex
from numpy.typing import NDArray

from fusion.domain.ink import cut, is_cross, is_tick, shrunk, without
from fusion.ink import PageImage
from fusion.page import Check, Line, Page, Polygon
from fusion.placement import to_photo

SIDE = 1200
"""Longest side of the page when searched, px."""
RED, DARK = 2e-4, 0.5
"""Least share of red pixels, and least other ink per red, of a page with a teacher's marks."""
SMALLEST = 10
"""Least side of a mark, px at that scale."""
LARGE = 0.04
"""Share of the page's longer side from which a tick or a cross is a mark by itself, however close to writing."""
RULE = 0.5
"""Share of the page's side from which a straight thin mark is a rule of the paper."""
STROKES = 2
"""Pieces of ink that a mark consists of at most; writing has more."""
FLAT = 6.0
"""Ratio of its sides from which a mark is a straight line."""
HOLLOW = 0.5
"""Share of the outline that a circle's inside takes at least."""
_SCORE = regex.compile(r"\s*(?:[-+−]?\d{1,3}(?:\.5)?\s*(?:分|/\s*\d{1,3})?|[A-F][+-]?|优|良|甲|乙|[优良甲乙][+-]?)\s*")


def marks(image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
    """The page without red marks, and checks with the place of all red ink on the photograph.

    Checks are `teacher_tick`, `teacher_cross`, `teacher_circle` (around something), `teacher_underline` and
    `teacher_writing`; writing stays to be read. Rules of the paper are no marks, and a page wholly in red is the pupil's.
    """
    small, factor = shrunk(image.pixels, SIDE)
    red, other = _inks(small)
    if red.sum() < RED * red.size or other.sum() < DARK * red.sum():
        return image, ()
    erased = np.zeros(red.shape, np.uint8)
    checks = []
    for group in _groups(red, other):
        kind = _kind(group, other)
        if kind == "rule":
            continue
        words = f"{kind} in red ink" if kind == "writing" else f"a{'n' if kind[0] == 'u' else ''} {kind} in red ink"
        checks.append(Check(f"teacher_{kind}", words, (), False, _on_photo(group, factor, image)))
        if kind != "writing":
            erased[group] = 1
    return without(image, small, erased), tuple(checks)


def scored(page: Page) -> Page:
    """The page with what the teacher wrote called `teacher_score` where it reads as one."""
    scores = [line for line in page.lines if _SCORE.fullmatch(line.text)]
    checks = tuple(
        replace(check, kind="teacher_score", message="a score in red ink")
        if check.kind == "teacher_writing" and any(is_teachers(line, [check]) for line in scores)
        else check
        for check in page.checks
    )
    return replace(page, checks=checks)


def is_teachers(line: Line, checks: Sequence[Check]) -> bool:
    """Whether a line is the teacher's writing: more than half of it is inside one."""
    left, top, right, bottom = _box(line.polygon)
    for check in checks:
        if check.kind in ("teacher_writing", "teacher_score") and check.polygon is not None:
            a, b, c, d = _box(check.polygon)
            shared = max(0.0, min(right, c) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
            if shared > 0.5 * (right - left) * (bottom - top):
                return True
    return False


def _box(polygon: Polygon) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)


def _inks(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of red ink and of other ink, bool (H, W). Pale red belongs to a mark that is red elsewhere."""
    hue, saturation, value = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    paper = float(np.percentile(grey, 80))
    reddish = ((hue < 9) | (hue > 168)) & (saturation > 55) & (value > 100)
    strong = reddish & (saturation > 90)
    _, labels = cv2.connectedComponents(reddish.astype(np.uint8), connectivity=8)
    red = reddish & np.isin(labels, np.unique(labels[strong]))
    return np.asarray(red), np.asarray((grey < paper - 60) & ~red)


def _groups(red: NDArray[np.bool_], other: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Red ink that stands together, and single large marks: a mask for each, bool (H, W)."""
    strokes = cv2.morphologyEx(red.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    pieces, own = cv2.connectedComponents(strokes)
    alone = np.zeros(red.shape, np.bool_)
    found = []
    for number in range(1, pieces):
        mask = np.asarray(own == number)
        if max(cut(mask).shape) >= LARGE * max(red.shape) and _kind(mask, other) != "writing":
            found.append(mask)
            alone |= mask
    reach = max(9, max(red.shape) // 35)
    rest = np.where(alone, 0, strokes).astype(np.uint8)
    groups, labels = cv2.connectedComponents(cv2.dilate(rest, np.ones((reach // 2, reach), np.uint8)))
    found += [np.asarray((labels == number) & (rest > 0)) for number in range(1, groups)]
    return [mask for mask in found if max(cut(mask).shape) >= SMALLEST]


def _kind(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> str:
    """The kind of a mark, bool (H, W), beside `other` ink."""
    shape = cut(mask)
    height, width = shape.shape
    if cv2.connectedComponents(shape.astype(np.uint8))[0] - 1 > STROKES:
        return "writing"
    if max(height, width) >= FLAT * min(height, width):
        side = mask.shape[0 if height > width else 1]
        if max(height, width) >= RULE * side:
            return "rule"
        return "underline" if width > height and _above(mask, other) else "writing"
    if is_cross(shape):
        return "cross"
    if is_tick(shape):
        return "tick"
    return "circle" if _encloses(mask, other) else "writing"


def _above(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether there is other ink close above a level line."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = max(SMALLEST, len(columns) // 4)
    return bool(other[max(0, rows[0] - reach) : rows[0], columns[0] : columns[-1] + 1].any())


def _encloses(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether a mark is a ring around other ink."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    inside = np.zeros(mask.shape, np.uint8)
    outer = sum(cv2.contourArea(c) for c, node in zip(contours, tree[0], strict=True) if node[3] < 0)
    for contour, node in zip(contours, tree[0], strict=True):
        if node[3] >= 0 and cv2.contourArea(contour) > HOLLOW * outer:
            cv2.drawContours(inside, [contour], -1, (1,), cv2.FILLED)
    return bool(other[(inside > 0) & ~mask].any())


def _on_photo(mask: NDArray[np.bool_], factor: float, image: PageImage) -> Polygon:
    """Corners of a mask's box, px of the photograph."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return to_photo([(x / factor, y / factor) for x, y in corners], image.transform)
