"""Probes: what the engine does where a reader is wrong, or where there is nothing to read.

Each probe is a question with a count: of `n` lines, on how many did it happen? The engine, its OCR and its small reader are
the real ones; a reader that writes is played by `Writer`, whose answers pass the same examination as a real one's. The
material is synthetic: the lines of `eval/samples`, and paper that is drawn here. Intervals are Wilson's ("Probable
inference", 1927) at 95 %.

    no writing    blank, noisy, ruled and see-through paper; the second reader writes what the context suggests
    wrong hint    the second reader is told, and a writing one repeats, another word, digit or character than the OCR's
    echo          a second reader that repeats the OCR says nothing: may not make anything surer
    blind         what the small reader changes when it is shown blank paper
    shuffled      the second reader reads another line's crop
    fault         loops, refusals and descriptions in place of a reading
    turned        pages that lie on their side or stand on their head
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from eval.samples.make import Array, Desk, press, smooth
from fusion.ctc import fold
from fusion.engine import Engine
from fusion.ink import Evidence, Seen, image_sha256
from fusion.intake import open_pages
from fusion.page import GAP, Failure, Line, Reading, Recipe, is_ideograph
from fusion.review import review
from fusion.vlm import Answer, Look, Looks, Query
from fusion.vlm.acceptance import examine

SAMPLES = Path(__file__).parent / "samples"
PAGES = (
    "prescription.jpg",
    "homework_zh.jpg",
    "note_zh.jpg",
    "letter_en_skewed.jpg",
    "two_columns.png",
    "prescription_zh.jpg",
)
SETTINGS = ("domain.profile=prescription", "vlm.ask=all")
"""Names are expected, and the small reader looks at every line."""
PAPERS = ("blank", "noise", "ruled", "see-through")
CONTEXT = ("1. Amoxicillin 500 mg", "Paracetamol 500 mg", "1 tab tid x 7 days")
"""The line before, what a reader that follows the context would write, and the line after."""
FAULTS: dict[str, Callable[[Query], str]] = {
    "repetition": lambda query: (query.ocr_text.split(" ")[0] + " ") * 40,
    "refusal": lambda query: "I'm sorry, but I can't read the handwriting in this image.",
    "description": lambda query: f"The image shows a handwritten text that says {query.ocr_text}",
    "neighbouring line": lambda query: query.after or query.before,
    "nothing": lambda query: "",
    "thoughts": lambda query: f"<think>It may be {query.ocr_text[::-1]}.",
}
"""What a broken reader writes."""
WRONG = {"words": ("Ibuprofen", "garden", "daily", "friend"), "characters": "天地人山水火"}
ALIKE = 0.9
"""Least likeness of a turned page's text to the upright one's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How often something happened that should not: on `count` of `n` lines or pages."""

    probe: str
    question: str
    count: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson 1927), in [0, 1]."""
        return wilson(self.count, self.n)


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share: `count` of `n`, `z` deviations either way.

    >>> [round(end, 3) for end in wilson(0, 100)]
    [0.0, 0.037]
    """
    if n == 0:
        return 0.0, 1.0
    share, middle = count / n, (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * share * (1 - share) + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


# --- readers that are wrong -------------------------------------------------------------------------------------------


class Writer:
    """A second reader that writes what it is made to say, through the examination that every written answer passes."""

    name = "probe"

    def __init__(self, say: Callable[[Query], str]) -> None:
        """`say`: a query's answer."""
        self._say = say

    def answer(self, query: Query) -> Reading | Failure:
        """The reading that the engine would be given."""
        text = examine(Answer(self._say(query)), query, "Transcribe this line.")
        if not isinstance(text, str):
            return Failure("vlm", text.symptom, text.message)
        return Reading("vlm", text, Recipe("probe", "1", "probe", image_sha256(query.line.crop)), raw=text)


