"""The command line: `fusion transcribe | compare | ask | batch | config | doctor`.

Knows arguments, progress and exit codes; everything else is the engine's. Exit codes are those of `errors`, 0 when all
inputs were read, 3 when one could not be, 130 when interrupted.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.config import Config, load_config
from fusion.errors import DependencyError, FusionError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.engine import Engine
    from fusion.page import Page

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Read handwriting with two readers that check each other, and say where every character came from.",
)
config_app = typer.Typer(no_args_is_help=True, help="Show or check a configuration.")
app.add_typer(config_app, name="config")

Paths = Annotated[list[Path], typer.Argument(help="Images, PDFs and folders.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration, YAML; none: the defaults.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override; repeatable.")]
Crop = Annotated[bool, typer.Option("--crop", help="Each image is one word or one line, already cut out.")]


class Format(StrEnum):
    """What `transcribe` prints or writes."""

    text = "text"
    json = "json"
    overlay = "overlay"
    csv = "csv"
    fhir = "fhir"
    tei = "tei"


@app.command()
def transcribe(
    paths: Paths,
    config: ConfigFile = None,
    set_: Sets = None,
    crop: Crop = False,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="All but overlay are printed unless --out is given.")
    ] = Format.text,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to instead of printing.")] = None,
    diplomatic: Annotated[
        bool, typer.Option("--diplomatic", help="Text without anything supplied; gaps show as □.")
    ] = False,
    review: Annotated[
        Path | None, typer.Option("--review", help="Folder for review.csv, review.json and crops of what to look at.")
    ] = None,
) -> None:
    """Transcribe handwriting. Supplied text stands in square brackets, what nobody can read as □."""
    from fusion.batch import as_text, write_page, write_review_list

    loaded = load_config(config, set_ or [])
    if format_ is Format.overlay and out is None:
        out = Path(".")
    failed: list[InputError] = []
    read: list[tuple[Page, NDArray[np.uint8] | None]] = []
    photos = format_ is Format.overlay or review is not None
    with _opened(loaded) as engine:
        for page, photo, stem in _pages(engine, paths, crop, failed, photos=photos):
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                for name in write_page(page, photo, out, stem, [format_.value], diplomatic=diplomatic):
                    _say(f"wrote {out / name}")
            else:
                print(as_text(page, format_.value, diplomatic=diplomatic))
            if review is not None:
                read.append((page, photo))
            _remarks(page, engine)
        if review is not None:
            found = write_review_list(review, read, loaded.review.max_error)
            _say(f"wrote {review}: {found.flagged} of {found.total} stretches need a look")
    _end(failed)


@app.command()
def compare(
    paths: Paths,
    config: ConfigFile = None,
    set_: Sets = None,
    crop: Crop = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write one HTML file with the crops.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Text of the one page, one line a row: adds error rates.")
    ] = None,
) -> None:
    """Compare the OCR alone with the fused text, line by line, differences marked."""
    from rich.console import Console

    from fusion import output

    loaded = load_config(config, set_ or [])
    truth = _reference(reference) if reference is not None else None
    console = Console()
    shown: list[tuple[Page, NDArray[np.uint8] | None]] = []
    failed: list[InputError] = []
    with _opened(loaded) as engine:
        for page, photo, _ in _pages(engine, paths, crop, failed, photos=html is not None):
            if truth is not None and shown:
                raise InputError(
                    reference, "is the text of one page, and there are several", "Compare one page at a time."
                )
            console.print(page.id, markup=False)
            console.print(output.terminal(output.compare_page(page, truth)))
            if truth is not None:
                errors = output.page_cer(page, truth)
                ocr, fused = errors.ocr / max(1, errors.length), errors.fused / max(1, errors.length)
                console.print(f"CER: OCR only {ocr:.3f}, fused {fused:.3f} ({errors.length} characters)")
            shown.append((page, photo))
            _remarks(page, engine)
    if html is not None:
        references = {page.id: truth for page, _ in shown} if truth is not None else None
        html.write_text(output.html(shown, references=references), encoding="utf-8")
        _say(f"wrote {html}")
    _end(failed)


@app.command()
def ask(
    path: Annotated[Path, typer.Argument(help="Image or PDF; its first page is asked about.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    config: ConfigFile = None,
    set_: Sets = None,
) -> None:
    """Answer a question from a page's image and transcript, citing lines. Needs a vision-language model."""
    with _opened(load_config(config, set_ or [])) as engine:
        answer, page = engine.ask(path, question)
        _remarks(page, engine)
    print(answer)
    cited = set(re.findall(r"\bl\d{3,}\b", answer))
    for line in page.lines:
        if line.id in cited:
            print(f"  [{line.id}] {line.marked}")


