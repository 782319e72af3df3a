"""Drawings of the report, as SVG text: small panels side by side, one thing emphasised in each, labels at the lines.

Knows figures; knows neither data nor HTML. matplotlib is imported when something is drawn. Text stays text, so that a page's
own typeface is used; equal figures give equal files.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import Interval
from eval.trust import GRID, Capture, Risk

INK, MUTED, FAINT, GRID_LINE = "#22303a", "#7d8a94", "#b9c2c9", "#e9edf0"
FUSED, OUTSIDE, HARM, WISH = "#0b7285", "#8a949c", "#c2410c", "#e7f5e9"
PUBLIC = (0.82, 0.848)
"""Looked at, caught: the public mark for disputes of vision-language models on handwriting, words and wrong characters."""
WISHED = (0.2, 0.7)
"""What its authors wished for: at most so many words, at least so many wrong characters."""
COLUMNS, ABREAST = 4, 5
"""Panels in a row: curves, and columns of ablations."""


@contextmanager
def _drawn() -> Iterator[Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.size": 8,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
    }
    with matplotlib.rc_context(style):
        yield pyplot
        pyplot.close("all")


def _svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05)
    text = stream.getvalue()
    # A hundredth of a point is finer than any screen, and half the file.
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text[text.index("<svg") :])


def _panels(
    pyplot: Any, count: int, width: float = 2.7, height: float = 2.1, most: int = COLUMNS, sharey: bool = False
) -> tuple[Any, list[Any]]:
    columns = min(most, count)
    rows = math.ceil(count / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharey=sharey, layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.1)
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def _percent(axis: Any, most: float = 1.0) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0 if most > 0.04 else 1))


def _scales(axis: Any, place: int, count: int, across: str, up: str, most: float = 1.0) -> None:
    """Percent on both axes, upwards to `most`; their names stand on the outer panels of `count` alone."""
    _percent(axis.xaxis)
    _percent(axis.yaxis, most)
    if place % COLUMNS == 0:
        axis.set_ylabel(up)
    if place >= count - COLUMNS:
        axis.set_xlabel(across)


# --- how far to trust ---------------------------------------------------------------------------------------------


def risks(panels: Mapping[str, Mapping[str, Risk]]) -> str:
    """Risk–coverage curves: per panel the base first, with its interval, then what it is held against."""
    with _drawn() as pyplot:
        figure, axes = _panels(pyplot, len(panels))
        for place, (axis, (title, systems)) in enumerate(zip(axes, panels.items(), strict=True)):
            most = max(0.02, *(float(one.values[0].max()) for one in systems.values()))
            ends = []
            for number, (name, one) in enumerate(reversed(list(systems.items()))):
                main = number == len(systems) - 1
                colour = FUSED if main else (MUTED, FAINT)[number % 2]
                if main:
                    axis.fill_between(GRID, one.values[1], one.values[2], color=FUSED, alpha=0.14, linewidth=0)
                axis.plot(GRID, one.values[0], color=colour, linewidth=1.8 if main else 1.1)
                ends.append((float(one.values[0][-1]), name, colour))
            _labels(axis, ends, most)
            axis.set(title=title, xlim=(0, 1), ylim=(0, most * 1.08 + 1e-3))
            axis.grid(axis="y", color=GRID_LINE, linewidth=0.6)
            _scales(axis, place, len(panels), "accepted, surest first", "wrong among them", most)
        return _svg(figure)


def _labels(axis: Any, ends: Sequence[tuple[float, str, str]], most: float) -> None:
    """Names at the ends of lines, moved apart where they would touch."""
    gap, last = most * 0.11, -math.inf
    for height, name, colour in sorted(ends):
        last = max(height, last + gap)
        axis.text(1.03, last, name, color=colour, fontsize=6.5, va="center", clip_on=False)


def captures(panels: Mapping[str, Capture]) -> str:
    """Wrong characters caught against stretches looked at; the public mark, and what was wished for."""
    with _drawn() as pyplot:
        figure, axes = _panels(pyplot, len(panels))
        for place, (axis, (title, one)) in enumerate(zip(axes, panels.items(), strict=True)):
            wide, high = WISHED
            axis.fill_between([0, wide], high, 1, color=WISH, linewidth=0)
            axis.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (2, 2)))
            axis.plot(one.looked, one.caught, color=FUSED, linewidth=1.8)
            axis.plot(*PUBLIC, marker="x", color=HARM, markersize=5, markeredgewidth=1.4)
            axis.plot(*one.review, marker="o", color=FUSED, markersize=5, markeredgecolor="white", clip_on=False)
            axis.plot(*one.disputed, marker="D", color=MUTED, markersize=4, markeredgecolor="white", clip_on=False)
            if place == 0:
                axis.text(
                    1, PUBLIC[1] - 0.1, "VLM disputes,\npublished", color=HARM, fontsize=6.5, ha="right", va="top"
                )
                axis.text(wide / 2, 0.98, "wished", color="#3c8d4f", fontsize=6.5, ha="center", va="top")
            axis.set(title=title, xlim=(0, 1), ylim=(0, 1.02))
            _scales(axis, place, len(panels), "looked at, dearest first", "wrong characters caught")
        return _svg(figure)


def reliabilities(panels: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    """Share that is right against mean confidence, before (open) and after calibration (full)."""
    with _drawn() as pyplot:
        figure, axes = _panels(pyplot, len(panels))
        for place, (axis, (title, (before, after))) in enumerate(zip(axes, panels.items(), strict=True)):
            axis.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (2, 2)))
            axis.plot(*before, color=FAINT, linewidth=0.9, marker="o", markersize=3.5, markerfacecolor="white")
            axis.plot(*after, color=FUSED, linewidth=1.6, marker="o", markersize=3.5)
            axis.set(title=title, xlim=(0, 1.02), ylim=(0, 1.02))
            if place == 0:
                axis.text(0.06, 0.93, "calibrated", color=FUSED, fontsize=6.5)
                axis.text(0.06, 0.84, "before", color=MUTED, fontsize=6.5)
            _scales(axis, place, len(panels), "confidence", "right")
        return _svg(figure)


# --- who reads how well -------------------------------------------------------------------------------------------


MARKERS = {"OCR only": "o", "PaddleOCR": "s", "RapidOCR": "^", "Tesseract": "v"}


def errors(sets: Mapping[str, Mapping[str, Interval]]) -> str:
    """CER of each set's systems on one row, the fused reading first, with its interval."""
    with _drawn() as pyplot:
        figure, axis = pyplot.subplots(figsize=(10.4, 0.3 * len(sets) + 0.8), layout="constrained")
        for place, systems in enumerate(sets.values()):
            fused, *others = systems.items()
            values = [one.value for one in systems.values()]
            axis.plot([min(values), max(values)], [place, place], color=GRID_LINE, linewidth=1, zorder=0)
            for name, one in others:
                face = "white" if name == "OCR only" else FAINT
                style = {"color": INK if name == "OCR only" else FAINT, "markerfacecolor": face}
                axis.plot(one.value, place, marker=MARKERS.get(name, "."), markersize=5, linestyle="none", **style)
            axis.plot([fused[1].low, fused[1].high], [place, place], color=FUSED, linewidth=2.2, alpha=0.5)
            axis.plot(fused[1].value, place, marker="o", color=FUSED, markersize=6.5)
        kinds = dict.fromkeys(name for systems in sets.values() for name in systems)
        for name in kinds:
            colour = FUSED if name == "fused" else INK if name == "OCR only" else FAINT
            face = "white" if name == "OCR only" else colour
            style = {"color": colour, "marker": MARKERS.get(name, "o"), "markerfacecolor": face, "linestyle": "none"}
            axis.plot([], [], label=name, markersize=5, **style)
        axis.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds), frameon=False, fontsize=7.5, handletextpad=0
        )
        axis.set_yticks(range(len(sets)), list(sets))
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.spines["left"].set_visible(False)
        axis.set(ylim=(len(sets) - 0.4, -0.6), xlim=(0, 1), xlabel="character error rate")
        axis.grid(axis="x", color=GRID_LINE, linewidth=0.6)
        _percent(axis.xaxis)
        return _svg(figure)


