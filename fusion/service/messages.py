"""What requests and answers look like, in the words of the OpenAPI document."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import UploadFile

from fusion.errors import InputError
from fusion.service.archive import Transcription

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Id of a transcription.")]
Number = Annotated[int, Path(ge=1, le=10_000, description="Number of the page, from 1.")]
Word = Annotated[str, StringConstraints(max_length=200)]
Question = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class Body(BaseModel):
    """Base of every request: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Submission(Body):
    """An image or a PDF, base64."""

    image: str
    name: Word = "image"
    profile: Word | None = None


class Asked(Body):
    """A question about a page of the archive."""

    id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    question: Question
    page: Annotated[int, Field(ge=1, le=10_000)] = 1


class Inference(BaseModel):
    """An image, base64, and a question about it."""

    image: str
    question: Question


class Corrected(Body):
    """What a person decided about one stretch: code points `start` to `end` of a line, where they saw `old`."""

    line: Word
    start: Annotated[int, Field(ge=0, le=1_000_000)]
    end: Annotated[int, Field(ge=0, le=1_000_000)]
    old: Annotated[str, StringConstraints(max_length=10_000)]
    text: Annotated[str, StringConstraints(max_length=10_000)]


class Who(Body):
    """Who decides."""

    by: Annotated[
        str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$", strip_whitespace=True)
    ]


class Corrections(Who):
    """What one person decided at once: all of it is kept, or nothing."""

    corrections: Annotated[list[Corrected], Field(min_length=1, max_length=1000)]


class Undone(Who):
    """What is taken back: the last decision that the person saw in force."""

    decision: Annotated[int, Field(ge=0, le=1_000_000_000)]


class Token(Body):
    """The token, to be kept in a cookie."""

    token: Word


class Problem(BaseModel):
    """Every error: what is wrong, with what, and the way out."""

    detail: str


@dataclass(frozen=True)
class Whole(Transcription):
    """A transcription with its text, and its pages as page records (`fusion schema`)."""

    text: str
    pages: list[dict[str, Any]]


class Accepted(BaseModel):
    """Uploads that are still read, to be asked for by their ids."""

    transcriptions: list[Transcription]


class InferenceAnswer(BaseModel):
    """What the article's script prints."""

    answer: str


# --- uploads ----------------------------------------------------------------------------------------------------------

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"file": _FILES, "profile": {"type": "string"}}}
UPLOADS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": Submission.model_json_schema()},
        },
    }
}
"""Of the OpenAPI document: FastAPI can't say that a body may come in two ways."""


async def _submitted(request: Request) -> tuple[list[tuple[str, bytes]], str | None]:
    """Uploads and profile of a request: files of a form, or base64 in JSON."""
    if request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        async with request.form(max_files=100, max_fields=10) as form:
            sent = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            uploads = [(_name(part.filename), await part.read()) for part in sent]
            profile = form.get("profile")
        given = profile if isinstance(profile, str) and profile else None
    else:
        try:
            body = Submission.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from error
        uploads, given = [(_name(body.name), from_base64(body.image))], body.profile
    if not uploads or not all(content for _, content in uploads):
        raise InputError("request", "holds no file, or an empty one", "Send a form with files, or JSON with `image`.")
    return uploads, given


def _name(name: str | None) -> str:
    """What a sender calls a file: a label, never a path."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", last)[-200:] or "image"


def from_base64(image: str) -> bytes:
    """Base64, with or without the head of a data URI."""
    head, comma, rest = image.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("image", "is not base64", "Encode the bytes of an image file.") from error


Submitted = Annotated[tuple[list[tuple[str, bytes]], str | None], Depends(_submitted)]
