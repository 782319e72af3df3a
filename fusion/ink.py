"""What rooms hand to each other while a page is being read: upright pages, cut-out lines, and what can be asked of them.

`Evidence` is all that readers said about a page: what a decision rests on, and what `store` keeps. What leaves the engine
stands in `page`. Knows nothing of how a room does its work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from fusion.page import Check, Failure, Finding, Polygon, Reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def image_sha256(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 over shape and pixels of an image, uint8 (H, W, 3): its identity in recipes, caches and stores."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


class Ink(Protocol):
    """What the strokes say about any string: a CTC posterior as questions. Implemented by `ctc`."""

    @property
    def quality(self) -> float:
        """Probability of the best path, geometric mean per character, in [0, 1]: how sure this look is of the line."""
        ...

    @property
    def spells(self) -> frozenset[str] | None:
        """The characters that the reader has evidence about; None: all."""
        ...

    def knows(self, text: str) -> bool:
        """Whether every character of a text is one that the reader has evidence about."""
        ...

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of the letters of each text given the ink, case and width being one."""
        ...

    def score_cased(self, texts: Sequence[str]) -> list[float]:
        """Like `score`, but case counts."""
        ...

    def cased(self, texts: Sequence[str], spelt: Sequence[str] = ()) -> list[str]:
        """Folded texts in the case and width that are most probable; as in `spelt` where there is no evidence."""
        ...

    @property
    def candidates(self) -> frozenset[str]:
        """Letters, case and width folded, that are likely somewhere on the line."""
        ...

    @property
    def agree(self) -> bool:
        """Whether its views of the line are averaged as log-probabilities: see `ctc.Views`."""
        ...

    def columns(self, letters: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """Probabilities of the blank and of A folded letters in each column: float64 (T, 1 + A) in (0, 1], one for each view."""
        ...

    def place(self, text: str) -> tuple[tuple[float, float], ...]:
        """Where each code point of `text` sits best: (left, right) px on the crop, one pair per code point."""
        ...


class Expectation(Protocol):
    """What is expected of a text by whoever has not seen its ink, or has said it in words; answers while it is being spelt."""

    def begins(self, texts: Sequence[str]) -> list[float]:
        """The score of each text, in folded letters, as far as it goes: what it adds to the search, and no bound on the whole's."""
        ...

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural log-probability of each text as a whole line, up to a constant, or less that of any string of its length."""
        ...


class Prior(Expectation, Protocol):
    """What is known about the texts to expect, before any ink is seen. Implemented in `domain`.

    Attributes:
        kind: a `formulary` is the user's own list of words, `names` the packaged one; both are blind to case and have no
            say about numbers. `sums` knows characters of whole lines as they are, digits among them.
    """

    kind: Literal["formulary", "names", "sums"]

    def __hash__(self) -> int:
        """Two lists are one if they are the same object."""
        ...

    @property
    def coverage(self) -> float:
        """Probability, before any ink is seen, that a word is one of the names."""
        ...

    def concerns(self, text: str) -> bool:
        """Whether it has anything to say about a line that the OCR reads like this."""
        ...

    def holds(self, word: str) -> bool:
        """Whether a word, or a whole text, is one of the names."""
        ...

    def follows(self, text: str) -> frozenset[str]:
        """Letters, folded, with which a name goes on that a text ends in the middle of, or may begin after it."""
        ...

    def rivals(self, name: str) -> list[str]:
        """Other names so like this one that one may be taken for the other, nearest first."""
        ...


class Language(Expectation, Protocol):
    """How probable a line is in a language. Implemented in `domain`."""

    @property
    def identity(self) -> str:
        """Name and version of the model: what a decision depends on."""
        ...

    def __hash__(self) -> int:
        """Two models are one if they are the same object."""
        ...

    def concerns(self, text: str) -> bool:
        """Whether a line that the OCR reads like this may be in that language."""
        ...


@dataclass(frozen=True, slots=True)
class PageImage:
    """An upright page ready to be read.

    Attributes:
        id: input name and page number.
        sha256: of the input file's bytes.
        pixels: uint8 (H, W, 3), RGB, rectified and level.
        photo: uint8 (height, width, 3), RGB, the photograph as displayed; `pixels` itself where nothing was mended.
        transform: float64 (3, 3) homography from px of `pixels` to px of the photograph.
        angle: degrees counter-clockwise by which the photograph was turned to be level.
        findings: quality warnings.
    """

    id: str
    sha256: str
    pixels: NDArray[np.uint8]
    photo: NDArray[np.uint8]
    transform: NDArray[np.float64]
    angle: float = 0.0
    findings: tuple[Finding, ...] = ()

    @property
    def width(self) -> int:
        """Px of the photograph as displayed."""
        return int(self.photo.shape[1])

    @property
    def height(self) -> int:
        """Px of the photograph as displayed."""
        return int(self.photo.shape[0])


@dataclass(frozen=True, slots=True)
class InkLine:
    """A detected line as the OCR room leaves it.

    Attributes:
        id: unique on the page.
        polygon: four corners in px of `PageImage.pixels`, clockwise from the start of the line.
        crop: uint8 (h, w, 3), RGB, the line cut out and level; what every other reader sees too.
        reading: the OCR's reading, or None when it failed.
        ink: answers about any string, or None when the OCR failed.
        failures: why there is no reading.
        hand: what a recogniser of Latin hands reads, or None where the line is in another script.
        hand_ink: its answers about any string.
        region: name of the part of the page that it belongs to, unique on the page.
        printed: probability that it is print and not handwriting, or None when unknown.
        struck: stretches that are crossed out, (left, right) px on the crop.
        other_script: stretches in a script that the OCR does not read, likewise.
    """

    id: str
    polygon: Polygon
    crop: NDArray[np.uint8]
    reading: Reading | None
    ink: Ink | None
    failures: tuple[Failure, ...] = ()
    hand: Reading | None = None
    hand_ink: Ink | None = None
    region: str = ""
    printed: float | None = None
    struck: tuple[tuple[float, float], ...] = ()
    other_script: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """One line with everything that readers said about it.

    Attributes:
        line: crop and the OCR's reading.
        asked: whether a second reader was asked.
        answers: its readings and failures.
        look: its own look at the strokes, or None.
        scores: natural log-probabilities of texts under its decoder; texts that it was not asked about are missing.
    """

    line: InkLine
    asked: bool = False
    answers: tuple[Reading | Failure, ...] = ()
    look: Ink | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The second reader's readings."""
        return tuple(answer for answer in self.answers if isinstance(answer, Reading))


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a line may say, and how much every expert makes of each possibility; no fitted weight is in it.

    Attributes:
        texts: hypotheses, the OCR's own reading first.
        table: float64 (N, R), see `fuse.model.evidence`.
        silent: which of them the OCR has no evidence against, since it can't read one of their characters.
        quality: of the OCR's look, of the second reader's, of its decoder, in [0, 1]; 0 where there is none.
    """

    texts: tuple[str, ...]
    table: NDArray[np.float64]
    silent: tuple[bool, ...]
    quality: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen on a page, nothing of it decided.

    Attributes:
        id: of the page.
        sha256: of the input file's bytes.
        width, height: px of the photograph as displayed.
        angle: degrees counter-clockwise by which the photograph was turned to be level.
        transform: float64 (3, 3), see `PageImage.transform`.
        findings: quality warnings.
        checks: what the profile remarks about the image.
        lines: in reading order.
        failures: stages that broke.
        identities: what read it: stage → name and version of model and settings.
    """

    id: str
    sha256: str
    width: int
    height: int
    angle: float
    transform: NDArray[np.float64]
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    lines: tuple[Seen, ...] = ()
    failures: tuple[Failure, ...] = ()
    identities: Mapping[str, str] = field(default_factory=dict)
