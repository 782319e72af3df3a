"""The run's own record: which inputs are done and what became of them. It holds names and numbers, no text of a page.

A row is appended when the files it names are on the disk, so a run that was killed goes on from the last whole row. The
open record is locked: a second run on the same folder is refused, and a dead run's lock is gone with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from fusion.batch.plan import Input, Plan
from fusion.errors import ConfigError

Status = Literal["ok", "partial", "failed"]
PAGES = "pages"
"""Folder of the files of the pages, below the output folder."""
LOST = ("intake", "worker")
"""Stages at which a whole page is lost."""
WRITTEN = ("manifest.json", "results.jsonl", "results.parquet", "records.csv")
"""What is put together when a run ends."""


@dataclass(frozen=True, slots=True)
class PageRow:
    """What became of one page.

    Attributes:
        page: its id.
        lines, asked: lines found, and those that a second reader was asked about.
        stretches, review: words (of Chinese, characters) found, and those that need a look.
        understood: whether the profile found records on it; True where none was asked to.
        files: names of the files written, in the folder `pages`.
    """

    page: str
    lines: int
    asked: int
    stretches: int
    review: int
    understood: bool
    files: tuple[str, ...]

    @property
    def number(self) -> int:
        """Of the page in its input, from 1."""
        _, _, number = self.page.rpartition("#")
        return int(number) if number.isdecimal() else 1


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one input, or of some pages of it.

    Attributes:
        number: its place in the plan.
        input: path as found.
        status: `ok`; `partial`: something failed somewhere; `failed`: no page could be read.
        failures: stage, reason, and how often.
        pages: those that could be read.
        first, count, of: the first page that this is about, how many it is about, and how many there are.
    """

    number: int
    input: str
    status: Status
    failures: tuple[tuple[str, str, int], ...] = ()
    pages: tuple[PageRow, ...] = ()
    first: int = 1
    count: int = 1
    of: int = 1

    @classmethod
    def load(cls, text: bytes) -> Row:
        """A row of the record."""
        stored = json.loads(text)
        pages = (PageRow(**{**page, "files": tuple(page["files"])}) for page in stored.pop("pages"))
        return cls(**stored | {"failures": tuple(map(tuple, stored["failures"]))}, pages=tuple(pages))

    @classmethod
    def lost(cls, task: Input, stage: str, reason: str) -> Row:
        """The row of what could not be read at all."""
        if task.pages is not None:
            numbers = sorted({task.pages[0], task.pages[-1]})
            reason = f"page {' to '.join(map(str, numbers))}: {reason}"
        return cls.about(task, "failed", [(stage, reason, 1)])

    @classmethod
    def about(
        cls,
        task: Input,
        status: Status,
        failures: Iterable[tuple[str, str, int]] = (),
        pages: Sequence[PageRow] = (),
    ) -> Row:
        """The row of what a worker was given."""
        first, count = task.key[1], len(task.singles)
        return cls(task.number, str(task.path), status, tuple(failures), tuple(pages), first, count, task.of)

    @classmethod
    def joined(cls, parts: Sequence[Row]) -> Row:
        """The row of an input from those of its pages, in their order."""
        times = Counter[tuple[str, str]]()
        for part in parts:
            times.update({(stage, reason): count for stage, reason, count in part.failures})
        found = {part.status for part in parts}
        status: Status = found.pop() if len(found) == 1 else "partial"
        failures = tuple((stage, reason, count) for (stage, reason), count in times.items())
        pages = tuple(page for part in parts for page in part.pages)
        return cls(parts[0].number, parts[0].input, status, failures, pages, 1, parts[0].of, parts[0].of)

    @property
    def key(self) -> tuple[int, int]:
        """See `Input.key`."""
        return self.number, self.first

    @property
    def numbers(self) -> range:
        """Of the pages that this is about."""
        return range(self.first, self.first + self.count)

    @property
    def stage(self) -> str | None:
        """Where most failed, lost pages before what else failed; None when all is well."""
        return self._worst[0]

    @property
    def reason(self) -> str | None:
        """Why."""
        return self._worst[1]

    @property
    def _worst(self) -> tuple[str, str] | tuple[None, None]:
        if not self.failures:
            return None, None
        stage, reason, times = max(self.failures, key=lambda one: (one[0] in LOST, one[2]))
        lost = sum(one[0] in LOST for one in self.failures) - 1
        more = f"; {lost} more parts of it were lost" if lost > 0 else ""
        return stage, (f"{reason} ({times} times)" if times > 1 else reason) + more


