"""Which lines somebody must look at.

Knows decided pages and the confidence from which a word is accepted; changes nothing. One place for the rule, so that the
command line, the batch, the review list and the evaluation say the same.
"""

from __future__ import annotations

from fusion.page import Line, Page

DISPUTED = frozenset({"digits_changed", "digits_disagree", "digits_kept_by_ink", "lexicon_lookalike"})
"""Rules that settled what only a person can settle: the ink may be sure, somebody looks all the same."""


def needs_review(line: Line, bound: float) -> bool:
    """Whether a line's confidence is unknown or under the bound, nobody read part of it, or a rule disputed it.

    Args:
        line: a decided line.
        bound: confidence from which a word is accepted, in [0, 1]; see `Fuser.accepts`.
    """
    unsure = line.confidence is None or line.confidence < bound
    return unsure or any(span.extent > 0 or span.because in DISPUTED for span in line.spans)


def lines_to_review(page: Page, bound: float) -> list[Line]:
    """Lines that need review by themselves or because a check of the profile points at them."""
    remarked = {place.line for check in page.checks if check.review for place in check.places}
    return [line for line in page.lines if line.id in remarked or needs_review(line, bound)]
