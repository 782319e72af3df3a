"""The data model: what a page, a line, a reading and a decision are. Standard library only.

Everything that leaves the engine is one of these frozen dataclasses; the JSON of a result and its schema are derived
from them and never mirrored by hand. Knows nothing of OCR, models, files or configuration.

Conventions. Text is Unicode NFC. Geometry is in px of the photograph as displayed (EXIF orientation applied), origin
top-left, x right, y down, unless a field says "px on the crop". Ranges are half-open. `probability` comes out of a
softmax, `confidence` is calibrated or None when unknown, `score` is any other figure of merit (log-probability).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

SCHEMA = "fusion.page/1"
UNASKED = ("not_asked", "not_recorded", "not_needed", "not_suited")
"""Kinds of failure that say that nobody was asked, not that somebody failed."""
GAP = "□"
"""One character that nobody can read, as Chinese epigraphy writes it (TEI `<gap extent="1" unit="character"/>`)."""

Polygon = tuple[tuple[float, float], ...]
Source = Literal["agreed", "ocr", "vlm", "lexicon", "supplied", "human", "gap"]
Stage = Literal["intake", "ocr", "vlm", "fuse", "complete", "domain"]
Mark = Literal["", "deleted", "added"]
Value = dict[str, int | float | str | bool]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def lowest(confidences: Iterable[float | None]) -> float | None:
    """Confidence of a whole: that of its least sure part (a mean hides the one bad character); None when any is unknown."""
    values = list(confidences)
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


IDEOGRAPHS = "\u3400-\u9fff\u3040-\u30ff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of Han and kana, for a regular expression."""
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_STRETCH = re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+")


def is_ideograph(character: str) -> bool:
    """Whether a character is a word or syllable by itself, written without spaces: Han and kana."""
    return _IDEOGRAPH.match(character) is not None


def stretches(text: str) -> list[tuple[int, int]]:
    """The units of decision and review: words, stretches without white space; of Chinese, single characters.

    >>> [("每次2片 po"[a:b]) for a, b in stretches("每次2片 po")]
    ['每', '次', '2', '片', 'po']
    """
    return [match.span() for match in _STRETCH.finditer(text)]


def strip(polygon: Polygon, left: float, right: float) -> Polygon:
    """What of a quadrilateral lies between two shares of its width, from 0 at its start to 1 at its end.

    >>> strip(((0, 0), (10, 0), (10, 4), (0, 4)), 0.2, 0.5)
    ((2.0, 0.0), (5.0, 0.0), (5.0, 4.0), (2.0, 4.0))
    """
    start, end, end_below, start_below = polygon

    def between(a: tuple[float, float], b: tuple[float, float], share: float) -> tuple[float, float]:
        return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share

    upper = between(start, end, left), between(start, end, right)
    return (*upper, between(start_below, end_below, right), between(start_below, end_below, left))


