"""How far a run is: its tally, as metrics for machines, and what is shown to people is made of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from fusion.batch.record import Row, Status

STATUSES = ("ok", "partial", "failed")


@dataclass(slots=True)
class Tally:
    """Numbers of a run.

    Attributes:
        total: inputs of the plan.
        before: of these, done by an earlier run.
        statuses, pages, lines, asked, stretches, review: of all that is done; see `Row` and `PageRow`.
        strange: pages on which the profile understood nothing.
        recalled: records that the store spared this run to make.
        clock: seconds of work per stage in this run, of all processes together.
        workers, deaths: processes, and those that died.
        ending: why the run ends early, None while it goes on.
    """

    total: int
    before: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    pages: int = 0
    lines: int = 0
    asked: int = 0
    stretches: int = 0
    review: int = 0
    strange: int = 0
    recalled: int = 0
    clock: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    deaths: int = 0
    ending: str | None = None
    _new_pages: int = 0
    _started: float = field(default_factory=time.monotonic)

    def end(self, status: Status, *, before: bool = False) -> None:
        """Count an input that is done; `before`: an earlier run did it."""
        self.before += before
        self.statuses[status] += 1

    def add(self, row: Row, *, before: bool = False) -> None:
        """Count the pages of a row; `before`: an earlier run read them."""
        self._new_pages += 0 if before else len(row.pages)
        self.pages += len(row.pages)
        for page in row.pages:
            self.lines += page.lines
            self.asked += page.asked
            self.stretches += page.stretches
            self.review += page.review
            self.strange += not page.understood

    @property
    def done(self) -> int:
        """Inputs that have a row."""
        return sum(self.statuses.values())

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return time.monotonic() - self._started

    @property
    def speed(self) -> float:
        """Pages per second in this run."""
        return self._new_pages / max(self.seconds, 1e-9)

    @property
    def left(self) -> timedelta | None:
        """Time to go if the rest is like what this run has read; None: nothing is read yet."""
        new = self.done - self.before
        return timedelta(seconds=round(self.seconds / new * (self.total - self.done))) if new else None

    @property
    def counts(self) -> dict[str, int]:
        """What the manifest and the last line say."""
        counted = {"inputs": self.done, "pages": self.pages, "lines": self.lines, "asked": self.asked}
        counted |= {"stretches": self.stretches, "review": self.review, "not_understood": self.strange}
        return counted | dict(self.statuses)

    def __str__(self) -> str:
        left = f", {self.left} to go" if self.left is not None and self.done < self.total else ""
        bad = "".join(f", {n} {name}" for name in ("partial", "failed") if (n := self.statuses[name]))
        asked = f", {self.asked} of {self.lines} lines asked, {self.recalled} from the store"
        return f"{self.done} of {self.total} inputs{left}, {self.speed:.2f} pages/s{bad}{asked}"

    def metrics(self) -> str:
        """The numbers in Prometheus' text format."""
        rows = [
            *_metric("inputs", "gauge", "Inputs of the plan.", {"": self.total}),
            *_metric("inputs_done", "gauge", "Inputs with a row.", _labelled("status", self.statuses)),
            *_metric("pages", "gauge", "Pages read.", {"": self.pages}),
            *_metric("lines", "gauge", "Lines found.", {"": self.lines}),
            *_metric("lines_asked", "gauge", "Lines that a second reader was asked about.", {"": self.asked}),
            *_metric("stretches", "gauge", "Words, of Chinese characters, found.", {"": self.stretches}),
            *_metric("stretches_to_review", "gauge", "Of these, those that need a look.", {"": self.review}),
            *_metric("pages_not_understood", "gauge", "Pages without a record of the profile.", {"": self.strange}),
            *_metric("recalled", "counter", "Records found in the store by this run.", {"": self.recalled}),
            *_metric("stage_seconds", "counter", "Work per stage in this run.", _labelled("stage", self.clock)),
            *_metric("run_seconds", "counter", "Since this run began.", {"": round(self.seconds, 3)}),
            *_metric("workers", "gauge", "Processes that read.", {"": self.workers}),
            *_metric("worker_deaths", "counter", "Processes that died in this run.", {"": self.deaths}),
        ]
        return "\n".join(rows) + "\n"


def _labelled(label: str, counts: Counter[str]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': round(value, 3) for name, value in sorted(counts.items())}


def _metric(name: str, kind: str, meaning: str, values: dict[str, float]) -> list[str]:
    """One metric: https://prometheus.io/docs/instrumenting/exposition_formats/."""
    full = f"fusion_batch_{name}" + ("_total" if kind == "counter" else "")
    return [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", *(f"{full}{k} {v}" for k, v in values.items())]
