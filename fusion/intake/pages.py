"""The story of this room: a file becomes upright pages, one at a time.

Knows the order of things; how each is done is in `raster`, `pdf`, `view`, `geometry` and `quality`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.ink import PageImage
from fusion.intake import geometry, quality
from fusion.intake.files import check_file, check_pixels, first_bytes, hash_file
from fusion.intake.pdf import count_pdf, open_pdf
from fusion.intake.raster import count_frames, open_images, to_rgb
from fusion.intake.stamps import fade_stamps
from fusion.page import Finding
from fusion.view import look, shrink

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How files begin that may hold several images; the latter two are BigTIFF."""
UNNAMED = "image"
"""Name of an input that has none."""


Source = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of a file, a PIL image, or uint8 (H, W) or (H, W, 3), RGB."""


def open_pages(
    source: Source,
    config: IntakeConfig,
    *,
    crop: bool = False,
    name: str | None = None,
    pages: range | None = None,
) -> Iterator[PageImage]:
    """Read an input as upright pages.

    Pages are decoded as they are asked for; only one is in memory at a time. The type of a file is told by its content,
    never by its suffix.

    Args:
        source: JPEG, PNG, WebP, BMP, TIFF (all pages) or PDF (all pages), as a path or as bytes; or an image in memory.
        config: limits, resolution of PDFs, and what to mend.
        crop: it is one word or one line, already cut out: pixels are left as they are, and size, skew and perspective are
            not judged.
        name: what the pages are called; the file's name where there is one.
        pages: numbers of those that are wanted, from 1; None: all.

    Yields:
        Pages with id `note.jpg`, or `note.pdf#1`, `#2` … for a PDF and for a TIFF of several pages.

    Raises:
        InputError: when iterated: missing, empty, damaged, encrypted, no image, or over a limit. The message names the
            input (and the page, when it is one of several) and a way out. Of a file of several pages the good ones come
            first.
    """
    make = _as_crop if crop else _upright
    if isinstance(source, str | Path):
        path = Path(source)
        for page_id, sha256, photo in _decoded(path, config, pages):
            yield make((name or path.name) + page_id.removeprefix(path.name), sha256, photo, config)
    elif isinstance(source, bytes):
        called = name or UNNAMED
        with tempfile.TemporaryDirectory() as folder:  # Pillow and PDFium read files piece by piece
            path = Path(folder) / "input"
            path.write_bytes(source)
            try:
                for page_id, sha256, photo in _decoded(path, config, pages):
                    yield make(called + page_id.removeprefix(path.name), sha256, photo, config)
            except InputError as error:
                raise InputError(
                    called + error.subject.removeprefix(path.name), error.problem, error.way_out
                ) from error
    else:
        photo = as_rgb(source, name or UNNAMED)
        check_pixels(name or UNNAMED, photo.shape[1], photo.shape[0], config, "Scale it down or cut it up")
        yield make(name or UNNAMED, hashlib.sha256(photo.tobytes()).hexdigest(), photo, config)


def count_pages(path: Path, config: IntakeConfig) -> int:
    """Pages of a file, none of which is decoded.

    Raises:
        InputError: as for `open_pages`.
    """
    check_file(path, config)
    head = first_bytes(path)
    if b"%PDF-" in head:
        return count_pdf(path, config)
    return count_frames(path, config) if head.startswith(TIFF) else 1


def _decoded(path: Path, config: IntakeConfig, pages: range | None) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    check_file(path, config)
    sha256 = hash_file(path)
    wanted = pages or range(1, config.max_pages + 1)
    opened = open_pdf(path, config, wanted) if b"%PDF-" in first_bytes(path) else open_images(path, config, wanted)
    broken = []
    for page_id, photo in opened:
        if isinstance(photo, InputError):
            broken.append(photo)
        else:
            yield page_id, sha256, photo
    if len(broken) == 1:
        raise broken[0]
    if broken:
        problems = "; ".join(f"{error.subject.removeprefix(path.name)} {error.problem}" for error in broken)
        raise InputError(path.name, f"has {len(broken)} pages that can't be read ({problems})", broken[0].way_out)


def as_rgb(image: Image.Image | NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """An image in memory as uint8 (H, W, 3), RGB; a PIL image turned as its EXIF data say.

    Raises:
        InputError: it has another shape or type of numbers, or no pixels.
    """
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        problem = f"is an array of {array.dtype} and shape {array.shape}"
        raise InputError(name, problem, "Give uint8 of shape (H, W) or (H, W, 3) in RGB order, a PIL image, or a path")
    if array.size == 0:
        raise InputError(name, "has no pixels", "Give an image of at least one pixel")
    return np.ascontiguousarray(np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array)


def name_of(source: Source) -> str:
    """What an input is called where nobody names it: its path."""
    return str(source) if isinstance(source, str | Path) else UNNAMED


def _as_crop(page_id: str, sha256: str, photo: NDArray[np.uint8], config: IntakeConfig) -> PageImage:
    grey, _ = shrink(photo)
    findings = tuple(quality.judge_ink(look(grey), config))
    return PageImage(page_id, sha256, photo, photo, np.eye(3), 0.0, findings)


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
    pixels, stamps = fade_stamps(pixels)
    findings += stamps
    angle = geometry.turned_by(transform, size)
    return PageImage(page_id, sha256, pixels, photo, transform, angle, tuple(findings))


def turned(page: PageImage, quarters: int, config: IntakeConfig) -> PageImage:
    """A page made anew from its photograph, which stands on its side or upside down.

    Args:
        page: as `open_pages` made it.
        quarters: quarter turns counter-clockwise that put the writing upright, 1 to 3.
        config: as for `open_pages`.
    """
    made = _upright(page.id, page.sha256, np.ascontiguousarray(np.rot90(page.photo, quarters)), config)
    finding = Finding("turned", 90.0 * quarters, 0.0, f"the photograph was turned by {90 * quarters}° to be read")
    return replace(
        made,
        photo=page.photo,
        transform=geometry.turned_back(quarters, (page.width, page.height)) @ made.transform,
        angle=(made.angle + 90 * quarters + 180) % 360 - 180,
        findings=(finding, *made.findings),
    )


def _is_askew(sheet: geometry.Sheet, config: IntakeConfig) -> bool:
    """Whether straightening gains anything; a sheet seen from straight above is left alone, table and all."""
    return sheet.perspective > config.perspective or abs(sheet.tilt) > config.skew


def _shrunk(size: tuple[int, int], to_photo: NDArray[np.float64]) -> tuple[int, int]:
    return max(1, round(size[0] / to_photo[0, 0])), max(1, round(size[1] / to_photo[1, 1]))
