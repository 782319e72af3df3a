"""Lines cut out of the photograph, and pictures as data URIs. Knows pixels and polygons; knows nothing of text."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.errors import InputError
from fusion.page import Page

_MARGIN = 0.12
"""Paper left around a line, as a share of its height: descenders reach out of a tight polygon."""
_BOX = (214, 40, 40)
"""Colour of the box around a stretch, RGB."""
_LARGEST = 4000
"""Longest side of a crop, px. A polygon may say anything; memory must not depend on it."""


def photo_scale(photo: NDArray[np.uint8], page: Page) -> tuple[float, float]:
    """Factors (x, y) from px of the page to px of this photograph, which may be a smaller copy.

    Raises:
        InputError: the photograph is not RGB, or has another shape than the page, so nothing would sit right.
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise InputError(page.id, f"photograph is {photo.dtype} {photo.shape}", "Give uint8 (H, W, 3), RGB.")
    height, width = photo.shape[:2]
    if min(height, width, page.width, page.height) < 1:
        raise InputError(page.id, "photograph or page is empty", "Give the photograph that the page was read from.")
    x, y = width / page.width, height / page.height
    # One px of rounding per side is what a smaller copy may be off; more is another picture, or a turned one.
    if abs(x - y) > 1.5 / min(page.width, page.height) + 0.01 * max(x, y):
        raise InputError(
            page.id,
            f"photograph is {width}×{height} px but the page was read at {page.width}×{page.height} px",
            "Give the photograph as displayed (EXIF orientation applied), whole and not turned.",
        )
    return x, y


def crop_line(
    photo: NDArray[np.uint8], polygon: Sequence[tuple[float, float]], scale: tuple[float, float]
) -> NDArray[np.uint8]:
    """Cut a line out and make it level.

    Args:
        photo: uint8 (H, W, 3), RGB.
        polygon: px of the page, clockwise from the start of the line. With other than four corners, the smallest
            upright box around it is cut.
        scale: from `photo_scale`.

    Returns:
        uint8 (h, w, 3), RGB; (0, 0, 3) when the polygon has no area. Outside the photograph it is white.
    """
    return _cut(photo, polygon, scale)[0]


def crop_boxed(
    photo: NDArray[np.uint8],
    polygon: Sequence[tuple[float, float]],
    box: Sequence[tuple[float, float]],
    scale: tuple[float, float],
) -> NDArray[np.uint8]:
    """Like `crop_line`, with a stretch of the line boxed; `box` is in px of the page."""
    crop, matrix = _cut(photo, polygon, scale)
    if not crop.size:
        return crop
    corners = (np.array(box, dtype=np.float64) * np.array(scale)).reshape(-1, 1, 2)
    placed = cv2.perspectiveTransform(corners, matrix).round().astype(np.int32)
    return np.asarray(cv2.polylines(crop.copy(), [placed], True, _BOX, max(1, crop.shape[0] // 30)), dtype=np.uint8)


def _cut(
    photo: NDArray[np.uint8], polygon: Sequence[tuple[float, float]], scale: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A crop, and the homography from px of the photograph to px of the crop."""
    nothing = np.zeros((0, 0, 3), np.uint8), np.eye(3)
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2) * np.array(scale)
    if len(corners) != 4 and len(corners):
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if not len(corners) or not np.isfinite(corners).all():
        return nothing
    start, end, end_below, start_below = corners
    width = max(float(np.linalg.norm(side)) for side in (end - start, end_below - start_below))
    height = max(float(np.linalg.norm(side)) for side in (start_below - start, end_below - end))
    if min(width, height) < 2:
        return nothing
    shrink = min(1.0, _LARGEST / max(width, height))
    w, h, m = width * shrink, height * shrink, _MARGIN * height * shrink
    target = np.array([(m, m), (m + w, m), (m + w, m + h), (m, m + h)], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    size = (int(np.ceil(w + 2 * m)), int(np.ceil(h + 2 * m)))
    warped = cv2.warpPerspective(
        photo, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255)
    )
    return np.asarray(warped, dtype=np.uint8), np.asarray(matrix, dtype=np.float64)


def at_most(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture, made smaller where it is larger than width × height."""
    factor = min(1.0, width / picture.shape[1], height / picture.shape[0])
    if factor == 1.0:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def data_uri(picture: NDArray[np.uint8], quality: int = 85) -> str:
    """An RGB picture as a `data:image/jpeg` address."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of {picture.shape} can't be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
