"""Where training crops come from, and what is done to them before they are seen.

Knows real words on disk, rendered pools and distortion; knows no network. Sources of the distortions: Simard et al.,
"Best practices for convolutional neural networks applied to visual document analysis", ICDAR 2003 (elastic); DeVries and
Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.errors import InputError
from fusion.train.recipe import Ink
from fusion.vlm.small import level

WIDEST = 200
"""A picture so many times wider than high is no crop of a line."""
ROOM = 64
"""Height at which real crops are kept, px: more than the tower sees, so that zooming in stays sharp."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop and what is written on it.

    Attributes:
        pixels: uint8 (h, w), grey.
        text: the label.
    """

    pixels: NDArray[np.uint8]
    text: str


def in_share(name: str, share: float) -> bool:
    """Whether the hash of a name falls into a share: the same in every run, whatever else the split holds."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < share * 2**32


def unaccented(text: str, alphabet: str) -> str:
    """A label in NFC; a letter with an accent that the alphabet lacks counts as the letter without."""
    normal = unicodedata.normalize("NFC", text)
    return "".join(unicodedata.normalize("NFD", c)[0] if c.isalpha() and c not in alphabet else c for c in normal)


def load_ink(ink: Ink, alphabet: str, *, held_out: bool = False) -> list[Sample]:
    """Real words or lines of one source that are inside, or outside, the training part.

    Raises:
        InputError: the split or one of its images can't be read.
    """
    samples = []
    for row in _rows(ink.data):
        name, text, writer, note = (*row, "", "")[:4]
        text = unaccented(text, alphabet)
        skipped = any(reason in note for reason in ink.skip_notes) or not text or not set(text) <= set(alphabet)
        if ink.hold_out and ink.hold_out_by == "writer" and not writer:
            raise InputError(ink.data, f"names no writer of {name}", "Set hold_out_by: image.")
        if skipped or in_share(writer if ink.hold_out_by == "writer" else name, ink.hold_out) != held_out:
            continue
        samples.append(Sample(read_crop(ink.data.parent / name, ink.stretch), text))
    return samples


