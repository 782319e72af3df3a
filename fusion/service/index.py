"""The index of the archive: which pages hold the phrases of a query, and which may hold them.

FTS5 finds pages by terms that stand in a row, or by pairs of terms that stand anywhere on them; which lines it is about is
looked up in what was indexed of a page, which stands beside it (`pages.lines`).
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusion.page import Page
from fusion.service.terms import Phrase, other_grams, phrases, terms

TABLE = """
CREATE VIRTUAL TABLE found USING fts5(
    text, others, content='', tokenize="unicode61 remove_diacritics 0 tokenchars '_'")
"""
LOOKED_AT = 500
"""Most pages of a query whose lines are looked at: its pairs may stand anywhere on a page."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Lines that answer a phrase of a query.

    Attributes:
        lines: their ids, more than one where the phrase goes on in the next line.
        text: of these lines, as it stands.
        phrase: what was asked for.
        stands: the stretch of the text that is the phrase, or in whose place it may be.
        exact: whether it is the phrase; else one of the candidates is.
    """

    lines: tuple[str, ...]
    text: str
    phrase: str
    stands: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A page that a query finds; `exact` when its text holds every phrase."""

    transcription: str
    page: int
    name: str
    created: str
    exact: bool
    hits: tuple[Hit, ...]


# --- in and out -------------------------------------------------------------------------------------------------------


def put(db: sqlite3.Connection, key: int, page: Page) -> None:
    """Index a page anew. Its text is what is on the paper; what was supplied is one of the other things it may say."""
    remove(db, key)
    lines = json.dumps([(x.id, x.diplomatic, " ".join(other_grams(x))) for x in page.lines], ensure_ascii=False)
    db.execute("UPDATE pages SET lines = ? WHERE id = ?", (lines, key))
    db.execute("INSERT INTO found (rowid, text, others) VALUES (?, ?, ?)", (key, *_columns(lines)))


def remove(db: sqlite3.Connection, key: int) -> None:
    """Take a page out of the index, which keeps no text of its own and must be told what it was given."""
    (lines,) = db.execute("SELECT lines FROM pages WHERE id = ?", (key,)).fetchone()
    if lines != "[]":
        db.execute("INSERT INTO found (found, rowid, text, others) VALUES ('delete', ?, ?, ?)", (key, *_columns(lines)))


def merge(db: sqlite3.Connection) -> None:
    """Write the index anew after a removal: its old segments would keep the terms."""
    db.execute("INSERT INTO found (found) VALUES ('optimize')")


def _columns(lines: str) -> tuple[str, str]:
    stored = json.loads(lines)
    return " ".join(term for _, text, _ in stored for term in terms(text)), " ".join(others for _, _, others in stored)


# --- search -----------------------------------------------------------------------------------------------------------


def search(db: sqlite3.Connection, query: str, limit: int) -> list[Found]:
    """Pages that hold all phrases of a query, the newest first; then pages that may hold them.

    White space stands between phrases. The last word of each may be the beginning of one; a number is whole.
    """
    wanted = phrases(query)
    if not wanted:
        return []
    exact = list(_matching(db, " AND ".join(one.exact() for one in wanted), wanted, set(), limit))
    known = {key for key, _ in exact}
    possible = " AND ".join(f"({one.possible()})" for one in wanted)
    others = _matching(db, possible, wanted, known, limit - len(exact)) if len(exact) < limit else ()
    return [found for _, found in (*exact, *others)]


def _matching(
    db: sqlite3.Connection, match: str, wanted: Sequence[Phrase], known: set[int], limit: int
) -> Iterator[tuple[int, Found]]:
    """Keys and pages of an FTS5 query but the known ones, the newest first, each looked at line by line."""
    query = (
        "SELECT p.id, t.id, p.number, t.name, t.created, p.lines FROM found JOIN pages p ON p.id = found.rowid "
        "JOIN transcriptions t ON t.id = p.transcription WHERE found MATCH ? ORDER BY found.rowid DESC"
    )
    for key, id_, number, name, created, stored in itertools.islice(db.execute(query, (match,)), LOOKED_AT):
        if key in known:
            continue
        lines = [(line, text, terms(text), others.split()) for line, text, others in json.loads(stored)]
        hits = [list(_hits(one, lines)) for one in wanted]
        if all(hits):
            flat = tuple(itertools.chain.from_iterable(hits))
            yield key, Found(id_, number, name, created, all(hit.exact for hit in flat), flat)
            limit -= 1
        if limit <= 0:
            return


_IndexedLine = tuple[str, str, list[str], list[str]]
"""Id, text, terms and grams of a line."""


def _hits(phrase: Phrase, lines: Sequence[_IndexedLine]) -> Iterator[Hit]:
    """Lines that hold a phrase, also one that goes on in the next line; without any, lines that may hold it."""
    rows = [(number, term) for number, (_, _, found, _) in enumerate(lines) for term in found]
    places = {
        tuple(sorted({number for number, _ in rows[at : at + len(phrase.terms)]}))
        for at in phrase.stands_in([term for _, term in rows])
    }
    for place in sorted(places):
        yield _hit([lines[n][:2] for n in place], phrase, exact=True)
    if not places:
        for line, text, found, grams in lines:
            if phrase.may_stand_in(found, grams):
                yield _hit([(line, text)], phrase, exact=False)


def _hit(lines: Sequence[tuple[str, str]], phrase: Phrase, *, exact: bool) -> Hit:
    text = "\n".join(text for _, text in lines)
    return Hit(tuple(line for line, _ in lines), text, phrase.asked, phrase.like(text), exact)
