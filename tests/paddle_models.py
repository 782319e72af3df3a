"""PP-OCR through PaddleOCR's own classes under ONNX Runtime: what the project's own way of running it is held against."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.paddle_models import model_folder
from fusion.config import OcrConfig
from fusion.ocr import weights
from fusion.ocr.paddle import KeepPosterior


class PaddleOnOnnx:
    """`paddleocr.TextDetection` and `paddleocr.TextRecognition` under ONNX Runtime, one thread."""

    def __init__(self, root: Path, config: OcrConfig) -> None:
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        logging.getLogger("paddlex").setLevel(logging.ERROR)
        import paddleocr

        runtime = {
            "device": "cpu",
            "engine": "onnxruntime",
            "engine_config": {"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        }
        self._detector = paddleocr.TextDetection(
            model_name=weights.DETECTION,
            model_dir=str(model_folder(root, weights.DETECTION)),
            limit_type="max",
            limit_side_len=config.detection_side,
            box_thresh=config.box_threshold,
            **runtime,
        )
        self._recognizer = paddleocr.TextRecognition(
            model_name=weights.RECOGNITION, model_dir=str(model_folder(root, weights.RECOGNITION)), **runtime
        )
        predictor = self._recognizer.paddlex_predictor
        self._keep = KeepPosterior(predictor.post_op)
        predictor.post_op = self._keep
        self.characters = tuple(self._keep.characters)

    def regions(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Boxes of an RGB page in PaddleOCR's order."""
        result = self._detector.predict(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), batch_size=1)[0]
        return [np.asarray(polygon, dtype=np.float64) for polygon in result["dt_polys"]]

    def posterior(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Softmax of an RGB crop, float32 (T, C)."""
        self._recognizer.predict([cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)], batch_size=1)
        return self._keep.last[0]

    def close(self) -> None:
        self._detector.close()
        self._recognizer.close()
