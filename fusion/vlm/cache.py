"""Answers remembered by content, in SQLite: the same crop, prompt, model and parameters are asked once.

A cache is for speed and may be deleted at any time; recorded readings for tests and studies are `replay`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion.errors import ReaderError
from fusion.page import Token
from fusion.vlm.protocol import Answer

_log = logging.getLogger(__name__)
_WAIT = 10.0  # s to wait while another process writes


def answer_key(image: str, prompt: str, model: str, parameters: Mapping[str, object]) -> str:
    """SHA-256 over all that an answer depends on.

    `image` is the crop's `image_sha256`; `parameters` are JSON values (temperature, max_tokens …).
    """
    content = json.dumps([image, prompt, model, dict(parameters)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerCache:
    """Answers in an SQLite file, usable from several threads and processes; without a path it remembers nothing."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file.

        Raises:
            ReaderError: the file can't be opened or is no answer cache.
        """
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            # Without a sync per answer a crash loses the last ones: asking again costs less than syncing each.
            self._db.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self._broken(error) from error

    def get(self, key: str) -> Answer | None:
        """The remembered answer; None where there is none that can be read."""
        rows = self._execute("SELECT answer FROM answers WHERE key = ?", key)
        try:
            record = json.loads(rows[0][0]) if rows else None
            return None if record is None else _answer(record)
        except (LookupError, RecursionError, TypeError, ValueError):
            return None  # one row that was damaged is asked for again

    def put(self, key: str, answer: Answer) -> None:
        """Remember an answer; a second one under the same key replaces the first. Where that can't be done, nothing is lost."""
        tokens = [[token.text, token.score] for token in answer.tokens]
        record = {"text": answer.text, "finish": answer.finish, "tokens": tokens, "model": answer.model}
        self._execute("INSERT OR REPLACE INTO answers (key, answer) VALUES (?, ?)", key, json.dumps(record))

    def close(self) -> None:
        """Close the file; a closed cache finds nothing."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        with self._lock:
            if self._db is None:
                return []
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:  # locked, damaged, no space: a cache is for speed
                _log.warning("the cache of answers %s can't be used (%s)", self._path, error)
                return []

    def _broken(self, error: OSError | sqlite3.Error) -> ReaderError:
        way = "Delete the file, or choose another one with vlm.cache; nothing but time is lost."
        return ReaderError(self._path, f"can't be used as a cache of answers ({error})", way)


def _answer(record: Mapping[str, Any]) -> Answer:
    text, finish, model = record["text"], record["finish"], record["model"]
    if not (isinstance(text, str) and isinstance(finish, str | None) and isinstance(model, str)):
        raise TypeError("no answer")
    return Answer(text, finish, tuple(Token(str(token), float(score)) for token, score in record["tokens"]), model)
