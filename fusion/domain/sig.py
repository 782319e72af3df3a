"""Directions for use: what a line of a prescription says about strength, dose, route, frequency and duration.

Knows one line's text and the terms of `sig.tsv` (written for this project from common usage); knows no page. What can't be
parsed stays text. Values use the names of FHIR R4 `Timing.repeat` and `Quantity`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.resources import files

import regex

from fusion.page import Value

MOST = 400
"""Longer lines are no directions."""
_CHINESE = {**{c: n for n, c in enumerate("零一二三四五六七八九十")}, "两": 2, "〇": 0}
_VULGAR = {"½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4), "⅓": Fraction(1, 3), "⅔": Fraction(2, 3)}
_NUMBER = r"(?:\d{1,6}\s?/\s?[2-9](?!\d)|\d{0,6}[.]\d{1,4}|\d{1,6}(?:,\d{3})*|[½¼¾⅓⅔]|[一二两三四五六七八九十半])"
_UNSURE = r"(?:[A-Za-z|]|[0-9OolI|]{1,5})"
"""What may stand for a number and can't be read as one: `I cap`, `1O ml`; in `每次粒` none is left."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a line, half-open in code points, and what it says; an empty value could not be parsed."""

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
    """All terms, lower-case, and the words that directions are written with."""
    words = {"take", "for", "times", "every", "with", "water", "rx", "sig", "disp", "x", "q"}
    return frozenset(words | {word for kind in _terms().values() for term in kind for word in term.split()})


def number(text: str) -> float | None:
    """The value of a number as prescriptions write it, or None.

    >>> number("1/2"), number("½"), number("两"), number("1,000"), number("I")
    (0.5, 0.5, 2.0, 1000.0, None)
    """
    plain = text.replace(" ", "").replace(",", "")
    if plain in _VULGAR:
        return float(_VULGAR[plain])
    if plain == "半":
        return 0.5
    if plain in _CHINESE:
        return float(_CHINESE[plain])
    if regex.fullmatch(r"\d+/\d+", plain):
        below = int(plain.partition("/")[2])
        return int(plain.partition("/")[0]) / below if below else None
    return float(plain) if regex.fullmatch(r"\d+|\d*\.\d+", plain) else None


def _any(kind: str) -> str:
    """A pattern for the terms of a kind, longest first; Latin ones stand between word borders."""
    found = sorted(_terms()[kind], key=lambda term: (-len(term), term))
    latin = [regex.escape(t.rstrip(".")) + r"\.?" for t in found if t[0].isascii() and t[0].isalpha()]
    others = [regex.escape(t) for t in found if not (t[0].isascii() and t[0].isalpha())]
    end = r"(?![A-Za-z]|(?<=[.]\w)[.][A-Za-z])"  # p.r.n. is not p.r.
    return "(?:" + "|".join([*([rf"(?:{'|'.join(latin)}){end}"] if latin else []), *others]) + ")"


