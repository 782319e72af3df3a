"""The story of this room: a file becomes upright pages, one at a time.

Knows the order of things; how each is done is in `raster`, `pdf`, `view`, `geometry` and `quality`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusion.config import IntakeConfig
from fusion.ink import PageImage
from fusion.intake import geometry, quality
from fusion.intake.files import check_file, first_bytes, hash_file
from fusion.intake.pdf import open_pdf
from fusion.intake.raster import open_images
from fusion.intake.view import look, shrink


def open_pages(path: str | Path, config: IntakeConfig, *, crop: bool = False) -> Iterator[PageImage]:
    """Read a file as upright pages.

    Pages are decoded as they are asked for; only one is in memory at a time. The type of the file is told by its
    content, never by its suffix.

    Args:
        path: JPEG, PNG, WebP, BMP, TIFF (all pages) or PDF (all pages).
        config: limits, resolution of PDFs, and what to mend.
        crop: the file is one word or one line, already cut out: pixels are left as they are, and size, skew and
            perspective are not judged.

    Yields:
        Pages with id `note.jpg`, or `note.pdf#1`, `#2` … for a PDF and for a TIFF of several pages.

    Raises:
        InputError: when iterated: the file is missing, empty, damaged, encrypted, no image, or over a limit. The
            message names the file (and the page, when it is one of several) and a way out.
    """
    path = Path(path)
    check_file(path, config)
    sha256 = hash_file(path)
    opened = open_pdf(path, config) if b"%PDF-" in first_bytes(path) else open_images(path, config)
    for page_id, photo in opened:
        yield _as_crop(page_id, sha256, photo, config) if crop else _upright(page_id, sha256, photo, config)


def _as_crop(page_id: str, sha256: str, photo: NDArray[np.uint8], config: IntakeConfig) -> PageImage:
    height, width = photo.shape[:2]
    grey, _ = shrink(photo)
    findings = tuple(quality.judge_ink(look(grey), config))
    return PageImage(page_id, sha256, photo, width, height, np.eye(3), 0.0, findings)


def _upright(page_id: str, sha256: str, photo: NDArray[np.uint8], config: IntakeConfig) -> PageImage:
    """Find the sheet, level its writing, judge it, and draw it with a single interpolation."""
    height, width = photo.shape[:2]
    grey, to_photo = shrink(photo)
    seen = geometry.find_sheet(grey)
    sheet = None if seen is None else seen.scaled(to_photo)
    findings = quality.judge_perspective(sheet, config)

    transform, size = np.eye(3), (width, height)
    if sheet is not None and config.rectify and _is_askew(sheet, config) and geometry.can_warp(size):
        transform, size = geometry.straighten(sheet)
        # The small view follows the sheet too: neither the table nor its shadow is measured.
        small = np.linalg.inv(to_photo) @ transform @ to_photo
        grey = geometry.warp(grey, small, _shrunk(size, to_photo))
    view = look(grey)
    skew = geometry.measure_skew(view.ink)
    findings += quality.judge_skew(skew, config)
    findings += quality.judge_size(*size, config)
    findings += quality.judge_ink(view, config)

    if config.deskew and abs(skew) > config.skew:
        turned, wider = geometry.level(transform, size, skew)
        if geometry.can_warp((width, height), wider):
            transform, size = turned, wider
    pixels = photo if np.array_equal(transform, np.eye(3)) else geometry.warp(photo, transform, size)
    angle = geometry.turned_by(transform, size)
    return PageImage(page_id, sha256, pixels, width, height, transform, angle, tuple(findings))


def _is_askew(sheet: geometry.Sheet, config: IntakeConfig) -> bool:
    """Whether straightening gains anything; a sheet seen from straight above is left alone, table and all."""
    return sheet.perspective > config.perspective or abs(sheet.tilt) > config.skew


def _shrunk(size: tuple[int, int], to_photo: NDArray[np.float64]) -> tuple[int, int]:
    return max(1, round(size[0] / to_photo[0, 0])), max(1, round(size[1] / to_photo[1, 1]))
