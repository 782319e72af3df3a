"""PP-OCR under PaddlePaddle, with PaddleOCR's own classes: other models than the packaged ones, and GPUs. An extra.

Knows PaddleOCR's classes and files; knows nothing of reading order, candidates or lines.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.errors import DependencyError, ReaderError
from fusion.ocr.layout import Region


class KeepPosterior:
    """Stands in for the recogniser's post-processing and keeps the softmax it would throw away."""

    def __init__(self, original: Any) -> None:
        self.characters: list[str] = original.character
        self.last: NDArray[np.float32] = np.empty((0, 0, 0), np.float32)

    def __call__(self, predictions: Any, **_: Any) -> tuple[list[str], list[float]]:
        """Keep the posterior, float32 (B, T, C), and answer with empty texts."""
        self.last = np.asarray(predictions[0], dtype=np.float32)
        return [""] * len(self.last), [0.0] * len(self.last)


class PaddleModels:
    """Detection and recognition models of PaddleOCR. Threads take turns: PaddleOCR's predictors keep state."""

    engine = "paddle"

    def __init__(self, config: OcrConfig) -> None:
        """Load both models.

        Raises:
            DependencyError: PaddleOCR, PaddlePaddle or a model folder is missing.
            ReaderError: PaddleOCR refuses a model folder.
        """
        _require(config.device)
        # Without these, PaddleX asks model hosts for names it never uses, and prints banners into our output.
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        logging.getLogger("paddlex").setLevel(logging.ERROR)
        import paddleocr

        self.version = version("paddleocr")
        self.model, self.detection_model = config.recognition_model, config.detection_model
        common: dict[str, Any] = {"device": config.device, "engine": "paddle", "cpu_threads": config.threads}
        try:
            self._detector = paddleocr.TextDetection(
                model_name=config.detection_model,
                model_dir=_folder(config.detection_model, config.detection_dir),
                limit_type="max",
                limit_side_len=config.detection_side,
                box_thresh=config.box_threshold,
                **common,
            )
            self._recognizer = paddleocr.TextRecognition(
                model_name=config.recognition_model,
                model_dir=_folder(config.recognition_model, config.recognition_dir),
                **common,
            )
        except (RuntimeError, ValueError, AssertionError, KeyError, OSError) as error:
            problem = f"PaddleOCR can't load the models ({error})"
            raise ReaderError("ocr", problem, "`fusion doctor` shows which models are used.") from error
        predictor = self._recognizer.paddlex_predictor
        self._keep = KeepPosterior(predictor.post_op)
        predictor.post_op = self._keep
        self.characters: tuple[str, ...] = tuple(self._keep.characters)
        self._lock = threading.Lock()

    def regions(self, pixels: NDArray[np.uint8]) -> list[Region]:
        """See `OnnxModels.regions`."""
        with self._lock:
            result = self._detector.predict(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), batch_size=1)[0]
        return [
            Region(np.asarray(polygon, dtype=np.float64), float(score))
            for polygon, score in zip(result["dt_polys"], result["dt_scores"], strict=True)
        ]

    def posteriors(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """See `OnnxModels.posteriors`."""
        results: list[NDArray[np.float32]] = []
        with self._lock:
            for crop in crops:
                self._recognizer.predict([cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)], batch_size=1)
                results.append(self._keep.last[0])
        return results

    def close(self) -> None:
        """Give the models' memory back."""
        self._detector.close()
        self._recognizer.close()


def _folder(model: str, given: Path | None) -> str:
    if given is None:
        problem = "has no folder and the paddle runtime packages no weights"
        raise DependencyError(model, problem, "Download the model and set ocr.detection_dir / ocr.recognition_dir.")
    if not given.is_dir():
        raise DependencyError(given, "is not a folder", "Check ocr.detection_dir and ocr.recognition_dir.")
    return str(given)


def _require(device: str) -> None:
    """PaddleOCR and a PaddlePaddle that can use the device."""
    way = "docs/install.md says in which order (paddleocr and paddlepaddle, then fusion[paddle])."
    if not _installed("paddleocr"):
        raise DependencyError("ocr.engine: paddle", "PaddleOCR is not installed", way)
    if not (_installed("paddlepaddle") or _installed("paddlepaddle-gpu")):
        raise DependencyError("ocr.engine: paddle", "PaddlePaddle is not installed", way)
    if device.startswith("gpu"):
        import paddle

        if not paddle.device.is_compiled_with_cuda():
            way = "Install a paddlepaddle-gpu 3.x build (docs/install.md), or set ocr.device: cpu."
            raise DependencyError(f"ocr.device: {device}", "this PaddlePaddle is built without CUDA", way)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
