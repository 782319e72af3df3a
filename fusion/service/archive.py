"""The archive: uploads, pages as they were read, what people decided since, and their index, in one SQLite file.

A page's record is written once, as it was read. Corrections are rows beside it, in the order in which they were made; the
page as it stands is the record with these edits. So nothing overwrites a reading, undoing takes the rows of the last
decision out of force, and who decided what, when, stays known. Every change is one transaction, and is on the disk before
it is acknowledged.

Deletes for good: freed space is overwritten, the index is merged anew, the write-ahead log is emptied, if nobody reads it.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from fusion.errors import ConfigError, FusionError, InputError
from fusion.page import Page, Place
from fusion.records import dump_page, load_page
from fusion.service import index
from fusion.service.index import Found

VERSION = 2
REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters with which a text would look like another one."""
TRIES = 3
"""How often the service may end while it reads an upload."""
BUSY = 30.0
"""Seconds to wait for another writer."""
_TABLES = """
CREATE TABLE transcriptions (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, profile TEXT NOT NULL, status TEXT NOT NULL, problem TEXT NOT NULL,
    created TEXT NOT NULL, sha256 TEXT NOT NULL, made_by TEXT NOT NULL, upload BLOB NOT NULL, tries INTEGER NOT NULL);
CREATE INDEX by_time ON transcriptions (created);
CREATE INDEX by_content ON transcriptions (sha256);
CREATE TABLE pages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL,
    transcription TEXT NOT NULL REFERENCES transcriptions ON DELETE CASCADE,
    lines TEXT NOT NULL, record TEXT NOT NULL, picture BLOB NOT NULL, UNIQUE (transcription, number));
CREATE TABLE corrections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, page INTEGER NOT NULL REFERENCES pages ON DELETE CASCADE,
    decision INTEGER NOT NULL, line TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    old TEXT NOT NULL, text TEXT NOT NULL, by TEXT NOT NULL, undone TEXT NOT NULL DEFAULT '');
CREATE INDEX of_page ON corrections (page);
"""
_EDITS = "SELECT decision, line, start, \"end\", text, by FROM corrections WHERE page = ? AND undone = '' ORDER BY id"


class Conflict(InputError):
    """What a person saw has changed since."""


class Unwritable(FusionError):
    """The archive takes nothing now: the disk is full, or another writer does not end."""


