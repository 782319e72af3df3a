"""`eval run`: one split, every system on the same lines, as a table.

Knows reads and metrics; runs nothing itself but the engine through `systems`. `eval report` compares the same systems.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rapidfuzz.distance import Levenshtein

from eval import metrics, trust
from eval.blind import Sight
from eval.datasets import NORMALISATIONS, Item, Normalisation, clusters_of, load_split, names_of
from eval.rules import Rule, Rules, kept_splits
from eval.systems import Read, engine_for, is_pages
from fusion.domain.formulary import drug_names
from fusion.errors import ConfigError


class Variant(BaseModel):
    """One configuration of the engine to be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(description="Row label.")
    set: tuple[str, ...] = Field((), description="Overrides, `section.key=value`.")
    formulary_from: Path | None = Field(None, description="Split whose texts are given as the formulary.")
    weights: dict[str, Any] = Field({}, description="Numbers that replace those of the packaged weights file.")
    rules_off: tuple[Rule, ...] = Field((), description="Rules of the decision that are left out.")
    sight: Sight = Field("crop", description="What the small reader is shown, and which part of it speaks.")
    against: bool = Field(False, description="Also report its CER minus the first variant's, paired.")


class RunConfig(BaseModel):
    """A comparison on one split."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str = Field(description="Heading of the table.")
    data: Path = Field(description="The split, a TSV; relative to the working directory.")
    normalise: Normalisation = Field(description="Name of the normalisation applied to references and readings.")
    engine: Path | None = Field(None, description="Engine configuration; None: the defaults.")
    only: Path | None = Field(None, description="TSV whose first column names the images to keep.")
    limit: int | None = Field(None, ge=1, description="Rows drawn at random, with the seed; None: all.")
    variants: tuple[Variant, ...] = Field(min_length=1, description="Configurations; the first gives the OCR rows.")
    bootstrap: int = Field(2000, ge=100, description="Resamples.")
    seed: int = Field(20261122, description="Seed of draws and resampling.")


def load_run(path: Path) -> RunConfig:
    """Load a comparison; ConfigError names what is wrong."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RunConfig.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no evaluation ({error})", "See configs/eval/ for examples.") from error


def items_of(config: RunConfig) -> list[Item]:
    """The rows of its split that a comparison is about."""
    items = load_split(config.data)
    if config.only is not None:
        kept = {row.split("\t")[0] for row in config.only.read_text(encoding="utf-8").splitlines()[1:]}
        items = [item for item in items if item.image in kept]
    if config.limit is not None and config.limit < len(items):
        drawn = set(random.Random(config.seed).sample(range(len(items)), config.limit))
        items = [item for number, item in enumerate(items) if number in drawn]
    if not items:
        raise ConfigError(config.data, "holds no rows to compare", "Name another split, or mend `only`.")
    return items


def read_variants(
    config: RunConfig,
    variants: Sequence[Variant],
    items: Sequence[Item],
    progress: Callable[[str], None],
    folder: Path | None = None,
) -> dict[str, list[Read]]:
    """Read the items as each variant does. What looks alike is looked at once and decided on several times.

    Args:
        config: split and engine.
        variants: those of the configuration, or others.
        items: rows of the split.
        progress: is told what is being read.
        folder: keeps what readers said and what was decided; None: nothing is kept.
    """
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        asked = variant.weights.get("ask_below")
        groups.setdefault(f"{variant.set} {variant.formulary_from} {variant.sight} {asked}", []).append(variant)
    found: dict[str, list[Read]] = {}
    for group in groups.values():
        names, first = [variant.name for variant in group], group[0]
        progress(", ".join(names))
        store = [f"store.folder={folder / 'store'}"] if folder is not None else []
        with engine_for(config.engine, [*first.set, *store], first.formulary_from, first.sight) as engine:
            rules = [Rules(variant.weights, variant.rules_off) for variant in group]
            reads = folder / "reads" if folder is not None else None
            crop = not is_pages(config.data, items)
            found |= zip(names, kept_splits(engine, rules, items, reads, first.sight, crop=crop), strict=True)
    return {variant.name: found[variant.name] for variant in variants}


