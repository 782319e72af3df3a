"""Pages that were read before, with the photographs that they were read from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusion.config import Config
from fusion.errors import InputError
from fusion.intake import open_pages
from fusion.intake.files import hash_file
from fusion.output.formats import Sheet
from fusion.page import Page


def input_of(page: Page) -> tuple[str, str]:
    """Name and SHA-256 of the input that a page comes from: another picture of the same name is another input."""
    return re.sub(r"#\d+$", "", page.id), page.image_sha256


def with_photographs(pages: Sequence[Page], images: Path | None, config: Config) -> Iterator[Sheet]:
    """Stored pages of one input with their photographs, in the order of the input.

    Args:
        pages: of one input, at least one.
        images: the photograph, or the folder that holds it; None: it is where it was when the pages were read.
        config: says how files are opened.

    Raises:
        InputError: the input is not there, or is another one than what was read.
    """
    name, sha256 = input_of(pages[0])
    file = Path(name) if images is None else images if images.is_file() else images / Path(name).name
    way = "Say where it is: --images."
    if not file.is_file():
        raise InputError(name, f"is shown by this format, and {file} is not there", way)
    if hash_file(file) != sha256:
        raise InputError(name, f"is shown by this format, and {file} is another picture", way)
    wanted = {page.id: page for page in pages}
    as_displayed = config.intake.model_copy(update={"deskew": False, "rectify": False})
    for image in open_pages(file, as_displayed, name=name):
        if (page := wanted.pop(image.id, None)) is not None:
            yield Sheet(page, image.photo, file)
        if not wanted:  # pages behind these may be broken
            return
    if wanted:
        raise InputError(next(iter(wanted)), f"is no page of {file}", "Say where its photograph is: --images.")
