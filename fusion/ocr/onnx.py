"""PP-OCR on ONNX Runtime as two functions: regions of a page, posterior of a crop.

Knows the models' input and output; knows nothing of reading order, candidates or lines. What goes into the models and
what their output means is PaddleOCR's, step by step: Liao et al., "Real-time scene text detection with differentiable
binarization", AAAI 2020, for the regions. Tests hold both against PaddleOCR's own classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.errors import ConfigError, ReaderError
from fusion.ocr import weights
from fusion.ocr.layout import Region, height_of
from fusion.onnx import file_sha256, open_session, run, runtime_version

HEIGHT = 48
"""Height at which PP-OCR recognises, px."""
COLUMN = 8
"""Width of one CTC column at that height, px."""
LEAST_WIDTH, MOST_WIDTH = 320, 3200
"""Width to which a narrower crop is padded, and to which a wider one is squeezed, px at that height.

The columns of the padding are kept: the network is late by a column or two, and goes on writing there when a narrow crop
holds many letters."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours. PaddleOCR applies them to blue, green and red in this order."""
STRIDE = 32
"""Sides of a page are multiples of this for the detector, px."""
LONG = 2
"""A page longer than this, in widths, is searched as if it were this long: its scale follows its width."""
SMALL = 10
"""Writing whose median height on the detector's map is under this, px, is searched again on a larger one."""
MOST_SEARCHED = 6_000_000
"""Most px of that larger map."""
STRIP, OVERLAP = 1920, 128
"""A longer map is made in strips of this height with this overlap, px; both multiples of `STRIDE`."""
INKED = 0.3
"""Probability from which a pixel of the detector's map belongs to a region."""
UNCLIP = 1.5
"""The detector finds shrunken regions: each is grown by this times its area over its circumference."""
SMALLEST = 3
"""Least side of a region on the detector's map, px, before it is grown."""
MOST_REGIONS = 1000
"""Most regions of a page."""


