"""Gaps (□): ink that no reader could decipher; on request, a gap is filled from context and marked as supplied.

gaps       where unread ink is
proposals  what may stand there, and whether the profile allows it
"""

from fusion.complete.gaps import mark_gaps
from fusion.complete.proposals import Completer

__all__ = ["Completer", "mark_gaps"]
