"""A transcription as a file: in every format of `output`, in Azure's shape, and as training data."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion import formats
from fusion.output.formats import Sheet as Shown
from fusion.output.formats import content, stems
from fusion.output.review import ReviewList, training_rows
from fusion.page import Page
from fusion.service.shapes import azure

Format = StrEnum("Format", [*formats.Format, "azure", "training"])  # type: ignore[misc]
"""What a transcription can be had as."""
MEDIA = sorted({*(one.media for one in formats.Format), "application/json", "application/zip"})
"""What media types that may be."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page as it stands, as it was read, and its picture (JPEG)."""

    page: Page
    as_read: Page
    picture: bytes

    @property
    def photo(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB."""
        return decoded(self.picture)


def decoded(picture: bytes) -> NDArray[np.uint8]:
    """A JPEG of the archive as uint8 (H, W, 3), RGB."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(image[:, :, ::-1], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Export:
    """A file: its name, media type and content."""

    name: str
    media: str
    content: bytes


def export(sheets: Sequence[Sheet], upload: str, format_: Format) -> Export:
    """A transcription as a file that is named by its upload, as the command line names files.

    Where a format holds one page each and there are several, it is an archive of files. `training` is an archive with a
    crop of each line that people decided, and their texts in training.jsonl, from which `python -m fusion.train adapt`
    learns.
    """
    (stem,) = stems([upload])
    if format_ == "azure":
        shape = azure([sheet.page for sheet in sheets])
        return Export(f"{stem}.azure.json", "application/json", json.dumps(shape, ensure_ascii=False).encode())
    if format_ == "training":
        return Export(f"{stem}.training.zip", "application/zip", _packed(_training(sheets)))
    written = next(one for one in formats.Format if one.value == format_.value)
    shown = [Shown(one.page, one.photo, one.picture) for one in sheets]
    if written.many or len(shown) == 1:
        return Export(stem + written.ending, written.media, content(shown, written))
    files = {f"{stem}.p{n}{written.ending}": content([one], written) for n, one in enumerate(shown, 1)}
    return Export(f"{stem}.{format_}.zip", "application/zip", _packed(files))


def _packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content_ in files.items():
            packed.writestr(name, content_)
    return stream.getvalue()


def _training(sheets: Sequence[Sheet]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        listed = ReviewList(folder)
        for sheet in sheets:
            listed.add(sheet.as_read, sheet.photo)
        listed.close()
        rows = [json.loads(row) for row in training_rows(folder, [sheet.page for sheet in sheets]).splitlines()]
        files = {str(Path(row["image"]).relative_to(folder)): Path(row["image"]).read_bytes() for row in rows}
        texts = [{**row, "image": image} for row, image in zip(rows, files, strict=True)]
    index = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts)
    return {"training.jsonl": index.encode(), **files}
