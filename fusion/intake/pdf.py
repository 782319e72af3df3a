"""PDF pages become RGB arrays, annotations and filled form fields included.

Knows pages and resolutions. Does not look for a text layer: what is read is what is seen. The drawing is done by a child
process with limits, see `pdfium`; a page that kills it is one broken page, and the next child goes on after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fusion.config import IntakeConfig
from fusion.errors import InputError
from fusion.intake.files import check_pixels

MOST_KILLED = 5
"""Pages that may kill the child before the rest of a file is given up: each costs up to ten seconds."""
_CHILD = Path(__file__).with_name("pdfium.py")


def count_pdf(path: Path, config: IntakeConfig) -> int:
    """Pages of a PDF; errors as for `open_pdf`."""
    with _child(path, config, config.max_pages) as stream:
        return _pages(path.name, _row(stream), config)


def open_pdf(path: Path, config: IntakeConfig, pages: range) -> Iterator[tuple[str, NDArray[np.uint8] | InputError]]:
    """Draw the pages of a PDF whose numbers are in `pages`, at `intake.pdf_dpi`, one at a time.

    Yields:
        Page id (`note.pdf#1` …) and uint8 (H, W, 3), RGB; or why this page can't be drawn.

    Raises:
        InputError: encrypted, broken, without pages, too many pages.
    """
    done, end, killed = pages.start - 1, pages.start, 0
    while done < end and killed < MOST_KILLED:
        with _child(path, config, done) as stream:
            end = min(_pages(path.name, _row(stream), config), pages.stop - 1)
            while done < end:
                subject = f"{path.name}#{done + 1}"
                done += 1
                drawn = _page(subject, stream, config)
                yield subject, drawn if drawn is not None else _killer(subject)
                if drawn is None:
                    killed += 1
                    break
    for number in range(done, end):
        yield f"{path.name}#{number + 1}", _killer(f"{path.name}#{number + 1}")


@contextmanager
def _child(path: Path, config: IntakeConfig, first: int) -> Iterator[IO[bytes]]:
    """What the child says that draws the pages from number `first`, counted from 0."""
    command = [sys.executable, "-P", str(_CHILD), str(path.resolve())]
    command += [str(config.pdf_dpi), str(config.max_megapixels), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            yield child.stdout
        finally:
            child.kill()


def _pages(name: str, row: dict[str, Any] | None, config: IntakeConfig) -> int:
    """Number of pages, from the child's first row; None: it died."""
    if row is None:
        raise _killer(name)
    if "encrypted" in row:
        raise InputError(name, "is encrypted with a password", "Save a copy without the password and read that")
    if "broken" in row:
        way_out = "Copy or download it again, or print it to a new PDF"
        raise InputError(name, f"is a broken PDF ({row['broken']})", way_out)
    count = int(row["pages"])
    if count == 0:
        raise InputError(name, "has no pages", "Export the PDF again")
    if count > config.max_pages:
        problem = f"has {count} pages, over the limit of {config.max_pages}"
        raise InputError(name, problem, "Split the PDF or raise intake.max_pages")
    return count


def _page(subject: str, stream: IO[bytes], config: IntakeConfig) -> NDArray[np.uint8] | InputError | None:
    """The next page, uint8 (H, W, 3), RGB; why it can't be drawn; None: drawing it killed the child."""
    row = _row(stream)
    if row is None:
        return None
    if "refused" in row:
        try:
            width, height = row["refused"]
            check_pixels(subject, width, height, config, "Lower intake.pdf_dpi or raise intake.max_megapixels")
        except InputError as error:
            return error
    if "width" not in row:
        way_out = "Print the PDF to a new one, or leave this page out"
        return InputError(subject, f"is a page that can't be drawn ({row.get('broken', 'its size')})", way_out)
    size = (row["height"], row["width"], 3)
    pixels = np.frombuffer(stream.read(size[0] * size[1] * 3), dtype=np.uint8)
    return pixels.reshape(size) if pixels.size == size[0] * size[1] * 3 else None


def _row(stream: IO[bytes]) -> dict[str, Any] | None:
    line = stream.readline()
    return dict(json.loads(line)) if line.endswith(b"\n") else None


def _killer(subject: str) -> InputError:
    problem = "can't be drawn within the limits of memory and time"
    return InputError(subject, problem, "Print the PDF to a new one, or leave this page out")
