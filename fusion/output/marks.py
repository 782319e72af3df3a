"""How a source looks: one table, so that picture, terminal and report say the same thing the same way.

Knows colours, letters and words for people. Colour is never the only signal: every source but `agreed` has its letter
and its own underline. Does not know pages.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fusion.page import Candidate, Source, Span

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """The look of one source.

    Attributes:
        source: which one.
        letter: set beside the text; empty for `agreed`, the normal case.
        label: short name for people.
        meaning: one sentence for the legend.
        colour: on white paper, `#rrggbb`; contrast of at least 4.5 : 1 with white.
        dark: on a dark screen.
        ansi: in a terminal; by name, since the user's own theme knows light from dark.
        underline: CSS `text-decoration-style` plus thickness, or `none`.
    """

    source: Source
    letter: str
    label: str
    meaning: str
    colour: str
    dark: str
    ansi: str
    underline: str

    @property
    def rgb(self) -> RGB:
        """The colour as numbers from 0 to 255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


_TABLE = (
    Mark("agreed", "", "agreed", "both readers read the same", "#1a7f37", "#57ab5a", "green", "none"),
    Mark("ocr", "O", "OCR", "taken from the OCR", "#0b62d6", "#6cb0ff", "blue", "solid 2px"),
    Mark("vlm", "V", "VLM", "taken from the vision-language model", "#b35900", "#f0a04b", "yellow", "dashed 2px"),
    Mark(
        "lexicon",
        "L",
        "lexicon",
        "taken from the list of expected words",
        "#8033b3",
        "#c99bf2",
        "magenta",
        "dotted 3px",
    ),
    Mark("human", "H", "human", "entered by a person", "#0f6e78", "#4fc1cc", "cyan", "double 1px"),
    Mark(
        "supplied",
        "S",
        "supplied",
        "NOT on the paper: completed from the context",
        "#c11f2d",
        "#ff8b85",
        "red",
        "wavy 1px",
    ),
    Mark("gap", "G", "gap", "ink that nobody can read", "#c11f2d", "#ff8b85", "red reverse", "none"),
)
MARKS: Mapping[Source, Mark] = MappingProxyType({mark.source: mark for mark in _TABLE})


def visible(text: str) -> str:
    r"""Text that is safe to show: control characters as pictures, direction overrides as their code.

    A reading is whatever a model answered; an escape sequence must not move the cursor of a terminal, and a
    right-to-left override must not show a dose backwards.

    >>> visible("5\x1b[31m mg")
    '5␛[31m mg'
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTION:
        return f"⟨U+{code:04X}⟩"
    return character


_DIRECTION = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def percent(value: float | None) -> str:
    """A confidence for people: never 100 % unless it is 1, and a dash when unknown.

    >>> percent(0.998), percent(1.0), percent(None)
    ('99 %', '100 %', '–')
    """
    return "–" if value is None else f"{int(value * 100 + 1e-9)} %"


def alternatives(candidates: tuple[Candidate, ...]) -> str:
    """Alternatives on one row, best first; an empty one means that nothing stands there."""
    return ", ".join(f"{_quoted(item.text)} {percent(item.probability)}" for item in candidates)


def _quoted(text: str) -> str:
    return f"“{visible(text)}”" if text else "nothing"


def describe(span: Span) -> str:
    """One row for a tooltip: source, rule, confidence, alternatives."""
    parts = [MARKS[span.source].label, span.because, f"confidence {percent(span.confidence)}"]
    if span.alternatives:
        parts.append(f"or {alternatives(span.alternatives)}")
    return " · ".join(parts)
