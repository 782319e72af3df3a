"""The packaged PP-OCR weights as folders that PaddleOCR takes: `inference.onnx` and `inference.yml` for each model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fusion.ocr import weights


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
    """Write what PaddleOCR wants to know of a model."""
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
