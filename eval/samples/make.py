"""Draw the ten synthetic handwriting samples of this folder, and samples.tsv beside them.

Each word (each character, in Chinese) is drawn with a handwriting font, bent at random, thinned to its centreline
and written again with a round pen whose width and ink vary; the ink then goes onto noisy paper that is scanned or
photographed. In two samples ink hides characters from everybody: there the text has one U+25A1 (□) for each.

It copies no real handwriting, does not say how hard real pages are and is no training data: ten images are for
demonstrations and tests of the whole path. The same seed, fonts and library versions give the same bytes.

The fonts are not kept here. Get them, and point to the folder that holds the families:

    npm install --prefix DIR @fontsource/{ma-shan-zheng@5.3.1,long-cang@5.3.0,zhi-mang-xing@5.3.0}
    npm install --prefix DIR @fontsource/{nothing-you-could-do,homemade-apple,la-belle-aurore,shadows-into-light}@5.3.0
    python eval/samples/make.py --fonts DIR/node_modules/@fontsource

Pillow reads their woff2 files; which of a family's files holds a character is in its unicode.json.
"""

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array = npt.NDArray[np.float32]  # (H, W) coverage or (H, W, 3) RGB, both in [0, 1]
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Box = tuple[int, int, int, int]  # left, top, right, bottom in px, half-open
Rng = np.random.Generator

FINE = 3  # units are drawn and thinned at this multiple of the page's resolution
GAP = "□"
BLACK, BLUE, RED = (0.13, 0.13, 0.16), (0.12, 0.17, 0.47), (0.78, 0.12, 0.14)


@dataclass(frozen=True, kw_only=True)
class Hand:
    """One writer: a font family and the habits that bend it. Lengths in px of the page, angles in degrees."""

    family: str
    size: int
    pen: float = 1.5  # radius
    ink: Colour = BLACK
    slant: float = 0.0  # degrees clockwise of upright
    wobble: float = 1.6  # largest bend of a stroke
    unsteady: float = 1.0  # multiplies the jitter of baseline, angle and size
    pressure: float = 0.5  # how much of the font's own stroke contrast stays
    by_character: bool = False
    space: float = 0.34  # between words, in sizes
    loose: float = 0.0  # extra room after each character, in sizes


@dataclass(frozen=True)
class Sample:
    r"""One row of samples.tsv (line breaks in the text are a literal \n) and the function that draws it."""

    image: str
    text: str
    writer: str
    note: str
    draw: Callable[["Desk", list[str]], Array]


@cache
def font_for(family: Path, character: str, size: int) -> ImageFont.FreeTypeFont:
    """The font file of the family that covers the character; unicode.json lists inclusive code point ranges."""
    listed: dict[str, str] = json.loads((family / "unicode.json").read_text(encoding="utf-8"))
    for name, ranges in listed.items():
        ends = [part.strip().removeprefix("U+").partition("-") for part in ranges.split(",")]
        path = family / "files" / f"{family.name}-{name.strip('[]')}-400-normal.woff2"
        if any(int(a, 16) <= ord(character) <= int(b or a, 16) for a, _, b in ends) and path.exists():
            return ImageFont.truetype(str(path), size)
    raise SystemExit(f"no file in {family} covers {character!r}; see the docstring of make.py for the fonts")


def blank(image: Array) -> Array:
    """Empty coverage float32 (H, W) of the image's size."""
    return np.zeros((image.shape[0], image.shape[1]), np.float32)


