"""Intake: files and PDFs become upright pages with quality findings.

Knows file formats, the geometry of sheets and what makes a photograph hard to read. Does not know what is written: no
OCR, no model, no language.

    files     which inputs there are, and whether a file may be opened at all
    raster    JPEG, PNG, WebP, BMP, TIFF → RGB arrays, via Pillow
    pdf       PDF pages → RGB arrays, via pypdfium2
    geometry  where the sheet is, how far the writing is off level, one warp that mends both
    quality   findings
    pages     the story: file → upright pages
"""

from fusion.intake.files import SUFFIXES, list_inputs
from fusion.intake.pages import Source, count_pages, name_of, open_pages, turned

__all__ = ["SUFFIXES", "Source", "count_pages", "list_inputs", "name_of", "open_pages", "turned"]
