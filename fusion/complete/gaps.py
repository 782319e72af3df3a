"""Gaps: places where there is ink and no reading.

A false gap spoils a correct line, so the rules are strict. Unread ink must be as large as a character, and either solid
like a blot or far from every character that was read. An illegible mark of the second reader counts only where the OCR has
nothing, or nothing probable. What stands in a script that the OCR does not know is a gap, if look-alikes were read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import regex
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion.ink import InkLine
from fusion.page import GAP, Reading, Span, stretches
from fusion.placement import edges

SOLID = 0.5
"""Least share of its box that a blot fills; strokes fill less."""
AWAY = 0.6
"""Least distance of unread strokes from any character read, in heights of the crop; not for blots."""
UNCOVERED = 0.4
"""Least share of the width of unread ink that no read character covers."""
TALL = 0.3
"""Least height of unread ink, in heights of the crop; excludes dots, dashes and ruled lines."""
BROAD = 0.15
"""Least width of unread ink, in heights of the crop; excludes brackets and margin lines."""
EDGE = 0.1
"""Share of unread ink at either end that may reach under a character read."""
CENTRAL = 0.25
"""Least distance of the centre of unread ink from top and bottom, in heights of the crop; excludes other lines' ink."""
BELIEVED = 0.5
"""From this probability on, an illegible mark does not overrule an OCR character."""
LEGIBLE = 0.1
"""Confidence under which a stretch is as good as unread: a line that has no surer one was not read by anybody."""
OTHER = 0.6
"""Share of a word's width from which a stretch in another script makes a gap of it."""
MOSTLY, FEW = 2 / 3, 5
"""Share and number of a line's letters from which they are in another script."""
_CLUSTER = regex.compile(r"\X")
_FRACTIONS = frozenset("¼½¾")
_LOOKALIKE = regex.compile(r"[\p{Latin}\p{Han}\p{Hiragana}\p{Katakana}]")
"""Letters that the OCR puts for those of another script; a word without one is really read in that script."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap before cluster `at` of the text, about `extent` characters wide, instead of `replaces` clusters."""

    at: int
    extent: int
    because: str
    replaces: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """A connected component: horizontal extent and centre of mass, px on the crop, and the share of its box filled."""

    left: float
    centre: float
    right: float
    fill: float


def mark_gaps(line: InkLine, spans: Sequence[Span], readings: Sequence[Reading]) -> tuple[Span, ...]:
    """The spans of a line with gap spans added where ink is unread, or where the second reader's `readings` have `□`.

    Where no stretch may be right (`LEGIBLE`), the line is one gap: nobody has read it.
    """
    text = "".join(span.text for span in spans)
    read = [span for span in spans if span.text.strip()]
    if read and all(span.confidence is not None and span.confidence < LEGIBLE for span in read):
        spans, text = ((), "") if _unread_ink(line, "") else (spans, text)
    found = {gap.at: gap for gap in _unread_ink(line, text)}
    # Of two gaps at one place the reader's is kept: it counts the characters.
    found |= {gap.at: gap for gap in _marked_illegible(line, text, readings)}
    found |= {gap.at: gap for gap in _in_another_script(line, text)}
    covered = {at for gap in found.values() for at in range(gap.at + 1, gap.at + gap.replaces)}
    found = {at: gap for at, gap in found.items() if at not in covered}
    result = tuple(spans)
    for gap in sorted(found.values(), key=lambda gap: -gap.at):
        result = _insert(result, gap)
    return result


def _unread_ink(line: InkLine, text: str) -> list[_Gap]:
    """Ink as large as a character, away from every character that was read."""
    height, width = line.crop.shape[:2]
    pieces = _pieces(line.crop)
    if not text.strip():  # nothing read: one gap, if there is ink at all
        extent = max(1, round(width / height))
        return [_Gap(len(_CLUSTER.findall(text)), extent, "unread_ink")] if pieces else []
    if line.ink is None or not pieces:
        return []
    middles = [(left + right) / 2 for left, right in line.ink.place(text)]
    read = [m for m, c in zip(middles, text, strict=True) if not c.isspace()]
    pitch = max(float(np.median(np.diff(read))), height / 2) if len(read) > 1 else height
    size = _character_width(pieces, read)
    claimed = {min(pieces, key=lambda piece: abs(piece.centre - m)) for m in read}
    gaps: dict[int, float] = {}  # code point → px of unread ink before it
    for piece in pieces:
        inner = EDGE * (piece.right - piece.left)
        on_peak = any(piece.left + inner <= m < piece.right - inner for m in read)
        if piece in claimed or on_peak or _uncovered(piece, read, size) < UNCOVERED:
            continue
        if piece.fill < SOLID and min(abs(m - piece.centre) for m in read) < AWAY * height:
            continue
        at = sum(m < piece.centre for m in middles)
        if not _FRACTIONS.isdisjoint(text[max(0, at - 1) : at + 1]):  # the pieces of ½ are its own
            continue
        gaps[at] = gaps.get(at, 0.0) + piece.right - piece.left
    return [
        _Gap(len(_CLUSTER.findall(text[:at])), max(1, round(extent / pitch)), "unread_ink")
        for at, extent in gaps.items()
    ]


