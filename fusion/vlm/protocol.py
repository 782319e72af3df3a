"""What a second reader is: three small protocols, of which each reader implements those that it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fusion.ink import Ink, InkLine
from fusion.page import Failure, Reading, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Query:
    """One crop to be read, with what the OCR knows about it."""

    image: str  # name of the input image as the user gave it; recorded readings are found by it
    line: InkLine  # crop and OCR reading
    before: str = ""  # OCR reading of the line before, "" at the top of the page
    after: str = ""  # of the line after, "" at the bottom
    instructions: str = ""  # what the profile adds to the prompt

    @property
    def ocr_text(self) -> str:
        """The OCR's reading, "" when it has none."""
        return self.line.reading.text if self.line.reading is not None else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one image and one question."""

    text: str
    finish: str | None = None  # why the model says that it stopped, or None
    tokens: tuple[Token, ...] = ()  # generated tokens with log-probabilities, or empty when the model gives none
    model: str = ""  # its name as the answering side reported it


@dataclass(frozen=True, slots=True)
class Look:
    """What a reader that looks has found on one crop."""

    reading: Reading | None  # its best path, as evidence
    ink: Ink | None  # scores any string against the strokes, or None for a reader without such a model
    score: Callable[
        [Sequence[str]], list[float]
    ]  # natural log-probabilities under its decoder; raises what that raises


class Reader(Protocol):
    """A second reader: at least one of `Looks`, `Writes` and `Answers`. Failures are returned, not raised.

    Thread-safe; one failing query never disturbs another.
    """

    name: str  # as in the configuration's `vlm.engine`

    def close(self) -> None:
        """Release connections, memory and files."""
        ...


@runtime_checkable
class Looks(Protocol):
    """Scores any string: how well does it fit this crop?"""

    def look(self, query: Query) -> Look | Failure:
        """Look at one crop."""
        ...


@runtime_checkable
class Writes(Protocol):
    """Transcribes crops."""

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Read each crop with each configured prompt: one tuple per query, in order, never empty."""
        ...


@runtime_checkable
class Answers(Protocol):
    """Answers questions about an image."""

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """Answer a question about an image, uint8 (H, W, 3) RGB. An answer never becomes part of a transcript by itself.

        The text is free of thoughts, control tokens, boxes and fences; a looping, cut off or empty answer is a Failure.
        """
        ...
