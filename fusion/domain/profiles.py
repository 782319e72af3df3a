"""The two profiles that ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import regex

from fusion.config import DomainConfig
from fusion.domain import Profile, homework, prescription, sig
from fusion.domain.formulary import drug_names, packaged, read_names
from fusion.domain.lexicon import Lexicon

if TYPE_CHECKING:
    from fusion.ink import InkLine, PageImage
    from fusion.page import Check, Page, Span

_COUNTED = regex.compile(r"\p{N}|[零〇一二两三四五六七八九十百千半]")
_TOKEN = regex.compile(r"[\p{L}\p{N}]+")


class Prescription(Profile):
    """Drugs and directions for use; nothing of them is ever supplied."""

    prompts: Mapping[str, str] = {
        "en": "This is a line of a doctor's prescription: drug names, strengths, doses, routes and frequencies. Copy every "
        "digit, unit and point exactly as drawn; do not complete, correct or convert anything.",
        "zh": "这是医生处方中的一行：药名、规格、剂量、给药途径和频次。数字、单位和小数点必须与笔迹完全一致；不要补全、更正或换算任何内容。",
    }

    def __init__(self, config: DomainConfig) -> None:
        """Read formulary, packaged names and dose ranges; an InputError if a file can't be read."""
        self._most_drugs = config.most_drugs
        names = drug_names()
        departments_and_diagnoses = " ".join([*packaged("departments"), *packaged("diagnoses")])
        words = frozenset(departments_and_diagnoses.casefold().split()) | sig.terms()
        if config.formulary is not None:
            self.prior = Lexicon(read_names(config.formulary), words=words, known=names)
        else:
            self.prior = Lexicon(names, "names", words=words)
        self._lexicon, self._words = self.prior, words
        self._chinese = frozenset(packaged("drugs_zh"))
        self._ranges = prescription.read_ranges(config.dose_ranges) if config.dose_ranges is not None else ()
        self._lookalikes = prescription.read_lookalikes(config.lookalikes) if config.lookalikes is not None else ()

    def _known(self, word: str) -> bool:
        """Whether a word is the name of a drug."""
        return word in self._chinese or (self._lexicon.holds(word) and word.casefold() not in self._words)

    def forbids(self, before: str, proposal: str, after: str) -> bool:
        """Anything in a line with a drug, number, unit, dose or frequency."""
        line = before + proposal + after
        words = _TOKEN.findall(line)
        return (
            bool(_COUNTED.search(line))
            or bool(sig.parse(line))
            or any(word.casefold() in sig.terms() for word in words)
            or any(self._known(word) or self._lexicon.near(word, 1) for word in words if len(word) > 2)
            or any(name in line for name in self._chinese)
        )

    def understand(self, page: Page) -> Page:
        """Medications, and checks about them."""
        page = super().understand(page)
        records = prescription.medications(page, self._known)
        checks = prescription.checks(
            page,
            records,
            self._known,
            ranges=self._ranges,
            lookalikes=self._lookalikes,
            most_drugs=self._most_drugs,
        )
        return replace(page, records=records, checks=_union(page.checks, checks))


class Homework(Profile):
    """Questions, answers and sums, literally as the pupil wrote them."""

    prompts: Mapping[str, str] = {
        "en": "This is a line of a pupil's homework. Copy it literally, with every spelling mistake and every wrong sum as it "
        "stands; do not solve or correct anything.",
        "zh": "这是学生作业中的一行。请逐字照录，错别字和算错的得数都照原样写；不要解题，不要更正。",
    }

    def __init__(self, config: DomainConfig) -> None:
        """Read the formulary, else the model of sums; an InputError if the formulary can't be read."""
        super().__init__(config)
        if self.prior is None:
            from fusion.domain.sums import SumModel

            self.prior = SumModel.load()

    def prepare(self, image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
        """The page without the teacher's marks, which become checks."""
        from fusion.domain import teacher

        image, boxes = super().prepare(image)
        image, marks = teacher.marks(image)
        return image, (*boxes, *marks)

    def mark(self, line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Struck-out words stay, marked as deleted."""
        from fusion.domain import strokes

        return strokes.struck(line, spans)

    def understand(self, page: Page) -> Page:
        """Questions with their answers, sums with their values."""
        from fusion.domain import strokes, teacher

        page = teacher.scored(strokes.inserted(super().understand(page)))
        pupils = tuple(line for line in page.lines if not teacher.is_teachers(line, page.checks))
        records = homework.exercises(replace(page, lines=pupils))
        return replace(page, records=records, checks=_union(page.checks, homework.checks(page, records)))


def _union(known: Sequence[Check], found: Sequence[Check]) -> tuple[Check, ...]:
    """Checks without duplicates: understanding a page again adds none."""
    return tuple(dict.fromkeys([*known, *found]))
