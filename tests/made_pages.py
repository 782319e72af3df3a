"""Decided pages written down as text, for tests of what comes after deciding."""

from __future__ import annotations

from fusion.page import Line, Page, Span


def line(text: str | tuple[Span, ...], number: int = 0, box: tuple[float, float, float, float] | None = None) -> Line:
    """A line of agreed text, or of given spans; lines stand 40 px under each other."""
    left, top, right, bottom = box or (0.0, 40.0 * number, 300.0, 40.0 * number + 30)
    spans = (Span(text, "agreed", 0.9, "agreed"),) if isinstance(text, str) else text
    return Line(f"l{number:03}", ((left, top), (right, top), (right, bottom), (left, bottom)), number, (), spans)


def page(*texts: str | tuple[Span, ...]) -> Page:
    """A page of such lines."""
    return Page("made.png", "0" * 64, 300, 400, lines=tuple(line(text, n) for n, text in enumerate(texts)))
