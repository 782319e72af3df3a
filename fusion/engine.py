"""The engine: a file in, pages out. It composes the rooms and adds no knowledge of its own.

photo → intake → ocr → vlm → fuse → complete → domain → Page
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from fusion.complete import Completer, mark_gaps
from fusion.config import Config, load_config
from fusion.domain import open_profile
from fusion.errors import ConfigError, FusionError, InputError, ReaderError
from fusion.fuse import Fuser
from fusion.ink import Ink, InkLine, PageImage
from fusion.intake import list_inputs, open_pages
from fusion.ocr import OcrReader
from fusion.page import Failure, Line, Page, Reading, Span, Stage
from fusion.placement import place_spans, to_photo
from fusion.vlm import Query, open_reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)
T = TypeVar("T")

ASK = (
    "Answer the question about this page from the picture and its transcript. Cite the lines you rely on by their ids "
    "in square brackets. If the page does not say, answer that it does not say.\n"
    "用图片和文字稿回答问题，用方括号注明所依据的行号；页面上没有写的就说没有写。\n\n{transcript}\n\n{question}"
)
WRITES = (
    "Set vlm.engine: served (configs/served.yaml, a GLM behind an endpoint), or vlm.model: zai-org/GLM-OCR "
    "(configs/local.yaml); the small reader and the OCR weigh readings and write nothing."
)


class Engine:
    """Reads handwriting. Models are loaded once; pages are independent of each other.

    Usable as a context manager; safe to use from one thread at a time.
    """

    def __init__(self, config: Config | None = None) -> None:
        """Open everything that the configuration names.

        Raises:
            ConfigError, DependencyError, ReaderError, InputError: something named there can't be used.
        """
        self.config = config if config is not None else load_config()
        self.clock: dict[str, float] = {}
        """Seconds spent per stage since it was last cleared; `paddleocr` is the part of `ocr` that is not ours."""
        self._fuser = Fuser(self.config.fuse)
        self.profile = open_profile(self.config.domain)
        self._completer = Completer(self.config.complete, self.profile.forbids)
        self._reader = open_reader(self.config.vlm)
        if self.config.complete.enabled and not (self._reader is not None and self._reader.writes):
            if self._reader is not None:
                self._reader.close()
            raise ConfigError("complete.enabled", "needs a vision-language model that writes", WRITES)
        self._ocr = OcrReader(self.config.ocr)

    def read(self, path: str | Path, *, crop: bool = False) -> Iterator[Page]:
        """Pages of a file, one after the other.

        Args:
            path: image or PDF.
            crop: the image is one word or one line, already cut out.

        Raises:
            InputError: the file can't be read; names it and the way out.
        """
        images = open_pages(path, self.config.intake, crop=crop)
        while (image := self._timed("intake", lambda: _next(images, path))) is not None:
            yield self.read_page(image, name=str(path), crop=crop)

    def read_page(self, image: PageImage, *, name: str = "", crop: bool = False) -> Page:
        """One upright page: find lines, read them twice, decide, mark gaps, complete.

        Args:
            image: from `intake`.
            name: input name as the user gave it; recorded readings are found by it.
            crop: the page is one line.
        """
        failures: list[Failure] = []
        before = self._ocr.seconds
        photo = image
        image, checks = self._stage("domain", lambda: self.profile.prepare(photo), failures) or (photo, ())
        found = self._stage("ocr", lambda: self._ocr.read(image, crop=crop), failures) or ()
        self.clock["paddleocr"] = self.clock.get("paddleocr", 0.0) + self._ocr.seconds - before
        queries = self._queries(found, name or image.id)
        answers = self._second_readings(queries, failures)
        lines = [
            self._line(query, answer, image, order)
            for order, (query, answer) in enumerate(zip(queries, answers, strict=True))
        ]
        page = Page(
            id=image.id,
            image_sha256=image.sha256,
            width=image.width,
            height=image.height,
            angle=image.angle,
            lines=tuple(lines),
            findings=image.findings,
            failures=tuple(failures),
            checks=checks,
        )
        understood = self._stage("domain", lambda: self.profile.understand(page), failures)
        return understood or replace(page, failures=tuple(failures))

    def ask(self, path: str | Path, question: str) -> tuple[str, Page]:
        """Answer a question from the first page's image and transcript, citing lines by id.

        Raises:
            ConfigError: no second reader is configured.
            ReaderError: it did not answer.
        """
        if self._reader is None or not self._reader.writes:
            raise ConfigError("ask", "needs a vision-language model that writes and none is configured", WRITES)
        image = next(open_pages(path, self.config.intake))
        page = self.read_page(image, name=str(path))
        transcript = "\n".join(f"[{line.id}] {line.marked}" for line in page.lines)
        head, _, tail = ASK.partition("{transcript}")  # the page may hold braces of its own
        answer = self._reader.ask(image.pixels, head + transcript + tail.replace("{question}", question))
        if isinstance(answer, Failure):
            raise ReaderError("ask", answer.message, "`fusion doctor` shows whether the endpoint answers.")
        return answer.text.strip(), page

    def close(self) -> None:
        """Give back models and connections."""
        self._ocr.close()
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- stages ---------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage, work: Callable[[], T], failures: list[Failure]) -> T | None:
        """The stage door: whatever breaks behind it becomes a Failure, and the rest of the page goes on."""
        try:
            return self._timed(stage, work)
        except FusionError as error:
            failures.append(Failure(stage, type(error).__name__, f"{error.problem}. {error.way_out}"))
        except Exception as error:  # a crash in one stage must not lose the page
            _log.warning("stage %s failed with %s", stage, type(error).__name__)
            failures.append(Failure(stage, "crash", f"{type(error).__name__} in stage {stage}"))
        return None

    def _timed(self, stage: Stage, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.clock[stage] = self.clock.get(stage, 0.0) + time.perf_counter() - start

    def _queries(self, lines: Sequence[InkLine], name: str) -> list[Query]:
        texts = [line.reading.text if line.reading is not None else "" for line in lines]
        padded = ["", *texts, ""]
        instructions = self.profile.instructions
        return [Query(name, line, padded[n], padded[n + 2], instructions(texts[n])) for n, line in enumerate(lines)]

    def _second_readings(self, queries: list[Query], failures: list[Failure]) -> list[tuple[Reading | Failure, ...]]:
        reader = self._reader
        if reader is None or not queries:
            return [()] * len(queries)
        asked = [number for number, query in enumerate(queries) if self._wanted(query.line)]
        answers = self._stage("vlm", lambda: reader.read([queries[number] for number in asked]), failures)
        lost: tuple[Reading | Failure, ...] = (Failure("vlm", "crash", "the second reader failed on this page"),)
        spared: tuple[Reading | Failure, ...] = (Failure("vlm", "not_needed", "the OCR is sure of this line"),)
        found = dict(zip(asked, answers if answers is not None else [lost] * len(asked), strict=True))
        return [found.get(number, spared) for number in range(len(queries))]

    def _wanted(self, line: InkLine) -> bool:
        """Whether a line is to be read again, as `vlm.ask` says."""
        every = getattr(self.config.vlm, "ask", "all") == "all"
        return every or line.ink is None or self._fuser.doubtful(line.ink)

    def _line(self, query: Query, answers: tuple[Reading | Failure, ...], image: PageImage, order: int) -> Line:
        line = query.line
        others = [answer for answer in answers if isinstance(answer, Reading)]
        failures = [*line.failures, *(answer for answer in answers if isinstance(answer, Failure))]
        polygon = to_photo(line.polygon, image.transform)
        readings = (*((line.reading,) if line.reading is not None else ()), *others)

        def decided() -> Line:
            spans = self._spans(query, others, bool(answers), failures)
            return Line(line.id, polygon, order, readings, place_spans(line, spans, image.transform), tuple(failures))

        # Built behind the stage door: a decision that breaks, or a line that its own invariants refuse, loses no page.
        made = self._stage("fuse", decided, failures)
        return made or Line(line.id, polygon, order, readings, _verbatim(line.reading), tuple(failures))

    def _spans(self, query: Query, others: list[Reading], asked: bool, failures: list[Failure]) -> tuple[Span, ...]:
        line = query.line
        if line.reading is None or line.ink is None:
            return ()
        decided, missing = self._fuser.fuse(
            line.reading,
            line.ink,
            others,
            self.profile.prior,
            self._scorer(query),
            self._witness(query) if others else None,
        )
        if not asked:  # an asked reader that failed has already said so
            failures += missing
        spans = self._stage("domain", lambda: self.profile.mark(line, mark_gaps(line, decided, others)), failures)
        spans = spans if spans is not None else mark_gaps(line, decided, others)
        if self.config.complete.enabled and any(span.source == "gap" for span in spans):
            return self._stage("complete", lambda: self._complete(query, spans, failures), failures) or spans
        return spans

    def _complete(self, query: Query, spans: tuple[Span, ...], failures: list[Failure]) -> tuple[Span, ...]:
        assert self._reader is not None
        completed, missing = self._completer.complete(
            query.line, spans, query.before, query.after, self._reader.ask, self._scorer(query)
        )
        failures += missing
        return completed

    def _witness(self, query: Query) -> Ink | None:
        return self._reader.witness(query) if self._reader is not None else None

    def _scorer(self, query: Query) -> Callable[[Sequence[str]], list[float] | None]:
        reader = self._reader
        if reader is None:
            return lambda texts: None
        return lambda texts: self._timed("vlm", lambda: reader.score(query, texts))


def _next(images: Iterator[PageImage], path: str | Path) -> PageImage | None:
    """The next page of a file; a crash of a decoder is an error of this input and of no other."""
    try:
        return next(images, None)
    except FusionError:
        raise
    except Exception as error:
        way = "Open it in an image viewer and save it anew."
        raise InputError(path, f"could not be processed ({type(error).__name__})", way) from error


def _verbatim(reading: Reading | None) -> tuple[Span, ...]:
    """The OCR's text as it is, when the decision failed; confidence is unknown then."""
    return (Span(reading.text, "ocr", None, "decision_failed"),) if reading is not None and reading.text else ()


def photographs(path: str | Path, config: Config) -> Iterator[NDArray[np.uint8]]:
    """The file's pages as displayed, neither straightened nor turned: what `Page` geometry refers to.

    Yields:
        uint8 (H, W, 3), RGB.
    """
    as_displayed = config.intake.model_copy(update={"deskew": False, "rectify": False})
    return (image.pixels for image in open_pages(path, as_displayed))


def transcribe(path: str | Path, config: Config | None = None, *, crop: bool = False) -> list[Page]:
    """Read one file, or every image in a folder.

    Args:
        path: image, PDF or folder.
        config: configuration; None: the defaults, which need no network and no GPU.
        crop: each image is one word or one line.
    """
    with Engine(config) as engine:
        return [page for file in list_inputs([path]) for page in engine.read(file, crop=crop)]