def joined(first: Polygon, last: Polygon) -> Polygon:
    """The stretch of a line from the start of one quadrilateral on it to the end of another."""
    return first[0], last[1], last[2], first[3]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that may stand at a place. `text` may be empty: "nothing stands here".

    Attributes:
        text: NFC.
        probability: in [0, 1].
        ink: natural log-probability given the strokes alone, for names that are easily confused; else None.
    """

    text: str
    probability: float
    ink: float | None = None

    def __post_init__(self) -> None:
        _require(0.0 <= self.probability <= 1.0, f"probability {self.probability} is not in [0, 1]")


@dataclass(frozen=True, slots=True)
class Position:
    """One place on the line where ink was seen.

    Attributes:
        left, right: horizontal extent, px on the crop, half-open.
        candidates: best first; probabilities of the peak column, so they need not sum to 1.
        optional: True where the best path reads nothing but a character hides between two peaks.
    """

    left: float
    right: float
    candidates: tuple[Candidate, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        _require(self.left <= self.right, f"position ends at {self.right} before it starts at {self.left}")
        _require(bool(self.candidates), "a position needs at least one candidate")
        chances = [candidate.probability for candidate in self.candidates]
        _require(chances == sorted(chances, reverse=True), "candidates of a position stand best first")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One whole-line string and its score, the natural logarithm of a probability (≤ 0)."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token of a language model, verbatim, with its natural log-probability."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a reading was made, enough to make it again."""

    engine: str
    version: str
    model: str
    image_sha256: str
    prompt_id: str | None = None
    temperature: float | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What ONE reader saw on ONE line. Immutable and verbatim: decisions point at readings, they never edit them.

    Attributes:
        source: which kind of reader: the OCR; `hand`, its recogniser of Latin hands; a
            vision-language model.
        text: the reading as plain text, NFC.
        recipe: where it came from.
        positions: places with candidates, left to right (OCR only).
        nbest: whole-line alternatives, best first (OCR only).
        score: natural log-probability of `text` under this reader, or None when the reader gives none.
        finish: the reader's own word on why it stopped (`stop`, `length` …), or None.
        tokens: generated tokens with log-probabilities, or empty when the reader gives none.
        raw: the answer before any cleaning.
    """

    source: Literal["ocr", "hand", "vlm"]
    text: str
    recipe: Recipe
    positions: tuple[Position, ...] = ()
    nbest: tuple[Hypothesis, ...] = ()
    score: float | None = None
    finish: str | None = None
    tokens: tuple[Token, ...] = ()
    raw: str = ""

    def __post_init__(self) -> None:
        _require(unicodedata.is_normalized("NFC", self.text), "reading text is not NFC")


@dataclass(frozen=True, slots=True)
class Span:
    """A decision about a stretch of the line.

    Attributes:
        text: what stands in the transcript here, NFC. For a gap, one `GAP` per character that seems to be missing.
        source: who it comes from. `supplied` was not read but completed; `gap` was read by nobody.
        confidence: calibrated probability that `text` is what is on the paper, or None when unknown.
        because: name of the rule that decided.
        alternatives: other texts for the same stretch, best first, with their marginal probabilities.
        polygon: where it sits on the photograph, clockwise from its start, or None when it can't be placed.
        cuts: where its characters meet in the best alignment of its text with the ink, as shares of the polygon's width,
            ascending: one fewer than code points, or none when unknown.
        extent: estimated number of characters behind a gap or a supplied text, else 0.
        mark: `deleted` when the writer struck it out, `added` when it was put in between (TEI `<del>`, `<add>`).
        by: of a `human` span, who decided and when; else "".
    """

    text: str
    source: Source
    confidence: float | None
    because: str
    alternatives: tuple[Candidate, ...] = ()
    polygon: Polygon | None = None
    extent: int = 0
    mark: Mark = ""
    by: str = ""
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(unicodedata.is_normalized("NFC", self.text), "span text is not NFC")
        _require(
            self.confidence is None or 0.0 <= self.confidence <= 1.0, f"confidence {self.confidence} is not in [0, 1]"
        )
        _require(bool(self.because), "a span names the rule that decided it")
        _require((self.extent > 0) == (self.source in ("gap", "supplied")), "gaps and supplied spans have an extent")
        _require(self.source != "gap" or self.text == GAP * self.extent, "a gap shows one mark per character")
        _require(len(self.cuts) in (0, len(self.text) - 1), "a span is cut once between two characters")
        edges = [0.0, *self.cuts, 1.0]
        _require(edges == sorted(edges), "cuts of a span ascend from 0 to 1")

    def place(self, start: int, end: int) -> Polygon | None:
        """Where its code points `start` to `end`, half-open, sit on the photograph; None when unknown."""
        if (start, end) == (0, len(self.text)):
            return self.polygon
        if self.polygon is None or len(self.polygon) != 4 or not self.cuts:
            return None
        edges = (0.0, *self.cuts, 1.0)
        return strip(self.polygon, edges[start], edges[end])

    def part(self, start: int, end: int) -> Span:
        """A piece of it: its confidence stays; its alternatives were the whole span's."""
        edges = (0.0, *self.cuts, 1.0)
        inner = edges[start + 1 : end] if self.cuts else ()
        width = edges[end] - edges[start] if self.cuts else 0.0
        cuts = tuple((edge - edges[start]) / width for edge in inner) if width else ()
        extent = end - start if self.extent else 0
        place = self.place(start, end)
        return replace(self, text=self.text[start:end], alternatives=(), polygon=place, cuts=cuts, extent=extent)

    @property
    def diplomatic(self) -> str:
        """What is on the paper and nothing else: supplied text becomes a gap again."""
        return GAP * self.extent if self.source == "supplied" else self.text


@dataclass(frozen=True, slots=True)
class Failure:
    """A stage that did not deliver. It is data: never None, never an empty string in its place.

    Attributes:
        stage: where.
        kind: machine-readable reason, e.g. `not_asked`, `timeout`, `repeats`.
        message: for people; holds no text of the page.
    """

    stage: Stage
    kind: str
    message: str


