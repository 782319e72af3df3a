"""PDF pages become RGB arrays, via pypdfium2, annotations and filled form fields included.

Knows pages and resolutions. Does not look for a text layer: what is read is what is seen.

PDFium is not thread-safe, not even across documents, so every call into it happens under one lock of this module. The
lock is never held while a page is with the caller; it is re-entrant because the garbage collector may close a forgotten
generator while this thread is inside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pypdfium2 as pdfium
from numpy.typing import NDArray

from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.intake.files import check_pixels

_PDFIUM = threading.RLock()
_POINTS_PER_INCH = 72.0
_PASSWORD = 4  # FPDF_ERR_PASSWORD


def open_pdf(path: Path, config: IntakeConfig) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw the pages of a PDF at `intake.pdf_dpi`, one at a time.

    Yields:
        Page id (`note.pdf#1` …) and uint8 (H, W, 3), RGB.

    Raises:
        InputError: encrypted, broken, without pages, too many pages; or one page, named, is broken or too large, and
            the pages before it have been yielded.
    """
    with _PDFIUM:
        document = _open(path)
    try:
        with _PDFIUM:
            count = len(document)
        if count == 0:
            raise InputError(path.name, "has no pages", "Export the PDF again")
        if count > config.max_pages:
            problem = f"has {count} pages, over the limit of {config.max_pages}"
            raise InputError(path.name, problem, "Split the PDF or raise intake.max_pages")
        for index in range(count):
            subject = f"{path.name}#{index + 1}"
            with _PDFIUM:
                pixels = _draw(subject, document, index, config)
            yield subject, pixels
    finally:
        with _PDFIUM:
            document.close()


def _open(path: Path) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(path)
        if document.get_formtype() != pdfium.raw.FORMTYPE_NONE:
            document.init_forms()
        return document
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower():
            way_out = "Save a copy without the password and read that"
            raise InputError(path.name, "is encrypted with a password", way_out) from error
        way_out = "Copy or download it again, or print it to a new PDF"
        raise InputError(path.name, f"is a broken PDF ({error})", way_out) from error


def _draw(subject: str, document: pdfium.PdfDocument, index: int, config: IntakeConfig) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, of one page on white. The caller holds the lock."""
    scale = config.pdf_dpi / _POINTS_PER_INCH
    try:
        page = document[index]
        try:
            width, height = page.get_size()
            way_out = "Lower intake.pdf_dpi or raise intake.max_megapixels"
            check_pixels(subject, width * scale, height * scale, config, way_out)
            # BGRx keeps rows aligned; the copy below outlives the bitmap.
            bitmap = page.render(scale=scale, rev_byteorder=True)
            pixels = np.array(bitmap.to_numpy()[:, :, :3], dtype=np.uint8, order="C")
            bitmap.close()
            return pixels
        finally:
            page.close()
    except (pdfium.PdfiumError, MemoryError, ValueError) as error:
        way_out = "Print the PDF to a new one, or leave this page out"
        raise InputError(subject, f"is a page that can't be drawn ({error})", way_out) from error
