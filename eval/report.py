"""`eval report`: every set and every system in one self-contained HTML file, and the headline as a Markdown table.

Knows what is to be compared and in which order; figures come from `metrics` and `trust`, drawings from `plots`. Of a private
set nothing is kept on disk but figures, and no line is shown.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval import metrics, plots, trust
from eval.calibrate import wrong_in
from eval.datasets import NORMALISATIONS, Item, Normalisation, clusters_of
from eval.metrics import Interval
from eval.outside import Lines, Said, Task, readings
from eval.runs import RunConfig, System, Variant, items_of, load_run, read_variants, systems
from eval.systems import Read, is_pages
from fusion.config import load_config
from fusion.engine import photographs
from fusion.errors import ConfigError
from fusion.fuse.model import CONFIDENCE, SCRIPTS
from fusion.output.crops import at_most, crop_line, data_uri, photo_scale
from fusion.page import Line, Page

_MODEL_ALONE = {name: float(name == "model") for name in CONFIDENCE}
OWN = Variant(name="calibration", weights={"confidence": dict.fromkeys(SCRIPTS, _MODEL_ALONE)})
"""The base before calibration: a confidence is the probability under the model."""


class Recorded(BaseModel):
    """Readings that others have recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Path = Field(description="TSV whose first column is `image`.")
    columns: dict[str, str] = Field(description="Column → row label.")


class SetConfig(BaseModel):
    """One set."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(description="Short name, for the panels.")
    run: Path = Field(description="The comparison, a file of configs/eval.")
    base: str = Field(description="The variant that ablations leave something out of, and whose trust is shown.")
    limit: int | None = Field(None, ge=1, description="Rows drawn at random; None: as the comparison says.")
    private: bool = Field(False, description="Keep nothing but figures, and show no line.")
    recorded: Recorded | None = Field(None, description="Readings of other systems.")


class ReportConfig(BaseModel):
    """Everything that is compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sets: tuple[SetConfig, ...] = Field(min_length=1, description="In the order of the report.")
    outside: tuple[str, ...] = Field((), description="Systems of others; see `outside.SYSTEMS`.")
    ablations: tuple[Variant, ...] = Field((), description="What is left out of each set's base.")


def load_report(path: Path) -> ReportConfig:
    """Load what is to be compared; ConfigError names what is wrong."""
    try:
        return ReportConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no report ({error})", "See configs/eval/all.yaml.") from error


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


def read_set(one: SetConfig, config: ReportConfig, folder: Path, progress: Callable[[str], None]) -> Readings:
    """Read a set with everything; what is already in the folder is not read again."""
    if one.private:
        with tempfile.TemporaryDirectory() as passing:
            return _read_set(one, config, Path(passing), progress)
    return _read_set(one, config, folder, progress)


def _read_set(one: SetConfig, config: ReportConfig, folder: Path, progress: Callable[[str], None]) -> Readings:
    run = load_run(one.run)
    run = run.model_copy(update={"limit": one.limit}) if one.limit is not None else run
    items = items_of(run)
    base = next((variant for variant in run.variants if variant.name == one.base), None)
    if base is None:
        names = ", ".join(variant.name for variant in run.variants)
        raise ConfigError(one.run, f"has no variant {one.base!r}", f"Set `base` to one of: {names}.")
    without = {ablation.name: _without(base, ablation) for ablation in (OWN, *config.ablations)}

    def say(text: str) -> None:
        progress(f"{run.title}: {text}")

    found = read_variants(run, [*run.variants, *without.values()], items, say, folder)
    task = Task(not is_pages(run.data, items), run.normalise == "han")
    outside: dict[str, list[Said] | str] = {}
    for name in config.outside:
        say(name)
        outside[name] = readings(name, [item.path for item in items], task, folder / "outside.jsonl")
    return Readings(
        name=one.name,
        config=run,
        base=one.base,
        items=items,
        reads={variant.name: found[variant.name] for variant in run.variants},
        ablations={variant.name: found[without[variant.name].name] for variant in config.ablations},
        own=found[without[OWN.name].name],
        outside=outside | _recorded(one, items),
        private=one.private,
    )


def _switched(variant: Variant) -> list[str]:
    """Sections whose engine it changes: the settings of the old engine mean nothing to the new one."""
    return [setting.split(".engine=")[0] for setting in variant.set if ".engine=" in setting]


