"""The complete room: what nobody could read may be proposed from the sense of the sentence, and is marked as such.

    gaps       where ink is that nobody reads
    proposals  what might stand there, and whether the profile allows saying so

Knows spans, crops and a function that answers questions about an image; knows no model and no HTTP.
"""

from fusion.complete.gaps import mark_gaps
from fusion.complete.proposals import Completer

__all__ = ["Completer", "mark_gaps"]
