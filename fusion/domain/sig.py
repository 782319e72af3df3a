"""Directions for use: strength, dose, route, frequency and duration in a line of a prescription.

The terms in `sig.tsv` were written for this project from common usage. What can't be parsed stays text. Values use the names
of FHIR R4 `Timing.repeat` and `Quantity`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import regex

from fusion.page import Value

MOST = 400
"""Longest line that is parsed, characters."""
_NUMERALS = {
    **{numeral: float(n) for n, numeral in enumerate("零一二三四五六七八九十")},
    **{"〇": 0.0, "两": 2.0, "半": 0.5, "½": 1 / 2, "¼": 1 / 4, "¾": 3 / 4, "⅓": 1 / 3, "⅔": 2 / 3},
}
_SPELT = {"two": 2, "three": 3, "four": 4}
_NUMBER = r"(?:\d{1,6}\s?/\s?[2-9](?!\d)|\d{0,6}[.]\d{1,4}|\d{1,6}(?:,\d{3})*|[½¼¾⅓⅔]|[一二两三四五六七八九十半])"
_UNSURE = r"(?:[A-Za-z|]|[0-9OolI|]{1,5})"
"""What may be a misread number: `I cap`, `1O ml`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a line, half-open in code points, and its value; empty if it could not be parsed."""

    name: str
    start: int
    end: int
    value: Value = field(default_factory=dict)


@cache
def _terms() -> dict[str, dict[str, Value]]:
    """Kind → lower-case term → value."""
    table: dict[str, dict[str, Value]] = {}
    for row in (files("fusion.domain") / "sig.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        term, kind, value = row.split("\t")
        table.setdefault(kind, {})[term] = json.loads(value)
    return table


@cache
def terms() -> frozenset[str]:
    """All terms and other words of directions, lower-case."""
    words = {"take", "for", "times", "every", "with", "water", "rx", "sig", "disp", "da", "dd", "x", "q"}
    return frozenset(words | {word for kind in _terms().values() for term in kind for word in term.split()})


def number(text: str) -> float | None:
    """The value of a number as prescriptions write it, or None.

    >>> number("1/2"), number("½"), number("两"), number("1,000"), number("I")
    (0.5, 0.5, 2.0, 1000.0, None)
    """
    plain = text.replace(" ", "").replace(",", "")
    if plain in _NUMERALS:
        return _NUMERALS[plain]
    if fraction := regex.fullmatch(r"(\d+)/(\d+)", plain):
        above, below = int(fraction[1]), int(fraction[2])
        return above / below if below else None
    return float(plain) if regex.fullmatch(r"\d+|\d*\.\d+", plain) else None


def _any(kind: str) -> str:
    """A pattern for the terms of a kind, longest first; Latin ones end at a word border."""
    latin, others = [], []
    for term in sorted(_terms()[kind], key=lambda term: (-len(term), term)):
        if term[0].isascii() and term[0].isalpha():
            latin.append(regex.escape(term.rstrip(".")) + r"\.?")
        else:
            others.append(regex.escape(term))
    end = r"(?![A-Za-z]|(?<=[.]\w)[.][A-Za-z])"  # p.r.n. is not p.r.
    return "(?:" + "|".join([rf"(?:{'|'.join(latin)}){end}", *others] if latin else others) + ")"


@cache
def _patterns() -> tuple[tuple[str, regex.Pattern[str]], ...]:
    """Name and pattern, in the order in which they may claim a stretch."""
    unit, form, time = _any("unit"), _any("form"), _any("time")
    amount = rf"(?P<amount>{_NUMBER})\s?(?P<unit>{unit})"
    border = r"(?<![A-Za-z\d.])"
    quantity = rf"(?:#|disp\.?|no\.|共|total)\s?(?P<count>\d{{1,4}})\s?(?P<form>{form})?(?!\s?{time})"
    boxes = r"[x×]\s?(?P<count>\d{1,4})\s?(?P<form>box(?:es)?|盒|瓶|袋|支)"
    duration = rf"(?:[x×*]|for|共|连服|连用|用)\s?(?P<amount>{_NUMBER})\s?(?P<unit>{time})"
    days = rf"{border}(?<!\+)(?P<amount>{_NUMBER})\s?(?P<unit>days?|weeks?|months?|wks?)(?![A-Za-z])"
    frequency = (
        rf"{border}{_any('frequency')}",
        rf"{border}q\.?\s?(?P<hours>\d{{1,2}})\s?h(?:rs?|ourly)?(?![A-Za-z])\.?",
        rf"{border}every\s(?P<hours>\d{{1,2}})\s(?:hours?|hrs?)",
        r"每\s?(?P<hours>\d{1,2}|[一二两三四六八])\s?(?:个)?小时(?:一次|1次)?",
        rf"{border}(?P<times>\d|two|three|four)\stimes\s(?:a\sday|daily|per\sday)",
        r"[每一][日天]\s?(?P<times>\d|[一二两三四])\s?次",
        rf"{border}(?<![+\-–]\s?)(?P<morning>[0-3½])\s?[+\-–]\s?(?P<noon>[0-3½])\s?[+\-–]\s?(?P<night>[0-3½])(?![\d+\-–])",
    )
    made = {
        "quantity": f"(?:{quantity}|{boxes})",
        "duration": f"(?:{duration}|{days})",
        "frequency": f"(?:{'|'.join(frequency)})",
        "strength": rf"{border}{amount}(?:\s?/\s?(?P<per>{_NUMBER})?\s?(?P<perunit>{unit}|{form}))?",
        "dose": rf"(?:每次|一次|take\s|sig[:.]?\s)?{border}(?P<amount>{_NUMBER})\s?(?P<unit>{form})",
        "unread": rf"(?:(?<![A-Za-z\d])(?P<unread>{_UNSURE})\s|(?:每次|一次)\s?)(?P<unit>{form})",
        "route": rf"{border}{_any('route')}",
        "when": rf"{border}{_any('when')}",
        "as_needed": rf"{border}{_any('as_needed')}",
        "form": rf"{border}{form}\.?",
    }
    return tuple((name, regex.compile(pattern, regex.IGNORECASE)) for name, pattern in made.items())


def parse(text: str) -> tuple[Part, ...]:
    """Disjoint stretches of a line that say how a drug is taken, in the order of the line.

    >>> [(p.name, "1 cap tid x 7 days"[p.start : p.end]) for p in parse("1 cap tid x 7 days")]
    [('dose', '1 cap'), ('frequency', 'tid'), ('duration', 'x 7 days')]
    """
    if len(text) > MOST:
        return ()
    taken = [False] * len(text)
    found: list[Part] = []
    for name, pattern in _patterns():
        for match in pattern.finditer(text):
            start, end = match.span()
            if start < end and not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.append(_part(name, match, text))
    return tuple(sorted(found, key=lambda part: part.start))


def _part(name: str, match: regex.Match[str], text: str) -> Part:
    start, end = match.span()
    if name == "unread":
        return Part("dose", start, end)
    value = _VALUES[name](match) if name in _VALUES else _term(name, match[0])
    taken = text[:start].rstrip().endswith(("每次", "一次")) or match[0].startswith(("每次", "一次"))
    if name == "strength" and (taken or regex.search(r"(?:take|sig[:.]?)\s*$", text[:start], regex.IGNORECASE)):
        name = "dose"
    return Part(name, start, end, value)


def _term(kind: str, term: str) -> Value:
    plain = term.casefold().strip().rstrip(".")
    return dict(_terms()[kind].get(plain) or _terms()[kind].get(plain + ".") or {})


def _amount(kind: str, amount: str, unit: str) -> Value:
    value, known = number(amount), _term(kind, unit)
    return {"value": value, **known} if value is not None and known else {}


def _quantity(match: regex.Match[str]) -> Value:
    return {"value": float(match["count"]), **(_term("form", match["form"]) if match["form"] else {})}


def _frequency(match: regex.Match[str]) -> Value:
    if match["hours"]:
        hours = number(match["hours"])
        return {"frequency": 1, "period": hours, "periodUnit": "h"} if hours else {}
    if match["times"]:
        times = _SPELT.get(match["times"].casefold()) or number(match["times"])
    elif match["morning"]:
        times = sum((number(match[name]) or 0) > 0 for name in ("morning", "noon", "night"))
    else:
        return _term("frequency", match[0])
    return {"frequency": int(times), "period": 1, "periodUnit": "d"} if times else {}


def _strength(match: regex.Match[str]) -> Value:
    found = _amount("unit", match["amount"], match["unit"])
    if found and match["perunit"]:
        per = number(match["per"]) if match["per"] else 1.0
        below = _term("unit", match["perunit"]) or _term("form", match["perunit"])
        return found | {"per_value": per, "per_unit": below["unit"]} if per is not None and below else {}
    return found


_VALUES: dict[str, Callable[[regex.Match[str]], Value]] = {
    "quantity": _quantity,
    "duration": lambda match: _amount("time", match["amount"], match["unit"]),
    "frequency": _frequency,
    "strength": _strength,
    "dose": lambda match: _amount("form", match["amount"], match["unit"]),
}
"""Name of a pattern → value of its match; for the others, that of the term."""
