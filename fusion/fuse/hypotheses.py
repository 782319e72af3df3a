"""Which strings are weighed for a line.

Knows readings, ink and prior; decides nothing. The truth is usually among the candidates: n-best lists, readings, mixes
of them segment by segment, single other candidates, and names from a formulary that are near.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from fusion.fuse.align import align, clusters, keys
from fusion.ink import Ink, Prior
from fusion.page import Reading

MIXED = 6
"""Up to this many disagreements are mixed in every way (2⁶ strings); beyond it one by one and in order of the ink."""
LIKELY = 0.02
"""Least probability of a single candidate worth a hypothesis of its own."""
BEAM, FAINT = 60, 0.003
"""Prefixes kept while readings are put together under a model of sums, and the least probable candidate for them."""
LONGER = 4
"""A reading so many times longer than the OCR's can't stand on the line: it is kept, and no hypothesis."""
NEAR = 30
"""Names of a formulary tried per word."""


def gather(ocr: Reading, others: Sequence[Reading], ink: Ink, prior: Prior | None, limit: int) -> list[str]:
    """Strings to weigh, the OCR's own reading first, no two with the same comparison keys.

    Args:
        ocr: the OCR's reading with positions and n-best list.
        others: accepted readings of the second reader.
        ink: answers about any string.
        prior: names to expect, or None.
        limit: most strings returned.
    """
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
    """Strings that take some disagreeing segments from one reading and the rest from the other."""
    left, right = clusters(ocr), clusters(vlm)
    pieces = [
        ("".join(left[slice(*s.ocr_range)]), "".join(right[slice(*s.vlm_range)]) if s.kind != "equal" else None)
        for s in _fine(align(keys(ocr), keys(vlm)))
    ]
    places = [number for number, (_, other) in enumerate(pieces) if other is not None]
    if len(places) <= MIXED:
        return [
            _mixed(pieces, chosen)
            for size in range(1, len(places) + 1)
            for chosen in itertools.combinations(places, size)
        ]
    single = [_mixed(pieces, [place]) for place in places]
    ranked = [place for _, place in sorted(zip(ink.score(single), places, strict=True), reverse=True)]
    return single + [_mixed(pieces, ranked[:size]) for size in range(2, len(ranked) + 1)]


def _fine(segments: Iterable) -> Iterator:  # type: ignore[type-arg]
    """Substitutions of equal length fall into single characters: each is a disagreement of its own."""
    for segment in segments:
        (a, b), (c, d) = segment.ocr_range, segment.vlm_range
        if segment.kind == "substitute" and b - a == d - c > 1:
            for n in range(b - a):
                yield type(segment)("substitute", (a + n, a + n + 1), (c + n, c + n + 1))
        else:
            yield segment


def _mixed(pieces: Sequence[tuple[str, str | None]], chosen: Iterable[int]) -> str:
    wanted = set(chosen)
    return "".join(
        other if number in wanted and other is not None else own for number, (own, other) in enumerate(pieces)
    )


def _swaps(reading: Reading) -> Iterator[str]:
    """A reading that has positions with one position read otherwise, dropped, or one hidden character added; likely ones first."""
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
    """Readings position by position that ink and prior like together, best first: a beam over the candidates.

    A sum may be misread at several places at once, each of them seldom enough to be in no n-best list.
    """
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