def forest(rows: Sequence[tuple[str, str, Interval]]) -> str:
    """CER of systems with their intervals: label, kind, figure; the first at the top."""
    with _drawn() as pyplot:
        figure, axis = pyplot.subplots(figsize=(6.2, 0.24 * len(rows) + 0.5), layout="constrained")
        most = max(one.high for _, _, one in rows)
        for place, (_, kind, one) in enumerate(rows):
            colour = {"fused": FUSED, "oracle": FAINT, "ocr": INK, "vlm": INK}.get(kind, OUTSIDE)
            axis.plot(
                [one.low, one.high], [place, place], color=colour, linewidth=1.4, alpha=0.45, solid_capstyle="round"
            )
            face = "white" if kind == "oracle" else colour
            axis.plot(one.value, place, marker="o", color=colour, markersize=4.5, markerfacecolor=face)
            axis.text(one.high + most * 0.015, place, f"{100 * one.value:.1f} %", color=colour, fontsize=7, va="center")
        axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.spines["left"].set_visible(False)
        axis.set(
            ylim=(len(rows) - 0.4, -0.6), xlim=(0, most * 1.12 + 1e-3), xlabel="character error rate, 95 % interval"
        )
        axis.grid(axis="x", color=GRID_LINE, linewidth=0.6)
        _percent(axis.xaxis, most)
        return _svg(figure)


