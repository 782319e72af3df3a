"""What is searched: the terms of a line, and those of everything else that it may say.

A term is one Chinese character or kana, a run of other letters, or a run of digits; a phrase is terms in a row. So 头孢 is
found as it stands, without a dictionary of words, 500mg where 500 mg is written, and `amox` by its beginning.

What a line may also say is kept as *grams*: terms and pairs of neighbouring terms that one of its variants has and its text
has not. A phrase whose pairs all stand in the text or among the grams of a line is one that the line may hold. This says
no more than pairs can: 阿莫 and 莫西 from two variants make 阿莫西, which is what a search among candidates is for.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusion.page import IDEOGRAPHS, Line, Reading, is_ideograph

UNLIKELY = 0.01
"""A candidate less probable than this is not searched."""
PAIR = "_"
"""Joins the two terms of a pair; no term holds it."""
_TERM = re.compile(rf"[{IDEOGRAPHS}]|\d+|[^\W\d_{IDEOGRAPHS}]+")


def terms(text: str) -> list[str]:
    """The terms of a text, without case, width and accents.

    >>> terms("阿莫西林 0.5g, Café")
    ['阿', '莫', '西', '林', '0', '5', 'g', 'cafe']
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return _TERM.findall(unicodedata.normalize("NFC", plain))


@dataclass(frozen=True, slots=True)
class Phrase:
    """Terms in a row, as somebody `asked` for them; the last one, where it is of letters, is the beginning of a word."""

    asked: str
    terms: tuple[str, ...]

    @property
    def open(self) -> bool:
        """Whether the last term is a beginning. A number is not: 5 mg is not 500 mg."""
        last = self.terms[-1]
        return last[0].isalpha() and not is_ideograph(last[0])

    def exact(self) -> str:
        """The FTS5 query for pages whose text holds it."""
        return _match("text", " ".join(self.terms), self.open)

    def possible(self) -> str:
        """The FTS5 query for pages whose text or candidates may hold it."""
        pairs = list(itertools.pairwise(self.terms))
        if not pairs:
            return f"({self.exact()} OR {_match('others', self.terms[0], self.open)})"
        return " AND ".join(
            f"({_match('text', ' '.join(pair), last)} OR {_match('others', PAIR.join(pair), last)})"
            for number, pair in enumerate(pairs, 1)
            for last in [self.open and number == len(pairs)]
        )

    def stands_in(self, found: Sequence[str]) -> Iterator[int]:
        """Where terms hold it: the numbers of its first terms."""
        for at in range(len(found) - len(self.terms) + 1):
            if self._fits(tuple(found[at : at + len(self.terms)])):
                yield at

    def may_stand_in(self, found: Sequence[str], grams: Sequence[str]) -> bool:
        """Whether a line of these terms and grams may hold it."""
        known = grams_of(found) | set(grams)
        wanted = [PAIR.join(pair) for pair in itertools.pairwise(self.terms)] or list(self.terms)
        *whole, last = wanted
        begins = any(gram.startswith(last) for gram in known) if self.open else last in known
        return begins and known.issuperset(whole)

    def like(self, text: str) -> str:
        """The stretch of a text that holds it, or is most like it, term by term."""
        found = list(_TERM.finditer(text))

        def alike(start: int) -> int:
            pairs = zip(found[start:], self.terms, strict=False)
            return sum("".join(terms(own[0])).startswith(term) for own, term in pairs)

        best = max(range(len(found)), key=alike, default=0)
        window = found[best : best + len(self.terms)]
        return text[window[0].start() : window[-1].end()] if window else ""

    def _fits(self, found: tuple[str, ...]) -> bool:
        last = found[-1].startswith(self.terms[-1]) if self.open else found[-1] == self.terms[-1]
        return last and found[:-1] == self.terms[:-1]


def _match(column: str, phrase: str, begins: bool) -> str:
    return f'{column} : "{phrase}"{" *" if begins else ""}'


def phrases(query: str) -> list[Phrase]:
    """The phrases of a query: white space stands between them, and a page must hold them all."""
    found = {tuple(terms(part)): part for part in query.split()}
    return [Phrase(part, its) for its, part in found.items() if its]


def grams_of(found: Sequence[str]) -> set[str]:
    """Terms, and pairs of neighbours."""
    return {*found, *(PAIR.join(pair) for pair in itertools.pairwise(found))}


def other_grams(line: Line) -> list[str]:
    """Grams of all variants of a line that its text, without anything supplied, has not."""
    found: set[str] = set()
    for text in set(variants(line)):
        found |= grams_of(terms(text))
    return sorted(found - grams_of(terms(line.diplomatic)))


def variants(line: Line) -> Iterator[str]:
    """What a line may also say: with what was supplied, with one or two spans read otherwise, as each reader read it."""
    texts = [span.diplomatic for span in line.spans]
    yield line.text
    others = [
        (place, other.text)
        for place, span in enumerate(line.spans)
        for other in span.alternatives
        if other.probability >= UNLIKELY
    ]
    pairs = ((a, b) for a, b in itertools.combinations(others, 2) if 0 < b[0] - a[0] <= 2)
    for changes in (*((one,) for one in others), *pairs):
        yield "".join(dict(changes).get(place, text) for place, text in enumerate(texts))
    for reading in line.readings:
        yield from _read_otherwise(reading)


def _read_otherwise(reading: Reading) -> Iterator[str]:
    """A reader's text, its n-best list, and its text with one character as another candidate."""
    yield reading.text
    for hypothesis in reading.nbest:
        yield hypothesis.text
    best = ["" if position.optional else position.candidates[0].text for position in reading.positions]
    for place, position in enumerate(reading.positions):
        for candidate in position.candidates:
            if candidate.probability >= UNLIKELY:
                yield "".join((*best[:place], candidate.text, *best[place + 1 :]))
