r"""Recorded readings of another model, played back from a TSV file: for studies and tests, with no model at hand.

A recording is final: it passes the same examination as a live answer, and one that fails becomes a Failure. It holds the
text of a whole image; when a page has several lines, a recording with as many rows (a row break is the two characters
`\n`) is dealt out in order, and any other is not guessed at.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from fusion.config import ReplayVlm
from fusion.errors import ConfigError
from fusion.ink import image_sha256
from fusion.page import Failure, Reading, Recipe
from fusion.vlm.acceptance import Broken, examine
from fusion.vlm.protocol import Answer, Query

ROW_BREAK = "\\n"


class ReplayReader:
    """Plays recorded readings back."""

    name = "replay"

    def __init__(self, config: ReplayVlm) -> None:
        """Load the file.

        Raises:
            ConfigError: the file can't be read, has no `image` column, not the wanted one, or names an image twice.
        """
        self._column = config.column
        self._recordings, self._version = _load(config)
        self.identity = f"replay {self._version} {self._column}"
        names = Counter(PurePosixPath(image).name for image in self._recordings)
        self._by_name = {PurePosixPath(i).name: i for i in self._recordings if names[PurePosixPath(i).name] == 1}

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """The recorded reading of each crop."""
        lines = Counter(query.image for query in queries)
        dealt: Counter[str] = Counter()
        outcomes: list[tuple[Reading | Failure, ...]] = []
        for query in queries:
            outcomes.append((self._read_one(query, dealt[query.image], lines[query.image]),))
            dealt[query.image] += 1
        return outcomes

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _read_one(self, query: Query, place: int, count: int) -> Reading | Failure:
        """The reading of line `place` of an image that shows `count` lines."""
        recorded = self._find(query.image)
        if not recorded:
            return Failure("vlm", "not_recorded", f"column {self._column} holds no reading of this image")
        rows = recorded.split(ROW_BREAK)
        if count > 1 and len(rows) != count:
            message = f"the recording has {len(rows)} rows and {count} lines were found on the image"
            return Failure("vlm", "not_recorded", message)
        raw = rows[place] if count > 1 else "\n".join(rows)
        text = examine(Answer(raw), query, "")
        if isinstance(text, Broken):
            return Failure("vlm", text.symptom, f"{text.message} (recorded in column {self._column})")
        recipe = Recipe("replay", self._version, self._column, image_sha256(query.line.crop), prompt_id="recorded")
        return Reading("vlm", text, recipe, raw=raw)

    def _find(self, image: str) -> str | None:
        """By the name itself, then by the longest recorded path that it ends in, then by a file name that is unique."""
        path = PurePosixPath(image.replace("\\", "/"))
        for start in range(len(path.parts)):
            name = str(PurePosixPath(*path.parts[start:]))
            if name in self._recordings:
                return self._recordings[name]
        return self._recordings.get(self._by_name.get(path.name, ""))


def _load(config: ReplayVlm) -> tuple[dict[str, str], str]:
    """Image → reading, and the first 8 hex digits of the file's SHA-256."""
    try:
        content = config.path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(config.path, f"can't be read ({error.strerror})", "Check vlm.path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(config.path, "is not UTF-8", "Save the recordings as UTF-8 TSV.") from error
    table = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    header, *rows = list(table) or [[]]
    if header[:1] != ["image"]:
        raise ConfigError(config.path, "has no header whose first column is `image`", "Add one: image<TAB>reader …")
    if config.column not in header[1:]:
        way = f"Set vlm.column to one of: {', '.join(header[1:])}."
        raise ConfigError(config.path, f"has no column {config.column!r}", way)
    column = header.index(config.column)
    recordings: dict[str, str] = {}
    for row in filter(None, rows):
        if row[0] in recordings:
            raise ConfigError(config.path, f"names {row[0]} twice", "Keep one row per image.")
        recordings[row[0]] = row[column].strip() if column < len(row) else ""
    return recordings, hashlib.sha256(content).hexdigest()[:8]
