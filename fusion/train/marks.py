"""A small network that sees, column by column of a line, what is struck out, what is print, and what is in another script.

Trained on lines that are drawn here: handwriting and print fonts, English, Chinese and sums, half of them with a stretch
struck out in one of the six ways people do it, and real words of training data with the same strokes over them. What looks
like a strike-out and is none (rules, underlines, boxes, signs such as = and ÷) is drawn too. Other scripts are those that
PP-OCR does not read: it takes them for look-alikes.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fusion.ocr.marks import COLUMN, HEIGHT, fitted
from fusion.onnx import file_sha256
from fusion.train.crops import load_ink
from fusion.train.fonts import Font, fetch
from fusion.train.recipe import LATIN, Ink, Part

WAYS = {"single": 3, "double": 1, "slash": 3, "cross": 1, "zigzag": 1, "blot": 1}
"""Ways to strike out, and how often each is drawn: a thin stroke is the hardest to tell from one of a letter."""
SIZE = 44
"""Height of a drawn letter's box, px, before the line is scaled."""
WIDTH = 320
"""Columns of a training crop, px at `HEIGHT`."""
HAN = "".join(bytes((0xB0 + row, 0xA1 + cell)).decode("gb2312") for row in range(39) for cell in range(94))
"""Characters of GB 2312, level 1: the common ones."""
SCRIPTS: dict[str, list[str]] = json.loads(
    (resources.files("fusion.train") / "scripts.json").read_text(encoding="utf-8")
)
"""Words of the scripts that PP-OCR does not read, by the name of the script."""
LABELS = ("struck", "printed", "other")
Grey = NDArray[np.uint8]
Field32 = NDArray[Any]
"""float32; OpenCV's types say no more."""


