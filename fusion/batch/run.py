"""The story of a batch: plan → workers → record → tables.

One process, this one, keeps the record; the workers read and write the files of the pages. What is in the record is done.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from fusion.batch.local import Process, Processes
from fusion.batch.plan import Input, Plan
from fusion.batch.pool import Pool
from fusion.batch.progress import Tally
from fusion.batch.record import PAGES, Record, Row, write_whole
from fusion.batch.remote import is_remote
from fusion.batch.tables import require_parquet, write_tables
from fusion.batch.worker import PARTIAL, READING, Counted, Done, Opened
from fusion.config import Config, LocalVlm, NoVlm, PluginVlm, Section, ServedVlm, StoreConfig, VlmConfig
from fusion.doctor import versions
from fusion.engine import Engine
from fusion.errors import InputError, ReaderError
from fusion.intake import count_pages

if TYPE_CHECKING:
    from fusion.batch.cluster import Actor

IN_FLIGHT = 3
"""Inputs a process has in hand where an endpoint is asked: one is worked on while others wait for answers."""
PART = 8
"""Pages of a long input that a worker reads before the next one may."""
METRICS = 5.0
"""Seconds between two writings of the metrics."""
SAMPLED = 3
"""Inputs that an estimate reads, and those that it names of what is missing."""
Show = Callable[[Tally, Row | None], None]
"""Shows people how far a run is; called with each new row, and with None at least every half second or so."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its counts, and whether somebody has interrupted it."""

    counts: dict[str, int]
    interrupted: bool


@dataclass(slots=True)
class _Stop:
    """Whether and why the run is to end early."""

    asked: int = 0  # times that somebody pressed Ctrl-C
    away: int = 0  # inputs in a row on which a reader failed as a whole
    last: int | None = None  # number of the last of them: a long one comes in parts
    why: str = ""  # and the reason
    most: int | None = None

    def see(self, done: Done) -> None:
        """Count a failure of a reader; an unreadable input is none."""
        if done.away:
            self.away += done.row.number != self.last
            self.last = done.row.number
            self.why = next((reason for stage, reason, _ in done.row.failures if stage in READING), "")
        elif done.away is not None:
            self.away, self.last = 0, None

    @property
    def reason(self) -> str | None:
        """`interrupted`, or what is wrong with the reader."""
        if self.asked:
            return "interrupted"
        if self.most is not None and self.away >= self.most:
            return f"a reader failed on {self.away} inputs in a row; the last time: {self.why}"
        return None


def run_batch(config: Config, plan: Plan, show: Show, *, restart: bool = False, retry: bool = False) -> Ended:
    """Read every input of a plan that the record does not have yet; then write the tables and the manifest.

    Args:
        config: its section `batch` says where to.
        plan: what `make_plan` made of it.
        show: called as the run goes on.
        restart: remove the results that are there and begin anew; stored readings are kept.
        retry: also read again what has failed or is partial.

    Raises:
        ConfigError: the output folder is in use, or holds the results of another plan; a configuration that can't be used.
        DependencyError, ReaderError: the readers can't be opened, or failed on `batch.stop_after_failures` inputs in a row.
        OSError: the output folder can't be written. What is in the record stays.
    """
    if config.batch.parquet:
        require_parquet()
    folder = config.batch.output
    record = Record(folder, plan, restart=restart)
    try:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        (folder / PAGES).mkdir(exist_ok=True)
        record.begin(_now())
        tally, stop = Tally(len(plan.inputs)), _Stop(most=config.batch.stop_after_failures)
        with _interruptible(stop):
            _work(config, record, list(_left(plan, record, tally, retry)), tally, stop, show, retry)
            write_tables(record, folder, csv="csv" in config.batch.formats, parquet=config.batch.parquet)
        record.end(_now())
        _write_manifest(config, record, tally)
    finally:
        record.close()
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    if stop.reason is not None and not stop.asked:
        way = "Mend that, then run the same command with --retry-failed; what is done stays."
        raise ReaderError("batch", stop.reason, way)
    return Ended(tally.counts, stop.asked > 0)


