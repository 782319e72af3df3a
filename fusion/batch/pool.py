"""Processes that read inputs: each is busy with few at once, and one that dies is replaced.

What a dead process had in hand is tried once more, each input alone in a fresh process; where that dies too, the input is
a failed row. Processes are spawned: the runtimes of the models don't survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from fusion.batch.plan import Input
from fusion.batch.record import Row
from fusion.batch.worker import Done, Ends, Opened, main
from fusion.config import Config
from fusion.errors import ReaderError

TICK = 0.5
"""Longest time without an event, s."""
STILLBORN = 3
"""Processes in a row that may die before their engine is open."""
_THREADS = "OMP_NUM_THREADS"
GRACE = 5.0  # s that a process gets to end


@dataclass(eq=False, slots=True)
class _Worker:
    """One process, the pipe to it, and what it has in hand."""

    process: BaseProcess
    pipe: Connection
    in_hand: dict[int, Input] = field(default_factory=dict)
    opened: bool = False
    alone: bool = False  # what it has in hand is tried a second time


class Pool:
    """Workers that read inputs; a context manager."""

    def __init__(self, config: Config, count: int, at_once: int) -> None:
        """At most `count` processes, of which each has at most `at_once` inputs in hand; started when they are needed."""
        self._config, self._count, self._at_once = config, count, at_once
        self._workers: list[_Worker] = []
        self._suspects: deque[Input] = deque()
        self._tried: set[int] = set()  # inputs that a dead process had in hand
        self._stillborn = 0
        self.deaths = 0
        """Processes that died."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *problem: object) -> None:
        """End all processes; those that are at work are killed."""
        for one in self._workers:
            with suppress(OSError):
                one.pipe.send(None)
            if one.in_hand:
                one.process.kill()
        for one in self._workers:
            one.process.join(GRACE)
            one.process.kill()
            one.process.join()
            one.pipe.close()

    @property
    def size(self) -> int:
        """Processes there are."""
        return len(self._workers)

    def work(self, tasks: Iterator[Input], draining: Callable[[], bool]) -> Iterator[Done | Opened | None]:
        """Have tasks done; None when nothing has happened for a moment.

        Args:
            tasks: taken one by one, when there is somebody to do them.
            draining: whether to take no more, and to end when what is in hand is done.

        Raises:
            ReaderError: processes die before they have begun.
            FusionError, OSError: what a worker says ends the run.
        """
        while True:
            if not draining():
                self._hand_out(tasks)
            if not any(one.in_hand for one in self._workers):
                return
            ready = wait([one.pipe for one in self._workers], TICK)
            if not ready:
                yield None
            for one in [one for one in self._workers if one.pipe in ready]:
                yield from self._heard(one)

    def _hand_out(self, tasks: Iterator[Input]) -> None:
        while self._has_room() and (task := self._suspects.popleft() if self._suspects else next(tasks, None)):
            one = min(self._workers, key=lambda one: (one.alone, len(one.in_hand)), default=None)
            if one is None or (one.in_hand and len(self._workers) < self._count):
                one = self._start()
            one.alone = task.number in self._tried
            one.in_hand[task.number] = task
            with suppress(OSError):  # it is dead, and will be found so
                one.pipe.send(task)

    def _has_room(self) -> bool:
        most = 1 if self._suspects else self._at_once  # a suspect waits for a process without other work
        return len(self._workers) < self._count or any(len(w.in_hand) < most and not w.alone for w in self._workers)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=main, args=(theirs, self._config, self._at_once))
        with _alone_on_its_core(), _deaf():
            process.start()
        theirs.close()  # so that ours ends with the process
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _heard(self, one: _Worker) -> Iterator[Done | Opened]:
        try:
            answer: Done | Opened | Ends = one.pipe.recv()
        except (EOFError, OSError):
            yield from self._bury(one)
            return
        if isinstance(answer, Ends):
            raise answer.kind(*answer.parts)  # type: ignore[arg-type]  # taken apart by the worker
        if isinstance(answer, Opened):
            one.opened, self._stillborn = True, 0
        else:
            del one.in_hand[answer.row.number]
            one.alone = False
        yield answer

    def _bury(self, one: _Worker) -> Iterator[Done]:
        self._workers.remove(one)
        one.process.join(GRACE)
        one.pipe.close()
        self.deaths += 1
        how = _ending(one.process.exitcode)
        if one.alone and one.opened:
            (task,) = one.in_hand.values()
            reason = f"twice the process that read it {how}"
            yield Done(Row(task.number, str(task.path), "failed", "worker", reason))
            return
        self._suspects.extend(one.in_hand.values())
        if one.opened:
            self._tried.update(one.in_hand)
            return
        self._stillborn += 1
        if self._stillborn >= STILLBORN:
            way = "Fewer need less memory: batch.workers; `fusion doctor` says what is missing."
            raise ReaderError(
                "batch.workers", f"{STILLBORN} processes in a row: the last {how} while it opened the readers", way
            )


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended (exit status {code})"
    name = {one.value: one.name for one in signal.Signals}.get(-code, f"signal {-code}")
    return f"was ended by the system ({name}{', as when memory runs out' if name == 'SIGKILL' else ''})"


@contextmanager
def _deaf() -> Iterator[None]:
    """A process started now ignores Ctrl-C, which a terminal sends to all: the run says when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _alone_on_its_core() -> Iterator[None]:
    """Libraries that look for their number of threads when they are loaded find one in a process started now."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_THREADS]
