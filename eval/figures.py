"""The figures of one set: errors of every system, what each part earns, and how far the fused reading can be trusted.

Knows readings, `metrics` and `trust`; reads nothing and draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import metrics, trust
from eval.calibrate import wrong_in
from eval.datasets import NORMALISATIONS, Item, Normalisation, clusters_of
from eval.metrics import Interval
from eval.outside import Lines, Said
from eval.runs import RunConfig, System, systems
from eval.systems import Read, is_pages
from fusion.config import load_config
from fusion.engine import photographs
from fusion.output.crops import at_most, crop_line, data_uri, photo_scale
from fusion.page import Line, Page


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was read of one set.

    Attributes:
        name: of the set.
        config: its comparison.
        base: name of the variant that ablations leave something out of.
        items: its rows.
        reads: variant → reads.
        ablations: what is left out → reads.
        own: reads of the base before calibration.
        outside: system → what it said, or why it said nothing.
        private: no line may be shown.
    """

    name: str
    config: RunConfig
    base: str
    items: list[Item]
    reads: dict[str, list[Read]]
    ablations: dict[str, list[Read]]
    own: list[Read]
    outside: dict[str, list[Said] | str]
    private: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One system on one set; intervals are None where a figure means nothing there.

    Attributes:
        name, kind: see `runs.System`.
        exact, cer, wer: exact match, and pooled error rates of characters and words.
        gap: CER minus that of the OCR alone, paired.
        changed: items that it mends and breaks, against the OCR alone.
        found, right: of pages, order aside.
        seconds: mean per item.
        why_not: why there are no figures.
    """

    name: str
    kind: str
    exact: Interval | None = None
    cer: Interval | None = None
    wer: Interval | None = None
    gap: Interval | None = None
    changed: tuple[int, int] = (0, 0)
    found: Interval | None = None
    right: Interval | None = None
    seconds: float | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Ablation:
    """What a set's base loses without something.

    Attributes:
        gap: CER without it minus CER with it, paired; None: no text is another.
        area: the same of the area under the risk–coverage curve, stretches.
        changed: items that are decided otherwise.
    """

    gap: Interval | None
    area: Interval
    changed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a set.

    Attributes:
        name, title, note: short name, heading, and what was counted.
        base, count, private: of the set: its base, its items, and whether no line may be shown.
        rows: systems.
        ablations: what is left out → what that costs.
        risks: system → its risk–coverage curve, the base first.
        capture: of the base.
        reliability: bins and error of the base, before and after calibration.
        stretches: of the base, how many.
        asked: lines that the second reader was asked about, of all lines, and seconds per line asked.
        worst: the lines with most errors, for the template; empty for a private set.
    """

    name: str
    title: str
    note: str
    base: str
    count: int
    private: bool
    rows: list[Row]
    ablations: dict[str, Ablation]
    risks: dict[str, trust.Risk]
    capture: trust.Capture
    reliability: tuple[tuple[NDArray[np.float64], float], tuple[NDArray[np.float64], float]]
    stretches: int
    asked: tuple[int, int, float | None]
    worst: list[dict[str, Any]]


def measured(found: Readings, worst: int) -> Figures:
    """The figures of a set; `worst`: lines to show."""
    config, items = found.config, found.items
    clusters = clusters_of(items)
    crop = not is_pages(config.data, items)
    base = found.reads[found.base]
    stretches = trust.judged(base, clusters, config.normalise, crop=crop)
    before = trust.judged(found.own, clusters, config.normalise, crop=crop)
    first = next(iter(found.reads.values()))
    return Figures(
        name=found.name,
        title=config.title,
        note=(
            f"{len(items)} {'lines' if crop else 'pages'}, {len(set(clusters))} writers, words or items drawn whole; "
            f"normalisation: {config.normalise}"
        ),
        base=found.base,
        count=len(items),
        private=found.private,
        rows=_rows(found, clusters, crop),
        ablations=_ablations(found, clusters, crop, trust.risk(stretches, clusters)),
        risks=_risks(found, clusters, crop, stretches),
        capture=trust.capture(stretches),
        reliability=(trust.reliability(before), trust.reliability(stretches)),
        stretches=len(stretches.wrong),
        asked=_asked(first),
        worst=[] if found.private else worst_lines(base, config.normalise, crop, worst),
    )


def _rows(found: Readings, clusters: list[str], crop: bool) -> list[Row]:
    config = found.config
    references = [item.reference for item in found.items]
    listed = systems(config, found.items, found.reads)
    for name, said in found.outside.items():
        if isinstance(said, str):
            listed.append(System(name, "outside", config.normalise, references, [], why_not=said))
        else:
            texts, spent = [one.text for one in said], [one.seconds for one in said]
            seconds = sum(spent) / len(spent) if any(spent) else None
            listed.append(System(name, "outside", config.normalise, references, texts, seconds))
    return [_row(one, listed[0], config, clusters, crop) for one in listed]


