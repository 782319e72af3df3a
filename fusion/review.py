"""Which stretches somebody must look at, how urgently, and why: one rule for command line, batch, list and evaluation.

A stretch is a word; of Chinese, a character. The expected cost of leaving it alone is the probability that it is wrong
times what a mistake there costs. A stretch whose expected cost exceeds the page's `max_error` is flagged. The engine takes
that limit from `review.max_error`, the share of mistakes that an operator allows among what is left alone: see
`fuse.model.Weights.limits`. A dose must be surer than a word, punctuation need not be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fusion.page import GAP, Candidate, Line, Page, Place, Polygon, Span, is_ideograph, lowest, stretches
from fusion.quantities import quantities

SACRED = ("drug", "strength", "dose", "frequency", "duration", "quantity")
"""Fields of a medication in which a mistake may harm."""
COSTS = {"sacred": 10.0, "quantity": 5.0, "word": 1.0, "sign": 0.5}
"""What a mistake costs: in a field of `SACRED`, in any other number with its unit, in a word, in punctuation. A policy, not
a fitted value."""
UNPROVEN = 1e-6
"""A bound under every chance of a mistake: where no share so small has been shown to hold, so that nothing is left alone."""
ALWAYS = {
    "quantity_changed": "another number or unit than the OCR reads",
    "quantity_disputed": "the readers disagree on a number or unit",
    "lexicon_lookalike": "may be another listed name",
}
"""Rules whose decisions are always looked at, however sure the ink is."""
UNREAD = {"gap": "ink that nobody could read", "supplied": "completed from the context, not read"}
UNREAD_LINE = "a line that nobody could read"


@dataclass(frozen=True, slots=True)
class Item:
    """One stretch that needs a look; neighbouring characters of Chinese are one item. Or a whole line that nobody read.

    Attributes:
        page, image_sha256: id of the page, and SHA-256 of its input.
        line: id of the line.
        start, end: code points of the line's text, half-open.
        text: as decided; blank for a line that nobody read.
        confidence: lowest of its spans, or None when one is unknown.
        cost: of a mistake here; see `COSTS`.
        units: how many stretches it stands for; 0 for a line that nobody read.
        reasons: in plain words.
        alternatives: other texts for the same place, most probable first.
        polygon: where it sits, px of the photograph.
    """

    page: str
    image_sha256: str
    line: str
    start: int
    end: int
    text: str
    confidence: float | None
    cost: float
    units: int
    reasons: tuple[str, ...]
    alternatives: tuple[Candidate, ...]
    polygon: Polygon

    @property
    def expected_cost(self) -> float:
        """Probability of being wrong times cost; an unknown confidence counts as wrong."""
        return self.cost * (1.0 - (self.confidence or 0.0))


@dataclass(frozen=True, slots=True)
class Review:
    """What of one or more pages needs a look.

    Attributes:
        items: most expensive first.
        total: stretches in all.
    """

    items: tuple[Item, ...]
    total: int

    @property
    def flagged(self) -> int:
        """Stretches that need a look."""
        return sum(item.units for item in self.items)

    @property
    def lines(self) -> frozenset[tuple[str, str]]:
        """(page, line) ids of lines with an item."""
        return frozenset((item.page, item.line) for item in self.items)

    def __str__(self) -> str:
        unread = sum(item.units == 0 for item in self.items)
        lines = f", and {unread} {'line' if unread == 1 else 'lines'} that nobody read" if unread else ""
        return f"{self.flagged} of {self.total} stretches need a look{lines}"

    def __add__(self, other: Review) -> Review:
        return Review(_ranked([*self.items, *other.items]), self.total + other.total)


NOTHING = Review((), 0)


def judge(page: Page, max_error: float) -> Iterator[tuple[Line, list[Item], list[bool]]]:
    """Each line with its stretches, and which of them need a look; see `review`."""
    for line in page.lines:
        units = [_item(page, line, start, end) for start, end in stretches(line.text)]
        yield line, units, [_is_open(line, unit, max_error) for unit in units]


def _decided(spans: Iterable[Span]) -> bool:
    """Whether a person has had their look: nobody is asked twice, whatever a check remarks."""
    return {span.source for span in spans} == {"human"}


def _is_open(line: Line, unit: Item, max_error: float) -> bool:
    doubtful = bool(unit.reasons) or unit.confidence is None or unit.expected_cost > max_error
    return doubtful and not _decided(span for _, span in _touched(line, unit.start, unit.end))


def review(page: Page, max_error: float) -> Review:
    """The stretches of a page that need a look, and the lines that nobody read.

    Args:
        page: a decided page.
        max_error: greatest probability of a mistake at which a word is left alone, in (0, 1).
    """
    items: list[Item] = []
    total = 0
    for line, units, flags in judge(page, max_error):
        total += len(units)
        for item in _merged(page, line, [unit for unit, flagged in zip(units, flags, strict=True) if flagged]):
            wrong = "unknown" if item.confidence is None else f"{100 * (1 - item.confidence):.0f} %"
            items.append(replace(item, reasons=(*item.reasons, f"chance of a mistake: {wrong}")))
        if not units and not _decided(line.spans):
            items.append(replace(_item(page, line, 0, len(line.text), 0), confidence=None, reasons=(UNREAD_LINE,)))
    return Review(_ranked(items), total)


def _ranked(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: -item.expected_cost))


def _item(page: Page, line: Line, start: int, end: int, units: int = 1) -> Item:
    """A stretch with its cost, and the reasons to look at it other than its confidence."""
    own = Place(line.id, start, end)
    touched = list(_touched(line, start, end))
    spans = [span for _, span in touched]
    checks = [check for check in page.checks if check.review and any(place.overlaps(own) for place in check.places)]
    reasons = [
        *(UNREAD[span.source] for span in spans if span.source in UNREAD),
        *(ALWAYS[span.because] for span in spans if span.because in ALWAYS),
        *(check.message for check in checks),
    ]
    return Item(
        page.id,
        page.image_sha256,
        line.id,
        start,
        end,
        line.text[start:end],
        lowest(None if span.source == "gap" else span.confidence for span in spans),
        _cost(page, line, own),
        units,
        tuple(dict.fromkeys(reasons)),
        _alternatives(line.text, start, end, touched),
        _polygon(line, start, end, touched),
    )


def _cost(page: Page, line: Line, own: Place) -> float:
    fields = [field for record in page.records for field in record.fields if field.name in SACRED]
    if any(place.overlaps(own) for field in fields for place in field.places):
        return COSTS["sacred"]
    if any(quantity.start < own.end and quantity.end > own.start for quantity in quantities(line.text)):
        return COSTS["quantity"]
    text = line.text[own.start : own.end]
    signs = text.strip() and not any(character.isalnum() or character == GAP for character in text)
    return COSTS["sign" if signs else "word"]


def _merged(page: Page, line: Line, units: Sequence[Item]) -> Iterator[Item]:
    """Items in order; ideographs that touch are one."""
    groups: list[list[Item]] = []
    for unit in units:
        last = groups[-1][-1] if groups else None
        if last and last.end == unit.start and is_ideograph(last.text) and is_ideograph(unit.text):
            groups[-1].append(unit)
        else:
            groups.append([unit])
    for group in groups:
        yield group[0] if len(group) == 1 else _item(page, line, group[0].start, group[-1].end, len(group))


def _touched(line: Line, start: int, end: int) -> Iterator[tuple[int, Span]]:
    """Spans that a stretch touches, with where they begin."""
    left = 0
    for span in line.spans:
        right = left + len(span.text)
        if left < end and right > start:
            yield left, span
        left = right


def _alternatives(text: str, start: int, end: int, spans: Sequence[tuple[int, Span]]) -> tuple[Candidate, ...]:
    """The stretch with one of its spans read otherwise; nothing, and the same text again, are no alternatives."""
    found: dict[str, Candidate] = {}
    for left, span in spans:
        right = left + len(span.text)
        before, after = text[start : max(start, left)], text[min(end, right) : end]
        for other in span.alternatives:
            # Where the span goes beyond the stretch, as many characters of the other text are not the stretch's.
            inside = other.text[max(0, start - left) : max(0, len(other.text) - max(0, right - end))]
            word = (before + inside + after).strip()
            better = word not in found or found[word].probability < other.probability
            if word and word != text[start:end] and better:
                found[word] = Candidate(word, other.probability, other.ink)
    return tuple(sorted(found.values(), key=lambda other: -other.probability))


def _polygon(line: Line, start: int, end: int, spans: Sequence[tuple[int, Span]]) -> Polygon:
    """The stretch's share of its spans, as a quadrilateral; the line's polygon where a span has no place."""
    if not spans or any(span.polygon is None or len(span.polygon) != 4 for _, span in spans):
        return line.polygon
    (left, first), (begin, last) = spans[0], spans[-1]
    assert first.polygon is not None
    assert last.polygon is not None
    a, d = _at(first.polygon, max(0, start - left) / len(first.text))
    b, c = _at(last.polygon, min(1.0, (end - begin) / len(last.text)))
    return a, b, c, d


def _at(polygon: Polygon, share: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Points on the upper and lower edge of a quadrilateral, a share of the way along."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = polygon
    return (ax + share * (bx - ax), ay + share * (by - ay)), (dx + share * (cx - dx), dy + share * (cy - dy))
