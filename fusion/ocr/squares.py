"""Chinese on squared paper: characters that stand so far apart that the detector joins them to columns, or not at all.

Knows where characters stand; which way they are read is decided by what they say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusion.ink import InkLine
from fusion.ocr.layout import TALL, Region, height_of, upright_corners, width_of
from fusion.page import is_ideograph

STEP = (0.4, 4.0)
"""Distance from a character to the next of its row, in their size."""
OFF = 0.5
"""How far above or below the next one may stand, in their size."""
ROOM = 1.2
"""Height of a row, in the size of its characters."""


def rows(lines: Sequence[InkLine]) -> list[Region]:
    """Where a page's lines are, the Chinese ones made anew of the characters that stand beside each other.

    Args:
        lines: as the OCR found and read them, with those that nobody could read.

    Returns:
        Regions, clockwise from the top left; none where most Chinese characters stand in rows already.
    """
    quads = [upright_corners(np.array(line.polygon)) for line in lines]
    counts = [sum(map(is_ideograph, line.reading.text)) if line.reading is not None else 0 for line in lines]
    tall = [count > 0 and height_of(quad) > TALL * width_of(quad) for count, quad in zip(counts, quads, strict=True)]
    lone = [
        not column and (count == 1 or (count > 0 and width_of(quad) <= TALL * height_of(quad)))
        for column, count, quad in zip(tall, counts, quads, strict=True)
    ]
    apart = [n for n in range(len(lines)) if tall[n] or lone[n]]
    if len(apart) < 2 or 2 * sum(counts[n] for n in apart) <= sum(counts):
        return []
    middles = np.concatenate([_middles(lines[n]) if tall[n] else quads[n].mean(axis=0)[None] for n in apart])
    size = float(np.median([min(height_of(quads[n]), width_of(quads[n])) for n in apart]))
    others = [
        Region(quad, float(line.reading is not None))
        for n, (line, quad) in enumerate(zip(lines, quads, strict=True))
        if n not in apart
    ]
    return [*others, *(Region(_around(middles[row], size), 1.0) for row in _chains(middles, size))]


def _middles(line: InkLine) -> NDArray[np.float64]:
    """Where a line's characters stand: float64 (n, 2), px of the page."""
    corners = np.array(line.polygon, dtype=np.float64)
    assert line.reading is not None
    along = [
        (place.left + place.right) / 2 / line.crop.shape[1] for place in line.reading.positions if not place.optional
    ]
    start, end = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
    return np.asarray(start + np.array(along)[:, None] * (end - start), dtype=np.float64)


def _chains(middles: NDArray[np.float64], size: float) -> list[list[int]]:
    """Rows of characters, from the left: each is followed by the nearest on its right whose nearest on the left it is."""
    step = middles[None] - middles[:, None]  # [from, to]
    slope = 0.0
    for _ in range(2):  # the second time along the slope of the rows
        across, off = step[..., 0], np.abs(step[..., 1] - slope * step[..., 0])
        near = (across > STEP[0] * size) & (across < STEP[1] * size) & (off < OFF * size)
        cost = np.where(near, across + 2 * off, np.inf)
        after, before = cost.argmin(axis=1), cost.argmin(axis=0)
        linked = [n for n, m in enumerate(after) if np.isfinite(cost[n, m]) and before[m] == n]
        slope = float(np.median([step[n, after[n], 1] / step[n, after[n], 0] for n in linked])) if linked else 0.0
    follows = {n: int(after[n]) for n in linked}
    chains = []
    for first in sorted(set(range(len(middles))) - set(follows.values())):
        chain = [first]
        while chain[-1] in follows:
            chain.append(follows[chain[-1]])
        chains.append(chain)
    return chains


def _around(middles: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """The box around the characters of a row, along it."""
    along = middles[-1] - middles[0]
    length = float(np.linalg.norm(along))
    ahead = along / length if length else np.array([1.0, 0.0])
    end, side = ahead * size * 0.6, np.array([-ahead[1], ahead[0]]) * size * ROOM / 2
    first, last = middles[0] - end, middles[-1] + end
    return np.array([first - side, last - side, last + side, first + side])