class _Place(NamedTuple):
    """Where in the file the row of some pages begins."""

    first: int
    end: int
    of: int
    start: int


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
        self._places: dict[int, list[_Place]] = {}  # by the number of the input
        self.identities: dict[str, str] = {}
        """What made the results, from the first engine that was opened for them."""
        self.runs: list[dict[str, str | None]] = []
        """When each run on this record started and finished; one that was killed has not finished."""
        with ExitStack() as opened:
            opened.callback(self.close)
            _lock(self._file.fileno(), folder)
            self._read(restart)
            if restart:
                self._clear()
            self._agree(plan)
            opened.pop_all()

    def rows(self) -> Iterator[Row]:
        """The rows of whole inputs, in input order."""
        for number in sorted(self._places):
            if (row := self.row(number)) is not None:
                yield row

    def row(self, number: int) -> Row | None:
        """The row of an input; None where pages of it are still to be read."""
        parts = self.parts(number)
        return Row.joined(parts) if parts and sum(part.count for part in parts) == parts[0].of else None

    def parts(self, number: int) -> list[Row]:
        """What there is of an input, in the order of its pages."""
        return [self._at(place) for place in self._places.get(number, ())]

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

    def begin(self, now: str) -> None:
        """Note that a run starts."""
        self._append({"started": now})
        self.runs.append({"started": now, "finished": None})

    def end(self, now: str) -> None:
        """Note that it has finished."""
        self._append({"finished": now})
        self.runs[-1]["finished"] = now

    def add(self, row: Row) -> None:
        """Append a row; those of the same pages are replaced, and their files with them."""
        content = asdict(row)
        replaced = [self._at(place) for place in self._note(content, self._append(content))]
        # Other pages of a replaced row may have rows, and files, of their own by now.
        stale = {path for old in replaced for path in self._files(old, row)}
        self._remove(stale - self._files(row))

    def forget(self, row: Row) -> None:
        """Take a row for undone, until another is added; its files are removed."""
        self._remove(self._files(row))
        self._places[row.number] = [one for one in self._places[row.number] if one.first != row.first]

    def recount(self, number: int, of: int) -> None:
        """Forget what is there of an input from when it had more pages or fewer.

        Before any of its pages is read anew: the new files may have the names of old ones.
        """
        for row in self.parts(number):
            if row.of != of:
                self.forget(row)

    def is_whole(self, row: Row) -> bool:
        """Whether the files that a row names are there."""
        return all(path.is_file() for path in self._files(row))

    def close(self) -> None:
        """Give the folder free for other runs."""
        self._file.close()

    def _read(self, restart: bool) -> None:
        """Find the rows; what a kill has left of a last one is cut off."""
        end = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in file:
                try:
                    stored = json.loads(line if line.endswith(b"\n") else b"")
                except ValueError:
                    break
                if not isinstance(stored, dict):
                    break
                if "number" in stored and not _is_ours(line):
                    if not restart:
                        way = "--restart replaces them, or choose another batch.output."
                        raise ConfigError(self._folder, "holds results of another version of fusion", way)
                    shutil.rmtree(self._folder / PAGES, ignore_errors=True)
                    end = 0
                    break
                if "number" in stored:
                    self._note(stored, end)
                if "started" in stored:
                    self.runs.append({**stored, "finished": None})
                if "finished" in stored:
                    self.runs[-1].update(stored)
                self.identities = stored.get("identities", self.identities)
                end += len(line)
        self._file.truncate(end)

    def _agree(self, plan: Plan) -> None:
        """Make sure that what is there is of this plan; where nothing is there, begin."""
        path = self._folder / "plan.jsonl"
        if self._places:
            if difference := plan.difference(path.read_text(encoding="utf-8") if path.exists() else ""):
                raise _other(self._folder, difference)
        else:
            self._file.truncate(0)
            self.identities, self.runs = {}, []
            write_whole(path, plan.dump())
        (self._folder / "manifest.json").unlink(missing_ok=True)  # it comes back when the run ends

    def _clear(self) -> None:
        for place in [one for places in self._places.values() for one in places]:
            self._remove(self._files(self._at(place)))
        self._remove({self._folder / name for name in WRITTEN})
        self._places.clear()

    def _files(self, row: Row, about: Row | None = None) -> set[Path]:
        """Files of the pages of a row; of those alone that another row is about too, if the input has as many pages still."""
        whole = about is None or about.of != row.of or row.of == 1
        pages = [page for page in row.pages if whole or (about is not None and page.number in about.numbers)]
        return {self._folder / PAGES / name for page in pages for name in page.files}

    @staticmethod
    def _remove(paths: set[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _note(self, content: dict[str, Any], start: int) -> list[_Place]:
        """Take note of a row at a place of the file; returns the places of those that it replaces.

        They are about the same pages, or about the same input when it had more pages or fewer.
        """
        new = _Place(content["first"], content["first"] + content["count"], content["of"], start)
        there = self._places.get(content["number"], [])
        replaced = [one for one in there if one.of != new.of or (one.first < new.end and new.first < one.end)]
        self._places[content["number"]] = sorted([new, *(one for one in there if one not in replaced)])
        return replaced

    def _at(self, place: _Place) -> Row:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(place.start)
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


def _is_ours(line: bytes) -> bool:
    """Whether a row has the form that this version writes."""
    try:
        row = Row.load(line)
        return min(row.number, row.first, row.count, row.of) >= 0
    except (KeyError, TypeError, ValueError):
        return False


def _other(folder: Path, difference: str) -> ConfigError:
    kept = folder / "store"
    way = f"Replace them with --restart, or name another batch.output; with store.folder: {kept} no reader runs again."
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
