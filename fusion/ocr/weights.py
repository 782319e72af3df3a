"""Model folders for PaddleOCR made from the weights that the `rapidocr` wheel carries.

Knows where the ONNX files lie and what PaddleOCR wants beside them; reads no image. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

import yaml

from fusion.errors import DependencyError

DETECTION = "PP-OCRv6_small_det"
RECOGNITION = "PP-OCRv6_small_rec"
_FILES = {DETECTION: "PP-OCRv6_det_small.onnx", RECOGNITION: "PP-OCRv6_rec_small.onnx"}


def packaged_onnx(model: str) -> Path:
    """Path of the ONNX file of a packaged model, found without importing the package that carries it.

    Raises:
        DependencyError: the model is not among the packaged ones, or the wheel is missing.
    """
    if model not in _FILES:
        raise DependencyError(
            model, "is not packaged", f"Packaged are {', '.join(_FILES)}; give others a folder (ocr.*_dir)."
        )
    try:
        listed = files("rapidocr") or []
    except PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name == _FILES[model]:
            path = Path(str(entry.locate()))
            if path.is_file():
                return path
    raise DependencyError(
        model, "its weights are not installed", "pip install 'rapidocr>=3.10,<3.11' (it carries them)"
    )


def cache_home() -> Path:
    """Folder for derived files: `$FUSION_CACHE`, else `$XDG_CACHE_HOME/fusion`, else `~/.cache/fusion`."""
    given = os.environ.get("FUSION_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusion"


def model_folder(model: str) -> Path:
    """A folder with `inference.onnx` and `inference.yml` for a packaged model; made once and kept.

    The folder's name carries the size of the weights and the package version, so an upgrade makes a new one.
    """
    source = packaged_onnx(model)
    key = hashlib.sha256(f"{version('rapidocr')} {source.stat().st_size}".encode()).hexdigest()[:12]
    folder = cache_home() / "models" / f"{model}-{key}"
    if (folder / "inference.yml").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    staging.chmod(0o755)  # mkdtemp's 0700 would lock out the other users of a shared cache
    shutil.copy(source, staging / "inference.onnx")
    content = _recognition_yml(source) if model == RECOGNITION else _detection_yml()
    (staging / "inference.yml").write_text(
        yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    try:
        staging.rename(folder)
    except OSError:  # another process was quicker: its folder is as good
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _recognition_yml(source: Path) -> dict[str, Any]:
    """What PaddleOCR's recogniser needs; the character list is inside the ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return {
        "Global": {"model_name": RECOGNITION},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
                {"KeepKeys": {"keep_keys": ["image"]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
    }


def _detection_yml() -> dict[str, Any]:
    """What PaddleOCR's detector needs: ImageNet normalisation and DB post-processing as published."""
    return {
        "Global": {"model_name": DETECTION},
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
