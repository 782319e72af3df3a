"""A small network that tells print from hand and sees what is struck out, column by column of a line.

Trained on lines that are drawn here: handwriting and print fonts, English, Chinese and sums, half of them with a stretch
struck out in one of the six ways people do it, and real words of training data with the same strokes over them. What looks
like a strike-out and is none (rules, underlines, boxes, signs such as = and ÷) is drawn too.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from torch import Tensor, nn

from fusion.ocr.marks import COLUMN, HEIGHT, fitted
from fusion.onnx import file_sha256
from fusion.train.crops import load_ink
from fusion.train.fonts import Font, fetch
from fusion.train.recipe import LATIN, Ink, Part

WAYS = ("single", "double", "slash", "cross", "zigzag", "blot")
SIZE = 44
"""Height of a drawn letter's box, px, before the line is scaled."""
WIDTH = 320
"""Columns of a training crop, px at `HEIGHT`."""
HAN = "".join(bytes((0xB0 + row, 0xA1 + cell)).decode("gb2312") for row in range(39) for cell in range(94))
"""Characters of GB 2312, level 1: the common ones."""
Grey = NDArray[np.uint8]
Field32 = NDArray[Any]
"""float32; OpenCV's types say no more."""


class Recipe(Part):
    """Material and length of the training."""

    work: Path = Field(description="Folder of the fonts.")
    output: Path = Field(description="Folder of the network and its card.")
    hand: tuple[Path, ...] = Field(description="Listings of handwriting fonts.")
    print: tuple[Path, ...] = Field(description="Listings of print fonts.")
    ink: tuple[Ink, ...] = Field((), description="Real handwriting.")
    steps: int = Field(1500, ge=1, description="Steps of `batch` lines.")
    batch: int = Field(48, ge=2, description="Lines per step.")
    rate: float = Field(2e-3, gt=0, description="Peak step length (AdamW, one cycle).")
    seed: int = Field(0, description="Random seed.")


@dataclass(frozen=True)
class Line:
    """A drawn line.

    Attributes:
        grey: uint8 (h, w), dark on light.
        places: left and right of each word or character that may be struck out, px.
        printed: whether it is print.
    """

    grey: Grey
    places: tuple[tuple[float, float], ...]
    printed: bool


