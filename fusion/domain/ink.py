"""Marks on a page: their shape, and the page without them. Knows ink, no text."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.ink import PageImage

STROKE = 0.35
"""Greatest median height of a tick's ink in a column of pixels, in heights of the tick: it is one stroke."""


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


def cut(mark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mark on a page, bool (H, W), without the white around it."""
    rows, columns = np.flatnonzero(mark.any(axis=1)), np.flatnonzero(mark.any(axis=0))
    return mark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def is_cross(mark: NDArray[np.bool_]) -> bool:
    """Whether a mark, bool (h, w) cut to its ink, has ink in the four corners and the middle and none between."""
    square = cv2.resize(mark.astype(np.uint8), (30, 30), interpolation=cv2.INTER_AREA)
    ends = (slice(0, 9), slice(21, 30))
    corners = [bool(square[rows, columns].any()) for rows in ends for columns in ends]
    sides = [square[0:6, 12:18], square[24:30, 12:18], square[12:18, 0:6], square[12:18, 24:30]]
    return all(corners) and bool(square[11:19, 11:19].any()) and not any(side.any() for side in sides)


def is_tick(mark: NDArray[np.bool_]) -> bool:
    """Whether a mark, bool (h, w) cut to its ink, is one stroke: down on the left, then up to the top on the right."""
    height, width = mark.shape
    columns = np.flatnonzero(mark.any(axis=0))
    rows = np.arange(height)[:, None]
    counts = mark[:, columns].sum(axis=0)
    middle = (mark[:, columns] * rows).sum(axis=0) / counts / height
    if len(columns) < 6 or not 0.3 < width / height < 4 or np.median(counts) > STROKE * height:
        return False
    turn = int(np.argmax(middle))
    down, up = middle[: turn + 1], middle[turn:]
    left = turn / len(columns)
    return bool(
        0.03 < left < 0.65
        and middle[turn] - down.min() > 0.08
        and up[-1] < 0.25
        and np.mean(np.diff(up) <= 0.02) > 0.85
        and np.mean(np.diff(down) >= -0.05) > 0.8
    )
