"""Workers as actors of a Ray cluster: Ray starts and moves them, the record and the files of the pages are ours.

Inputs and output lie in folders that all machines see under the same name. Ray keeps nothing: a cluster that is lost costs
what was in hand, and the same command goes on from the record.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fusion.batch.plan import Input
from fusion.batch.worker import Answer, Reader
from fusion.config import Config
from fusion.errors import ConfigError, DependencyError


@dataclass(frozen=True, eq=False, slots=True)
class Actor:
    """One actor, by its handle."""

    handle: Any


class Actors:
    """Starts actors and speaks to them: `Hands` of a pool."""

    def __init__(self, config: Config, at_once: int) -> None:
        """Join the cluster.

        Raises:
            DependencyError: Ray is not installed.
            ConfigError: there is no such cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts: nothing is told to its makers
        try:
            self._ray: Any = import_module("ray")
        except ImportError as error:
            way = "pip install 'fusion[ray]', or set execution.engine: local."
            raise DependencyError("execution.engine: ray", "Ray is not installed", way) from error
        self._config, ray = config, self._ray
        try:
            if not ray.is_initialized():
                ray.init(address=config.execution.address, log_to_driver=False, include_dashboard=False)
        except ConnectionError as error:
            problem = f"no Ray cluster answers ({type(error).__name__})"
            raise ConfigError("execution.address", problem, "`ray status` on the head node names it.") from error
        self._kind = ray.remote(num_cpus=1, max_restarts=0, max_concurrency=at_once)(_Remote)
        self._asked: dict[Any, Actor] = {}  # each answer that is to come, and from whom

    @property
    def most(self) -> int:
        """Actors that the cluster has processors for: one more would be waited for without an end."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self) -> Actor:
        """A new actor, whose engine is not open yet."""
        one = Actor(self._kind.remote(self._config, os.getcwd()))
        self._asked[one.handle.open.remote()] = one
        return one

    def give(self, one: Actor, task: Input) -> None:
        """Hand it an input."""
        self._asked[one.handle.read.remote(task)] = one

    def listen(self, workers: Sequence[Actor], seconds: float) -> list[tuple[Actor, Answer | str]]:
        """What has been said within so many seconds, each by whom; of one that died, that."""
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        heard: list[tuple[Actor, Answer | str]] = []
        for promise in ready:
            one = self._asked.pop(promise)
            try:
                heard.append((one, self._ray.get(promise)))
            except self._ray.exceptions.RayError as error:
                heard.append((one, f"was lost ({type(error).__name__})"))
                self._forget(one)
        return heard

    def kill(self, one: Actor) -> None:
        """End it, whatever it is at."""
        self._ray.kill(one.handle)
        self._forget(one)

    def _forget(self, one: Actor) -> None:
        self._asked = {promise: who for promise, who in self._asked.items() if who is not one}

    def end(self, workers: Sequence[Actor], busy: Sequence[Actor]) -> None:
        """End all, and leave the cluster."""
        for one in workers:
            self._ray.kill(one.handle)
        self._ray.shutdown()


class _Remote:
    """What an actor does; the engine is open before anything else is asked of it."""

    def __init__(self, config: Config, folder: str) -> None:
        os.chdir(folder)  # relative paths mean the same everywhere
        cache = getattr(config.vlm, "cache", None)
        if cache is not None:  # SQLite is for one machine
            own = cache.with_stem(f"{cache.stem}-{platform.node()}")
            config = config.model_copy(update={"vlm": config.vlm.model_copy(update={"cache": own})})
        self._reader = Reader(config)
        self._opened = self._reader.open()

    def open(self) -> Answer:
        return self._opened

    def read(self, task: Input) -> Answer:
        return self._reader.answer(task)
