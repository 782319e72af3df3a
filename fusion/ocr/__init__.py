"""The OCR room: an upright page in, lines in reading order out, each with candidates and answers about any string.

Knows PaddleOCR, CTC and the order of lines; knows nothing of a second reader or of decisions. Nothing is dropped for a
low score: those lines are the job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.ctc import Posterior, Views
from fusion.ink import InkLine, PageImage
from fusion.ocr import layout
from fusion.ocr.paddle import PaddleEngine, column_px
from fusion.page import Failure, Position, Reading, Recipe

__all__ = ["OcrReader"]

LOOKS = 3
"""Looks kept at a line that was read at several widths."""
TALL = 1.5
"""A region this many times taller than wide may be writing turned by a right angle: both ways are read."""


@dataclass(frozen=True, slots=True)
class _View:
    """A crop the way it is best read, and what the OCR sees then; `turned`: a quarter counter-clockwise."""

    crop: NDArray[np.uint8]
    looks: Views
    turned: bool = False


class OcrReader:
    """Finds lines and reads them. Keeps no state between pages, so a page in a batch reads as it does alone."""

    def __init__(self, config: OcrConfig) -> None:
        """Load the models; see `PaddleEngine` for errors."""
        self._config = config
        self._engine = PaddleEngine(config)

    def read(self, page: PageImage, *, crop: bool = False) -> tuple[InkLine, ...]:
        """Lines of a page in reading order.

        Args:
            page: upright page.
            crop: the image is one word or one line: read it whole, without detection.
        """
        height, width = page.pixels.shape[:2]
        if crop:
            quads = [np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)]
            crops = [page.pixels]
        else:
            found = [layout.upright_corners(quad) for quad in self._engine.regions(page.pixels)]
            quads = [found[index] for index in layout.reading_order(found)]
            crops = [layout.cut_out(page.pixels, quad) for quad in quads]
        lines = []
        for number, (quad, view) in enumerate(zip(quads, map(self._view, crops), strict=True)):
            corners = np.roll(quad, -1, axis=0) if view.turned else quad
            polygon = tuple((float(x), float(y)) for x, y in corners)
            lines.append(self._line(f"l{number:03d}", polygon, view.crop, view.looks))
        return tuple(lines)

    @property
    def seconds(self) -> float:
        """Time spent in PaddleOCR itself since the start, s."""
        return self._engine.seconds

    def close(self) -> None:
        """Give the models' memory back."""
        self._engine.close()

    def _view(self, crop: NDArray[np.uint8]) -> _View:
        """The crop as it is; where that is poor or cramped also stretched; where it is tall also turned."""
        view = _View(crop, self._looks(crop))
        if crop.shape[0] > TALL * crop.shape[1]:
            turned = np.ascontiguousarray(np.rot90(crop))
            other = _View(turned, self._looks(turned), turned=True)
            if len(other.looks.best.greedy) > 1 and other.looks.best.quality > view.looks.best.quality:
                return other
        return view

    def _looks(self, crop: NDArray[np.uint8]) -> Views:
        (plain,) = self._read(crop, [crop])
        on_ink = crop.shape[1] / column_px(*crop.shape[1::-1])
        cramped = on_ink < self._config.cramped * max(1, len(plain.greedy))
        if not cramped and plain.quality >= self._config.poor:
            return Views((plain,))
        stretched = self._read(crop, [_stretched(crop, factor) for factor in self._config.stretches])
        ranked = sorted([plain, *stretched], key=lambda posterior: -posterior.quality)
        return Views(tuple(ranked[:LOOKS]))

    def _read(self, crop: NDArray[np.uint8], views: Sequence[NDArray[np.uint8]]) -> list[Posterior]:
        """Posterior of each view of a crop, with columns measured in px of the crop."""
        return [
            Posterior.compact(
                full, self._engine.characters, column_px(*view.shape[1::-1]) * crop.shape[1] / view.shape[1]
            )
            for view, full in zip(views, self._engine.posteriors(views), strict=True)
        ]

    def _line(
        self, name: str, polygon: tuple[tuple[float, float], ...], crop: NDArray[np.uint8], ink: Views
    ) -> InkLine:
        reading = Reading(
            source="ocr",
            text=ink.best.greedy,
            recipe=Recipe(
                engine=f"paddleocr/{self._config.engine}",
                version=self._engine.version,
                model=self._engine.model,
                image_sha256=hashlib.sha256(crop.tobytes()).hexdigest(),
            ),
            positions=_within(ink.best.positions(self._config.top_k), float(crop.shape[1])),
            nbest=ink.nbest(self._config.nbest),
            score=ink.score([ink.best.greedy])[0],
            raw=ink.best.greedy,
        )
        failures = () if ink.best.greedy else (Failure("ocr", "empty", "the OCR reads nothing on this line"),)
        return InkLine(name, polygon, crop, reading, ink, failures)


def _within(positions: Sequence[Position], width: float) -> tuple[Position, ...]:
    """Positions cut at the crop's edge: a last letter may be written on the padding behind it."""
    return tuple(replace(p, left=min(p.left, width), right=min(p.right, width)) for p in positions)


def _stretched(crop: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The crop made `factor` times wider."""
    height, width = crop.shape[:2]
    size = (max(1, round(width * factor)), height)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
