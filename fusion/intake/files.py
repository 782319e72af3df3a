"""Which inputs there are, and whether a file may be opened at all.

Knows paths, sizes and the first bytes of files. Does not decode anything: the content decides in `raster` and `pdf`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusion.config import IntakeConfig
from fusion.errors import InputError

SUFFIXES = (".bmp", ".heic", ".heif", ".jpeg", ".jpg", ".pdf", ".png", ".tif", ".tiff", ".webp")
"""Suffixes looked for in folders, lower case. A file that is named outright may have any suffix."""

FORMATS = "JPEG, PNG, WebP, BMP, TIFF or PDF"
_MB = 1_000_000
_CHUNK = 1 << 20


def list_inputs(paths: Sequence[str | Path]) -> list[Path]:
    """Expand folders into the files to read.

    Args:
        paths: files, kept whatever their suffix, and folders, searched recursively for `SUFFIXES` in any case.

    Returns:
        Files in the order given, each folder's files sorted by path, every file once. Hidden files in folders (such
        as the `._note.jpg` that macOS leaves behind) are skipped. A folder inside that may not be looked into is
        listed itself: reading it says so.

    Raises:
        InputError: a path does not exist, or a folder holds nothing that can be read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(_inside(path))
            if not inside:
                raise InputError(
                    path, "holds no file that can be read", f"Supported suffixes: {', '.join(SUFFIXES)}; or name files"
                )
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(path, "does not exist", "Check the spelling and the working directory.")
    return list(found)


def _inside(folder: Path) -> Iterator[Path]:
    """Files of a kind that can be read, and folders that can't be looked into: whoever opens those says why."""
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path
    yield from (Path(error.filename) for error in closed)


def check_file(path: Path, config: IntakeConfig) -> None:
    """Refuse what can't or must not be opened, before anything is read.

    Raises:
        InputError: missing, a folder, not a regular file, not readable, empty, or over `intake.max_file_mb`.
    """
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise InputError(path.name, "is a folder that can't be looked into", "Check that you may read it")
        raise InputError(path.name, "is a folder", "Name the files in it, or let list_inputs expand it")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if not path.is_file():
        raise InputError(path.name, "is not a regular file", f"Save it as {FORMATS}")
    if size == 0:
        raise InputError(path.name, "is empty (0 bytes)", "Copy or download the file again")
    if size > config.max_file_mb * _MB:
        problem = f"is {size / _MB:.3g} MB, over the limit of {config.max_file_mb:g} MB"
        raise InputError(path.name, problem, "Make the file smaller or raise intake.max_file_mb")


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that the operating system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return InputError(path.name, "does not exist", "Check the spelling and the working directory.")
    return InputError(path.name, f"can't be read ({error.strerror or error})", "Check that you may read the file")


def hash_file(path: Path) -> str:
    """SHA-256 of the file's bytes in hexadecimal, read piece by piece.

    Raises:
        InputError: the operating system does not hand out the file.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def first_bytes(path: Path) -> bytes:
    """The first 1024 bytes, which tell the type; PDF readers accept the `%PDF-` mark anywhere in them.

    Raises:
        InputError: the operating system does not hand out the file.
    """
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise unreadable(path, error) from error


def check_pixels(subject: str, width: float, height: float, config: IntakeConfig, way_out: str) -> None:
    """Refuse a page with too many pixels, from its header alone.

    Raises:
        InputError: over `intake.max_megapixels`.
    """
    megapixels = width * height / 1e6
    if megapixels > config.max_megapixels:
        problem = f"has {megapixels:.4g} megapixels ({width:.0f} x {height:.0f}), over {config.max_megapixels:g}"
        raise InputError(subject, problem, way_out)
