"""The OCR room: an upright page in, lines in reading order out, each with candidates and answers about any string.

Knows PP-OCR, CTC and the order of lines; knows nothing of a second reader or of decisions. Nothing is dropped for a
low score: those lines are the job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.ctc import Posterior, Views
from fusion.ink import InkLine, PageImage, image_sha256
from fusion.ocr import layout
from fusion.ocr.onnx import OnnxModels, Recognizer, column_px
from fusion.onnx import runtime_version
from fusion.page import Failure, Position, Reading, Recipe, is_ideograph

__all__ = ["OcrReader"]

LATIN = Path(str(files("fusion.ocr") / "latin" / "recogniser.onnx"))
"""PP-OCR's recogniser trained on with real Latin hands; its card stands beside it."""
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


class Models(Protocol):
    """What finds and recognises writing: PP-OCR under one of two runtimes.

    Attributes:
        engine, version, model: what a reading's recipe records.
        detection_model: name of the model that finds regions.
        characters: one text per class of a posterior; the first is the blank.
    """

    engine: str
    version: str
    model: str
    detection_model: str
    characters: tuple[str, ...]

    def regions(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Regions of writing on a page, in no order."""
        ...

    def posteriors(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """CTC posterior of each crop."""
        ...

    def close(self) -> None:
        """Give the models' memory back."""
        ...


def open_models(config: OcrConfig) -> Models:
    """The models that a configuration names; see `OnnxModels` and `PaddleModels` for errors."""
    if config.engine == "onnx":
        return OnnxModels(config)
    from fusion.ocr.paddle import PaddleModels

    return PaddleModels(config)


class OcrReader:
    """Finds lines and reads them. Keeps no state between pages, and may be used from several threads at once."""

    def __init__(self, config: OcrConfig) -> None:
        """Load the models; see `open_models` for errors."""
        self._config = config
        self._engine = open_models(config)
        self._latin = Recognizer(LATIN, "latin hands", config.threads)
        self._spells = frozenset(self._latin.characters[1:])

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
    def identity(self) -> str:
        """What its readings depend on beside the settings: models and runtime."""
        engine = self._engine
        return f"{engine.detection_model} {engine.model} {self._latin.model} {engine.engine} {engine.version}"

    def close(self) -> None:
        """Give the models' memory back."""
        self._engine.close()
        self._latin = None  # type: ignore[assignment]

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
        return self._at_widths(crop, lambda view: self._engine.posteriors([view])[0], self._engine.characters, None)

    def _hand(self, crop: NDArray[np.uint8], text: str) -> tuple[Reading, Views] | tuple[None, None]:
        """The second look, by the recogniser of Latin hands; of lines in another script it says nothing."""
        if any(map(is_ideograph, text)):
            return None, None
        looks = self._at_widths(crop, self._latin.posterior, self._latin.characters, self._spells)
        recipe = Recipe("pp-ocr/latin hands", runtime_version(), self._latin.model, image_sha256(crop))
        return self._reading("hand", looks, recipe, float(crop.shape[1])), looks

    def _at_widths(
        self,
        crop: NDArray[np.uint8],
        read: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        characters: Sequence[str],
        spells: frozenset[str] | None,
    ) -> Views:
        """Looks at a crop: as it is; where that is poor or cramped also stretched. Columns are measured on the crop."""

        def look(view: NDArray[np.uint8]) -> Posterior:
            column = column_px(*view.shape[1::-1]) * crop.shape[1] / view.shape[1]
            return Posterior.compact(read(view), characters, column, spells)

        plain = look(crop)
        on_ink = crop.shape[1] / column_px(*crop.shape[1::-1])
        cramped = on_ink < self._config.cramped * max(1, len(plain.greedy))
        if not cramped and plain.quality >= self._config.poor:
            return Views((plain,))
        stretched = [look(_stretched(crop, factor)) for factor in self._config.stretches]
        ranked = sorted([plain, *stretched], key=lambda posterior: -posterior.quality)
        return Views(tuple(ranked[:LOOKS]))

    def _line(
        self, name: str, polygon: tuple[tuple[float, float], ...], crop: NDArray[np.uint8], ink: Views
    ) -> InkLine:
        recipe = Recipe(f"pp-ocr/{self._engine.engine}", self._engine.version, self._engine.model, image_sha256(crop))
        reading = self._reading("ocr", ink, recipe, float(crop.shape[1]))
        failures = () if ink.best.greedy else (Failure("ocr", "empty", "the OCR reads nothing on this line"),)
        hand, hand_ink = self._hand(crop, ink.best.greedy)
        return InkLine(name, polygon, crop, reading, ink, failures, hand, hand_ink)

    def _reading(self, source: Literal["ocr", "hand"], looks: Views, recipe: Recipe, width: float) -> Reading:
        best = looks.best
        return Reading(
            source=source,
            text=best.greedy,
            recipe=recipe,
            positions=_within(best.positions(self._config.top_k), width),
            nbest=looks.nbest(self._config.nbest),
            score=looks.score([best.greedy])[0],
            raw=best.greedy,
        )


def _within(positions: Sequence[Position], width: float) -> tuple[Position, ...]:
    """Positions cut at the crop's edge: a last letter may be written on the padding behind it."""
    return tuple(replace(p, left=min(p.left, width), right=min(p.right, width)) for p in positions)


def _stretched(crop: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The crop made `factor` times wider."""
    height, width = crop.shape[:2]
    size = (max(1, round(width * factor)), height)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
