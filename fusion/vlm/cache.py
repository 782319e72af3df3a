"""Answers remembered by content: the same crop, prompt, model and parameters are asked once.

Knows SQLite and how an answer is written as JSON; knows no model and no prompt wording. A cache is for speed and may be
deleted at any time; recorded readings for tests and studies are `replay`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from fusion.errors import ReaderError
from fusion.page import Token
from fusion.vlm.protocol import Answer

_WAIT = 10.0
"""Seconds to wait while another process writes."""


def answer_key(image: str, prompt: str, model: str, parameters: Mapping[str, object]) -> str:
    """What an answer depends on, as one SHA-256.

    Args:
        image: `image_sha256` of the crop.
        prompt: the question, filled in.
        model: name of the model.
        parameters: everything else that changes an answer (temperature, most tokens …), JSON values.
    """
    content = json.dumps([image, prompt, model, dict(parameters)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerCache:
    """Answers in an SQLite file, usable from several threads and processes; with no path it remembers nothing."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file.

        Raises:
            ReaderError: the file can't be opened or is no answer cache.
        """
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A lost last write costs one more question; syncing every answer would cost more than that.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self._broken(error) from error

    def get(self, key: str) -> Answer | None:
        """The remembered answer, or None."""
        rows = self._execute("SELECT answer FROM answers WHERE key = ?", (key,))
        return _from_json(rows[0][0]) if rows else None

    def put(self, key: str, answer: Answer) -> None:
        """Remember an answer; a second one under the same key replaces the first."""
        self._execute("INSERT OR REPLACE INTO answers (key, answer) VALUES (?, ?)", (key, _to_json(answer)))

    def close(self) -> None:
        """Give the file back; asking a closed cache finds nothing."""
        with self._lock:
            db, self._db = self._db, None
        if db is not None:
            db.close()

    def _execute(self, statement: str, values: tuple[str, ...]) -> list[tuple[str]]:
        with self._lock:
            if self._db is None:
                return []
            try:
                with closing(self._db.execute(statement, values)) as cursor:
                    return cursor.fetchall()
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def _broken(self, error: OSError | sqlite3.Error) -> ReaderError:
        return ReaderError(
            self.path,
            f"can't be used as a cache of answers ({error})",
            "Delete the file, or choose another one with vlm.cache; nothing but time is lost.",
        )


def _to_json(answer: Answer) -> str:
    tokens = [[token.text, token.score] for token in answer.tokens]
    return json.dumps({"text": answer.text, "finish": answer.finish, "tokens": tokens, "model": answer.model})


def _from_json(text: str) -> Answer:
    record = json.loads(text)
    tokens = tuple(Token(text, score) for text, score in record["tokens"])
    return Answer(record["text"], record["finish"], tokens, record["model"])