def smooth(image: Array, x: float, y: float = 0) -> Array:
    """Gaussian blur with deviations in px; y = 0 means the same as x."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), x, sigmaY=y), np.float32)


def cloud(rng: Rng, shape: tuple[int, ...], cell: int, low: float, high: float) -> Array:
    """Smooth random field float32 (H, W) in [low, high]; `cell` px is the size of its features."""
    height, width = shape
    grid = rng.random((height // cell + 3, width // cell + 3)).astype(np.float32)
    field = np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray(low + (high - low) * field.clip(0, 1), np.float32)


def bend(rng: Rng, image: Array, cell: int, amount: float) -> Array:
    """Elastic distortion: every pixel moves by up to `amount` px, neighbours alike."""
    y, x = np.indices(image.shape, np.float32)
    dx, dy = (cloud(rng, image.shape, cell, -amount, amount) for _ in range(2))
    return np.asarray(cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR), np.float32)


def centreline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Thin a bool (H, W) mask to one pixel (Zhang and Suen 1984, A fast parallel algorithm for thinning)."""
    image = np.pad(mask, 1).astype(np.uint8)
    while True:
        before = image.copy()
        for first in (True, False):
            ring = [np.roll(image, shift, (0, 1)) for shift in ((1, 0), (1, -1), (0, -1), (-1, -1))]
            ring += [np.roll(image, shift, (0, 1)) for shift in ((-1, 0), (-1, 1), (0, 1), (1, 1))]
            north, east, south, west = ring[0], ring[2], ring[4], ring[6]
            count = np.sum(ring, axis=0, dtype=np.uint8)
            turns = np.sum([(a == 0) & (b == 1) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)], axis=0)
            free = north * east * south + east * south * west if first else north * east * west + north * south * west
            image[(image == 1) & (count >= 2) & (count <= 6) & (turns == 1) & (free == 0)] = 0
        if np.array_equal(before, image):
            return image[1:-1, 1:-1].astype(bool)