class Marks(nn.Module):
    """Logits of (struck, printed) for every `COLUMN` px of a line: float32 (N, 1, HEIGHT, W) → (N, 2, W / COLUMN)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 16, (2, 2)), (16, 32, (2, 1)), (32, 48, (2, 2)), (48, 64, (2, 1)))
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b, stride in sizes]
        self.eyes = nn.Sequential(*blocks)
        self.along = nn.Sequential(
            nn.Conv1d(64 * HEIGHT // 16, 96, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(96, 96, 5, padding=4, dilation=2),
            nn.ReLU(),
            nn.Conv1d(96, 96, 5, padding=8, dilation=4),
            nn.ReLU(),
            nn.Conv1d(96, 2, 1),
        )

    def forward(self, lines: Tensor) -> Tensor:
        """See the class."""
        seen = self.eyes(lines)
        return self.along(seen.flatten(1, 2))  # type: ignore[no-any-return]


# --- lines --------------------------------------------------------------------------------------------------------


class Drawer:
    """Draws lines with their labels, forever."""

    def __init__(self, recipe: Recipe, held_out: bool) -> None:
        """Fetch the fonts and load the real words; `held_out`: those kept for evaluation."""
        self._hand = [fetch(path, recipe.work).fonts for path in recipe.hand]
        self._print = [fetch(path, recipe.work).fonts for path in recipe.print]
        words = fetch(recipe.hand[0], recipe.work).words
        self._words = [word for tier in words[:2] for word in tier]
        self._real = [
            (sample.pixels, sample.text) for ink in recipe.ink for sample in load_ink(ink, LATIN, held_out=held_out)
        ]
        self._held_out = held_out

    def line(self, rng: random.Random) -> tuple[Field32, Field32, Field32]:
        """float32 (HEIGHT, WIDTH) ink; float32 (2, WIDTH / COLUMN) labels; and which of them count, in [0, 1]."""
        if self._real and rng.random() < 0.3:
            pixels, _ = rng.choice(self._real)
            line = Line(pixels, _pieces(pixels, rng), False)
        else:
            line = self._drawn(rng)
        grey, struck = line.grey.astype(np.float32), np.zeros(line.grey.shape[1], np.float32)
        ink = float(np.percentile(grey, 2))
        if rng.random() < 0.55:
            grey, struck = _strike(grey, line.places, ink, rng)
        grey = _distract(grey, ink, rng)
        return _pack(_photographed(grey, rng), struck, line.printed, rng)

    def _drawn(self, rng: random.Random) -> Line:
        chinese = rng.random() < 0.35
        printed = rng.random() < 0.4
        side = (self._print if printed else self._hand)[1 if chinese and len(self._hand) > 1 else 0]
        fonts = [font for font in side if font.held_out == self._held_out] or side
        face = _face(rng.choice(fonts), SIZE + rng.choice((-8, 0, 8)))
        words = self._text(chinese, rng)
        canvas = Image.new("L", (90 * sum(map(len, words)) + 200, 3 * SIZE), 255)
        pen, x, places = ImageDraw.Draw(canvas), 20.0 + rng.random() * 20, []
        gap = 0.0 if chinese else rng.uniform(8, 22)
        jitter = 0.0 if printed else rng.uniform(0, 3)
        for word in words:
            pen.text(
                (x, 2 * SIZE + rng.uniform(-jitter, jitter)), word, fill=rng.choice((0, 20, 40)), font=face, anchor="ls"
            )
            width = face.getlength(word)
            places.append((x, x + width))
            x += width + gap + (rng.uniform(0, 3 * jitter))
        grey = np.asarray(canvas)[:, : int(x) + 30]
        rows = np.flatnonzero((grey < 128).any(axis=1))
        if not len(rows):
            return self._drawn(rng)
        above, below = rng.randint(2, 14), rng.randint(2, 14)
        return Line(grey[max(0, rows[0] - above) : rows[-1] + below], tuple(places), printed)

    def _text(self, chinese: bool, rng: random.Random) -> list[str]:
        if chinese:
            return [rng.choice(HAN) for _ in range(rng.randint(2, 11))]
        kind = rng.random()
        if kind < 0.35:
            a, b = rng.randint(1, 99), rng.randint(1, 99)
            sign = rng.choice("+-×÷")
            return [
                f"{a}{sign}{b}=",
                str(rng.randint(1, 999)),
                *([str(rng.randint(1, 999))] if rng.random() < 0.6 else []),
            ]
        if kind < 0.5:
            return [
                f"{rng.randint(1, 9)}",
                f"{rng.randint(1, 500)}",
                rng.choice(("mg", "ml", "tab", "cap", "g", "x 5 d")),
            ]
        words = [rng.choice(self._words) for _ in range(rng.randint(1, 5))]
        return [word.capitalize() if rng.random() < 0.2 else word for word in words]


def _pieces(pixels: Grey, rng: random.Random) -> tuple[tuple[float, float], ...]:
    """A real line cut into stretches of about a word, since nobody says where its words are."""
    height, width = pixels.shape
    edges = [0.0]
    while edges[-1] < width:
        edges.append(min(float(width), edges[-1] + height * rng.uniform(0.8, 3.0)))
    return tuple(itertools.pairwise(edges))


@lru_cache(maxsize=4096)
def _face(font: Font, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font.path), size)


def _strike(
    grey: Field32, places: Sequence[tuple[float, float]], ink: float, rng: random.Random
) -> tuple[Field32, Field32]:
    """The line with one place, or two, struck out; and which columns are."""
    struck = np.zeros(grey.shape[1], np.float32)
    first = rng.randrange(len(places))
    last = min(len(places) - 1, first + (rng.random() < 0.35))
    left, right = places[first][0], places[last][1]
    rows = np.flatnonzero((grey[:, int(left) : int(right) + 1] < ink + 90).any(axis=1))
    if right - left < 6 or len(rows) < 5:
        return grey, struck
    top, bottom = float(rows[0]), float(rows[-1])
    height, over = bottom - top, rng.uniform(-0.02, 0.12) * (right - left) + rng.uniform(0, 4)
    left, right = max(0.0, left - over), min(grey.shape[1] - 1.0, right + over)
    pen, way = rng.choice((2, 2, 3, 3, 4)), rng.choice(WAYS)
    middle, tilt = top + height * rng.uniform(0.38, 0.66), height * rng.uniform(-0.12, 0.12)
    strokes: list[list[tuple[float, float]]] = []
    if way in ("single", "double"):
        for shift in (0.0,) if way == "single" else (-0.1 * height, 0.1 * height):
            strokes.append([(left, middle + shift - tilt), (right, middle + shift + tilt)])
    if way in ("slash", "cross"):
        high, low = top + height * rng.uniform(-0.05, 0.2), bottom + height * rng.uniform(-0.2, 0.05)
        strokes.append([(left, low), (right, high)])
        if way == "cross":
            strokes.append([(left, high), (right, low)])
        elif rng.random() < 0.25:
            strokes[0] = [(left, high), (right, low)]
    if way in ("zigzag", "blot"):
        count = max(3, int((right - left) / height * rng.uniform(3, 8) * (2 if way == "blot" else 1)))
        ends = [left + (right - left) * n / count for n in range(count + 1)]
        ups = [
            top + height * rng.uniform(0.0, 0.3) if n % 2 else bottom - height * rng.uniform(0.0, 0.3)
            for n in range(count + 1)
        ]
        strokes.append(list(zip(ends, ups, strict=True)))
        pen += 2 * (way == "blot")
    made = grey.copy()
    for stroke in strokes:
        points = np.array([(x, y + rng.gauss(0, 0.7)) for x, y in stroke])
        cv2.polylines(made, [np.round(points * 8).astype(np.int32)], False, (ink,), pen, cv2.LINE_AA, 3)
    if way == "blot" and rng.random() < 0.6:
        cv2.ellipse(
            made,
            (int((left + right) / 2), int((top + bottom) / 2)),
            (int((right - left) / 2), int(height / 2.4)),
            0,
            0,
            360,
            (ink,),
            -1,
            cv2.LINE_AA,
        )
    struck[int(left) : int(right) + 1] = 1
    return made, struck


def _distract(grey: Field32, ink: float, rng: random.Random) -> Field32:
    """Rules, underlines, boxes and a neighbour's descenders: lines that strike nothing out."""
    made, (height, width) = grey.copy(), grey.shape
    if rng.random() < 0.3:  # a ruled line from edge to edge
        y = rng.randint(0, height - 1)
        cv2.line(
            made, (0, y), (width, y + rng.randint(-2, 2)), (rng.uniform(ink, 200),), rng.choice((1, 1, 2)), cv2.LINE_AA
        )
    if rng.random() < 0.2:  # underlined
        rows = np.flatnonzero((grey < ink + 90).any(axis=1))
        low = int(rows[-1]) if len(rows) else height - 2
        a, b = sorted((rng.randint(0, width - 1), rng.randint(0, width - 1)))
        cv2.line(
            made, (a, min(height - 1, low + 1)), (b, min(height - 1, low + rng.randint(0, 3))), (ink,), 2, cv2.LINE_AA
        )
    if rng.random() < 0.12:
        a = rng.randint(0, width - 1)
        cv2.line(
            made, (a, 0), (a + rng.randint(-6, 6), height), (rng.uniform(ink, 160),), rng.choice((1, 2)), cv2.LINE_AA
        )
    return made


