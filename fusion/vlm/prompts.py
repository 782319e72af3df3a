"""What a model is asked: prompts as data (`prompts.json`) with an id and a hash, filled in with what the OCR saw.

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

DOUBT_BELOW = 0.9  # a position whose best candidate is less probable than this is shown with its candidates
MOST_DOUBTS = 12  # positions shown, the most doubtful ones: more would bury the instructions
MOST_CANDIDATES = 4  # per position

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_HAN = regex.compile(r"\p{Han}")
_NOTHING = {"zh": "无", "en": "none"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question ready to be asked."""

    id: str  # name and first 8 hex digits of the template's SHA-256, e.g. `informed-zh@1a2b3c4d`
    text: str  # filled in


@cache
def _templates() -> dict[str, list[str]]:
    """Name → paragraphs."""
    text = files("fusion.vlm").joinpath("prompts.json").read_text(encoding="utf-8")
    templates: dict[str, list[str]] = json.loads(text)
    return templates


def render(kind: Kind, language: Language, query: Query, strict: bool = False) -> Prompt:
    """Fill a prompt in for one crop.

    Args:
        kind: `blind` shows nothing of the OCR's reading, `informed` all of it, `glm_ocr` is a fixed short prompt.
        language: `auto` follows the script of the OCR's reading: Chinese if it holds Han characters, else English.
        query: crop and OCR reading.
        strict: repeat at the end that nothing but the transcription is wanted; `glm_ocr` is fixed and ignores it.
    """
    spoken = ("zh" if _HAN.search(query.ocr_text) else "en") if language == "auto" else language
    names = [kind] if kind == "glm_ocr" else [f"{kind}-{spoken}", *([f"strict-{spoken}"] if strict else [])]
    paragraphs = [paragraph for name in names for paragraph in _templates()[name]]
    sha256 = hashlib.sha256("\n".join(paragraphs).encode()).hexdigest()
    reading = query.line.reading
    values = {
        "reading": on_one_row(query.ocr_text),
        "doubtful": doubtful(reading, _NOTHING[spoken]) if reading is not None else "",
        "before": on_one_row(query.before),
        "after": on_one_row(query.after),
        "instructions": query.instructions.strip(),
    }
    filled = [
        _PLACEHOLDER.sub(lambda match: values[match.group(1)], paragraph)
        for paragraph in paragraphs
        if all(values[name] for name in _PLACEHOLDER.findall(paragraph))
    ]
    return Prompt(f"{names[0]}{'+strict' if len(names) > 1 else ''}@{sha256[:8]}", "\n".join(filled))


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
        # An optional position is the more doubtful the more probable its character is, any other the less probable.
        doubt = best if position.optional else 1.0 - best
        rows.append((doubt, index, f"{where}: {_candidates(position, nothing)}"))
    most = sorted(rows, key=lambda row: (-row[0], row[1]))[:MOST_DOUBTS]
    return "\n".join(text for _, _, text in sorted(most, key=lambda row: row[1]))


def _candidates(position: Position, nothing: str) -> str:
    """`未 .52 | 末 .41`; an optional position always names the possibility that nothing stands there."""
    best = position.candidates[:MOST_CANDIDATES]
    shown = [f"{on_one_row(c.text) or nothing} {f'{c.probability:.2f}'.removeprefix('0')}" for c in best]
    if position.optional and all(candidate.text for candidate in best):
        shown.append(nothing)
    return " | ".join(shown)
