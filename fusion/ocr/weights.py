"""Where the models of PP-OCR lie: in the wheel that carries them, or in a folder of the user's.

Knows files and packages; opens no model. Nothing is downloaded.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import yaml

from fusion.errors import DependencyError, ReaderError

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


def onnx_file(model: str, folder: Path | None) -> Path:
    """The ONNX file of a model: the packaged one, or `inference.onnx` in a folder.

    Raises:
        DependencyError: there is no such file.
    """
    if folder is None:
        return packaged_onnx(model)
    if not folder.is_dir():
        raise DependencyError(folder, "is not a folder", "Check ocr.detection_dir and ocr.recognition_dir.")
    path = folder / "inference.onnx"
    if not path.is_file():
        way = "Export the model to ONNX, or set ocr.engine: paddle for a model of PaddlePaddle."
        raise DependencyError(path, "there is no such file", way)
    return path


def listed_characters(model: Path) -> list[str]:
    """The characters that `inference.yml` beside a recognition model lists, without blank and space; [] if there is none.

    Raises:
        ReaderError: the file can't be understood.
    """
    path = model.with_name("inference.yml")
    if not path.is_file():
        return []
    try:
        return [str(one) for one in yaml.safe_load(path.read_text(encoding="utf-8"))["PostProcess"]["character_dict"]]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        way = "It comes with the model; its PostProcess section lists the characters."
        raise ReaderError(path, f"lists no characters ({type(error).__name__})", way) from error
