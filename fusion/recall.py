"""Stages of the engine whose results are kept: what each depends on, and so under which key the store has it.

A setting, a model, a list or a file of code that a result depends on is part of its key, and nothing else is: another
fusion weight, say, runs no reader again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fusion.config import Config
from fusion.errors import InputError
from fusion.fuse import LineEvidence
from fusion.ink import InkLine, PageImage, Seen, Weighed, image_sha256
from fusion.page import UNASKED, Failure, Reading
from fusion.store import Store, code_sha256, dump_lines, dump_weighed, ink_sha256, key_of, load_lines, load_weighed

LOOKING = ("ocr", "ctc.py", "view.py", "onnx.py")
"""Code that finds and reads lines."""
WEIGHING = ("fuse", "domain", "ctc.py", "quantities.py")
"""Code that makes hypotheses and says what experts make of them."""


@dataclass(frozen=True)
class Recall:
    """The results of the stages, from the store where it has them.

    Attributes:
        store: where they are kept.
        config: of the engine.
        ocr, reader, lists, languages: identities of what reads, and of what is expected.
    """

    store: Store
    config: Config
    ocr: str
    reader: str
    lists: str
    languages: str

    def lines(self, image: PageImage, crop: bool, make: Callable[[], tuple[Seen, ...]]) -> tuple[Seen, ...]:
        """The OCR's lines on a page."""
        key = key_of(stage="ocr", pixels=image_sha256(image.pixels), crop=crop, **self._made_by)
        return self.store.recall(key, load_lines, make, dump_lines)

    def turns(self, image: PageImage, make: Callable[[], int]) -> int:
        """Quarter turns that put a page upright."""
        key = key_of(stage="turns", pixels=image_sha256(image.pixels), **self._made_by)
        return self.store.recall(key, _load_turns, make, lambda made: str(made).encode())

    def joined(self, image: PageImage, make: Callable[[], tuple[Seen, ...]]) -> tuple[Seen, ...]:
        """The lines of a page whose characters were joined anew."""
        code = code_sha256("domain")
        pixels = image_sha256(image.pixels)
        key = key_of(stage="joined", pixels=pixels, languages=self.languages, code=code, **self._made_by)
        return self.store.recall(key, load_lines, make, dump_lines)

    def look(self, line: InkLine, written: tuple[Reading | Failure, ...], make: Callable[[], Seen]) -> Seen:
        """A second reader's look at a line. What was written has a cache of its own: `vlm.cache`."""
        reading = line.reading
        key = key_of(
            stage="look",
            crop=image_sha256(line.crop),
            text=reading.text if reading is not None else None,
            written=[one.text if isinstance(one, Reading) else one.kind for one in written],
            reader=self.reader,
            lists=self.lists,
            hypotheses=self.config.fuse.hypotheses,
            languages=self.languages,
            code=code_sha256(*WEIGHING, "vlm", "engine.py"),
            **self._made_by,
        )
        (seen,) = self.store.recall(key, load_lines, lambda: (make(),), _dump_look, lambda made: _lasts(made[0]))
        return replace(seen, line=line, answers=(*written, *seen.answers[len(written) :]))

    def weighed(self, line: LineEvidence, make: Callable[[], Weighed]) -> Weighed:
        """What the experts make of a line: the fitted weights change nothing of it."""
        try:
            inks = [ink_sha256(ink) for ink in (line.ink, line.hand_ink, line.posterior)] if self.store.keeps else None
        except ValueError:  # the look of a plug-in has no form to be stored in
            inks = None
        if inks is None:
            return make()
        key = key_of(
            stage="weighed",
            inks=inks,
            readings=[line.ocr.text, line.hand.text if line.hand is not None else None],
            answers=[one.text for one in line.others],
            scores=line.scores,
            lists=self.lists,
            hypotheses=self.config.fuse.hypotheses,
            languages=self.languages,
            code=code_sha256(*WEIGHING),
        )
        return self.store.recall(key, load_weighed, make, dump_weighed)

    @cached_property
    def _made_by(self) -> dict[str, object]:
        """What the OCR's readings depend on; threads and device change none."""
        settings = self.config.ocr.model_dump(mode="json", exclude={"threads", "device"})
        return {"ocr": self.ocr, "ocr_settings": settings, "ocr_code": code_sha256(*LOOKING)}


def _load_turns(content: bytes) -> int:
    if content not in (b"0", b"1", b"2", b"3"):
        raise InputError("turns", "is no number of quarter turns", "Delete the store.")
    return int(content)


def _lasts(seen: Seen) -> bool:
    """Whether a look would be the same again: a failure may have been a hiccup."""
    return all(isinstance(answer, Reading) or answer.kind in UNASKED for answer in seen.answers)


def _dump_look(made: Sequence[Seen]) -> bytes:
    """A look as a record, without its line's own pictures and looks: those are in the OCR's record."""
    bare = (replace(seen.line, crop=seen.line.crop[:1, :1], ink=None, hand_ink=None) for seen in made)
    return dump_lines([replace(seen, line=line) for seen, line in zip(made, bare, strict=True)])
