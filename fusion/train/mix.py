"""The recogniser's training mixture: real words and lines, crops composed of them, rendered texts; distorted, in batches.

Knows crops, texts and fonts, and processes that make batches; knows no network. Photometric augmentation of whole batches
is in `camera`. Elastic distortion: Simard et al., ICDAR 2003.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.errors import DependencyError
from fusion.train.fonts import Font
from fusion.train.hands import Crop, folded, held_out_words, paper_white
from fusion.train.ppocr import COLUMN, HEIGHT, NARROWEST
from fusion.train.recipe import Hands, Shares
from fusion.train.render import render
from fusion.train.texts import Texts

WIDTHS = (320, 360, 400, 448, 504, 560, 632, 704, 784, 880, 984, 1104, 1240)
"""Widths of batches, px. Narrower crops are padded to the first, as in inference; others are stretched to the next of
these, because inference never pads a crop wider than the first."""
REUSED = 0.45
"""Share of the rendered pieces that reuse a picture with another distortion: rendering is the slowest part."""
KEPT = 1500
"""Rendered pictures kept for reuse."""
_PROSE = ("english", "letter", "label")
_KINDS: dict[str, int] = {
    "label": 22, "english": 14, "letter": 6, "name": 8, "pseudo": 10, "strength": 10, "sig": 8, "dose": 4,
    "sum": 16, "homework": 5, "code": 6, "measure": 16, "accented": 8,
}  # fmt: skip
_TAUGHT = ("measure", "accented")
_PATTERNS = (
    "w", "ww", "wd", "wd", "wd", "wdd", "dw", "ndw", "nwd", "nfwd", "fwd", "fwd", "fw", "fwdd", "nfw", "www", "wwd", "d", "dd",
)  # fmt: skip
_FORMS = (
    "Tab",
    "Tab.",
    "Cap",
    "Cap.",
    "Syp",
    "Syr.",
    "Inj",
    "Inj.",
    "T.",
    "C.",
    "Oint.",
    "Drop",
    "Susp.",
    "tab",
    "cap",
)

Grey = NDArray[np.uint8]
Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """A picture with its label, before distortion.

    Attributes:
        pixels: uint8 (h, w), grey, of any height.
        text: its label.
        source: name of the source of real handwriting, "pad" (real words and rendered doses), "rendered", or "taught":
            rendered, and nothing that the network knows from its start.
        stretch: least and greatest factor of its width.
    """

    pixels: Grey
    text: str
    source: str
    stretch: tuple[float, float] = (0.8, 1.25)


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one width.

    Attributes:
        pixels: uint8 (B, 48, W), grey.
        widths: int64 (B,), px that are not padding.
        texts: labels.
        sources: see `Piece`.
    """

    pixels: Grey
    widths: NDArray[np.int64]
    texts: list[str]
    sources: list[str]


