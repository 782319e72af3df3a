"""Pictures of handwritten lines: a text goes in, a grey crop 48 px high comes out.

Knows fonts, pens, paper and bad cameras. Does not know where the texts come from. The same text, fonts and state of the
generator give the same picture on every machine with the same libraries.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from functools import lru_cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusion.train.fonts import Font
from fusion.train.texts import Texts

HEIGHT = 48
"""Height of every picture, px."""
WIDEST = 1200
"""Width of the widest picture, px."""
_BODY = 52  # px between the top of an ascender and the foot of a descender on the canvas on which text is laid out
_BASE = 74  # row of the canvas that the writing stands on
_CANVAS = 112  # height of the canvas, px
_SIDE = 40  # empty px at both ends of the canvas, for flourishes
_NOWHERE = "\ufffe"  # no font has this character, so its picture is that of a missing glyph

Grey = NDArray[np.uint8]
Field = NDArray[np.float32]

# Characters that no Latin subset of a font holds, as strokes in a box one unit wide that stands on the writing line;
# y grows upwards, 1 is the height of a capital.
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "≤": (((0.9, 0.85), (0.1, 0.55), (0.9, 0.25)), ((0.1, 0.05), (0.9, 0.02))),
    "≥": (((0.1, 0.85), (0.9, 0.55), (0.1, 0.25)), ((0.1, 0.02), (0.9, 0.05))),
    "√": (((0.0, 0.45), (0.15, 0.5), (0.4, 0.0), (0.6, 1.0), (1.15, 1.02)),),
    "π": (
        ((0.0, 0.6), (0.95, 0.66)),
        ((0.3, 0.62), (0.25, 0.3), (0.15, 0.02)),
        ((0.68, 0.64), (0.66, 0.15), (0.85, 0.03)),
    ),
    "×": (((0.15, 0.1), (0.8, 0.65)), ((0.15, 0.65), (0.8, 0.1))),
    "÷": (((0.1, 0.38), (0.9, 0.4)), ((0.48, 0.68), (0.52, 0.72)), ((0.48, 0.06), (0.52, 0.1))),
    "°": (((0.3, 0.8), (0.45, 0.65), (0.6, 0.8), (0.45, 0.97), (0.3, 0.8)),),
    "–": (((0.1, 0.35), (0.9, 0.37)),),
    "—": (((0.0, 0.35), (1.25, 0.37)),),
    "µ": (((0.2, 0.6), (0.1, -0.3)), ((0.2, 0.6), (0.25, 0.05), (0.6, 0.1), (0.65, 0.6)), ((0.65, 0.6), (0.8, 0.02))),
    "½": (
        ((0.2, 0.7), (0.3, 0.95), (0.3, 0.5)),
        ((0.1, 0.05), (0.8, 0.95)),
        ((0.6, 0.4), (0.8, 0.42), (0.6, 0.0), (0.9, 0.02)),
    ),
    "¼": (
        ((0.2, 0.7), (0.3, 0.95), (0.3, 0.5)),
        ((0.1, 0.05), (0.8, 0.95)),
        ((0.75, 0.42), (0.6, 0.15), (0.95, 0.15)),
        ((0.85, 0.42), (0.85, 0.0)),
    ),
    "¾": (
        ((0.1, 0.95), (0.35, 0.92), (0.2, 0.76), (0.36, 0.62), (0.1, 0.52)),
        ((0.1, 0.05), (0.8, 0.95)),
        ((0.75, 0.42), (0.6, 0.15), (0.95, 0.15)),
        ((0.85, 0.42), (0.85, 0.0)),
    ),
    "²": (((0.1, 0.92), (0.3, 1.0), (0.4, 0.85), (0.1, 0.55), (0.45, 0.56)),),
    "³": (((0.1, 0.98), (0.38, 0.96), (0.2, 0.8), (0.4, 0.66), (0.1, 0.54)),),
    "£": (((0.8, 0.8), (0.55, 0.95), (0.4, 0.7), (0.45, 0.3), (0.15, 0.03), (0.9, 0.05)), ((0.2, 0.45), (0.7, 0.47))),
}


def render(text: str, fonts: Sequence[Font], rng: random.Random) -> Grey:
    """Picture of one line of writing.

    Args:
        text: characters of `texts.ALPHABET`, at least one that is not a space.
        fonts: to choose from. A character that the chosen one lacks is drawn with another, or with strokes of its own.
        rng: source of all chance.

    Returns:
        Grey levels (48, W) uint8, dark ink on light paper; W at most `WIDEST`.

    Raises:
        ValueError: a character that neither a font nor `_STROKES` can draw.
    """
    cv2.setNumThreads(1)
    chance = np.random.default_rng(rng.getrandbits(64))
    ink = _write(text, _fit_fonts(text, fonts), rng)
    ink = _pen(ink, rng)
    alpha = _place(ink, len(text), rng, chance)
    clean = rng.random() < 0.25
    if not clean:
        _disturb(alpha, rng)
        alpha *= _pressure(alpha, rng, chance)
    paper = np.full(alpha.shape, 255, np.float32) if clean else _paper(alpha.shape[1], rng, chance)
    dark = rng.uniform(0, 40) if clean else rng.uniform(0.05, 0.6) * float(paper.mean())
    picture = paper - np.clip(alpha, 0, 1) * (paper - dark)
    return _photograph(picture, clean, rng, chance)


def pool(
    texts: Texts, fonts: Sequence[Font], count: int, seed: int, workers: int, *, held_out: bool = False
) -> list[tuple[Grey, str]]:
    """Many pictures with their texts, the same ones whatever the number of workers.

    Args:
        texts: where texts are drawn from.
        fonts: to draw with, see `Materials.side`.
        count: how many.
        seed: of this lot; picture number n depends on `seed` and n alone.
        workers: processes (started by spawn); 1 or less stays in this one.
        held_out: texts kept for evaluation instead of those for training.

    Returns:
        Pairs of a picture (48, W) uint8 and its text.
    """
    job = partial(_one, seed, held_out)
    if workers <= 1:
        _start(texts, fonts)
        return [job(n) for n in range(count)]
    with multiprocessing.get_context("spawn").Pool(workers, _start, (texts, tuple(fonts))) as processes:
        return processes.map(job, range(count), chunksize=max(1, min(256, count // (4 * workers))))


_shared: list[tuple[Texts, Sequence[Font]]] = []


def _start(texts: Texts, fonts: Sequence[Font]) -> None:
    _shared[:] = [(texts, fonts)]


def _one(seed: int, held_out: bool, n: int) -> tuple[Grey, str]:
    texts, fonts = _shared[0]
    rng = random.Random(f"{seed}:{n}")
    text = texts.line(rng, held_out=held_out)
    return render(text, fonts, rng), text


class _Face:
    """One font at one size, with what it can draw."""

    def __init__(self, font: Font, size: float) -> None:
        trial = ImageFont.truetype(str(font.path), 64)
        top, bottom = trial.getbbox("Hdgp", anchor="ls")[1::2]
        # Fonts differ in how much of their size the letters fill: what must be alike is the height of the letters.
        self.type = trial.font_variant(size=max(8, round(64 * _BODY * size / max(1.0, bottom - top))))
        self.capital = max(6.0, -float(self.type.getbbox("H", anchor="ls")[1]))
        self._missing = self._picture(_NOWHERE)
        self._known: dict[str, bool] = {" ": True}

    def draws(self, character: str) -> bool:
        """Whether the font has the character, told by a picture that is neither empty nor that of a missing glyph."""
        known = self._known.get(character)
        if known is None:
            mask = self.type.getmask(character)
            known = mask.getbbox() is not None and self._picture(character) != self._missing
            self._known[character] = known
        return known

    def _picture(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self.type.getmask(character)
        return mask.size, bytes(mask)


@lru_cache(maxsize=600)
def _face(font: Font, size: float) -> _Face:
    return _Face(font, size)


def _fit_fonts(text: str, fonts: Sequence[Font]) -> Sequence[Font]:
    """Without the fonts that would draw small letters as capitals, if the text has small letters."""
    if not any(character.islower() for character in text):
        return fonts
    return [font for font in fonts if not font.capitals] or fonts


def _write(text: str, fonts: Sequence[Font], rng: random.Random) -> Grey:
    """The ink of a text laid out on a canvas (112, W) uint8, 255 where there is ink."""
    signs = sum(character in "0123456789+-×÷=<>≤≥()" for character in text)
    mixed = rng.random() < (0.5 if signs * 2 >= len(text) else 0.2)
    main = _face(rng.choice(fonts), 1.0)
    gap, spread, jitter = rng.uniform(1.1, 2.4), rng.choice((0.0, 0.0, 0.0, rng.uniform(-1, 4))), rng.uniform(0, 2.5)
    canvas = Image.new("L", (2 * _SIDE + 60 * len(text) + 60, _CANVAS))
    pen = ImageDraw.Draw(canvas)
    x = float(_SIDE)
    for word in text.split(" "):
        base = _BASE + rng.uniform(-jitter, jitter)
        for piece, face in _pieces(word, main, fonts, mixed, spread != 0.0, rng):
            y = base + (rng.gauss(0, 1.8) if mixed else rng.gauss(0, 0.5) if len(piece) == 1 else 0.0)
            x += _draw(pen, piece, face or main, x, y, face is None) + spread + (rng.uniform(0, 4) if mixed else 0.0)
        x += gap * 9 * rng.uniform(0.8, 1.25)
    used = canvas.getbbox()
    if used is None:
        raise ValueError(f"nothing to draw in {text!r}")
    return np.asarray(canvas.crop((used[0] - 4 if used[0] > 4 else 0, 0, used[2] + 4, _CANVAS)), dtype=np.uint8)


def _pieces(
    word: str, main: _Face, fonts: Sequence[Font], mixed: bool, apart: bool, rng: random.Random
) -> list[tuple[str, _Face | None]]:
    """Runs of a word that one face draws; None for characters that are drawn with strokes."""
    pieces: list[tuple[str, _Face | None]] = []
    for character in word:
        wanted = _face(rng.choice(fonts), rng.choice((0.88, 1.0, 1.12))) if mixed else main
        face = _face_for(character, wanted, fonts, rng)
        if pieces and pieces[-1][1] is face and face is not None and not (mixed or apart):
            pieces[-1] = (pieces[-1][0] + character, face)
        else:
            pieces.append((character, face))
    return pieces


def _face_for(character: str, wanted: _Face, fonts: Sequence[Font], rng: random.Random) -> _Face | None:
    if wanted.draws(character):
        return wanted
    if character in _STROKES and rng.random() < 0.6:
        return None
    start = rng.randrange(len(fonts))
    for font in (*fonts[start:], *fonts[:start]):
        face = _face(font, 1.0)
        if face.draws(character):
            return face
    if character in _STROKES:
        return None
    raise ValueError(f"no font has the character {character!r}")


def _draw(pen: ImageDraw.ImageDraw, piece: str, face: _Face, x: float, y: float, strokes: bool) -> float:
    """Draw a piece at the pen; px that the pen moves."""
    if not strokes:
        pen.text((x, y), piece, fill=255, font=face.type, anchor="ls")
        return float(face.type.getlength(piece))
    height = face.capital
    wide = 0.75 * height
    for line in _STROKES[piece]:
        pen.line([(x + 3 + a * wide, y - b * height) for a, b in line], fill=255, width=3, joint="curve")
    return wide * max(1.0, *(a for line in _STROKES[piece] for a, _ in line)) + 6


def _pen(ink: Grey, rng: random.Random) -> Grey:
    """Another pen: broader, finer, or thin and of constant width."""
    chance = rng.random()
    if chance < 0.25:
        line = _thin(ink)
        width = rng.choice((1, 2, 2, 3))
        return line if width == 1 else np.asarray(cv2.dilate(line, np.ones((width, width), np.uint8)), np.uint8)
    if chance < 0.4:
        shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, rng.choice(((2, 2), (3, 3), (3, 2), (2, 3))))
        return np.asarray(cv2.dilate(ink, shape), np.uint8)
    return ink


def _zhang_suen() -> tuple[Grey, Grey]:
    """For each of the 256 neighbourhoods: 0 where the first (second) pass of thinning takes the pixel away, else 1."""
    tables = (np.ones(256, np.uint8), np.ones(256, np.uint8))
    for code in range(256):
        p = [code >> bit & 1 for bit in range(8)]  # clockwise from above
        steps = sum(p[n] == 0 and p[(n + 1) % 8] == 1 for n in range(8))
        if 2 <= sum(p) <= 6 and steps == 1:
            tables[0][code] = p[0] * p[2] * p[4] or p[2] * p[4] * p[6]
            tables[1][code] = p[0] * p[2] * p[6] or p[0] * p[4] * p[6]
    return tables


_TABLES = _zhang_suen()
_NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


def _thin(ink: Grey) -> Grey:
    """Lines one px wide along the middle of the strokes, 255 on 0; broad strokes stay a little broader."""
    line = (ink > 100).astype(np.uint8)
    for _ in range(5):
        for table in _TABLES:
            line &= np.asarray(
                cv2.LUT(cv2.filter2D(line, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT), table)
            )
    return line * np.uint8(255)


def _place(ink: Grey, length: int, rng: random.Random, chance: np.random.Generator) -> Field:
    """Ink brought to 48 px with slant, drift, stretch and a warp in one go; (48, W) float32 in [0, 1]."""
    rows = np.flatnonzero(ink.max(axis=1))
    tight = rng.random() < 0.55
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    if not tight:
        top, bottom = min(top, _BASE - 0.72 * _BODY), max(bottom, _BASE + 0.3 * _BODY)
    room = HEIGHT - rng.choice((rng.uniform(0, 3), rng.uniform(2, 8), rng.uniform(4, 16)))
    drift = rng.gauss(0, 0.012) * min(1.0, 500 / ink.shape[1])
    scale = min(room / (bottom - top + abs(drift) * ink.shape[1]), 1.45)
    # Every character gets room for the reader's columns, and no line gets endless.
    stretch = rng.choice((1.0, rng.uniform(0.85, 1.15), rng.uniform(0.72, 1.35)))
    each = ink.shape[1] * scale * stretch / max(2, length)
    stretch *= min(max(each, 10.5), 30.0) / each
    slant = rng.choice((0.0, rng.gauss(0, 0.12), rng.uniform(-0.25, 0.4)))
    lean = abs(slant) * 0.7 * HEIGHT
    left, right = (lean / 2 + rng.choice((rng.uniform(0, 4), rng.uniform(0, 14))) for _ in range(2))
    width = min(WIDEST, max(16, int(ink.shape[1] * scale * stretch + left + right)))
    across = (width - left - right) / ink.shape[1]
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    strength = rng.choice((0.0, rng.uniform(0.3, 1.5), rng.uniform(0.5, 2.2)))
    middle, offset = (top + bottom) / 2, rng.uniform(-0.5, 0.5) * (HEIGHT - room)
    level = (ys - HEIGHT / 2 - offset) / scale
    source_x = (xs - left) / across + slant * level + strength * _smooth(width, 30, chance)
    source_y = middle + level + drift * (source_x - ink.shape[1] / 2) + strength * _smooth(width, 45, chance)
    if min(scale, across) < 0.75:
        ink = np.asarray(cv2.GaussianBlur(ink, (3, 3), 0.35 / min(scale, across)), np.uint8)
    placed = cv2.remap(ink, source_x.astype(np.float32), source_y.astype(np.float32), cv2.INTER_LINEAR)
    return np.asarray(placed, np.float32) / np.float32(255)


def _smooth(width: int, step: int, chance: np.random.Generator) -> Field:
    """A field (48, width) of about unit variance that changes over `step` px."""
    coarse = chance.standard_normal((3, width // step + 3), np.float32)
    return np.asarray(cv2.resize(coarse, (width, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)


def _disturb(alpha: Field, rng: random.Random) -> None:
    """Add, in place, what else is on paper: pieces of the lines above and below, a stroke across, blots."""
    height, width = alpha.shape
    rows = np.flatnonzero(alpha.max(axis=1) > 0.3)
    first, last = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, height)
    for below in (False, True):
        if rng.random() < 0.14 and last - first > 20:
            deep = rng.randint(2, 7)
            rolled = np.roll(alpha, rng.randrange(width), axis=1)
            piece = rolled[first : first + deep] if below else rolled[last - deep : last]
            strip = alpha[height - deep :] if below else alpha[:deep]
            np.maximum(strip, piece, out=strip)
    if rng.random() < 0.06:
        start, span = rng.uniform(0, 0.8) * width, rng.uniform(15, 90)
        y, rise = rng.uniform(8, 40), rng.gauss(0, 6)
        curve = [
            (start + span * t, y + rise * t + 3 * t * (1 - t) * rng.uniform(-2, 2)) for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        points = np.array(curve, np.float32).round().astype(np.int32)
        layer = np.zeros((height, width), np.uint8)
        cv2.polylines(layer, [points], False, (255,), rng.choice((1, 1, 2)), cv2.LINE_AA)
        np.maximum(alpha, layer.astype(np.float32) * (rng.uniform(0.35, 0.8) / 255), out=alpha)
    if rng.random() < 0.08:
        layer = np.zeros((height, width), np.uint8)
        for _ in range(rng.randint(1, 4)):
            at, size = (rng.randrange(width), rng.randrange(height)), rng.choice((0, 1, 1, 2))
            cv2.circle(layer, at, size, (255,), -1, cv2.LINE_AA)
        np.maximum(alpha, layer.astype(np.float32) * (rng.uniform(0.3, 0.9) / 255), out=alpha)


def _pressure(alpha: Field, rng: random.Random, chance: np.random.Generator) -> Field:
    """Share of the ink that the pen lets out, (48, W) float32: firm, uneven, or running dry."""
    strength = rng.choice((0.0, rng.uniform(0, 0.18), rng.uniform(0.1, 0.3)))
    flow = 1 - strength * np.abs(_smooth(alpha.shape[1], 24, chance))
    if rng.random() < 0.12:
        grain = chance.random(alpha.shape, np.float32)
        flow = flow * (1 - rng.uniform(0.15, 0.5) * np.asarray(cv2.GaussianBlur(grain, (3, 3), 0.7)))
    return np.asarray(np.clip(flow, 0.35, 1), np.float32)


def _paper(width: int, rng: random.Random, chance: np.random.Generator) -> Field:
    """Light paper (48, W) float32 with shading, texture and, at times, ruled lines or a grid."""
    level = rng.uniform(150, 250)
    paper = level + rng.choice((0.0, rng.uniform(0, 12))) * _smooth(width, 120, chance)
    if rng.random() < 0.35:
        fibre = cv2.GaussianBlur(chance.standard_normal((HEIGHT, width), np.float32), (5, 5), 1.2)
        paper = paper + rng.uniform(1, 9) * np.asarray(fibre)
    paper = np.asarray(paper, np.float32)
    chosen = rng.random()
    if chosen < 0.22:
        depth, thick = rng.uniform(0.06, 0.3) * level, rng.choice((1, 1, 2))
        tilt, start = rng.gauss(0, 1.2), rng.uniform(24, 46)
        lines = [((0.0, start), (float(width), start + tilt))]
        if chosen < 0.1:
            step = rng.uniform(14, 40)
            lines += [((0.0, start - n * step), (float(width), start - n * step + tilt)) for n in (-2, -1, 1, 2, 3)]
            if chosen < 0.05:
                lines += [((x, 0.0), (x - tilt, 48.0)) for x in np.arange(rng.uniform(0, step), width, step).tolist()]
        layer = np.zeros((HEIGHT, width), np.uint8)
        for (xa, ya), (xb, yb) in lines:
            cv2.line(layer, (round(xa), round(ya)), (round(xb), round(yb)), (255,), thick, cv2.LINE_AA)
        paper -= layer.astype(np.float32) * np.float32(depth / 255)
    return np.clip(paper, 90, 255)


def _photograph(picture: Field, clean: bool, rng: random.Random, chance: np.random.Generator) -> Grey:
    """What a camera or scanner makes of it: (48, W) uint8."""
    height, width = picture.shape
    if not clean and rng.random() < 0.2:
        share = rng.uniform(0.5, 0.85)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = np.asarray(
            cv2.resize(small, (width, height), interpolation=rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
        )
    elif rng.random() < (0.1 if clean else 0.35):
        sigma = rng.uniform(0.4, 1.15)
        picture = np.asarray(cv2.GaussianBlur(picture, (5, 5), sigma, sigmaY=sigma * rng.uniform(0.7, 1.0)))
    if not clean:
        if rng.random() < 0.3:
            low, high = float(picture.min()), float(picture.max())
            picture = np.asarray(
                (picture - low) * np.float32(rng.uniform(150, 255) / max(40.0, high - low)) + rng.uniform(0, 20)
            )
        if rng.random() < 0.55:
            picture = picture + chance.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(1, 9))
    grey = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < (0.1 if clean else 0.4):
        packed = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, rng.randint(30, 90)])[1]
        grey = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8)
    return grey
