"""Crops as a vision model takes them: large enough to be seen, small enough not to hang, not too thin."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_HEIGHT = 56  # two merged patches of 28 px: a lower crop is a single row of patches to a GLM vision tower
LONGEST_SIDE = 2300  # GLM-OCR hangs on some images above this (zai-org/GLM-OCR issue 42)
THINNEST = 100  # largest ratio of the sides: GLM's image processor refuses 200, and its rounding may add to the ratio


def fit(image: Image.Image, height: int, floor: int = 1, longest: int = LONGEST_SIDE) -> Image.Image:
    """An RGB image in its own proportions, enlarged to `height` px or reduced to `longest` only where it must be.

    Where a side is then shorter than `floor` px, the image is put in the middle of a strip of its own paper.
    """
    factor = min(longest / max(image.size), max(1.0, height / image.height))
    if factor != 1.0:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    floor = max(floor, math.ceil(max(image.size) / THINNEST))
    if min(image.size) >= floor:
        return image
    red, green, blue = (int(value) for value in np.median(np.asarray(image), axis=(0, 1)))
    strip = Image.new("RGB", (max(image.width, floor), max(image.height, floor)), (red, green, blue))
    strip.paste(image, ((strip.width - image.width) // 2, (strip.height - image.height) // 2))
    return strip


def prepare(pixels: NDArray[np.uint8], longest: int = LONGEST_SIDE) -> Image.Image:
    """A crop, uint8 (H, W, 3) RGB and not empty, as it is sent to a server."""
    return fit(Image.fromarray(pixels), LEAST_HEIGHT, longest=longest)


def to_png(pixels: NDArray[np.uint8], longest: int = LONGEST_SIDE) -> bytes:
    """A prepared crop as PNG."""
    stream = io.BytesIO()
    prepare(pixels, longest).save(stream, "PNG", compress_level=3)
    return stream.getvalue()