class Mix:
    """Draws pieces by the recipe's shares. Made once; forked processes share it."""

    def __init__(
        self,
        crops: Sequence[Crop],
        hands: Sequence[Hands],
        shares: Shares,
        texts: Texts | None = None,
        fonts: Sequence[Font] = (),
        prints: Sequence[Font] = (),
        accented: Sequence[Sequence[Font]] = (),
    ) -> None:
        """Sort the crops that are not held out.

        `texts`: what to render, needed where there are fonts; `accented`: families of fonts that have accented letters.

        Kinds of pieces whose material is missing (no lines, no fonts …) are left out of the mixture.
        """
        kinds = {source.name: source.kind for source in hands}
        self._shut = held_out_words(crops, hands)
        self._stretch = {source.name: source.stretch for source in hands}
        trained = [crop for crop in crops if not crop.held_out]
        self._words = [crop for crop in trained if kinds[crop.source] == "words"]
        self._lines = [crop for crop in trained if kinds[crop.source] == "lines"]
        self._cut_words = [crop for crop in self._words if crop.cuts]
        self._cut_lines = [crop for crop in self._lines if crop.cuts]
        self._of_writer: defaultdict[tuple[str, str], list[Crop]] = defaultdict(list)
        for crop in self._cut_lines:
            self._of_writer[crop.source, crop.writer].append(crop)
        self._texts, self._fonts, self._prints, self._accented = texts, fonts, prints, accented
        self._rendered: dict[bool, list[Piece]] = {False: [], True: []}
        ways: dict[str, tuple[Callable[[random.Random], Piece], float, Sequence[object]]] = {
            "word": (self._word, shares.word, self._words),
            "spliced": (self._spliced, shares.spliced, self._cut_words),
            "pad": (self._pad, shares.pad, self._words),
            "line": (self._line, shares.line, self._lines),
            "joined": (self._joined, shares.joined, self._cut_lines),
            "hand": (self._hand, shares.hand, fonts),
            "print": (self._print, shares.print, prints),
        }
        able = [(way, share) for way, share, stuff in ways.values() if stuff and share]
        self._ways, self._shares = [way for way, _ in able], [share for _, share in able]

    def piece(self, rng: random.Random) -> Piece:
        """One more piece."""
        return rng.choices(self._ways, self._shares)[0](rng)

    def neighbour(self, rng: random.Random) -> Grey:
        """A real crop to take the lines above and below from."""
        pool = self._words if self._words and (rng.random() < 0.5 or not self._lines) else self._lines
        return rng.choice(pool).pixels if pool else np.full((HEIGHT, HEIGHT), 255, np.uint8)

    def _real(self, crop: Crop, pixels: Grey, text: str) -> Piece:
        return Piece(pixels, text, crop.source, self._stretch[crop.source])

    def _word(self, rng: random.Random) -> Piece:
        crop = rng.choice(self._words)
        return self._real(crop, crop.pixels, crop.text)

    def _spliced(self, rng: random.Random) -> Piece:
        """The beginning of one word and the end of another: no language model helps with it. No held-out word."""
        for _ in range(8):
            first, second = rng.choice(self._cut_words), rng.choice(self._cut_words)
            (left, at), (right, since) = rng.choice(first.cuts), rng.choice(second.cuts)
            text = first.text[:at] + second.text[since:]
            if 3 <= len(text) <= 14 and folded(text) not in self._shut:
                strip = np.hstack([paper_white(first.pixels)[:, :left], paper_white(second.pixels)[:, right:]])
                return self._real(first, _grey(strip, rng), text)
        return self._word(rng)

    def _said(self, rng: random.Random, kind: str) -> str:
        assert self._texts is not None, "fonts come with texts"
        return self._texts.line(rng, kind)

    def _token(self, slot: str, font: Font, rng: random.Random) -> tuple[Field, str] | None:
        """A number, form or dose in one font, in several if it lacks a character, or None if all of them do."""
        if slot == "n":
            text = f"{rng.randint(1, 12)}{rng.choice('.).,')}"
        else:
            text = rng.choice(_FORMS) if slot == "f" else self._said(rng, "dose")
        for fonts in ([font], self._fonts):
            with suppress(ValueError):
                return paper_white(render(text, fonts, rng)), text
        return None

    def _pad(self, rng: random.Random) -> Piece:
        """A line of a prescription: real words, and doses in one font."""
        font = rng.choice(self._fonts) if self._fonts else None
        size, space, parts, said = rng.uniform(0.62, 1.0), rng.uniform(8, 26), [], []
        stretch = rng.uniform(0.9, 1.2)
        for slot in rng.choice(_PATTERNS):
            token = None if slot == "w" or font is None else self._token(slot, font, rng)
            if token is None:
                crop = rng.choice(self._words)
                white, text = _resized(paper_white(crop.pixels), stretch, 1, cv2.INTER_LINEAR), crop.text
            else:
                white, text = token
            parts.append(_on_line(white, size * rng.uniform(0.85, 1.1) * (1 if slot == "w" else 0.85), rng))
            parts.append(np.ones((64, round(space * rng.uniform(0.6, 1.5))), np.float32))
            said.append(text)
        return Piece(_grey(np.hstack(parts[:-1]), rng), " ".join(said), "pad", (0.8, 1.2))

    def _line(self, rng: random.Random) -> Piece:
        crop = rng.choice(self._lines)
        if crop.cuts and rng.random() < 0.4:
            return self._real(crop, *_stretch_of(crop, rng))
        return self._real(crop, crop.pixels, crop.text)

    def _joined(self, rng: random.Random) -> Piece:
        first = rng.choice(self._cut_lines)
        parts, said = [], []
        for crop in (first, *rng.choices(self._of_writer[first.source, first.writer], k=rng.choice((1, 1, 2)))):
            pixels, text = _stretch_of(crop, rng)
            gap = np.ones((len(pixels), rng.randint(0, 14)), np.float32)
            parts += [_trimmed(paper_white(pixels)), gap]
            said.append(text)
        return self._real(first, _grey(np.hstack(parts[:-1]), rng), " ".join(said))

    def _hand(self, rng: random.Random) -> Piece:
        return self._render(rng, prints=False)

    def _print(self, rng: random.Random) -> Piece:
        return self._render(rng, prints=True)

    def _render(self, rng: random.Random, *, prints: bool) -> Piece:
        kept = self._rendered[prints]
        if len(kept) > 50 and rng.random() < REUSED:
            return rng.choice(kept)
        while True:
            fonts = self._prints if prints else self._fonts
            kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
            if kind == "label":
                if not self._lines:
                    continue
                text = _some_words(rng.choice(self._lines).text, rng)
            else:
                text = self._said(rng, kind)
                if kind == "accented":
                    if not self._accented:
                        continue
                    fonts = rng.choice(self._accented)
            if kind in _PROSE and rng.random() < 0.15:
                text = f"{text} {self._said(rng, 'english')}"
            # Handwriting does not tell straight from curly quotes.
            text = text if prints else text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
            try:
                source = "taught" if kind in _TAUGHT else "rendered"
                piece = Piece(render(text, fonts, rng), text, source, (0.85, 1.2))
            except ValueError:  # a character that no font has
                continue
            if len(kept) < KEPT:
                kept.append(piece)
            else:
                kept[rng.randrange(KEPT)] = piece
            return piece


