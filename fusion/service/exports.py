"""A transcription as a file: in every format of `output`, in Azure's shape, and as training data."""

from __future__ import annotations

import io
import json
import mimetypes
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.output.formats import ENDINGS, write_page
from fusion.output.review import ReviewList, training_rows
from fusion.page import Page
from fusion.service.shapes import azure

Format = StrEnum("Format", {name: name for name in (*ENDINGS, "azure", "training")})  # type: ignore[misc]
"""What a transcription can be had as."""


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


def export(sheets: Sequence[Sheet], name: str) -> tuple[bytes, str, str]:
    """Content, media type and file name: one file for one page, an archive of files for several.

    `training` is an archive with a crop of each line that people decided, and their texts in training.jsonl, from which
    `python -m fusion.train adapt` learns.
    """
    if name == "azure":
        content = json.dumps(azure([sheet.page for sheet in sheets]), ensure_ascii=False).encode()
        return content, "application/json", "azure.json"
    with tempfile.TemporaryDirectory() as folder:
        files = (_training if name == "training" else _files)(sheets, name, Path(folder).resolve())
        if len(files) == 1 and name != "training":
            media = mimetypes.guess_type(files[0].name)[0] or "application/octet-stream"
            return files[0].read_bytes(), media, files[0].name
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(Path(folder).resolve()))
    return stream.getvalue(), "application/zip", f"{name}.zip"


def _files(sheets: Sequence[Sheet], name: str, folder: Path) -> list[Path]:
    return [folder / write_page(one.page, one.photo, folder, f"page{n}", name) for n, one in enumerate(sheets, 1)]


def _training(sheets: Sequence[Sheet], name: str, folder: Path) -> list[Path]:
    listed = ReviewList(folder)
    for sheet in sheets:
        listed.add(sheet.as_read, sheet.photo)
    listed.close()
    rows = [json.loads(row) for row in training_rows(folder, [sheet.page for sheet in sheets]).splitlines()]
    images = [Path(row["image"]) for row in rows]
    texts = [{**row, "image": str(image.relative_to(folder))} for row, image in zip(rows, images, strict=True)]
    index = folder / "training.jsonl"
    index.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")
    return [index, *images]
