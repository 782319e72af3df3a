"""What a second reader is: the one protocol that served, local and replayed models implement.

Knows the question and the answer; knows nothing of HTTP, checkpoints or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusion.ink import Ink, InkLine
from fusion.page import Failure, Reading, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Query:
    """One crop to be read, with what the OCR knows about it.

    Attributes:
        image: name of the input image as the user gave it; recorded readings are found by it.
        line: crop and OCR reading.
        before, after: OCR readings of the neighbouring lines, "" at the ends of the page.
        instructions: what the profile adds to the prompt, or "".
    """

    image: str
    line: InkLine
    before: str = ""
    after: str = ""
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one image and one question, verbatim.

    Attributes:
        text: the answer as it came.
        finish: the model's own word on why it stopped, or None when it gives none.
        tokens: generated tokens with log-probabilities, or empty when the model gives none.
        model: the model's name as the answering side reported it.
    """

    text: str
    finish: str | None = None
    tokens: tuple[Token, ...] = ()
    model: str = ""


class Reader(Protocol):
    """A second reader. One failing query never disturbs another; failures are returned, not raised.

    Attributes:
        name: as in the configuration's `vlm.engine`.
        writes: whether it can answer questions and propose texts, or only looks and weighs.
    """

    name: str
    writes: bool

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Read each crop with each configured prompt: one tuple per query, in order, never empty."""
        ...

    def score(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        """Natural log-probability of each text given crop and blind prompt; None when the reader can't say."""
        ...

    def witness(self, query: Query) -> Ink | None:
        """Its own look at the strokes of a crop of the last `read`; None for readers that only write."""
        ...

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """Free question about an image (uint8 (H, W, 3) RGB). The answer is never part of a transcript by itself."""
        ...

    def close(self) -> None:
        """Give back connections, memory and files."""
        ...
