"""Many inputs: one result per input whatever happens, and a manifest that says how they were made.

Knows files and the engine's public door; the scale work (workers, resume) is not here yet.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fusion import output
from fusion.config import Config
from fusion.doctor import versions
from fusion.engine import Engine, photographs
from fusion.errors import ConfigError, InputError
from fusion.intake import list_inputs
from fusion.page import Page, RunManifest
from fusion.review import NOTHING, Review, review

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ENDINGS = {"json": ".json", "text": ".txt", "csv": ".csv", "fhir": ".fhir.json", "tei": ".tei.xml"}
"""File name endings of the formats that are text."""


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
    outputs: tuple[str, ...]
    lines: int
    stretches: int
    review: int
    error: str | None = None


def run_batch(config: Config, progress: Callable[[Outcome], None]) -> RunManifest:
    """Read every input of `config.batch` and write its results, `results.jsonl` and `manifest.json`.

    Raises:
        ConfigError: no inputs are named.
        InputError: a named path does not exist.
    """
    if not config.batch.inputs:
        raise ConfigError("batch.inputs", "names no input", "List files or folders under `batch: inputs:`.")
    inputs = list_inputs(config.batch.inputs)
    folder = config.batch.output
    folder.mkdir(parents=True, exist_ok=True)
    started = _now()
    counts = {"inputs": len(inputs), "pages": 0, "lines": 0, "stretches": 0, "review": 0, "partial": 0, "failed": 0}
    with Engine(config) as engine, (folder / "results.jsonl").open("w", encoding="utf-8") as results:
        for path, stem in zip(inputs, stems(inputs), strict=True):
            outcome = _read_one(engine, path, folder, stem, counts)
            results.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
            results.flush()
            progress(outcome)
    manifest = RunManifest(config.hash, versions(), started, _now(), counts)
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return manifest


def _read_one(engine: Engine, path: Path, folder: Path, stem: str, counts: dict[str, int]) -> Outcome:
    written: list[str] = []
    pages: list[Page] = []
    error: str | None = None
    batch = engine.config.batch
    # Drawing needs the photograph as displayed; without an overlay it is not decoded a second time.
    photos = photographs(path, engine.config) if "overlay" in batch.formats else itertools.repeat(None)
    try:
        for page in engine.read(path, crop=batch.crop):
            pages.append(page)
            written += write_page(page, next(photos), folder, stem, batch.formats)
    except InputError as problem:
        error = str(problem)
    lines = [line for page in pages for line in page.lines]
    looks = sum((review(page, engine.config.review.max_error) for page in pages), NOTHING)
    broken = error is not None or any(page.failures for page in pages) or any(line.troubles for line in lines)
    status = "failed" if not pages else "partial" if broken else "ok"
    counts["pages"] += len(pages)
    counts["lines"] += len(lines)
    counts["review"] += looks.flagged
    counts["stretches"] += looks.total
    if status != "ok":
        counts[status] += 1
    return Outcome(str(path), status, tuple(written), len(lines), looks.total, looks.flagged, error)


def write_page(
    page: Page,
    photo: NDArray[np.uint8] | None,
    folder: Path,
    stem: str,
    formats: Sequence[str],
    *,
    diplomatic: bool = False,
) -> Iterator[str]:
    """Write one page in the wanted formats; yields the names of the files. Pages of one file are told by `.p1`, `.p2`."""
    stem += f".p{page.id.rpartition('#')[2]}" if "#" in page.id else ""
    for name in formats:
        if name != "overlay":
            ending = ENDINGS[name]
            text = as_text(page, name, diplomatic=diplomatic) + "\n"
            (folder / f"{stem}{ending}").write_text(text, encoding="utf-8", newline="")
            yield f"{stem}{ending}"
    if "overlay" in formats and photo is not None:
        from PIL import Image

        Image.fromarray(output.draw_overlay(photo, page)).save(folder / f"{stem}.overlay.png")
        yield f"{stem}.overlay.png"


def as_text(page: Page, name: str, *, diplomatic: bool = False) -> str:
    """A page in one of the formats that are text, without a line break at its end."""
    writers: dict[str, Callable[[Page], str]] = {
        "json": output.dump_page,
        "csv": lambda one: output.records_csv([one]),
        "fhir": output.medication_requests,
        "tei": output.tei_document,
    }
    text = writers[name](page) if name in writers else output.plain(page, diplomatic=diplomatic)
    return text.rstrip("\r\n")


def write_review_list(folder: Path, read: Sequence[tuple[Page, NDArray[np.uint8] | None]], max_error: float) -> Review:
    """Write the list of stretches to look at, of all pages, with crops; returns what stands on it."""
    found = sum((review(page, max_error) for page, _ in read), NOTHING)
    folder.mkdir(parents=True, exist_ok=True)
    output.write_review(folder, found, read)
    return found


def stems(inputs: Sequence[Path]) -> list[str]:
    """One name per input, distinct on every file system: `a/note.jpg` and `b/note.jpg` must not meet."""
    taken: set[str] = set()
    names = []
    for path in inputs:
        base = re.sub(r"[^\w.-]", "_", path.name)
        stem, number = base, 2
        while stem.casefold() in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem.casefold())
        names.append(stem)
    return names


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