def _row(one: System, ocr: System, config: RunConfig, clusters: list[str], crop: bool) -> Row:
    if one.why_not:
        return Row(one.name, one.kind, why_not=one.why_not)
    how = (clusters, config.bootstrap, config.seed)
    own, theirs = one.counts, ocr.counts
    wer = found = right = None
    chinese = config.normalise in ("han", "arithmetic")
    if config.normalise == "plain" or not (crop or chinese):  # a word crop has none to count
        words = metrics.word_counts(one.references, one.texts, NORMALISATIONS[config.normalise])
        wer = metrics.cer_interval(words, *how)
    if not crop:
        bags = [metrics.bags(r, t, chinese=chinese) for r, t in zip(one.references, one.texts, strict=True)]
        both, reference, read = (np.array([row[n] for row in bags], dtype=np.float64) for n in range(3))
        found, right = metrics.ratio_interval(both, reference, *how), metrics.ratio_interval(both, read, *how)
    return Row(
        one.name,
        one.kind,
        exact=metrics.exact_interval(own, *how) if crop else None,
        cer=metrics.cer_interval(own, *how),
        wer=wer,
        gap=metrics.cer_difference(own, theirs, *how) if one is not ocr else None,
        changed=(int((own.exact & ~theirs.exact).sum()), int((~own.exact & theirs.exact).sum())),
        found=found,
        right=right,
        seconds=one.seconds,
    )


def _ablations(found: Readings, clusters: list[str], crop: bool, full: trust.Risk) -> dict[str, Ablation]:
    config, base = found.config, found.reads[found.base]
    normal = NORMALISATIONS[config.normalise]
    references = [normal(item.reference) for item in found.items]
    whole = [normal(read.fused) for read in base]
    with_it = metrics.Counts.of(references, whole)
    rows = {}
    for name, reads in found.ablations.items():
        texts = [normal(read.fused) for read in reads]
        changed = sum(own != other for own, other in zip(whole, texts, strict=True))
        without = metrics.Counts.of(references, texts)
        gap = metrics.cer_difference(without, with_it, clusters, config.bootstrap, config.seed)
        area = trust.risk(trust.judged(reads, clusters, config.normalise, crop=crop), clusters)
        rows[name] = Ablation(gap if changed else None, trust.area_difference(area, full), changed)
    return rows


def _risks(found: Readings, clusters: list[str], crop: bool, base: trust.Stretches) -> dict[str, trust.Risk]:
    """Of the base, and of the OCR alone by its own score."""
    said = [_ocr_lines(read) for read in found.reads[found.base]]
    references = [item.reference for item in found.items]
    alone = trust.scored(said, references, clusters, found.config.normalise, crop=crop)
    curves = {"fused": trust.risk(base, clusters)}
    return curves | ({"OCR alone": trust.risk(alone, clusters)} if len(alone.wrong) else {})


def _ocr_lines(read: Read) -> Lines:
    """The OCR's lines with the probability of their text, geometric mean per character."""
    return [
        (one.text, math.exp((one.score or 0.0) / max(1, len(one.text))))
        for page in read.pages
        for line in page.lines
        for one in line.readings
        if one.source == "ocr"
    ]


def _asked(reads: Sequence[Read]) -> tuple[int, int, float | None]:
    lines = [line for read in reads for page in read.pages for line in page.lines]
    asked = sum(any(one.source == "vlm" for one in line.readings) for line in lines)
    spent = sum(read.vlm_seconds for read in reads) if all(read.fresh for read in reads) else None
    return asked, len(lines), spent / asked if spent is not None and asked else None


def worst_lines(reads: Sequence[Read], normalise: Normalisation, crop: bool, count: int) -> list[dict[str, Any]]:
    """The lines with most wrong characters, each with its crop, readings and spans."""
    ranked = []
    for read in reads:
        for page in read.pages:
            for line in page.lines:
                wrong = wrong_in(line.text, read.item.reference, normalise, within=not crop)
                ranked.append((sum(n or 0 for n in wrong), read, page, line))
    ranked.sort(key=lambda one: -one[0])
    return [_shown(wrong, read, page, line, crop) for wrong, read, page, line in ranked[:count] if wrong]


def _shown(wrong: int, read: Read, page: Page, line: Line, crop: bool) -> dict[str, Any]:
    photo = next(iter(photographs(read.item.path, load_config())))
    picture = crop_line(photo, line.polygon, photo_scale(photo, page))
    return {
        "image": read.item.image,
        "wrong": wrong,
        "picture": data_uri(at_most(picture, 640, 96)) if picture.size else "",
        "reference": read.item.reference if crop else "",
        "text": line.text,
        "readings": [(one.source, one.text) for one in line.readings],
        "spans": line.spans,
    }
