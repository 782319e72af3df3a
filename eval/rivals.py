"""Programs that read a page, opened in a process of their own: fusion, PaddleOCR's pipeline, RapidOCR's defaults.

All run PP-OCRv6-small on ONNX Runtime with one thread. PaddleOCR's other models (orientation, unwarping) are not packaged
anywhere: it runs without them, which makes it faster.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from fusion.config import load_config
from fusion.errors import ConfigError, DependencyError

RIVALS = ("paddleocr", "rapidocr")


@dataclass(frozen=True, slots=True)
class Page:
    """What came out of one page: its text; of fusion also the seconds in all, by stage, and inside networks."""

    text: str
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    networks: float = 0.0


Read = Callable[[Path], Page]


def serve(pipe: Connection, system: str, config: Path | None, overrides: Sequence[str]) -> None:
    """Open a system and read the pages whose paths come through a pipe, until None comes."""
    cv2.setNumThreads(1)
    if system in RIVALS:
        logging.disable(logging.CRITICAL)
    read = {"paddleocr": paddleocr, "rapidocr": rapidocr}[system]() if system in RIVALS else fusion(config, overrides)
    pipe.send(None)
    with suppress(EOFError):
        while (path := pipe.recv()) is not None:
            pipe.send(read(path))


def fusion(config: Path | None, overrides: Sequence[str]) -> Read:
    """This package, with clocks around its stages and around the networks."""
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    from fusion.engine import Engine

    spent, real = [0.0], Session.run

    def run(*arguments: object, **how: object) -> object:
        start = time.perf_counter()
        try:
            return real(*arguments, **how)
        finally:
            spent[0] += time.perf_counter() - start

    Session.run = run
    engine = Engine(load_config(config, overrides))

    def read(path: Path) -> Page:
        engine.clock.clear()
        spent[0] = 0.0
        start = time.perf_counter()
        text = "\n".join(page.text for page in engine.read(path))
        return Page(text, time.perf_counter() - start, dict(engine.clock), spent[0])

    return read


def paddleocr() -> Read:
    """PaddleOCR's own pipeline, with the packaged weights."""
    require("paddleocr")
    os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    from paddleocr import PaddleOCR

    from eval.paddle_models import model_folder
    from fusion.ocr import weights

    folder = Path(tempfile.mkdtemp(prefix="paddleocr"))
    pipeline = PaddleOCR(
        text_detection_model_name=weights.DETECTION,
        text_detection_model_dir=str(model_folder(folder, weights.DETECTION)),
        text_recognition_model_name=weights.RECOGNITION,
        text_recognition_model_dir=str(model_folder(folder, weights.RECOGNITION)),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        device="cpu",
        engine="onnxruntime",
        engine_config={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )
    return lambda path: Page("\n".join(line for page in pipeline.predict(str(path)) for line in page["rec_texts"]))


def rapidocr() -> Read:
    """RapidOCR as it comes, but for the number of threads."""
    require("rapidocr")
    from rapidocr import RapidOCR

    one = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    program: Any = RapidOCR(params={**one, "Global.log_level": "critical"})
    return lambda path: Page("\n".join(program(str(path)).txts or ()))


def require(package: str) -> None:
    """ConfigError where this is no other program, DependencyError where it is not installed."""
    if package not in RIVALS:
        raise ConfigError(f"--against {package}", "is not known", f"There are: {', '.join(RIVALS)}.")
    try:
        version(package)
    except PackageNotFoundError as error:
        way = f"pip install {package}, or leave out --against {package}."
        raise DependencyError(f"--against {package}", "is not installed", way) from error
