"""`eval report`: every set and every system in one self-contained HTML file, and the headline as a Markdown table.

Knows what is to be compared and in which order; figures come from `figures`, drawings from `plots`. Of a private
set nothing is kept on disk but figures, and no line is shown.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval import plots, trust
from eval.datasets import Item
from eval.figures import Figures, Readings, Row, measured
from eval.metrics import Interval
from eval.outside import SYSTEMS, Said, Task, readings
from eval.runs import Variant, items_of, load_run, read_variants
from eval.systems import is_pages
from fusion.errors import ConfigError
from fusion.fuse.model import CONFIDENCE, SCRIPTS

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
    skip: tuple[str, ...] = Field((), description="Variants that are left out.")
    private: bool = Field(False, description="Keep nothing but figures, and show no line.")
    recorded: Recorded | None = Field(None, description="Readings of other systems.")


class ReportConfig(BaseModel):
    """Everything that is compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sets: tuple[SetConfig, ...] = Field(min_length=1, description="In the order of the report.")
    outside: tuple[Literal["PaddleOCR", "RapidOCR", "Tesseract"], ...] = Field(
        (), description="Systems of others; see `outside.SYSTEMS`."
    )
    ablations: tuple[Variant, ...] = Field((), description="What is left out of each set's base.")


def load_report(path: Path) -> ReportConfig:
    """Load what is to be compared; ConfigError names what is wrong."""
    try:
        return ReportConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no report ({error})", "See configs/eval/all.yaml.") from error


def read_set(one: SetConfig, config: ReportConfig, folder: Path, progress: Callable[[str], None]) -> Readings:
    """Read a set with everything; what is already in the folder is not read again."""
    if one.private:
        with tempfile.TemporaryDirectory() as passing:
            return _read_set(one, config, Path(passing), progress)
    return _read_set(one, config, folder, progress)


def _read_set(one: SetConfig, config: ReportConfig, folder: Path, progress: Callable[[str], None]) -> Readings:
    run = load_run(one.run)
    variants = tuple(variant for variant in run.variants if variant.name not in one.skip)
    run = run.model_copy(update={"limit": one.limit or run.limit, "variants": variants})
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
    with one.recorded.file.open(encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    known = set().union(*rows.values())
    if unknown := set(one.recorded.columns) - known:
        raise ConfigError(one.recorded.file, f"has no column {unknown}", f"It has: {', '.join(sorted(known))}.")
    return {
        label: [Said([(rows[item.image][column] if item.image in rows else "", None)], 0.0) for item in items]
        for column, label in one.recorded.columns.items()
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
        "errors": plots.errors({one.name: _compared(one) for one in figures}),
        "risk_coverage": plots.risks({one.name: one.risks for one in figures}),
        "capture": plots.captures({one.name: one.capture for one in figures}),
        "reliability": plots.reliabilities(
            {one.name: (one.reliability[0][0], one.reliability[1][0]) for one in figures}
        ),
        "ablations": plots.ablations({one.name: {n: a.gap for n, a in one.ablations.items()} for one in figures}),
    }


def _compared(one: Figures) -> dict[str, Interval]:
    """CER of the base, of the OCR alone, and of systems that others run."""
    cers = {row.name: row.cer for row in one.rows if row.cer is not None}
    return {"fused": cers[one.base]} | {name: cers[name] for name in ("OCR only", *SYSTEMS) if name in cers}


def _forests(figures: Sequence[Figures]) -> list[Markup]:
    return [Markup(plots.forest([(r.name, r.kind, r.cer) for r in one.rows if r.cer is not None])) for one in figures]


def headline(figures: Sequence[Figures]) -> str:
    """Markdown: who errs how much on which set, how far the fused reading can be trusted, and every figure of every system."""
    outside = list(dict.fromkeys(row.name for one in figures for row in one.rows if row.kind == "outside"))
    columns = ["OCR only", "nothing configured", "set's base", *outside]
    lines = [_table_row("CER", *columns), _rule(len(columns))]
    for one in figures:
        rows = {row.name: row for row in one.rows}
        first = next(row for row in one.rows if row.kind == "fused")
        chosen = [rows["OCR only"], first, rows[one.base], *(rows.get(name) for name in outside)]
        lines.append(_table_row(f"{one.name} ({one.count})", *(_error(row) for row in chosen)))
    lines += ["", _table_row(*_TRUST), _rule(len(_TRUST) - 1), *(_trust_row(one) for one in figures)]
    lines += ["", _table_row("CER without it, minus CER with it", *(one.name for one in figures)), _rule(len(figures))]
    for part in figures[0].ablations:
        gaps = [one.ablations[part].gap for one in figures]
        lines.append(_table_row(part, *(str(gap) if gap is not None else "nothing" for gap in gaps)))
    lines += ["", _table_row("set", "system", "exact match", "CER", "CER minus OCR only", "found", "right"), _rule(6)]
    for one in figures:
        for row in one.rows:
            cells = (row.exact, row.cer, row.gap, row.found, row.right)
            lines.append(_table_row(one.name, row.name, *(_cell(cell) for cell in cells)))
    return "\n".join(lines) + "\n"


_TRUST = (
    *("stretches of the base", "n", "wrong among the surest 50 %", "80 %", "95 %", "area", "area of the OCR alone"),
    *("ECE before", "calibrated", "caught at 20 % looked at", "review looks at", "and catches"),
)


def _trust_row(one: Figures) -> str:
    base, alone, caught = one.risks["fused"], one.risks.get("OCR alone"), one.capture
    shares = (*(error for _, error in one.reliability), caught.caught_at(0.2), *caught.review)
    areas = (str(base.area), str(alone.area) if alone is not None else "")
    return _table_row(one.name, str(one.stretches), *map(str, base.at), *areas, *(f"{share:.3f}" for share in shares))


def _error(row: Row | None) -> str:
    return "" if row is None else _cell(row.cer) or row.why_not


def _table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * (columns + 1)


def _cell(value: Interval | None) -> str:
    return str(value) if value is not None else ""
