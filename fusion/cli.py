"""The command line: `fusion transcribe | convert | compare | ask | batch | apply | serve | search | schema | config | doctor`.

Knows arguments, progress and exit codes. Exit codes are those of `errors`: 0 when all inputs were read, 3 when one could
not be; 130 when interrupted.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion import __version__
from fusion.config import Config, load_config, local
from fusion.errors import ConfigError, DependencyError, FusionError, InputError
from fusion.formats import Format
from fusion.terminal import bar, batch_shown, console, fail, put, remark, say, set_level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.engine import Engine
    from fusion.intake import Source
    from fusion.output.formats import Sheet
    from fusion.page import Page

CORRECTIONS = (
    "corrections.json, review.csv filled in, corrected PAGE XML (file or folder), or an export of Label Studio."
)
GLOBAL = ("-q", "--quiet", "-v", "--verbose")
"""Options of the program that may stand after the command too."""


class _Program(typer.core.TyperGroup):
    """The commands, with the program's own options moved before the command, where they are read."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        end = args.index("--") if "--" in args else len(args)
        moved = [argument for argument in args[:end] if argument in GLOBAL]
        return super().parse_args(ctx, [*moved, *(a for a in args[:end] if a not in GLOBAL), *args[end:]])


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Read handwriting with two readers that check each other, and say where every character came from.",
)
config_app = typer.Typer(no_args_is_help=True, help="Show or check a configuration.")
app.add_typer(config_app, name="config")

STDIN = "-"
INTERRUPTED = 130


def _local(path: Path | None) -> Path | None:
    """What an option names is written to this machine."""
    try:
        return local(path) if path is not None else None
    except ValueError as error:
        raise typer.BadParameter(f"{path} {error}") from error


Paths = Annotated[list[str], typer.Argument(help="Images, PDFs and folders; - reads one file from standard input.")]
ConfigFile = Annotated[str | None, typer.Option("--config", "-c", help="YAML file, or name of one that ships.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override; repeatable.")]
Profile = Annotated[str | None, typer.Option("--profile", "-p", help="general, prescription or homework.")]
Crop = Annotated[bool, typer.Option("--crop", help="Each image is one word or one line, already cut out.")]

FormatName = Annotated[Format | None, typer.Option("--format", "-f", help="text, or as the name after --out.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", callback=_local, help="Folder, or a file such as result.csv.")]
Diplomatic = Annotated[bool, typer.Option("--diplomatic", help="Nothing supplied; gaps show as □.")]


def _version(wanted: bool) -> None:
    if wanted:
        put(f"fusion {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No remarks; also after the command.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Timings; also after the command.")] = False,
) -> None:
    set_level(quiet=quiet, verbose=verbose)


@app.command()
def transcribe(
    paths: Paths,
    config: ConfigFile = None,
    set_: Sets = None,
    profile: Profile = None,
    crop: Crop = False,
    format_: FormatName = None,
    out: Out = None,
    diplomatic: Diplomatic = False,
    review: Annotated[
        Path | None, typer.Option("--review", callback=_local, help="Folder for the review page.")
    ] = None,
) -> None:
    """Transcribe handwriting. Supplied text stands in square brackets, what nobody can read as □."""
    from fusion.output.formats import Sheet
    from fusion.output.review import ReviewList

    loaded = _loaded(config, set_, profile)
    format_, file, folder = _target(format_, out, paths)
    at_once = format_ in (Format.JSON, Format.TEXT) and len(paths) == 1 and not Path(paths[0]).is_dir()
    failed: list[InputError] = []
    listed = ReviewList(review) if review is not None else None
    photos = format_.photo or listed is not None
    with _opened(loaded) as engine:

        def sheets() -> Iterator[tuple[Sheet, str]]:
            for page, photo, source, stem in _pages(engine, paths, crop, failed, photos=photos):
                yield Sheet(page, photo, source), stem
                if listed is not None:
                    listed.add(page, photo)
                remark(page)

        _write(sheets(), format_, file, folder, diplomatic=diplomatic, at_once=at_once)
        if listed is not None:
            say(f"wrote {review}: {listed.close()}")
    _end(failed)


