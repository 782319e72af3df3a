"""Alignment of two readings over grapheme clusters.

Knows strings; knows nothing of ink or probabilities. A grapheme cluster is what a writer counts as one character
(Unicode UAX #29); the opcodes are rapidfuzz's Levenshtein.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import regex
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion.ctc import fold

_KINDS: dict[str, Literal["equal", "substitute", "insert", "delete"]] = {
    "equal": "equal",
    "replace": "substitute",
    "insert": "insert",
    "delete": "delete",
}
_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of an alignment of two readings, as ranges over their grapheme clusters."""

    kind: Literal["equal", "substitute", "insert", "delete"]
    ocr_range: tuple[int, int]
    vlm_range: tuple[int, int]


def clusters(text: str) -> list[str]:
    """Grapheme clusters of a text.

    >>> clusters("第2步")
    ['第', '2', '步']
    """
    return list(text) if text.isascii() and "\r" not in text else _CLUSTER.findall(text)


def starts(text: str) -> NDArray[np.int64]:
    """Code point at which each cluster of a text begins, and the end of the text: int64 (n + 1,)."""
    return np.cumsum([0, *map(len, clusters(text))])


@lru_cache(maxsize=65536)
def key(cluster: str) -> str:
    """What counts as the same character when two readings are compared: case and width are no disagreement.

    Superscripts and circled digits are: NFKC would make x² and x2, or ② and 2, the same.
    """
    return (fold(cluster) if len(cluster) == 1 else cluster).casefold()


def keys(text: str) -> list[str]:
    """Comparison keys of a text's clusters."""
    if text.isascii() and "\r" not in text:  # most lines, and each has hundreds of hypotheses
        return list(text.lower())
    return [key(cluster) for cluster in clusters(text)]


def align(ocr: Sequence[str], vlm: Sequence[str]) -> tuple[Segment, ...]:
    """Segments that turn one list of cluster keys into the other, covering both without gap.

    >>> [(s.kind, s.ocr_range, s.vlm_range) for s in align(list("第二步"), list("第2步"))][1]
    ('substitute', (1, 2), (1, 2))
    """
    return tuple(
        Segment(_KINDS[op.tag], (op.src_start, op.src_end), (op.dest_start, op.dest_end))
        for op in Levenshtein.opcodes(ocr, vlm)
    )


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance between two lists of cluster keys."""
    return int(Levenshtein.distance(a, b))
