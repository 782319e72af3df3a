"""OCR-only against fused: what fusion changed, line by line, and what that was worth where the truth is known.

Knows strings, their differences and the character error rate. Derives everything from a `Page`; draws nothing (see
`console` and `report`) and decides nothing.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex
from rapidfuzz.distance import Levenshtein

from fusion.page import Failure, Page, Reading, Source, Span

_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line as each reader saw it and as it was decided.

    Attributes:
        page_id, line_id: which line.
        number: place in the reading order, from 1.
        ocr: the OCR's reading, or None when there is none; "" is a reading of nothing.
        vlm: the second reader's readings, in the order they were made.
        labels: how each of `vlm` was made: its prompt, or the model when no prompt is known.
        fused: the decided text, supplied text included.
        reference: what is on the paper according to a person, or None when unknown.
        spans: the decisions behind `fused`.
        failures: what was asked and did not deliver.
        confidence: of the weakest span, or None when unknown.
    """

    page_id: str
    line_id: str
    number: int
    ocr: str | None
    vlm: tuple[str, ...]
    labels: tuple[str, ...]
    fused: str
    reference: str | None
    spans: tuple[Span, ...]
    failures: tuple[Failure, ...]
    confidence: float | None

    @property
    def changed(self) -> bool:
        """Whether fusion says something else than the OCR alone; without an OCR reading, whether it says anything."""
        return (self.ocr or "") != self.fused

    @property
    def sources(self) -> Counter[Source]:
        """Spans per source."""
        return Counter(span.source for span in self.spans)


def compare_page(page: Page, reference: str | None = None) -> tuple[Comparison, ...]:
    """Every line of a page, in reading order.

    Args:
        page: what was read.
        reference: transcription by a person, rows separated by newlines. A row is set beside a line only when there
            are as many rows (blank ones aside) as lines; otherwise nobody knows which belongs to which, and only the
            page as a whole can be measured (`page_cer`).
    """
    rows = [row.strip() for row in unicodedata.normalize("NFC", reference or "").splitlines() if row.strip()]
    paired = len(rows) == len(page.lines)
    made = []
    for n, line in enumerate(page.lines):
        ocr = next((reading.text for reading in line.readings if reading.source == "ocr"), None)
        others = [reading for reading in line.readings if reading.source == "vlm"]
        made.append(
            Comparison(
                page_id=page.id,
                line_id=line.id,
                number=n + 1,
                ocr=ocr,
                vlm=tuple(reading.text for reading in others),
                labels=tuple(_label(reading) for reading in others),
                fused=line.text,
                reference=rows[n] if paired else None,
                spans=line.spans,
                failures=line.troubles,
                confidence=line.confidence,
            )
        )
    return tuple(made)


def _label(reading: Reading) -> str:
    prompt = (reading.recipe.prompt_id or "").partition("@")[0]
    return prompt or reading.recipe.model or "VLM"


def differing(text: str, other: str) -> list[tuple[str, bool]]:
    """A text in runs, each with whether it differs from `other`; together they are the text.

    What only `other` has does not show here: it shows in `differing(other, text)`.

    >>> differing("第二步", "第2步")
    [('第', False), ('二', True), ('步', False)]
    """
    # Several alignments may be equally short. Aligning in one fixed direction makes both views show the same one.
    own, theirs = clusters(text), clusters(other)
    if text <= other:
        ranges = [(op.tag, op.src_start, op.src_end) for op in Levenshtein.opcodes(own, theirs)]
    else:
        ranges = [(op.tag, op.dest_start, op.dest_end) for op in Levenshtein.opcodes(theirs, own)]
    return [("".join(own[start:end]), tag != "equal") for tag, start, end in ranges if start < end]


def fused_runs(spans: Sequence[Span], ocr: str | None) -> list[list[tuple[str, bool]]]:
    """For each span its text in runs, each with whether it differs from the OCR's reading.

    Spans may cut a grapheme cluster in two (a mark decided apart from its letter), so this counts in code points.
    """
    flags = [new for run, new in differing("".join(span.text for span in spans), ocr or "") for _ in run]
    runs: list[list[tuple[str, bool]]] = []
    start = 0
    for span in spans:
        pieces: list[tuple[str, bool]] = []
        for character, new in zip(span.text, flags[start : start + len(span.text)], strict=True):
            if pieces and pieces[-1][1] == new:
                pieces[-1] = (pieces[-1][0] + character, new)
            else:
                pieces.append((character, new))
        runs.append(pieces)
        start += len(span.text)
    return runs


# --- character error rate ------------------------------------------------------------------------------------------


def clusters(text: str) -> list[str]:
    """Grapheme clusters (Unicode UAX #29): what a writer counts as one character."""
    return [str(cluster) for cluster in _CLUSTER.findall(text)]


def cer(reference: str, hypothesis: str) -> tuple[int, int]:
    """Edits and length over grapheme clusters, both texts in NFC; divide sums of them to pool.

    Returns:
        Levenshtein distance, and clusters in the reference. The rate is their quotient, and may exceed 1.

    >>> cer("第2步", "第二步")
    (1, 3)
    """
    true, read = (clusters(unicodedata.normalize("NFC", text)) for text in (reference, hypothesis))
    return int(Levenshtein.distance(true, read)), len(true)


@dataclass(frozen=True, slots=True)
class Errors:
    """Edits against a reference of `length` grapheme clusters, for the OCR alone and for the fused text."""

    ocr: int = 0
    fused: int = 0
    length: int = 0

    def __add__(self, other: Errors) -> Errors:
        """Pool: rates are never averaged."""
        return Errors(self.ocr + other.ocr, self.fused + other.fused, self.length + other.length)


def page_cer(page: Page, reference: str) -> Errors:
    """Errors of a page's whole text. Rows are joined, and any run of white space counts as one space.

    So a line that was cut in two costs nothing, and a line that was missed costs all its characters. Supplied text
    counts like any other; a `□` is right only where the reference has one.
    """
    ocr = "\n".join(comparison.ocr or "" for comparison in compare_page(page))
    true = _joined(reference)
    ocr_edits, length = cer(true, _joined(ocr))
    fused_edits, _ = cer(true, _joined(page.text))
    return Errors(ocr_edits, fused_edits, length)


def _joined(text: str) -> str:
    return " ".join(text.split())
