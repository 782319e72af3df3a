"""Labels that are probably wrong: readers agree with each other, and not with the label.

Two kinds:

    shifted   a run of labels has slipped: what is read on item i is the label of item i + k, for a whole run of i. The
              slip k of each item is a hidden state that seldom changes; the likeliest course is found by dynamic programming
              (Viterbi, "Error bounds for convolutional codes", 1967)
    differs   what all readers read is much more alike than any is like the label: a disagreement between the given label
              and models that did not learn it (Northcutt, Jiang and Chuang, "Confident learning", 2021, with agreement in
              place of a probability)

Neither proves anything: a person looks at the picture. A reader that was trained on the split has learnt its mistakes by
heart and finds fewer.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from eval.datasets import NORMALISATIONS, Item, Normalisation, load_split
from eval.systems import engine_for, is_pages, read_split
from fusion.errors import InputError

REACH = 3
"""Greatest slip that is tried, in items, either way."""
TURN = 1.5
"""What a change of the slip costs, in items read perfectly: shorter runs than about three are not believed."""
APART = 0.25
"""How much better what was read must fit something else than its label, in [0, 1]."""
Kind = Literal["shifted", "differs"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that is probably wrong.

    Attributes:
        item: its row.
        kind: see the module.
        better: the label of the item that it slipped from, or the reading that the others are most like.
        readings: what was read, in the order of the readers.
        confidence: of the decided text, or None.
        score: in (0, 1], how much better `better` fits what was read than the label does.
    """

    item: Item
    kind: Kind
    better: str
    readings: tuple[str, ...]
    confidence: float | None
    score: float


def search(split: Path, out: Path, normalise: str, config: Path | None, overrides: Sequence[str]) -> str:
    """Read a split, write the suspects among its labels as TSV, and return how many there are.

    Raises:
        InputError: the split holds pages, or there is no such normalisation.
    """
    items = load_split(split)
    if is_pages(split, items):
        raise InputError(split, "holds pages", "Labels are compared word by word or line by line.")
    if normalise not in NORMALISATIONS:
        raise InputError(normalise, "is no normalisation", f"There are {', '.join(NORMALISATIONS)}.")
    with engine_for(config, overrides) as engine:
        reads = list(read_split(engine, items, crop=True))
    readings = [[r.text for page in read.pages for line in page.lines for r in line.readings] for read in reads]
    found = suspects(items, readings, [read.confidence for read in reads], normalise)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(found), encoding="utf-8")
    kinds = Counter(one.kind for one in found)
    return f"{out}: {len(found)} of {len(items)} labels are suspect ({kinds['shifted']} shifted, {kinds['differs']} differ)"


def suspects(
    items: Sequence[Item],
    readings: Sequence[Sequence[str]],
    confidences: Sequence[float | None],
    normalise: Normalisation,
) -> list[Suspect]:
    """The rows of a split whose labels are probably wrong, the most suspicious first.

    Args:
        items: rows in the order in which they were labelled.
        readings: of each row, by readers that have not seen its label.
        confidences: of what was decided on each row.
        normalise: what counts when a label and a reading are compared.
    """
    normal = NORMALISATIONS[normalise]
    labels = [normal(item.reference) for item in items]
    said = [[normal(text) for text in own] for own in readings]
    fits = fit(labels, said)
    found = []
    for n, slip in enumerate(slips(fits).tolist()):
        own = fits[n, REACH]
        slipped, agreed = fits[n, REACH + slip] - own, agreement(said[n]) - own
        if max(slipped, agreed) < APART:
            continue
        kind: Kind = "shifted" if slipped >= APART else "differs"
        better = items[n + slip].reference if kind == "shifted" else _middle(readings[n], said[n])
        score = float(slipped if kind == "shifted" else agreed)
        found.append(Suspect(items[n], kind, better, tuple(readings[n]), confidences[n], score))
    return sorted(found, key=lambda one: -one.score)


def fit(labels: Sequence[str], said: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """How well the label k rows on fits what was read on a row, the mean over readers: float64 (n, 2 `REACH` + 1) in [0, 1]."""
    table = np.zeros((len(labels), 2 * REACH + 1))
    for n, own in enumerate(said):
        for column, m in enumerate(range(n - REACH, n + REACH + 1)):
            if own and 0 <= m < len(labels):
                table[n, column] = np.mean([Levenshtein.normalized_similarity(text, labels[m]) for text in own])
    return table


def slips(fits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The slip of each row, in [-`REACH`, `REACH`]: the course that fits best, less `TURN` for each of its changes.

    What is before the first row and after the last has not slipped.
    """
    states = fits.shape[1]
    turn = TURN * (1 - np.eye(states))
    best, came = np.where(np.arange(states) == REACH, 0.0, -np.inf), np.zeros(fits.shape, dtype=np.int64)
    for n, row in enumerate(fits):
        steps = best[:, None] - turn
        came[n], best = steps.argmax(axis=0), steps.max(axis=0) + row
    course = [int((best - turn[REACH]).argmax())]
    for back in came[:0:-1]:
        course.append(int(back[course[-1]]))
    return np.array(course[::-1], dtype=np.int64)[: len(fits)] - REACH


def agreement(said: Sequence[str]) -> float:
    """How much readers agree: the mean likeness of two of them, in [0, 1]; 0 where fewer than two read something."""
    pairs = itertools.combinations([text for text in said if text], 2)
    likeness = [Levenshtein.normalized_similarity(a, b) for a, b in pairs]
    return float(np.mean(likeness)) if likeness else 0.0


def _middle(readings: Sequence[str], said: Sequence[str]) -> str:
    """The reading that the others are most like."""
    likeness = [sum(Levenshtein.normalized_similarity(one, other) for other in said) for one in said]
    return readings[int(np.argmax(likeness))]


def table(found: Sequence[Suspect]) -> str:
    """Suspects as TSV, a header first: image, label, better, kind, score, confidence, and the readings, ` | ` between them."""
    rows = ["image\tlabel\tbetter\tkind\tscore\tconfidence\treadings"]
    for one in found:
        confidence = "" if one.confidence is None else f"{one.confidence:.3f}"
        cells = [one.item.image, one.item.reference, one.better, one.kind, f"{one.score:.3f}", confidence]
        rows.append(
            "\t".join(cell.replace("\n", "\\n").replace("\t", " ") for cell in [*cells, " | ".join(one.readings)])
        )
    return "\n".join(rows) + "\n"