@dataclass(frozen=True)
class Desk:
    """The fonts, the source of chance, and the ways to put ink on paper."""

    fonts: Path
    rng: Rng

    def unit(self, text: str, hand: Hand) -> tuple[Array, float]:
        """Write one word or character: its coverage, origin at x = size and baseline y = 2 sizes, and its advance."""
        rng, scale = self.rng, 1 + 0.03 * hand.unsteady * float(self.rng.standard_normal())
        font = font_for(self.fonts / hand.family, text[0], round(hand.size * FINE * scale))
        advance, size = font.getlength(text), hand.size * FINE
        image = Image.new("L", (round(advance + 2 * size), 3 * size), 0)
        ImageDraw.Draw(image).text((size, 2 * size), text, fill=255, font=font, anchor="ls")
        angle = np.radians(0.9 * hand.unsteady * rng.standard_normal())
        shear = np.tan(np.radians(hand.slant + hand.unsteady * rng.standard_normal()))
        turn = np.array([[1, -shear, shear * 2 * size], [np.tan(angle), 1, -np.tan(angle) * size]], np.float32)
        turned = cv2.warpAffine(np.asarray(image, np.float32) / 255, turn, image.size)
        bent = bend(rng, np.asarray(turned, np.float32), size // 2, hand.wobble * FINE)
        ink = self.trace(smooth(bent, FINE * 0.5) > 0.45, hand)
        small = cv2.resize(ink, None, fx=1 / FINE, fy=1 / FINE, interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.float32), advance / FINE

    def trace(self, mask: npt.NDArray[np.bool_], hand: Hand) -> Array:
        """Follow the mask's centreline with a round pen of varying width, then let the ink skip and pool."""
        ys, xs = np.nonzero(centreline(mask))
        halfwidth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)[ys, xs]
        contrast = halfwidth / max(float(np.median(halfwidth)), 1.0) if len(halfwidth) else halfwidth
        tremor = cloud(self.rng, mask.shape, 9 * FINE, 0.72, 1.3)[ys, xs]
        radii = hand.pen * FINE * tremor * (1 - hand.pressure + hand.pressure * contrast.clip(0.3, 1.9))
        ink = np.zeros(mask.shape, np.uint8)
        for x, y, radius in zip(xs, ys, radii, strict=True):
            cv2.circle(ink, (int(x) * 16, int(y) * 16), int(radius * 16), (255,), -1, cv2.LINE_AA, shift=4)
        flow = cloud(self.rng, mask.shape, 12 * FINE, 0.72, 1.05) * cloud(self.rng, mask.shape, FINE, 0.72, 1.2)
        return np.asarray(ink / 255 * flow.clip(0, 1), np.float32)

    def write(self, page: Array, text: str, hand: Hand, x: float, y: float, rise: float = 0.0) -> list[Box]:
        """Write a line on the page, from (x, baseline y), the baseline sloping up by `rise`; returns the units' boxes."""
        boxes, start, drift = [], x, 0.0
        for word in text.split(" "):
            for part in word if hand.by_character else [word]:
                drift = 0.7 * drift + 0.016 * hand.unsteady * hand.size * float(self.rng.standard_normal())
                small, advance = self.unit(part, hand)
                left, top = round(x) - hand.size, round(y - rise * (x - start) + drift) - 2 * hand.size
                press(page, small, hand.ink, left, top)
                ys, xs = np.nonzero(small > 0.3)
                boxes.append((left + xs.min(), top + ys.min(), left + xs.max() + 1, top + ys.max() + 1))
                x += advance + hand.size * (self.rng.normal(hand.loose, 0.025) if hand.by_character else 0)
            x += hand.size * hand.space * self.rng.uniform(0.85, 1.25)
        return boxes

    def paper(self, height: int, width: int, colour: Colour, grain: float = 0.012) -> Array:
        """A blank sheet (height, width, 3): uneven tone and fibres."""
        tone = cloud(self.rng, (height, width), 160, 0.965, 1.01) * cloud(self.rng, (height, width), 9, 0.985, 1.01)
        fibre = smooth(self.rng.normal(0, grain, (height, width)).astype(np.float32), 0.8)
        return np.asarray((tone + fibre)[..., None] * np.array(colour, np.float32), np.float32)

    def rule(self, page: Array, first: int, step: int, colour: Colour = (0.62, 0.72, 0.84)) -> None:
        """Print ruled lines on the page, in place, the first at y = `first`."""
        for y in range(first, page.shape[0] - step // 3, step):
            line = blank(page)
            cv2.line(line, (0, y), (page.shape[1], y + 2), (1.0,), 1)
            press(page, smooth(line, 0.5) * cloud(self.rng, page.shape[:2], 50, 0.6, 1.2), colour, 0, 0)

    def strokes(self, page: Array, paths: list[list[tuple[int, int]]], hand: Hand) -> None:
        """Draw strokes, each through its points in px, in place, bent like the hand's writing."""
        drawn = blank(page)
        for path in paths:
            cv2.polylines(drawn, [np.array(path, np.int32)], False, (1.0,), round(2 * hand.pen), cv2.LINE_AA)
        press(page, smooth(bend(self.rng, drawn, hand.size // 2, hand.wobble), 0.5), hand.ink, 0, 0)

    def blot(self, page: Array, box: Box, ink: Colour) -> None:
        """Drop ink over the box, in place: nothing under it stays."""
        (x0, y0, x1, y1), drop = box, blank(page)
        x, y, width, height = (x0 + x1) // 2, (y0 + y1) // 2, (x1 - x0) // 2 + 15, (y1 - y0) // 2 + 11
        cv2.ellipse(drop, (x, y), (width, height), 8, 0, 360, (1.0,), -1)
        for angle in self.rng.uniform(0, 2 * np.pi, 10):
            far = self.rng.uniform(0.9, 1.6)
            place = (round(x + far * width * np.cos(angle)), round(y + far * height * np.sin(angle)))
            cv2.circle(drop, place, round(self.rng.uniform(4, 9) / far**2), (1.0,), -1)
        drop = smooth(bend(self.rng, drop, 24, 4.0), 0.9)[..., None]
        page *= 1 - drop
        page += drop * np.array(ink, np.float32) * cloud(self.rng, page.shape[:2], 10, 0.8, 1.3)[..., None]

    def smudge(self, page: Array, box: Box, ink: Colour) -> None:
        """Rub wet ink across the box, in place: only streaks made at random stay in it."""
        (x0, y0, x1, y1), rubbed = box, blank(page)
        cv2.rectangle(rubbed, (x0 - 13, y0 - 13), (x1 + 14, y1 + 13), (1.0,), -1)
        rubbed = smooth(bend(self.rng, rubbed, 22, 5.0), 2.5)
        streaks = smooth(self.rng.random(rubbed.shape).astype(np.float32), 9, 0.8)
        streaks = 0.68 + 0.06 * (streaks - streaks.mean()) / streaks.std()
        page *= (1 - rubbed)[..., None]
        page += rubbed[..., None] * np.median(page, axis=(0, 1)).astype(np.float32)
        press(page, smooth(rubbed, 6, 2) * streaks * cloud(self.rng, page.shape[:2], 13, 0.75, 1.2), ink, 0, 0)

    def expose(self, page: Array, blur: float, noise: float, light: float) -> Array:
        """Scan or photograph the page: uneven light (relative loss at the darkest place), lens blur, sensor noise."""
        reach = max(page.shape) * 2 // 3
        soft = cv2.GaussianBlur(page * cloud(self.rng, page.shape[:2], reach, 1 - light, 1.0)[..., None], (0, 0), blur)
        return np.asarray(soft + self.rng.normal(0, noise, page.shape), np.float32).clip(0, 1)


def press(page: Array, cover: Array, ink: Colour, left: int, top: int) -> None:
    """Multiply ink into the page, in place, where `cover` (top left corner given) says so."""
    height, width = page.shape[:2]
    y0, x0 = max(0, -top), max(0, -left)
    cover = cover[y0 : height - top, x0 : width - left]
    part = page[top + y0 : top + y0 + cover.shape[0], left + x0 : left + x0 + cover.shape[1]]
    part *= 1 - cover[..., None] * (1 - np.array(ink, np.float32))


DOCTOR = Hand(family="la-belle-aurore", size=60, pen=1.6, ink=BLUE, slant=2, wobble=2.4, unsteady=1.3)
PUPIL = Hand(family="long-cang", size=66, pen=1.7, wobble=2.2, unsteady=1.4, by_character=True)
TEACHER = Hand(family="ma-shan-zheng", size=46, pen=1.3, ink=RED, slant=8, wobble=1.8, loose=0.04, by_character=True)
FLATMATE = Hand(family="zhi-mang-xing", size=76, pen=2.0, ink=BLUE, slant=2, wobble=2.4, by_character=True)
CLERK = replace(TEACHER, size=66, pen=1.9, ink=BLACK, slant=2, wobble=2.6, pressure=0.3, loose=0.14)
FRIEND = Hand(family="homemade-apple", size=35, pen=1.25, slant=1, wobble=1.4, pressure=0.4, space=0.6)
PHARMACIST = Hand(family="nothing-you-could-do", size=92, pen=2.3, wobble=3.0)
PHYSICIAN = Hand(family="zhi-mang-xing", size=70, pen=1.8, ink=BLUE, slant=1, wobble=2.0, loose=0.05, by_character=True)
SCHOOLGIRL = Hand(family="shadows-into-light", size=64, pen=1.9, ink=BLUE, slant=1, wobble=2.2, loose=0.02)
CHILD = Hand(family="shadows-into-light", size=62, pen=1.9, slant=-1, wobble=2.4, loose=0.09, by_character=True)


def prescription(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(900, 1200, (0.95, 0.95, 0.92))
    desk.write(page, lines[0], replace(DOCTOR, size=46), 640, 110, 0.02)
    desk.write(page, lines[1], replace(DOCTOR, size=84, pen=2.2), 90, 220)
    for number, line in enumerate(lines[2:]):
        desk.write(page, line, DOCTOR, 170 + 90 * (number % 2) + desk.rng.uniform(-12, 12), 330 + 116 * number, 0.012)
    return desk.expose(page, 0.7, 0.012, 0.16)


def homework(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(840, 1150, (0.97, 0.96, 0.91))
    desk.rule(page, 150, 118)
    for number, line in enumerate(lines[:-1]):
        desk.write(page, line, PUPIL, 110 + desk.rng.uniform(-10, 14), 136 + 118 * number, 0.004)
    desk.write(page, lines[-1], TEACHER, 70, 760, 0.02)
    return desk.expose(page, 0.7, 0.012, 0.14)


def note(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(380, 820, (0.98, 0.94, 0.66))
    for number, line in enumerate(lines):
        desk.write(page, line, FLATMATE, 70 + 16 * number, 150 + 140 * number, 0.02)
    return desk.expose(page, 0.8, 0.014, 0.14)


def forecast(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(170, 760, (0.95, 0.95, 0.94))
    boxes = desk.write(page, lines[0].replace(GAP, "5"), CLERK, 50, 112, 0.006)
    desk.blot(page, boxes[lines[0].index(GAP)], (0.09, 0.09, 0.12))
    return desk.expose(page, 0.6, 0.01, 0.08)


def report(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(180, 920, (0.95, 0.95, 0.93))
    boxes = desk.write(page, lines[0].replace(GAP, "{}").format(3, 1, 5), CLERK, 50, 118, -0.004)
    for first, last in ((boxes[2], boxes[2]), (boxes[4], boxes[5])):
        desk.smudge(page, (first[0], min(first[1], last[1]), last[2], max(first[3], last[3])), BLACK)
    return desk.expose(page, 0.6, 0.01, 0.08)


def word(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(200, 640, (0.84, 0.84, 0.84))
    x0, y0, x1, y1 = desk.write(page, lines[0], PHARMACIST, 40, 110, 0.02)[0]
    shot = desk.expose(page[max(0, y0 - 26) : y1 + 22, max(0, x0 - 16) : x1 + 18], 0.9, 0.01, 0.08)
    return np.asarray(cv2.resize(shot, (128, 128), interpolation=cv2.INTER_AREA), np.float32)


def letter(desk: Desk, lines: list[str]) -> Array:
    sheet = desk.paper(620, 1000, (0.96, 0.95, 0.90))
    for number, line in enumerate(lines):
        desk.write(sheet, line, FRIEND, (80, 60, 60, 60, 560)[number], 130 + 96 * number, 0.01)
    wood = smooth(desk.rng.normal(0, 1, (860, 1200)).astype(np.float32), 40, 1.1)
    table = (1 + 0.16 * wood / wood.std())[..., None] * np.array((0.30, 0.20, 0.13), np.float32)
    corners = np.array([[0, 0], [1000, 0], [1000, 620], [0, 620]], np.float32)
    tilt = cv2.getRotationMatrix2D((500, 310), 3.5, 1.0) @ np.vstack([corners.T, np.ones(4)])
    seen = (tilt.T + np.array([[96, 122], [106, 116], [110, 126], [92, 120]])).astype(np.float32)
    view = cv2.getPerspectiveTransform(corners, seen)
    cover = np.asarray(cv2.warpPerspective(blank(sheet) + 1, view, (1200, 860)), np.float32)[..., None]
    shadow = smooth(np.roll(cover[..., 0], (12, 9), (0, 1)), 9)[..., None]
    photo = table * (1 - 0.6 * shadow) * (1 - cover) + cv2.warpPerspective(sheet, view, (1200, 860)) * cover
    return desk.expose(photo * np.linspace(1.0, 0.74, 1200, dtype=np.float32)[:, None], 0.7, 0.012, 0.18)


def columns(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(560, 820, (0.95, 0.95, 0.95), 0.006)
    for place, line in enumerate(lines):
        x, y = (80, 480)[place // 4], 130 + 118 * (place % 4)
        desk.write(page, line, CHILD, x + desk.rng.uniform(-8, 10), y + desk.rng.uniform(-5, 5))
    return desk.expose(page, 0.6, 0.008, 0.06)


def prescription_zh(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(820, 1150, (0.95, 0.95, 0.93))
    for number, line in enumerate(lines):
        indent = 150 if number > 1 and number % 2 else 80
        desk.write(page, line, PHYSICIAN, indent + desk.rng.uniform(-10, 10), 110 + 116 * number, 0.008)
    return desk.expose(page, 0.7, 0.012, 0.14)


def exercise(desk: Desk, lines: list[str]) -> Array:
    page = desk.paper(900, 1150, (0.97, 0.97, 0.93))
    desk.rule(page, 150, 140)
    ends: list[tuple[int, int]] = []
    places: dict[str, Box] = {}
    for number, line in enumerate(line for line in lines if line != INSERTED):
        boxes = desk.write(page, line, SCHOOLGIRL, 110 + desk.rng.uniform(-8, 12), 136 + 140 * number, 0.003)
        ends.append((boxes[-1][2] + 70, boxes[-1][3]))
        places |= zip(line.split(" "), boxes, strict=False)
    x0, y0, x1, y1 = places[STRUCK]
    desk.strokes(page, [[(x0 - 8, (y0 + y1) // 2 + 6), (x1 + 8, (y0 + y1) // 2 - 3)]], SCHOOLGIRL)
    left, top = places["apples."][0] - 14, places["apples."][3]
    desk.strokes(page, [[(left - 12, top + 12), (left, top - 14), (left + 12, top + 10)]], SCHOOLGIRL)
    desk.write(page, INSERTED, replace(SCHOOLGIRL, size=44, pen=1.5), left - 30, places["apples."][1] - 12)
    tick, cross = [[(0, -30), (20, 0), (68, -72)]], [[(0, 0), (56, -60)], [(4, -56), (52, 2)]]
    for (x, y), mark in zip(ends, (tick, cross), strict=False):
        desk.strokes(page, [[(x + a, y + b) for a, b in path] for path in mark], replace(TEACHER, pen=2.2))
    return desk.expose(page, 0.7, 0.01, 0.1)


RX = r"Dr. P. Inkwell, MBBS\nRx\n1. Amoxicillin 500 mg\n1 cap tid x 7 days\n2. Paracetamol 500 mg\n1 tab qid prn\n3. Napa 120 mg/5 ml"
TASK = r"红球4个白球3个黑球5个\n第一步 4+3=7\n第二步 7+5=13\n答 一共有13个球\n我写完在检查一遍\n解题思路正确但计算过程有误请检查第二步"
LETTER = r"Dear Anna, I am back in town and\nfound your notes on my desk.\nCould we meet on Friday at 4 pm\nto finish the garden plan?\nYours, Ben"
RX_ZH = r"内科\n处方\n1. 阿莫西林胶囊 0.5g\n每次1粒 一日三次 口服\n2. 布洛芬缓释胶囊 0.3g\n每次1粒 必要时 口服"
STRUCK, INSERTED = "seen", "red"
EXERCISE = r"1. 12+30=42\n2. 7×8=54\n3. We seen saw two dogs.\nred\n4. Tom has 9 apples. He eats 4.\nAns: 9-4=5"
SUMS = r"8+7=15\n14-6=8\n9×3=27\n36÷4=9\n25+17=42\n50-28=22\n7×8=54\n63÷9=7"
SAMPLES = [
    Sample("prescription.jpg", RX, "doctor", "invented doctor; no patient", prescription),
    Sample("homework_zh.jpg", TASK, "pupil, teacher", "7+5=13 and 在 for 再 are written so", homework),
    Sample(
        "homework_marks.jpg",
        EXERCISE,
        "schoolgirl, teacher",
        "seen is struck out, red put in; a tick, a cross",
        exercise,
    ),
    Sample("prescription_zh.jpg", RX_ZH, "physician", "no patient, no doctor", prescription_zh),
    Sample("note_zh.jpg", r"记得买牛奶和面包\n开会时间改到三点半", "flatmate", "running hand", note),
    Sample("forecast_gap.png", f"明天气温会降到{GAP}度", "clerk", "one digit under an ink blot", forecast),
    Sample("report_gap.png", f"请于{GAP}月{GAP}{GAP}日前提交报告", "clerk", "both numbers smudged away", report),
    Sample("word_squashed.png", "Amlodipine", "pharmacist", "squashed to 128x128", word),
    Sample("letter_en_skewed.jpg", LETTER, "friend", "photographed, turned by 3.5 degrees", letter),
    Sample("two_columns.png", SUMS, "child", "left column first; 7×8=54 is written so", columns),
]


def save(image: Array, path: Path) -> None:
    """Write a photograph as JPEG, a scan as PNG in 40 even shades of grey."""
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    if path.suffix == ".png":
        picture = picture.convert("L").point([round(round(v / 255 * 39) / 39 * 255) for v in range(256)])
    picture.save(path, quality=72, optimize=True)


def main() -> None:
    """Draw every sample and write samples.tsv."""
    parser = argparse.ArgumentParser(description="Draw the synthetic handwriting samples.")
    parser.add_argument("--fonts", type=Path, required=True, help="folder with the font families, see the docstring")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rows = ["image\ttext\twriter\tnote"]
    for sample in SAMPLES:
        desk = Desk(args.fonts, np.random.default_rng([args.seed, zlib.crc32(sample.image.encode())]))
        save(sample.draw(desk, sample.text.split(r"\n")), args.out / sample.image)
        rows.append(f"{sample.image}\t{sample.text}\t{sample.writer}\t{sample.note}")
    (args.out / "samples.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