@app.command()
def convert(
    records: Annotated[list[Path], typer.Argument(help="Pages as JSON: of `transcribe`, `batch` or a review.")],
    format_: FormatName = None,
    out: Out = None,
    diplomatic: Diplomatic = False,
    images: Annotated[Path | None, typer.Option("--images", help="The photograph, or the folder of all.")] = None,
    config: ConfigFile = None,
) -> None:
    """Write stored pages in another format; nothing is read again.

    Formats that show the photograph look for it where it was when the page was read, or at --images.
    """
    from fusion.output.formats import Sheet, stems
    from fusion.records import load_pages
    from fusion.stored import input_of, with_photographs

    format_, file, folder = _target(format_, out, list(map(str, records)))
    failed: list[InputError] = []
    pages: list[Page] = []
    for path in records:
        try:
            pages += load_pages(path)
        except InputError as error:
            fail(failed, error)

    inputs = list(dict.fromkeys(map(input_of, pages)))
    stem = dict(zip(inputs, stems([name for name, _ in inputs]), strict=True))

    def sheets() -> Iterator[tuple[Sheet, str]]:
        if not format_.photo:
            yield from ((Sheet(page), stem[input_of(page)]) for page in pages)
            return
        for one, own in itertools.groupby(pages, key=input_of):
            try:
                for sheet in with_photographs(list(own), images, _loaded(config, None)):
                    yield sheet, stem[one]
            except InputError as error:
                fail(failed, error)

    _write(sheets(), format_, file, folder, diplomatic=diplomatic)
    _end(failed)


