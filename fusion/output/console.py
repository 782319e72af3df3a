"""A comparison in the terminal, as a rich renderable."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fusion.output.compare import Comparison, differing, fused_runs
from fusion.output.marks import MARKS, alternatives, percent, visible
from fusion.page import Span

_GONE = "red strike"
_MISSED = "bold reverse"
_NONE = "dim italic"


def terminal(comparisons: Sequence[Comparison]) -> RenderableType:
    """One block per line: what each reader saw, what was decided, and why where they differ.

    Struck through: the reader has it and the decision does not. Bold: the decision has it and the OCR does not.
    Reversed: the reference has it and the decision does not. Readings are shown as text, never parsed as markup.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("Line", justify="right", no_wrap=True)
    table.add_column("Reader", no_wrap=True)
    table.add_column("Reading", overflow="fold", ratio=1)
    for comparison in comparisons:
        line = comparison.line
        number = Text(f"{comparison.number}", style="bold")
        ocr = comparison.ocr
        table.add_row(number, "OCR", Text("no reading", _NONE) if ocr is None else _reading(ocr, line.text))
        for label, text in comparison.vlm:
            table.add_row("", visible(label), _reading(text, line.text))
        table.add_row("", Text("fused", style="bold"), _fused(comparison))
        if comparison.reference is not None:
            table.add_row("", "reference", _reading(comparison.reference, line.text, _MISSED))
        for span in line.spans:
            if span.source != "agreed":
                table.add_row("", "", _reason(span))
        for failure in line.troubles:
            table.add_row("", "", Text(f"! {failure.stage}: {visible(failure.message)} ({failure.kind})", "yellow"))
        table.add_section()
    return Group(table, _legend(), Text(_summary(comparisons)))


def _reading(text: str, fused: str, style: str = _GONE) -> Text:
    if not text:
        return Text("(reads nothing)", style=_NONE)
    return Text.assemble(*((visible(run), style if differs else "") for run, differs in differing(text, fused)))


def _fused(comparison: Comparison) -> Text:
    line = comparison.line
    if not line.spans:
        return Text("not read", style="bold yellow")
    made = Text()
    for span, runs in fused_runs(line.spans, comparison.ocr):
        style = MARKS[span.source].ansi + ("" if span.source in ("agreed", "gap") else " underline")
        before, after = "[]" if span.source == "supplied" else ("", "")
        made.append(before, style)
        for run, new in runs:
            made.append(visible(run), f"bold {style}" if new else style)
        made.append(after, style)
    if line.confidence is not None:
        made.append(f"  {percent(line.confidence)}", "dim")
    return made


def _reason(span: Span) -> Text:
    mark = MARKS[span.source]
    sure = f" {percent(span.confidence)}" if span.confidence is not None else ""
    others = f"; or {alternatives(span.alternatives)}" if span.alternatives else ""
    reason = f"“{visible(span.text)}” {span.because}{sure}{others}"
    return Text.assemble((mark.letter, f"bold {mark.ansi}"), " ", (reason, "dim"))


def _legend() -> Text:
    sources = [part for mark in MARKS.values() for part in ((f"{mark.letter} {mark.label}".strip(), mark.ansi), "  ")]
    return Text.assemble(
        *sources,
        ("struck", _GONE),
        ": not in the decision  ",
        ("bold", "bold"),
        ": not in the OCR's reading  ",
        ("reversed", _MISSED),
        ": in the reference only",
    )


def _summary(comparisons: Sequence[Comparison]) -> str:
    changed = sum(comparison.changed for comparison in comparisons)
    unread = sum(not comparison.line.spans for comparison in comparisons)
    gaps, supplied = (sum(c.sources[source] for c in comparisons) for source in ("gap", "supplied"))
    return f"lines: {len(comparisons)}, changed by fusion: {changed}, gaps: {gaps}, supplied: {supplied}, not read: {unread}"
