"""The photograph with what was read on it, and the transcript beside it, so that a person can compare.

Knows drawing. Where each thing sits and what it is comes from the `Page`; how a source looks comes from `marks`.
Transcript and legend are in `panel`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusion.output.crops import photo_scale
from fusion.output.fonts import Pen
from fusion.output.marks import MARKS, RGB
from fusion.output.panel import draw_legend, draw_transcript
from fusion.page import Page, Polygon, Span

_INK: RGB = (38, 42, 48)
_FAINTEST, _STRONGEST = 0.08, 0.34
"""Opacity of a span of confidence 0 and 1. Under the strongest tint the ink must still be readable."""
_HATCH = 0.5
_SUBPIXEL = 3
"""cv2 draws at 1/8 px with this shift."""


def draw_overlay(photo: NDArray[np.uint8], page: Page) -> NDArray[np.uint8]:
    """Draw a page.

    Args:
        photo: uint8 (H, W, 3), RGB, as displayed; a smaller copy of what was read will do.
        page: what was read.

    Returns:
        uint8 RGB: the photograph with lines, spans and reading order on the left, the transcript on the right, the
        legend below. Wider and taller than the photograph.

    Raises:
        InputError: the photograph does not fit the page.
    """
    drawn = draw_regions(photo, page)
    pen = Pen(_text_size(photo))
    widest = max(photo.shape[1] * 4 // 5, 20 * pen.size)
    transcript, unwritten = draw_transcript(page, pen, widest, photo.shape[0])
    height = max(drawn.shape[0], transcript.shape[0])
    row = np.full((height, drawn.shape[1] + transcript.shape[1], 3), 255, np.uint8)
    row[: drawn.shape[0], : drawn.shape[1]] = drawn
    row[: transcript.shape[0], drawn.shape[1] :] = transcript
    return np.concatenate([row, draw_legend(page, pen, row.shape[1], unwritten)])


def draw_regions(photo: NDArray[np.uint8], page: Page) -> NDArray[np.uint8]:
    """Only the photograph with lines, spans and reading order: uint8 RGB of the photograph's size."""
    x, y = photo_scale(photo, page)
    canvas = photo.copy()
    stroke = max(1, round(min(photo.shape[:2]) / 450))
    for line in page.lines:
        for span in line.spans:
            if span.polygon is not None:
                _draw_span(canvas, span, _scaled(span.polygon, x, y), stroke)
        corners = _scaled(line.polygon, x, y)
        if line.spans:
            _outline(canvas, corners, _INK, max(1, stroke // 2))
        else:
            _dashes(canvas, corners, MARKS["gap"].rgb, stroke)
    _write_badges(canvas, page, (x, y))
    return canvas


def _text_size(photo: NDArray[np.uint8]) -> int:
    return int(np.clip(round(min(photo.shape[:2]) / 34), 14, 80))


def _scaled(polygon: Polygon, x: float, y: float) -> NDArray[np.float64]:
    """float64 (n, 2) px of the photograph, kept near it: cv2 draws with 32-bit integers."""
    return np.clip(np.array(polygon, dtype=np.float64).reshape(-1, 2) * (x, y), -1e5, 1e5)


def _fixed(corners: NDArray[np.float64]) -> list[NDArray[np.int32]]:
    return [np.round(corners * (1 << _SUBPIXEL)).astype(np.int32)]


def _outline(canvas: NDArray[np.uint8], corners: NDArray[np.float64], colour: RGB, width: int) -> None:
    if len(corners):
        cv2.polylines(canvas, _fixed(corners), True, colour, width, cv2.LINE_AA, _SUBPIXEL)


def _dashes(canvas: NDArray[np.uint8], corners: NDArray[np.float64], colour: RGB, width: int) -> None:
    """Dashed outline: a line that was found and not read, or a span whose confidence nobody knows."""
    dash = 6.0 * width
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = float(np.linalg.norm(end - start))
        for at in np.arange(0.0, min(length, 1e5), 2 * dash):
            piece = np.array([start + (end - start) * t / length for t in (at, min(at + dash, length))])
            cv2.polylines(canvas, _fixed(piece), False, colour, width, cv2.LINE_AA, _SUBPIXEL)


def _draw_span(canvas: NDArray[np.uint8], span: Span, corners: NDArray[np.float64], stroke: int) -> None:
    colour = MARKS[span.source].rgb
    if span.source == "gap":
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


def _tint(canvas: NDArray[np.uint8], corners: NDArray[np.float64], colour: RGB, opacity: float, hatch: int = 0) -> None:
    """Multiply a colour into a polygon, so that ink stays darker than its paper; with `hatch`, in diagonal stripes."""
    if not len(corners):
        return
    height, width = canvas.shape[:2]
    left, top = np.floor(np.clip(corners.min(axis=0), 0, (width, height))).astype(int)
    right, bottom = np.ceil(np.clip(corners.max(axis=0) + 1, 0, (width, height))).astype(int)
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


def _write_badges(canvas: NDArray[np.uint8], page: Page, scale: tuple[float, float]) -> None:
    """Reading order before each line, and the letter of its source at each span that is not `agreed`."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    pen = Pen(max(11, round(_text_size(canvas) * 0.8)))
    for line in page.lines:
        for span in line.spans:
            letter = MARKS[span.source].letter
            if letter and span.polygon:
                corners = _scaled(span.polygon, *scale)
                _badge(draw, pen, letter, corners[0], MARKS[span.source].rgb, (0.0, 1.0))
        corners = _scaled(line.polygon, *scale)
        if len(corners):
            middle = (corners[0] + corners[-1]) / 2 if len(corners) == 4 else corners[0]
            colour = _INK if line.spans else MARKS["gap"].rgb
            _badge(draw, pen, f"{line.order + 1}" + ("" if line.spans else "!"), middle, colour, (1.15, 0.5))
    canvas[:] = np.asarray(picture)


def _badge(
    draw: ImageDraw.ImageDraw, pen: Pen, text: str, at: NDArray[np.float64], colour: RGB, anchor: tuple[float, float]
) -> None:
    """White text on a coloured tag; `anchor` is the point of the tag, as shares of its size, that sits at `at`."""
    height = pen.size * 1.25
    width = max(height, pen.width(text) + pen.size * 0.6)
    room_x, room_y = draw.im.size[0] - width, draw.im.size[1] - height
    left = float(np.clip(at[0] - anchor[0] * width, 0, max(room_x, 0)))
    top = float(np.clip(at[1] - anchor[1] * height, 0, max(room_y, 0)))
    draw.rounded_rectangle((left, top, left + width, top + height), radius=height / 4, fill=colour)
    draw.text((left + width / 2, top + height / 2), text, fill=(255, 255, 255), font=pen.latin, anchor="mm")