class Recipe(Part):
    """Material and length of the training."""

    work: Path = Field(description="Folder of the fonts.")
    output: Path = Field(description="Folder of the network and its card.")
    hand: tuple[Path, ...] = Field(description="Listings of handwriting fonts.")
    print: tuple[Path, ...] = Field(description="Listings of print fonts.")
    other: Path = Field(description="Listing of fonts of other scripts; their `subset` is a key of scripts.json.")
    ink: tuple[Ink, ...] = Field((), description="Real handwriting.")
    device: str = Field("cpu", description="Torch device.")
    workers: int = Field(1, ge=0, description="Processes that draw lines; 0: none.")
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
        others: left and right of each word in another script, px.
    """

    grey: Grey
    places: tuple[tuple[float, float], ...]
    printed: bool
    others: tuple[tuple[float, float], ...] = ()


class Marks(nn.Module):
    """Logits of `LABELS` for every `COLUMN` px of a line: float32 (N, 1, HEIGHT, W) → (N, 3, W / COLUMN)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 24, (2, 2)), (24, 48, (2, 1)), (48, 72, (2, 2)), (72, 96, (2, 1)))
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b, stride in sizes]
        self.eyes = nn.Sequential(*blocks)
        self.along = nn.Sequential(
            nn.Conv1d(96 * HEIGHT // 16, 128, 5, padding=2),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Conv1d(128, 128, 5, padding=4, dilation=2),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Conv1d(128, 128, 5, padding=8, dilation=4),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Conv1d(128, len(LABELS), 1),
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
        self._hand = [self._side(fetch(path, recipe.work).fonts, held_out) for path in recipe.hand]
        self._print = [self._side(fetch(path, recipe.work).fonts, held_out) for path in recipe.print]
        self._other = self._side(fetch(recipe.other, recipe.work).fonts, held_out)
        words = fetch(recipe.hand[0], recipe.work).words
        self._words = [word for tier in words[:2] for word in tier]
        self._real = [sample.pixels for ink in recipe.ink for sample in load_ink(ink, LATIN, held_out=held_out)]

    @staticmethod
    def _side(fonts: Sequence[Font], held_out: bool) -> Sequence[Font]:
        """Those of one side of the split; all, where a listing keeps none for evaluation."""
        return [font for font in fonts if font.held_out == held_out] or fonts

    def line(self, rng: random.Random) -> tuple[Field32, Field32, Field32]:
        """float32 (HEIGHT, WIDTH) ink; float32 (3, WIDTH / COLUMN) labels; and which of them count, in [0, 1]."""
        if self._real and rng.random() < 0.3:
            pixels = rng.choice(self._real)
            line = Line(pixels, _pieces(pixels, rng), False)
        else:
            line = self._drawn(rng)
        grey, struck = line.grey.astype(np.float32), np.zeros(line.grey.shape[1], np.float32)
        ink = float(np.percentile(grey, 2))
        if rng.random() < 0.55:
            grey, struck = _strike(grey, line.places, ink, rng)
        other = np.zeros_like(struck)
        for left, right in line.others:
            other[int(left) : int(right)] = 1
        grey = _distract(grey, ink, rng)
        return _pack(_photographed(grey, rng), struck, other, line.printed, rng)

    def _drawn(self, rng: random.Random) -> Line:
        kind = rng.choices(("chinese", "other", "latin"), (0.3, 0.2, 0.5))[0]
        printed = rng.random() < 0.4
        side = (self._print if printed else self._hand)[1 if kind == "chinese" and len(self._hand) > 1 else 0]
        own = rng.choice(side)
        foreign = rng.choice(self._other) if kind == "other" else own
        size = SIZE + rng.choice((-8, 0, 8))
        words, gap = self._text(kind, foreign.subset, rng)
        canvas = Image.new("L", (90 * sum(map(len, words)) + 200, 3 * SIZE), 255)
        pen, x = ImageDraw.Draw(canvas), 20.0 + rng.random() * 20
        places: list[tuple[float, float]] = []
        others: list[tuple[float, float]] = []
        jitter = 0.0 if printed else rng.uniform(0, 3)
        single = rng.random() < 0.4  # characters are struck out, not words
        for word in words:
            is_other = word in SCRIPTS.get(foreign.subset, ())
            face = _face(foreign if is_other else own, size)
            start = (x, 2 * SIZE + rng.uniform(-jitter, jitter))
            pen.text(start, word, fill=rng.choice((0, 20, 40)), font=face, anchor="ls")
            ends = [x + face.getlength(word[:n]) for n in range(len(word) + 1)]
            places += itertools.pairwise(ends) if single and not is_other else [(x, ends[-1])]
            others += [(x, ends[-1])] if is_other else []
            x = ends[-1] + gap + (rng.uniform(0, 3 * jitter))
        grey = np.asarray(canvas)[:, : int(x) + 30]
        rows = np.flatnonzero((grey < 128).any(axis=1))
        if not len(rows):
            return self._drawn(rng)
        above, below = rng.randint(2, 14), rng.randint(2, 14)
        cut = grey[max(0, rows[0] - above) : rows[-1] + below]
        return Line(cut, tuple(places), printed, tuple(others))

    def _text(self, kind: str, script: str, rng: random.Random) -> tuple[list[str], float]:
        """Words, and the px between them."""
        if kind == "chinese":
            return [rng.choice(HAN) for _ in range(rng.randint(2, 11))], 0.0
        if kind == "other":
            words = rng.choices(SCRIPTS[script], k=rng.randint(1, 4))
            if rng.random() < 0.6:
                words.insert(rng.randrange(len(words) + 1), rng.choice((str(rng.randint(1, 500)), "5 mg", "2", "2026")))
            return words, rng.uniform(8, 22)
        chance = rng.random()
        if chance < 0.35:
            sign, last = rng.choice("+-×÷"), str(rng.randint(1, 999))
            words = [f"{rng.randint(1, 99)}{sign}{rng.randint(1, 99)}=", str(rng.randint(1, 999))]
            return [*words, last] if rng.random() < 0.6 else words, rng.uniform(0, 22)
        if chance < 0.5:
            unit = rng.choice(("mg", "ml", "tab", "cap", "g", "x 5 d"))
            return [f"{rng.randint(1, 9)}", f"{rng.randint(1, 500)}", unit], rng.uniform(8, 22)
        words = [rng.choice(self._words) for _ in range(rng.randint(1, 5))]
        return [word.capitalize() if rng.random() < 0.2 else word for word in words], rng.uniform(8, 22)


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
    over = rng.uniform(-0.02, 0.12) * (right - left) + rng.uniform(0, 4)
    left, right = max(0.0, left - over), min(grey.shape[1] - 1.0, right + over)
    way, box = rng.choices(list(WAYS), list(WAYS.values()))[0], (left, float(rows[0]), right, float(rows[-1]))
    pen = rng.choice((1, 2, 2, 3, 3, 4)) + 2 * (way == "blot")
    made = grey.copy()
    for stroke in _strokes(way, box, rng):
        points = np.array([(x, y + rng.gauss(0, 0.7)) for x, y in stroke])
        cv2.polylines(made, [np.round(points * 8).astype(np.int32)], False, (ink,), pen, cv2.LINE_AA, 3)
    if way == "blot" and rng.random() < 0.6:
        _fill(made, box, ink, rng)
    struck[int(left) : int(right) + 1] = 1
    return made, struck


def _strokes(way: str, box: tuple[float, float, float, float], rng: random.Random) -> list[list[tuple[float, float]]]:
    """The strokes of one of `WAYS` over a box (left, top, right, bottom), each as its corners."""
    left, top, right, bottom = box
    height = bottom - top
    if way in ("single", "double"):
        middle, tilt = top + height * rng.uniform(0.38, 0.66), height * rng.uniform(-0.12, 0.12)
        shifts = (0.0,) if way == "single" else (-0.1 * height, 0.1 * height)
        return [[(left, middle + shift - tilt), (right, middle + shift + tilt)] for shift in shifts]
    if way in ("slash", "cross"):
        high, low = top + height * rng.uniform(-0.05, 0.2), bottom + height * rng.uniform(-0.2, 0.05)
        rising, falling = [(left, low), (right, high)], [(left, high), (right, low)]
        return [rising, falling] if way == "cross" else [falling if rng.random() < 0.25 else rising]
    count = max(3, int((right - left) / height * rng.uniform(3, 8) * (2 if way == "blot" else 1)))
    corners = []
    for n in range(count + 1):
        inset = height * rng.uniform(0.0, 0.3)
        corners.append((left + (right - left) * n / count, top + inset if n % 2 else bottom - inset))
    return [corners]


def _fill(grey: Field32, box: tuple[float, float, float, float], ink: float, rng: random.Random) -> None:
    """A solid blot, round or square."""
    left, top, right, bottom = map(int, box)
    if rng.random() < 0.4:
        cv2.rectangle(grey, (left, top), (right, bottom), (ink,), -1)
        return
    centre, axes = ((left + right) // 2, (top + bottom) // 2), ((right - left) // 2, int((bottom - top) / 2.4))
    cv2.ellipse(grey, centre, axes, 0, 0, 360, (ink,), -1, cv2.LINE_AA)


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


def _pack(
    grey: Field32, struck: Field32, other: Field32, printed: bool, rng: random.Random
) -> tuple[Field32, Field32, Field32]:
    line = fitted(np.clip(grey, 0, 255).astype(np.uint8), rng.uniform(0.8, 1.25))
    width = line.shape[1]
    table, labels = np.zeros((HEIGHT, WIDTH), np.float32), np.zeros((len(LABELS), WIDTH // COLUMN), np.float32)
    counts = np.zeros_like(labels)
    start = rng.randint(0, width - WIDTH) // COLUMN * COLUMN if width > WIDTH else 0
    used = min(WIDTH, width - start) // COLUMN
    table[:, : used * COLUMN] = line[:, start : start + used * COLUMN]
    counts[:, :used] = 1
    if other.any():  # its font's listing does not say whether it is print
        counts[LABELS.index("printed"), :used] = 0
    labels[LABELS.index("printed"), :used] = printed
    for name, where in (("struck", struck), ("other", other)):
        share = cv2.resize(where[None], (max(1, width // COLUMN), 1), interpolation=cv2.INTER_AREA)[0]
        share, row = share[start // COLUMN :][:used], LABELS.index(name)
        labels[row, :used] = share > 0.5
        counts[row, :used] = np.abs(share - 0.5) > 0.3  # the ends of a stretch are neither
    return table, labels, counts


# --- training -----------------------------------------------------------------------------------------------------


def train(recipe: Recipe, log: Callable[[str], None]) -> dict[str, float]:
    """Train the network and write `marks.onnx` and `marks.json` to `recipe.output`; returns figures on held-out material."""
    torch.manual_seed(recipe.seed)
    lines = iter(
        DataLoader(_Lines(Drawer(recipe, held_out=False), recipe.seed), recipe.batch, num_workers=recipe.workers)
    )
    network = Marks().to(recipe.device)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, recipe.steps)
    began, mean = time.monotonic(), 0.0
    for step in range(1, recipe.steps + 1):
        loss = _loss(network, [part.to(recipe.device) for part in next(lines)])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 100 == 0:
            log(f"step {step}, loss {mean:.4f}, {time.monotonic() - began:.0f} s")
    del lines
    figures = measure(network.cpu().eval(), Drawer(recipe, held_out=True), random.Random(recipe.seed + 1))
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


def measure(network: nn.Module, drawer: Drawer, rng: random.Random, lines: int = 600) -> dict[str, float]:
    """Shares of columns told right on drawn lines, for `other` and `struck` also of those wrongly taken. Synthetic."""
    table, labels, counts = (
        torch.from_numpy(np.stack(one)) for one in zip(*(drawer.line(rng) for _ in range(lines)), strict=True)
    )
    with torch.no_grad():
        said = network(table[:, None]) > 0
    printed = LABELS.index("printed")
    right = said[:, printed] == (labels[:, printed] > 0.5)
    shares = {"print_right": float(right[counts[:, printed] > 0].float().mean())}
    for name in ("struck", "other"):
        row = LABELS.index(name)
        there, counted = labels[:, row] > 0.5, counts[:, row] > 0
        shares[f"{name}_found"] = float(said[:, row][there & counted].float().mean())
        shares[f"{name}_wrongly"] = float(said[:, row][~there & counted].float().mean())
    return {name: round(share, 4) for name, share in shares.items()}


class _Lines(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of lines; each worker draws its own."""

    def __init__(self, drawer: Drawer, seed: int) -> None:
        self._drawer, self._seed = drawer, seed

    def __iter__(self) -> Iterator[tuple[Field32, Field32, Field32]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        rng = random.Random(f"{self._seed}:{worker.id if worker is not None else 0}")
        while True:
            yield self._drawer.line(rng)


def _loss(network: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    table, labels, counts = batch
    lost = F.binary_cross_entropy_with_logits(network(table[:, None]), labels, reduction="none")
    return (lost * counts).sum() / counts.sum()