def told(evidence: Evidence, say: Callable[[Query], str], around: tuple[str, str] | None = None) -> Evidence:
    """The page as a second reader would have left it that says this, `around` the line being read, or its neighbours."""
    texts = ["", *(_read(seen) for seen in evidence.lines), ""]
    lines = []
    for n, seen in enumerate(evidence.lines):
        before, after = around or (texts[n], texts[n + 2])
        lines.append(Seen(seen.line, True, (Writer(say).answer(Query(evidence.id, seen.line, before, after)),)))
    return replace(evidence, lines=tuple(lines))


def looked(engine: Engine, evidence: Evidence, crops: Sequence[NDArray[np.uint8]]) -> Evidence:
    """The page as the engine's small reader would have left it, had it been shown these crops for the lines."""
    reader = engine._reader
    assert isinstance(reader, Looks)
    lines = []
    for seen, crop in zip(evidence.lines, crops, strict=True):
        look = reader.look(Query(evidence.id, replace(seen.line, crop=crop)))
        if isinstance(look, Look) and look.reading is not None and seen.line.ink is not None:
            seen = Seen(seen.line, True, (look.reading,), look.ink)
            wanted = engine._wanted_texts(seen)
            seen = replace(seen, scores=dict(zip(wanted, look.score(wanted), strict=True)))
        lines.append(seen)
    return replace(evidence, lines=tuple(lines))


def _read(seen: Seen) -> str:
    return seen.line.reading.text if seen.line.reading is not None else ""


def alone(evidence: Evidence) -> Evidence:
    """The page without a second reader."""
    return replace(evidence, lines=tuple(Seen(seen.line) for seen in evidence.lines))


# --- material ---------------------------------------------------------------------------------------------------------


def evidences(engine: Engine, names: Sequence[str]) -> list[Evidence]:
    """What all readers see on pages of `eval/samples`."""
    pages = [next(iter(open_pages(SAMPLES / name, engine.config.intake, name=name))) for name in names]
    return [engine.look(page, name=name) for page, name in zip(pages, names, strict=True)]


