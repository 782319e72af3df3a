"""The hypotheses of a line: n-best lists, readings, mixes of two readings, single other candidates, and near names."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterator, Sequence

from fusion.fuse.align import align, clusters, keys
from fusion.ink import Ink, Prior
from fusion.page import Reading

MIXED = 6
"""Up to this many disagreements are mixed in every way (2⁶ strings); more one by one and cumulatively, best first."""
LIKELY = 0.02
"""Least probability of a single candidate that makes a hypothesis."""
BEAM, FAINT = 60, 0.003
"""Beam width and least candidate probability of the search under a model of sums."""
LONGER = 4
"""A reading so many times longer than the OCR's can't be the line's text and is no hypothesis."""
NEAR = 30
"""Names of a formulary tried per word."""


def gather(ocr: Reading, others: Sequence[Reading], ink: Ink, prior: Prior | None, limit: int) -> list[str]:
    """At most `limit` hypotheses (NFC), the OCR's own reading first, no two with the same comparison keys."""
    seen: dict[tuple[str, ...], str] = {}
    near = [reading for reading in others if len(reading.text) <= LONGER * (len(ocr.text) + 10)]
    sources = (
        [ocr.text],
        (reading.text for reading in near),
        (h.text for h in ocr.nbest),
        (h.text for reading in others for h in reading.nbest),
        (text for reading in near for text in mixes(ocr.text, reading.text, ink)),
        (text for reading in near for h in ocr.nbest[1:4] for text in mixes(h.text, reading.text, ink)),
        _names([ocr.text, *(r.text for r in near), *(h.text for h in ocr.nbest[:8])], prior),
        _swaps(ocr),
        (text for reading in others for text in _swaps(reading)),
        _likely(ocr, prior) if prior is not None and prior.kind == "sums" else (),
    )
    for text in itertools.chain.from_iterable(sources):
        normal = unicodedata.normalize("NFC", text)
        seen.setdefault(tuple(keys(normal)), normal)
        if len(seen) >= limit:
            break
    return list(seen.values())


def mixes(ocr: str, vlm: str, ink: Ink) -> list[str]:
    """Strings that take some disagreeing segments from the second reading and all else from the first."""
    left, right = clusters(ocr), clusters(vlm)
    pieces: list[tuple[str, str]] = []
    places: list[int] = []  # of the disagreements
    for segment in align(keys(ocr), keys(vlm)):
        (a, b), (c, d) = segment.ocr_range, segment.vlm_range
        if segment.kind == "equal":
            pieces.append(("".join(left[a:b]), ""))
            continue
        single = segment.kind == "replace" and b - a == d - c  # each character is a disagreement of its own
        new = list(zip(left[a:b], right[c:d], strict=True)) if single else [("".join(left[a:b]), "".join(right[c:d]))]
        places += range(len(pieces), len(pieces) + len(new))
        pieces += new

    def mixed(chosen: Sequence[int]) -> str:
        wanted = set(chosen)
        return "".join(other if number in wanted else own for number, (own, other) in enumerate(pieces))

    if len(places) <= MIXED:
        sizes = range(1, len(places) + 1)
        return [mixed(chosen) for size in sizes for chosen in itertools.combinations(places, size)]
    one_each = [mixed([place]) for place in places]
    ranked = [place for _, place in sorted(zip(ink.score(one_each), places, strict=True), reverse=True)]
    return one_each + [mixed(ranked[:size]) for size in range(2, len(ranked) + 1)]


def _swaps(reading: Reading) -> Iterator[str]:
    """A reading with one position read otherwise, dropped, or one optional character added; likely ones first."""
    texts = ["" if position.optional else position.candidates[0].text for position in reading.positions]
    changes = [
        (candidate.probability, number, candidate.text)
        for number, position in enumerate(reading.positions)
        for candidate in (position.candidates if position.optional else position.candidates[1:])
        if candidate.probability >= LIKELY
    ]
    for _, number, text in sorted(changes, reverse=True):
        yield "".join([*texts[:number], text, *texts[number + 1 :]])


def _likely(reading: Reading, prior: Prior) -> Iterator[str]:
    """Beam search over the candidates under OCR and prior, best first: a sum may be misread at several places at once."""
    beam = [("", 0.0)]
    for position in reading.positions:
        choices = [(c.text, math.log(max(c.probability, FAINT))) for c in position.candidates if c.probability >= FAINT]
        if position.optional:
            choices.append(("", math.log(max(1 - sum(c.probability for c in position.candidates), FAINT))))
        grown = {before + text: score + own for before, score in reversed(beam) for text, own in reversed(choices)}
        if len(grown) > BEAM:
            ranked = sorted(grown, key=lambda text: -(grown[text] + 0.3 * prior.log_probability(text)))
            grown = {text: grown[text] for text in ranked[:BEAM]}
        beam = list(grown.items()) or beam
    yield from (text for text, _ in sorted(beam, key=lambda item: -item[1]))


def _names(texts: Sequence[str], prior: Prior | None) -> Iterator[str]:
    """Each text with one word, or the whole of it, replaced by a near name."""
    if prior is None:
        return
    for text in dict.fromkeys(texts):
        words = text.split(" ")
        for number, word in enumerate(words):
            for name in prior.near(word, NEAR):
                yield " ".join([*words[:number], name, *words[number + 1 :]])
        if len(words) > 1:
            yield from prior.near(text, NEAR)
