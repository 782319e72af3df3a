"""Arithmetic in columns: vertical sums and long divisions, found by where their numbers stand on the page.

A column is numbers below each other with nothing else between. A sign may stand on the left of its number as a line by
itself, and so does the divisor of a long division, whose quotient stands above the dividend.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import regex

from fusion.page import Line
from fusion.placement import Extent, extent, overlap

APART = 2.0
"""Greatest white space between two numbers of a column, and between a number and what stands on its left, in heights of the
number."""
_ROW = regex.compile(
    r"\s*(?:(?P<divisor>\d+)\s*[)）])?\s*(?P<sign>[-+−–—×xX*]?)\s*(?P<number>\d+(?:\.\d+)?|\d(?:\s\d)+)\s*"
)
"""A number, the digits of which may stand apart, with its sign or divisor."""
_SIGN = regex.compile(r"\s*([-+−–—×xX*十一])\s*")
"""A sign by itself; a cross and a stroke may have been read as Chinese."""
_SIGNS = {"−": "-", "–": "-", "—": "-", "一": "-", "十": "+", "x": "×", "X": "×", "*": "×"}
_BLOCK = regex.compile(r"0÷[-0]{2,}(?!÷)|(?<![-+×])0(?:[-+]+0|×0+)(?![-+×÷])")
"""The rows of a long division (quotient, dividend with its divisor, products and remainders), of a vertical sum, or of a long
multiplication with its partial products: the sign of each, 0 for a row without."""
ON = 0.3
"""How far a sign may stand over its number, in heights of the number; further, it is a stroke across it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A number of a column.

    Attributes:
        line: where it stands.
        box: of the line, along the writing, px.
        number: its digits, without spaces.
        sign: + - × or "".
        divisor: digits on its left before a bracket, or a line by themselves.
        spaced: its digits stand apart.
        beside: its sign or divisor where that is a line by itself.
    """

    line: Line
    box: Extent
    number: str
    sign: str = ""
    divisor: str = ""
    spaced: bool = False
    beside: Line | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that are one sum in columns.

    Attributes:
        lines: from top to bottom, what stands beside a number before it.
        written: the same on one line: 456+278=734, 74÷4=18…2.
        worked: there are rows of the work between the numbers and the result.
    """

    lines: tuple[Line, ...]
    written: str
    worked: bool


def blocks(lines: Sequence[Line], angle: float, text: Callable[[Line], str] = lambda line: line.text) -> list[Block]:
    """The vertical sums and long divisions of a page.

    Args:
        lines: of the page.
        angle: of the page.
        text: what a line says; its transcript, or what one reader has.
    """
    found = []
    for rows in _columns(lines, angle, text):
        for match in _BLOCK.finditer("".join("÷" if row.divisor else row.sign or "0" for row in rows)):
            own = rows[slice(*match.span())]
            division = bool(own[1].divisor)
            if _is_ladder(own) if division else not any(row.spaced for row in own):
                members = tuple(line for row in own for line in (row.beside, row.line) if line is not None)
                worked = not division and not all(row.sign for row in own[1:-1])
                found.append(Block(members, _division(own) if division else _sum(own), worked))
    return found


def _sum(rows: Sequence[Row]) -> str:
    first, *others = rows
    return first.number + "".join(f"{row.sign}{row.number}" for row in others if row.sign) + f"={rows[-1].number}"


def _division(rows: Sequence[Row]) -> str:
    quotient, dividend, *_, before, rest = rows
    even = rest.number == before.number or not float(rest.number)  # the last 0 may be left out
    return f"{dividend.number}÷{dividend.divisor}={quotient.number}" + ("" if even else f"…{rest.number}")


def _is_ladder(rows: Sequence[Row]) -> bool:
    """Whether what stands below a dividend is the work of a division: its first row is the divisor times a digit above."""
    quotient, dividend, product, *_ = rows
    products = {str(int(dividend.divisor) * int(digit)) for digit in quotient.number if digit in "123456789"}
    return product.number in products


def _columns(lines: Sequence[Line], angle: float, text: Callable[[Line], str]) -> list[list[Row]]:
    """Numbers by the column that they stand in, from top to bottom, with what stands beside them."""
    boxes = {line.id: extent(line.polygon, angle) for line in lines}
    ordered = sorted(lines, key=lambda line: boxes[line.id][1])
    rows = {line.id: row for line in ordered if (row := _row(line, boxes[line.id], text(line))) is not None}
    signs = {line.id: match[1] for line in ordered if (match := _SIGN.fullmatch(text(line)))}
    for line in (line for line in ordered if line.id in signs):
        bare = [row for row in rows.values() if not row.sign and not row.divisor]
        if (owner := _right_of(boxes[line.id], bare)) is not None:
            rows[owner.line.id] = replace(owner, sign=_SIGNS.get(signs[line.id], signs[line.id]), beside=line)
    columns = _stacked([(rows.get(line.id), boxes[line.id]) for line in ordered if line.id not in signs])
    tall = [column for column in columns if len(column) > 1]
    lone = [column[0] for column in columns if len(column) == 1]
    for single in (row for row in lone if not row.sign and row.number.isdecimal()):
        for column in tall:
            if not column[1].sign and not column[1].divisor and _right_of(single.box, [column[1]]) is not None:
                column[1] = replace(column[1], divisor=single.number, beside=single.line)
    return tall


def _row(line: Line, own: Extent, text: str) -> Row | None:
    match = _ROW.fullmatch(text)
    if match is None:
        return None
    parts = match["number"].split()
    number = unicodedata.normalize("NFKC", "".join(parts))
    return Row(line, own, number, _SIGNS.get(match["sign"], match["sign"]), match["divisor"] or "", len(parts) > 1)


def _stacked(placed: Sequence[tuple[Row | None, Extent]]) -> list[list[Row]]:
    """Columns of rows from top to bottom; other text (None) ends a column."""
    open_ones: list[list[Row]] = []
    closed: list[list[Row]] = []
    for row, own in placed:
        above = [column for column in open_ones if overlap(_around(column), own, 0) > 0]
        if row is not None and len(above) == 1 and -overlap(above[0][-1].box, own, 1) <= APART * _height(own):
            above[0].append(row)
            continue
        closed += above
        open_ones = [column for column in open_ones if column not in above]
        if row is not None:
            open_ones.append([row])
    return closed + open_ones


def _around(column: Sequence[Row]) -> Extent:
    lefts, tops, rights, bottoms = zip(*(row.box for row in column), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _right_of(own: Extent, rows: Sequence[Row]) -> Row | None:
    """The nearest row close on the right of a box, at its height."""
    near = [
        row
        for row in rows
        if own[0] < row.box[0]
        and overlap(own, row.box, 0) <= ON * _height(row.box)
        and overlap(own, row.box, 1) > min(_height(own), _height(row.box)) / 2
        and -overlap(own, row.box, 0) <= APART * _height(row.box)
    ]
    return min(near, key=lambda row: row.box[0], default=None)


def _height(own: Extent) -> float:
    return max(own[3] - own[1], 1.0)
