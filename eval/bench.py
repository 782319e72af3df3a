"""`eval bench`: pages per second against other programs, and where the time of a page goes.

Every system has two processes of one thread each, which share the pages of a split. The systems take turns, round by round,
and ratios are those of one round: these machines are noisy, and quote medians of ratios only.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from eval import metrics
from eval.datasets import NORMALISATIONS, Item
from eval.outside import ONE_THREAD, Task
from eval.rivals import Outcome, require, serve
from eval.runs import RunConfig, items_of
from fusion.errors import ReaderError

OWN = {"fusion, OCR alone": ["vlm.engine=none"], "fusion, small reader": []}
"""Our own systems and their settings."""
PROCESSES = 2
READING = ("ocr", "vlm")
"""Stages that look at the ink; the rest of a page is the engine's own work."""


@dataclass(frozen=True, slots=True)
class Round:
    """One system over all pages once: seconds from the first to the last, and what came out of each page."""

    seconds: float
    pages: tuple[Outcome, ...]


def bench(
    config: RunConfig,
    against: Sequence[str],
    overrides: Sequence[str],
    rounds: int,
    limit: int | None,
    progress: Callable[[str], None],
) -> str:
    """Read the pages of a comparison with every system `rounds` times, after once to warm up, and return tables."""
    for name in against:
        require(name)
    items = items_of(config)[:limit]
    systems = [*OWN, *against]
    done: dict[str, list[Round]] = {name: [] for name in systems}
    with _opened(config, systems, overrides) as pipes:
        for number in range(rounds + 1):
            for name in systems[number % len(systems) :] + systems[: number % len(systems)]:
                done[name].append(_round(pipes[name], items))
                progress(f"round {number} of {rounds}: {name}: {done[name][-1].seconds:.1f} s")
    timed = {name: own[1:] for name, own in done.items()}
    return "\n".join([*compared(config, items, timed, against), "", *shares(timed)])


@contextmanager
def _opened(
    config: RunConfig, systems: Sequence[str], overrides: Sequence[str]
) -> Iterator[dict[str, list[Connection]]]:
    """The processes of every system, ready to read."""
    os.environ |= ONE_THREAD
    context = multiprocessing.get_context("spawn")
    task = Task(crop=False, chinese=config.normalise in ("han", "arithmetic"))
    processes: list[BaseProcess] = []
    pipes: dict[str, list[Connection]] = {}
    try:
        for name in systems:
            settings = [*config.variants[0].set, *OWN.get(name, []), *overrides]
            for _ in range(PROCESSES):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(
                    target=serve, args=(theirs, name, task, config.engine, settings), daemon=True
                )
                process.start()
                theirs.close()
                processes.append(process)
                pipes.setdefault(name, []).append(ours)
        for name, own in pipes.items():
            for pipe in own:
                _hear(name, pipe)
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _round(pipes: Sequence[Connection], items: Sequence[Item]) -> Round:
    """All pages, each given to the process that is free."""
    pages: dict[int, Outcome] = {}
    left = iter(enumerate(items))
    at: dict[Connection, int] = {}
    start = time.perf_counter()

    def give(pipe: Connection) -> None:
        for number, item in left:
            pipe.send(item.path)
            at[pipe] = number
            return

    for pipe in pipes:
        give(pipe)
    while at:
        ready = wait(list(at))
        for pipe in [one for one in at if one in ready]:
            number = at.pop(pipe)
            pages[number] = _hear(items[number].image, pipe)
            give(pipe)
    return Round(time.perf_counter() - start, tuple(pages[number] for number in sorted(pages)))


def _hear(subject: str, pipe: Connection) -> Outcome:
    try:
        page: Outcome = pipe.recv()
    except EOFError as error:
        raise ReaderError(subject, "its process died", "Its own message stands above.") from error
    return page


def compared(
    config: RunConfig, items: Sequence[Item], timed: dict[str, list[Round]], against: Sequence[str]
) -> Iterator[str]:
    """Speeds, ratios and errors, a row for each system."""
    count = len(items)
    yield (
        f"{config.title}: {count} pages, {PROCESSES} processes of one thread each, medians of "
        f"{len(next(iter(timed.values())))} alternating rounds"
    )
    heads = "".join(f" against {name} |" for name in against)
    yield from ("", f"| system | pages/s |{heads} CER | found / right |", "|---|---|" + "---|" * (len(against) + 2))
    for name, own in timed.items():
        speed = statistics.median(count / one.seconds for one in own)
        ratios = "".join(f" {_ratio(timed[rival], own)} |" if name in OWN else " |" for rival in against)
        yield f"| {name} | {speed:.3f} |{ratios} {_errors(config, items, own[0].pages)} |"


def _ratio(theirs: Sequence[Round], ours: Sequence[Round]) -> str:
    """How many times as fast we are, with the least and the greatest of the rounds."""
    ratios = [their.seconds / our.seconds for their, our in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f}× [{min(ratios):.2f}, {max(ratios):.2f}]"


def _errors(config: RunConfig, items: Sequence[Item], pages: Sequence[Outcome]) -> str:
    """CER in order, and words (Chinese: pairs) found and right whatever the order."""
    normal = NORMALISATIONS[config.normalise]
    texts = [page.text for page in pages]
    cer = metrics.Counts.of([normal(item.reference) for item in items], list(map(normal, texts))).cer
    chinese = config.normalise in ("han", "arithmetic")
    bags = [metrics.bags(i.reference, text, chinese=chinese) for i, text in zip(items, texts, strict=True)]
    both, own, theirs = (sum(one[n] for one in bags) for n in range(3))
    return f"{cer:.3f} | {both / max(1, own):.3f} / {both / max(1, theirs):.3f}"


def shares(timed: dict[str, list[Round]]) -> Iterator[str]:
    """Where the time of a page goes: seconds by stage; the share outside the stages that read, and outside networks."""
    stages = sorted({stage for name in OWN for one in timed[name] for page in one.pages for stage in page.stages})
    yield f"| system | {' | '.join(f'{stage}, s' for stage in stages)} | outside OCR and reader | outside networks |"
    yield "|---|" + "---|" * (len(stages) + 2)
    for name in OWN:
        spent: Counter[str] = sum((Counter(page.stages) for one in timed[name] for page in one.pages), Counter())
        pages = [page for one in timed[name] for page in one.pages]
        total, networks = sum(page.seconds for page in pages), sum(page.networks for page in pages)
        outside = 1 - sum(spent[stage] for stage in READING) / total
        cells = " | ".join(f"{spent[stage] / len(pages):.3f}" for stage in stages)
        yield f"| {name} | {cells} | {outside:.1%} | {1 - networks / total:.1%} |"
