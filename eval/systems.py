"""One pass of the engine over a split: what every reader said, what was decided, and how long it took.

Knows the engine's public door; knows no metric.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from pydantic import TypeAdapter

import fusion
from eval.blind import Sight
from eval.datasets import Item, load_split, names_of
from fusion import fuse
from fusion.config import layered, load_config
from fusion.engine import Engine
from fusion.errors import InputError
from fusion.fuse import Fuser
from fusion.ink import Evidence, PageImage
from fusion.intake import Source
from fusion.onnx import file_sha256
from fusion.page import Page
from fusion.review import review
from fusion.store import key_of
from fusion.vlm import Looks


@dataclass(frozen=True, slots=True)
class Read:
    """What came out for one item.

    Attributes:
        item: the row.
        ocr: text of the OCR alone.
        vlm: texts of the second reader, one per accepted reading of a crop; empty for pages and when there is none.
        fused: the decided text.
        nbest: the OCR's whole-line alternatives (crops only).
        confidence: the lowest of its lines, or None.
        pages: the result.
        review: whether somebody should look at it.
        bound: `review.max_error` of the run.
        seconds: wall time of everything.
        ocr_seconds: of intake and OCR.
        vlm_seconds: of the second reader.
        fresh: nothing came out of a store, so that the times are those of reading.
        failures: kinds of failures, `stage:kind`.
    """

    item: Item
    ocr: str
    vlm: tuple[str, ...]
    fused: str
    nbest: tuple[str, ...]
    confidence: float | None
    pages: tuple[Page, ...]
    review: bool
    bound: float
    seconds: float
    ocr_seconds: float
    vlm_seconds: float
    fresh: bool
    failures: tuple[str, ...]


def read_split(engine: Engine, items: Sequence[Item], *, crop: bool) -> Iterator[Read]:
    """Read items one after the other; an unreadable image yields empty texts and its failure, never an exception."""
    for item in items:
        engine.clock.clear()
        start, recalled = time.perf_counter(), engine.recalled
        try:
            pages = list(engine.read(item.path, crop=crop))
        except InputError as error:
            seconds = time.perf_counter() - start
            bound = engine.config.review.max_error
            failures = (f"intake:{error.problem}",)
            yield Read(item, "", (), "", (), None, (), True, bound, seconds, seconds, 0.0, True, failures)
            continue
        seconds = time.perf_counter() - start
        yield _read(item, pages, seconds, engine, crop=crop, fresh=engine.recalled == recalled)


def _read(item: Item, pages: list[Page], seconds: float, engine: Engine, *, crop: bool, fresh: bool) -> Read:
    clock = engine.clock
    lines = [line for page in pages for line in page.lines]
    ocr = "\n".join(reading.text for line in lines for reading in line.readings if reading.source == "ocr")
    confidences = [line.confidence for line in lines]
    known = [value for value in confidences if value is not None]
    confidence = min(known) if known and len(known) == len(confidences) else None
    failures = [*(f for page in pages for f in page.failures), *(f for line in lines for f in line.failures)]
    return Read(
        item=item,
        ocr=ocr,
        vlm=tuple(r.text for line in lines for r in line.readings if r.source == "vlm") if crop else (),
        fused="\n".join(page.text for page in pages),
        nbest=tuple(h.text for line in lines for r in line.readings for h in r.nbest) if crop else (),
        confidence=confidence,
        pages=tuple(pages),
        review=not lines or any(review(page, engine.config.review.max_error).lines for page in pages),
        bound=engine.config.review.max_error,
        seconds=seconds,
        ocr_seconds=clock.get("intake", 0.0) + clock.get("ocr", 0.0),
        vlm_seconds=clock.get("vlm", 0.0),
        fresh=fresh,
        failures=tuple(f"{failure.stage}:{failure.kind}" for failure in failures),
    )


def is_pages(path: Path, items: Sequence[Item]) -> bool:
    """Whether a split holds whole pages, to be searched for lines, rather than crops."""
    return "page" in path.stem or any("\n" in item.reference for item in items)


@contextmanager
def engine_for(
    config: Path | None, overrides: Sequence[str], formulary_from: Path | None = None, sight: Sight = "crop"
) -> Iterator[Remembers]:
    """An engine; `formulary_from` names a split whose texts are given as the formulary, `sight` what its reader sees."""
    with tempfile.TemporaryDirectory() as folder:
        settings = list(overrides)
        if formulary_from is not None:
            path = Path(folder) / "formulary.txt"
            path.write_text("\n".join(names_of(load_split(formulary_from))), encoding="utf-8")
            settings.append(f"domain.formulary={path}")
        engine = Remembers(load_config(config, settings))
        with engine:
            if sight != "crop":
                from eval.blind import BlindReader

                assert isinstance(engine._reader, Looks)
                engine._reader = BlindReader(engine._reader, sight)
            yield engine


class Remembers(Engine):
    """An engine that keeps the evidence of the last input, so that it can be decided on again under other rules."""

    seen: tuple[Evidence, ...] = ()

    def read(self, source: Source, *, crop: bool = False, name: str | None = None) -> Iterator[Page]:
        """See `Engine`."""
        self.seen = ()
        return super().read(source, crop=crop, name=name)

    def look(self, image: PageImage, *, name: str = "", crop: bool = False) -> Evidence:
        """See `Engine`."""
        self.seen = (*self.seen, super().look(image, name=name, crop=crop))
        return self.seen[-1]


Rule = Literal["agreed_stays", "no_lost_digit"]
OFF: Mapping[Rule, tuple[str, object]] = {"agreed_stays": ("_keeps", lambda *_: True), "no_lost_digit": ("LOST", 1e9)}
"""Rules of `fuse.model` that no setting turns off: the name that stands for each there, and what turns it off."""


@dataclass(frozen=True)
class Rules:
    """How evidence is decided on: numbers that replace some of the packaged weights, and rules that are left out."""

    weights: Mapping[str, Any] = field(default_factory=dict)
    off: Sequence[Rule] = ()

    def fuser(self, engine: Engine) -> Fuser:
        """What decides under these numbers; the languages, and with them what their search found, are the engine's."""
        with tempfile.TemporaryDirectory() as folder:
            packaged = json.loads((files("fusion.fuse") / "weights.json").read_text(encoding="utf-8"))
            path = Path(folder) / "weights.json"
            path.write_text(json.dumps(layered(packaged, dict(self.weights))), encoding="utf-8")
            settings = engine.config.fuse.model_copy(update={"weights": path} if self.weights else {})
            return Fuser(settings, engine._fuser._languages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The rules are off meanwhile."""
        with ExitStack() as patched:
            for rule in self.off:
                patched.enter_context(patch.object(fuse.model, *OFF[rule]))
            yield


def kept_splits(
    engine: Remembers, rules: Sequence[Rules], items: Sequence[Item], folder: Path | None, sight: Sight, *, crop: bool
) -> list[list[Read]]:
    """Read items, and decide under each of several rules; the first are those that what is looked at depends on.

    Reads are kept in a folder: what the same code has read with the same engine is not read again. Positions and n-best lists of
    single readings are left out of them, but for `Read.nbest`.
    """
    deciders = [rule.fuser(engine) for rule in rules]
    if folder is None:
        return _decided(engine, deciders, rules, items, crop)
    keys = [_key(engine, fuser, rule, items, sight, crop) for fuser, rule in zip(deciders, rules, strict=True)]
    paths = [folder / f"{key}.json.gz" for key in keys]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        found = _decided(engine, deciders, rules, items, crop)
        for path, reads in zip(paths, found, strict=True):
            path.write_bytes(gzip.compress(_READS.dump_json([_lighter(read) for read in reads]), 3))
    return [_READS.validate_json(gzip.decompress(path.read_bytes())) for path in paths]


def _decided(
    engine: Remembers, deciders: Sequence[Fuser], rules: Sequence[Rules], items: Sequence[Item], crop: bool
) -> list[list[Read]]:
    columns: list[list[Read]] = [[] for _ in rules]
    for item in items:
        for column, fuser, rule in zip(columns, deciders, rules, strict=True):
            engine._fuser = fuser
            with rule.applied():
                if column is columns[0]:
                    (read,) = read_split(engine, [item], crop=crop)
                else:
                    pages = [engine.decide(evidence) for evidence in engine.seen]
                    read = _read(item, pages, 0.0, engine, crop=crop, fresh=False) if pages else columns[0][-1]
            column.append(read)
    return columns


_READS = TypeAdapter(list[Read])


def _lighter(read: Read) -> Read:
    pages = []
    for page in read.pages:
        lines = [
            replace(line, readings=tuple(replace(one, positions=(), nbest=()) for one in line.readings))
            for line in page.lines
        ]
        pages.append(replace(page, lines=tuple(lines)))
    return replace(read, pages=tuple(pages))


def _key(engine: Remembers, fuser: Fuser, rule: Rules, items: Sequence[Item], sight: Sight, crop: bool) -> str:
    """What reads depend on. Files of an engine's own making count by what is in them, not by where they lie."""
    settings = engine.config.decisive()
    settings["domain"].pop("formulary")
    identities = {name: value for name, value in engine.identities.items() if name not in ("config", "weights")}
    rows = [(item.image, item.reference, file_sha256(item.path) if item.path.exists() else "") for item in items]
    made_by = {**identities, "weights": fuser.identity, "off": list(rule.off), "sight": sight, "crop": crop}
    return key_of(settings=settings, made_by=made_by, code=_code(), items=rows)


@cache
def _code() -> str:
    """SHA-256 over the package's source."""
    root = Path(fusion.__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.py")))).hexdigest()
