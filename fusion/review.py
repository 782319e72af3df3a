"""Which lines somebody must look at.

Knows decided lines and the operator's bound; changes nothing. One place for the rule, so that the command line, the batch
and the evaluation say the same.
"""

from __future__ import annotations

from fusion.page import Line

DISPUTED = ("digits_disagree", "digits_kept_by_ink")
"""Rules that settled a disagreement about a number: the ink may be sure, a person looks all the same."""


def needs_review(line: Line, bound: float) -> bool:
    """Whether a line's confidence is unknown or under the bound, nobody read part of it, or its numbers were disputed.

    Args:
        line: a decided line.
        bound: `fuse.review_below`, in [0, 1].
    """
    unsure = line.confidence is None or line.confidence < bound
    return unsure or any(span.extent > 0 or span.because in DISPUTED for span in line.spans)
