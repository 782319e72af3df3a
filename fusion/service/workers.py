"""Engines in processes of their own behind a bounded queue.

An engine that crashes, hangs or runs out of memory takes its process along and nothing else: the work that it was at has
failed, and a new process takes its place. When the queue is full, more work is refused at once.
"""

from __future__ import annotations

import io
import logging
import math
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from PIL import Image

from fusion.config import Config, load_config
from fusion.engine import Engine, photographs
from fusion.errors import FusionError, InputError, ReaderError
from fusion.output.crops import at_most
from fusion.page import Page
from fusion.service.answers import Answer, ask

LONGEST_SIDE = 4000
"""Of the pictures that are kept to look at, px."""
_QUALITY = 90
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Full(FusionError):
    """The queue is full. `retry_after`: seconds after which there may be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue", "is full", f"Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Read:
    """Read an upload with a profile."""

    upload: bytes
    name: str
    profile: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask about page `number` of an upload; `page` is what stands there, None where the first is to be read."""

    upload: bytes
    question: str
    profile: str
    number: int = 1
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job: pages with their pictures (JPEG, as displayed), an answer, and what went wrong, if anything."""

    pages: tuple[tuple[Page, bytes], ...] = ()
    answer: Answer | None = None
    problem: str = ""


Job = Read | Ask
Call = Callable[[Job], Done]
"""Have an engine do a job. Raises ReaderError where it was lost with its process."""


class Workers:
    """As many engines as `serve.workers` says, and at most `serve.queue` pieces of work that wait for one."""

    def __init__(self, config: Config) -> None:
        """Start the processes; they load their models while this returns."""
        self._config = config
        self._queue: queue.SimpleQueue[tuple[Callable[[Call], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._busy = 0
        self._ready = 0
        self._seconds = 5.0
        """Time that a piece of work takes, a running mean."""
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(config.serve.workers)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pieces of work that no engine has begun."""
        return self._queue.qsize()

    @property
    def ready(self) -> bool:
        """Whether an engine has loaded its models."""
        return self._ready > 0

    def room(self, pieces: int) -> None:
        """Check that the queue takes some more; whoever submits what is outside holds a lock meanwhile.

        Raises:
            Full: it does not.
        """
        free = self._config.serve.workers - self._busy + self._config.serve.queue - self.waiting
        if pieces > max(free, 0):
            raise Full(math.ceil(self._seconds / self._config.serve.workers))

    def submit(self, work: Callable[[Call], T]) -> Future[T]:
        """Queue a piece of work; it runs in a thread of this process and is handed an engine."""
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    def close(self) -> None:
        """Finish what is being done, leave the rest, and end the processes."""
        while not self._queue.empty():
            self._queue.get()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        """A thread's life: one engine, one piece of work after the other."""
        with _EngineProcess(self._config) as engine:
            with self._lock:
                self._ready += engine.opened
            while (taken := self._queue.get()) is not None:
                work, future = taken
                with self._lock:
                    self._busy += 1
                start = time.perf_counter()
                try:
                    future.set_result(work(engine.call))
                except Exception as error:  # whatever a piece of work raises, the next one finds its engine
                    if not isinstance(error, FusionError):
                        _log.error("unexpected %s in a piece of work", type(error).__name__)
                    future.set_exception(error)
                finally:
                    with self._lock:
                        self._busy -= 1
                        self._seconds += 0.1 * (time.perf_counter() - start - self._seconds)


class _EngineProcess:
    """An engine in a process, started anew when it is lost."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.opened = False
        self._process: SpawnProcess | None = None

    def __enter__(self) -> _EngineProcess:
        with suppress(ReaderError):  # it is logged, and the next call tries again
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def call(self, job: Job) -> Done:
        if not self.opened:
            self._open()
        try:
            self._connection.send(job)
            return self._answer()
        except (EOFError, OSError) as error:  # a TimeoutError is an OSError
            late = isinstance(error, TimeoutError)
            _log.warning("an engine was %s and is started anew", "too slow" if late else "lost")
            self._end()
            self._start()
            problem = f"took more than {self._config.serve.timeout:g} s" if late else "ended the engine that read it"
            raise ReaderError("the file", problem, "Save it anew, smaller, as JPEG or PNG.") from error

    def _open(self) -> None:
        """Start the process where there is none, and wait until its models are loaded."""
        if self._process is None:
            self._start()
        try:
            problem = self._answer().problem
        except (EOFError, OSError):
            problem = "it ended while it was started"
        if problem:
            _log.error("an engine can't be opened: %s", problem)
            self._end()
            raise ReaderError("the engine", f"can't be opened ({problem})", "`fusion doctor` says what is missing.")
        self.opened = True

    def _answer(self) -> Done:
        if not self._connection.poll(self._config.serve.timeout):
            raise TimeoutError
        done = self._connection.recv()
        assert isinstance(done, Done)
        return done

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._config), daemon=True)
        self._process.start()
        theirs.close()

    def _end(self) -> None:
        self.opened = False
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = None


def _work(connection: Connection, config: Config) -> None:
    """The process: it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        engines = {config.domain.profile: Engine(config)}
    except FusionError as error:
        connection.send(Done(problem=str(error)))
        return
    connection.send(Done())
    with suppress(EOFError, OSError):  # the other end of the pipe has ended
        while True:
            job = connection.recv()
            if job.profile not in engines:
                engines[job.profile] = Engine(load_config(config, [f"domain.profile={job.profile}"]))
            do = _read if isinstance(job, Read) else _ask
            connection.send(do(engines[job.profile], job))


def _read(engine: Engine, job: Read) -> Done:
    pages = []
    try:
        photos = photographs(job.upload, engine.config)
        for page in engine.read(job.upload, name=job.name):
            stream = io.BytesIO()
            Image.fromarray(at_most(next(photos), LONGEST_SIDE, LONGEST_SIDE)).save(stream, "JPEG", quality=_QUALITY)
            pages.append((page, stream.getvalue()))
    except InputError as error:
        return Done(tuple(pages), problem=str(error))
    return Done(tuple(pages))


def _ask(engine: Engine, job: Ask) -> Done:
    try:
        return Done(answer=ask(engine, job.upload, job.question, number=job.number, page=job.page))
    except FusionError as error:
        return Done(problem=str(error))
