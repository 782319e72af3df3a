"""Arithmetic in columns: vertical sums and long divisions, found by where their numbers stand on the page.

A column is numbers below each other with nothing else between. A sign may stand on the left of its number as a line by
itself, and so does the divisor of a long division, whose quotient stands above the dividend.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import regex

from fusion.page import Line

APART = 2.0
"""Greatest white space between two numbers of a column, and between a number and what stands on its left, in heights of the
number."""
_ROW = regex.compile(
    r"\s*(?:(?P<divisor>\d+)\s*[)）])?\s*(?P<sign>[-+–—×xX*]?)\s*(?P<number>\d+(?:\.\d+)?|\d(?:\s\d)+)\s*"
)
"""A number, the digits of which may stand apart, with its sign or divisor."""
_SIGN = regex.compile(r"\s*(?P<sign>[-+–—×xX*十一])\s*")
"""A sign by itself; a cross and a stroke may have been read as Chinese."""
_SIGNS = {"–": "-", "—": "-", "一": "-", "十": "+", "x": "×", "X": "×", "*": "×"}
_SUM = regex.compile(r"(?<![-+×])0(?:[-+]+|×)0(?![-+×])")
"""The signs of a vertical sum's rows, 0 for a row without; not of a column that goes on."""
_LADDER = regex.compile(r"0÷[-0]{2,}")
"""The same of a long division: quotient, dividend with its divisor, products and remainders."""


@dataclass(frozen=True, slots=True)
class Row:
    """A number of a column. `sign`: + - × or ""; `beside`: its sign or divisor where that is a line by itself."""

    line: Line
    number: str
    sign: str = ""
    divisor: str = ""
    beside: Line | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that are one sum in columns, and the same on one line: 456+278=734, 74÷4=18…2."""

    lines: tuple[Line, ...]
    written: str


def blocks(lines: Sequence[Line]) -> list[Block]:
    """The vertical sums and long divisions of a page."""
    columns, signs = _columns(lines)
    singles = [column[0] for column in columns if len(column) == 1]
    found = []
    for column in columns:
        rows = [_with_beside(row, number, singles, signs) for number, row in enumerate(column)]
        kinds = "".join("÷" if row.divisor else row.sign or "0" for row in rows)
        for match in itertools.chain(_SUM.finditer(kinds), _LADDER.finditer(kinds)):
            own = rows[slice(*match.span())]
            members = [line for row in own for line in (row.beside, row.line) if line is not None]
            found.append(Block(tuple(members), _division(own) if own[1].divisor else _sum(own)))
    return found


def _sum(rows: Sequence[Row]) -> str:
    *terms, result = rows
    return "".join(f"{row.sign}{row.number}" for row in terms) + f"={result.number}"


def _division(rows: Sequence[Row]) -> str:
    quotient, dividend, rest = rows[0], rows[1], rows[-1]
    left = "" if set(rest.number) == {"0"} else f"…{rest.number}"
    return f"{dividend.number}÷{dividend.divisor}={quotient.number}{left}"


def _columns(lines: Sequence[Line]) -> tuple[list[list[Row]], list[Line]]:
    """Numbers by the column that they stand in, from top to bottom, and the signs; other text ends a column."""
    open_ones: list[list[Row]] = []
    closed: list[list[Row]] = []
    signs = []
    for line in sorted(lines, key=lambda line: _extent(line, 1)):
        if _SIGN.fullmatch(line.text):
            signs.append(line)
            continue
        match = _ROW.fullmatch(line.text)
        own = [column for column in open_ones if _overlap(column[-1].line, line, 0) > 0]
        if match is not None and len(own) == 1 and _apart(own[0][-1].line, line, 1) <= APART:
            own[0].append(_row(line, match))
            continue
        closed += own
        open_ones = [column for column in open_ones if column not in own]
        if match is not None:
            open_ones.append([_row(line, match)])
    return closed + open_ones, signs


def _row(line: Line, match: regex.Match[str]) -> Row:
    number = unicodedata.normalize("NFKC", "".join(match["number"].split()))
    return Row(line, number, _SIGNS.get(match["sign"], match["sign"]), match["divisor"] or "")


def _with_beside(row: Row, number: int, singles: Sequence[Row], signs: Sequence[Line]) -> Row:
    """A row with the sign, or for the second row of a column the divisor, that is a line by itself on its left."""
    if row.sign or row.divisor:
        return row
    for line in signs:
        if _level(line, row.line):
            sign = _SIGN.fullmatch(line.text)
            return replace(row, sign=_SIGNS.get(sign["sign"], sign["sign"]), beside=line) if sign else row
    for single in singles if number == 1 else ():
        if not single.sign and _level(single.line, row.line):
            return replace(row, divisor=single.number, beside=single.line)
    return row


def _level(left: Line, right: Line) -> bool:
    """Whether a line stands close on the left of another one, at its height."""
    height = min(b - a for a, b in (_extent(left, 1), _extent(right, 1)))
    return (
        _overlap(left, right, 1) > height / 2
        and _extent(left, 0) < _extent(right, 0)
        and _apart(left, right, 0) <= APART
    )


def _extent(line: Line, axis: int) -> tuple[float, float]:
    """From where to where a line goes along an axis, px."""
    values = [point[axis] for point in line.polygon]
    return min(values), max(values)


def _overlap(line: Line, other: Line, axis: int) -> float:
    """How much of an axis two lines share, px; negative: the space between them."""
    (a, b), (c, d) = _extent(line, axis), _extent(other, axis)
    return min(b, d) - max(a, c)


def _apart(line: Line, other: Line, axis: int) -> float:
    """Space between two lines along an axis, in heights of the second."""
    top, bottom = _extent(other, 1)
    return -_overlap(line, other, axis) / max(bottom - top, 1.0)
