"""Sums as pupils write them: found in a line, evaluated exactly, and checked; nothing is corrected.

Precedence climbing (Richards 1979) over `fractions.Fraction`; lengths and depths are bounded.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import regex

MOST, DEEPEST = 200, 30
"""Longest text, characters, and deepest nesting of brackets."""
_LEAD = regex.compile(
    r"^\s*(?:[（(]\s*\d{1,3}\s*[)）]|\d{1,3}\s*[、．)）]|\d{1,3}\.(?!\d)|[①-⑳]|[Qq]\d{1,3}[.:：]?)\s*"
)
_TOKEN = regex.compile(r"(?P<number>\d+(?:\.\d+)?|[½¼¾⅓⅔])|(?P<sign>[-+×xX*·÷/:()（）%−–])|(?P<space>\s+)")
_RELATION = regex.compile(r"[=＝<>≤≥≠≈]")
_REST = regex.compile(r"^(?P<whole>\s*\d+)\s*(?:…+|⋯+|\.{3,6}|余)\s*(?P<rest>\d+)\s*$")
_STATEMENT = regex.compile(r"(?:[\d½¼¾⅓⅔.\s+×xX*·÷/:()（）%−–…⋯余=＝<>≤≥≠≈-])+")
_VULGAR = {"½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4), "⅓": Fraction(1, 3), "⅔": Fraction(2, 3)}
_OPERATORS: dict[str, tuple[int, Callable[[Fraction, Fraction], Fraction]]] = {
    "+": (1, operator.add),
    **dict.fromkeys("-−–", (1, operator.sub)),
    **dict.fromkeys("×xX*·", (2, operator.mul)),
    **dict.fromkeys("÷/:", (2, operator.truediv)),
}
"""Sign → precedence and operation."""
_RELATIONS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "=": operator.eq,
    "＝": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "≤": operator.le,
    "≥": operator.ge,
    "≠": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Sum:
    """A statement of arithmetic.

    Attributes:
        start, end: code points of the text, half-open.
        holds: whether it is true; None for ≈ and division by zero.
        left, right: values of the first two sides, or None.
    """

    start: int
    end: int
    holds: bool | None
    left: Fraction | None = None
    right: Fraction | None = None


class _NoSum(Exception):
    """The text is no expression."""


def check(text: str, start: int = 0) -> Sum | None:
    """The first statement in a line from `start` on, if any: at least one operation, one relation, and arithmetic alone.

    The number of an exercise at the start of the line is skipped.

    >>> check("(1) 7+5=13").holds, check("7÷2=3…1").holds, check("x+1=2"), check("7+5=")
    (False, True, None, None)
    """
    lead = _LEAD.match(text)
    begin = max(start, lead.end() if lead else 0)
    if len(text) > MOST:
        return None
    for match in _STATEMENT.finditer(text, begin):
        around = text[max(begin, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        if _RELATION.search(match[0]) and not any(c.isascii() and c.isalpha() for c in around):  # else: algebra
            found = _statement(match[0].rstrip(), match.start())
            if found is not None:
                return found
    return None


def _statement(text: str, start: int) -> Sum | None:
    """A stretch with relations as a sum, or None."""
    end = start + len(text)
    text = text.lstrip()
    start = end - len(text)
    signs, sides = _RELATION.findall(text), _RELATION.split(text)
    if not any(regex.search(r"[+×xX*·÷/:−–-]|%", side.strip().lstrip("-")) for side in sides):
        return None
    try:
        rest = _REST.match(sides[-1])
        if len(sides) == 2 and rest is not None and signs == ["="]:
            return _with_rest(sides[0], rest, start, end)
        values = [_value(side) for side in sides]
    except _NoSum:
        return None
    except ZeroDivisionError:
        return Sum(start, end, None)
    holds = None
    if all(sign in _RELATIONS for sign in signs):
        holds = all(_RELATIONS[sign](a, b) for sign, (a, b) in zip(signs, itertools.pairwise(values), strict=True))
    return Sum(start, end, holds, values[0], values[1])


def _with_rest(left: str, rest: regex.Match[str], start: int, end: int) -> Sum:
    """7÷2=3…1: quotient and remainder, as Chinese primary schools write them."""
    parts = regex.split(r"[÷/]", left)
    if len(parts) != 2:
        raise _NoSum
    dividend, divisor = (_value(part) for part in parts)
    quotient, remainder = Fraction(int(rest["whole"])), Fraction(int(rest["rest"]))
    holds = dividend == quotient * divisor + remainder and 0 <= remainder < abs(divisor)
    return Sum(start, end, holds, dividend, quotient * divisor + remainder)


def _value(text: str) -> Fraction:
    """Value of an expression; raises _NoSum if it is none."""
    tokens: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _NoSum
        if match["space"] is None:
            tokens.append(match[0].replace("（", "(").replace("）", ")"))
        elif tokens and tokens[-1][-1].isdigit() and text[match.end() : match.end() + 1].isdigit():
            raise _NoSum  # two numbers side by side
        place = match.end()
    value, used = _climb(tokens, 0, 1, 0)
    if used != len(tokens):
        raise _NoSum
    return value


def _climb(tokens: list[str], place: int, least: int, depth: int) -> tuple[Fraction, int]:
    """Value of the longest expression from a place with operators of at least a precedence, and where it ends."""
    value, place = _atom(tokens, place, depth)
    while place < len(tokens) and tokens[place] in _OPERATORS:
        precedence, operation = _OPERATORS[tokens[place]]
        if precedence < least:
            break
        right, place = _climb(tokens, place + 1, precedence + 1, depth)
        value = operation(value, right)
    return value, place


def _atom(tokens: list[str], place: int, depth: int) -> tuple[Fraction, int]:
    if place >= len(tokens) or depth > DEEPEST:
        raise _NoSum
    token = tokens[place]
    if token in "-−–":
        value, place = _atom(tokens, place + 1, depth + 1)
        return -value, place
    if token == "(":
        value, place = _climb(tokens, place + 1, 1, depth + 1)
        if place >= len(tokens) or tokens[place] != ")":
            raise _NoSum
        place += 1
    elif token in _VULGAR or token[0].isdigit():
        value, place = _VULGAR.get(token) or Fraction(token), place + 1
    else:
        raise _NoSum
    while place < len(tokens) and tokens[place] == "%":
        value, place = value / 100, place + 1
    return value, place