@app.command()
def batch(
    config: Annotated[Path, typer.Argument(help="Configuration with a `batch` section.")], set_: Sets = None
) -> None:
    """Read everything a configuration names: one result per input whatever happens, and a manifest."""
    from fusion.batch import Outcome, run_batch

    def progress(outcome: Outcome) -> None:
        _say(f"{outcome.status:8} {outcome.input}" + (f": {outcome.error}" if outcome.error else ""))

    manifest = run_batch(load_config(config, set_ or []), progress)
    print(", ".join(f"{name} {count}" for name, count in manifest.counts.items()))
    if manifest.counts["failed"]:
        raise typer.Exit(InputError.exit_code)


@config_app.command("show")
def config_show(config: ConfigFile = None, set_: Sets = None) -> None:
    """Print the effective configuration, every key with its value, range and meaning."""
    from fusion.doctor import describe

    print(describe(load_config(config, set_ or [])))


@config_app.command("check")
def config_check(config: Annotated[Path, typer.Argument(help="Configuration to check.")], set_: Sets = None) -> None:
    """Check a configuration without loading any model."""
    print(f"{config}: good, hash {load_config(config, set_ or []).hash[:12]}")


@app.command()
def doctor(config: ConfigFile = None, set_: Sets = None) -> None:
    """Say what is installed, which runtime and reader will be used, what is missing and how to get it."""
    from fusion.doctor import examine

    report, healthy = examine(load_config(config, set_ or []))
    print(report)
    if not healthy:
        raise typer.Exit(4)


def main() -> None:
    """Entry point: an error for people ends with its message and exit code, never with a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Chinese shows ? and goes on
    try:
        app()
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        print(
            f"error: {error.name or error}: can't be imported ({error}). `fusion doctor` says what to install.",
            file=sys.stderr,
        )
        sys.exit(DependencyError.exit_code)
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}. Check the path.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the top of the program: a bug is reported as one, without page text
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        print(
            f"error: unexpected {type(error).__name__}. Please report it; `fusion doctor` says what to add.",
            file=sys.stderr,
        )
        sys.exit(1)


# --- helpers --------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _opened(config: Config) -> Iterator[Engine]:
    """The engine, with a word to people who wait: loading takes some seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("loading models …") if console.is_terminal else _quiet():
        from fusion.engine import Engine

        engine = Engine(config)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _quiet() -> Iterator[None]:
    yield


def _pages(
    engine: Engine, paths: list[Path], crop: bool, failed: list[InputError], *, photos: bool
) -> Iterator[tuple[Page, NDArray[np.uint8] | None, str]]:
    """Every page of every input, its photograph if wanted, and a name to write it under.

    An input that can't be read is reported and put into `failed`; the others go on.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from fusion.batch import stems
    from fusion.engine import photographs
    from fusion.intake import list_inputs

    inputs = list_inputs(paths)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("")
        for number, (path, stem) in enumerate(zip(inputs, stems(inputs), strict=True), 1):
            progress.update(task, description=f"{number}/{len(inputs)} {path.name}")
            shown = photographs(path, engine.config) if photos else itertools.repeat(None)
            try:
                for page in engine.read(path, crop=crop):
                    yield page, next(shown), stem
            except InputError as error:
                failed.append(error)
                _say(f"error: {error}")


def _end(failed: list[InputError]) -> None:
    if failed:
        raise typer.Exit(InputError.exit_code)


def _remarks(page: Page, engine: Engine) -> None:
    """What a reader of the transcript should know, on standard error: quality, missing readers, what needs a look."""
    from fusion.output.marks import visible
    from fusion.page import UNASKED
    from fusion.review import review

    for finding in page.findings:
        _say(f"{page.id}: warning: {finding.message}")
    for failure in page.failures:
        _say(f"{page.id}: {failure.stage} failed: {failure.message}")
    if page.unasked:
        reasons = sorted(
            {failure.message for line in page.lines for failure in line.failures if failure.kind in UNASKED}
        )
        _say(f"{page.id}: no second reader was asked about any line ({'; '.join(reasons)})")
    for message in sorted({f"{failure.stage}: {failure.message}" for line in page.lines for failure in line.troubles}):
        _say(f"{page.id}: {message}")
    for check in page.checks:
        _say(f"{page.id}: {check.kind}: {check.message}")
    bound = engine.config.review.max_error
    found = review(page, bound)
    if found.flagged:
        worst = found.items[0]
        first = f"; first {worst.line} “{visible(worst.text)}”: {worst.reasons[0]}" if worst.reasons else ""
        _say(f"{page.id}: at {bound:.0%} risk {found.flagged} of {found.total} stretches need a look{first}")


def _reference(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read as UTF-8 text ({type(error).__name__})", "Check --reference.") from error


if __name__ == "__main__":
    main()
