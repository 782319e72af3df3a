"""Quantities of a text: what is sacred in a dose, a date or a sum, by one rule.

Knows strings alone. A quantity is a value with its unit; two texts say the same if their quantities are `alike`.
No reader, list or profile may turn one quantity into another without support from the ink, and a person looks at each
that was changed; see `model.Model.choose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import regex

from fusion.ctc import fold

_VULGAR = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_SPELT = {
    "tab": ("tabs", "tablet", "tablets"),
    "cap": ("caps", "capsule", "capsules"),
    "drop": ("drops", "gtt"),
    "puff": ("puffs",),
    "time": ("times",),
    "hour": ("hours", "hr", "hrs"),
    "day": ("days",),
    "week": ("weeks", "wk", "wks"),
    "month": ("months",),
    "mcg": ("µg", "μg", "ug"),
    "iu": ("unit", "units"),
    "ml": ("cc",),
}
_UNITS = {
    **{
        name: name
        for name in [
            "mg",
            "g",
            "kg",
            "mcg",
            "ng",
            "ml",
            "l",
            "dl",
            "iu",
            "u",
            "mm",
            "cm",
            "m",
            "km",
            "%",
            "‰",
            "°",
            "℃",
            "°c",
            "㎡",
            "㎝",
            "㎏",
            "㎜",
            "cm²",
            "m²",
            "m³",
            "mmhg",
            "meq",
            "mmol",
        ]
    },
    **{
        name: name
        for name in [
            "片",
            "粒",
            "丸",
            "袋",
            "支",
            "瓶",
            "盒",
            "滴",
            "喷",
            "次",
            "日",
            "天",
            "周",
            "月",
            "年",
            "时",
            "小时",
            "点",
            "分",
            "分钟",
            "秒",
            "岁",
            "度",
            "元",
            "角",
            "毫克",
            "克",
            "千克",
            "微克",
            "毫升",
            "升",
            "厘米",
            "米",
            "千米",
        ]
    },
    **{name: name for name in _SPELT},
    **{other: name for name, others in _SPELT.items() for other in others},
}
GLUED = 3
"""Most letters behind digits that may be a misread unit: 500my is a number, 2ymet is a word."""
_LONGEST = max(map(len, _UNITS))
_VALUE = regex.compile(
    rf"(?P<before>\p{{Latin}}*)(?P<value>(?:(?<![\p{{Latin}}\p{{Nd}}])[.,])?\p{{Nd}}+(?:[.,/:⁄]\p{{Nd}}+)*|[{''.join(_VULGAR)}]"
    r"|[零〇一二两三四五六七八九十百千半])(?P<glued>\p{Latin}*)"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit; where it stands does not count when two are compared.

    Attributes:
        value: as written, wide digits and vulgar fractions resolved.
        unit: one spelling for all of a unit's spellings; "" where none is known.
        weak: a single digit in a word, as likely a misread letter: A2 may be Az, but never A3.
        start: first code point of the value.
        end: behind the last code point of the unit.
    """

    value: str
    unit: str
    weak: bool = False
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


def quantities(text: str) -> tuple[Quantity, ...]:
    """The quantities of a text, in order.

    Signs inside a value are part of it, spaces are not: 1.5 is neither 15 nor 1. 5, and 1/2 is ½. Digits inside a word or
    before a long one are misread letters (2ymet); several digits behind a word are a strength (Seclo20).

    >>> [(q.value, q.unit) for q in quantities("2. Seclo20 500 mg 1½ tablets 2ymet")]
    [('2', ''), ('20', ''), ('500', 'mg'), ('1', ''), ('1/2', 'tab')]
    """
    plain = fold(text).replace("⁄", "/")
    found = []
    for match in _VALUE.finditer(plain):
        before, value, glued = match["before"], match["value"], match["glued"]
        misread = glued not in _UNITS and (len(glued) > GLUED or (bool(before) and bool(glued)))
        if misread:
            continue
        unit, end = _unit(plain, match.end("value"), glued)
        single = len(value) == 1 and value.isdecimal()
        after = plain[match.start() - 1 : match.start()].isalpha()  # letters of the match before, as in 2a6
        weak = single and (bool(before) or after or (len(glued) == GLUED and glued not in _UNITS))
        found.append(Quantity(_VULGAR.get(value, value), unit, weak, match.start("value"), end))
    return tuple(found)


def alike(own: Sequence[Quantity], other: Sequence[Quantity]) -> bool:
    """Whether two texts have the same quantities; a weak one may be missing, but not become another."""
    strong, weak = ([[q for q in text if q.weak == kind] for text in (own, other)] for kind in (False, True))
    return strong[0] == strong[1] and (len(weak[0]) != len(weak[1]) or weak[0] == weak[1])


def _unit(text: str, start: int, glued: str) -> tuple[str, int]:
    """The unit behind a value and where it ends: what is written onto it, or a known unit after a space."""
    if glued:
        end = start + len(glued)
        longer = text[start : end + 1]  # cm², °C
        return (_UNITS[longer], end + 1) if longer in _UNITS else (_UNITS.get(glued, glued), end)
    first = start
    while text[first : first + 1] == " ":
        first += 1
    for length in range(_LONGEST, 0, -1):
        piece = text[first : first + length]
        cut = piece[-1:].isascii() and piece[-1:].isalpha() and text[first + length : first + length + 1].isalpha()
        if len(piece) == length and piece in _UNITS and not cut:
            return _UNITS[piece], first + length
    return "", start
