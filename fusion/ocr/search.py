"""What of a page is a line of writing: columns that the detector ran together are parted, what is no writing is left out.

Knows quadrilaterals, ink and how well something reads; knows no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import regex
from numpy.typing import NDArray

from fusion.ocr.layout import TALL, Region, height_of, upright_corners, width_of
from fusion.view import View

WHITE = 0.7
"""Least width of a white strip inside a line that may be a gutter, in heights of the line: a word's space is narrower."""
RUN = 3
"""Lines below each other that must share the strip."""
LOW = 8
"""Height of a line on the view under which its gaps can't be told from its letters, px."""
NEAR = 1.2
"""Greatest distance from one of them to the next, in heights of the line."""
LONGEST = 0.6
"""A stroke over more than this share of the page's height is a rule, no brace."""
BRACE = 1.2
"""Least height of a brace, in heights of a line."""
SOLID = 0.7
"""Share of its box that a dot fills; a letter or digit fills less."""
ALONE = 0.95
"""Share of a crop's ink that a dot holds, if nothing is written beside it."""
DOT, DOTS = 0.4, 5
"""Marks of a dotted rule are lower and narrower than this share of its crop's height, and so many at least."""
FAINT = 64
"""Grey levels between paper and ink under which a line may show through."""
LOOSE = (0.55, 3.0)
"""Height of ink that no line covers, in heights of the page's lines, from which and up to which it may be writing."""
THIN = 0.06
"""Least share of its box that such ink fills: a lone long stroke around white paper is none."""
MOST = 20
"""Most such places on a page; a page with more holds pictures or a bad photograph, and is not told by them."""
_RULE = regex.compile(r"[.…·․‥_\-–—~。\s]{4,}|\s*([\p{P}\p{S}])(?:\s*\1){7,}\s*")
"""What the OCR reads on a dotted rule: dots and dashes, or one sign again and again."""


def part_columns(quads: Sequence[NDArray[np.float64]], view: View, scale: float) -> list[list[NDArray[np.float64]]]:
    """For each line, itself, or its parts where three lines or more below each other share a white strip.

    Args:
        quads: float64 (4, 2) each, px of the page, clockwise from the top left, level or nearly so.
        view: small look at the page.
        scale: px of the page per px of the view.
    """
    strips = [_strips(quad / scale, view.ink) if height_of(quad) >= LOW * scale else [] for quad in quads]
    order = sorted(range(len(quads)), key=lambda n: float(quads[n][:, 1].mean()))
    cuts: dict[int, list[tuple[float, float]]] = {}
    for number in order:
        for low, high in strips[number]:
            run, common = [number], (low, high)
            for below in order:
                step = (quads[below][:, 1].mean() - quads[run[-1]][:, 1].mean()) / height_of(quads[below])
                if not 0.3 < step < 1 + NEAR:
                    continue
                shared = max(
                    ((max(common[0], a), min(common[1], b)) for a, b in strips[below]),
                    key=lambda pair: pair[1] - pair[0],
                    default=(0.0, 0.0),
                )
                if shared[1] - shared[0] >= WHITE * height_of(quads[below]) / scale:
                    run.append(below)
                    common = shared
            if len(run) >= RUN:
                for one in run:
                    strip = (scale * common[0], scale * common[1])
                    if all(strip[1] < low or strip[0] > high for low, high in cuts.get(one, [])):
                        cuts.setdefault(one, []).append(strip)
    return [_parts(quad, sorted(cuts.get(number, []))) for number, quad in enumerate(quads)]