class Batches:
    """An endless stream of batches, made by worker processes or by this one."""

    def __init__(self, mix: Mix, size: int, seed: int, workers: int) -> None:
        """Start the workers. They are forked: start them before CUDA is initialised.

        Args:
            mix: source of the pieces.
            size: crops of the narrowest width in a batch.
            seed: random seed; what worker number n makes depends on `seed` and n alone.
            workers: number of processes; 0: `next` makes the batches itself.
        """
        self._own = None if workers else batches(mix, size, seed, 0)
        self._processes: list[Any] = []
        if workers:
            context = multiprocessing.get_context("fork")
            self._queue = context.Queue(max(4, 2 * workers))
            for number in range(workers):
                process = context.Process(target=_make, args=(mix, size, seed, number, self._queue), daemon=True)
                process.start()
                self._processes.append(process)

    def next(self) -> Batch:
        """The next batch.

        Raises:
            DependencyError: all workers have died.
        """
        if self._own is not None:
            return next(self._own)
        while True:
            try:
                batch: Batch = self._queue.get(timeout=20)
                return batch
            except Empty:
                if not any(process.is_alive() for process in self._processes):
                    way = "Look at the first error above, or set workers: 0."
                    raise DependencyError("workers", "have all died", way) from None

    def close(self) -> None:
        """End the workers. By SIGKILL: a library's handler of SIGTERM, forked with the process, may never return."""
        for process in self._processes:
            process.kill()
            process.join()


