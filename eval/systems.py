"""One pass of the engine over a split: what every reader said, what was decided, and how long it took.

Knows the engine's public door; knows no metric.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eval.blind import Sight
from eval.datasets import Item, load_split, names_of
from fusion.config import load_config
from fusion.engine import Engine
from fusion.errors import InputError
from fusion.ink import Evidence, PageImage
from fusion.intake import Source
from fusion.page import Page
from fusion.review import review
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
        bound: the limit of its pages' review, see `Page.max_error`; 0 without pages.
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
            failures = (f"intake:{error.problem}",)
            yield Read(item, "", (), "", (), None, (), True, 0.0, seconds, seconds, 0.0, True, failures)
            continue
        seconds = time.perf_counter() - start
        yield read_of(item, pages, seconds, engine, crop=crop, fresh=engine.recalled == recalled)


def read_of(item: Item, pages: list[Page], seconds: float, engine: Engine, *, crop: bool, fresh: bool) -> Read:
    """What a read is of pages that an engine made of an item."""
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
        review=not lines or any(review(page, page.max_error).lines for page in pages),
        bound=pages[0].max_error if pages else 0.0,
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

    def read(
        self, source: Source, *, crop: bool = False, name: str | None = None, pages: range | None = None
    ) -> Iterator[Page]:
        """See `Engine`."""
        self.seen = ()
        return super().read(source, crop=crop, name=name, pages=pages)

    def look(self, image: PageImage, *, name: str = "", crop: bool = False) -> Evidence:
        """See `Engine`."""
        self.seen = (*self.seen, super().look(image, name=name, crop=crop))
        return self.seen[-1]