def _character_width(pieces: Sequence[_Piece], read: Sequence[float]) -> float:
    """Width of a character with all its pieces, px: the upper quartile, since digits are narrow."""
    extents: dict[float, tuple[float, float]] = {}
    for piece in pieces:
        own = min(read, key=lambda m: abs(m - piece.centre))
        left, right = extents.get(own, (piece.left, piece.right))
        extents[own] = (min(left, piece.left), max(right, piece.right))
    return float(np.percentile([right - left for left, right in extents.values()], 75))


def _uncovered(piece: _Piece, read: Sequence[float], size: float) -> float:
    """Share of a piece's width that no read character of width `size` covers."""
    columns = np.arange(round(piece.left), round(piece.right)) + 0.5
    covered = (np.abs(columns[:, None] - np.array(read)) < size / 2).any(axis=1)
    return 1.0 - float(covered.mean()) if len(columns) else 0.0


def _pieces(crop: NDArray[np.uint8]) -> list[_Piece]:
    """Connected components as large as a character."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    height = grey.shape[0]
    if grey.std() < 4:  # blank paper: Otsu would split its noise
        return []
    _, dark = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    dark = cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, _, boxes, centres = cv2.connectedComponentsWithStats(dark)
    return [
        _Piece(float(x), float(mass), float(x + w), area / (w * h))
        for (x, _, w, h, area), (mass, middle) in zip(boxes[1:].tolist(), centres[1:].tolist(), strict=True)
        if h >= TALL * height and w >= BROAD * height and CENTRAL * height <= middle <= (1 - CENTRAL) * height
    ]


def _marked_illegible(line: InkLine, text: str, readings: Sequence[Reading]) -> list[_Gap]:
    """Places where the second reader has `□` and the OCR nothing, or nothing probable."""
    own = _CLUSTER.findall(text)
    believed = _believed(line, text)
    gaps = []
    for reading in readings:
        if reading.source != "vlm" or GAP not in reading.text:
            continue
        theirs = _CLUSTER.findall(reading.text)
        same = {-1: -1, len(theirs): len(own)}  # the line's ends are neighbours too
        for op in Levenshtein.opcodes(own, theirs):
            if op.tag == "equal":
                same |= {op.dest_start + n: op.src_start + n for n in range(op.src_end - op.src_start)}
        marks = "".join(GAP if cluster == GAP else "." for cluster in theirs)  # one code point per cluster
        for match in regex.finditer(f"{GAP}+", marks):
            first, count = match.start(), len(match[0])
            if first - 1 not in same or first + count not in same:
                continue
            start, end = same[first - 1] + 1, same[first + count]
            if end - start <= count and not believed & set(range(start, end)):
                gaps.append(_Gap(start, count, "marked_illegible", end - start))
    return gaps


def _in_another_script(line: InkLine, text: str) -> list[_Gap]:
    """Words of look-alikes where the ink is in a script that the OCR does not know.

    A line is written in one script: where less than `MOSTLY` of its letters look foreign, none are. Capitals are the same in
    several scripts and tell nothing.
    """
    if line.ink is None or not line.other_script or not text:
        return []
    borders = edges(line.ink.place(text), float(line.crop.shape[1]))
    words: list[tuple[int, int]] = []
    for start, end in stretches(text):
        left, right = borders[start], borders[end]
        covered = sum(max(0.0, min(right, b) - max(left, a)) for a, b in line.other_script)
        word = text[start:end]
        if covered < OTHER * (right - left) or not _LOOKALIKE.search(word) or word.isupper():
            continue
        if words and words[-1][1] == start:
            words[-1] = (words[-1][0], end)
        else:
            words.append((start, end))
    foreign = sum(character.isalpha() for start, end in words for character in text[start:end])
    if foreign < max(FEW, MOSTLY * sum(map(str.isalpha, text))):
        return []
    gaps = []
    for start, end in words:
        count = len(_CLUSTER.findall(text[start:end]))
        if count > 1:  # a lone character that looks strange is a character
            gaps.append(_Gap(len(_CLUSTER.findall(text[:start])), count, "other_script", count))
    return gaps


def _believed(line: InkLine, text: str) -> set[int]:
    """Clusters of the text where the OCR's best candidate is at least `BELIEVED`."""
    if line.reading is None or line.ink is None or not text:
        return set()
    sure = [p for p in line.reading.positions if not p.optional and p.candidates[0].probability >= BELIEVED]
    middles = [(left + right) / 2 for left, right in line.ink.place(text)]
    starts = [match.start() for match in _CLUSTER.finditer(text)]
    return {n for n, at in enumerate(starts) if any(p.left <= middles[at] < p.right for p in sure)}


def _insert(spans: Sequence[Span], gap: _Gap) -> tuple[Span, ...]:
    """Cut the spans at both ends of the gap and put the gap between."""
    head: list[Span] = []
    tail: list[Span] = []
    position = 0
    for span in spans:
        clusters = _CLUSTER.findall(span.text)
        start, end = (min(max(0, at - position), len(clusters)) for at in (gap.at, gap.at + gap.replaces))
        position += len(clusters)
        for side, text in ((head, "".join(clusters[:start])), (tail, "".join(clusters[end:]))):
            if text:
                side.append(span if text == span.text else replace(span, text=text, polygon=None))
    return (*head, Span(GAP * gap.extent, "gap", None, gap.because, extent=gap.extent), *tail)
