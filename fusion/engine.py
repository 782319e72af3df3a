"""The engine: a file in, pages out. It composes the rooms and adds no knowledge of its own.

photo → intake → ocr → vlm → Evidence → fuse → complete → domain → Page

`Engine.look` goes as far as the evidence, `Engine.decide` from there: evidence can be stored and decided on again.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from fusion import __version__
from fusion.complete import Completer, mark_gaps
from fusion.config import Config, LocalVlm, ServedVlm, load_config
from fusion.domain import languages, open_profile
from fusion.errors import ConfigError, FusionError, InputError, ReaderError
from fusion.fuse import Fuser, LineEvidence
from fusion.ink import Evidence, InkLine, PageImage, Seen, Weighed
from fusion.intake import Source, list_inputs, name_of, open_pages, turned
from fusion.ocr import OcrReader, squares
from fusion.page import Check, Failure, Finding, FindingKind, Line, Page, Reading, Span, Stage, lowest
from fusion.placement import place_spans, to_photo
from fusion.recall import Recall
from fusion.store import Store
from fusion.vlm import Answers, Look, Looks, Query, Reader, Writes, open_reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_WRITING = 20.0
"""Height of a line under which its writing is too small to be read well, px."""
TURNS = 2
"""Times that a page may be turned: one that is upside down, of characters in columns, first looks as if it lay on its side."""
NO_LINE: tuple[FindingKind, ...] = ("not_writing", "uncovered")
"""Kinds of failure of what the OCR found on a page and is no line."""
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

    Usable as a context manager, and from several threads at once.
    """

    def __init__(self, config: Config | None = None) -> None:
        """Open everything that the configuration names.

        Raises:
            ConfigError, DependencyError, ReaderError, InputError: something named there can't be used.
        """
        self.config = config if config is not None else load_config()
        self.clock: defaultdict[str, float] = defaultdict(float)
        """Seconds spent per stage since it was last cleared."""
        self._spoken = languages(self.config.fuse.languages)
        self._fuser = Fuser(self.config.fuse, self._spoken)
        self._languages = ", ".join(one.identity for one in self._spoken)
        self.profile = open_profile(self.config.domain)
        self._completer = Completer(self.config.complete, self.profile.forbids)
        self._closed = False
        with ExitStack() as opened:  # what is open is closed again when the rest can't be
            self._reader = open_reader(self.config.vlm)
            if self._reader is not None:
                opened.callback(self._reader.close)
            if self.config.complete.enabled and not isinstance(self._reader, Answers):
                raise ConfigError("complete.enabled", "needs a vision-language model that writes", WRITES)
            self._ocr = OcrReader(self.config.ocr)
            opened.callback(self._ocr.close)
            store, reader = Store(self.config.store.folder), identity_of(self._reader)
            self._recall = Recall(
                store, self.config, self._ocr.identity, reader, self.profile.identity, self._languages
            )
            opened.pop_all()

    @cached_property
    def identities(self) -> dict[str, str]:
        """What a page of this engine depends on: models, weights and lists by name and content, profile, settings."""
        return {
            "ocr": self._ocr.identity,
            "reader": identity_of(self._reader),
            "looked_for": self.profile.identity,
            "fusion": __version__,
            "config": self.config.hash[:12],
            "weights": self._fuser.identity,
            "lists": self.profile.identity,
            "languages": self._languages,
            "profile": self.config.domain.profile,
        }

    @property
    def recalled(self) -> int:
        """Records that the store has spared this engine to make."""
        return self._recall.store.found

    def read(
        self, source: Source, *, crop: bool = False, name: str | None = None, pages: range | None = None
    ) -> Iterator[Page]:
        """Pages of an image or a PDF, one after the other.

        Args:
            source: path, bytes of a file, PIL image, or uint8 array (H, W) or (H, W, 3) RGB.
            crop: the image is one word or one line, already cut out.
            name: what the pages are called; the path where there is one.
            pages: numbers of the pages to read, from 1; None: all.

        Raises:
            InputError: it can't be read; names it and the way out.
        """
        called = name if name is not None else name_of(source)
        called = called.encode("utf-8", "backslashreplace").decode()  # a file name may be no Unicode; a record must be
        images = open_pages(source, self.config.intake, crop=crop, name=called, pages=pages)
        while (image := self._timed("intake", lambda: _next(images, called))) is not None:
            yield self.read_page(image, name=called, crop=crop)

    def read_page(self, image: PageImage, *, name: str = "", crop: bool = False) -> Page:
        """One upright page: look at it, then decide. See `look` for the arguments."""
        return self.decide(self.look(image, name=name, crop=crop))

    def look(self, image: PageImage, *, name: str = "", crop: bool = False) -> Evidence:
        """What all readers see on one upright page; nothing is decided.

        Args:
            image: from `intake`.
            name: input name as the user gave it; recorded readings are found by it.
            crop: the page is one line.

        Raises:
            ValueError: the engine is closed.
        """
        if self._closed:
            raise ValueError("the engine is closed")
        failures: list[Failure] = []
        image, checks, found = self._upright(image, failures) if not crop else self._searched(image, crop, failures)
        seen, found = found, self._stage("ocr", lambda: self._joined(image, found), failures) or found
        joined = _joined_anew(seen, found)
        found, remarks = _lines_and_remarks(found, image.transform)
        lines = self._read_again(found, name or image.id, failures)
        return Evidence(
            id=image.id,
            sha256=image.sha256,
            width=image.width,
            height=image.height,
            angle=image.angle,
            transform=image.transform,
            findings=(*image.findings, *_small_writing(found), *joined, *remarks),
            checks=checks,
            lines=tuple(lines),
            failures=tuple(failures),
            identities={name: self.identities[name] for name in ("ocr", "reader", "looked_for")},
        )

    def decide(self, evidence: Evidence) -> Page:
        """Decide a page from evidence, under this engine's weights, lists and profile.

        The OCR is not run, and the second reader only to complete gaps (`complete.enabled`).
        """
        failures = list(evidence.failures)
        texts = ["", *(_text(seen) for seen in evidence.lines), ""]
        lines = [
            self._line(seen, order, (texts[order], texts[order + 2]), evidence.transform)
            for order, seen in enumerate(evidence.lines)
        ]
        page = Page(
            id=evidence.id,
            image_sha256=evidence.sha256,
            width=evidence.width,
            height=evidence.height,
            angle=evidence.angle,
            lines=tuple(lines),
            findings=evidence.findings,
            failures=tuple(failures),
            checks=evidence.checks,
            max_error=self._fuser.limit(self.config.review.max_error),
            identities={**self.identities, **evidence.identities},
        )
        understood = self._stage("domain", lambda: self.profile.understand(page), failures)
        return understood or replace(page, failures=tuple(failures))

    def understand(self, page: Page) -> Page:
        """The page with the profile's records and checks made anew, after `Page.edit` say."""
        return self.profile.understand(page)

    def ask(self, source: Source, question: str, *, number: int = 1, page: Page | None = None) -> tuple[str, Page]:
        """Answer a question from one page's image and transcript, citing lines by id.

        Args:
            source: as for `read`.
            question: in any words.
            number: of the page, from 1.
            page: what was read on it, with corrections perhaps; None: it is read.

        Raises:
            ConfigError: no second reader that answers is configured.
            InputError: the source can't be read, or has no such page.
            ReaderError: it did not answer.
        """
        require_answers(self.config, self._reader)
        assert isinstance(self._reader, Answers)
        called = name_of(source)
        only = range(number, number + 1)
        image = _next(open_pages(source, self.config.intake, name=called, pages=only), called)
        if image is None:
            raise InputError(called, f"has no page {number}", "Ask about one of its pages.")
        page = page or self.read_page(image, name=called)
        if quarters := round(page.angle / 90) % 4:  # the model sees the page as it was read
            image = turned(image, quarters, self.config.intake)
        transcript = "\n".join(f"[{line.id}] {line.marked}" for line in page.lines)
        head, _, tail = ASK.partition("{transcript}")  # the page may hold braces of its own
        answer = self._reader.ask(image.pixels, head + transcript + tail.replace("{question}", question))
        if isinstance(answer, Failure):
            raise ReaderError("ask", answer.message, "`fusion doctor` shows whether the endpoint answers.")
        return answer.text.strip(), page

    def close(self) -> None:
        """Give back models and connections; after that nothing can be looked at."""
        self._closed = True
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
            spent = time.perf_counter() - start
            self.clock[stage] += spent
            _log.debug("%s took %.3f s", stage, spent)

    def _searched(
        self, photo: PageImage, crop: bool, failures: list[Failure]
    ) -> tuple[PageImage, tuple[Check, ...], tuple[Seen, ...]]:
        """The page as the profile prepares it, what it remarks, and the OCR's lines."""
        image, checks = self._stage("domain", lambda: self.profile.prepare(photo), failures) or (photo, ())
        return image, checks, self._stage("ocr", lambda: self._found(image, crop), failures) or ()

    def _upright(
        self, photo: PageImage, failures: list[Failure]
    ) -> tuple[PageImage, tuple[Check, ...], tuple[Seen, ...]]:
        """The page the way up that its lines show, what the profile remarks on it, and the OCR's lines."""
        way, tried = 0, set[int]()
        while True:
            failed: list[Failure] = []
            image = turned(photo, way, self.config.intake) if way else photo
            image, checks, found = self._searched(image, False, failed)
            tried.add(way)
            turns = self._stage("ocr", partial(self._turns, image, found), failed) if len(tried) <= TURNS else 0
            if not turns or (way + turns) % 4 in tried:
                failures += failed
                return image, checks, found
            way = (way + turns) % 4

    def _turns(self, image: PageImage, found: Sequence[Seen]) -> int:
        """Quarter turns that put a page upright."""
        written, _ = _lines_and_remarks(found, image.transform)
        return self._recall.turns(image, lambda: self._ocr.turns(image, [seen.line for seen in written]))

    def _joined(self, image: PageImage, found: tuple[Seen, ...]) -> tuple[Seen, ...]:
        """The lines of a page, with characters that stand apart joined."""
        lines = [seen.line for seen in found]
        if not self._spoken or not squares.layouts(lines):
            return found
        return self._recall.joined(image, lambda: _unasked(self._ocr.joined(image, lines, self._spoken)))

    def _found(self, image: PageImage, crop: bool) -> tuple[Seen, ...]:
        """The OCR's lines."""
        return self._recall.lines(image, crop, lambda: _unasked(self._ocr.read(image, crop=crop)))

    def _read_again(self, found: Sequence[Seen], name: str, failures: list[Failure]) -> list[Seen]:
        """The lines with what the second reader says of those that it is asked about."""
        if self._reader is None or not found:
            return list(found)
        texts = ["", *(_text(seen) for seen in found), ""]
        queries = [
            Query(name, seen.line, texts[n], texts[n + 2], self.profile.instructions(texts[n + 1]))
            for n, seen in enumerate(found)
        ]
        spared = self._spared(found)
        asked = [n for n in range(len(found)) if n not in spared]
        written: Mapping[int, tuple[Reading | Failure, ...]] = {}
        if isinstance(self._reader, Writes):
            writer = self._reader
            answers = self._stage("vlm", lambda: writer.read([queries[n] for n in asked]), failures)
            lost: tuple[Reading | Failure, ...] = (Failure("vlm", "crash", "the second reader failed on this page"),)
            written = dict(zip(asked, answers if answers is not None else [lost] * len(asked), strict=True))
        return [
            replace(seen, answers=(spared[n],)) if n in spared else self._read_line(queries[n], written.get(n, ()))
            for n, seen in enumerate(found)
        ]

    def _read_line(self, query: Query, written: tuple[Reading | Failure, ...]) -> Seen:
        """One line with what the second reader wrote, its look, and its decoder's scores of the hypotheses."""
        failures: list[Failure] = []
        plain = Seen(query.line, True, written)
        if not isinstance(self._reader, Looks) or query.line.ink is None:
            return plain
        looker = self._reader

        def looked() -> Seen:
            look = looker.look(query)
            if isinstance(look, Failure):
                return Seen(query.line, True, (*written, look))
            reading = (look.reading,) if look.reading is not None else ()
            seen = Seen(query.line, True, (*written, *reading), look.ink)
            wanted = self._wanted_texts(seen)
            return replace(seen, scores=dict(zip(wanted, look.score(wanted), strict=True))) if wanted else seen

        made = self._stage("vlm", lambda: self._recall.look(query.line, written, looked), failures)
        return made or replace(plain, answers=(*written, *failures))

    def _wanted_texts(self, seen: Seen) -> list[str]:
        """The hypotheses that the decoder is asked about; none where the second reader has read nothing."""
        line = seen.line
        if line.reading is None or line.ink is None or not seen.readings:
            return []
        return self._fuser.shortlist(self._evidence(seen))

    def _evidence(self, seen: Seen) -> LineEvidence:
        """A line as the fusion takes it; it has been read and looked at."""
        line = seen.line
        assert line.reading is not None
        assert line.ink is not None
        look = seen.look if seen.readings else None
        expected = self.profile.prior
        return LineEvidence(
            line.reading, line.ink, seen.readings, expected, seen.scores, look, line.hand, line.hand_ink
        )

    def _weighed(self, line: LineEvidence) -> Weighed:
        """What the experts make of a line."""
        return self._recall.weighed(line, lambda: self._fuser.weigh(line))

    def _spared(self, found: Sequence[Seen]) -> dict[int, Failure]:
        """The lines that are not read again, as `vlm.ask` says, by their numbers, and why."""
        ask = getattr(self.config.vlm, "ask", "all")
        if ask == "none":
            return dict.fromkeys(range(len(found)), Failure("vlm", "not_asked", "nobody is asked about lines"))
        inks = {n: seen.line.ink for n, seen in enumerate(found) if ask != "all"}
        sure = [n for n, ink in inks.items() if ink is not None and not self._fuser.doubtful(ink)]
        spared = dict.fromkeys(sure, Failure("vlm", "not_needed", "the OCR is sure of this line"))
        if isinstance(self.config.vlm, ServedVlm | LocalVlm) and ask == "budget":
            doubts = {n: self.sureness(seen.line) for n, seen in enumerate(found) if n not in spared}
            beyond = over_budget(doubts, self.config.vlm.budget * len(found))
            spared |= dict.fromkeys(beyond, Failure("vlm", "not_asked", "other lines need it more (vlm.budget)"))
        return spared

    def sureness(self, line: InkLine) -> float:
        """How sure the OCR alone is of what it reads, in [0, 1]: the confidence of the least sure stretch."""
        if line.reading is None or line.ink is None:
            return 0.0

        def alone() -> tuple[Span, ...]:
            evidence = self._evidence(Seen(line))
            return self._fuser.fuse(evidence, self._weighed(evidence))[0]

        return lowest(span.confidence for span in self._stage("fuse", alone, []) or ()) or 0.0

    def _line(self, seen: Seen, order: int, around: tuple[str, str], transform: NDArray[np.float64]) -> Line:
        line = seen.line
        failures = [*line.failures, *(answer for answer in seen.answers if isinstance(answer, Failure))]
        polygon = to_photo(line.polygon, transform)
        readings = (*(one for one in (line.reading, line.hand) if one is not None), *seen.readings)

        def decided() -> Line:
            spans = self._spans(seen, around, failures)
            placed = place_spans(line, spans, transform)
            width = line.crop.shape[1]
            return Line(line.id, polygon, order, readings, placed, tuple(failures), line.region, line.printed, width)

        # Built behind the stage door: a decision that breaks, or a line that its own invariants refuse, loses no page.
        made = self._stage("fuse", decided, failures)
        return made or Line(line.id, polygon, order, readings, _verbatim(line.reading), tuple(failures), line.region)

    def _spans(self, seen: Seen, around: tuple[str, str], failures: list[Failure]) -> tuple[Span, ...]:
        line, others = seen.line, seen.readings
        if line.reading is None or line.ink is None:
            return ()
        read = self._evidence(seen)
        decided, missing = self._fuser.fuse(read, self._weighed(read))
        if not seen.answers:  # an asked reader that failed has already said so
            failures += missing
        spans = self._stage("domain", lambda: self.profile.mark(line, mark_gaps(line, decided, others)), failures)
        spans = spans if spans is not None else mark_gaps(line, decided, others)
        if self.config.complete.enabled and any(span.source == "gap" for span in spans):
            return self._stage("complete", lambda: self._complete(line, spans, around, failures), failures) or spans
        return spans

    def _complete(
        self, line: InkLine, spans: tuple[Span, ...], around: tuple[str, str], failures: list[Failure]
    ) -> tuple[Span, ...]:
        assert isinstance(self._reader, Answers)
        reader = self._reader

        def score(texts: Sequence[str]) -> list[float] | None:
            look = reader.look(Query("", line)) if isinstance(reader, Looks) else None
            return look.score(texts) if isinstance(look, Look) else None

        completed, missing = self._completer.complete(line, spans, *around, reader.ask, score)
        failures += missing
        return completed