FindingKind = Literal[
    "small",
    "blur",
    "glare",
    "low_contrast",
    "skew",
    "perspective",
    "turned",
    "stamp",
    "small_writing",
    "joined",
    "not_writing",
    "uncovered",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """A remark about the photograph, with the measured value and the limit it crossed.

    `polygon`: the place on the photograph, where it is about one; value and limit are 0 where nothing is measured.
    """

    kind: FindingKind
    value: float
    limit: float
    message: str
    polygon: Polygon | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of writing: where it is, what every reader saw, what was decided.

    Attributes:
        id: unique on the page, e.g. `l003`.
        polygon: corners on the photograph, clockwise from the start of the line.
        order: place in the reading order, from 0.
        readings: all readings, verbatim, OCR first.
        spans: the decisions; their texts in order are the line's text.
        failures: what did not deliver for this line.
        region: name of the part of the page that it belongs to: lines below each other, a column, a row of a table.
        printed: probability that it is print and not handwriting, or None when unknown.
        crop_width: width of the crop that was read, to which positions of readings refer, px; 0 when unknown.
    """

    id: str
    polygon: Polygon
    order: int
    readings: tuple[Reading, ...] = ()
    spans: tuple[Span, ...] = ()
    failures: tuple[Failure, ...] = ()
    region: str = ""
    printed: float | None = None
    crop_width: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.spans) or bool(self.failures), f"line {self.id} has neither spans nor a failure")
        _require(unicodedata.is_normalized("NFC", self.text), f"text of line {self.id} is not NFC")

    @property
    def text(self) -> str:
        """The transcript of the line, supplied text included."""
        return "".join(span.text for span in self.spans)

    @property
    def diplomatic(self) -> str:
        """The transcript without anything supplied; what nobody could read shows as `□`."""
        return "".join(span.diplomatic for span in self.spans)

    @property
    def marked(self) -> str:
        """The transcript with supplied text in square brackets: 明天气温会降到[5]度."""
        return "".join(f"[{span.text}]" if span.source == "supplied" else span.text for span in self.spans)

    @property
    def confidence(self) -> float | None:
        """Lowest confidence of its spans; None when any is unknown."""
        return lowest(span.confidence for span in self.spans if span.source != "gap")

    @property
    def troubles(self) -> tuple[Failure, ...]:
        """Failures of somebody who was asked."""
        return tuple(failure for failure in self.failures if failure.kind not in UNASKED)


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a line's text: code points `start` to `end` of `Line.text`, half-open.

    It is empty only as 0:0, the place of what stands on a line without text.
    """

    line: str
    start: int
    end: int

    def __post_init__(self) -> None:
        _require(
            0 <= self.start < self.end or self.start == self.end == 0, f"place {self.start}:{self.end} has no extent"
        )

    def overlaps(self, other: Place) -> bool:
        """Whether two stretches share a code point."""
        return self.line == other.line and self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Field:
    """What a profile understood of a stretch of text. The transcript is not changed by it.

    Attributes:
        name: what it is, e.g. `drug`, `strength`, `answer`.
        text: the transcript at `places`, joined by single spaces, verbatim.
        places: where it stands.
        confidence: lowest confidence of the spans it stands on; None when any of them is unknown.
        value: its normalised form, e.g. `{"value": 500.0, "unit": "mg"}`; empty where it could not be parsed.
    """

    name: str
    text: str
    places: tuple[Place, ...]
    confidence: float | None
    value: Value = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.places), f"field {self.name} points at no text")