def _rows(path: Path) -> list[list[str]]:
    try:
        rows = [
            line.rstrip("\r").split("\t") for line in path.read_text(encoding="utf-8").split("\n")[1:] if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read ({error})", "Check the path of the split.") from error
    for number, row in enumerate(rows, 2):
        if len(row) < 2:
            raise InputError(f"{path}:{number}", "has no text", "A row is image, text, writer, note with tabs between.")
    return rows


def read_grey(path: Path) -> NDArray[np.uint8]:
    """A picture as grey, what is transparent as white: uint8 (h, w).

    Raises:
        InputError: it can't be read, or is no crop of a line.
    """
    whole = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if whole is None or grey is None:
        raise InputError(path, "is no image that can be read", "Take the row out of the split, or mend the file.")
    if grey.shape[1] > WIDEST * grey.shape[0]:
        raise InputError(path, f"is more than {WIDEST} times wider than high", "Give crops of lines or words.")
    if whole.ndim == 3 and whole.shape[2] == 4:
        opaque = whole[:, :, 3] / (255 if whole.dtype == np.uint8 else 65535)
        grey = np.round(grey * opaque + 255 * (1 - opaque))
    return np.asarray(grey, dtype=np.uint8)


def read_crop(path: Path, stretch: float = 1.0) -> NDArray[np.uint8]:
    """A crop as grey, `ROOM` px high, its width multiplied by `stretch`: uint8 (ROOM, W)."""
    single = read_grey(path)
    width = max(8, round(single.shape[1] * stretch * ROOM / single.shape[0]))
    resized = cv2.resize(single, (width, ROOM), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def join(words: Sequence[Sample], rng: random.Random) -> Sample:
    """Real words side by side on one paper: a line of real ink, made of words that were written apart."""
    pieces: list[NDArray[np.float32]] = []
    for word in words:
        plain = level(word.pixels)
        inked = np.flatnonzero((plain < 0.2).sum(axis=0) > 1)
        first, last = (int(inked[0]), int(inked[-1]) + 1) if len(inked) else (0, plain.shape[1])
        pieces += [plain[:, max(0, first - 2) : last + 2], np.ones((ROOM, rng.randint(6, 26)), np.float32)]
    strip = np.hstack(pieces[:-1])
    return Sample(np.asarray((strip + 1) * 127.5, dtype=np.uint8), " ".join(word.text for word in words))


def cuts(pixels: NDArray[np.uint8], places: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Where a word may be cut between its letters: the column with the least ink between two letters' middles.

    Args:
        pixels: uint8 (h, w), grey.
        places: (left, right) px of each letter.

    Returns:
        One column, px, between each two neighbours.
    """
    ink = (1 - level(pixels)).sum(axis=0)
    middles = [(left + right) / 2 for left, right in places]
    found = []
    for before, after in itertools.pairwise(middles):
        first = min(max(0, round(before)), len(ink) - 1)
        last = max(first + 1, min(len(ink), round(after) + 1))
        found.append(first + int(ink[first:last].argmin()))
    return tuple(found)


def splice(first: Sample, second: Sample, at: int, since: int, columns: tuple[int, int]) -> Sample:
    """The beginning of one real word and the end of another: real ink of a word that nobody wrote.

    No reader can know such a word by heart; it has to look at the letters.

    Args:
        first: gives its first `at` letters; both are equally high.
        second: gives its letters from `since` on.
        at: letters taken.
        since: letters left out.
        columns: where the two are cut, px.
    """
    strip = np.hstack([level(first.pixels)[:, : columns[0]], level(second.pixels)[:, columns[1] :]])
    return Sample(np.asarray((strip + 1) * 127.5, dtype=np.uint8), first.text[:at] + second.text[since:])


def distort(
    sample: Sample, height: int, width: int, rng: random.Random, noise: np.random.Generator
) -> NDArray[np.float32]:
    """The crop as another pen, hand, scan or cut would have given it: float32 (height, width) in [-1, 1].

    Args:
        sample: grey crop of any size.
        height: px of the result.
        width: px of the result; the crop fills it but for a random margin.
        rng: randomness of the pen and the cut, advanced.
        noise: randomness of whole fields, advanced.
    """
    pixels = sample.pixels
    rows, columns = pixels.shape
    filled = width * rng.uniform(0.82, 1.0)
    tall = height * rng.uniform(0.8, 1.12)
    shear, turn = rng.gauss(0, 0.18), rng.gauss(0, 0.02)
    # From a place on the result back to a place on the crop.
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x - np.float32(rng.uniform(0, width - filled)), y - np.float32(height / 2 + rng.gauss(0, 1.5))
    if rng.random() < 0.7:
        strength = rng.uniform(0.4, 2.4)
        cells = (3, max(3, width // rng.choice((12, 18, 30))))
        for field in (x, y):
            bumps = noise.normal(0, strength, cells).astype(np.float32)
            field += cv2.resize(bumps, (width, height), interpolation=cv2.INTER_CUBIC)
    across: NDArray[Any] = (x + shear * y) * np.float32(columns / filled)
    down: NDArray[Any] = (y + turn * (x - filled / 2)) * np.float32(rows / tall) + np.float32(rows / 2)
    paper = int(np.percentile(pixels, 85))
    grey = cv2.remap(pixels, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=[paper])
    return _wear(grey, rng, noise)


def _wear(grey: NDArray[Any], rng: random.Random, noise: np.random.Generator) -> NDArray[np.float32]:
    """Pen width, blur, dirt, missing bits, pressure: float32 (h, w) in [-1, 1] from grey."""
    draw = rng.random()
    if draw < 0.15:
        grey = cv2.erode(grey, np.ones((2, 2), np.uint8))
    elif draw < 0.3:
        grey = cv2.dilate(grey, np.ones((2, 2), np.uint8))
    elif draw < 0.4:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.1))
    plain: NDArray[Any] = level(grey)
    if rng.random() < 0.5:  # pressure: the same strokes fainter or fuller
        plain = 1 - 2 * ((1 - plain) / 2) ** np.float32(rng.uniform(0.6, 1.7))
    height, width = plain.shape
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 2)):
            top, left = rng.randint(0, height - 8), rng.randint(0, max(1, width - 8))
            plain[top : top + rng.randint(3, 14), left : left + rng.randint(3, 10)] = rng.choice((1.0, 1.0, 0.3))
    if rng.random() < 0.15:  # a rule of the paper
        row = rng.randint(2, height - 3)
        plain[row : row + rng.randint(1, 2)] -= rng.uniform(0.2, 0.9)
    if rng.random() < 0.4:
        plain = plain + noise.normal(0, rng.uniform(0.02, 0.2), plain.shape).astype(np.float32)
    return np.clip(plain, -1.0, 1.0).astype(np.float32)


def _slimness(sample: Sample) -> float:
    """Width in heights."""
    height, width = sample.pixels.shape
    return float(width / height)


class Deck:
    """Samples from which batches of like widths are drawn."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Sort by natural width once; a draw takes neighbours."""
        self.samples = sorted(samples, key=_slimness)
        self.middle = _slimness(self.samples[len(self.samples) // 2]) if self.samples else 0.0
        """Median width of a sample, in heights."""
        self.cuts: dict[int, tuple[int, ...]] = {}
        """Number of a sample → columns between its letters, for those of which it is known where the letters stand."""

    def draw(self, count: int, rng: random.Random) -> list[Sample]:
        """`count` samples whose widths are near each other."""
        window = min(len(self.samples), 6 * count)
        start = rng.randint(0, len(self.samples) - window)
        return [self.samples[start + rng.randrange(window)] for _ in range(count)]

    def draw_spliced(self, like: Sample, rng: random.Random) -> Sample:
        """A word put together from two, about as long as `like`; `like` itself where that can't be done."""
        numbers = list(self.cuts)
        for _ in range(8):
            one, two = rng.choice(numbers), rng.choice(numbers)
            first, second = self.samples[one], self.samples[two]
            at, since = rng.randint(1, len(first.text) - 1), rng.randint(1, len(second.text) - 1)
            if abs(at + len(second.text) - since - len(like.text)) <= 1:
                return splice(first, second, at, since, (self.cuts[one][at - 1], self.cuts[two][since - 1]))
        return like