def _without(base: Variant, ablation: Variant) -> Variant:
    """The base with what the ablation changes."""
    kept = [own for own in base.set if not own.startswith(tuple(f"{section}." for section in _switched(ablation)))]
    return Variant(
        name=f"without {ablation.name}",
        set=(*kept, *ablation.set),
        formulary_from=base.formulary_from,
        weights=ablation.weights,
        rules_off=ablation.rules_off,
    )


def _recorded(one: SetConfig, items: Sequence[Item]) -> dict[str, list[Said] | str]:
    if one.recorded is None:
        return {}
    rows = [row.split("\t") for row in one.recorded.file.read_text(encoding="utf-8").splitlines()]
    place = {name: number for number, name in enumerate(rows[0])}
    known = {row[0]: row for row in rows[1:]}
    return {
        label: [Said([(known[item.image][place[column]], None)], 0.0) for item in items]
        for column, label in one.recorded.columns.items()
    }


# --- figures ------------------------------------------------------------------------------------------------------


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
        rows: systems.
        ablations: what is left out → what that costs.
        risks: system → its risk–coverage curve, the base first.
        capture: of the base.
        reliability: bins and error of the base, before and after calibration.
        asked: lines that the second reader was asked about, of all lines, and seconds per line asked.
        worst: the lines with most errors, for the template; empty for a private set.
    """

    name: str
    title: str
    note: str
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
            f"normalisation `{config.normalise}`"
        ),
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
    if not chinese:
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
    """Of the base, and of the OCR alone and of RapidOCR by their own scores."""
    references = [item.reference for item in found.items]
    said: dict[str, Sequence[Lines]] = {"OCR alone": [_ocr_lines(read) for read in found.reads[found.base]]}
    own = found.outside.get("RapidOCR", "")
    if not isinstance(own, str):
        said["RapidOCR"] = [one.lines for one in own]
    curves = {"fused": trust.risk(base, clusters)}
    for name, lines in said.items():
        scored = trust.scored(lines, references, clusters, found.config.normalise, crop=crop)
        if len(scored.wrong):
            curves[name] = trust.risk(scored, clusters)
    return curves


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


# --- the page -----------------------------------------------------------------------------------------------------


def report(config: ReportConfig, folder: Path, progress: Callable[[str], None], worst: int = 12) -> str:
    """Read everything, and write `report.html`, `report.md` and `pictures/` into a folder; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for one in config.sets:
        figures.append(measured(read_set(one, config, folder, progress), worst))
        progress(f"{figures[-1].title}: measured")
    drawn = pictures(figures)
    (folder / "pictures").mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (folder / "pictures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        figures=figures,
        pictures={name: Markup(svg) for name, svg in drawn.items()},
        forests=_forests(figures),
        coverages=trust.COVERAGES,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    text = headline(figures)
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


def pictures(figures: Sequence[Figures]) -> dict[str, str]:
    """The drawings that set all sets side by side, as SVG; they hold numbers alone."""
    return {
        "risk_coverage": plots.risks({one.name: one.risks for one in figures}),
        "capture": plots.captures({one.name: one.capture for one in figures}),
        "reliability": plots.reliabilities(
            {one.name: (one.reliability[0][0], one.reliability[1][0]) for one in figures}
        ),
        "ablations": plots.ablations({one.name: {n: a.gap for n, a in one.ablations.items()} for one in figures}),
    }


def _forests(figures: Sequence[Figures]) -> list[Markup]:
    return [Markup(plots.forest([(r.name, r.kind, r.cer) for r in one.rows if r.cer is not None])) for one in figures]


def headline(figures: Sequence[Figures]) -> str:
    """Systems and sets as one Markdown table: exact match of lines or what is found on pages, and CER."""
    lines = ["| set | system | exact match, of pages found | CER | CER minus OCR only |", "|---|---|---|---|---|"]
    for one in figures:
        for row in one.rows:
            cells = (
                [_cell(row.exact or row.found), _cell(row.cer), _cell(row.gap)] if row.cer else [row.why_not, "", ""]
            )
            lines.append(f"| {one.name} | {row.name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| set | stretches | wrong at 50 % | at 80 % | at 95 % | area | ECE before | after | caught at 20 % looked at |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        base = one.risks["fused"]
        at = " | ".join(map(str, base.at))
        (_, before), (_, after) = one.reliability
        lines.append(
            f"| {one.name} | {one.stretches} | {at} | {base.area} | {before:.3f} | {after:.3f} | {one.capture.caught_at(0.2):.3f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(value: Interval | None) -> str:
    return str(value) if value is not None else ""
