"""Workers as processes of this machine, each at the other end of a pipe.

They are spawned, not forked: the runtimes of the models don't survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from fusion.batch.plan import Input
from fusion.batch.worker import Answer, main
from fusion.config import Config

GRACE = 5.0
"""Seconds that a process gets to end."""
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, eq=False, slots=True)
class Process:
    """One process and the pipe to it."""

    process: BaseProcess
    pipe: Connection


class Processes:
    """Starts processes and speaks to them: `Hands` of a pool."""

    def __init__(self, config: Config, at_once: int) -> None:
        self._config, self._at_once = config, at_once

    def start(self) -> Process:
        """A new process, whose engine is not open yet."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=main, args=(theirs, self._config, self._at_once))
        with _alone_on_its_core(), _deaf():
            process.start()
        theirs.close()  # so that ours ends with the process
        return Process(process, ours)

    def give(self, one: Process, task: Input) -> None:
        """Hand it an input."""
        with suppress(OSError):  # it is dead, and will be found so
            one.pipe.send(task)

    def listen(self, workers: Sequence[Process], seconds: float) -> list[tuple[Process, Answer | str]]:
        """What has been said within so many seconds, each by whom; of one that died, how."""
        ready = wait([one.pipe for one in workers], seconds)
        return [(one, self._heard(one)) for one in workers if one.pipe in ready]

    def kill(self, one: Process) -> None:
        """End it, whatever it is at."""
        one.process.kill()
        one.process.join()
        one.pipe.close()

    def end(self, workers: Sequence[Process], busy: Sequence[Process]) -> None:
        """End all; those that are busy are killed."""
        for one in workers:
            with suppress(OSError):
                one.pipe.send(None)
        for one in busy:
            one.process.kill()
        for one in workers:
            one.process.join(GRACE)
            self.kill(one)

    @staticmethod
    def _heard(one: Process) -> Answer | str:
        try:
            answer: Answer = one.pipe.recv()
        except (EOFError, OSError):
            one.process.join(GRACE)
            one.pipe.close()
            return _ending(one.process.exitcode)
        return answer


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