def identity_of(reader: Reader | None) -> str:
    """What a reader's looks depend on; "" for none."""
    return str(getattr(reader, "identity", "")) or (reader.name if reader is not None else "")


def over_budget(confidences: Mapping[int, float], budget: float) -> list[int]:
    """The lines of a page that a budget does not reach, by their numbers: the surest.

    Args:
        confidences: of the OCR alone, for each line that may be read again.
        budget: lines to be read again; where that is no whole number, one more is if its confidence is under the rest. So a
            crop, a page of one line, is read again where its confidence is under `vlm.budget`.

    >>> over_budget({0: 0.9, 1: 0.2, 2: 0.3, 3: 0.6}, 2.4), over_budget({0: 0.3}, 0.4)
    ([3, 0], [])
    """
    ranked = sorted(confidences, key=lambda n: confidences[n])
    whole = int(budget)
    if whole < len(ranked) and confidences[ranked[whole]] < budget - whole:
        whole += 1
    return ranked[whole:]


def require_answers(config: Config, reader: Reader | None = None) -> None:
    """ConfigError where no configured reader answers questions; without a reader, judged by the configuration alone."""
    kind = config.vlm.engine
    small = isinstance(config.vlm, LocalVlm) and config.vlm.model == "small"
    if kind in ("none", "replay") or small or (reader is not None and not isinstance(reader, Answers)):
        raise ConfigError("ask", "needs a vision-language model that writes and none is configured", WRITES)


