"""Marks on a page: their shape, and the page without them. Knows ink, no text."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.ink import PageImage

STROKE = 0.35
"""Greatest median height of a tick's ink in a column of pixels, in heights of the tick: it is one stroke."""
TURN, ARM, TOP = 0.5, 0.08, 0.25
"""Of a tick: where its lowest point is at most, from the left, in widths; how far it comes down to it, and how far below its
upper edge it may end on the right, in heights."""
LONGER = 1.25
"""Least length of its right arm, in lengths of the left: a V has equal ones."""
RISING = 0.85
"""Least share of the columns behind the lowest point in which the stroke does not fall."""
WIDE = (0.3, 4.0)
"""Least and greatest ratio of a tick's width to its height."""


def without(
    image: PageImage, small: NDArray[np.uint8], erased: NDArray[np.uint8], kept: NDArray[np.bool_] | None = None
) -> PageImage:
    """The page with paper where `erased`, uint8 (h, w), is not 0, and as it is where `kept`, bool (h, w).

    `small` is the page as `view.shrunk` gives it.
    """
    if not erased.any():
        return image
    wide = cv2.dilate(erased, np.ones((5, 5), np.uint8)).astype(np.uint8)
    if kept is not None:
        wide[kept] = 0
    size = image.pixels.shape[1::-1]
    paper = cv2.resize(cv2.inpaint(small, wide, 3, cv2.INPAINT_TELEA), size, interpolation=cv2.INTER_LINEAR)
    covered = cv2.resize(wide, size, interpolation=cv2.INTER_NEAREST)
    return replace(image, pixels=np.where(covered[..., None] > 0, paper, image.pixels).astype(np.uint8))


def bounds(mark: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a mark on a page, bool (H, W)."""
    rows, columns = np.flatnonzero(mark.any(axis=1)), np.flatnonzero(mark.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


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
    counts = mark[:, columns].sum(axis=0)
    if not WIDE[0] < width / height < WIDE[1] or np.median(counts) > STROKE * height:
        return False
    middle = (mark[:, columns] * np.arange(height)[:, None]).sum(axis=0) / counts / height
    turn = int(np.argmax(middle))
    left, right = middle[turn] - middle[: turn + 1].min(), middle[turn] - middle[turn:].min()
    rises = np.diff(middle[turn:]) <= 1 / height
    reach = len(columns) - turn
    arms = np.hypot(reach, right * height) >= LONGER * np.hypot(turn, left * height)
    ends_high = turn < TURN * len(columns) and middle[-1] < TOP
    return bool(ends_high and arms and left > ARM and rises.mean() > RISING)