@app.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a page as JSON."""
    import json

    from fusion.records import page_schema

    put(json.dumps(page_schema(), ensure_ascii=False, indent=1))


@app.command()
def compare(
    paths: Paths,
    config: ConfigFile = None,
    set_: Sets = None,
    profile: Profile = None,
    crop: Crop = False,
    html: Annotated[
        Path | None, typer.Option("--html", callback=_local, help="Also write one HTML file with the crops.")
    ] = None,
    reference: Annotated[Path | None, typer.Option("--reference", help="Text of the page: adds error rates.")] = None,
) -> None:
    """Compare the OCR alone with the fused text, line by line, differences marked."""
    from rich.console import Console

    from fusion.output.compare import compare_page, page_cer
    from fusion.output.console import terminal
    from fusion.output.marks import visible

    loaded = _loaded(config, set_, profile)
    truth = _reference(reference) if reference is not None else None
    screen = Console()
    failed: list[InputError] = []
    references: dict[str, str] = {}

    def shown(engine: Engine) -> Iterator[tuple[Page, NDArray[np.uint8] | None]]:
        for number, (page, photo, _, _) in enumerate(_pages(engine, paths, crop, failed, photos=html is not None)):
            if truth is not None and number:
                problem = "is the text of one page, and there are several"
                raise InputError(reference, problem, "Compare one page at a time.")
            screen.print(visible(page.id), markup=False)
            screen.print(terminal(compare_page(page, truth)))
            if truth is not None:
                references[page.id] = truth
                errors = page_cer(page, truth)
                ocr, fused = errors.ocr / max(1, errors.length), errors.fused / max(1, errors.length)
                screen.print(f"CER: OCR only {ocr:.3f}, fused {fused:.3f} ({errors.length} characters)")
            remark(page)
            yield page, photo

    with _opened(loaded) as engine:
        if html is None:
            for _ in shown(engine):
                pass
        else:
            from fusion.output import report

            html.write_text(report.html(shown(engine), references=references), encoding="utf-8")
            say(f"wrote {html}")
    _end(failed)


@app.command()
def ask(
    path: Annotated[Path, typer.Argument(help="Image or PDF; its first page is asked about.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    config: ConfigFile = None,
    set_: Sets = None,
    profile: Profile = None,
) -> None:
    """Answer a question about a page, citing lines: by a model that answers, or else from the fields of the page."""
    from fusion.output.marks import visible
    from fusion.service.answers import ask as answered

    with _opened(_loaded(config, set_, profile)) as engine:
        page = next(engine.read(path))
        remark(page)
        answer = answered(engine, path, question, page=page)
    put("\n".join(map(visible, answer.text.splitlines())))
    for line in page.lines:
        if line.id in answer.lines and answer.by != "transcript":
            put(f"  [{line.id}] {visible(line.marked)}")
    if answer.note:
        say(answer.note)


@app.command()
def batch(
    config: Annotated[str, typer.Argument(help="Configuration with a `batch` section.")],
    set_: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Replace results, of another plan too.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also what failed or is partial.")] = False,
) -> None:
    """Read everything a configuration names: one row per input whatever happens. Run again, it goes on where it was."""
    from fusion.batch import estimate, make_plan, run_batch

    loaded = _loaded(config, set_)
    plan = make_plan(loaded)
    if dry_run:
        put(estimate(loaded, plan))
        return
    with batch_shown() as show:
        ended = run_batch(loaded, plan, show, restart=restart, retry=retry_failed)
    put("\n".join(f"{name:10} {count:10,}" for name, count in ended.counts.items()))
    if strange := ended.counts["not_understood"]:
        profile = loaded.domain.profile
        pages = ended.counts["pages"]
        say(f"on {strange} of {pages} pages is nothing that the profile {profile} knows: their rows are of kind `line`")
    if ended.interrupted:
        say("interrupted; what is done stays: the same command goes on from here", error=True)
        raise typer.Exit(INTERRUPTED)
    if ended.counts["failed"] or ended.counts["partial"]:
        say(f"see {loaded.batch.output}/results.jsonl for what failed; --retry-failed reads it again")
        raise typer.Exit(InputError.exit_code)


@app.command()
def apply(
    folder: Annotated[Path, typer.Argument(help="Folder that `transcribe --review` wrote, or pages as JSON.")],
    corrections: Annotated[Path, typer.Argument(help=CORRECTIONS)],
    config: ConfigFile = None,
    set_: Sets = None,
    profile: Profile = None,
    out: Annotated[Path, typer.Option("--out", "-o", callback=_local, help="Folder for the corrected pages.")] = Path(
        "corrected"
    ),
    by: Annotated[str, typer.Option("--by", help="Who corrected, where the file does not say.")] = "unnamed",
) -> None:
    """Put a person's corrections into pages, as `human` spans; readings stay as they were.

    Writes each page as JSON and text, and training.jsonl: corrected lines from which `python -m fusion.train adapt`
    learns. A correction for another photograph or another text than the review's is refused; the others are applied.
    """
    from fusion.domain import open_profile
    from fusion.output.formats import stems, write_page
    from fusion.output.review import PAGES, corrected, read_corrections, review_pages, training_rows

    if (out / PAGES).exists():
        raise ConfigError(f"--out {out}", "holds a review", "Give another folder for the corrected pages.")
    seen = review_pages(folder)
    wanted, unfit = read_corrections(corrections, by, seen)
    edited, refused = corrected(seen, wanted)
    for error in [*unfit, *refused]:
        say(str(error), error=True)
    if profile is None and config is None and edited:  # understood again as it was read
        profile = edited[0].identities.get("profile")
    understand = open_profile(_loaded(config, set_, profile).domain).understand
    done = len(wanted) - len(refused)
    pages = [understand(page) for page in edited] if done else []  # what nobody corrected is no result
    if pages:
        out.mkdir(parents=True, exist_ok=True)
    for page, stem in zip(pages, stems([page.id for page in pages]), strict=True):
        for name in (Format.JSON, Format.TEXT):
            say(f"wrote {out / write_page(page, None, out, stem, name)}")
    rows = training_rows(folder, pages) if pages else ""
    if pages:
        (out / "training.jsonl").write_text(rows, encoding="utf-8")
    put(f"{done} corrections on {len(pages)} pages, {rows.count(chr(10))} lines to learn from")
    if pages and not rows:
        say("a line is learnt from when all of it that needs a look is decided, and its crop is in the review")
    _end([*unfit, *refused])


@app.command()
def serve(config: ConfigFile = None, set_: Sets = None, profile: Profile = None) -> None:
    """Serve the HTTP API, the review page and the archive until interrupted. See docs/service.md."""
    loaded = _loaded(config, set_, profile)
    try:
        from fusion.service.api import run
    except ImportError as error:
        problem = f"needs {error.name}, which is not installed"
        raise DependencyError("fusion serve", problem, "pip install 'fusion[serve]'") from error

    say(f"http://{loaded.serve.host}:{loaded.serve.port} (archive: {loaded.serve.archive})")
    run(loaded)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words and phrases; a page must hold all of them.")],
    config: ConfigFile = None,
    set_: Sets = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most pages.")] = 20,
) -> None:
    """Search the archive of the service: pages that hold the words; then those whose candidates may hold them, after ~.

    A row is the id of the upload, the number of the page, its lines, the name of the upload, and their text.
    """
    from fusion.output.marks import visible
    from fusion.service.archive import Archive

    path = _loaded(config, set_).serve.archive
    if not path.is_file():
        raise InputError(path, "does not exist", "Give the configuration that `fusion serve` runs with.")
    pages = Archive(path).search(query, limit)
    if not pages:
        say(f"no page of {path} holds that")
    for found in pages:
        for hit in found.hits:
            shown = " ".join(hit.text.split("\n"))
            name = f"{found.transcription} {found.page} {','.join(hit.lines)} {found.name}"
            put(visible(f"{name}: {'' if hit.exact else f'~{hit.phrase} '}{shown}"))


@config_app.command("show")
def config_show(
    name: Annotated[str | None, typer.Argument(help="Configuration to show; the defaults without one.")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    profile: Profile = None,
) -> None:
    """Print the effective configuration, every key with its value, range and meaning."""
    from fusion.doctor import describe

    if name is not None and config is not None:
        raise ConfigError(f"--config {config}", f"is given beside {name}", "Name one configuration.")
    put(describe(_loaded(name or config, set_, profile)))


@config_app.command("check")
def config_check(config: Annotated[str, typer.Argument(help="Configuration to check.")], set_: Sets = None) -> None:
    """Check a configuration without loading any model."""
    put(f"{config}: good, hash {_loaded(config, set_).hash[:12]}")


@app.command()
def doctor(config: ConfigFile = None, set_: Sets = None, profile: Profile = None) -> None:
    """Say what is installed, which runtime and reader will be used, what is missing and how to get it."""
    from fusion.doctor import examine

    report, healthy = examine(_loaded(config, set_, profile))
    put(report)
    if not healthy:
        raise typer.Exit(DependencyError.exit_code)


def main() -> None:
    """Entry point: an error for people ends with its message and exit code, never with a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file or pipe gets UTF-8; a terminal what it can show
            stream.reconfigure(errors="replace", encoding=None if stream.isatty() else "utf-8")
    try:
        app()
    except FusionError as error:
        say(str(error), error=True)
        sys.exit(error.exit_code)
    except ImportError as error:
        say(f"{error.name or error}: can't be imported ({error}). `fusion doctor` says what to install.", error=True)
        sys.exit(DependencyError.exit_code)
    except OSError as error:
        say(f"{error.filename or 'output'}: {error.strerror or error}. Check the path.", error=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        os._exit(INTERRUPTED)  # an orderly end would wait for requests that are under way
    except Exception as error:  # the top of the program: a bug is reported as one, without page text
        if logging.getLogger("fusion").isEnabledFor(logging.DEBUG):
            raise
        say(f"unexpected {type(error).__name__}. Please report it; `fusion doctor` says what to add.", error=True)
        sys.exit(1)


# --- helpers --------------------------------------------------------------------------------------------------------


def _loaded(config: str | None, set_: list[str] | None, profile: str | None = None) -> Config:
    return load_config(config, [*(set_ or []), *([f"domain.profile={profile}"] if profile is not None else [])])


def _target(format_: Format | None, out: Path | None, inputs: list[str]) -> tuple[Format, Path | None, Path | None]:
    """The format, and the file or the folder to write to; neither: print."""
    if out is None or out.is_dir():
        chosen = format_ or Format.TEXT
        if out is None and chosen.binary:
            raise ConfigError(f"--format {chosen}", "is no text to be printed", "Give a file or a folder: --out.")
        return chosen, None, out
    named = Format.of(out.name)
    if named is None and re.fullmatch(r"\.[A-Za-z]+", out.suffix):
        endings = ", ".join(one.ending for one in Format)
        way = f"Files end in {endings}; make a folder of this name first."
        raise ConfigError(f"--out {out}", "is the name of no format", way)
    if named is None:
        return format_ or Format.TEXT, None, out
    chosen = format_ or named
    if not chosen.ending.endswith(out.suffix.lower().replace(".jsonl", ".json")):
        raise ConfigError(f"--out {out}", f"is no name for {chosen}", "Leave --format out, or name a folder.")
    if out.exists() and any(Path(p).exists() and out.samefile(p) for p in inputs if p != STDIN):
        raise ConfigError(f"--out {out}", "is an input too", "Give another name: an input is never overwritten.")
    return chosen, out, None


def _write(
    sheets: Iterator[tuple[Sheet, str]],
    format_: Format,
    file: Path | None,
    folder: Path | None,
    *,
    diplomatic: bool,
    at_once: bool = False,
) -> None:
    """Write pages to a folder, a file of their own each; all to one file; or print them, `at_once` as they come."""
    from fusion.output.formats import content, write_page

    if folder is not None:
        for sheet, stem in sheets:
            folder.mkdir(parents=True, exist_ok=True)
            page, photo, source = sheet.page, sheet.photo, sheet.source
            name = write_page(page, photo, folder, stem, format_, diplomatic=diplomatic, source=source)
            say(f"wrote {folder / name}")
        return
    if at_once and file is None:
        for sheet, _ in sheets:
            put(content([sheet], format_, diplomatic=diplomatic).decode().rstrip("\r\n"))
        return
    if (first := next(sheets, None)) is None:
        return
    made = content((sheet for sheet, _ in itertools.chain([first], sheets)), format_, diplomatic=diplomatic)
    if file is None:
        put(made.decode().rstrip("\r\n"))
    else:
        file.write_bytes(made)
        say(f"wrote {file}")


def _opened(config: Config) -> Engine:
    """The engine, with a word to people who wait for a large model to load."""
    with console().status("loading models …"):
        from fusion.engine import Engine

        return Engine(config)


def _pages(
    engine: Engine, paths: list[str], crop: bool, failed: list[InputError], *, photos: bool
) -> Iterator[tuple[Page, NDArray[np.uint8] | None, Path | bytes | None, str]]:
    """Every page of every input, its photograph if wanted, the input itself, and a name to write it under.

    An input that can't be read is reported and put into `failed`; the others go on.
    """
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from fusion.engine import photographs
    from fusion.output.formats import stems
    from fusion.output.marks import visible

    inputs = _inputs(paths, failed)
    named = zip(inputs.items(), stems(list(inputs)), strict=True)
    with bar(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()) as progress:
        task = progress.add_task("")
        for number, ((name, source), stem) in enumerate(named, 1):
            progress.update(task, description=f"{number}/{len(inputs)} {visible(Path(name).name)}")
            pictures = photographs(source, engine.config) if photos else itertools.repeat(None)
            try:
                for page in engine.read(source, crop=crop, name=name):
                    file = source if isinstance(source, Path | bytes) else None
                    yield page, next(pictures), file, stem
            except InputError as error:
                fail(failed, error)


def _inputs(paths: list[str], failed: list[InputError]) -> dict[str, Source]:
    """Name and source of each input; what is not there is reported, and the others go on."""
    from fusion.intake import list_inputs

    if paths.count(STDIN) > 1:
        raise ConfigError(STDIN, "stands twice among the inputs", "Standard input can be read once.")
    found: dict[str, Source] = {}
    for path in paths:
        if path == STDIN:
            found["stdin"] = sys.stdin.buffer.read()
            continue
        try:
            found.update((str(file), file) for file in list_inputs([path]))
        except InputError as error:
            fail(failed, error)
    return found


def _end(failed: list[InputError]) -> None:
    if failed:
        raise typer.Exit(InputError.exit_code)


def _reference(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"can't be read as UTF-8 text ({type(error).__name__})", "Check --reference.") from error


if __name__ == "__main__":
    main()
