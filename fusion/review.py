"""Which stretches somebody must look at, how urgently, and why: one rule for command line, batch, list and evaluation.

Knows decided pages; changes nothing. A stretch is a word; of Chinese, a character. What it may cost to leave one alone is
the probability that it is wrong times what a mistake there costs. One that may cost more than `review.max_error` is
flagged: of the words left alone at most that share is wrong if confidences hold. A dose must be surer, punctuation need
not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusion.page import GAP, Candidate, Check, Line, Page, Place, Polygon, Span, is_ideograph, lowest, stretches
from fusion.quantities import quantities

SACRED = ("drug", "strength", "dose", "frequency", "duration", "quantity")
"""Fields of a medication in which a mistake may harm."""
COSTS = {"sacred": 3.0, "quantity": 2.0, "word": 1.0, "sign": 0.5}
"""What a mistake costs: in a field of `SACRED`, in any other number with its unit, in a word, in punctuation. A policy, not
a fitted value."""
ALWAYS = {
    "quantity_changed": "another number or unit than the OCR reads",
    "quantity_disputed": "the readers disagree on a number or unit",
    "lexicon_lookalike": "may be another listed name",
}
"""Rules that settled what only a person can settle: somebody looks, however sure the ink is."""
UNREAD = {"gap": "ink that nobody could read", "supplied": "completed from the context, not read"}


@dataclass(frozen=True, slots=True)
class Item:
    """One stretch that needs a look; neighbouring characters of Chinese are one item.

    Attributes:
        page: id of the page.
        line: id of the line.
        start: code points of the line's text, half-open.
        end: see `start`.
        text: as decided.
        confidence: lowest of its spans, or None when one is unknown.
        cost: of a mistake here; see `COSTS`.
        units: how many stretches it stands for.
        reasons: in plain words.
        alternatives: other texts for the same place, most probable first.
        polygon: where it sits, px of the photograph.
    """

    page: str
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
        """Probability of being wrong times cost; what nobody knows counts as wrong."""
        return self.cost * (1.0 - (self.confidence or 0.0))


@dataclass(frozen=True, slots=True)
class Review:
    """What of one or more pages needs a look.

    Attributes:
        items: most expensive first.
        total: stretches in all.
        lines: (page, line) ids with an item, and of lines that nobody read.
    """

    items: tuple[Item, ...]
    total: int
    lines: frozenset[tuple[str, str]]

    @property
    def flagged(self) -> int:
        """Stretches that need a look."""
        return sum(item.units for item in self.items)

    def __add__(self, other: Review) -> Review:
        return Review(_ranked([*self.items, *other.items]), self.total + other.total, self.lines | other.lines)


NOTHING = Review((), 0, frozenset())


def judge(page: Page, max_error: float) -> Iterator[tuple[Line, list[Item], list[bool]]]:
    """Each line with its stretches, and which of them need a look; see `review`."""
    for line in page.lines:
        units = [_item(page, line, start, end) for start, end in stretches(line.text)]
        yield line, units, [bool(u.reasons) or u.confidence is None or u.expected_cost > max_error for u in units]


def review(page: Page, max_error: float) -> Review:
    """The stretches of a page that need a look.

    Args:
        page: a decided page.
        max_error: greatest probability of a mistake at which a word is left alone, in (0, 1).
    """
    items: list[Item] = []
    total = 0
    for line, units, flags in judge(page, max_error):
        total += len(units)
        items += _merged(line, [unit for unit, flagged in zip(units, flags, strict=True) if flagged])
    unread = {(page.id, line.id) for line in page.lines if not line.text.strip()}
    return Review(_ranked(items), total, frozenset({(item.page, item.line) for item in items} | unread))


def _ranked(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: -item.expected_cost))


def _item(page: Page, line: Line, start: int, end: int) -> Item:
    """A stretch with its cost, and the reasons to look at it other than its confidence."""
    touched = list(_spans(line, start, end))
    reasons = [UNREAD[span.source] for _, span in touched if span.source in UNREAD]
    reasons += [ALWAYS[span.because] for _, span in touched if span.because in ALWAYS]
    reasons += [check.message for check in _checks(page, line, start, end) if check.review]
    return Item(
        page.id,
        line.id,
        start,
        end,
        line.text[start:end],
        lowest(None if span.source == "gap" else span.confidence for _, span in touched),
        _cost(page, line, start, end),
        1,
        tuple(dict.fromkeys(reasons)),
        _alternatives(line.text, start, end, touched),
        _polygon(line, start, end, touched),
    )


def _cost(page: Page, line: Line, start: int, end: int) -> float:
    sacred = any(
        place.line == line.id and place.start < end and place.end > start
        for record in page.records
        for field in record.fields
        if field.name in SACRED
        for place in field.places
    )
    counted = any(quantity.start < end and quantity.end > start for quantity in quantities(line.text))
    sign = not any(character.isalnum() or character == GAP for character in line.text[start:end])
    return COSTS["sacred" if sacred else "quantity" if counted else "sign" if sign else "word"]


def _checks(page: Page, line: Line, start: int, end: int) -> Iterator[Check]:
    own = Place(line.id, start, end)
    for check in page.checks:
        if any(place.overlaps(own) for place in check.places):
            yield check


def _merged(line: Line, units: Sequence[Item]) -> Iterator[Item]:
    """Items in order; characters that touch are one, as sure as the least sure of them."""
    group: list[Item] = []
    for unit in units:
        if group and not (
            group[-1].end == unit.start and is_ideograph(unit.text[0]) and is_ideograph(group[-1].text[-1])
        ):
            yield _joined(line, group)
            group = []
        group.append(unit)
    if group:
        yield _joined(line, group)


def _joined(line: Line, group: Sequence[Item]) -> Item:
    first, last = group[0], group[-1]
    confidence = lowest(unit.confidence for unit in group)
    wrong = "unknown" if confidence is None else f"{100 * (1 - confidence):.0f} %"
    alone = len(group) == 1
    touched = list(_spans(line, first.start, last.end))
    return Item(
        first.page,
        first.line,
        first.start,
        last.end,
        line.text[first.start : last.end],
        confidence,
        max(unit.cost for unit in group),
        len(group),
        tuple(
            dict.fromkeys(
                [*itertools.chain.from_iterable(unit.reasons for unit in group), f"chance of a mistake: {wrong}"]
            )
        ),
        first.alternatives if alone else _alternatives(line.text, first.start, last.end, touched),
        first.polygon if alone else _polygon(line, first.start, last.end, touched),
    )


def _spans(line: Line, start: int, end: int) -> Iterator[tuple[int, Span]]:
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
        for other in span.alternatives:
            before, after = text[start : max(start, left)], text[min(end, right) : end]
            word = (before + _inside(other.text, left, right, start, end) + after).strip()
            better = word not in found or found[word].probability < other.probability
            if word and word != text[start:end] and better:
                found[word] = Candidate(word, other.probability, other.ink)
    return tuple(sorted(found.values(), key=lambda other: -other.probability))


def _inside(other: str, left: int, right: int, start: int, end: int) -> str:
    """What of another text for a span belongs to a stretch; whole where the span does not go beyond it."""
    ahead, behind = max(0, start - left), max(0, right - end)
    return other[min(ahead, len(other)) : max(0, len(other) - behind)]


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
