"""Systems of others on the same images: PaddleOCR's own pipeline, RapidOCR, Tesseract. Each runs in a process of its own.

`python -m eval.outside NAME` opens one of them, takes an image per row of standard input, and answers with a row of JSON
each. Readings are kept by what they depend on; a system that is not there is a reason, never an error.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from eval.paddle_models import model_folder
from fusion.ocr.weights import DETECTION, RECOGNITION
from fusion.onnx import file_sha256
from fusion.store import key_of

Lines = list[tuple[str, float | None]]
"""Texts from top to bottom, each with the system's own score in [0, 1]."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Task:
    """What a system is told: whether each image is one line, already cut out, and whether it is in Chinese."""

    crop: bool
    chinese: bool


class Outside(Protocol):
    """A system that reads images. What it can't do without is imported when it is opened.

    Attributes:
        how: the command that installs it.
    """

    how: str

    def __init__(self, task: Task) -> None:
        """Open it."""
        ...

    @staticmethod
    def version() -> str | None:
        """Name and version of what would read; None: it is not installed."""
        ...

    def read(self, path: Path) -> Lines:
        """What it reads on an image, as a user of it would have it read."""
        ...


class PaddleOcr:
    """PaddleOCR's pipeline, detection and recognition, also of crops; with the PP-OCRv6 weights of the `rapidocr` package."""

    how = "pip install paddleocr paddlepaddle"

    def __init__(self, task: Task) -> None:
        """Write the model folders that it wants, and open it."""
        os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"  # it asks model hosts for names it never uses
        logging.getLogger("paddlex").setLevel(logging.ERROR)
        import paddleocr

        root = Path(tempfile.mkdtemp())
        self._pipeline = paddleocr.PaddleOCR(
            text_detection_model_name=DETECTION,
            text_detection_model_dir=str(model_folder(root, DETECTION)),
            text_recognition_model_name=RECOGNITION,
            text_recognition_model_dir=str(model_folder(root, RECOGNITION)),
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            device="cpu",
            engine="onnxruntime",
            engine_config={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        )
        shutil.rmtree(root)

    @staticmethod
    def version() -> str | None:
        """See `Outside`."""
        return _package("paddleocr")

    def read(self, path: Path) -> Lines:
        """See `Outside`."""
        (found,) = self._pipeline.predict(str(path))
        return [(text, float(score)) for text, score in zip(found["rec_texts"], found["rec_scores"], strict=True)]


class RapidOcr:
    """RapidOCR as it comes; of a crop its recognition alone."""

    how = "pip install rapidocr"

    def __init__(self, task: Task) -> None:
        """Open it on one thread."""
        from rapidocr import RapidOCR

        threads = dict.fromkeys(("intra_op_num_threads", "inter_op_num_threads"), 1)
        settings = {f"EngineConfig.onnxruntime.{name}": count for name, count in threads.items()}
        self._pipeline = RapidOCR(params={"Global.log_level": "critical", **settings})
        self._how = {"use_det": False, "use_cls": False} if task.crop else {}

    @staticmethod
    def version() -> str | None:
        """See `Outside`."""
        return _package("rapidocr")

    def read(self, path: Path) -> Lines:
        """See `Outside`."""
        found: Any = self._pipeline(str(path), **self._how)
        return [(text, float(score)) for text, score in zip(found.txts or (), found.scores or (), strict=True)]


class Tesseract:
    """Tesseract of the system, one process per image; of a crop as one line (`--psm 7`)."""

    how = "apt-get install tesseract-ocr tesseract-ocr-chi-sim"

    def __init__(self, task: Task) -> None:
        """Choose the language and the kind of page."""
        self._settings = ["-l", "chi_sim" if task.chinese else "eng", "--psm", "7" if task.crop else "3", "tsv"]
        self._gap = "" if task.chinese else " "

    @staticmethod
    def version() -> str | None:
        """See `Outside`."""
        if shutil.which("tesseract") is None:
            return None
        said = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
        return (said.stdout or said.stderr).split("\n")[0]

    def read(self, path: Path) -> Lines:
        """See `Outside`."""
        command = ["tesseract", str(path), "-", *self._settings]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = defaultdict(list)
        for row in csv.DictReader(io.StringIO(said), delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["text"].strip():
                place = tuple(int(row[name]) for name in ("block_num", "par_num", "line_num"))
                lines[place].append((row["text"], float(row["conf"]) / 100))
        return [(self._gap.join(t for t, _ in words), min(s for _, s in words)) for words in lines.values()]


SYSTEMS: dict[str, type[Outside]] = {
    "PaddleOCR": PaddleOcr,
    "RapidOCR": RapidOcr,
    "Tesseract": Tesseract,
}


def _package(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


# --- readings, kept -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """What a system said about one image, and how long it took, s."""

    lines: Lines
    seconds: float

    @property
    def text(self) -> str:
        """Its lines, one per row."""
        return "\n".join(text for text, _ in self.lines)


def readings(name: str, paths: Sequence[Path], task: Task, kept: Path | None) -> list[Said] | str:
    """What a system reads on images, or why it reads nothing.

    Args:
        name: one of `SYSTEMS`.
        paths: images.
        task: what it is told.
        kept: JSON lines that hold earlier readings; new ones are added. None: nothing is kept.
    """
    system = SYSTEMS[name]
    if (installed := system.version()) is None:
        return f"not installed: {system.how}"
    keys = [key_of(sha=file_sha256(path), system=installed, crop=task.crop, chinese=task.chinese) for path in paths]
    known = _load(kept)
    missing = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    if missing:
        said = _asked(name, list(missing.values()), task)
        if isinstance(said, str):
            return said
        known |= dict(zip(missing, said, strict=True))
        _add(kept, dict(zip(missing, said, strict=True)))
    return [known[key] for key in keys]


def _asked(name: str, paths: Sequence[Path], task: Task) -> list[Said] | str:
    """A process reads all images."""
    command = [sys.executable, "-m", "eval.outside", name, str(int(task.crop)), str(int(task.chinese))]
    rows = "".join(f"{path}\n" for path in paths)
    done = subprocess.run(command, input=rows, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    answers = [json.loads(row) for row in done.stdout.splitlines() if row.startswith('{"lines"')]
    if done.returncode or len(answers) != len(paths):
        last = (done.stderr.strip() or "it stopped early").splitlines()[-1]
        return f"failed after {len(answers)} of {len(paths)} images: {last}"
    return [_said(row) for row in answers]


def _said(row: dict[str, Any]) -> Said:
    return Said([(text, score) for text, score in row["lines"]], row["seconds"])


def _load(kept: Path | None) -> dict[str, Said]:
    if kept is None or not kept.exists():
        return {}
    known = {}
    for text in kept.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # what a kill has cut off is asked again
            row = json.loads(text)
            known[row["key"]] = _said(row)
    return known


def _add(kept: Path | None, said: dict[str, Said]) -> None:
    if kept is None:
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    cut_off = kept.exists() and not kept.read_bytes().endswith(b"\n")
    with kept.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off)
        for key, one in said.items():
            row = {"key": key, "lines": one.lines, "seconds": one.seconds}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(name: str, crop: str, chinese: str) -> None:
    """Read the images that standard input names."""
    system = SYSTEMS[name](Task(crop == "1", chinese == "1"))
    for row in sys.stdin:
        start = time.perf_counter()
        lines = system.read(Path(row.rstrip("\n")))
        print(json.dumps({"lines": lines, "seconds": round(time.perf_counter() - start, 4)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
