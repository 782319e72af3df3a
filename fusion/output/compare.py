"""OCR-only against fused: what fusion changed, line by line, and what that was worth where the truth is known."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex
from rapidfuzz.distance import Levenshtein

from fusion.page import Line, Page, Source, Span

_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line as each reader saw it and as it was decided.

    Attributes:
        line: which one.
        number: place in the reading order, from 1.
        reference: what is on the paper according to a person, or None when unknown.
    """

    line: Line
    number: int
    reference: str | None

    @property
    def ocr(self) -> str | None:
        """The OCR's reading, or None when there is none; "" is a reading of nothing."""
        return next((reading.text for reading in self.line.readings if reading.source == "ocr"), None)

    @property
    def vlm(self) -> tuple[tuple[str, str], ...]:
        """The second reader's readings in the order they were made: how (its prompt, or the model), and the text."""
        return tuple(
            ((reading.recipe.prompt_id or "").partition("@")[0] or reading.recipe.model or "VLM", reading.text)
            for reading in self.line.readings
            if reading.source == "vlm"
        )

    @property
    def changed(self) -> bool:
        """Whether fusion says something else than the OCR alone; without an OCR reading, whether it says anything."""
        return (self.ocr or "") != self.line.text

    @property
    def sources(self) -> Counter[Source]:
        """Spans per source."""
        return Counter(span.source for span in self.line.spans)


def compare_page(page: Page, reference: str | None = None) -> tuple[Comparison, ...]:
    """Every line of a page, in reading order.

    Args:
        page: what was read.
        reference: transcription by a person, rows separated by newlines. A row is set beside a line only when there
            are as many rows (blank ones aside) as lines; otherwise only the page as a whole can be measured
            (`page_cer`).
    """
    rows = [row.strip() for row in unicodedata.normalize("NFC", reference or "").splitlines() if row.strip()]
    paired = rows if len(rows) == len(page.lines) else [None] * len(page.lines)
    return tuple(Comparison(line, n, row) for n, (line, row) in enumerate(zip(page.lines, paired, strict=True), 1))


def differing(text: str, other: str) -> list[tuple[str, bool]]:
    """A text in runs, each with whether it differs from `other`; together they are the text.

    What only `other` has shows in `differing(other, text)`.

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


def fused_runs(spans: Sequence[Span], ocr: str | None) -> list[tuple[Span, list[tuple[str, bool]]]]:
    """Each span with its text in runs, each run with whether it differs from the OCR's reading.

    Spans may cut a grapheme cluster in two (a mark decided apart from its letter), so this counts in code points.
    """
    flags = [new for run, new in differing("".join(span.text for span in spans), ocr or "") for _ in run]
    found = []
    start = 0
    for span in spans:
        characters = zip(span.text, flags[start : start + len(span.text)], strict=True)
        groups = itertools.groupby(characters, key=lambda pair: pair[1])
        found.append((span, [("".join(character for character, _ in group), new) for new, group in groups]))
        start += len(span.text)
    return found


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
        return Errors(self.ocr + other.ocr, self.fused + other.fused, self.length + other.length)


def page_cer(page: Page, reference: str) -> Errors:
    """Errors of a page's whole text. Rows are joined, and any run of white space counts as one space.

    So a line that was cut in two costs nothing, and a line that was missed costs all its characters. Supplied text
    counts like any other; a `□` is right only where the reference has one.
    """
    ocr = " ".join(comparison.ocr or "" for comparison in compare_page(page))
    true, ocr, fused = (" ".join(text.split()) for text in (reference, ocr, page.text))
    (ocr_edits, length), (fused_edits, _) = cer(true, ocr), cer(true, fused)
    return Errors(ocr_edits, fused_edits, length)
