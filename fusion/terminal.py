"""What the command line says: results on standard output, remarks and progress on standard error.

Knows pages and batches as they are shown to people; nothing of commands.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from fusion.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from fusion.batch.progress import Tally
    from fusion.batch.record import Row
    from fusion.page import Page

REPORT = 10.0
"""Seconds between two rows about a batch where there is no terminal."""
_quiet = False


def set_level(*, quiet: bool, verbose: bool) -> None:
    """Leave remarks out, or add timings."""
    global _quiet
    _quiet = quiet
    logging.getLogger().setLevel(logging.ERROR if quiet else logging.WARNING)
    logging.getLogger("fusion").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    logging.getLogger("fusion.service").setLevel(logging.NOTSET if quiet or verbose else logging.INFO)


def put(text: str, stream: TextIO | None = None) -> None:
    """Print a row. When the other end of the pipe is closed (`| head`), the rest is dropped; files are still written."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str, *, error: bool = False) -> None:
    """A remark on standard error. File names and answers may hold anything: control characters are made visible."""
    from fusion.output.marks import visible

    if error or not _quiet:
        put(("error: " if error else "") + visible(text), sys.stderr)


def fail(errors: list[InputError], error: InputError) -> None:
    """One input failed, and the others go on."""
    errors.append(error)
    say(str(error), error=True)


def watched() -> bool:
    """Whether somebody sits at a terminal and wants to see progress."""
    return sys.stderr.isatty() and not _quiet


def console() -> Console:
    """Standard error for what moves; it shows nothing where nobody watches."""
    from rich.console import Console

    return Console(stderr=True, quiet=not watched())


def bar(*columns: ProgressColumn) -> Progress:
    """Progress that is gone when it has ended."""
    from rich.progress import Progress

    return Progress(*columns, disable=not watched(), transient=True, console=console())


# --- a page -----------------------------------------------------------------------------------------------------------


def remark(page: Page) -> None:
    """What a reader of the transcript should know: quality, missing readers, what needs a look."""
    from fusion.page import UNASKED
    from fusion.review import UNPROVEN, review

    remarks = _counted(f"warning: {finding.message}" for finding in page.findings)
    remarks += [f"{failure.stage} failed: {failure.message}" for failure in page.failures]
    if page.unasked:
        reasons = {failure.message for line in page.lines for failure in line.failures if failure.kind in UNASKED}
        remarks.append(f"no second reader was asked about any line ({'; '.join(sorted(reasons))})")
    remarks += sorted({f"{failure.stage}: {failure.message}" for line in page.lines for failure in line.troubles})
    remarks += _counted(f"{check.kind}: {check.message}" for check in page.checks)
    if not page.understood:
        remarks.append(f"holds nothing that the profile {page.identities['profile']} knows; records are of kind `line`")
    found = review(page, page.max_error)
    if found.items:
        if page.max_error <= UNPROVEN:
            remarks.append(
                "no data show that so few mistakes as review.max_error asks for can be left: look at everything"
            )
        worst = found.items[0]
        text = f" “{worst.text}”" if worst.units else ""
        remarks.append(f"{found}; first {worst.line}{text}: {worst.reasons[0]}")
    for one in remarks:
        say(f"{page.id}: {one}")


def _counted(remarks: Iterable[str]) -> list[str]:
    """Remarks without repetition, each with how often it was made."""
    return [f"{text} ({count} times)" if count > 1 else text for text, count in Counter(remarks).items()]


# --- a batch ----------------------------------------------------------------------------------------------------------


@contextmanager
def batch_shown() -> Iterator[Callable[[Tally, Row | None], None]]:
    """Shows a batch: a bar on a terminal, a row now and then elsewhere; what is not `ok` at once in both."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn

    from fusion.output.marks import visible

    shown = bar(SpinnerColumn(), BarColumn(20), TextColumn("{task.description}", markup=False))
    task = shown.add_task("loading models …")
    told, ending = time.monotonic(), False

    def tell(remark: str) -> None:
        if watched():  # above the bar
            shown.console.print(visible(remark), markup=False, highlight=False, soft_wrap=True)
        else:
            say(remark)

    def show(tally: Tally, row: Row | None) -> None:
        nonlocal told, ending
        shown.update(task, total=tally.total, completed=tally.done, description=str(tally))
        if row is not None and row.reason:
            reason = row.reason.removeprefix(f"{row.input}: ")  # a message names its input itself
            tell(f"{row.status:8} {row.input}: {row.stage}: {reason}")
        if tally.ending is not None and not ending:
            ending = True
            tell(f"{tally.ending}: finishing what is in hand; Ctrl-C ends at once")
        if not watched() and time.monotonic() - told > REPORT:
            told = time.monotonic()
            tell(str(tally))

    with shown:
        yield show
