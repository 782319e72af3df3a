"""PP-OCR through PaddleOCR's own classes under ONNX Runtime: what the project's own way of running it is held against.

PaddleOCR wants a folder with `inference.onnx` and `inference.yml` for each model; the weights are the packaged ones.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from fusion.config import OcrConfig
from fusion.ocr import weights
from fusion.ocr.paddle import KeepPosterior


def recognition_yml(characters: Sequence[str]) -> dict[str, Any]:
    """What PaddleOCR's recogniser needs beside its weights."""
    return {
        "Global": {"model_name": weights.RECOGNITION},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
                {"KeepKeys": {"keep_keys": ["image"]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list(characters)},
    }


def detection_yml() -> dict[str, Any]:
    """What PaddleOCR's detector needs: ImageNet normalisation and DB post-processing as published."""
    return {
        "Global": {"model_name": weights.DETECTION},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetLabelEncode": None},
                {"DetResizeForTest": {"resize_long": 960}},
                {
                    "NormalizeImage": {
                        "mean": [0.485, 0.456, 0.406],
                        "std": [0.229, 0.224, 0.225],
                        "order": "hwc",
                        "scale": "1./255.",
                    }
                },
                {"ToCHWImage": None},
                {"KeepKeys": {"keep_keys": ["image", "shape", "polys", "ignore_tags"]}},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
    }


def write_yml(folder: Path, content: dict[str, Any]) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (folder / "inference.yml").write_text(text, encoding="utf-8")


def model_folder(root: Path, model: str) -> Path:
    """A folder as PaddleOCR wants it, of a packaged model."""
    folder = root / model
    folder.mkdir(parents=True)
    source = weights.packaged_onnx(model)
    shutil.copy(source, folder / "inference.onnx")
    write_yml(folder, recognition_yml(characters_of(source)) if model == weights.RECOGNITION else detection_yml())
    return folder


def characters_of(model: Path) -> list[str]:
    """The character list inside an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    listed: str = session.get_modelmeta().custom_metadata_map["character"]
    return listed.splitlines()


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