def paper(kind: str, number: int, written: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop without writing, uint8 (96, 520, 3); `written` is what shows through from the other side."""
    desk = Desk(SAMPLES, np.random.default_rng([20261126, number, PAPERS.index(kind)]))
    page: Array = desk.paper(96, 520, (0.95, 0.95, 0.92))
    if kind == "ruled":
        desk.rule(page, int(desk.rng.integers(8, 48)), int(desk.rng.integers(28, 60)))
    if kind == "noise":
        page = page + desk.rng.normal(0, float(desk.rng.uniform(0.05, 0.25)), page.shape).astype(np.float32)
    if kind == "see-through":
        grey = cv2.resize(cv2.cvtColor(written, cv2.COLOR_RGB2GRAY)[:, ::-1], (520, 96)).astype(np.float32) / 255
        ink = np.clip(np.percentile(grey, 85) - grey, 0, 1).astype(np.float32)
        press(page, smooth(ink, 2.0) * float(desk.rng.uniform(0.1, 0.3)), (0.3, 0.3, 0.4), 0, 0)
    return np.asarray((desk.expose(page, 0.7, 0.012, 0.14) * 255).round(), dtype=np.uint8)


def wrong_hint(text: str, rng: random.Random) -> str:
    """A text with one digit, one Chinese character or one word replaced by another."""
    places = [n for n, c in enumerate(text) if c.isdigit() or is_ideograph(c)]
    words = [word for word in text.split(" ") if word.isalpha() and word.isascii()]
    if places and (not words or rng.random() < 0.5):
        n = rng.choice(places)
        others = "0123456789" if text[n].isdigit() else WRONG["characters"]
        return text[:n] + rng.choice([c for c in others if c != text[n]]) + text[n + 1 :]
    if not words:
        return text
    return text.replace(rng.choice(words), rng.choice(WRONG["words"]), 1)


# --- probes -----------------------------------------------------------------------------------------------------------


def no_writing(engine: Engine, seen: Sequence[Evidence], each: int, kinds: Sequence[str] = PAPERS) -> Iterator[Finding]:
    """Paper without writing: characters invented by the engine as it is, and with a reader that follows the context."""
    crops = [one.line.crop for evidence in seen for one in evidence.lines]
    for kind in kinds:
        found = [_crop(engine, paper(kind, n, crops[n % len(crops)])) for n in range(each)]
        invented = sum(_inked(engine.decide(one).diplomatic) > 0 for one in found)
        yield Finding("no writing", f"{kind}: something is read", invented, each)
        wanted = [engine.decide(told(one, lambda query: CONTEXT[1], (CONTEXT[0], CONTEXT[2]))) for one in found]
        followed = sum(fold(CONTEXT[1]) in fold(page.diplomatic) for page in wanted)
        yield Finding("no writing", f"{kind}: what a reader takes from the context is believed", followed, each)


def wrong_hints(engine: Engine, seen: Sequence[Evidence], rounds: int) -> Iterator[Finding]:
    """Another word, digit or character than the OCR's: who follows it, and whether that goes without review."""
    small = followed = silent = n = 0
    reader = engine._reader
    for number, evidence in enumerate(seen):
        before = engine.decide(alone(evidence))
        for turn in range(rounds):
            rng = random.Random(f"{number} {turn}")
            hints = {one.line.id: wrong_hint(_read(one), rng) for one in evidence.lines}
            page = engine.decide(told(evidence, lambda query, hints=hints: hints[query.line.id]))  # type: ignore[misc]
            unsure = {line for _, line in review(page, page.max_error).lines}
            for one, own, line in zip(evidence.lines, before.lines, page.lines, strict=True):
                hint = hints[one.line.id]
                if one.line.reading is None or hint == _read(one):
                    continue
                n += 1
                if turn == 0 and isinstance(reader, Looks):
                    small += _changes(reader, one, hint)
                if _follows(line, own, hint):
                    followed += 1
                    silent += line.id not in unsure
    yield Finding("wrong hint", "the small reader, told it, reads otherwise", small, n // rounds)
    yield Finding("wrong hint", "a writing reader repeats it, and it is decided", followed, n)
    yield Finding("wrong hint", "likewise, and nobody is asked to look", silent, n)


def echo(engine: Engine, seen: Sequence[Evidence]) -> Iterator[Finding]:
    """A reader that repeats what the OCR reads: does the text change, does anything become surer?"""
    changed = surer = n = 0
    for evidence in seen:
        before, after = (engine.decide(one) for one in (alone(evidence), told(evidence, lambda query: query.ocr_text)))
        for own, line in zip(before.lines, after.lines, strict=True):
            n += 1
            changed += own.diplomatic != line.diplomatic
            surer += (line.confidence or 0.0) > (own.confidence or 0.0) + 1e-9
    yield Finding("echo", "the text changes", changed, n)
    yield Finding("echo", "the line becomes surer", surer, n)


def elsewhere(engine: Engine, seen: Sequence[Evidence]) -> Iterator[Finding]:
    """The second reader is shown blank paper, or another line's crop; a writing one reads another line."""
    blind = shuffled = written = n = 0
    for evidence in seen:
        before = engine.decide(alone(evidence))
        crops = [one.line.crop for one in evidence.lines]
        texts = [_read(one) for one in evidence.lines]
        others = {one.line.id: text for one, text in zip(evidence.lines, texts[1:] + texts[:1], strict=True)}
        white = engine.decide(looked(engine, evidence, [np.full_like(crop, 255) for crop in crops]))
        moved = engine.decide(looked(engine, evidence, crops[1:] + crops[:1]))
        read = engine.decide(told(evidence, lambda query, others=others: others[query.line.id]))  # type: ignore[misc]
        for own, a, b, c in zip(before.lines, white.lines, moved.lines, read.lines, strict=True):
            if others[own.id] == own.text:
                continue
            n += 1
            blind += own.diplomatic != a.diplomatic
            shuffled += _follows(b, own, others[own.id])
            written += _follows(c, own, others[own.id])
    yield Finding("blind", "the small reader, shown blank paper, changes the text", blind, n)
    yield Finding("shuffled", "the small reader's look at another line is believed", shuffled, n)
    yield Finding("shuffled", "a writing reader's reading of another line is believed", written, n)


def faults(engine: Engine, seen: Sequence[Evidence]) -> Iterator[Finding]:
    """Broken answers: does any of them change what is read?"""
    for name, fault in FAULTS.items():
        changed = n = 0
        for evidence in seen:
            before = engine.decide(alone(evidence))
            after = engine.decide(told(evidence, fault))
            n += len(before.lines)
            changed += sum(a.diplomatic != b.diplomatic for a, b in zip(before.lines, after.lines, strict=True))
        yield Finding("fault", f"{name}: the text changes", changed, n)


def turned(engine: Engine, names: Sequence[str]) -> Iterator[Finding]:
    """Pages turned by quarters: the text is the upright page's, and so is the order of its lines."""
    lost = moved = n = 0
    for name in names:
        pixels = next(iter(open_pages(SAMPLES / name, engine.config.intake))).photo
        upright = _text(engine, pixels)
        for quarters in (1, 2, 3):
            n += 1
            text = _text(engine, np.rot90(pixels, quarters).copy())
            pairs = [("\n".join(sorted(one.split("\n"))) for one in (upright, text)), (upright, text)]
            alike, ordered = (Levenshtein.normalized_similarity(*pair) >= ALIKE for pair in pairs)
            lost += not alike
            moved += alike and not ordered
    yield Finding("turned", f"less than {ALIKE:.0%} of the upright page's text, order aside", lost, n)
    yield Finding("turned", "all of it, in another order", moved, n)


def _text(engine: Engine, pixels: NDArray[np.uint8]) -> str:
    return "\n".join(page.diplomatic for page in engine.read(pixels))


def _crop(engine: Engine, pixels: NDArray[np.uint8]) -> Evidence:
    return engine.look(next(iter(open_pages(pixels, engine.config.intake, crop=True))), crop=True)


def _inked(text: str) -> int:
    return sum(not c.isspace() and c != GAP for c in text)


def _changes(reader: Looks, one: Seen, hint: str) -> bool:
    """Whether a reader that looks reads otherwise when the OCR's reading is another one."""
    assert one.line.reading is not None
    said = replace(one.line, reading=replace(one.line.reading, text=hint, positions=()))
    texts = [
        look.reading for look in map(reader.look, (Query("", one.line), Query("", said))) if isinstance(look, Look)
    ]
    return len({reading.text for reading in texts if reading is not None}) > 1


def _follows(line: Line, own: Line, hint: str) -> bool:
    """Whether a decided line is more like a hint than like what the line would have been by itself."""
    a, b = (Levenshtein.distance(fold(line.diplomatic), fold(text)) for text in (hint, own.diplomatic))
    return a < b


def all_probes(
    engine: Engine, names: Sequence[str], each: int, rounds: int, progress: Callable[[str], None]
) -> Iterator[Finding]:
    """Every probe but the over-correction, on some of the samples."""
    seen = evidences(engine, names)
    probes = (
        no_writing(engine, seen, each),
        wrong_hints(engine, seen, rounds),
        echo(engine, seen),
        elsewhere(engine, seen),
        faults(engine, seen),
        turned(engine, names),
    )
    for finding in (one for probe in probes for one in probe):
        progress(f"{finding.probe}: {finding.question}: {finding.count} of {finding.n}")
        yield finding


def table(found: Sequence[Finding]) -> str:
    """Findings as a Markdown table."""
    rows = ["| probe | what should not happen | happened | share |", "|---|---|---|---|"]
    for one in found:
        low, high = one.interval
        share = one.count / one.n if one.n else 0.0
        rows.append(f"| {one.probe} | {one.question} | {one.count} of {one.n} | {share:.3f} [{low:.3f}, {high:.3f}] |")
    return "\n".join(rows)
