"""How a source looks: one table, so that picture, terminal and report agree; and text made safe to show.

Colour is never the only signal: every source but `agreed` has its letter and its own underline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion.page import Candidate, Source, Span

if TYPE_CHECKING:
    from jinja2 import Template


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


_EXPECTED = "taken from the list of expected words"
_SUPPLIED = "NOT on the paper: completed from the context"
_MARKS = (
    Mark("agreed", "", "agreed", "both readers read the same", "#1a7f37", "#57ab5a", "green", "none"),
    Mark("ocr", "O", "OCR", "taken from the OCR", "#0b62d6", "#6cb0ff", "blue", "solid 2px"),
    Mark("vlm", "V", "VLM", "taken from the vision-language model", "#b35900", "#f0a04b", "yellow", "dashed 2px"),
    Mark("lexicon", "L", "lexicon", _EXPECTED, "#8033b3", "#c99bf2", "magenta", "dotted 3px"),
    Mark("human", "H", "human", "entered by a person", "#0f6e78", "#4fc1cc", "cyan", "double 1px"),
    Mark("supplied", "S", "supplied", _SUPPLIED, "#c11f2d", "#ff8b85", "red", "wavy 1px"),
    Mark("gap", "G", "gap", "ink that nobody can read", "#c11f2d", "#ff8b85", "red reverse", "none"),
)
MARKS: dict[Source, Mark] = {mark.source: mark for mark in _MARKS}
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Text that is safe to show: control characters as pictures, direction overrides and lone surrogates as their code.

    A reading is whatever a model answered; an escape sequence must not move the cursor of a terminal, and a
    right-to-left override must not show a dose backwards.

    >>> visible("5\x1b[31m mg")
    '5␛[31m mg'
    """
    return _UNSAFE.sub(lambda match: _picture(ord(match[0])), text)


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def percent(value: float | None) -> str:
    """A confidence for people: never 100 % unless it is 1, and a dash when unknown.

    >>> percent(0.998), percent(1.0), percent(None)
    ('99 %', '100 %', '–')
    """
    return "–" if value is None else f"{int(value * 100 + 1e-9)} %"


def alternatives(candidates: tuple[Candidate, ...]) -> str:
    """Alternatives on one row, best first; an empty one means that nothing stands there."""
    texts = [f"“{visible(item.text)}”" if item.text else "nothing" for item in candidates]
    return ", ".join(f"{text} {percent(item.probability)}" for text, item in zip(texts, candidates, strict=True))


def describe(span: Span) -> str:
    """One row for a tooltip: source, rule, confidence, alternatives."""
    parts = [MARKS[span.source].label, span.because, f"confidence {percent(span.confidence)}"]
    if span.alternatives:
        parts.append(f"or {alternatives(span.alternatives)}")
    return " · ".join(parts)


def template(name: str, **filters: Any) -> Template:
    """A template of this folder, with autoescape on: a reading is whatever a model answered."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(visible=visible, percent=percent, **filters)
    return environment.from_string((files("fusion.output") / name).read_text(encoding="utf-8"))
