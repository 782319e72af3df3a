"""Where the sheet is, how far the writing is off level, and one warp that mends both.

Knows shapes and angles. Does not know letters: a page upside down or on its side stays so. Conservative by design: a
sheet that is not clearly seen is not straightened, writing whose slope is ambiguous is not turned.

Angles are degrees counter-clockwise, homographies map px of the output to px of the input, pixel centres at integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_LEAST_SHEET = 0.25  # share of the photograph
_LEAST_STEP = 18.0  # grey levels from the table to the sheet
_LEAST_EDGE = 0.85  # share of each edge at which that step is seen
_LARGEST_TILT = 30.0  # degrees; beyond, which side is up is a guess
_WARP_LIMIT = 32_000  # px; OpenCV warps with 16-bit coordinates

_RANGE = 15.0  # degrees to either side searched for level writing
_LEAST_INK = 400  # px of the view
_LEAST_KEPT = 0.15  # share of the ink that is writing and not frame, else the frame has swallowed the writing
_STRIP = 6.0  # wider than this times the height is one line, whose ups and downs are not a slope
_CELL = 4  # px of the view; lines of writing are 20 px apart and more
_ANGLES: NDArray[np.float64] = np.arange(-_RANGE, _RANGE + 0.25, 0.5, dtype=np.float64)
_LEAST_PEAK = 1.35  # sharpness at the best angle over the median of all
_HALVES_AGREE = 2.5  # degrees


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet of paper seen on the photograph.

    Attributes:
        corners: float64 (4, 2), px, top-left, top-right, bottom-right, bottom-left.
    """

    corners: NDArray[np.float64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """float64 (4,), lengths of top, right, bottom, left, px."""
        return np.asarray(np.linalg.norm(np.roll(self.corners, -1, axis=0) - self.corners, axis=1))

    @property
    def perspective(self) -> float:
        """Greatest relative difference in length of two opposite edges, in [0, 1)."""
        top, right, bottom, left = self.edges.tolist()
        return float(max(1 - min(top, bottom) / max(top, bottom), 1 - min(left, right) / max(left, right)))

    @property
    def tilt(self) -> float:
        """Mean angle of top and bottom edge, degrees counter-clockwise by which it must be turned to be level."""
        steps = (self.corners[1] - self.corners[0]) + (self.corners[2] - self.corners[3])
        return math.degrees(math.atan2(steps[1], steps[0]))

    def scaled(self, to_photo: NDArray[np.float64]) -> Sheet:
        """The same sheet in other coordinates; `to_photo` is float64 (3, 3)."""
        return Sheet(project(to_photo, self.corners))


def project(transform: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a homography (3, 3) to points (N, 2)."""
    mapped = np.c_[points, np.ones(len(points))] @ transform.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def turned_back(quarters: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Homography from px of an image turned by quarter turns counter-clockwise to px of the image as it was.

    Args:
        quarters: 1 to 3.
        size: (width, height) before the turn, px.
    """
    width, height = size
    rows = {
        1: [[0, -1, width - 1], [1, 0, 0]],
        2: [[-1, 0, width - 1], [0, -1, height - 1]],
        3: [[0, 1, 0], [-1, 0, height - 1]],
    }[quarters]
    return np.array([*rows, [0, 0, 1]], dtype=np.float64)


def find_sheet(grey: NDArray[np.uint8]) -> Sheet | None:
    """Find one bright sheet with all four edges in view.

    Args:
        grey: uint8 (h, w), the small view.

    Returns:
        The sheet, or None when in doubt: no bright quadrilateral over a quarter of the image, an edge outside the
        photograph or not brighter than what lies beside it, or tilted by more than 30 degrees.
    """
    height, width = grey.shape
    if min(height, width) < 32:
        return None
    smooth = cv2.GaussianBlur(grey, (0, 0), max(height, width) / 300)
    _, bright = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    side = max(3, max(height, width) // 60) | 1
    # Writing must not cut the sheet, nor a highlight on the table hang on to it.
    kernel = np.ones((side, side), np.uint8)
    bright = cv2.morphologyEx(cv2.morphologyEx(bright, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)
    corners = _quadrilateral(contour, height * width)
    if corners is None:
        return None
    sheet = Sheet(_refine(np.asarray(contour, dtype=np.float64).reshape(-1, 2), corners))
    if not _is_plausible(sheet, height, width):
        return None
    return sheet if _edges_are_visible(np.asarray(smooth, dtype=np.uint8), sheet) else None


def _quadrilateral(contour: cv2.typing.MatLike, image_area: int) -> NDArray[np.float64] | None:
    """float64 (4, 2), clockwise from top-left, when the contour is a well-filled convex quadrilateral."""
    area = cv2.contourArea(contour)
    hull = cv2.convexHull(contour)
    if area < _LEAST_SHEET * image_area or area < 0.93 * cv2.contourArea(hull):
        return None
    around = cv2.arcLength(hull, closed=True)
    polygon = cv2.approxPolyDP(hull, 0.02 * around, closed=True)
    if len(polygon) != 4 or not 0.94 < cv2.contourArea(polygon) / area < 1.06:
        return None
    points = np.asarray(polygon, dtype=np.float64).reshape(4, 2)
    centre = points.mean(axis=0)
    clockwise = points[np.argsort(np.arctan2(points[:, 1] - centre[1], points[:, 0] - centre[0]))]
    return np.roll(clockwise, -int(np.argmin(clockwise.sum(axis=1))), axis=0)


def _refine(contour: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners as intersections of lines fitted to the contour: paper corners are round, bent or shadowed."""
    lines = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1.0)
        offset = contour - start
        distance = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
        place = offset @ along / max(float(np.linalg.norm(end - start)), 1.0)
        near = contour[(distance < 6) & (place > 0.08) & (place < 0.92)]
        if len(near) < 10:
            return corners
        vx, vy, x, y = np.asarray(cv2.fitLine(near.astype(np.float32), cv2.DIST_HUBER, 0, 0.01, 0.01)).ravel().tolist()
        lines.append(np.array([vy, -vx, vx * y - vy * x]))
    crossings = np.array([np.cross(lines[index - 1], lines[index]) for index in range(4)])
    if np.any(np.abs(crossings[:, 2]) < 1e-6):
        return corners
    return np.asarray(crossings[:, :2] / crossings[:, 2:])


def _is_plausible(sheet: Sheet, height: int, width: int) -> bool:
    """Convex, near-rectangular, near-level, and inside the photograph, clear of its border."""
    corners = sheet.corners
    steps = np.roll(corners, -1, axis=0) - corners
    directions = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))
    turns = np.diff(np.append(directions, directions[0])) % 360
    if np.any(turns < 55) or np.any(turns > 125) or abs(sheet.tilt) > _LARGEST_TILT or sheet.perspective > 0.5:
        return False
    room = 2.0
    inside = (corners >= room) & (corners <= np.array([width, height]) - 1 - room)
    return bool(inside.all())


def _edges_are_visible(grey: NDArray[np.uint8], sheet: Sheet) -> bool:
    """Every edge is a step from something darker outside to the sheet inside, along nearly all of its length."""
    height, width = grey.shape
    reach = max(4.0, max(height, width) / 100)
    places = np.linspace(0.06, 0.94, 40)[:, None]
    for start, end in zip(sheet.corners, np.roll(sheet.corners, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        inward = np.array([-along[1], along[0]]) * reach
        points = start + places * (end - start)
        levels = []
        for side in (points + inward, points - inward):
            x = np.clip(np.rint(side[:, 0]), 0, width - 1).astype(np.intp)
            y = np.clip(np.rint(side[:, 1]), 0, height - 1).astype(np.intp)
            levels.append(grey[y, x].astype(np.float64))
        if float(np.mean(levels[0] - levels[1] >= _LEAST_STEP)) < _LEAST_EDGE:
            return False
    return True


def straighten(sheet: Sheet) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The homography that shows the sheet as a rectangle.

    Returns:
        float64 (3, 3) from px of the rectangle to px of the photograph, and the rectangle's (width, height), px.
    """
    top, right, bottom, left = sheet.edges.tolist()
    width, height = max(2, round(max(top, bottom))), max(2, round(max(left, right)))
    box = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float32)
    transform = cv2.getPerspectiveTransform(box, sheet.corners.astype(np.float32))
    return np.asarray(transform, dtype=np.float64), (width, height)


def measure_skew(ink: NDArray[np.bool_]) -> float:
    """How far the writing is off level, by the sharpest projection profile over ±15 degrees.

    Args:
        ink: bool (h, w), the small view.

    Returns:
        Degrees counter-clockwise by which the page must be turned for its lines to be level. 0.0 with too little ink,
        or when no angle stands out from the others (scribble, drawings, columns, a single word).
    """
    height, width = ink.shape
    writing = _without_frames(ink)
    amount = int(writing.sum())
    if amount < max(_LEAST_INK, _LEAST_KEPT * int(ink.sum())) or width > _STRIP * height:
        return 0.0
    x, y, weight = _cells(writing)
    angle = _level_angle(x, y, weight)
    if angle is None:
        return 0.0
    # Chance makes a sharp profile now and then, but not the same one on both halves of the page.
    middle = float(np.average(x, weights=weight))
    # (Under perspective the lines of one half do slope more than those of the other, in proportion.)
    allowed = max(_HALVES_AGREE, 0.6 * abs(angle))
    coarse = _ANGLES[::2]
    for half in (x < middle, x >= middle):
        half_scores = _sharpness(x[half], y[half], weight[half], coarse)
        if abs(float(coarse[int(np.argmax(half_scores))]) - angle) > allowed:
            return 0.0
    return angle


def _cells(ink: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Cells of `_CELL` px that hold ink: x, y and the amount of ink in them, float32 (N,) each, in cells.

    Counting in cells is exact, where a sample of the pixels would add its own noise to the profile.
    """
    height, width = (side // _CELL * _CELL for side in ink.shape)
    blocks = ink[:height, :width].astype(np.uint8).reshape(height // _CELL, _CELL, width // _CELL, _CELL)
    counts = blocks.sum(axis=(1, 3), dtype=np.float32)
    ys, xs = np.nonzero(counts)
    return xs.astype(np.float32), ys.astype(np.float32), counts[ys, xs]


def _level_angle(x: NDArray[np.float32], y: NDArray[np.float32], weight: NDArray[np.float32]) -> float | None:
    """The angle with the sharpest profile, or None when it does not stand out."""
    scores = _sharpness(x, y, weight, _ANGLES)
    best = float(_ANGLES[int(np.argmax(scores))])
    if not _stands_out(scores, best):
        return None
    fine = best + np.arange(-0.6, 0.61, 0.1, dtype=np.float64)
    return float(fine[int(np.argmax(_sharpness(x, y, weight, fine)))])


def _without_frames(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Ink without what is no writing: table edges and shadows at the border, and specks."""
    height, width = ink.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    left, top, wide, tall, area = stats[:, :5].T
    at_border = (left == 0) | (top == 0) | (left + wide == width) | (top + tall == height)
    keep = (area >= 4) & ~(at_border & ((tall > 0.05 * height) | (wide > 0.3 * width)))
    keep &= tall <= 0.5 * height
    keep[0] = False
    return np.asarray(keep[labels]) if count > 1 else np.zeros_like(ink)


def _sharpness(
    x: NDArray[np.float32], y: NDArray[np.float32], weight: NDArray[np.float32], angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 (A,): how much the row histogram of ink rises and falls when the page is turned by each angle."""
    slopes = np.tan(np.radians(angles)).astype(np.float32)
    rows = y[None, :] - slopes[:, None] * x[None, :]
    rows -= rows.min()
    bins = int(rows.max()) + 3
    index = rows.astype(np.intp) + np.arange(len(angles))[:, None] * bins
    weights = np.broadcast_to(weight, index.shape).ravel()
    profiles = np.bincount(index.ravel(), weights, minlength=bins * len(angles)).reshape(len(angles), bins)
    return np.asarray(np.square(np.diff(profiles, axis=1)).sum(axis=1), dtype=np.float64)


def _stands_out(scores: NDArray[np.float64], best: float) -> bool:
    """One clear peak, inside the range, well above the typical angle and above every rival."""
    top = float(scores.max())
    typical = float(np.median(scores))
    rival = float(scores[np.abs(_ANGLES - best) > 4.0].max())
    return abs(best) < _RANGE - 0.5 and top > _LEAST_PEAK * typical and (top - typical) > 1.5 * (rival - typical)


def level(
    transform: NDArray[np.float64], size: tuple[int, int], angle: float
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Turn a page on top of what `transform` does; nothing is cut off.

    Args:
        transform: float64 (3, 3) from px of the page to px of the photograph.
        size: (width, height) of the page, px.
        angle: degrees counter-clockwise.

    Returns:
        float64 (3, 3) from px of the turned page to px of the photograph, and the turned page's (width, height).
    """
    width, height = size
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wide = math.ceil(width * abs(cos) + height * abs(sin))
    tall = math.ceil(width * abs(sin) + height * abs(cos))
    # With y down, the inverse of a counter-clockwise turn is [[cos, -sin], [sin, cos]].
    x, y, from_x, from_y = (wide - 1) / 2, (tall - 1) / 2, (width - 1) / 2, (height - 1) / 2
    back = np.array([[cos, -sin, from_x - cos * x + sin * y], [sin, cos, from_y - sin * x - cos * y], [0.0, 0.0, 1.0]])
    return transform @ back, (wide, tall)


def turned_by(transform: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Degrees counter-clockwise by which a page was turned, at its middle."""
    x, y = (size[0] - 1) / 2, (size[1] - 1) / 2
    start, end = project(transform, np.array([[x - 0.5, y], [x + 0.5, y]]))
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0])) + 0.0


def can_warp(*sizes: tuple[int, int]) -> bool:
    """Whether OpenCV can warp between images of these (width, height)."""
    return all(max(size) < _WARP_LIMIT for size in sizes)


def warp(image: NDArray[np.uint8], transform: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the page; what lies outside the photograph becomes the colour of the paper.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        transform: float64 (3, 3) from px of the result to px of `image`.
        size: (width, height) of the result, px.
    """
    step = max(1, max(image.shape[:2]) // 300)
    paper = np.median(image[::step, ::step].reshape(-1, image.shape[2] if image.ndim == 3 else 1), axis=0)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": paper.tolist()}
    if np.array_equal(transform[2], (0.0, 0.0, 1.0)):  # a mere turn is cheaper without the division per pixel
        return np.asarray(cv2.warpAffine(image, transform[:2], size, flags=flags, **border), dtype=np.uint8)
    return np.asarray(cv2.warpPerspective(image, transform, size, flags=flags, **border), dtype=np.uint8)