def estimate(config: Config, plan: Plan) -> str:
    """What a run would do and about how long it would take, in words. Writes nothing and asks no endpoint."""
    away = [one for one in plan.inputs if one.problem is None and is_remote(one.path)]
    readable = [one for one in plan.inputs if one.problem is None and Path(one.path).is_file()]
    size = sum(Path(one.path).stat().st_size for one in readable)
    count, at_once = _staff(config)
    there = {one.number for one in [*readable, *away]}
    missing = [str(one.path) for one in plan.inputs if one.number not in there]
    named = f" ({', '.join(missing[:SAMPLED])}{' …' if len(missing) > SAMPLED else ''})" if missing else ""
    rows = [
        f"inputs    {len(plan.inputs)}, {size / 1e6:,.1f} MB here, {len(away)} to be fetched; not there: {len(missing)}{named}",
        f"output    {config.batch.output}: {', '.join(config.batch.formats)}",
        f"reader    {config.vlm.engine}; profile {config.domain.profile}",
        f"workers   {count}; inputs in hand of each: {at_once}",
    ]
    if difference := _difference(config, plan):
        rows.append(f"refused   the folder holds the results of another plan ({difference})")
    silent = isinstance(config.vlm, ServedVlm | PluginVlm)
    changes = {"store": StoreConfig(), **({"vlm": NoVlm()} if silent else {})}
    sample = readable[:: max(1, len(readable) // SAMPLED)][:SAMPLED]
    if found := _timed(config.model_copy(update=changes), sample):
        seconds, pages = (sum(values) / len(found) for values in zip(*found, strict=True))
        hours = seconds * pages * len(readable) / count / 3600
        shown = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
        without = "without the second reader's answers, " if silent else ""
        like = f"{len(found)} of which a page was read for it ({seconds:.1f} s each, {pages:.3g} pages an input)"
        rows.append(f"time      about {shown} if nothing is done yet, {without}and all are like the {like}")
    return "\n".join(rows)


def _difference(config: Config, plan: Plan) -> str:
    """How the results that are in the output folder differ from what is planned, in words; "" where they don't."""
    path = config.batch.output / "plan.jsonl"
    return plan.difference(path.read_text(encoding="utf-8")) if path.is_file() else ""


def _timed(config: Config, sample: list[Input]) -> list[tuple[float, int]]:
    """Of the inputs that can be read, the seconds that the first page takes, and how many pages there are."""
    found = []
    with Engine(config) as engine:
        for one in sample:
            with suppress(InputError):
                count = count_pages(Path(one.path), config.intake)
                started = time.monotonic()
                for _ in engine.read(one.path, crop=config.batch.crop, pages=range(1, 2)):
                    found.append((time.monotonic() - started, count))
    return found


def _left(plan: Plan, record: Record, tally: Tally, retry: bool) -> Iterator[Input]:
    """The inputs of which pages are to be read; what is done is counted."""
    for one in plan.inputs:
        for part in record.parts(one.number):
            if not record.is_whole(part):  # somebody has removed a file
                record.forget(part)
        kept = _kept(record, one, retry)
        row = record.row(one.number) if kept == record.parts(one.number) else None
        for part in kept:
            tally.add(part, before=True)
        if row is None:
            yield one
        else:
            tally.end(row.status, before=True)


def _kept(record: Record, one: Input, retry: bool) -> list[Row]:
    """What is done of an input and not to be done again."""
    return [part for part in record.parts(one.number) if part.status == "ok" or not retry]


def _in_parts(one: Input, kept: list[Row], count: int) -> list[Input]:
    """What is left of an input of several pages, in parts of `PART` pages: several workers share it."""
    done = {page for part in kept if part.of == count for page in range(part.first, part.first + part.count)}
    parts = []
    for start in range(1, count + 1, PART):
        own = [page for page in range(start, min(start + PART, count + 1)) if page not in done]
        together = len(own) == own[-1] - own[0] + 1 if own else True
        runs = [range(own[0], own[-1] + 1)] if own and together else [range(page, page + 1) for page in own]
        parts += [replace(one, pages=pages, of=count) for pages in runs]
    return parts


def _beside_what_is_there(one: Input, row: Row, record: Record) -> list[Row]:
    """A row; of an input that could not even be counted this time a failure of those pages alone that were never read."""
    there = record.parts(one.number)
    if row.status != "failed" or row.of > 1 or not there or there[0].of == 1:
        return [row]
    return [Row.about(part, "failed", row.failures) for part in _in_parts(one, there, there[0].of)]


def _work(
    config: Config, record: Record, left: list[Input], tally: Tally, stop: _Stop, show: Show, retry: bool
) -> None:
    """Have what is left done, and each part of it recorded as it comes."""
    folder = config.batch.output
    count, at_once = _staff(config)
    latest: dict[str, Done] = {}
    inputs = {one.number: one for one in left}
    due: dict[int, int] = {}  # number of an input that is under way → pages that are still to come
    written = 0.0

    whole = iter(left)
    parts: deque[Input] = deque()

    def take() -> Input | None:
        if parts:
            return parts.popleft()
        one = next(whole, None)
        if one is not None:
            due[one.number] = 1  # until a worker has counted its pages
        return one

    with _pool(config, count, at_once) as pool:
        for event in pool.work(take, lambda: stop.reason is not None):
            row = None
            if isinstance(event, Opened):
                record.identify(event.identities)
            elif isinstance(event, Counted):
                one = inputs[event.key[0]]
                record.recount(one.number, event.pages)
                own = _in_parts(one, _kept(record, one, retry), event.pages)
                due[one.number] = sum(len(part.singles) for part in own)
                parts.extend(own)
            elif isinstance(event, Done):
                for made in _beside_what_is_there(inputs[event.row.number], event.row, record):
                    record.add(made)
                    tally.add(made)
                due[event.row.number] -= event.row.count
                row = record.row(event.row.number) if not due[event.row.number] else None
                if row is not None:
                    tally.end(row.status)
                stop.see(event)
                latest[event.process] = event
                tally.recalled = sum(done.recalled for done in latest.values())
                tally.clock = sum((Counter(done.clock) for done in latest.values()), Counter[str]())
            tally.workers, tally.deaths, tally.ending = pool.size, pool.deaths, stop.reason
            show(tally, row)
            if time.monotonic() - written > METRICS:
                write_whole(folder / "metrics.prom", tally.metrics())
                written = time.monotonic()
            if stop.asked > 1:
                break
    tally.workers = 0
    write_whole(folder / "metrics.prom", tally.metrics())


def _pool(config: Config, count: int, at_once: int) -> Pool[Process] | Pool[Actor]:
    """Workers where `execution` says; of a cluster at most as many as it has processors."""
    limit = config.batch.timeout
    if config.execution.engine == "local":
        return Pool(Processes(_for_workers(config, count), at_once), count, at_once, limit)
    from fusion.batch.cluster import Actors

    actors = Actors(_for_workers(config, count), at_once)
    return Pool(actors, min(config.batch.workers or actors.most, actors.most), at_once, limit)


def _staff(config: Config) -> tuple[int, int]:
    """How many processes, and how many inputs each has in hand."""
    heavy = isinstance(config.vlm, PluginVlm) or (isinstance(config.vlm, LocalVlm) and _writes(config.vlm))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = config.batch.workers or (1 if heavy or config.ocr.device != "cpu" else cores)
    return count, IN_FLIGHT if isinstance(config.vlm, ServedVlm) else 1


def _for_workers(config: Config, count: int) -> Config:
    """The configuration of one of several processes: what they keep together, and its share of the requests."""
    kept = config.batch.output / "store"
    changes: dict[str, Section] = {}
    if config.batch.keep and config.store.folder is None:
        changes["store"] = config.store.model_copy(update={"folder": kept})
    asking: dict[str, object] = {}
    if isinstance(config.vlm, ServedVlm):
        asking["concurrency"] = max(1, config.vlm.concurrency // count)
    if config.batch.keep and _writes(config.vlm) and config.vlm.cache is None:
        asking["cache"] = kept / "answers.sqlite"
    if asking:
        changes["vlm"] = config.vlm.model_copy(update=asking)
    return config.model_copy(update=changes)


def _writes(vlm: VlmConfig) -> TypeGuard[ServedVlm | LocalVlm]:
    """Whether the second reader writes: its answers have a cache. What a small reader sees is in the store."""
    small = isinstance(vlm, LocalVlm) and (vlm.model == "small" or (Path(vlm.model) / "reader.json").is_file())
    return isinstance(vlm, ServedVlm | LocalVlm) and not small


def _write_manifest(config: Config, record: Record, tally: Tally) -> None:
    folder = config.batch.output
    write_whole(folder / "config.yaml", config.to_yaml())
    manifest = {
        "complete": tally.done == tally.total,
        "counts": tally.counts,
        "config_hash": config.hash,
        "made_by": record.identities,
        "versions": versions(),
        "runs": record.runs,
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _interruptible(stop: _Stop) -> Iterator[None]:
    """Ctrl-C and a polite kill let the inputs in hand be finished; only the main thread hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: object) -> None:
        stop.asked += 1

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