def run(config: RunConfig, progress: Callable[[str], None]) -> str:
    """Read the split with every variant and return the table as text."""
    items = items_of(config)
    return table(config, items, read_variants(config, config.variants, items, progress))


Kind = Literal["ocr", "vlm", "fused", "baseline", "oracle", "outside"]


@dataclass(frozen=True)
class System:
    """What one system makes of all items of a split.

    Attributes:
        name: row label.
        kind: what it is made of.
        normalise: what counts.
        references: what is written.
        texts: what it makes of it, one per item.
        seconds: mean per item, or None when unknown.
        why_not: why there are no texts, and what to do about it; else "".
    """

    name: str
    kind: Kind
    normalise: Normalisation
    references: Sequence[str]
    texts: Sequence[str]
    seconds: float | None = None
    why_not: str = ""

    @cached_property
    def counts(self) -> metrics.Counts:
        """Its errors, in characters."""
        normal = NORMALISATIONS[self.normalise]
        return metrics.Counts.of([normal(one) for one in self.references], [normal(one) for one in self.texts])


def systems(config: RunConfig, items: Sequence[Item], reads: Mapping[str, Sequence[Read]]) -> list[System]:
    """The OCR alone, the second reader alone, each variant, the nearest name, and the oracles."""
    normal = NORMALISATIONS[config.normalise]
    references = [item.reference for item in items]
    first = next(iter(reads.values()))

    def system(name: str, kind: Kind, texts: Sequence[str], seconds: float | None = None) -> System:
        return System(name, kind, config.normalise, references, texts, seconds)

    def nearest(name: str, options: Iterable[Sequence[str]]) -> System:
        best = [_nearest(texts, normal(r), normal) for r, texts in zip(references, options, strict=True)]
        return system(name, "oracle", best)

    found = [system("OCR only", "ocr", [read.ocr for read in first], _mean([r.ocr_seconds for r in first], first))]
    if any(read.vlm for read in first):
        said = [read.vlm[0] if read.vlm else "" for read in first]
        asked = sum(bool(read.vlm) for read in first)
        label = "VLM only" if asked == len(first) else f"VLM only (it read {asked} of {len(first)})"
        found.append(system(label, "vlm", said, _mean([r.vlm_seconds for r in first], first)))
    for name, own in reads.items():
        found.append(system(name, "fused", [r.fused for r in own], _mean([r.seconds for r in own], own)))
    if (names := _names(config.variants)) and not is_pages(config.data, items):
        snapped = [_nearest_name(read.ocr, names) for read in first]
        found.append(system("OCR snapped to the nearest name, no threshold", "baseline", snapped))
    if any(read.nbest for read in first):
        found.append(nearest("oracle: OCR n-best", [[read.ocr, *read.nbest] for read in first]))
        found.append(nearest("oracle: n-best, VLM, fused", [[r.ocr, *r.nbest, *r.vlm, r.fused] for r in first]))
    return found


