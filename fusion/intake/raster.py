"""Image files become RGB arrays, via Pillow: type by content, EXIF orientation applied, every mode flattened.

Knows pixel formats. Does not know what is on the image, and trusts no header: sizes are checked before decoding.
"""

from __future__ import annotations

import mmap
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageStat, UnidentifiedImageError

from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.intake.files import FORMATS, check_pixels

_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112

MOST_SCANS = 100
"""Scans of a JPEG: those of cameras and programs have one, or about ten when they are progressive."""
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # a marker with a length after it, or the end (D9)

# What Pillow's decoders are known to raise on damaged bytes; anything else is a bug of ours and must surface.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)

# EXIF orientation → what must be done to show the image as its photographer saw it (EXIF 2.32, tag 274).
_LIGHT_INK = 160  # mean grey level of what is drawn on a transparent page
_MOSTLY_CLEAR = 128  # mean opacity under which that is ink and no picture
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `intake.max_megapixels` is the limit here; Pillow's own warning at 89 megapixels would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def count_frames(path: Path, config: IntakeConfig) -> int:
    """Pages of an image file; errors as for `open_images`."""
    with _open(path) as image:
        return _count_pages(path.name, image, config)


def open_images(path: Path, config: IntakeConfig, pages: range) -> Iterator[tuple[str, NDArray[np.uint8] | InputError]]:
    """Decode an image file, one page at a time, of those whose numbers are in `pages`.

    Only TIFF has pages; of an animation (WebP, GIF) or a multi-picture JPEG the first frame is taken.

    Yields:
        Page id (`note.jpg`, or `fax.tif#2` when there are several pages) and uint8 (H, W, 3), RGB, as displayed; or why
        this page can't be read: truncated or damaged, too many pixels.

    Raises:
        InputError: not an image, damaged, too many pages.
    """
    with _open(path) as image:
        if image.format in ("JPEG", "MPO"):
            _check_scans(path)
        count = _count_pages(path.name, image, config)
        for index in (number - 1 for number in pages if number <= count):
            subject = path.name if count == 1 else f"{path.name}#{index + 1}"
            try:
                yield subject, _decode(subject, image, index, config)
            except InputError as error:
                yield subject, error


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=(*_PILLOW_FORMATS, *_heif()))
    except UnidentifiedImageError as error:
        raise InputError(path.name, "is not an image that can be read", _way_out_for(path)) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path.name, error) from error
    except _DAMAGE as error:
        raise _damaged(path.name, error) from error


@cache
def _heif() -> tuple[str, ...]:
    """HEIC, what phones send, where its decoder is installed (extra `heic`)."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _check_scans(path: Path) -> None:
    """Refuse a JPEG that paints its picture over and over: some bytes a time, each as long to decode as the whole."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place, scans = 2, 0
        while (found := _SEGMENT.search(data, place)) and found[1] != b"\xd9" and scans <= MOST_SCANS:
            scans += found[1] == b"\xda"
            place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    if scans > MOST_SCANS:
        problem = f"is a JPEG of more than {MOST_SCANS} scans"
        raise InputError(path.name, problem, "Open it in an image viewer and save it anew")


def _way_out_for(path: Path) -> str:
    """What to do with a file that is no image; HEIC is what phones send, so it gets its own answer."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "It looks like HEIC, AVIF or a film: pip install 'fusion[heic]' for HEIC, or export it as JPEG"
    return f"Save it as {FORMATS}"


def _too_large(subject: str, error: Image.DecompressionBombError) -> InputError:
    """Pillow refuses before it tells the size; its message holds the number of px and its limit."""
    found, limit = (int(number) / 1e6 for number in re.findall(r"\d+", str(error))[:2])
    problem = f"has {found:.0f} megapixels, over the {limit:.0f} that Pillow opens"
    return InputError(subject, problem, "Scale the image down or cut it up")


def _damaged(subject: str, error: BaseException) -> InputError:
    return InputError(
        subject,
        f"is truncated or damaged ({type(error).__name__}: {error})",
        "Copy or download it again, or open it in an image viewer and save it anew",
    )


def _count_pages(name: str, image: Image.Image, config: IntakeConfig) -> int:
    """Number of pages to read. Looks at most one page past the limit, so an endless chain of headers costs nothing."""
    if image.format != "TIFF":
        return 1
    count = 0
    try:
        while count <= config.max_pages:
            image.seek(count)
            count += 1
    except EOFError:
        return count
    except _DAMAGE:
        # The page is there but broken: it is named when it is reached, after the good ones before it.
        return count + 1
    problem = f"has more than {config.max_pages} pages"
    raise InputError(name, problem, "Split the file or raise intake.max_pages")


def _decode(subject: str, image: Image.Image, index: int, config: IntakeConfig) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of one page as displayed."""
    way_out = "Scale the image down or raise intake.max_megapixels"
    try:
        if index or image.format == "TIFF":
            image.seek(index)
        check_pixels(subject, image.width, image.height, config, way_out)
        image.load()
        turn = _TURNS.get(_orientation(image))
        return to_rgb(image if turn is None else image.transpose(turn))
    except Image.DecompressionBombError as error:
        raise _too_large(subject, error) from error
    except _DAMAGE as error:
        raise _damaged(subject, error) from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 when there is none. Damaged EXIF is no reason to refuse a good picture."""
    if image.format == "TIFF":
        return 1  # Pillow has turned it while loading
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Flatten any Pillow mode.

    Transparency is laid on white, and where the ink itself is light, as in a note app's dark mode, on black. 16-bit grey
    is scaled (65535 → 255), not clipped, unless all its values fit 8 bits. 32-bit and float grey, which have no agreed
    white, are stretched from their least to their greatest value unless they fit 16 bits.

    Returns:
        uint8 (H, W, 3), RGB, contiguous.
    """
    if image.mode.startswith("I;16"):
        # `convert` clips I;16; numpy knows every byte order that Pillow stores.
        levels = np.asarray(image).astype(np.float32)
        return _grey_to_rgb(levels if levels.max() <= 255 else levels / 257.0)
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_stretch(np.asarray(image).astype(np.float64)))
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = layer.getchannel("A")
        opaque = ImageStat.Stat(alpha).sum[0]
        ink = 255 * ImageStat.Stat(ImageChops.multiply(layer.convert("L"), alpha)).sum[0]
        light = ink > _LIGHT_INK * opaque and opaque < _MOSTLY_CLEAR * alpha.width * alpha.height
        image = Image.new("RGB", layer.size, "black" if light else "white")
        image.paste(layer, mask=alpha)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _stretch(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grey of unknown range → [0, 255]."""
    finite = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and 255 < high <= 65535:
        return finite / 257.0
    return (finite - low) * (255.0 / (high - low)) if high > low else np.full_like(finite, 255.0)


def _grey_to_rgb(grey: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.uint8]:
    levels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)