def _photographed(grey: Field32, rng: random.Random) -> Field32:
    noise = np.random.default_rng(rng.randrange(1 << 30))
    if rng.random() < 0.5:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 2.0))
    low = rng.uniform(0, 120)
    grey = low + grey / 255 * (rng.uniform(max(low + 70, 170), 255) - low)
    shade = np.linspace(0, rng.uniform(-30, 30), grey.shape[1], dtype=np.float32)
    return np.asarray(grey + shade + noise.normal(0, rng.uniform(0, 7), grey.shape), np.float32)


def _pack(grey: Field32, struck: Field32, printed: bool, rng: random.Random) -> tuple[Field32, Field32, Field32]:
    line = fitted(np.clip(grey, 0, 255).astype(np.uint8), rng.uniform(0.8, 1.25))
    width = line.shape[1]
    columns = width // COLUMN
    hit = cv2.resize(struck[None], (max(1, columns), 1), interpolation=cv2.INTER_AREA)[0]
    table, labels = np.zeros((HEIGHT, WIDTH), np.float32), np.zeros((2, WIDTH // COLUMN), np.float32)
    counts = np.zeros_like(labels)
    start = rng.randint(0, width - WIDTH) // COLUMN * COLUMN if width > WIDTH else 0
    used = min(WIDTH, width - start) // COLUMN
    table[:, : used * COLUMN] = line[:, start : start + used * COLUMN]
    labels[0, :used] = hit[start // COLUMN :][:used] > 0.5
    labels[1, :used] = printed
    counts[:, :used] = 1
    counts[0, :used] *= np.abs(hit[start // COLUMN :][:used] - 0.5) > 0.3  # the ends of a stroke are neither
    return table, labels, counts


# --- training -----------------------------------------------------------------------------------------------------


def train(recipe: Recipe, log: Callable[[str], None]) -> dict[str, float]:
    """Train the network and write `marks.onnx` and `marks.json` to `recipe.output`; returns figures on held-out material."""
    torch.manual_seed(recipe.seed)
    drawer, rng = Drawer(recipe, held_out=False), random.Random(recipe.seed)
    network = Marks()
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, recipe.steps)
    began, mean = time.monotonic(), 0.0
    for step in range(1, recipe.steps + 1):
        loss = _loss(network, _batch(drawer, recipe.batch, rng))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 100 == 0:
            log(f"step {step}, loss {mean:.4f}, {time.monotonic() - began:.0f} s")
    figures = measure(network.eval(), Drawer(recipe, held_out=True), random.Random(recipe.seed + 1))
    recipe.output.mkdir(parents=True, exist_ok=True)
    target = recipe.output / "marks.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, HEIGHT, WIDTH),),
        str(target),
        input_names=["lines"],
        output_names=["logits"],
        dynamic_axes={"lines": {3: "width"}, "logits": {2: "columns"}},
        dynamo=False,
    )
    card = {"steps": recipe.steps, "batch": recipe.batch, "seed": recipe.seed, "sha256": file_sha256(target), **figures}
    (recipe.output / "marks.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    log(json.dumps(figures))
    return figures


def measure(network: nn.Module, drawer: Drawer, rng: random.Random, lines: int = 400) -> dict[str, float]:
    """Share of columns told right on drawn lines, and of columns wrongly taken as struck out. Synthetic."""
    table, labels, counts = _batch(drawer, lines, rng)
    with torch.no_grad():
        said = network(table) > 0
    right = (said == (labels > 0.5)) & (counts > 0)
    plain = (counts[:, 0] > 0) & (labels[:, 0] < 0.5)
    struck = (counts[:, 0] > 0) & (labels[:, 0] > 0.5)
    return {
        "struck_found": round(float(said[:, 0][struck].float().mean()), 4),
        "struck_wrongly": round(float(said[:, 0][plain].float().mean()), 4),
        "print_right": round(float(right[:, 1].sum() / counts[:, 1].sum()), 4),
    }


def _batch(drawer: Drawer, count: int, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    tables, labels, counts = zip(*(drawer.line(rng) for _ in range(count)), strict=True)
    return (
        torch.from_numpy(np.stack(tables)[:, None]),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(counts)),
    )


def _loss(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    table, labels, counts = batch
    lost = nn.functional.binary_cross_entropy_with_logits(network(table), labels, reduction="none")
    return (lost * counts).sum() / counts.sum()