def _small_writing(found: Sequence[Seen]) -> tuple[Finding, ...]:
    """A finding where the median line is so low that letters run together."""
    heights = [seen.line.crop.shape[0] for seen in found if seen.line.reading is not None]
    if not heights or (height := float(median(heights))) >= SMALL_WRITING:
        return ()
    message = f"the writing is only {height:.0f} px high; hold the camera closer or scan at a higher resolution"
    return (Finding("small_writing", height, SMALL_WRITING, message),)


def _joined_anew(before: Sequence[Seen], after: Sequence[Seen]) -> tuple[Finding, ...]:
    """A finding where characters that stand apart were joined to other lines than the detector had found."""
    there, here = ({seen.line.polygon for seen in found} for found in (before, after))
    if there == here:
        return ()
    lost, new = len(there - here), len(here - there)
    message = f"characters that stand apart were joined into {new} lines, since they make more words so; the detector had {lost}"
    return (Finding("joined", 0.0, 0.0, message),)


def _lines_and_remarks(
    found: Sequence[Seen], transform: NDArray[np.float64]
) -> tuple[tuple[Seen, ...], tuple[Finding, ...]]:
    """The lines, and a finding for each place where ink was found that is no line."""
    lines, remarks = [], []
    for seen in found:
        kinds = {failure.kind: failure for failure in seen.line.failures}
        kind: FindingKind | None = next((one for one in NO_LINE if one in kinds), None)
        if kind is None:
            lines.append(seen)
        else:
            remarks.append(Finding(kind, 0.0, 0.0, kinds[kind].message, to_photo(seen.line.polygon, transform)))
    return tuple(lines), tuple(remarks)


