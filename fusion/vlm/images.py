"""Crops as a vision model wants them: large enough to be seen, small enough not to hang, as PNG.

Knows pixels; knows no model and no HTTP.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_HEIGHT = 56
"""Two merged patches of 28 px: under it a GLM vision tower has one row of patches for a line of strokes."""
LONGEST_SIDE = 2300
"""GLM-OCR hangs on some images above this (zai-org/GLM-OCR issue 42)."""
THINNEST = 100
"""Most times as long as wide. GLM's image processor refuses 200, and its own rounding may add to the ratio."""


def prepare(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image in its own proportions, enlarged or reduced only where the model needs it.

    Args:
        pixels: uint8 (H, W, 3), RGB, not empty.
    """
    image = Image.fromarray(pixels)
    width, height = image.size
    factor = min(max(1.0, LEAST_HEIGHT / height), LONGEST_SIDE / max(width, height))
    if factor != 1.0:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return on_strip(image, math.ceil(max(image.size) / THINNEST))


def on_strip(image: Image.Image, floor: int) -> Image.Image:
    """An image whose short side is under `floor` px in the middle of a strip of its own paper; others as they are."""
    if min(image.size) >= floor:
        return image
    red, green, blue = (int(value) for value in np.median(np.asarray(image), axis=(0, 1)))
    strip = Image.new("RGB", (max(image.width, floor), max(image.height, floor)), (red, green, blue))
    strip.paste(image, ((strip.width - image.width) // 2, (strip.height - image.height) // 2))
    return strip


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """A prepared image as PNG, uint8 (H, W, 3) RGB in."""
    stream = io.BytesIO()
    prepare(pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()