class Missing(InputError):
    """Something that is not in the archive."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """One upload.

    Attributes:
        id: 32 hexadecimal digits.
        name: of the file, as its sender calls it.
        profile: it is read with.
        status: `waiting`, `done` or `failed`.
        problem: why it failed; else "".
        created: UTC, ISO 8601.
        page_count: how many pages it has.
    """

    id: str
    name: str
    profile: str
    status: Literal["waiting", "done", "failed"]
    problem: str
    created: str
    page_count: int


@dataclass(frozen=True, slots=True)
class Edit:
    """What a person decides about one stretch of a page; `old` is what they saw there."""

    line: str
    start: int
    end: int
    old: str
    text: str


class Archive:
    """One file. Usable from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ConfigError: it can't be opened, or is no archive of this version.
        """
        self.path = path
        self._local = threading.local()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._change() as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in (*_TABLES.split(";\n"), index.TABLE):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
        except (sqlite3.Error, OSError, Unwritable) as error:
            raise ConfigError("serve.archive", f"{path} can't be opened ({error})", "Name a file to write.") from error
        if version not in (0, VERSION):
            problem = f"{path} is an archive of version {version}, this is version {VERSION}"
            raise ConfigError("serve.archive", problem, "Use the version of fusion that made it.")

    # --- in ---------------------------------------------------------------------------------------------------------

    def add(self, uploads: Sequence[tuple[str, bytes]], profile: str, made_by: str) -> list[Transcription]:
        """Keep uploads under their names: all or none.

        One that was read before in the same way is done at once, with the pages as they were read; one that waits to be
        read so is not kept again.
        """
        with self._change() as db:
            return [self.get(_added(db, name, upload, profile, made_by)) for name, upload in uploads]

    def unread(self, uploads: Sequence[bytes], profile: str, made_by: str) -> int:
        """How many of some uploads `add` would have read: they are neither read yet nor waiting."""
        keys = {(hashlib.sha256(upload).hexdigest(), profile, made_by) for upload in uploads}
        return sum(_known(self._db, key) is None for key in keys)

    def begin(self, id_: str) -> bytes:
        """The bytes of an upload that will now be read, which is counted. Missing: there is no such upload."""
        with self._change() as db:
            db.execute("UPDATE transcriptions SET tries = tries + 1 WHERE id = ?", (id_,))
            return self.upload(id_)

    def give_up(self) -> None:
        """Let uploads fail that the service did not survive: it ended as often as `TRIES` while it read them."""
        problem = f"The service ended {TRIES} times while it read this. Save it anew, smaller, as JPEG or PNG."
        with self._change() as db:
            failed = "UPDATE transcriptions SET status = 'failed', problem = ? WHERE status = 'waiting' AND tries >= ?"
            db.execute(failed, (problem, TRIES))

    def finish(self, id_: str, pages: Sequence[tuple[Page, bytes]], problem: str = "") -> None:
        """Put the pages of an upload in, each with its picture (JPEG, as displayed); nothing if it was deleted meanwhile.

        With a problem and no page it has failed; with a problem and pages, some of them could not be read.
        """
        with self._change() as db:
            status = "failed" if problem and not pages else "done"
            update = "UPDATE transcriptions SET status = ?, problem = ? WHERE id = ? AND status = 'waiting'"
            if db.execute(update, (status, problem, id_)).rowcount:
                _insert_pages(db, id_, pages)

    def correct(self, id_: str, number: int, edits: Sequence[Edit], who: str) -> Page:
        """Put what a person decided into a page: all of it or nothing, on the disk before this returns.

        Raises:
            Conflict: something else stands there than the person saw, or two edits overlap.
            InputError: there is no such page or stretch, or the text does not fit there.
        """
        by = f"{who}, {_now()}"
        with self._change() as db:
            key, page, _ = self._standing(db, id_, number)
            (last,) = db.execute("SELECT max(decision) FROM corrections WHERE page = ?", (key,)).fetchone()
            # From the end of each line, so that the places of the other edits stay.
            for edit in sorted(edits, key=lambda one: (one.line, -one.start, -one.end)):
                page = _edited(page, edit, by)
                columns = 'page, decision, line, start, "end", old, text, by'
                row = (key, (last or 0) + 1, edit.line, edit.start, edit.end, edit.old, edit.text, by)
                db.execute(f"INSERT INTO corrections ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            index.put(db, key, page)
        return page

    def undo(self, id_: str, number: int, decision: int, who: str) -> Page:
        """Take the last decision of a page out of force: all that one call of `correct` put in.

        Args:
            id_: of the upload.
            number: of the page.
            decision: the last one that the person saw in force, as `standing` numbers it.
            who: undoes it.

        Raises:
            Conflict: another one is the last by now.
            InputError: there is no such page, or nothing to undo.
        """
        with self._change() as db:
            key, _, last = self._standing(db, id_, number)
            if last != decision:
                raise Conflict(
                    f"page {number}", "was corrected or undone by someone else since", "Load the page again."
                )
            if last == 0:
                raise InputError(f"page {number}", "has no correction to undo", "Correct something first.")
            undone = "UPDATE corrections SET undone = ? WHERE page = ? AND decision = ?"
            db.execute(undone, (f"{who}, {_now()}", key, last))
            _, page, _ = self._standing(db, id_, number)
            index.put(db, key, page)
        return page

    # --- out --------------------------------------------------------------------------------------------------------

    def get(self, id_: str) -> Transcription:
        """One upload.

        Raises:
            Missing: there is none of this id.
        """
        found = self._listed("WHERE t.id = ?", (id_,))
        if not found:
            raise _missing(id_)
        return found[0]

    def recent(self, limit: int = 100) -> list[Transcription]:
        """The newest uploads."""
        return self._listed("ORDER BY created DESC, t.rowid DESC LIMIT ?", (limit,))

    def waiting(self) -> list[str]:
        """Ids of uploads that are not read yet, the oldest first."""
        rows = self._db.execute("SELECT id FROM transcriptions WHERE status = 'waiting' ORDER BY created, rowid")
        return [id_ for (id_,) in rows]

    def upload(self, id_: str) -> bytes:
        """The bytes that were uploaded. Missing: there is no such upload."""
        row = self._db.execute("SELECT upload FROM transcriptions WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise _missing(id_)
        return bytes(row[0])

    def page(self, id_: str, number: int, *, as_read: bool = False) -> Page:
        """A page as it stands, or as it was read. Numbers begin at 1. Missing: there is no such page."""
        return self._standing(self._db, id_, number, as_read)[1]

    def standing(self, id_: str, number: int) -> tuple[Page, int]:
        """A page as it stands, and its last decision in force: they are counted from 1, 0 where there is none."""
        return self._standing(self._db, id_, number)[1:]

    def picture(self, id_: str, number: int) -> bytes:
        """The photograph of a page as displayed, JPEG. Missing: there is no such page."""
        query = "SELECT picture FROM pages WHERE transcription = ? AND number = ?"
        row = self._db.execute(query, (id_, number)).fetchone()
        if row is None:
            raise _missing(f"{id_}, page {number}")
        return bytes(row[0])

    def search(self, query: str, limit: int = 20) -> list[Found]:
        """Pages that hold all phrases of a query, the newest first; then pages that may hold them. See `index.search`."""
        return index.search(self._db, query, limit)

    # --- gone -------------------------------------------------------------------------------------------------------

    def delete(self, id_: str) -> None:
        """Delete an upload with its pages, pictures, corrections and index, for good.

        Raises:
            Missing: there is none of this id.
        """
        if not self._deleted([id_]):
            raise _missing(id_)

    def expire(self, days: float) -> int:
        """Delete what is older; returns how many uploads it was."""
        before = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
        return self._deleted(
            [id_ for (id_,) in self._db.execute("SELECT id FROM transcriptions WHERE created < ?", (before,))]
        )

    def _deleted(self, ids: Sequence[str]) -> int:
        gone = pages = 0
        with self._change() as db:
            for id_ in ids:
                for (key,) in db.execute("SELECT id FROM pages WHERE transcription = ?", (id_,)).fetchall():
                    index.remove(db, key)
                    pages += 1
                gone += db.execute("DELETE FROM transcriptions WHERE id = ?", (id_,)).rowcount
            if pages:
                index.merge(db)
        if gone:
            self.wipe()
        return gone

    def wipe(self) -> bool:
        """Empty the write-ahead log, where deleted text still stands; False while another connection reads from it."""
        db = self._db
        db.execute("PRAGMA busy_timeout = 1000")  # nobody can write while this waits
        try:
            (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            db.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")
        return not busy

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                db.execute(f"PRAGMA {pragma}")
            self._local.db = db
        db = self._local.db
        assert isinstance(db, sqlite3.Connection)
        return db

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction that sees no other writer."""
        try:
            with self._db as db:  # commits, or rolls back
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            way = "Try again when the program is done that is writing to it." if busy else "Make room on its disk."
            raise Unwritable("the archive", f"can't be written ({error})", way) from error

    def _listed(self, rest: str, values: tuple[object, ...]) -> list[Transcription]:
        columns = "t.id, name, profile, status, problem, created"
        pages = "(SELECT count(*) FROM pages WHERE transcription = t.id)"
        rows = self._db.execute(f"SELECT {columns}, {pages} FROM transcriptions t {rest}", values)
        return [Transcription(*row) for row in rows]

    def _standing(self, db: sqlite3.Connection, id_: str, number: int, as_read: bool = False) -> tuple[int, Page, int]:
        """Key and content of a page, and its last decision in force."""
        query = "SELECT id, record FROM pages WHERE transcription = ? AND number = ?"
        row = db.execute(query, (id_, number)).fetchone()
        if row is None:
            raise _missing(f"{id_}, page {number}")
        page = load_page(row[1], name=f"page {row[0]}")
        edits = [] if as_read else db.execute(_EDITS, (row[0],)).fetchall()
        for _, line, start, end, text, by in edits:
            page = page.edit(Place(line, start, end), text, by)
        return row[0], page, edits[-1][0] if edits else 0


