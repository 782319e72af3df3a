"""Quantities of a text: what is sacred in a dose, a date or a sum, by one rule.

Knows strings alone. A quantity is a value with its unit; two texts say the same if their quantities are `alike`.
No reader, list or profile may turn one quantity into another that the ink does not leave open, and a person looks at each
that was changed; see `fusion.fuse.model.choose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import regex

from fusion.ctc import fold

_VULGAR = {
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"},
    **{"⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅑": "1/9", "⅒": "1/10"},
}
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
    "°c": ("℃",),
    "mm": ("㎜",),
    "cm": ("㎝",),
    "kg": ("㎏",),
    "cm²": ("㎠",),
    "m²": ("㎡",),
    "m³": ("㎥",),
}
_PLAIN = (
    "mg g ng l dl iu u m km am pm lb oz bpm tsp tbsp amp vial sachet spray mmhg meq mmol "
    "% ‰ ° "
    "片 粒 丸 袋 支 瓶 盒 包 贴 付 剂 颗 个 滴 喷 勺 匙 次 日 天 周 月 年 时 小时 点 分 分钟 秒 岁 度 元 角 "
    "毫克 克 千克 微克 公斤 斤 吨 毫升 升 毫米 厘米 米 千米 公里"
)
_UNITS = {
    **{name: name for name in _PLAIN.split()},
    **{name: name for name in _SPELT},
    **{other: name for name, others in _SPELT.items() for other in others},
}
_BEFORE = ("q", "x", "no", "rx")
"""Letters that stand before a number of its own: q8h, x7d."""
GLUED = 3
"""Most letters behind digits that may be a misread unit: 500my is a number, 2ymet is a word."""
_LONGEST = max(map(len, _UNITS))
_LATIN = regex.compile(r"\p{Latin}")
_VALUE = regex.compile(
    rf"(?:(?<!\p{{Latin}})(?P<before>\p{{Latin}}+))?(?P<value>(?:(?<=^|[(=<>≤≥≠:])[-−–])?(?:(?<![\p{{Latin}}\p{{Nd}}])[.,])?"
    rf"\p{{Nd}}+(?:[.,/:]\p{{Nd}}+)*[⁰¹²³⁴⁵⁶⁷⁸⁹]*|[{''.join(_VULGAR)}①-⑳]"
    r"|[零〇一二两三四五六七八九十百千万亿半壹贰叁肆伍陆柒捌玖拾佰仟])(?P<glued>\p{Latin}*)"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit; where it stands does not count when two are compared.

    Attributes:
        value: as written, wide digits and vulgar fractions resolved.
        unit: one spelling for all of a known unit's spellings; else the letters glued to the value (500my); "" where there
            are none.
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
        before, value, glued = match["before"] or "", match["value"], match["glued"]
        unit, end = _unit(plain, match.end("value"), glued)
        if glued and not unit and (len(glued) > GLUED or (before and before not in _BEFORE)):
            continue
        behind = bool(before) or bool(_LATIN.match(plain[match.start() - 1 : match.start()]))  # as in A2 and 2a6
        single = len(value) == 1 and value.isdecimal() and not unit and before not in _BEFORE
        weak = single and (behind or len(glued) == GLUED)
        unit = unit or glued  # a misread one, as in 500my
        found.append(Quantity(_VULGAR.get(value, value), unit, weak, match.start("value"), max(end, match.end())))
    return tuple(found)


def alike(own: Sequence[Quantity], other: Sequence[Quantity]) -> bool:
    """Whether two texts have the same quantities; a weak one may be missing, but not become another."""
    strong, weak = ([[q for q in text if q.weak == kind] for text in (own, other)] for kind in (False, True))
    fewer, more = sorted(weak, key=len)
    rest = iter(more)
    return strong[0] == strong[1] and all(one in rest for one in fewer)


def _unit(text: str, start: int, glued: str) -> tuple[str, int]:
    """The known unit behind a value, "" where there is none, and where it ends: written onto it, or after spaces.

    What is written onto a value may go on behind its unit (500mgtds); units may be divided (mg/kg).
    """
    if not glued:
        while text[start : start + 1].isspace():
            start += 1
    for length in range(_LONGEST, 0, -1):
        end = start + length
        piece = text[start:end]
        letters = piece[-1:].isascii() and piece[-1:].isalpha()
        goes_on = letters and text[end : end + 1].isalpha() and not (glued and length > 1)
        if len(piece) == length and piece in _UNITS and not goes_on:
            if text[end : end + 1] == "/" and text[end + 1 : end + 2].isalpha():
                per, last = _unit(text, end + 1, "/")  # as if glued: no space may follow the stroke
                return (f"{_UNITS[piece]}/{per}", last) if per else (_UNITS[piece], end)
            return _UNITS[piece], end
    return "", start
