"""Programs that read pages, each in a process of its own: fusion, and the systems of `outside`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from eval.outside import SYSTEMS, Task
from fusion.config import load_config
from fusion.errors import ConfigError, DependencyError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one page: its text; of fusion also the seconds in all, by stage, and inside networks."""

    text: str
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    networks: float = 0.0


Read = Callable[[Path], Outcome]


def serve(pipe: Connection, system: str, task: Task, config: Path | None, overrides: Sequence[str]) -> None:
    """Open a system and read the pages whose paths come through a pipe, until None comes."""
    cv2.setNumThreads(1)
    if system in SYSTEMS:
        logging.disable(logging.CRITICAL)
    read = other(system, task) if system in SYSTEMS else own(config, overrides)
    pipe.send(None)
    with suppress(EOFError):
        while (path := pipe.recv()) is not None:
            pipe.send(read(path))


def own(config: Path | None, overrides: Sequence[str]) -> Read:
    """This package, with clocks around its stages and around the networks."""
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    from fusion.engine import Engine

    spent, real = [0.0], Session.run

    def run(*arguments: object, **how: object) -> object:
        start = time.perf_counter()
        try:
            return real(*arguments, **how)
        finally:
            spent[0] += time.perf_counter() - start

    Session.run = run
    engine = Engine(load_config(config, overrides))

    def read(path: Path) -> Outcome:
        engine.clock.clear()
        spent[0] = 0.0
        start = time.perf_counter()
        text = "\n".join(page.text for page in engine.read(path))
        return Outcome(text, time.perf_counter() - start, dict(engine.clock), spent[0])

    return read


def other(name: str, task: Task) -> Read:
    """A system of others, as it comes but for the number of threads."""
    program = SYSTEMS[name](task)
    return lambda path: Outcome("\n".join(text for text, _ in program.read(path)))


def require(name: str) -> None:
    """ConfigError where this is no other system, DependencyError where it is not installed."""
    if name not in SYSTEMS:
        raise ConfigError(f"--against {name}", "is not known", f"There are: {', '.join(SYSTEMS)}.")
    if SYSTEMS[name].version() is None:
        raise DependencyError(f"--against {name}", "is not installed", f"{SYSTEMS[name].how}, or leave it out.")
