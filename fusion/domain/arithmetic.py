"""Sums as pupils write them: found in a line, evaluated exactly, and checked; nothing is corrected."""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import regex

MOST, DEEPEST = 200, 30
"""Longest text, characters, and deepest brackets."""
_LEAD = regex.compile(
    r"^\s*(?:[（(]\s*\d{1,3}\s*[)）]|\d{1,3}\s*[、．)）]|\d{1,3}\.(?!\d)|[①-⑳]|[Qq]\d{1,3}[.:：]?)\s*"
)
_NUMBER = regex.compile(r"\d+(?:\.\d+)?|[½¼¾⅓⅔]")
_RELATION = regex.compile(r"[=＝<>≤≥≠≈]")
_REST = regex.compile(r"^(?P<whole>\s*\d+)\s*(?:…+|⋯+|\.{3,6}|余)\s*(?P<rest>\d+)\s*$")
_STATEMENT = regex.compile(r"(?:[\d½¼¾⅓⅔.\s+×xX*·÷/:()（）%−–…⋯余=＝<>≤≥≠≈-])+")
_VULGAR = {"½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4), "⅓": Fraction(1, 3), "⅔": Fraction(2, 3)}
_BAR = regex.compile(r"(?<![\d.])(\d+)\s*/\s*(\d+)(?![\d.])")
_SIGNS = str.maketrans("−–×xX·÷:（）", "--****//()")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
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
    """Value of an expression, read by Python's parser with names for numbers; raises _NoSum if it is none."""
    numbers: dict[str, Fraction] = {}

    def named(match: regex.Match[str]) -> str:
        name = f"n{len(numbers)}"
        numbers[name] = _VULGAR.get(match[0]) or Fraction(match[0])
        return f" {name} "

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Name(id=name) if name in numbers:
                return numbers[name]
            case ast.Attribute(value=inner, attr="percent"):
                return value(inner) / 100
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
                return _OPERATIONS[type(sign)](value(left), value(right))
        raise _NoSum

    if "÷" in text:  # then / is the bar of a fraction, which binds closer
        text = _BAR.sub(r"(\1/\2)", text)
    plain = " ".join(text.translate(_SIGNS).split())
    depths = itertools.accumulate((character == "(") - (character == ")") for character in plain)
    if max(depths, default=0) > DEEPEST:
        raise _NoSum
    plain = _NUMBER.sub(named, plain).replace("%", ".percent ")
    try:
        return value(ast.parse(plain.strip(), mode="eval").body)
    except SyntaxError as error:
        raise _NoSum from error
