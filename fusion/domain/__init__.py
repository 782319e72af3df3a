"""The domain room: what a page is about, as data and a few functions.

A profile meets the engine at three doors and at no other: evidence (what is expected, what the prompt adds, which ink is
the writer's and which strokes are struck out), the completion policy (what may never be supplied), and fields (what is
understood of the finished page, and what is remarked beside it). `general` opens none of them and costs nothing.

    lexicon, ngram   names to expect and their character model
    lists/           names that ship, with their sources and licences
    sig, prescription, arithmetic, homework, strokes, sums   what the profiles know
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from fusion.config import PROFILES, DomainConfig

if TYPE_CHECKING:
    from fusion.ink import InkLine, PageImage, Prior
    from fusion.page import Check, Page, Span

__all__ = ["Profile", "open_profile"]


class Profile:
    """The general profile: nothing is known. The others are this one with some doors open."""

    def __init__(self, config: DomainConfig) -> None:
        """Read the formulary, if one is given.

        Raises:
            InputError: it can't be read.
        """
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
        return ""

    def prepare(self, image: PageImage) -> tuple[PageImage, tuple[Check, ...]]:
        """The page with the writer's ink alone, and remarks about other ink."""
        return image, ()

    def mark(self, line: InkLine, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Spans with what is struck out marked as such; texts stay."""
        return tuple(spans)

    def forbids(self, before: str, proposal: str, after: str) -> bool:
        """Whether a proposal may not be supplied between two parts of a line."""
        return False

    def understand(self, page: Page) -> Page:
        """The page with records and checks; its lines stay."""
        return page


def open_profile(config: DomainConfig) -> Profile:
    """The profile that a configuration names.

    Raises:
        InputError: a file that it names can't be read.
    """
    if config.profile == "general":
        return Profile(config)
    if config.profile not in PROFILES:
        (plugin,) = entry_points(group="fusion.profiles", name=config.profile)
        made: Profile = plugin.load()(config)
        return made
    from fusion.domain.profiles import Homework, Prescription

    return Homework(config) if config.profile == "homework" else Prescription(config)