def _known(db: sqlite3.Connection, key: tuple[str, str, str]) -> tuple[str, str, str] | None:
    """Id, status and problem of an upload of some hash, profile and maker that is read or waits to be."""
    same = "sha256 = ? AND profile = ? AND made_by = ? AND status IN ('done', 'waiting') ORDER BY status LIMIT 1"
    found: tuple[str, str, str] | None
    found = db.execute(f"SELECT id, status, problem FROM transcriptions WHERE {same}", key).fetchone()
    return found


def _added(db: sqlite3.Connection, name: str, upload: bytes, profile: str, made_by: str) -> str:
    """Id of an upload that is kept now, or waits already."""
    key = (hashlib.sha256(upload).hexdigest(), profile, made_by)
    known, status, problem = _known(db, key) or ("", "waiting", "")
    if known and status == "waiting":
        return known
    made = uuid.uuid4().hex
    row = (made, name, profile, status, problem, _now(), key[0], made_by, upload, 0)
    db.execute(f"INSERT INTO transcriptions VALUES ({', '.join('?' * len(row))})", row)
    pages = db.execute("SELECT record, picture FROM pages WHERE transcription = ? ORDER BY number", (known,)).fetchall()
    _insert_pages(db, made, [(load_page(record), picture) for record, picture in pages])
    return made


def _insert_pages(db: sqlite3.Connection, id_: str, pages: Sequence[tuple[Page, bytes]]) -> None:
    for number, (page, picture) in enumerate(pages, 1):
        row = (number, id_, "[]", dump_page(page), picture)
        insert = "INSERT INTO pages (number, transcription, lines, record, picture) VALUES (?, ?, ?, ?, ?)"
        key = db.execute(insert, row).lastrowid
        assert key is not None
        index.put(db, key, page)


def _edited(page: Page, edit: Edit, by: str) -> Page:
    if reorders := REORDERING.search(edit.text):
        problem = f"can't be corrected so (U+{ord(reorders[0]):04X} reorders the text around it)"
        raise InputError(f"line {edit.line}", problem, "Type the text without it.")
    text = next((line.text for line in page.lines if line.id == edit.line), None)
    if text is None or text[edit.start : edit.end] != edit.old:
        raise Conflict(f"line {edit.line}", "has another text than the one corrected", "Load the page again.")
    try:
        return page.edit(Place(edit.line, edit.start, edit.end), edit.text, by)
    except ValueError as error:
        raise InputError(f"line {edit.line}", f"can't be corrected so ({error})", "Correct one stretch.") from error


def _missing(name: str) -> Missing:
    return Missing(name, "is not in the archive", "It may have been deleted; search for it.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
