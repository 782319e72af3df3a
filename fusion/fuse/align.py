"""Alignment of two texts over grapheme clusters, what a writer counts as one character (Unicode UAX #29)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion.ctc import fold

_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of an alignment of two readings, as half-open ranges over their clusters.

    `kind` is `equal`, `replace` (ranges of equal length), `insert` or `delete`.
    """

    kind: str
    ocr_range: tuple[int, int]
    vlm_range: tuple[int, int]


def clusters(text: str) -> list[str]:
    """Grapheme clusters of a text.

    >>> clusters("第2步")
    ['第', '2', '步']
    """
    return list(text) if text.isascii() and "\r" not in text else _CLUSTER.findall(text)


def starts(text: str) -> NDArray[np.int64]:
    """Code point at which each cluster begins, and the end of the text: int64 (n + 1,)."""
    return np.cumsum([0, *map(len, clusters(text))])


@lru_cache(maxsize=65536)
def key(cluster: str) -> str:
    """Comparison key of a cluster: case and width are no disagreement, x² and x2 or ② and 2 are (unlike in NFKC)."""
    return (fold(cluster) if len(cluster) == 1 else cluster).casefold()


def keys(text: str) -> list[str]:
    """Comparison keys of a text's clusters."""
    if text.isascii() and "\r" not in text:  # fast path: a line has hundreds of hypotheses
        return list(text.lower())
    return [key(cluster) for cluster in clusters(text)]


def inked(text: str) -> list[str]:
    """Comparison keys without white space: spacing is no evidence of which letters a reader saw."""
    return [one for one in keys(text) if not one.isspace()]


def align(ocr: Sequence[str], vlm: Sequence[str]) -> tuple[Segment, ...]:
    """Levenshtein alignment of two lists of keys, covering both without gap.

    >>> [(s.kind, s.ocr_range, s.vlm_range) for s in align(list("第二步"), list("第2步"))][1]
    ('replace', (1, 2), (1, 2))
    """
    return tuple(
        Segment(op.tag, (op.src_start, op.src_end), (op.dest_start, op.dest_end))
        for op in Levenshtein.opcodes(ocr, vlm)
    )


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance of two lists of keys."""
    return int(Levenshtein.distance(a, b))
