"""What the tests of batch runs share: inputs that are read fast, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from fusion.batch import make_plan, run_batch
from fusion.batch.run import Ended
from fusion.config import Config, load_config

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "eval" / "samples"
WORD = SAMPLES / "word_squashed.png"


def configured(folder: Path, *inputs: object, **settings: object) -> Config:
    """Crops, the OCR alone, one process."""
    batch = {"inputs": [str(one) for one in inputs], "output": str(folder), "crop": True, "workers": 1, **settings}
    sets = [f"batch.{name}={json.dumps(value)}" for name, value in batch.items()]
    return load_config(overrides=["vlm.engine=none", *sets])


def run(config: Config, show: Any = lambda *_: None, **how: bool) -> Ended:
    return run_batch(config, make_plan(config), show, **how)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, bytes]:
    """All that a run leaves behind as results."""
    names = [folder / "results.jsonl", folder / "records.csv", *(folder / "pages").iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


def words(folder: Path, count: int) -> Path:
    """Crops that differ in a pixel: none is found in the store for another."""
    folder.mkdir(parents=True)
    picture = cv2.resize(cv2.imread(str(WORD)), None, fx=3, fy=1)  # in its own proportions it is read once
    for number in range(count):
        picture[0, 0] = number
        cv2.imwrite(str(folder / f"w{number:03d}.png"), picture)
    return folder


def document(path: Path, pages: int) -> Path:
    """A PDF, or a TIFF, whose pages are that word."""
    with Image.open(WORD) as word:
        picture = word.convert("RGB").resize((word.width * 3, word.height))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, save_all=True, append_images=[picture] * (pages - 1))
    return path


def served(config: Config, url: str, *overrides: str) -> Config:
    return load_config(config, ["vlm.engine=served", f"vlm.endpoints=[{url}/v1]", "vlm.retries=0", *overrides])
