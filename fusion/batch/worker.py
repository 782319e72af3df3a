"""A process that reads inputs: the engine, and the files of the pages.

It opens its engine, and answers every `Input` with a `Done`. Several inputs may be in hand at once: while an endpoint
thinks, the processor works on another page.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from fusion.batch.plan import Input
from fusion.batch.record import PAGES, PageRow, Row, Status, settle
from fusion.batch.remote import fetched
from fusion.config import Config, IntakeConfig
from fusion.engine import Engine, photographs
from fusion.errors import FULL, FusionError, InputError
from fusion.formats import Format
from fusion.intake import count_pages
from fusion.output.formats import Sheet, write_page
from fusion.page import UNASKED, Failure, Line, Page
from fusion.review import review

PARTIAL = ".partial"
"""Folder of files that are being written, below the output folder."""
TRIMMED = 20
"""Inputs after which freed memory goes back to the system: glibc keeps what lies between blocks in use, some 30 MB in time."""
READING = ("ocr", "vlm")
"""Stages at which a reader fails."""
Reason = tuple[str, str]
"""A stage and why it failed."""
AWAY = {
    *("timeout", "unreachable", "untrusted", "busy", "server_error", "bad_answer", "crash"),
    *("unauthorized", "not_found", "refused", "redirected"),
}
"""Kinds of failure by which a second reader did not answer at all; others say what was wrong with its answer."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The engine is open; what its results depend on."""

    identities: dict[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """An input is done and its files are on the disk.

    Attributes:
        row: what became of it.
        away: whether a reader failed on it as a whole; None where none was asked.
        process: which did it, on which machine.
        recalled, clock: records that it found in the store, and its seconds per stage, since it was started.
    """

    row: Row
    away: bool | None = None
    process: str = ""
    recalled: int = 0
    clock: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """An input, by its key, has several pages, none of which was read: several workers may share them."""

    key: tuple[int, int]
    pages: int


@dataclass(frozen=True, slots=True)
class Ends:
    """The run can't go on: the engine can't be opened, or nothing more can be written. An error taken apart."""

    kind: type[FusionError] | type[OSError]
    parts: tuple[object, ...]


Answer = Opened | Done | Counted | Ends


class Reader:
    """The engine of a worker, opened when it is asked for."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._answered = 0

    def open(self) -> Opened | Ends:
        """Open the engine, or say why that can't be."""
        cv2.setNumThreads(1)
        try:
            self._engine = Engine(self._config)
        except FusionError as error:
            return Ends(type(error), (error.subject, error.problem, error.way_out))
        return Opened(self._engine.identities)

    def answer(self, task: Input) -> Done | Counted | Ends:
        """The door of a batch: whatever breaks behind it is the row of one input. A disk that takes nothing ends the run.

        An input of several pages is counted, and asked for again in parts.
        """
        self._answered += 1
        if self._answered % TRIMMED == 0:
            with suppress(OSError, AttributeError, TypeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)
        try:
            return read(self._engine, task)
        except Exception as error:  # a bug, or no memory left: the message might quote the page
            if isinstance(error, OSError) and error.errno in FULL:
                return Ends(OSError, (error.errno, error.strerror, str(error.filename or self._config.batch.output)))
            reason = f"unexpected {type(error).__name__}"
            return Done(Row.lost(task, "output", reason))


def main(pipe: Connection, config: Config, at_once: int) -> None:
    """Work until the pipe says None, or its other end is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out, Linux is to end this process and not the one that keeps the record
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    reader = Reader(config)
    speaking = threading.Lock()

    def say(answer: Answer) -> None:
        with speaking:
            pipe.send(answer)

    say(reader.open())
    with suppress(EOFError), ThreadPoolExecutor(at_once) as threads:
        while (task := pipe.recv()) is not None:
            threads.submit(lambda one: say(reader.answer(one)), task)


def _end_with_parent() -> None:
    """A run that is killed takes its workers along: nobody would record what they still do."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def read(engine: Engine, task: Input) -> Done | Counted:
    """Read an input of one page, or some pages of a longer one, and write their files.

    Returns:
        `Counted` for an input that turns out to have several pages, none of which was asked for by its number.

    Raises:
        OSError: nothing can be written any more.
    """
    if task.problem is not None:
        return Done(Row.lost(task, "intake", task.problem))
    rows: list[PageRow] = []
    failures: Counter[Reason] = Counter()
    away: list[bool] = []
    try:
        with fetched(task.path, engine.config.intake, engine.config.batch.output / PARTIAL) as source:
            if task.pages is None and (count := _pages(source, engine.config.intake)) > 1:
                return Counted(task.key, count)
            for page, files, unwritten in _written(engine, task, source):
                found = review(page, page.max_error)
                asked = [line for line in page.lines if _was_asked(line)]
                counts = len(page.lines), len(asked), found.total, found.flagged
                rows.append(PageRow(page.id, *counts, page.understood, files))
                troubles = [*page.failures, *(failure for line in page.lines for failure in line.troubles)]
                failures.update([*unwritten, *((failure.stage, failure.message) for failure in troubles)])
                broken = any(failure.stage in READING for failure in page.failures)
                away += [broken or all(map(_is_away, asked))] if broken or asked else []
        if task.pages is not None and len(rows) < len(task.pages):
            failures[("intake", f"page {task.pages[len(rows)]}: is not there any more")] += 1
    except InputError as error:  # a page that is lost says more than others that were hard to read
        failures = Counter({("intake", str(error)): 1})
    unread = not rows or (not any(row.lines for row in rows) and any(stage == "ocr" for stage, _ in failures))
    status: Status = "failed" if unread else "partial" if failures else "ok"
    counted = [(stage, reason, times) for (stage, reason), times in failures.items()]
    return Done(
        Row.about(task, status, counted, rows),
        all(away) if away else None,
        _here(),
        engine.recalled,
        dict(engine.clock),
    )


def _pages(source: Path, intake: IntakeConfig) -> int:
    """How many pages a file has; 1 where that can't be told: whoever reads it says what is wrong."""
    with suppress(InputError):
        return count_pages(source, intake)
    return 1


def _written(engine: Engine, task: Input, source: Path) -> Iterator[tuple[Page, tuple[str, ...], list[Reason]]]:
    """The pages of an input, each with the names of its files, which are on the disk, and why others are not."""
    batch = engine.config.batch
    # Only what shows the photograph needs it decoded a second time, as displayed.
    shown = any(name.photo for name in batch.formats)
    photos = photographs(source, engine.config, task.pages) if shown else itertools.repeat(None)
    pages = engine.read(source, crop=batch.crop, name=str(task.path), pages=task.pages)
    for page, photo in zip(pages, photos, strict=False):
        files, unwritten = [], []
        for name in batch.formats:
            try:
                files.append(_write(Sheet(page, photo, source), batch.output, task, name))
            except OSError as error:
                if error.errno in FULL:
                    raise
                unwritten.append(("output", f"{name} can't be written ({error.strerror or error})"))
        yield page, tuple(files), unwritten


def _write(sheet: Sheet, output: Path, task: Input, name: Format) -> str:
    """Write one file beside its place, and move it there when the disk has it."""
    partial = output / PARTIAL / _here()
    partial.mkdir(parents=True, exist_ok=True)
    file = write_page(sheet.page, sheet.photo, partial, task.stem, name, source=sheet.source)
    settle(partial / file, output / PAGES / file)
    return file


def _here() -> str:
    return f"{platform.node()}-{os.getpid()}"


def _was_asked(line: Line) -> bool:
    """Whether a second reader was asked about a line."""
    return any(reading.source == "vlm" for reading in line.readings) or any(map(_is_trouble, line.failures))


def _is_trouble(failure: Failure) -> bool:
    return failure.stage == "vlm" and failure.kind not in UNASKED


def _is_away(line: Line) -> bool:
    """Whether a line got no answer."""
    return not any(reading.source == "vlm" for reading in line.readings) and all(
        failure.kind in AWAY for failure in line.failures if _is_trouble(failure)
    )