def _strips(quad: NDArray[np.float64], ink: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """White strips inside a line, (left, right) px of the view, that leave three heights of writing on both sides."""
    (left, top), (right, bottom) = quad.min(axis=0), quad.max(axis=0)
    height = height_of(quad)
    inside = ink[max(0, round(top)) : max(1, round(bottom)), max(0, round(left)) : max(1, round(right))]
    written = np.flatnonzero(inside.any(axis=0)) + round(max(0.0, left))
    found = []
    for before, after in itertools.pairwise(written):
        room = min(before - left, right - after) >= 3 * height
        if after - before >= WHITE * height and room:
            found.append((float(before), float(after)))
    return found


def _parts(quad: NDArray[np.float64], strips: Sequence[tuple[float, float]]) -> list[NDArray[np.float64]]:
    """What of a line lies between white strips along x, px."""
    left, right = quad[:, 0].min(), quad[:, 0].max()
    edges = [(edge - left) / max(right - left, 1.0) for strip in strips for edge in strip]
    top, bottom = quad[1] - quad[0], quad[2] - quad[3]
    return [
        np.array([quad[0] + start * top, quad[0] + end * top, quad[3] + end * bottom, quad[3] + start * bottom])
        for start, end in zip([0.0, *edges[1::2]], [*edges[::2], 1.0], strict=True)
    ]


def join_upright(regions: Sequence[Region]) -> list[Region]:
    """The regions, with the pieces of one upright line joined; corners clockwise from the top left."""
    found = sorted(regions, key=lambda region: float(region.corners[:, 1].min()))
    number = 0
    while number < len(found):
        one = found[number]
        below = next((n for n in range(number + 1, len(found)) if _continues(one.corners, found[n].corners)), None)
        if below is None:
            number += 1
            continue
        other = found.pop(below)
        corners = np.concatenate([one.corners, other.corners]).astype(np.float32)
        box = np.asarray(cv2.boxPoints(cv2.minAreaRect(corners)), dtype=np.float64)
        found[number] = Region(upright_corners(box), max(one.probability, other.probability))
    return found


def _continues(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether the second region goes on below the first, as wide as it, and one of them is tall."""
    if not any(height_of(quad) > 2 * TALL * width_of(quad) for quad in (one, other)):
        return False
    width, own = float(np.ptp(one[:, 0])), float(np.ptp(other[:, 0]))
    beside = abs(one[:, 0].mean() - other[:, 0].mean()) < 0.4 * min(width, own)
    gap = other[:, 1].min() - one[:, 1].max()
    return bool(beside and 0.6 < own / max(width, 1.0) < 1.6 and -width < gap < 0.8 * width)


def braces(quads: Sequence[NDArray[np.float64]], view: View, scale: float) -> list[NDArray[np.float64]]:
    """Upright strokes beside lines that may be braces: float64 (2, 2) each, their upper and lower end, px of the page.

    A brace is taller than a line, thin, no part of a line, and no rule along the page.

    Args:
        quads: float64 (4, 2) each, px of the page, clockwise from the top left.
        view: small look at the page.
        scale: px of the page per px of the view.
    """
    if not quads:
        return []
    height = float(np.median([height_of(quad) for quad in quads])) / scale
    ink = view.ink.astype(np.uint8)
    for quad in quads:
        cv2.fillPoly(ink, [np.round(quad / scale).astype(np.int32)], (0,))
    # The strokes of one brace end a pixel or two from each other where a line's box has cut it.
    closed = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((max(1, round(height / 6)), 1), np.uint8))
    found = []
    for left, top, width, tall, _ in cv2.connectedComponentsWithStats(closed)[2][1:].tolist():
        if BRACE * height < tall < LONGEST * ink.shape[0] and width < min(0.35 * tall, height):
            middle = left + width / 2
            found.append(scale * np.array([[middle, top], [middle, top + tall]]))
    return found


def uncovered(quads: Sequence[NDArray[np.float64]], view: View, scale: float) -> list[NDArray[np.float64]]:
    """Places as large as writing whose ink no line covers: float64 (4, 2) each, px of the page.

    Args:
        quads: the lines, float64 (4, 2) each, px of the page.
        view: small look at the page.
        scale: px of the page per px of the view.
    """
    heights = [height_of(quad) / scale for quad in quads]
    size = float(np.median(heights)) if heights else 0.0
    if size < LOW:
        return []
    loose = np.asarray(view.ink, dtype=np.uint8)
    for quad, height in zip(quads, heights, strict=True):
        cover = np.zeros_like(loose)
        cv2.fillPoly(cover, [np.round(quad / scale).astype(np.int32)], (1,))
        reach = max(1, round(height / 3))
        loose[cv2.dilate(cover, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0] = 0
    joined = cv2.morphologyEx(loose, cv2.MORPH_CLOSE, np.ones((max(1, round(size / 3)), max(1, round(size))), np.uint8))
    rows, columns = loose.shape
    found = []
    for left, top, width, height, _ in cv2.connectedComponentsWithStats(joined)[2][1:].tolist():
        share = float(loose[top : top + height, left : left + width].mean())
        inside = left > 1 and top > 1 and left + width < columns - 1 and top + height < rows - 1
        if inside and LOOSE[0] * size <= height <= LOOSE[1] * size and width >= height / 2 and THIN <= share <= SOLID:
            corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
            found.append(np.array(corners, dtype=np.float64) * scale)
    return found if len(found) <= MOST else []


def is_no_writing(crop: NDArray[np.uint8], text: str) -> bool:
    """Whether a crop is a dotted rule or a filled dot, such as a punched hole.

    Args:
        crop: uint8 (h, w, 3), RGB.
        text: what the OCR reads on it.
    """
    if _RULE.fullmatch(text):
        return True
    if len(text) > 1:
        return False
    grey = _dark_on_light(crop)
    _, dark = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    marks = cv2.connectedComponentsWithStats(dark)[2][1:]
    if not len(marks):
        return True
    largest = marks[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max()
    if not text.isalnum():
        return bool(len(marks) >= DOTS and largest < DOT * crop.shape[0])
    areas = marks[:, cv2.CC_STAT_AREA]
    _, _, width, height, area = marks[int(np.argmax(areas))].tolist()
    lone = area > ALONE * areas.sum()  # a digit beside a blot is writing
    return bool(lone and area > SOLID * width * height and 0.6 < width / height < 1.6)


def is_faint(crop: NDArray[np.uint8]) -> bool:
    """Whether a crop, uint8 (h, w, 3), is so pale as writing is that shows through from the other side of a sheet."""
    low, middle = np.percentile(_dark_on_light(crop), [2, 50])
    return bool(middle - low < FAINT)


def _dark_on_light(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop in grey, uint8 (h, w); chalk on a board is inverted: its paper, at the border, is the darker."""
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = np.percentile(grey, [2, 98])
    return np.asarray(255 - grey, dtype=np.uint8) if float(np.median(border)) < (low + high) / 2 else grey
