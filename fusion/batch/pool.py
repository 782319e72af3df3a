"""A pool of workers: each is busy with few inputs at once, and one that dies or takes too long is replaced.

What a dead worker had in hand is tried once more, each page alone in a fresh worker; where that dies too, the page is
lost, and with it no other. Where workers are and how they are spoken to is in `local` and `cluster`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from fusion.batch.plan import Input
from fusion.batch.record import Row
from fusion.batch.worker import Answer, Counted, Done, Ends, Opened
from fusion.errors import ReaderError

TICK = 0.5
"""Longest time without an event, s."""
STILLBORN = 3
"""Workers in a row that may die before their engine is open."""
W = TypeVar("W")


class Hands(Protocol[W]):
    """Starts workers and speaks to them."""

    def start(self) -> W:
        """A new worker, whose engine is not open yet."""
        ...

    def give(self, one: W, task: Input) -> None:
        """Hand it an input."""
        ...

    def listen(self, workers: Sequence[W], seconds: float) -> list[tuple[W, Answer | str]]:
        """What has been said within so many seconds, each by whom; of one that died, how."""
        ...

    def kill(self, one: W) -> None:
        """End it, whatever it is at."""
        ...

    def end(self, workers: Sequence[W], busy: Sequence[W]) -> None:
        """End all; those that are busy are killed."""
        ...


@dataclass(eq=False, slots=True)
class _State:
    """What a worker has in hand."""

    in_hand: dict[tuple[int, int], Input] = field(default_factory=dict)
    since: dict[tuple[int, int], float] = field(default_factory=dict)  # when each of them could be begun
    opened: bool = False
    alone: bool = False  # what it has in hand is tried a second time


class Pool(Generic[W]):
    """Workers that read inputs; a context manager."""

    def __init__(self, hands: Hands[W], count: int, at_once: int, limit: float) -> None:
        """At most `count` workers, of which each has at most `at_once` inputs in hand; started when they are needed.

        `limit`: seconds after which an input that is still being read has failed.
        """
        self._hands, self._count, self._at_once, self._limit = hands, count, at_once, limit
        self._workers: dict[W, _State] = {}
        self._suspects: deque[Input] = deque()
        self._tried: set[tuple[int, int]] = set()  # what a dead worker had in hand
        self._stillborn = 0
        self.deaths = 0
        """Workers that died."""

    def __enter__(self) -> Pool[W]:
        return self

    def __exit__(self, *problem: object) -> None:
        """End all workers; those that are at work are killed."""
        self._hands.end(list(self._workers), [one for one, state in self._workers.items() if state.in_hand])

    @property
    def size(self) -> int:
        """Workers there are."""
        return len(self._workers)

    def work(
        self, take: Callable[[], Input | None], draining: Callable[[], bool]
    ) -> Iterator[Done | Counted | Opened | None]:
        """Have tasks done; None when nothing has happened for a moment.

        Args:
            take: gives the next task, asked when there is somebody to do it; None: there is none now.
            draining: whether to take no more, and to end when what is in hand is done.

        Raises:
            ReaderError: workers die before they have begun.
            FusionError, OSError: what a worker says ends the run.
        """
        while True:
            if not draining():
                self._hand_out(take)
            if not any(state.in_hand for state in self._workers.values()):
                return
            heard = self._hands.listen(list(self._workers), TICK)
            if not heard:
                yield None
            for one, answer in heard:
                if isinstance(answer, Ends):
                    raise answer.kind(*answer.parts)  # type: ignore[arg-type]  # taken apart by the worker
                yield from self._bury(one, answer) if isinstance(answer, str) else self._note(one, answer)
            yield from self._too_late()

    def _hand_out(self, take: Callable[[], Input | None]) -> None:
        while self._has_room() and (task := self._suspects.popleft() if self._suspects else take()):
            one, state = min(
                self._workers.items(), key=lambda item: (item[1].alone, len(item[1].in_hand)), default=(None, _State())
            )
            if one is None or (state.in_hand and len(self._workers) < self._count):
                one, state = self._hands.start(), _State()
                self._workers[one] = state
            state.alone = task.key in self._tried
            state.in_hand[task.key] = task
            if state.opened:
                state.since[task.key] = time.monotonic()
            self._hands.give(one, task)

    def _has_room(self) -> bool:
        most = 1 if self._suspects else self._at_once  # a suspect waits for a worker without other work
        states = self._workers.values()
        return len(states) < self._count or any(len(one.in_hand) < most and not one.alone for one in states)

    def _note(self, one: W, answer: Done | Counted | Opened) -> Iterator[Done | Counted | Opened]:
        state = self._workers[one]
        if isinstance(answer, Opened):
            state.opened, self._stillborn = True, 0
            state.since = dict.fromkeys(state.in_hand, time.monotonic())
        else:
            key = answer.key if isinstance(answer, Counted) else answer.row.key
            del state.in_hand[key]
            state.since.pop(key, None)
            state.alone = False
            self._tried.discard(key)  # pages of what was counted are tried for the first time
        yield answer

    def _too_late(self) -> Iterator[Done]:
        """A page that has taken too long has failed, and several of one input are tried one by one.

        Their workers are ended, and what else those had in hand is read anew.
        """
        now = time.monotonic()
        for one, state in list(self._workers.items()):
            late = [key for key, since in state.since.items() if now - since > self._limit]
            if late:
                del self._workers[one]
                self._hands.kill(one)
                self.deaths += 1
                for task in map(state.in_hand.pop, late):
                    if len(task.singles) == 1:
                        yield Done(Row.lost(task, "worker", f"took more than {self._limit:g} s (batch.timeout)"))
                    else:
                        self._suspects.extend(task.singles)
                self._suspects.extend(state.in_hand.values())

    def _bury(self, one: W, how: str) -> Iterator[Done]:
        state = self._workers.pop(one)
        self.deaths += 1
        if state.alone and state.opened:
            (task,) = state.in_hand.values()
            reason = f"twice the process that read it {how}"
            yield Done(Row.lost(task, "worker", reason))
            return
        if state.opened:
            singles = [single for task in state.in_hand.values() for single in task.singles]
            self._suspects.extend(singles)
            self._tried.update(single.key for single in singles)
            return
        self._suspects.extend(state.in_hand.values())
        self._stillborn += 1
        if self._stillborn >= STILLBORN:
            problem = f"{STILLBORN} processes in a row: the last {how} while it opened the readers"
            way = "Fewer need less memory: batch.workers; `fusion doctor` says what is missing."
            raise ReaderError("batch.workers", problem, way)
