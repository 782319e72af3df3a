"""The two profiles: which doors they open, and what stands behind each.

Knows the parts of this room and puts them together; holds no rule of its own but what may never be supplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import regex

from fusion.config import DomainConfig
from fusion.domain import Profile, homework, prescription, sig
from fusion.domain.formulary import drug_names, packaged, read_names
from fusion.domain.lexicon import Lexicon

if TYPE_CHECKING:
    from fusion.ink import InkLine, PageImage
    from fusion.page import Check, Page, Span

_HAN = regex.compile(r"\p{Han}")
_COUNTED = regex.compile(r"\p{N}|[零〇一二两三四五六七八九十百千半]")
_TOKEN = regex.compile(r"[\p{L}\p{N}]+")

PRESCRIPTION = {
    "en": "This is a line of a doctor's prescription: drug names, strengths, doses, routes and frequencies. Copy every "
    "digit, unit and point exactly as drawn; do not complete, correct or convert anything.",
    "zh": "这是医生处方中的一行：药名、规格、剂量、给药途径和频次。数字、单位和小数点必须与笔迹完全一致；不要补全、更正或换算任何内容。",
}
HOMEWORK = {
    "en": "This is a line of a pupil's homework. Copy it literally, with every spelling mistake and every wrong sum as it "
    "stands; do not solve or correct anything.",
    "zh": "这是学生作业中的一行。请逐字照录，错别字和算错的得数都照原样写；不要解题，不要更正。",
}


def _spoken(texts: dict[str, str], text: str) -> str:
    return texts["zh" if _HAN.search(text) else "en"]


class Prescription(Profile):
    """Drugs and how they are to be taken. What nobody can read of that is never supplied."""

    def __init__(self, config: DomainConfig) -> None:
        """Read formulary, packaged names and dose ranges.

        Raises:
            InputError: a file can't be read.
        """
        super().__init__(config)
        self._config = config
        names = drug_names()
        self._words = frozenset(
            word.casefold() for text in (*packaged("departments"), *packaged("diagnoses")) for word in text.split()
        )
        words = self._words | sig.terms()
        if config.formulary is not None:
            self.prior = Lexicon(read_names(config.formulary), words=words, known=names)
        else:
            self.prior = Lexicon(names, "names", words=words)
        self._ranges = prescription.read_ranges(config.dose_ranges) if config.dose_ranges is not None else ()

    @cached_property
    def _chinese(self) -> frozenset[str]:
        return frozenset(packaged("drugs_zh"))

    def _known(self, word: str) -> bool:
        assert self.prior is not None
        plain = word.casefold()
        return word in self._chinese or (self.prior.holds(word) and plain not in self._words | sig.terms())

    def instructions(self, text: str) -> str:
        """Literally, and the numbers above all."""
        return _spoken(PRESCRIPTION, text)

    def forbids(self, before: str, proposal: str, after: str) -> bool:
        """Anything of a drug, number, unit, dose or frequency, and any part of a line that has one."""
        line = before + proposal + after
        assert self.prior is not None
        words = _TOKEN.findall(line)
        return (
            bool(_COUNTED.search(line))
            or bool(sig.parse(line))
            or any(word.casefold() in sig.terms() for word in words)
            or any(self._known(word) or self.prior.near(word, 1) for word in words if len(word) > 2)
            or any(name in line for name in self._chinese)
        )

    def understand(self, page: Page) -> Page:
        """Medications, and what is wrong with them."""
        records = prescription.medications(page, self._known)
        checks = prescription.checks(
            page, records, self._known, ranges=self._ranges, most_drugs=self._config.most_drugs
        )
        return replace(page, records=records, checks=_together(page.checks, checks))


class Homework(Profile):
    """Questions, answers and sums, literally as the pupil left them."""

    def __init__(self, config: DomainConfig) -> None:
        """Load the model of sums, unless a formulary says what is expected.

        Raises:
            InputError: the formulary can't be read.
        """
        super().__init__(config)
        if self.prior is None:
            from fusion.domain.sums import SumModel

            self.prior = SumModel.load()

    def instructions(self, text: str) -> str:
        """Literally, mistakes and all."""
        return _spoken(HOMEWORK, text)

    def prepare(self, image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
        """Without the teacher's marks, which become checks."""
        from fusion.domain import strokes

        return strokes.teacher(image)

    def mark(self, line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Words that are struck out stay, marked as deleted."""
        from fusion.domain import strokes

        return strokes.struck(line, spans)

    def understand(self, page: Page) -> Page:
        """Questions with their answers, sums with what they come to."""
        from fusion.domain import strokes

        page = strokes.inserted(page)
        pupils = tuple(line for line in page.lines if not strokes.is_teachers(line, page.checks))
        records = homework.exercises(replace(page, lines=pupils))
        return replace(page, records=records, checks=_together(page.checks, homework.checks(page, records)))


def _together(known: Sequence[Check], found: Sequence[Check]) -> tuple[Check, ...]:
    """Remarks without doubles: understanding a page again adds none."""
    return tuple(dict.fromkeys([*known, *found]))