@cache
def _patterns() -> tuple[tuple[str, regex.Pattern[str]], ...]:
    """Name → pattern, in the order in which they may claim their stretch."""
    unit, form, time = _any("unit"), _any("form"), _any("time")
    amount = rf"(?P<amount>{_NUMBER})\s?(?P<unit>{unit})"
    border = r"(?<![A-Za-z\d.])"
    made = {
        "quantity": rf"(?:(?:#|disp\.?|no\.|共|total)\s?(?P<count>\d{{1,4}})\s?(?P<form>{form})?(?!\s?{time})|[x×]\s?(?P<count2>\d{{1,4}})\s?(?P<form2>box(?:es)?|盒|瓶|袋|支))",
        "duration": rf"(?:(?:[x×*]|for|共|连服|连用|用)\s?(?P<amount>{_NUMBER})\s?(?P<unit>{time})|{border}(?P<amount2>{_NUMBER})\s?(?P<unit2>days?|weeks?|months?|wks?)(?![A-Za-z]))",
        "frequency": rf"(?:{border}{_any('frequency')}|{border}q\.?\s?(?P<every>\d{{1,2}})\s?h(?:rs?|ourly)?(?![A-Za-z])\.?|{border}every\s(?P<every2>\d{{1,2}})\s(?:hours?|hrs?)|每\s?(?P<every3>\d{{1,2}}|[一二两三四六八])\s?(?:个)?小时(?:一次|1次)?|{border}(?P<times>\d|two|three|four)\stimes\s(?:a\sday|daily|per\sday)|[每一][日天]\s?(?P<times2>\d|[一二两三四])\s?次|{border}(?P<morning>[0-3½])\s?[+\-–]\s?(?P<noon>[0-3½])\s?[+\-–]\s?(?P<night>[0-3½])(?![\d+\-–]))",
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
    """Stretches of a line that say something about how a drug is taken, in the order of the line, none over another.

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
    value = _VALUES[name](match)
    if name == "unread":
        return Part("dose", start, end)
    said = text[:start].rstrip().endswith(("每次", "一次")) or match[0].startswith(("每次", "一次"))
    if name == "strength" and (said or regex.search(r"(?:take|sig[:.]?)\s*$", text[:start], regex.IGNORECASE)):
        name = "dose"
    return Part(name, start, end, value)


def _term(kind: str, term: str) -> Value:
    plain = term.casefold().strip().rstrip(".")
    return dict(_terms()[kind].get(plain) or _terms()[kind].get(plain + ".") or {})


def _quantity(match: regex.Match[str]) -> Value:
    count, form = match["count"] or match["count2"], match["form"] or match["form2"]
    return {"value": float(count), **(_term("form", form) if form else {})}


def _duration(match: regex.Match[str]) -> Value:
    value = number(match["amount"] or match["amount2"])
    unit = _term("time", match["unit"] or match["unit2"])
    return {"value": value, **unit} if value is not None and unit else {}


def _frequency(match: regex.Match[str]) -> Value:
    every = match["every"] or match["every2"] or match["every3"]
    if every:
        hours = number(every)
        return {"frequency": 1, "period": hours, "periodUnit": "h"} if hours else {}
    if match["times"] or match["times2"]:
        count = {"two": 2, "three": 3, "four": 4}.get((match["times"] or "").casefold()) or number(
            match["times"] or match["times2"]
        )
        return {"frequency": int(count), "period": 1, "periodUnit": "d"} if count else {}
    if match["morning"]:
        doses = [number(match[name]) or 0.0 for name in ("morning", "noon", "night")]
        taken = sum(dose > 0 for dose in doses)
        return {"frequency": taken, "period": 1, "periodUnit": "d"} if taken else {}
    return _term("frequency", match[0])


def _strength(match: regex.Match[str]) -> Value:
    value, unit = number(match["amount"]), _term("unit", match["unit"])
    if value is None or not unit:
        return {}
    found: Value = {"value": value, **unit}
    if match["perunit"]:
        per = number(match["per"]) if match["per"] else 1.0
        below = _term("unit", match["perunit"]) or _term("form", match["perunit"])
        if per is None or not below:
            return {}
        found |= {"per_value": per, "per_unit": below["unit"]}
    return found


def _dose(match: regex.Match[str]) -> Value:
    value, unit = number(match["amount"]), _term("form", match["unit"])
    return {"value": value, **unit} if value is not None and unit else {}


_VALUES: dict[str, Callable[[regex.Match[str]], Value]] = {
    "quantity": _quantity,
    "duration": _duration,
    "frequency": _frequency,
    "strength": _strength,
    "dose": _dose,
    "unread": lambda match: {},
    "route": lambda match: _term("route", match[0]),
    "when": lambda match: _term("when", match[0]),
    "as_needed": lambda match: _term("as_needed", match[0]),
    "form": lambda match: _term("form", match[0]),
}
