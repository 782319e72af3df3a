"""Plain text of a page. Knows the three transcripts of the data model; knows no format beyond rows of text."""

from __future__ import annotations

from fusion.page import Line, Page

UNREAD = "[---]"
"""A line of unknown length that nobody read, as the Leiden conventions write a lost line."""


def plain(page: Page, *, diplomatic: bool = False, marked: bool = True) -> str:
    """Transcript of a page, one row per line, in reading order.

    Args:
        page: what was read.
        diplomatic: only what is on the paper: whatever was supplied becomes `□` again. Wins over `marked`.
        marked: supplied text stands in square brackets, and a line that nobody read shows as `[---]`. False: the
            reading text alone, for programs; then a supplied character looks like a read one.

    >>> from fusion.page import Span
    >>> line = Line("l0", ((0, 0), (9, 0), (9, 9), (0, 9)), 0, spans=(
    ...     Span("明天", "agreed", 0.9, "agreed"), Span("5", "supplied", 0.5, "context", extent=1)))
    >>> page = Page("a.png", "00", 9, 9, lines=(line,))
    >>> plain(page), plain(page, diplomatic=True), plain(page, marked=False)
    ('明天[5]', '明天□', '明天5')
    """
    if diplomatic:
        return page.diplomatic
    return "\n".join(_marked(line) for line in page.lines) if marked else page.text


def _marked(line: Line) -> str:
    return line.marked if line.spans else UNREAD
