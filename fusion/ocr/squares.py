"""Chinese on squared paper: characters that stand so far apart that the detector joins them the wrong way, or not at all.

Knows where characters stand, joins them to rows and to columns, and weighs those against what was found by a language: the same
characters in another order make more words, or fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from fusion.ink import InkLine, Language
from fusion.ocr.layout import TALL, height_of, upright_corners, width_of
from fusion.page import is_ideograph

STEP = (0.4, 4.0)
"""Distance from a character to the next of its row, in their size."""
OFF = 0.35
"""How far above or below the next one may stand, in their size."""
ALIKE = 1.6
"""Characters of one row are at most this many times larger than each other."""
ROOM = 1.2
"""Height of a row, in the size of its largest character."""
MOST = 1000
"""Characters on a page; a page with more is no squared paper, and pairs of them would fill the memory."""
KEPT = 0.9
"""Share of the characters that must be kept at least: a lone one may have been misread as two."""
MORE = 1.0
"""How much more probable, in nats, another layout must be than what was found."""
_CHINESE = regex.compile(r"[\p{Han}\p{P}\p{Z}]*\p{Han}[\p{Han}\p{P}\p{Z}]*")


class _Spot(NamedTuple):
    """Where one character stands, px of the page, and how large it is, px."""

    x: float
    y: float
    size: float


class Layout(NamedTuple):
    """Another way to join characters: which lines are taken apart, by number, and what is made of them, as corners.

    Corners: float64 (4, 2), px of the page, clockwise from the top left.
    """

    apart: list[int]
    quads: list[NDArray[np.float64]]


def layouts(lines: Sequence[InkLine]) -> list[Layout]:
    """A page's characters that stand apart, in tall lines or each by itself, joined to rows, and to columns.

    Lines with letters or digits are never taken apart, nor are those of which no character stands beside another.

    Args:
        lines: as the OCR found and read them.

    Returns:
        Nothing if most characters of the page stand in rows already.
    """
    homes: list[int] = []
    spots: list[_Spot] = []
    total = taken = 0
    for number, line in enumerate(lines):
        text = "".join(_text(line).split())
        total += len(text)
        quad = upright_corners(np.array(line.polygon, dtype=np.float64))
        tall = height_of(quad) > TALL * width_of(quad)
        lone = len(text) == 1 or width_of(quad) <= TALL * height_of(quad)
        if _CHINESE.fullmatch(text) and (tall or lone):
            own = _column(line, width_of(quad)) if tall and len(text) > 1 else [_lone(quad)]
            spots += own
            homes += [number] * len(own)
            taken += len(text)
    if not 2 * taken > total or len(spots) > MOST:
        return []
    across = _layout(spots, homes)
    down = _layout([_Spot(y, x, size) for x, y, size in spots], homes)
    turned = Layout(down.apart, [upright_corners(quad[:, ::-1]) for quad in down.quads])
    return [one for one in (across, turned) if one.quads]


def _layout(spots: Sequence[_Spot], homes: Sequence[int]) -> Layout:
    """Rows of characters of several lines, and what is left of these lines."""
    chains = _chains(spots)
    apart = {homes[n] for chain in chains if len({homes[n] for n in chain}) > 1 for n in chain}
    quads = [_around([spots[n] for n in chain]) for chain in chains if homes[chain[0]] in apart]
    return Layout(sorted(apart), quads)


def concerned(lines: Sequence[InkLine], languages: Sequence[Language]) -> list[Language]:
    """The languages that lines, all together, may be in."""
    text = "".join(map(_text, lines))
    return [one for one in languages if one.concerns(text)]


def gain(made: Sequence[InkLine], lines: Sequence[InkLine], languages: Sequence[Language]) -> float:
    """How much better prose than the lines that it was made of something is, nats; -inf where it lacks their characters."""

    def characters(of: Sequence[InkLine]) -> int:
        return sum(is_ideograph(character) for line in of for character in _text(line))

    def nats(of: Sequence[InkLine]) -> float:
        return max(sum(one.score([_text(line) for line in of])) for one in languages)

    return nats(made) - nats(lines) if characters(made) >= KEPT * characters(lines) else -math.inf


def _text(line: InkLine) -> str:
    return line.reading.text if line.reading is not None else ""


def _lone(quad: NDArray[np.float64]) -> _Spot:
    x, y = quad.mean(axis=0)
    return _Spot(float(x), float(y), max(height_of(quad), width_of(quad)))


def _column(line: InkLine, size: float) -> list[_Spot]:
    """The characters of a line, from its start to its end."""
    corners = np.array(line.polygon, dtype=np.float64)
    assert line.reading is not None
    start, end = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
    found = []
    for place in line.reading.positions:
        if not place.optional:
            x, y = start + (place.left + place.right) / 2 / line.crop.shape[1] * (end - start)
            found.append(_Spot(float(x), float(y), size))
    return found


def _chains(spots: Sequence[_Spot]) -> list[list[int]]:
    """Rows of characters, from the left: each is followed by the nearest on its right whose nearest on the left it is."""
    x, y, sizes = np.array(spots).T
    size = (sizes[None] + sizes[:, None]) / 2
    alike = np.maximum(sizes[None], sizes[:, None]) <= ALIKE * np.minimum(sizes[None], sizes[:, None])
    across, down = x[None] - x[:, None], y[None] - y[:, None]  # [from, to]

    def along(slope: float) -> list[list[int]]:
        off = np.abs(down - slope * across)
        near = alike & (across > STEP[0] * size) & (across < STEP[1] * size) & (off < OFF * size)
        cost = np.where(near, across + 2 * off, np.inf)
        after, before = cost.argmin(axis=1), cost.argmin(axis=0)
        follows = {n: int(m) for n, m in enumerate(after) if np.isfinite(cost[n, m]) and before[m] == n}
        chains = []
        for first in sorted(set(range(len(spots))) - set(follows.values())):
            chain = [first]
            while chain[-1] in follows:
                chain.append(follows[chain[-1]])
            chains.append(chain)
        return chains

    # Theil and Sen's estimate of the slope: of neighbours alone, one character out of its row tilts two steps of three.
    slopes = [down[n, m] / across[n, m] for chain in along(0.0) for n, m in combinations(chain, 2)]
    return along(float(np.median(slopes)) if slopes else 0.0)


def _around(row: Sequence[_Spot]) -> NDArray[np.float64]:
    """The box around the characters of a row, along it: float64 (4, 2), px, clockwise from the top left."""
    first, last = (np.array([one.x, one.y]) for one in (row[0], row[-1]))
    length = float(np.linalg.norm(last - first))
    ahead = (last - first) / length if length else np.array([1.0, 0.0])
    side = np.array([-ahead[1], ahead[0]]) * ROOM / 2 * max(one.size for one in row)
    start, end = first - ahead * ROOM / 2 * row[0].size, last + ahead * ROOM / 2 * row[-1].size
    return np.array([start - side, end - side, end + side, start + side])
