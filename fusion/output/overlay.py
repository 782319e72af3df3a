"""The photograph with lines and spans drawn on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.output.crops import photo_scale
from fusion.output.marks import MARKS, RGB
from fusion.page import Line, Page, Polygon, Span

Corners = NDArray[np.float64]
"""float64 (n, 2), px of the photograph."""
_INK: RGB = (38, 42, 48)
_FAINTEST, _STRONGEST = 0.08, 0.34
"""Opacity of a span of confidence 0 and 1. Under the strongest tint the ink must still be readable."""
_HATCH = 0.5
_SUBPIXEL = 3
"""cv2 draws at 1/8 px with this shift."""


def draw_overlay(photo: NDArray[np.uint8], page: Page) -> NDArray[np.uint8]:
    """The photograph with lines in reading order, and spans tinted by their source, the stronger the surer.

    Args:
        photo: uint8 (H, W, 3), RGB, as displayed; a smaller copy of what was read will do.
        page: what was read.

    Returns:
        uint8 RGB of the photograph's size.

    Raises:
        InputError: the photograph does not fit the page.
    """
    scale = photo_scale(photo, page)
    canvas = photo.copy()
    stroke = max(1, round(min(photo.shape[:2]) / 450))
    for line in page.lines:
        for span in line.spans:
            _draw_span(canvas, span, _scaled(span.polygon or (), scale), stroke)
        corners = _scaled(line.polygon, scale)
        if line.spans:
            _outline(canvas, corners, _INK, max(1, stroke // 2))
        else:
            _dashes(canvas, corners, MARKS["gap"].rgb, stroke)
    for finding in page.findings:
        if finding.kind == "uncovered" and finding.polygon is not None:
            _dashes(canvas, _scaled(finding.polygon, scale), MARKS["gap"].rgb, stroke)
    for line in page.lines:
        _write_badges(canvas, line, scale)
    return canvas


def _scaled(polygon: Polygon, scale: tuple[float, float]) -> Corners:
    """Px of the photograph, kept near it: cv2 draws with 32-bit integers."""
    return np.clip(np.array(polygon, dtype=np.float64).reshape(-1, 2) * scale, -1e5, 1e5)


def _fixed(corners: Corners) -> list[NDArray[np.int32]]:
    return [np.round(corners * (1 << _SUBPIXEL)).astype(np.int32)]


def _outline(canvas: NDArray[np.uint8], corners: Corners, colour: RGB, width: int) -> None:
    if len(corners):
        cv2.polylines(canvas, _fixed(corners), True, colour, width, cv2.LINE_AA, _SUBPIXEL)


def _dashes(canvas: NDArray[np.uint8], corners: Corners, colour: RGB, width: int) -> None:
    """Dashed outline: a line that was found and not read, ink that no line covers, a span whose confidence is unknown."""
    dash = 6.0 * width
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = float(np.linalg.norm(end - start))
        for at in np.arange(0.0, min(length, 1e5), 2 * dash):
            piece = np.array([start + (end - start) * t / length for t in (at, min(at + dash, length))])
            cv2.polylines(canvas, _fixed(piece), False, colour, width, cv2.LINE_AA, _SUBPIXEL)


def _draw_span(canvas: NDArray[np.uint8], span: Span, corners: Corners, stroke: int) -> None:
    colour = MARKS[span.source].rgb
    if span.source == "gap":  # no tint: it must not look like a reading
        _outline(canvas, corners, colour, 2 * stroke)
        return
    if span.source == "supplied":
        _tint(canvas, corners, colour, _HATCH, hatch=5 * stroke)
    elif span.confidence is not None:
        _tint(canvas, corners, colour, _FAINTEST + (_STRONGEST - _FAINTEST) * span.confidence)
    if span.confidence is None:
        _dashes(canvas, corners, colour, stroke)
    else:
        _outline(canvas, corners, colour, stroke)


def _tint(canvas: NDArray[np.uint8], corners: Corners, colour: RGB, opacity: float, hatch: int = 0) -> None:
    """Multiply a colour into a polygon, so that ink stays darker than its paper; with `hatch`, in diagonal stripes."""
    if not len(corners):
        return
    limits = (canvas.shape[1], canvas.shape[0])
    left, top = np.floor(np.clip(corners.min(axis=0), 0, limits)).astype(int)
    right, bottom = np.ceil(np.clip(corners.max(axis=0) + 1, 0, limits)).astype(int)
    if left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, _fixed(corners - (left, top)), (255,), cv2.LINE_AA, _SUBPIXEL)
    weight = mask.astype(np.float32)[..., None] / 255 * opacity
    if hatch:
        rows, columns = np.ogrid[top:bottom, left:right]
        weight = weight * ((rows + columns) // hatch % 3 == 0)[..., None]
    piece = canvas[top:bottom, left:right]
    piece[:] = np.round(piece * (1 - weight * (1 - np.array(colour, np.float32) / 255))).astype(np.uint8)


def _write_badges(canvas: NDArray[np.uint8], line: Line, scale: tuple[float, float]) -> None:
    """Reading order before the line, and the letter of its source at each span that is not `agreed`."""
    for span in line.spans:
        mark = MARKS[span.source]
        if mark.letter and span.polygon:
            _badge(canvas, mark.letter, _scaled(span.polygon, scale)[0], mark.rgb, (0.0, 1.0))
    corners = _scaled(line.polygon, scale)
    if len(corners):
        middle = (corners[0] + corners[-1]) / 2 if len(corners) == 4 else corners[0]
        number, colour = (f"{line.order + 1}", _INK) if line.spans else (f"{line.order + 1}!", MARKS["gap"].rgb)
        _badge(canvas, number, middle, colour, (1.15, 0.5))


def _badge(canvas: NDArray[np.uint8], text: str, at: Corners, colour: RGB, anchor: tuple[float, float]) -> None:
    """White text on a coloured tag; `anchor` is the point of the tag, as shares of its size, that sits at `at`."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, float(np.clip(min(canvas.shape[:2]) / 1400, 0.35, 1.6))
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    room = round(8 * size)
    wide, high = width + 2 * room, height + below + room
    left = int(np.clip(at[0] - anchor[0] * wide, 0, max(canvas.shape[1] - wide, 0)))
    top = int(np.clip(at[1] - anchor[1] * high, 0, max(canvas.shape[0] - high, 0)))
    cv2.rectangle(canvas, (left, top), (left + wide, top + high), colour, cv2.FILLED)
    place = (left + room, top + height + room // 2)
    cv2.putText(canvas, text, place, font, size, (255, 255, 255), max(1, round(2 * size)), cv2.LINE_AA)
