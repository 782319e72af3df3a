"""PaddleOCR as two functions: regions of a page, posterior of a crop. Both runtimes, one code path.

Knows PaddleOCR's classes and files; knows nothing of reading order, candidates or lines.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.errors import DependencyError, ReaderError
from fusion.ocr import weights

HEIGHT = 48
"""Height at which PP-OCR recognises, px."""
COLUMN = 8
"""Width of one CTC column at that height, px."""
MOST_WIDTH = 3200
"""Width to which PP-OCR squeezes a longer crop, px at that height."""


class _KeepPosterior:
    """Stands in for the recogniser's post-processing and keeps the softmax it would throw away."""

    def __init__(self, original: Any) -> None:
        self.characters: list[str] = original.character
        self.last: NDArray[np.float32] = np.empty((0, 0, 0), np.float32)

    def __call__(self, predictions: Any, **_: Any) -> tuple[list[str], list[float]]:
        self.last = np.asarray(predictions[0], dtype=np.float32)
        return [""] * len(self.last), [0.0] * len(self.last)


class PaddleEngine:
    """Detection and recognition models of PaddleOCR under one runtime."""

    def __init__(self, config: OcrConfig) -> None:
        """Load both models.

        Raises:
            DependencyError: the runtime or a model folder is missing.
            ReaderError: PaddleOCR refuses a model folder.
        """
        # Without these, PaddleX asks model hosts for names it never uses, and prints banners into our output.
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        logging.getLogger("paddlex").setLevel(logging.ERROR)
        import paddleocr

        self.version = version("paddleocr")
        self.model = config.recognition_model
        common: dict[str, Any] = {"device": config.device}
        if config.engine == "onnx":
            common |= {
                "engine": "onnxruntime",
                "engine_config": {"intra_op_num_threads": config.threads, "inter_op_num_threads": 1},
            }
        else:
            _require_paddle(config.device)
            common |= {"engine": "paddle", "cpu_threads": config.threads}
        try:
            self._detector = paddleocr.TextDetection(
                model_name=config.detection_model,
                model_dir=str(_folder(config, config.detection_model, config.detection_dir)),
                limit_type="max",
                limit_side_len=config.detection_side,
                box_thresh=config.box_threshold,
                **common,
            )
            self._recognizer = paddleocr.TextRecognition(
                model_name=config.recognition_model,
                model_dir=str(_folder(config, config.recognition_model, config.recognition_dir)),
                **common,
            )
        except (RuntimeError, ValueError, AssertionError, KeyError, OSError) as error:
            problem = f"PaddleOCR can't load the models ({error})"
            raise ReaderError("ocr", problem, "`fusion doctor` shows which models are used.") from error
        self.seconds = 0.0
        """Time spent in PaddleOCR since the start, s."""
        predictor = self._recognizer.paddlex_predictor
        self._keep = _KeepPosterior(predictor.post_op)
        predictor.post_op = self._keep
        self.characters: tuple[str, ...] = tuple(self._keep.characters)

    def regions(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Regions of writing, in no order: float64 (4, 2) corners, px, clockwise from the top left.

        Args:
            pixels: uint8 (H, W, 3), RGB.
        """
        start = time.perf_counter()
        result = self._detector.predict(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), batch_size=1)[0]
        self.seconds += time.perf_counter() - start
        return [np.asarray(polygon, dtype=np.float64) for polygon in result["dt_polys"]]

    def posteriors(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """CTC posterior of each crop: float32 (T, C), rows sum to 1.

        PP-OCR pads a narrow crop to 320 px; the columns there are kept, since the network is late by a column or two
        and goes on writing when a narrow crop holds many letters.

        Args:
            crops: uint8 (h, w, 3), RGB.
        """
        start = time.perf_counter()
        results: list[NDArray[np.float32]] = []
        for crop in crops:  # one by one: padding up to a wider neighbour changes what is read
            self._recognizer.predict([cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)], batch_size=1)
            results.append(self._keep.last[0])
        self.seconds += time.perf_counter() - start
        return results

    def close(self) -> None:
        """Give the models' memory back."""
        self._detector.close()
        self._recognizer.close()


def column_px(width: int, height: int) -> float:
    """Width of one CTC column, px on the crop."""
    return COLUMN * width / min(MOST_WIDTH, -(-width * HEIGHT // height))


def _folder(config: OcrConfig, model: str, given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise DependencyError(given, "is not a folder", "Check ocr.detection_dir and ocr.recognition_dir.")
        return given
    if config.engine == "paddle":
        problem = "has no folder and the paddle runtime packages no weights"
        raise DependencyError(model, problem, "Download the model and set ocr.detection_dir / ocr.recognition_dir.")
    return weights.model_folder(model)


def _require_paddle(device: str) -> None:
    try:
        version("paddlepaddle")
    except ModuleNotFoundError:
        try:
            version("paddlepaddle-gpu")
        except ModuleNotFoundError as error:
            way = "pip install '.[paddle]' in the project's folder (CPU), or a paddlepaddle-gpu 3.x build as the README says."
            raise DependencyError("ocr.engine: paddle", "PaddlePaddle is not installed", way) from error
    if device.startswith("gpu"):
        import paddle

        if not paddle.device.is_compiled_with_cuda():
            way = "Install a paddlepaddle-gpu 3.x build as the README says, or set ocr.device: cpu."
            raise DependencyError(f"ocr.device: {device}", "this PaddlePaddle is built without CUDA", way)
