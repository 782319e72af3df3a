"""Hypothesis strategies for the data model: pages as they may be, not as they usually are.

Text is NFC and holds Chinese, digits, emoji with joiners, combining marks, Hangul and markup characters. Spans tile
their line; some are gaps, some supplied; some lines have no span and a failure instead.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import regex
from hypothesis import strategies as st

from fusion.page import (
    GAP,
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

_AWKWARD = ["👩‍⚕️", "🇨🇳", "é", "ẹ́", "各", "각", "½", "x²", "<b>", "&amp;", '"', "'", "5 mg", "　", "̈", "ｍｇ", "①"]
_ALPHABET = st.one_of(
    st.sampled_from("明天气温会降到度第二步请于月日前提交报告处方"),
    st.sampled_from("0123456789.+-=/ abcdegilmnoprtxAPR"),
    st.sampled_from(_AWKWARD),
    st.characters(exclude_categories=["Cs", "Cc"]),
)


def nfc_texts(min_size: int = 0, max_size: int = 12) -> st.SearchStrategy[str]:
    pieces = st.lists(_ALPHABET, min_size=min_size, max_size=max_size)
    return pieces.map(lambda parts: unicodedata.normalize("NFC", "".join(parts)))


def probabilities() -> st.SearchStrategy[float]:
    return st.floats(0, 1)


def confidences() -> st.SearchStrategy[float | None]:
    return st.none() | probabilities()


def scores() -> st.SearchStrategy[float]:
    return st.floats(-1e6, 0)


def polygons() -> st.SearchStrategy[tuple[tuple[float, float], ...]]:
    """Quadrilaterals, some degenerate, some reaching out of the photograph."""
    point = st.tuples(st.floats(-50, 500), st.floats(-50, 500))
    box = st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(0, 200), st.floats(1, 60)).map(
        lambda b: ((b[0], b[1]), (b[0] + b[2], b[1]), (b[0] + b[2], b[1] + b[3]), (b[0], b[1] + b[3]))
    )
    return box | st.tuples(point, point, point, point)


def candidates() -> st.SearchStrategy[Candidate]:
    return st.builds(Candidate, nfc_texts(max_size=2), probabilities())


def positions() -> st.SearchStrategy[Position]:
    extents = st.tuples(st.floats(0, 500), st.floats(0, 50))
    return st.builds(
        lambda extent, found, optional: Position(
            extent[0], extent[0] + extent[1], tuple(sorted(found, key=lambda c: -c.probability)), optional
        ),
        extents,
        st.lists(candidates(), min_size=1, max_size=3),
        st.booleans(),
    )


def recipes() -> st.SearchStrategy[Recipe]:
    word = st.text("abcdef0123456789-.", min_size=1, max_size=8)
    return st.builds(
        Recipe,
        engine=word,
        version=word,
        model=word,
        image_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        prompt_id=st.none() | word,
        temperature=st.none() | st.floats(0, 2),
        attempt=st.integers(1, 5),
    )


def readings(source: str, text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Reading]:
    own: dict[str, st.SearchStrategy[Any]] = (
        {
            "positions": st.lists(positions(), max_size=3).map(tuple),
            "nbest": st.lists(st.builds(Hypothesis, nfc_texts(), scores()), max_size=2).map(tuple),
        }
        if source == "ocr"
        else {
            "tokens": st.lists(st.builds(Token, nfc_texts(max_size=3), scores()), max_size=3).map(tuple),
            "finish": st.none() | st.sampled_from(["stop", "length"]),
            "raw": st.text(max_size=10),
        }
    )
    return st.builds(
        Reading,
        source=st.just(source),
        text=nfc_texts() if text is None else text,
        recipe=recipes(),
        score=st.none() | scores(),
        **own,
    )


@st.composite
def spans(draw: st.DrawFn) -> tuple[Span, ...]:
    """Spans that tile a text cut at grapheme clusters, with gaps and supplied text between them."""
    made: list[Span] = []
    for cluster in regex.findall(r"\X", draw(nfc_texts(min_size=1))):
        source: Source = draw(
            st.sampled_from(["agreed", "agreed", "ocr", "vlm", "lexicon", "human", "gap", "supplied"])
        )
        extent = draw(st.integers(1, 3)) if source in ("gap", "supplied") else 0
        made.append(
            Span(
                text=GAP * extent if source == "gap" else cluster,
                source=source,
                confidence=draw(confidences()),
                because=draw(st.sampled_from(["agreed", "ocr_preferred", "vlm_supported_by_ink"])),
                alternatives=tuple(draw(st.lists(candidates(), max_size=2))),
                polygon=draw(st.none() | polygons()),
                extent=extent,
            )
        )
    # A gap may part a mark from its letter and bring two others together that NFC would compose.
    while not unicodedata.is_normalized("NFC", "".join(span.text for span in made)):
        made.pop()
    return tuple(made)


def failures() -> st.SearchStrategy[Failure]:
    return st.builds(
        Failure,
        st.sampled_from(["intake", "ocr", "vlm", "fuse", "complete", "domain"]),
        st.sampled_from(["not_asked", "timeout", "repeats"]),
        st.text(max_size=20),
    )


@st.composite
def lines(draw: st.DrawFn, order: int = 0) -> Line:
    decided = draw(spans())
    text = "".join(span.text for span in decided)
    seen = []
    if draw(st.booleans()):
        seen.append(draw(readings("ocr", st.just(text) | nfc_texts())))
    seen += draw(st.lists(readings("vlm"), max_size=2))
    why = tuple(draw(st.lists(failures(), min_size=0 if decided else 1, max_size=2)))
    return Line(f"l{order:03d}", draw(polygons()), order, tuple(seen), decided, why)


@st.composite
def pages(draw: st.DrawFn, max_lines: int = 3) -> Page:
    findings = st.builds(
        Finding,
        st.sampled_from(["small", "blur", "glare", "low_contrast", "skew", "perspective"]),
        st.floats(0, 1000),
        st.floats(0, 1000),
        st.text(max_size=20),
    )
    return Page(
        id=draw(st.text(min_size=1, max_size=12)),
        image_sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        width=draw(st.integers(1, 400)),
        height=draw(st.integers(1, 400)),
        angle=draw(st.floats(-45, 45)),
        lines=tuple(draw(lines(n)) for n in range(draw(st.integers(0, max_lines)))),
        findings=tuple(draw(st.lists(findings, max_size=1))),
        failures=tuple(draw(st.lists(failures(), max_size=1))),
    )
