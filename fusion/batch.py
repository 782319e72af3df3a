"""Many inputs: one result per input whatever happens, and a manifest that says how they were made."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fusion.config import Config
from fusion.doctor import versions
from fusion.engine import Engine, photographs
from fusion.errors import ConfigError, InputError
from fusion.intake import list_inputs
from fusion.output.formats import stems, write_page
from fusion.page import Page
from fusion.review import NOTHING, review

COUNTS = ("inputs", "pages", "lines", "stretches", "review", "partial", "failed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input: a row of `results.jsonl`.

    Attributes:
        input: path as given.
        status: `ok`, `partial` (some stage failed somewhere) or `failed` (no page could be read).
        outputs: files written, relative to the output folder.
        lines: lines found.
        stretches: words, of Chinese characters, found.
        review: stretches that need a look.
        error: message when the input could not be read to its end, else None.
    """

    input: str
    status: str
    outputs: tuple[str, ...] = ()
    lines: int = 0
    stretches: int = 0
    review: int = 0
    error: str | None = None


def run_batch(config: Config, progress: Callable[[Outcome], None]) -> dict[str, int]:
    """Read every input of `config.batch` and write its results, `results.jsonl` and `manifest.json`.

    Returns:
        The counts of the manifest: see `COUNTS`.

    Raises:
        ConfigError: no inputs are named.
        OSError: the output folder can't be written at all.
    """
    if not config.batch.inputs:
        raise ConfigError("batch.inputs", "names no input", "List files or folders under `batch: inputs:`.")
    inputs, missing = _expanded(config.batch.inputs)
    folder = config.batch.output
    folder.mkdir(parents=True, exist_ok=True)
    started = _now()
    counts = Counter(dict.fromkeys(COUNTS, 0))
    # A file name may be no Unicode; `backslashreplace` writes its bytes as the escapes of JSON.
    record = (folder / "results.jsonl").open("w", encoding="utf-8", errors="backslashreplace")
    with Engine(config) as engine, record as results:
        named = zip(inputs, stems(list(map(str, inputs))), strict=True)
        read = (_read_one(engine, path, folder, stem, counts) for path, stem in named)
        for outcome in itertools.chain(missing, read):
            counts.update(inputs=1, lines=outcome.lines, stretches=outcome.stretches, review=outcome.review)
            if outcome.status != "ok":
                counts[outcome.status] += 1
            results.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
            results.flush()
            progress(outcome)
    manifest = {
        "config_hash": config.hash,
        "versions": versions(),
        "started": started,
        "finished": _now(),
        "counts": counts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return counts


def _expanded(paths: Sequence[Path]) -> tuple[list[Path], list[Outcome]]:
    """Files to read, and the outcomes of paths that are not there."""
    found: dict[Path, None] = {}
    missing = []
    for path in paths:
        try:
            found.update(dict.fromkeys(list_inputs([path])))
        except InputError as error:
            missing.append(Outcome(str(path), "failed", error=str(error)))
    return list(found), missing


def _read_one(engine: Engine, path: Path, folder: Path, stem: str, counts: Counter[str]) -> Outcome:
    written: list[str] = []
    pages: list[Page] = []
    error: str | None = None
    batch = engine.config.batch
    # Some formats show the photograph as displayed; without one of them it is not decoded a second time.
    shown = any(name.photo for name in batch.formats)
    photos = photographs(path, engine.config) if shown else itertools.repeat(None)
    try:
        for page in engine.read(path, crop=batch.crop):
            pages.append(page)
            photo = next(photos)
            for name in batch.formats:
                try:
                    written.append(write_page(page, photo, folder, stem, name, source=path))
                except OSError as problem:  # one output that can't be written loses no other
                    reason = problem.strerror or problem
                    error = f"{problem.filename or folder}: can't be written ({reason}). Check the folder."
    except InputError as problem:
        error = str(problem)
    counts["pages"] += len(pages)
    lines = [line for page in pages for line in page.lines]
    found = sum((review(page, page.max_error) for page in pages), NOTHING)
    broken = error is not None or any(page.failures for page in pages) or any(line.troubles for line in lines)
    status = "failed" if not pages else "partial" if broken else "ok"
    return Outcome(str(path), status, tuple(written), len(lines), found.total, found.flagged, error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
