"""Lines cut out of the photograph, and pictures as data URIs."""

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
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise InputError(page.id, f"photograph is {photo.dtype} {photo.shape}", "Give uint8 (H, W, 3), RGB.")
    height, width = photo.shape[:2]
    x, y = width / page.width, height / page.height
    # A smaller copy may be off by one px of rounding per side; more is another picture, or a turned one.
    if abs(x - y) > 1.5 / min(page.width, page.height) + 0.01 * max(x, y):
        raise InputError(
            page.id,
            f"photograph is {width}×{height} px but the page was read at {page.width}×{page.height} px",
            "Give the photograph as displayed (EXIF orientation applied), whole and not turned.",
        )
    return x, y


def crop_line(
    photo: NDArray[np.uint8],
    polygon: Sequence[tuple[float, float]],
    scale: tuple[float, float],
    box: Sequence[tuple[float, float]] = (),
) -> NDArray[np.uint8]:
    """Cut a line out and make it level.

    Args:
        photo: uint8 (H, W, 3), RGB.
        polygon: px of the page, clockwise from the start of the line. With other than four corners, the smallest
            upright box around it is cut.
        scale: from `photo_scale`.
        box: corners of a stretch of the line, px of the page: it is drawn on the crop.

    Returns:
        uint8 (h, w, 3), RGB; (0, 0, 3) when the polygon has no area. Outside the photograph it is white.
    """
    nothing = np.zeros((0, 0, 3), np.uint8)
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2) * np.array(scale)
    if not len(corners) or not np.isfinite(corners).all():
        return nothing
    if len(corners) != 4:
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
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
    white = (255, 255, 255)
    crop = cv2.warpPerspective(
        photo, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_CONSTANT, borderValue=white
    )
    if len(box):
        around = (np.array(box, dtype=np.float64) * np.array(scale)).reshape(-1, 1, 2)
        placed = cv2.perspectiveTransform(around, matrix).round().astype(np.int32)
        crop = cv2.polylines(crop, [placed], True, _BOX, max(1, crop.shape[0] // 30))
    return np.asarray(crop, dtype=np.uint8)


def at_most(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture, made smaller where it is larger than width × height."""
    factor = min(1.0, width / picture.shape[1], height / picture.shape[0])
    if factor == 1.0:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def data_uri(picture: NDArray[np.uint8], quality: int = 85) -> str:
    """An RGB picture as a `data:image/jpeg` address."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def svg_uri(drawing: str) -> str:
    """An SVG document as a `data:image/svg+xml` address."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode("ascii")
