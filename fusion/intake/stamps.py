"""Red stamps over writing: in the red channel they fade, and what is written under them in blue or black stays.

Knows colours and two shapes, the round stamp and the square seal; reads nothing.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.page import Finding
from fusion.view import shrunk

LARGE = 0.08
"""Least diameter of a stamp, in short sides of the page."""
FULL = 0.7
"""Least share of its convex hull that its outline takes."""
ROUND = 0.8
"""Least roundness, 4πA/P², of its outline; a square has 0.79, an ellipse of 2 : 1 0.84."""
LETTERED = (0.02, 0.004)
"""Least share of its inside that is red, and least share of the dark ink under it that touches red."""
COVERS = 0.005
"""Least share of a stamp under which other ink lies."""
SQUARE, EVEN, LARGEST = 0.85, 1.4, 0.3
"""Of a seal: least share of the smallest box around it that it fills, greatest ratio of that box's sides, and its greatest
side, in short sides of the page."""
CARVED = (0.12, 0.1)
"""The same of a seal: a box of a form printed in red holds less, and hands keep clear of what is printed in it."""
DARK = 140
"""Level of the red channel under which a pixel is ink that does not fade with the stamp."""
_SIDE = 800  # px; stamps are looked for on a small copy


def fade_stamps(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[Finding]]:
    """The page with red stamps faded, and a finding if there are any.

    Args:
        pixels: uint8 (H, W, 3), RGB.
    """
    small, _ = shrunk(pixels, _SIDE)
    red, green, blue = cv2.split(small.astype(np.int16))
    inked = ((red - np.maximum(green, blue)) > 60).astype(np.uint8)
    dark = np.asarray(red < DARK, dtype=np.uint8)
    closed = cv2.morphologyEx(inked, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    mask = np.zeros(closed.shape, np.uint8)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        hull = cv2.convexHull(contour)
        large = min(cv2.boundingRect(hull)[2:]) >= LARGE * min(mask.shape)
        if large and cv2.contourArea(contour) >= FULL * cv2.contourArea(hull):
            inside = np.asarray(cv2.drawContours(np.zeros_like(mask), [hull], -1, (1,), cv2.FILLED), dtype=np.uint8)
            if _is_stamp(np.asarray(hull, dtype=np.int32), inside, inked, dark):
                mask |= inside
    if not mask.any():
        return pixels, []
    covered = cv2.resize(
        cv2.dilate(mask, np.ones((7, 7), np.uint8)), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    # The stamp's own red becomes as light as paper, and what is darker than it keeps its contrast.
    level = max(1.0, float(np.percentile(small[..., 0][(mask & inked) > 0], 10)))
    light = cv2.convertScaleAbs(pixels[..., 0], alpha=255.0 / level)
    faded = np.where(covered[..., None] > 0, light[..., None], pixels).astype(np.uint8)
    share = float(mask.mean())
    return faded, [
        Finding("stamp", share, 0.0, f"a red stamp covers {share:.0%} of the page; it was faded to be read through")
    ]


def _is_stamp(
    hull: NDArray[np.int32], inside: NDArray[np.uint8], inked: NDArray[np.uint8], dark: NDArray[np.uint8]
) -> bool:
    """Whether an outline, int32 (n, 1, 2), is that of a stamp with something dark under it.

    A teacher's circle and a red 0 have nothing red inside, and a box of a form little. Where nothing dark lies under a stamp, or
    all of it stands clear of its red, nothing is to be mended. `inside`, `inked` (red) and `dark` are masks, uint8 (h, w).
    """
    area, around = cv2.contourArea(hull), cv2.arcLength(hull, closed=True)
    short, long = sorted(cv2.minAreaRect(hull)[1])
    if 4 * math.pi * area >= ROUND * around**2:
        lettered, crossed = LETTERED
    elif area >= SQUARE * short * long and long <= EVEN * short and long <= LARGEST * min(dark.shape):
        lettered, crossed = CARVED
    else:
        return False
    diameter = min(cv2.boundingRect(hull)[2:])
    inner = np.asarray(cv2.erode(inside, np.ones((round(diameter / 4) | 1,) * 2, np.uint8)), dtype=np.uint8)
    near = np.asarray(cv2.dilate(inked, np.ones((3, 3), np.uint8)), dtype=np.uint8)
    under = np.count_nonzero(dark & inside)
    return bool(
        np.count_nonzero(inked & inner) > lettered * inner.sum()
        and under > COVERS * inside.sum()
        and np.count_nonzero(dark & inside & near) > crossed * under
    )