def _unasked(lines: Sequence[InkLine]) -> tuple[Seen, ...]:
    """Lines that no second reader has seen yet."""
    return tuple(map(Seen, lines))


def _text(seen: Seen) -> str:
    return seen.line.reading.text if seen.line.reading is not None else ""


def _next(images: Iterator[PageImage], path: str) -> PageImage | None:
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


def photographs(source: Source, config: Config, pages: range | None = None) -> Iterator[NDArray[np.uint8]]:
    """The pages of an input as displayed, neither straightened nor turned: what `Page` geometry refers to.

    `pages`: numbers of those that are wanted, from 1; None: all.

    Yields:
        uint8 (H, W, 3), RGB.
    """
    as_displayed = config.intake.model_copy(update={"deskew": False, "rectify": False})
    return (image.photo for image in open_pages(source, as_displayed, pages=pages))


_kept: dict[str, Engine] = {}
"""The engine of the last configuration, by its JSON: models are loaded once for many calls."""


def _engine(config: Config) -> Engine:
    settings = config.model_dump_json()
    if settings not in _kept:
        for old in _kept.values():
            old.close()
        _kept.clear()
        _kept[settings] = Engine(config)
    return _kept[settings]


def transcribe(
    source: Source | list[Source] | tuple[Source, ...],
    config: Config | str | Path | None = None,
    *,
    profile: str | None = None,
    crop: bool = False,
) -> list[Page]:
    """Read images, PDFs or folders. Models stay loaded for the next call with the same configuration.

    Args:
        source: path of a file or folder, bytes of a file, PIL image, uint8 array (H, W) or (H, W, 3) RGB, or several.
        config: configuration, its file, or the name of one that ships; None: the defaults, which need no network and no
            GPU.
        profile: what the pages are, such as `prescription`; None: as the configuration says.
        crop: each image is one word or one line.

    Raises:
        InputError: an input can't be read; names it and the way out.
        ConfigError, DependencyError, ReaderError: the configuration can't be used.
    """
    loaded = load_config(config, [f"domain.profile={profile}"] if profile is not None else [])
    engine = _engine(loaded)
    sources = source if isinstance(source, list | tuple) else [source]
    pages: list[Page] = []
    for number, one in enumerate(sources, 1):
        if isinstance(one, str | Path):
            pages += [page for file in list_inputs([one]) for page in engine.read(file, crop=crop)]
        else:
            name = f"image {number}" if len(sources) > 1 else None
            pages += engine.read(one, crop=crop, name=name)
    return pages
