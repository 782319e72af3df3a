"""The data model: what constructors refuse, and the properties of texts that every writer relies on."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import TypeAdapter

from fusion.fuse.align import Segment
from fusion.page import (
    GAP,
    SCHEMA,
    UNASKED,
    Candidate,
    Failure,
    Finding,
    Hypothesis,
    Line,
    Page,
    Position,
    Reading,
    Recipe,
    Source,
    Span,
    Token,
)
from tests import strategies

RECIPE = Recipe("paddleocr/onnx", "3.7.0", "PP-OCRv6_small_rec", "0" * 64)
POLYGON = ((0.0, 0.0), (9.0, 0.0), (9.0, 4.0), (0.0, 4.0))
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
LOST = Failure("ocr", "empty", "the OCR reads nothing on this line")


def span(text: str, source: Source = "agreed", confidence: float | None = 0.9) -> Span:
    extent = len(text) if source in ("gap", "supplied") else 0
    return Span(text, source, confidence, "a_rule", extent=extent)


def line(*spans: Span) -> Line:
    return Line("l000", POLYGON, 0, spans=spans, failures=() if spans else (LOST,))


SPANS = strategies.spans().filter(bool)
READ_SPANS = SPANS.map(lambda spans: tuple(span for span in spans if span.source != "supplied")).filter(
    lambda spans: unicodedata.is_normalized("NFC", "".join(span.text for span in spans))
)


# --- constructors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan, math.inf])
def test_candidate_refuses_what_is_no_probability(probability: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        Candidate("a", probability)


def test_candidate_may_say_that_nothing_stands_here() -> None:
    assert [Candidate("", p).probability for p in (0.0, 1.0)] == [0.0, 1.0]


def test_position_refuses_to_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match="before it starts"):
        Position(5.0, 4.9, (Candidate("a", 0.5),))
    assert Position(5.0, 5.0, (Candidate("a", 0.5),)).optional is False


def test_position_refuses_to_be_without_candidates() -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        Position(0.0, 1.0, ())


def test_position_refuses_candidates_that_are_not_best_first() -> None:
    with pytest.raises(ValueError, match="best first"):
        Position(0.0, 1.0, (Candidate("a", 0.2), Candidate("b", 0.7)))


DECOMPOSED = unicodedata.normalize("NFD", "café")


def test_texts_are_nfc() -> None:
    with pytest.raises(ValueError, match="NFC"):
        Reading("ocr", DECOMPOSED, RECIPE)
    with pytest.raises(ValueError, match="NFC"):
        span(DECOMPOSED)
    assert Reading("vlm", "café", RECIPE, raw=DECOMPOSED).raw == DECOMPOSED  # raw is verbatim


def test_spans_that_compose_over_their_border_are_refused() -> None:
    accent = "\N{COMBINING ACUTE ACCENT}"
    assert span(accent).text == accent  # NFC by itself, but not after an e
    with pytest.raises(ValueError, match="NFC"):
        line(span("caf"), span("e"), span(accent))


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan])
def test_span_refuses_what_is_no_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        span("a", confidence=confidence)


@pytest.mark.parametrize("confidence", [None, 0.0, 1.0])
def test_span_takes_unknown_and_extreme_confidences(confidence: float | None) -> None:
    assert span("a", confidence=confidence).confidence == confidence


def test_span_names_its_rule() -> None:
    with pytest.raises(ValueError, match="rule"):
        Span("a", "ocr", None, "")


@pytest.mark.parametrize("source", ["gap", "supplied"])
def test_unread_ink_needs_an_extent(source: Source) -> None:
    with pytest.raises(ValueError, match="extent"):
        Span(GAP, source, None, "a_rule")


@pytest.mark.parametrize("source", ["agreed", "ocr", "vlm", "lexicon", "human"])
def test_read_ink_has_no_extent(source: Source) -> None:
    with pytest.raises(ValueError, match="extent"):
        Span("a", source, None, "a_rule", extent=1)


@pytest.mark.parametrize(("text", "extent"), [("", 1), (GAP, 2), (GAP * 3, 2), ("5", 1)])
def test_a_gap_shows_one_mark_per_character(text: str, extent: int) -> None:
    with pytest.raises(ValueError, match="one mark per character"):
        Span(text, "gap", None, "a_rule", extent=extent)


def test_supplied_text_need_not_be_as_long_as_the_gap() -> None:
    supplied = Span("15", "supplied", 0.4, "completed", extent=3)
    assert (supplied.text, supplied.diplomatic) == ("15", GAP * 3)


def test_a_line_has_spans_or_says_why_not() -> None:
    with pytest.raises(ValueError, match="neither spans nor a failure"):
        Line("l000", POLYGON, 0)
    assert Line("l000", POLYGON, 0, failures=(LOST,)).text == ""


@pytest.mark.parametrize(
    "thing",
    [
        Candidate("a", 0.5),
        Position(0, 1, (Candidate("a", 0.5),)),
        Hypothesis("a", -0.1),
        Token("a", -0.1),
        RECIPE,
        Reading("ocr", "a", RECIPE),
        Segment("equal", (0, 1), (0, 1)),
        span("a"),
        LOST,
        Finding("blur", 1.0, 2.0, "m"),
        line(span("a")),
        Page("p", "0", 1, 1),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_everything_is_frozen_and_slotted(thing: object) -> None:
    name = dataclasses.fields(thing)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, "changed")
    assert not hasattr(thing, "__dict__")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"id": ""}, "id"),
        ({"width": 0}, "0 x 1 px"),
        ({"height": -1}, "1 x -1 px"),
        ({"angle": math.nan}, "angle"),
        ({"max_error": 5.0}, "max_error"),
        ({"max_error": 0.0}, "max_error"),
        ({"lines": (Line("", POLYGON, 0, failures=(LOST,)),)}, "line ids"),
        ({"lines": (line(span("a")), line(span("b")))}, "line ids"),
    ],
)
def test_a_page_refuses_numbers_and_ids_that_mean_nothing(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Page(**({"id": "p", "image_sha256": "0", "width": 1, "height": 1} | wrong))


# --- texts --------------------------------------------------------------------------------------------------------

FORECAST = line(span("明天气温会降到", "agreed"), span("5", "supplied", 0.5), span("度", "ocr", 0.8))


def test_the_three_texts_of_a_line_with_a_supplied_digit() -> None:
    assert FORECAST.text == "明天气温会降到5度"
    assert FORECAST.diplomatic == "明天气温会降到□度"
    assert FORECAST.marked == "明天气温会降到[5]度"


def test_the_three_texts_of_a_page_are_its_lines_in_order() -> None:
    second, third = dataclasses.replace(line(span("b")), id="l001"), dataclasses.replace(line(), id="l002")
    page = Page("p", "0", 1, 1, lines=(FORECAST, second, third))
    assert page.text == "明天气温会降到5度\nb\n"
    assert page.diplomatic == "明天气温会降到□度\nb\n"
    assert page.marked == "明天气温会降到[5]度\nb\n"
    assert page.schema == SCHEMA


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [((0.9, 0.3, 0.8), 0.3), ((0.9, None), None), ((None,), None), ((0.0, 1.0), 0.0), ((), None)],
)
def test_confidence_of_a_line_is_that_of_its_worst_span(
    confidences: tuple[float | None, ...], expected: float | None
) -> None:
    assert line(*(span("a", confidence=value) for value in confidences)).confidence == expected


def test_confidence_passes_over_gaps_but_not_over_supplied_text() -> None:
    gap = Span(GAP, "gap", None, "nobody_reads_it", extent=1)
    assert line(span("a", confidence=0.7), gap).confidence == 0.7
    assert line(gap).confidence is None
    assert line(span("a", confidence=0.7), span("5", "supplied", 0.2)).confidence == 0.2


@quick
@given(SPANS)
def test_spans_tile_the_line(spans: tuple[Span, ...]) -> None:
    text, start = line(*spans).text, 0
    for one in spans:
        assert text[start : start + len(one.text)] == one.text
        start += len(one.text)
    assert start == len(text)
    assert unicodedata.is_normalized("NFC", text)


@quick
@given(SPANS)
def test_diplomatic_text_is_recoverable_and_holds_nothing_supplied(spans: tuple[Span, ...]) -> None:
    diplomatic, start = line(*spans).diplomatic, 0
    for one in spans:
        shown = diplomatic[start : start + len(one.diplomatic)]
        assert shown == (GAP * one.extent if one.extent else one.text)
        start += len(shown)
    assert start == len(diplomatic)


@quick
@given(READ_SPANS)
def test_without_supplied_text_all_three_texts_are_one(spans: tuple[Span, ...]) -> None:
    whole = line(*spans)
    assert whole.text == whole.diplomatic == whole.marked


@quick
@given(SPANS)
def test_supplied_text_never_reaches_the_diplomatic_text(spans: tuple[Span, ...]) -> None:
    secret = tuple(dataclasses.replace(one, text="乙") if one.source == "supplied" else one for one in spans)
    assert line(*secret).diplomatic == line(*spans).diplomatic


@quick
@given(SPANS)
def test_marked_text_without_its_brackets_is_the_text(spans: tuple[Span, ...]) -> None:
    whole, rest = line(*spans), line(*spans).marked
    for one in spans:
        for piece in ("[", one.text, "]") if one.source == "supplied" else (one.text,):
            assert rest.startswith(piece)
            rest = rest[len(piece) :]
    assert rest == ""
    assert len(whole.marked) == len(whole.text) + 2 * sum(one.source == "supplied" for one in spans)


@quick
@given(SPANS)
def test_confidence_is_unknown_or_no_span_has_a_lower_one(spans: tuple[Span, ...]) -> None:
    confidence = line(*spans).confidence
    values = [one.confidence for one in spans if one.source != "gap"]
    assert confidence is None or confidence == min(v for v in values if v is not None)
    assert (confidence is None) == (not values or None in values)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.pages())
def test_a_page_survives_json(page: Page) -> None:
    adapter = TypeAdapter(Page)
    assert adapter.validate_json(adapter.dump_json(page)) == page


@pytest.mark.parametrize("kind", UNASKED)
def test_nobody_asked_is_no_trouble(kind: str) -> None:
    unasked, asked = Failure("vlm", kind, "m"), Failure("vlm", "timeout", "m")
    spared = Line("l000", POLYGON, 0, spans=(span("a"),), failures=(unasked,))
    failed = Line("l001", POLYGON, 1, spans=(span("a"),), failures=(unasked, asked))
    assert spared.troubles == ()
    assert failed.troubles == (asked,)
    assert Page("p", "0", 1, 1, lines=(spared,)).unasked
    assert not Page("p", "0", 1, 1, lines=(spared, dataclasses.replace(line(span("b")), id="l001"))).unasked
    assert not Page("p", "0", 1, 1).unasked


def test_json_schema_is_derived_and_names_every_field() -> None:
    schema = TypeAdapter(Page).json_schema()
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(Page)}
    assert set(schema["$defs"]["Span"]["properties"]) == {field.name for field in dataclasses.fields(Span)}