def ablations(columns: Mapping[str, Mapping[str, Interval | None]]) -> str:
    """What it costs to leave something out: set → name → change of the CER; None: nothing is read otherwise without it."""
    names = list(next(iter(columns.values())))
    with _drawn() as pyplot:
        size = (2.1, max(1.4, 0.21 * len(names) + 0.6))  # room for the labels of few, too
        figure, axes = _panels(pyplot, len(columns), *size, most=ABREAST, sharey=True)
        for axis, (title, found) in zip(axes, columns.items(), strict=True):
            _left_out(axis, list(found.values()))
            axis.set_title(title, fontsize=7.5)
            axis.set(ylim=(len(names) - 0.4, -0.6))
            axis.set_yticks(range(len(names)), names)
            axis.tick_params(axis="y", length=0, labelcolor=INK)
            axis.spines["left"].set_visible(False)
            axis.grid(axis="y", color=GRID_LINE, linewidth=0.5)
        words = "CER without it minus CER with it, percentage points: to the right, it helps"
        figure.supxlabel(words, fontsize=7.5, color=MUTED)
        return _svg(figure)


def _left_out(axis: Any, gaps: Sequence[Interval | None]) -> None:
    """One column of `ablations`, on a scale of its own, zero in the middle."""
    reach = max((max(abs(one.low), abs(one.high)) for one in gaps if one is not None), default=0.0) or 0.01
    axis.axvline(0, color=FAINT, linewidth=0.8)
    for place, one in enumerate(gaps):
        if one is None:
            axis.plot(0, place, marker="_", color=FAINT, markersize=4)
            continue
        colour = FUSED if one.low > 0 else HARM if one.high < 0 else FAINT
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="round")
        axis.plot(one.value, place, marker="o", color=colour, markersize=4)
    axis.set_xlim(-reach * 1.1, reach * 1.1)
    axis.set_xticks([-reach, 0, reach], [f"{-100 * reach:.1f}", "0", f"+{100 * reach:.1f}"], fontsize=6.5)
