"""A small look at a page: where paper is, how bright, and where the ink is.

Everything that is measured is measured on this copy, so that findings cost milliseconds. Knows brightness only; does
not judge (`quality`) and does not turn anything (`geometry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

VIEW_SIDE = 800
"""Long side of the copy on which a page is measured, px."""

_LEAST_DEPTH = 10  # grey levels; under this JPEG noise passes for ink
_PAPER_CELL = 4  # px of the view per px of the paper map


@dataclass(frozen=True, slots=True)
class View:
    """A page made small.

    Attributes:
        grey: uint8 (h, w); chalk on a board is inverted, so ink is always the darker.
        paper: uint8 (h, w), brightness of the paper around each pixel as if nothing were written.
        ink: bool (h, w).
    """

    grey: NDArray[np.uint8]
    paper: NDArray[np.uint8]
    ink: NDArray[np.bool_]


def shrunk(pixels: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], float]:
    """A page, uint8 (H, W, 3), at most `longest` px long and wide, and the factor of its sides, in (0, 1]."""
    height, width = pixels.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), factor


def shrink(photo: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A grey copy with a long side of at most `VIEW_SIDE`.

    Args:
        photo: uint8 (H, W, 3), RGB.

    Returns:
        uint8 (h, w), and float64 (3, 3) that maps px of the copy to px of the photograph (pixel centres at integers).
    """
    height, width = photo.shape[:2]
    factor = min(1.0, VIEW_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    grey = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    if factor < 1.0:
        # Greying first: averaging one channel costs a third of averaging three.
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    x, y = width / size[0], height / size[1]
    return grey, np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2], [0.0, 0.0, 1.0]])


def look(grey: NDArray[np.uint8]) -> View:
    """Separate paper and ink.

    Args:
        grey: uint8 (h, w), long side at most about `VIEW_SIDE`.
    """
    paper = _paper(grey)
    depth = cv2.subtract(paper, grey)
    if percentile(grey, 0.5) < 110:
        inverted = cv2.bitwise_not(grey)
        board = _paper(np.asarray(inverted, dtype=np.uint8))
        chalk = cv2.subtract(board, inverted)
        if float(chalk.mean()) > 1.2 * float(depth.mean()):
            grey, paper, depth = np.asarray(inverted, dtype=np.uint8), board, chalk
    otsu, _ = cv2.threshold(depth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Otsu falls into the noise of a nearly empty page: ink also has to stand out from the paper's own grain.
    grain = percentile(np.asarray(depth, dtype=np.uint8), 0.5)
    dark = np.asarray(depth > max(_LEAST_DEPTH, 0.8 * otsu, 3.0 * grain), dtype=np.uint8)
    # A stroke has neighbours, a noisy pixel has none.
    around = np.asarray(cv2.boxFilter(dark, -1, (3, 3), normalize=False))
    return View(grey, paper, (dark > 0) & (around >= 3))


def percentile(levels: NDArray[np.uint8], share: float) -> float:
    """The grey level that `share` of the pixels do not exceed, by histogram: sorting costs more."""
    counts = np.cumsum(np.bincount(levels.ravel(), minlength=256))
    return float(np.searchsorted(counts, share * counts[-1]))


def _paper(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (h, w): closing at a quarter of the size swallows strokes and keeps shadows."""
    height, width = grey.shape
    size = (max(1, width // _PAPER_CELL), max(1, height // _PAPER_CELL))
    cells = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    side = max(3, max(size) // 20) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    closed = cv2.blur(cv2.morphologyEx(cells, cv2.MORPH_CLOSE, kernel), (side, side))
    return np.asarray(cv2.resize(closed, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
