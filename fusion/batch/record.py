"""The run's own record: which inputs are done and what became of them. It holds names and numbers, no text of a page.

A row is appended when the files it names are on the disk, so a run that was killed goes on from the last whole row. The
open record is locked: a second run on the same folder is refused, and a dead run's lock is gone with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from fusion.batch.plan import Plan
from fusion.errors import ConfigError

Status = Literal["ok", "partial", "failed"]
PAGES = "pages"
"""Folder of the files of the pages, below the output folder."""
WRITTEN = ("manifest.json", "results.jsonl", "results.parquet", "records.csv")
"""What is put together when a run ends."""


@dataclass(frozen=True, slots=True)
class PageRow:
    """What became of one page.

    Attributes:
        page: its id.
        lines, asked: lines found, and those that a second reader was asked about.
        stretches, review: words (of Chinese, characters) found, and those that need a look.
        files: names of the files written, in the folder `pages`.
    """

    page: str
    lines: int
    asked: int
    stretches: int
    review: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one input.

    Attributes:
        number: its place in the plan.
        input: path as found.
        status: `ok`; `partial`: something failed somewhere; `failed`: no page could be read.
        stage, reason: where and why, None when all is well.
        pages: those that could be read.
    """

    number: int
    input: str
    status: Status
    stage: str | None = None
    reason: str | None = None
    pages: tuple[PageRow, ...] = ()

    @classmethod
    def load(cls, text: bytes) -> Row:
        """A row of the record."""
        stored = json.loads(text)
        pages = (PageRow(**{**page, "files": tuple(page["files"])}) for page in stored.pop("pages"))
        return cls(**stored, pages=tuple(pages))


class Record:
    """The record of an output folder, open and locked."""

    def __init__(self, folder: Path, plan: Plan, *, restart: bool = False) -> None:
        """Open it, or begin it. With `restart` the results of another plan are removed first.

        Raises:
            ConfigError: another run works in this folder, or its results are of another plan.
            OSError: the folder can't be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = (folder / "record.jsonl").open("a+b", buffering=0)
        self._places: dict[int, int] = {}  # number of an input → place of its last row in the file
        self.identities: dict[str, str] = {}
        """What made the results, from the first engine that was opened for them."""
        with ExitStack() as opened:
            opened.callback(self.close)
            _lock(self._file.fileno(), folder)
            self._read()
            if restart:
                self._clear()
            self._agree(plan)
            opened.pop_all()

    def rows(self) -> Iterator[Row]:
        """The rows in input order."""
        for number in sorted(self._places):
            yield self._at(self._places[number])

    def identify(self, identities: dict[str, str]) -> None:
        """Note what an engine's results depend on.

        Raises:
            ConfigError: the results that are there were made with something else.
        """
        if not self.identities:
            self._append({"identities": identities})
            self.identities = identities
        there = self.identities
        changed = [f"{k}: {there.get(k)} there, {v} here" for k, v in identities.items() if v != there.get(k)]
        if changed:
            raise _other(self._folder, "; ".join(changed))

    def add(self, row: Row) -> None:
        """Append a row; one that is there of the same input is replaced, and its files with it."""
        old = self._places.get(row.number)
        stale = self._files(self._at(old)) - self._files(row) if old is not None else set()
        self._places[row.number] = self._append(asdict(row))
        self._remove(stale)

    def forget(self, row: Row) -> None:
        """Take a row for undone, until another is added."""
        del self._places[row.number]

    def is_whole(self, row: Row) -> bool:
        """Whether the files that a row names are there."""
        return all(path.is_file() for path in self._files(row))

    def close(self) -> None:
        """Give the folder free for other runs."""
        self._file.close()

    def _read(self) -> None:
        """Find the rows; what a kill has left of a last one is cut off."""
        end = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in file:
                try:
                    stored = json.loads(line if line.endswith(b"\n") else b"")
                except ValueError:
                    break
                if "number" in stored:
                    self._places[stored["number"]] = end
                self.identities = stored.get("identities", self.identities)
                end += len(line)
        self._file.truncate(end)

    def _agree(self, plan: Plan) -> None:
        """Make sure that what is there is of this plan; where nothing is there, begin."""
        path = self._folder / "plan.jsonl"
        if path.exists() and self._places:
            if difference := plan.difference(path.read_text(encoding="utf-8")):
                raise _other(self._folder, difference)
        else:
            self._file.truncate(0)
            self.identities = {}
            write_whole(path, plan.dump())
        (self._folder / "manifest.json").unlink(missing_ok=True)  # it comes back when the run ends

    def _clear(self) -> None:
        for row in self.rows():
            self._remove(self._files(row))
        self._remove({self._folder / name for name in WRITTEN})
        self._places.clear()

    def _files(self, row: Row) -> set[Path]:
        return {self._folder / PAGES / name for page in row.pages for name in page.files}

    @staticmethod
    def _remove(paths: set[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _at(self, place: int) -> Row:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(place)
            return Row.load(file.readline())

    def _append(self, content: dict[str, Any]) -> int:
        """Write a row and wait for the disk; returns its place. A row that does not fit is taken back."""
        place = self._file.seek(0, os.SEEK_END)
        line = json.dumps(content).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(place)
            raise
        return place


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written that is as it was or as it is to be, whenever the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text by the same rule."""
    with whole(path) as file:
        file.write(text.encode())


def settle(partial: Path, path: Path) -> None:
    """Give a file that is written its name, once its content is on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _other(folder: Path, difference: str) -> ConfigError:
    way = "Name another batch.output, or replace the results there with --restart; what readers said is kept."
    return ConfigError(folder, f"holds the results of another plan ({difference})", way)


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        way = "Wait for its end, or name another batch.output."
        raise ConfigError(folder, "is the output of a run that is under way", way) from error
