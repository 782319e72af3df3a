"""Recognisers alone on the dev splits, best path against label: `python -m eval.recognisers DATA FILE.onnx …`.

Compares recognisers, such as before and after training; `python -m eval` measures the engine as a whole.
"""

from __future__ import annotations

import argparse
import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion.ocr.onnx import HEIGHT, LEAST_WIDTH, MOST_WIDTH
from fusion.onnx import open_session


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def _sums(text: str) -> str:
    text = "".join(unicodedata.normalize("NFKC", text).split())
    return re.sub(r"(?<=\d)[x*](?=\d)", "×", text).lower()


SETS: dict[str, tuple[str, float, slice, Callable[[str], str]]] = {
    "RxHandBD": ("rx_rxhandbd", 2.25, slice(None), _letters),
    "BD words": ("rx_bd_words", 1.0, slice(0, None, 3), _letters),
    "IAM": ("en_iam_mini", 1.0, slice(None), _words),
    "arithmetic": ("math_arith", 1.0, slice(None), _sums),
    "Hooker": ("en_hooker_letters", 1.0, slice(0, 40), _words),
}
"""Name → folder, factor of the width, which rows, what is compared."""


def read(session: Any, characters: list[str], image: NDArray[np.uint8], stretch: float) -> str:
    """Text of the best path through the posterior of a BGR crop."""
    height, width = image.shape[:2]
    ratio = stretch * width / height
    room = min(MOST_WIDTH, int(HEIGHT * max(LEAST_WIDTH / HEIGHT, ratio)))
    inked = min(room, math.ceil(HEIGHT * ratio))
    table = np.zeros((1, 3, HEIGHT, room), np.float32)
    table[0, :, :, :inked] = cv2.resize(image, (inked, HEIGHT)).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    best = session.run(None, {session.get_inputs()[0].name: table})[0][0].argmax(-1).tolist()
    return "".join(characters[now] for before, now in zip([0, *best], best, strict=False) if now and now != before)


def main() -> None:
    """Print one row per file: exact share and character error rate of each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("files", type=Path, nargs="+", help="ONNX files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(SETS), help="sets")
    chosen = parser.parse_args()
    print("| recogniser | " + " | ".join(chosen.only) + " |")
    print("|---" * (len(chosen.only) + 1) + "|")
    for file in chosen.files:
        session = open_session(file, chosen.threads)
        characters = ["", *session.get_modelmeta().custom_metadata_map["character"].split("\n"), " "]
        cells = []
        for name in chosen.only:
            folder, stretch, rows, comparable = SETS[name]
            lines = (chosen.data / folder / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
            errors = letters = exact = 0
            for line in lines[rows]:
                image, text = line.split("\t")[:2]
                pixels = np.asarray(cv2.imread(str(chosen.data / folder / image)), np.uint8)
                said, label = comparable(read(session, characters, pixels, stretch)), comparable(text)
                errors += Levenshtein.distance(said, label)
                letters += len(label)
                exact += said == label
            cells.append(f"{exact / len(lines[rows]):.3f} / {errors / letters:.3f}")
        print(f"| {file.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
