"""Rendered lines as a split: fonts and texts that the training of the small reader never sees.

Synthetic, and labelled so wherever its figures stand.
"""

from __future__ import annotations

from pathlib import Path

import cv2

from fusion.train.fonts import fetch
from fusion.train.reader import names_of
from fusion.train.recipe import load_recipe
from fusion.train.render import pool
from fusion.train.texts import Texts

SEED = 20261122
"""Not the seed of any training picture."""


def write_split(recipe: Path, folder: Path, count: int) -> Path:
    """Draw, write images and TSV, and return the TSV's path."""
    plan = load_recipe(recipe)
    materials = fetch(plan.synthetic.fonts, plan.work / "materials")
    texts = Texts(materials.words, names_of(plan), plan.seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = ["image\ttext\twriter\tnote"]
    for number, (pixels, text) in enumerate(
        pool(texts, materials.side(True), count, SEED, plan.threads, held_out=True)
    ):
        name = f"images/{number:04d}.png"
        cv2.imwrite(str(folder / name), pixels)
        rows.append(f"{name}\t{text}\t\tsynthetic")
    path = folder / "dev.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