def table(config: RunConfig, items: Sequence[Item], reads: Mapping[str, Sequence[Read]]) -> str:
    """The comparison as a Markdown table."""
    clusters = clusters_of(list(items))
    found = systems(config, items, reads)
    ocr = found[0].counts
    lines = [
        f"{config.title}: n = {len(items)}, normalisation `{config.normalise}`, 95 % bootstrap over {len(set(clusters))} writers, words or items",
        "",
        "| system | exact match | CER | CER minus OCR only | mended / broken | s per item |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        exact = metrics.exact_interval(one.counts, clusters, config.bootstrap, config.seed)
        cer = metrics.cer_interval(one.counts, clusters, config.bootstrap, config.seed)
        paired, changed = "", ""
        if one.counts is not ocr:
            paired = str(metrics.cer_difference(one.counts, ocr, clusters, config.bootstrap, config.seed))
            changed = f"{(one.counts.exact & ~ocr.exact).sum()} / {(~one.counts.exact & ocr.exact).sum()}"
        seconds = f"{one.seconds:.3f}" if one.seconds is not None else ""
        lines.append(f"| {one.name} | {exact} | {cer} | {paired} | {changed} | {seconds} |")
    named = {one.name: one.counts for one in found if one.kind == "fused"}
    for variant in config.variants[1:]:
        if variant.against:
            own, first = named[variant.name], named[config.variants[0].name]
            gap = metrics.cer_difference(own, first, clusters, config.bootstrap, config.seed)
            lines.append(f"CER of {variant.name} minus {config.variants[0].name}: {gap}")
    lines += ["", *_trusted(config, items, reads)]
    normal = NORMALISATIONS[config.normalise]
    lines += [
        _foreign(
            variant.name,
            reads[variant.name],
            [normal(item.reference) for item in items],
            {normal(n) for n in _names([variant])},
            normal,
        )
        for variant in config.variants
        if _names([variant])
    ]
    return "\n".join(lines)


def _names(variants: Sequence[Variant]) -> list[str]:
    """The names of the first variant that has a list."""
    for variant in variants:
        if variant.formulary_from is not None:
            return names_of(load_split(variant.formulary_from))
        if "domain.profile=prescription" in variant.set:
            return drug_names()
    return []


def _nearest_name(text: str, names: Sequence[str]) -> str:
    """What is common practice: the name with the fewest edits, however far it is."""
    return min(names, key=lambda name: Levenshtein.distance(text.lower(), name.lower()))


def _foreign(
    name: str, reads: Sequence[Read], references: Sequence[str], names: set[str], normal: Callable[[str], str]
) -> str:
    """What becomes of words that are in no list: none may turn into a listed one unseen."""
    foreign = [r for r, ref in zip(reads, references, strict=True) if ref not in names]
    turned = [r for r in foreign if normal(r.fused) in names and normal(r.fused) != normal(r.ocr)]
    silent = sum(not r.review for r in turned)
    return f"{name}: of {len(foreign)} words in no list {len(turned)} became a listed name, {silent} of them without review"


def _mean(seconds: Sequence[float], reads: Sequence[Read]) -> float | None:
    """Mean over the reads that came out of no store."""
    fresh = [value for value, read in zip(seconds, reads, strict=True) if read.fresh]
    return sum(fresh) / len(fresh) if fresh else None


def _nearest(texts: Sequence[str], reference: str, normal: Callable[[str], str]) -> str:
    return min(texts, key=lambda text: metrics.edits(reference, normal(text))[0])


def _trusted(config: RunConfig, items: Sequence[Item], reads: Mapping[str, Sequence[Read]]) -> Iterator[str]:
    """What confidences and review are worth; of pages also what is found, order aside."""
    normal = NORMALISATIONS[config.normalise]
    references = [normal(item.reference) for item in items]
    clusters, crop = clusters_of(list(items)), not is_pages(config.data, list(items))
    if not crop:
        for name, texts in _texts(next(iter(reads.values())), reads).items():
            yield _found(name, texts, items, clusters, config)
    for name, own in reads.items():
        if crop:
            yield trust.lines(name, own, references, normal)
        yield trust.review(name, own, clusters, config.normalise, crop=crop, rounds=config.bootstrap)


def _texts(first: Sequence[Read], reads: Mapping[str, Sequence[Read]]) -> dict[str, list[str]]:
    return {"OCR only": [read.ocr for read in first]} | {name: [r.fused for r in own] for name, own in reads.items()}


def _found(name: str, texts: Sequence[str], items: Sequence[Item], clusters: Sequence[str], config: RunConfig) -> str:
    """Words, or pairs of Chinese characters, whatever the order of lines."""
    chinese = config.normalise in ("han", "arithmetic")
    counts = [metrics.bags(item.reference, text, chinese=chinese) for item, text in zip(items, texts, strict=True)]
    both, own, theirs = ([float(row[n]) for row in counts] for n in range(3))
    found = metrics.ratio_interval(both, own, clusters, config.bootstrap, config.seed)
    right = metrics.ratio_interval(both, theirs, clusters, config.bootstrap, config.seed)
    return f"{name}: order aside, found {found}, right {right}"
