"""A comparison in the terminal, as a rich renderable. Knows layout and styles; prints nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.output.compare import Comparison, differing, fused_runs
from fusion.output.marks import MARKS, alternatives, percent, visible
from fusion.page import Span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_GONE = "red strike"
_MISSED = "bold reverse"
_UNDERLINED = ("ocr", "vlm", "lexicon", "human", "supplied")


def terminal(comparisons: Sequence[Comparison]) -> RenderableType:
    """One block per line: what each reader saw, what was decided, and why where they differ.

    Struck through: the reader has it and the decision does not. Bold: the decision has it and the OCR does not.
    Reversed: the reference has it and the decision does not.
    Readings are shown as text, never parsed as markup.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("Line", justify="right", no_wrap=True)
    table.add_column("Reader", no_wrap=True)
    table.add_column("Reading", overflow="fold", ratio=1)
    for comparison in comparisons:
        name = Text(f"{comparison.number}", style="bold")
        if comparison.ocr is None:
            table.add_row(name, "OCR", Text("no reading", style="dim italic"))
        else:
            table.add_row(name, "OCR", _reading(comparison.ocr, comparison.fused))
        for label, text in zip(comparison.labels, comparison.vlm, strict=True):
            table.add_row("", visible(label), _reading(text, comparison.fused))
        table.add_row("", Text("fused", style="bold"), _fused(comparison))
        if comparison.reference is not None:
            table.add_row("", "reference", _reading(comparison.reference, comparison.fused, _MISSED))
        for span in comparison.spans:
            if span.source != "agreed":
                table.add_row("", "", _reason(span))
        for failure in comparison.failures:
            table.add_row("", "", Text(f"! {failure.stage}: {visible(failure.message)} ({failure.kind})", "yellow"))
        table.add_section()
    return Group(table, _legend(), Text(_summary(comparisons)))


def _reading(text: str, fused: str, style: str = _GONE) -> Text:
    from rich.text import Text

    made = Text()
    for run, differs in differing(text, fused):
        made.append(visible(run), style if differs else "")
    return made if text else Text("(reads nothing)", style="dim italic")


def _fused(comparison: Comparison) -> Text:
    from rich.text import Text

    made = Text()
    for span, runs in zip(comparison.spans, fused_runs(comparison.spans, comparison.ocr), strict=True):
        mark = MARKS[span.source]
        style = mark.ansi + (" underline" if span.source in _UNDERLINED else "")
        if span.source == "supplied":
            made.append("[", style)
        for run, new in runs:
            made.append(visible(run), f"bold {style}" if new else style)
        if span.source == "supplied":
            made.append("]", style)
    if comparison.confidence is not None:
        made.append(f"  {percent(comparison.confidence)}", "dim")
    return made if comparison.spans else Text("not read", style="bold yellow")


def _reason(span: Span) -> Text:
    from rich.text import Text

    mark = MARKS[span.source]
    made = Text().append(f"{mark.letter}", f"bold {mark.ansi}").append(" ")
    made.append(f"“{visible(span.text)}” {span.because}", "dim")
    if span.confidence is not None:
        made.append(f" {percent(span.confidence)}", "dim")
    if span.alternatives:
        made.append(f"; or {alternatives(span.alternatives)}", "dim")
    return made


def _legend() -> Text:
    from rich.text import Text

    made = Text()
    for mark in MARKS.values():
        made.append(f"{mark.letter} {mark.label}".strip(), mark.ansi)
        made.append("  ")
    made.append("struck", _GONE)
    made.append(": not in the decision  ")
    made.append("bold", "bold")
    made.append(": not in the OCR's reading  ")
    made.append("reversed", _MISSED)
    made.append(": in the reference only")
    return made


def _summary(comparisons: Sequence[Comparison]) -> str:
    changed = sum(comparison.changed for comparison in comparisons)
    unread = sum(not comparison.spans for comparison in comparisons)
    gaps, supplied = (sum(c.sources[source] for c in comparisons) for source in ("gap", "supplied"))
    return f"lines: {len(comparisons)}, changed by fusion: {changed}, gaps: {gaps}, supplied: {supplied}, not read: {unread}"
