"""`eval report`: every set and every system in one self-contained HTML file, and the headline as a Markdown table.

Knows what is to be compared and in which order; figures come from `metrics` and `trust`, drawings from `plots`. Of a private
set nothing is kept on disk but figures, and no line is shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.datasets import Item
from eval.outside import Said, Task, readings
from eval.runs import RunConfig, Variant, items_of, load_run, read_variants
from eval.systems import Read, is_pages
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
        config: its comparison.
        base: name of the variant that ablations leave something out of.
        items: its rows.
        reads: variant → reads.
        ablations: what is left out → reads.
        own: reads of the base before calibration.
        outside: system → what it said, or why it said nothing.
        private: no line may be shown.
    """

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
