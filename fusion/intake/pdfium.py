"""The child process that draws a PDF: run as a script, it knows no other file of this package.

A few hundred bytes of PDF can ask for gigabytes or for hours. So PDFium works in a process of its own with a limit of
memory and of time per page, and dies alone. On standard output it writes, for each page, one row of JSON and then, where
that row names a size, height x width x 3 bytes RGB. A row is one of

    {"pages": n}                    once, first
    {"width": w, "height": h}       a page, drawn
    {"refused": [w, h]}             a page of too many pixels, not drawn
    {"broken": why}                 a page, or before the first row the file
    {"encrypted": true}             the file
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import pypdfium2 as pdfium

MEMORY = 1_000_000_000
"""Most bytes of address space."""
SECONDS = 10
"""Most seconds of the processor for a page, and for opening the file; those in which the page before is being read don't count."""
_PASSWORD = 4  # FPDF_ERR_PASSWORD
_LOOKED_AT = 40_000_000  # most px of a picture on an empty page that is decoded to see whether it can be
_ROWS = 256  # rows of a page written at a time: a copy of the whole would double the memory


def main(path: str, dpi: float, megapixels: float, first: int) -> None:
    """Draw the pages from number `first`, counted from 0, at a resolution; see the head of the file."""
    _limit()
    try:
        document = pdfium.PdfDocument(path)
        if document.get_formtype() != pdfium.raw.FORMTYPE_NONE:
            document.init_forms()
    except pdfium.PdfiumError as error:
        locked = getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower()
        _say(encrypted=True) if locked else _say(broken=str(error))
        return
    _say(pages=len(document))
    for index in range(first, len(document)):
        _limit()
        try:
            _draw(document[index], dpi / 72, megapixels)
        except (pdfium.PdfiumError, MemoryError, ValueError) as error:
            _say(broken=str(error) or type(error).__name__)


def _draw(page: Any, scale: float, megapixels: float) -> None:
    width, height = (side * scale for side in page.get_size())
    if not width * height <= megapixels * 1e6:  # NaN is refused too
        _say(refused=[width, height])
        return
    pixels = page.render(scale=scale, rev_byteorder=True).to_numpy()
    if all((pixels[top : top + _ROWS] == pixels[0, 0]).all() for top in range(0, pixels.shape[0], _ROWS)):
        _look_for_lost_pictures(page)
    _say(width=pixels.shape[1], height=pixels.shape[0])
    try:
        for top in range(0, pixels.shape[0], _ROWS):
            sys.stdout.buffer.write(pixels[top : top + _ROWS, :, :3].tobytes())
    except MemoryError:  # the size is said: nothing but the end of this process tells that its pixels don't come
        os._exit(1)
    page.close()


def _look_for_lost_pictures(page: Any) -> None:
    """PDFium draws nothing where a picture can't be decoded, and says nothing: PdfiumError where an empty page has one.

    A picture that takes much memory to decode is not looked at.
    """
    for picture in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_IMAGE]):
        width, height = picture.get_px_size()
        if width * height > _LOOKED_AT:
            continue
        try:
            picture.get_bitmap()
        except pdfium.PdfiumError as error:
            raise pdfium.PdfiumError("a picture on it can't be decoded") from error


def _say(**row: Any) -> None:
    sys.stdout.buffer.write(json.dumps(row).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit() -> None:
    """Limits of this process, where the system has them; the clock starts anew."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
