"""Quantities of a text: values with their units, in doses, dates and sums.

A quantity changes only where the ink leaves it open, and each change is flagged for review; see `fusion.fuse.model.choose`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import regex

from fusion.ctc import fold

_VULGAR = {c: unicodedata.normalize("NFKC", c).replace("⁄", "/") for c in "½¼¾⅓⅔⅛⅜⅝⅞⅕⅖⅗⅘⅙⅚⅐⅑⅒"}
_SPELT = """
    tab tabs tablet tablets, cap caps capsule capsules, drop drops gtt, puff puffs, time times, hour hours hr hrs,
    day days, week weeks wk wks, month months, mcg µg μg ug, iu unit units, ml cc, °c ℃, mm ㎜, cm ㎝, kg ㎏, cm² ㎠, m² ㎡, m³ ㎥
"""
"""Units with several spellings, the one to compare by first."""
_PLAIN = (
    "mg g ng l dl iu u m km am pm lb oz bpm tsp tbsp amp vial sachet spray mmhg meq mmol "
    "% ‰ ° "
    "片 粒 丸 袋 支 瓶 盒 包 贴 付 剂 颗 个 滴 喷 勺 匙 次 日 天 周 月 年 时 小时 点 分 分钟 秒 岁 度 元 角 "
    "毫克 克 千克 微克 公斤 斤 吨 毫升 升 毫米 厘米 米 千米 公里"
)
_UNITS = {name: name for name in _PLAIN.split()} | {
    spelling: spellings[0] for spellings in map(str.split, _SPELT.split(",")) for spelling in spellings
}
"""Spelling → unit."""
_BEFORE = ("q", "x", "no", "rx")
"""Letters that may precede a number: q8h, x7d."""
GLUED = 3
"""Most letters after digits that may be a misread unit: 500my is a quantity, 2ymet a word."""
_LONGEST = max(map(len, _UNITS))
_LATIN = regex.compile(r"\p{Latin}")
_VALUE = regex.compile(
    rf"(?:(?<!\p{{Latin}})(?P<before>\p{{Latin}}+))?(?P<value>(?:(?<=^|[(=<>≤≥≠:])[-−–])?(?:(?<![\p{{Latin}}\p{{Nd}}])[.,])?"
    rf"\p{{Nd}}+(?:[.,/:]\p{{Nd}}+)*[⁰¹²³⁴⁵⁶⁷⁸⁹]*|[{''.join(_VULGAR)}①-⑳]"
    r"|[零〇一二两三四五六七八九十百千万亿半壹贰叁肆伍陆柒捌玖拾佰仟])(?P<glued>\p{Latin}*)"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit; comparison ignores the place.

    Attributes:
        value: as written, wide digits and vulgar fractions resolved.
        unit: a known unit in one spelling, else the letters glued to the value (500my), else "".
        weak: a single digit in a word, as likely a misread letter: A2 may be Az, but never A3.
        start, end: code points from the value to the end of the unit, half-open.
    """

    value: str
    unit: str
    weak: bool = False
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


@lru_cache(maxsize=2048)
def quantities(text: str) -> tuple[Quantity, ...]:
    """The quantities of a text, in order.

    Signs inside a value are part of it, spaces are not: 1.5 is neither 15 nor 1. 5, and 1/2 is ½. Digits inside or before
    a word are misread letters (2ymet); several digits after a word are a strength (Seclo20).

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
        in_word = before or len(glued) == GLUED or _LATIN.match(plain[match.start() - 1 : match.start()])  # A2, 2a6
        weak = len(value) == 1 and value.isdecimal() and not unit and before not in _BEFORE and bool(in_word)
        value = _VULGAR.get(value, value)
        found.append(Quantity(value, unit or glued, weak, match.start("value"), max(end, match.end())))
    return tuple(found)


def alike(own: Sequence[Quantity], other: Sequence[Quantity]) -> bool:
    """Whether two texts have the same quantities; a weak one may be missing, but not become another."""
    if own == other:  # most texts have none
        return True
    if [q for q in own if not q.weak] != [q for q in other if not q.weak]:
        return False
    fewer, more = sorted(([q for q in text if q.weak] for text in (own, other)), key=len)
    rest = iter(more)
    return all(one in rest for one in fewer)  # fewer is a subsequence of more


def _unit(text: str, start: int, glued: str) -> tuple[str, int]:
    """The known unit after a value, "" for none, and where it ends.

    Units follow directly (`glued`; then more letters may follow, 500mgtds) or after spaces, and may be divided (mg/kg).
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
