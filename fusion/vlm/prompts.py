"""What a model is asked: prompts as data with an id and a hash, filled in with what the OCR saw.

Knows the wording (`prompts.json`) and how an OCR reading is shown to a model; knows no model, no HTTP, and never looks
at the image.

A prompt is a list of paragraphs; a paragraph with a placeholder that has nothing to show is left out. Text from the
page is put in by one pass over the template, so braces in it mean nothing, and on one row with `<|` taken apart, so it
can neither start a paragraph of its own nor pass for a control token of a chat template.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import regex

from fusion.page import Position, Reading
from fusion.vlm.protocol import Query

Kind = Literal["blind", "informed", "glm_ocr"]
Language = Literal["auto", "zh", "en"]

DOUBT_BELOW = 0.9
"""A position whose best candidate is less probable than this is shown with its candidates."""
MOST_DOUBTS = 12
"""More hesitations than this would bury the instructions; the most doubtful are shown."""
MOST_CANDIDATES = 4
"""Candidates shown per position."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_HAN = regex.compile(r"\p{Han}")
_NOTHING = {"zh": "无", "en": "none"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question ready to be asked.

    Attributes:
        id: name and first 8 hex digits of the template's SHA-256, e.g. `informed-zh@1a2b3c4d`.
        text: the question, filled in.
    """

    id: str
    text: str


@cache
def _templates() -> dict[str, list[str]]:
    """The packaged prompts, paragraph by paragraph."""
    templates: dict[str, list[str]] = json.loads(
        files("fusion.vlm").joinpath("prompts.json").read_text(encoding="utf-8")
    )
    return templates


def _hash(*names: str) -> str:
    """First 8 hex digits of the SHA-256 of the named templates, unfilled."""
    text = "\n".join(paragraph for name in names for paragraph in _templates()[name])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def render(kind: Kind, language: Language, query: Query, strict: bool = False) -> Prompt:
    """Fill a prompt in for one crop.

    Args:
        kind: `blind` shows nothing of the OCR's reading, `informed` all of it, `glm_ocr` is a fixed short prompt.
        language: `auto` follows the script of the OCR's reading: Chinese if it holds Han characters, else English.
        query: crop and OCR reading.
        strict: repeat at the end that nothing but the transcription is wanted; `glm_ocr` is fixed and ignores it.
    """
    if kind == "glm_ocr":
        return Prompt(f"glm_ocr@{_hash('glm_ocr')}", _templates()["glm_ocr"][0])
    spoken = _language(language, query.line.reading)
    names = [f"{kind}-{spoken}"] + ([f"strict-{spoken}"] if strict else [])
    values = _values(query, spoken)
    paragraphs = [paragraph for name in names for paragraph in _templates()[name]]
    filled = [_fill(paragraph, values) for paragraph in paragraphs]
    name = f"{kind}-{spoken}{'+strict' if strict else ''}"
    return Prompt(f"{name}@{_hash(*names)}", "\n".join(text for text in filled if text))


def on_one_row(text: str) -> str:
    """Text of a page as it is shown inside a prompt: white space collapsed, control tokens taken apart."""
    return " ".join(text.split()).replace("<|", "< |")


def doubtful(reading: Reading, nothing: str) -> str:
    """The positions where the OCR hesitates, one row each, in the order of the line.

    `3: 未 .52 | 末 .41` is the third place. An optional position stands between two places, hence `2-3: …`.
    """
    rows: list[tuple[float, int, str]] = []
    place = 0
    for index, position in enumerate(reading.positions):
        place += not position.optional
        best = max((c.probability for c in position.candidates if c.text or not position.optional), default=0.0)
        if not position.optional and best >= DOUBT_BELOW:
            continue
        where = f"{place}-{place + 1}" if position.optional else str(place)
        # A gap is the more doubtful the more probable its hidden character is, a place the less probable its best.
        doubt = best if position.optional else 1.0 - best
        rows.append((doubt, index, f"{where}: {_candidates(position, nothing)}"))
    most = sorted(rows, key=lambda row: (-row[0], row[1]))[:MOST_DOUBTS]
    return "\n".join(text for _, _, text in sorted(most, key=lambda row: row[1]))


def _candidates(position: Position, nothing: str) -> str:
    """`未 .52 | 末 .41`; an optional position always names the possibility that nothing stands there."""
    shown = [f"{on_one_row(c.text) or nothing} {_short(c.probability)}" for c in position.candidates[:MOST_CANDIDATES]]
    if position.optional and all(candidate.text for candidate in position.candidates[:MOST_CANDIDATES]):
        shown.append(nothing)
    return " | ".join(shown)


def _short(probability: float) -> str:
    """`.52`, and `1.00` for certainty."""
    return f"{probability:.2f}".removeprefix("0")


def _language(language: Language, reading: Reading | None) -> Literal["zh", "en"]:
    if language != "auto":
        return language
    return "zh" if reading is not None and _HAN.search(reading.text) else "en"


def _values(query: Query, language: Literal["zh", "en"]) -> dict[str, str]:
    """What the placeholders stand for; "" leaves the paragraph out."""
    reading = query.line.reading
    return {
        "reading": on_one_row(reading.text) if reading is not None else "",
        "doubtful": doubtful(reading, _NOTHING[language]) if reading is not None else "",
        "before": on_one_row(query.before),
        "after": on_one_row(query.after),
        "instructions": query.instructions.strip(),
    }


def _fill(paragraph: str, values: dict[str, str]) -> str:
    """One pass: what is put in is not looked at again."""
    names = _PLACEHOLDER.findall(paragraph)
    if any(not values[name] for name in names):
        return ""
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], paragraph)