class Recognizer:
    """A recogniser of PP-OCR's kind: crops to posteriors. May be used from several threads at once."""

    def __init__(self, path: Path, name: str, threads: int) -> None:
        """Load a model; `name` is what its readings record.

        Raises:
            ReaderError: it can't be run, or names no characters.
        """
        self._session = open_session(path, threads)
        self.model = f"{name}@{file_sha256(path)[:12]}"
        named = self._session.get_modelmeta().custom_metadata_map.get("character", "").splitlines()
        listed = named or weights.listed_characters(path)
        if not listed:
            raise ReaderError(path, "names no characters", "Put the inference.yml of the model beside it.")
        self.characters: tuple[str, ...] = ("blank", *listed, " ")

    def posterior(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """CTC posterior of a crop: float32 (T, C), rows sum to 1.

        Args:
            crop: uint8 (h, w, 3), RGB.
        """
        height, width = crop.shape[:2]
        room = min(MOST_WIDTH, int(HEIGHT * max(LEAST_WIDTH / HEIGHT, width / height)))
        inked = min(room, math.ceil(HEIGHT * width / height))
        image = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), (inked, HEIGHT))
        table = np.zeros((1, 3, HEIGHT, room), np.float32)
        table[0, :, :, :inked] = (image.astype(np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
        rows: NDArray[np.float32] = _run(self._session, table)[0]
        if rows.shape[1] != len(self.characters):
            problem = f"has {rows.shape[1]} classes for {len(self.characters)} characters"
            raise ReaderError(self.model, problem, "Put the inference.yml of the model beside it.")
        return rows


class OnnxModels:
    """Detection and recognition models of PP-OCR. May be used from several threads at once."""

    engine = "onnx"

    def __init__(self, config: OcrConfig) -> None:
        """Load both models.

        Raises:
            DependencyError: a model is missing.
            ReaderError: a model can't be run, or names no characters.
            ConfigError: another device than the CPU is asked for.
        """
        if not config.device.startswith("cpu"):
            way = "Set ocr.device: cpu, or ocr.engine: paddle (docs/install.md)."
            raise ConfigError(f"ocr.device: {config.device}", "the ONNX runtime here uses the CPU", way)
        detection = weights.onnx_file(config.detection_model, config.detection_dir)
        recognition = weights.onnx_file(config.recognition_model, config.recognition_dir)
        self._side, self._threshold = config.detection_side, config.box_threshold
        self._detector = open_session(detection, config.threads, arena=True)
        self._recognizer = Recognizer(recognition, config.recognition_model, config.threads)
        self.version = runtime_version()
        self.model = self._recognizer.model
        self.detection_model = f"{config.detection_model}@{file_sha256(detection)[:12]}"
        self.characters = self._recognizer.characters

    def regions(self, pixels: NDArray[np.uint8]) -> list[Region]:
        """Regions of writing, in no order; corners clockwise from the top left.

        A page much longer than wide is searched at the scale that fits its short side, one whose writing turns out to be
        small again at up to twice the scale, until it is not.

        Args:
            pixels: uint8 (H, W, 3), RGB.
        """
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        height, width = image.shape[:2]
        if height + width < 2 * STRIDE:
            image = cv2.copyMakeBorder(
                image, 0, max(0, STRIDE - height), 0, max(0, STRIDE - width), cv2.BORDER_CONSTANT, value=(0, 0, 0)
            )
        scale = min(1.0, self._side / min(max(height, width), LONG * min(height, width)))
        while True:
            chances = self._searched(image, scale)
            found = _regions(chances, self._threshold)
            sizes = [height_of(corners.astype(np.float64)) for corners, _ in found]
            if sizes and np.median(sizes) >= SMALL:
                break
            # A page without writing is not enlarged; one with tiny writing is, to twice its size.
            larger = min(2.0 if sizes else 1.0, 2 * scale, math.sqrt(MOST_SEARCHED / (height * width)))
            if larger <= scale:
                break
            scale = larger
        back = (width / chances.shape[1], height / chances.shape[0])
        return [
            Region(np.clip(np.round(corners.astype(np.float64) * back), 0, (width, height)), probability)
            for corners, probability in found
        ]

    def _searched(self, image: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Probability of writing, float32 (h, w), of a page, uint8 (H, W, 3) BGR, resized by `scale`; in strips if it is long.

        Strips overlap, and each gives the rows that are nearer to its middle than to its neighbour's.
        """
        height, width = image.shape[:2]
        size = tuple(max(round(int(side * scale) / STRIDE) * STRIDE, STRIDE) for side in (width, height))
        table = cv2.resize(image, size).astype(np.float32)
        for channel, (mean, deviation) in enumerate(zip(MEAN, DEVIATION, strict=True)):
            table[:, :, channel] = table[:, :, channel] * (1 / 255 / deviation) - mean / deviation
        rows = table.shape[0]
        chances = np.empty((rows, table.shape[1]), np.float32)
        step = STRIP - OVERLAP if rows > STRIP else rows
        for top in range(0, rows - OVERLAP if rows > STRIP else rows, step):
            bottom = min(rows, top + STRIP)
            strip = table[top:bottom]
            larger = strip.shape[0] * strip.shape[1] > self._side**2  # than most: its memory would be kept for nothing
            part = _run(self._detector, strip.transpose(2, 0, 1)[None], shrink=larger)[0, 0]
            first = 0 if top == 0 else OVERLAP // 2
            chances[top + first : bottom] = part[first:]
        return chances

    def posteriors(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """CTC posterior of each crop: float32 (T, C), rows sum to 1.

        One by one: padding up to a wider neighbour changes what is read.

        Args:
            crops: uint8 (h, w, 3), RGB.
        """
        return [self._recognizer.posterior(crop) for crop in crops]

    def close(self) -> None:
        """Give the models' memory back."""
        self._detector = self._recognizer = None  # type: ignore[assignment]


def column_px(width: int, height: int) -> float:
    """Width of one CTC column, px on the crop."""
    return COLUMN * width / min(MOST_WIDTH, -(-width * HEIGHT // height))


def _run(session: Any, table: NDArray[np.float32], *, shrink: bool = False) -> NDArray[np.float32]:
    return np.asarray(run(session, {session.get_inputs()[0].name: table}, shrink=shrink)[0], dtype=np.float32)


def _regions(chances: NDArray[np.float32], threshold: float) -> list[tuple[NDArray[np.float32], float]]:
    """Corners, float32 (4, 2) px on the map, and mean probability of the regions of a map, float32 (h, w) in [0, 1]."""
    contours, _ = cv2.findContours((chances > INKED).astype(np.uint8) * 255, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours[:MOST_REGIONS]:
        corners, side = _rectangle(contour)
        if side < SMALLEST or (probability := _mean_inside(chances, corners)) < threshold:
            continue
        grown, side = _rectangle(_grown(corners))
        if side >= SMALLEST + 2:
            found.append((grown, probability))
    return found


def _rectangle(points: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """The smallest rectangle around points, float32 (4, 2), clockwise from the top left, and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    left, right = np.split(np.array(sorted(cv2.boxPoints(rectangle), key=lambda corner: float(corner[0]))), 2)
    (top_left, bottom_left), (top_right, bottom_right) = (
        pair if pair[1][1] > pair[0][1] else pair[::-1] for pair in (left, right)
    )
    return np.array([top_left, top_right, bottom_right, bottom_left]), float(min(rectangle[1]))


def _mean_inside(chances: NDArray[np.float32], corners: NDArray[np.float32]) -> float:
    """Mean of the map inside a quadrilateral."""
    height, width = chances.shape
    left, top = (max(0, min(math.floor(v), n - 1)) for v, n in zip(corners.min(axis=0), (width, height), strict=True))
    right, bottom = (
        max(0, min(math.ceil(v), n - 1)) for v, n in zip(corners.max(axis=0), (width, height), strict=True)
    )
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, (corners - (left, top)).reshape(1, -1, 2).astype(np.int32), (1,))
    return float(cv2.mean(chances[top : bottom + 1, left : right + 1], mask)[0])


def _grown(corners: NDArray[np.float32]) -> NDArray[np.int32]:
    """A quadrilateral with its border moved outwards, as points: int32 (n, 1, 2)."""
    distance = cv2.contourArea(corners) * UNCLIP / cv2.arcLength(corners, True)
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return np.array(offset.Execute(distance)[0], dtype=np.int32).reshape(-1, 1, 2)