@dataclass(frozen=True, slots=True)
class Record:
    """Fields that belong together: a medication, a question with its answer, a sum."""

    kind: str
    fields: tuple[Field, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its fields stand."""
        return tuple(place for field in self.fields for place in field.places)

    def get(self, name: str) -> Field | None:
        """The first field of a name."""
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True, slots=True)
class Check:
    """A remark beside the text, never in it.

    Attributes:
        kind: machine-readable, e.g. `trailing_zero`, `sum_wrong`.
        message: for people; says what and why, and quotes the transcript where that helps.
        places: what it is about; empty when it is about the page.
        review: whether a person must look before the text is used.
        polygon: where it sits on the photograph when it is about what was seen there (a teacher's tick, a box), else None.
    """

    kind: str
    message: str
    places: tuple[Place, ...] = ()
    review: bool = True
    polygon: Polygon | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The result for one page image.

    Attributes:
        id: input name and page number, e.g. `note.pdf#2`.
        image_sha256: SHA-256 of the input file's bytes.
        width, height: px of the photograph as displayed.
        angle: degrees counter-clockwise by which the writing had to be turned to be level.
        lines: in reading order.
        findings: warnings about the photograph.
        failures: what went wrong with the page as a whole.
        records: what the profile understood, in reading order.
        checks: what it remarks.
        max_error: bound of the review: the greatest expected cost of a mistake at which a stretch is left alone; what belongs
            to the share `review.max_error` of a configuration.
        identities: what made it: `ocr`, `reader`, `weights`, `lists`, `config`, `fusion` → version or hash.
        schema: version of this model.
    """

    id: str
    image_sha256: str
    width: int
    height: int
    angle: float = 0.0
    lines: tuple[Line, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    records: tuple[Record, ...] = ()
    checks: tuple[Check, ...] = ()
    max_error: float = 0.05
    identities: dict[str, str] = field(default_factory=dict)
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        ids = [line.id for line in self.lines]
        _require(bool(self.id), "a page has an id")
        _require(all(ids) and len(set(ids)) == len(ids), "line ids are empty or not unique")
        _require(self.width >= 1 and self.height >= 1, f"a page of {self.width} x {self.height} px has no area")
        _require(math.isfinite(self.angle), f"angle {self.angle} is not finite")
        _require(0.0 < self.max_error < 1.0, f"max_error {self.max_error} is not in (0, 1)")

    @property
    def text(self) -> str:
        """Lines in reading order, one per row."""
        return "\n".join(line.text for line in self.lines)

    @property
    def diplomatic(self) -> str:
        """Like `text` without anything supplied."""
        return "\n".join(line.diplomatic for line in self.lines)

    @property
    def marked(self) -> str:
        """Like `text` with supplied text in square brackets."""
        return "\n".join(line.marked for line in self.lines)

    @property
    def understood(self) -> bool:
        """Whether the profile found records on it; True where none was asked to, and where nothing stands."""
        return bool(self.records) or not self.lines or self.identities.get("profile", "general") == "general"

    @property
    def unasked(self) -> bool:
        """Whether there are lines and no second reader was asked about any of them."""
        return bool(self.lines) and all(any(f.kind in UNASKED for f in line.failures) for line in self.lines)

    def about(self, record: Record) -> tuple[Check, ...]:
        """The checks that point at anything of a record."""
        return tuple(c for c in self.checks if any(a.overlaps(b) for a in c.places for b in record.places))

    def edit(self, place: Place, text: str, by: str) -> Page:
        """The page with a stretch decided by a person: one `human` span, beside which what stood there is an alternative.

        Readings stay, and so do checks of what was seen beside the text. Records and other checks are about the old text and are
        left out: `Engine.understand` makes them anew.

        Args:
            place: the stretch.
            text: what stands there; "" for nothing.
            by: who decided, and when.

        Raises:
            ValueError: there is no such line or stretch, the text is more than one line of printable characters, or it does
                not fit in as NFC.
        """
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
            raise ValueError("the text holds a line break or a control character")
        line = next((line for line in self.lines if line.id == place.line), None)
        if line is None or place.end > len(line.text) or (line.text and not place.end):
            raise ValueError(f"no stretch {place.start}:{place.end} on line {place.line}")
        edited = replace(line, spans=_edited(line.spans, place, unicodedata.normalize("NFC", text), by))
        lines = tuple(edited if one is line else one for one in self.lines)
        seen = tuple(replace(check, places=()) for check in self.checks if check.polygon)
        return replace(self, lines=lines, records=(), checks=seen)

    def to_dict(self) -> dict[str, object]:
        """The page as JSON values, each line with its text, confidence and whether it needs a look; see `records`."""
        from fusion.records import page_dict

        return page_dict(self)

    @staticmethod
    def from_dict(record: dict[str, object]) -> Page:
        """What `to_dict` wrote; InputError for what is no page record."""
        from fusion.records import page_of

        return page_of(record)


def _edited(spans: tuple[Span, ...], place: Place, text: str, by: str) -> tuple[Span, ...]:
    """Spans of a line with a stretch replaced by one `human` span."""
    before: list[Span] = []
    after: list[Span] = []
    cut: list[Span] = []
    at = 0
    for span in spans:
        left, right = place.start - at, place.end - at  # the stretch, from the start of this span
        at += len(span.text)
        if left >= len(span.text):
            before.append(span)
        elif right <= 0:
            after.append(span)
        else:
            inside = span.part(max(0, left), min(right, len(span.text)))
            cut.append(inside)
            if left > 0:
                before.append(span.part(0, left))
            if right < len(span.text):
                after.append(span.part(right, len(span.text)))
    old = "".join(span.text for span in spans)[place.start : place.end]
    known = [span.confidence for span in cut if span.confidence is not None]
    alternatives = (Candidate(old, min(known, default=0.0)),) if old and old != text else ()
    first, last = (cut[0].polygon, cut[-1].polygon) if cut else (None, None)
    polygon = joined(first, last) if first and last and len(first) == len(last) == 4 else None
    return (*before, Span(text, "human", 1.0, "decided_by_person", alternatives, polygon, by=by), *after)