def _make(mix: Mix, size: int, seed: int, number: int, queue: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for batch in batches(mix, size, seed, number):
        queue.put(batch)


def batches(mix: Mix, size: int, seed: int, number: int) -> Iterator[Batch]:
    """An endless stream of batches: crops are collected by width until there are enough of one width."""
    cv2.setNumThreads(1)
    rng, noise = random.Random(f"mix:{seed}:{number}"), np.random.default_rng((seed, number))
    waiting: dict[int, list[tuple[Grey, Piece]]] = {width: [] for width in WIDTHS}
    while True:
        piece = mix.piece(rng)
        width, room = widths(piece, rng)
        if not piece.text or not fits(piece.text, room):
            continue
        picture = bend(piece.pixels, width, rng, noise)
        if rng.random() < 0.22:
            intrude(picture, mix.neighbour(rng), rng)
        waiting[room].append((picture, piece))
        if len(waiting[room]) >= max(2, size * NARROWEST // room):
            yield pack(waiting[room], room)
            waiting[room] = []


def widths(piece: Piece, rng: random.Random) -> tuple[int, int]:
    """Width of a piece as the network takes it, and of the batch it belongs to."""
    natural = piece.pixels.shape[1] * HEIGHT / piece.pixels.shape[0] * rng.uniform(*piece.stretch)
    if natural <= NARROWEST:
        return max(16, round(natural)), NARROWEST
    room = next((width for width in WIDTHS if width >= natural), WIDTHS[-1])
    return room, room


def fits(text: str, width: int) -> bool:
    """Whether a crop has enough CTC frames for a text: one a character, and one between two equal ones."""
    repeats = sum(before == after for before, after in itertools.pairwise(text))
    return len(text) + repeats <= width // COLUMN - 1


def pack(crops: Sequence[tuple[Grey, Piece]], room: int) -> Batch:
    """A batch of crops, padded on the right."""
    pixels = np.zeros((len(crops), HEIGHT, room), np.uint8)
    for row, (picture, _) in zip(pixels, crops, strict=True):
        row[:, : picture.shape[1]] = picture
    return Batch(
        pixels,
        np.array([picture.shape[1] for picture, _ in crops]),
        [piece.text for _, piece in crops],
        [piece.source for _, piece in crops],
    )


def bend(pixels: Grey, width: int, rng: random.Random, noise: np.random.Generator) -> Grey:
    """Geometric distortion: stretch, shear, rotation, elastic warp, stroke width, gaps, rules; uint8 (48, width)."""
    rows, columns = pixels.shape
    left, right = (max(0.0, rng.uniform(-0.04, 0.16)) * HEIGHT for _ in range(2))
    filled = max(8.0, width - left - right)
    tall = HEIGHT * rng.uniform(0.78, 1.16)
    shear, turn = rng.gauss(0, 0.16), rng.gauss(0, 0.015) * min(1.0, 300 / width)
    x = np.arange(width, dtype=np.float32)[None] - np.float32(left)
    y = np.arange(HEIGHT, dtype=np.float32)[:, None] - np.float32(HEIGHT / 2 + rng.gauss(0, 1.8))
    if rng.random() < 0.6:
        strength = rng.uniform(0.3, 1.8)
        cells = (3, max(3, width // rng.choice((14, 20, 34))))
        bumps = noise.normal(0, strength, (2, *cells)).astype(np.float32)
        x = x + cv2.resize(bumps[0], (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
        y = y + cv2.resize(bumps[1], (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
    across: Field = (x + shear * y) * np.float32(columns / filled)
    down: Field = (y + turn * (x - filled / 2)) * np.float32(rows / tall) + np.float32(rows / 2)
    if columns > 1.6 * filled or rows > 1.6 * tall:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (3, 3), 0.5), np.uint8)
    paper = int(np.percentile(pixels[::4, ::4], 85))
    shape = (HEIGHT, width)
    across, down = (np.ascontiguousarray(np.broadcast_to(field, shape)) for field in (across, down))
    grey = cv2.remap(pixels, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(paper,))
    draw = rng.random()
    if draw < 0.1:
        grey = cv2.erode(grey, np.ones((2, 2), np.uint8))
    elif draw < 0.2:
        grey = cv2.dilate(grey, np.ones((2, 2), np.uint8))
    if rng.random() < 0.15:
        for _ in range(rng.randint(1, 3)):  # gaps in the strokes
            top, start = rng.randint(0, HEIGHT - 8), rng.randint(0, max(1, width - 8))
            grey[top : top + rng.randint(3, 12), start : start + rng.randint(2, 9)] = paper
    if rng.random() < 0.15:
        _rule(grey, paper, rng)
    return np.asarray(grey, np.uint8)


def intrude(picture: Grey, other: Grey, rng: random.Random) -> None:
    """Draw strokes of a neighbouring line into the crop's upper or lower edge, in place."""
    height, width = picture.shape
    ink, paper = (float(v) for v in np.percentile(picture[::3, ::3], (2, 85)))
    depth = max(30.0, paper - ink) * rng.uniform(0.7, 1.0)
    white = _trimmed(paper_white(other))
    scale = rng.uniform(0.7, 1.0) * height / white.shape[0]
    white = _resized(white, scale, scale, cv2.INTER_AREA)
    rows = np.flatnonzero(white.min(axis=1) < 0.5)
    if not len(rows):
        return
    white = white[rows[0] : rows[-1] + 1, :width]
    deep = min(rng.randint(3, 12), white.shape[0])
    at = rng.randint(0, width - white.shape[1])
    above = rng.random() < 0.5
    piece = white[-deep:] if above else white[:deep]
    place = picture[:deep, at : at + white.shape[1]] if above else picture[height - deep :, at : at + white.shape[1]]
    np.minimum(place, np.clip(paper - (1 - piece) * depth, 0, 255).astype(np.uint8), out=place)


def _rule(grey: Any, paper: int, rng: random.Random) -> None:
    """Draw a ruled line or a grid, in place."""
    height, width = grey.shape
    layer = np.zeros((height, width), np.uint8)
    row, tilt = rng.randint(2, height - 2), round(rng.gauss(0, 1.5))
    cv2.line(layer, (0, row), (width, row + tilt), (255,), rng.choice((1, 1, 2)), cv2.LINE_AA)
    if rng.random() < 0.35:
        step = rng.randint(10, 34)
        for column in range(rng.randint(0, step), width, step):
            cv2.line(layer, (column, 0), (column - tilt, height), (255,), 1, cv2.LINE_AA)
    shade = layer.astype(np.float32) * np.float32(rng.uniform(0.08, 0.55) * paper / 255)
    np.copyto(grey, np.clip(grey - shade, 0, 255).astype(np.uint8))


def _grey(white: Field, rng: random.Random) -> Grey:
    """Ink on plain paper with random grey levels: uint8 from paper 1 and ink 0."""
    paper = rng.uniform(140, 255)
    ink = paper * rng.uniform(0.05, 0.6)
    return np.asarray(ink + white * np.float32(paper - ink), np.uint8)


def _resized(white: Field, across: float, down: float, mode: int) -> Field:
    return np.asarray(cv2.resize(white, None, fx=across, fy=down, interpolation=mode), np.float32)


def _trimmed(white: Field) -> Field:
    """Without the empty columns at both ends."""
    inked = np.flatnonzero((white < 0.6).sum(axis=0) > 1)
    return white[:, max(0, int(inked[0]) - 2) : int(inked[-1]) + 3] if len(inked) else white


def _on_line(white: Field, size: float, rng: random.Random) -> Field:
    """Ink scaled to `size` times the height of a line of 64 px and centred on it: float32 (64, w)."""
    white = _trimmed(white)
    scale = size * 64 / white.shape[0]
    white = _resized(white, scale, scale, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    weights = (1 - white).sum(axis=1)
    middle = float((weights * np.arange(len(weights))).sum() / max(1e-3, float(weights.sum())))
    top = round(32 - middle + rng.gauss(0, 2))
    line = np.ones((64, white.shape[1]), np.float32)
    first, last = max(0, top), min(64, top + len(white))
    line[first:last] = white[first - top : last - top]
    return line


def _stretch_of(crop: Crop, rng: random.Random) -> tuple[Grey, str]:
    """Part of a line between two of its cuts or ends."""
    ends = [(0, -1), *crop.cuts, (crop.pixels.shape[1], len(crop.text))]
    first = rng.randrange(len(ends) - 1)
    last = min(len(ends) - 1, first + rng.randint(1, 5))
    (left, before), (right, after) = ends[first], ends[last]
    return crop.pixels[:, left:right], crop.text[before + 1 : after]


def _some_words(text: str, rng: random.Random) -> str:
    words = text.split()
    start = rng.randrange(max(1, len(words) - 3))
    return " ".join(words[start : start + rng.randint(2, 9)])
