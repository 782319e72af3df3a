"""Rendered lines as a split: fonts and texts that the training of the small reader and of the recogniser never sees.

Handwriting fonts, and print: pages hold both. The family of the font stands for the writer. Synthetic, and labelled so wherever
its figures stand.
"""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import cv2

from fusion.train.fonts import fetch
from fusion.train.reader import names_of
from fusion.train.recipe import load_recipe
from fusion.train.render import render
from fusion.train.texts import Texts

SEED = 20261122
"""Not the seed of any training picture."""


def write_split(recipe: Path, print_fonts: Path, folder: Path, count: int) -> Path:
    """Draw, write images and TSV, and return the TSV's path.

    Args:
        recipe: of the small reader: its handwriting fonts, words and names.
        print_fonts: listing of print fonts.
        folder: made when missing.
        count: lines, drawn with one font after the other.
    """
    plan = load_recipe(recipe)
    materials = fetch(plan.synthetic.fonts, plan.work / "materials")
    fonts = [*materials.side(True), *fetch(print_fonts, plan.work / "materials").side(True)]
    texts = Texts(materials.words, names_of(plan), plan.seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = ["image\ttext\twriter\tnote"]
    for number in range(count):
        font = fonts[number % len(fonts)]
        rng = random.Random(f"{SEED}:{number}")
        pixels = None
        while pixels is None:
            text = texts.line(rng, held_out=True)
            with suppress(ValueError):  # a character that the font lacks
                pixels = render(text, [font], rng)
        name = f"images/{number:04d}.png"
        cv2.imwrite(str(folder / name), pixels)
        rows.append(f"{name}\t{text}\t{font.family}\tsynthetic")
    path = folder / "dev.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
