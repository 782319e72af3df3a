"""Domains: what a page is about, as data and a few functions.

A profile supplies evidence (a prior, instructions for the prompt, which ink is the writer's and what is struck out), a
completion policy (what may never be supplied), and fields and checks of the finished page. `general` supplies nothing.

    lexicon, ngram, sums   priors: lists of names, a character model, sums
    english, chinese       languages: how probable a line is as prose
    lists/                 names that ship, with their sources and licences
    sig, prescription      directions for use; medications
    arithmetic, homework   sums; questions and answers
    columns                vertical sums, long division
    strokes, teacher       struck-out words, insertions; a teacher's marks
    boxes                  boxes to tick, with their labels
    shapes                 ticks, crosses; a page without them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import regex

from fusion.config import PROFILES, DomainConfig

if TYPE_CHECKING:
    from fusion.ink import InkLine, Language, PageImage, Prior
    from fusion.page import Check, Page, Span

__all__ = ["Profile", "languages", "open_profile"]

_HAN = regex.compile(r"\p{Han}")


class Profile:
    """The general profile; others override its methods.

    Attributes:
        prior: names to expect, or None.
        prompts: what the prompt for a line adds, by language (`en`, `zh`).
    """

    prompts: Mapping[str, str] = {}

    def __init__(self, config: DomainConfig) -> None:
        """Read the formulary, if one is given; an InputError if it can't be read."""
        self.prior: Prior | None = None
        if config.formulary is not None:
            from fusion.domain.lexicon import Lexicon

            self.prior = Lexicon.read(config.formulary)

    @property
    def identity(self) -> str:
        """What evidence and fields depend on: the profile and the content of its lists."""
        return f"{type(self).__name__.lower()} {getattr(self.prior, 'identity', '')}".strip()

    def instructions(self, text: str) -> str:
        """What the prompt for a line adds, in the language of the OCR's reading of it."""
        return self.prompts.get("zh" if _HAN.search(text) else "en", "")

    def prepare(self, image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
        """The page with the writer's ink alone, and checks about other ink: boxes to tick, for one."""
        from fusion.domain.boxes import boxes

        return boxes(image)

    def mark(self, line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Spans with what is struck out marked as such; texts stay."""
        return tuple(spans)

    def forbids(self, before: str, proposal: str, after: str) -> bool:
        """Whether a proposal may not be supplied between two parts of a line."""
        return False

    def understand(self, page: Page) -> Page:
        """The page with records and checks; its lines stay."""
        from fusion.domain.boxes import labelled

        return labelled(page)


def languages(names: Sequence[str]) -> tuple[Language, ...]:
    """The models of some languages, `en` and `zh`; each reads its file when a line first concerns it."""
    from fusion.domain.chinese import Chinese
    from fusion.domain.english import English

    known: Mapping[str, Callable[[], Language]] = {"en": English, "zh": Chinese}
    return tuple(known[name]() for name in names)


def open_profile(config: DomainConfig) -> Profile:
    """The profile that a configuration names; an InputError if a file that it names can't be read."""
    if config.profile == "general":
        return Profile(config)
    if config.profile not in PROFILES:
        (plugin,) = entry_points(group="fusion.profiles", name=config.profile)
        made: Profile = plugin.load()(config)
        return made
    from fusion.domain.profiles import Homework, Prescription

    return Homework(config) if config.profile == "homework" else Prescription(config)
