"""`eval run`: the table of one split, every system on the same lines.

Knows reads and metrics; runs nothing itself but the engine through `systems`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rapidfuzz.distance import Levenshtein

from eval import metrics, trust
from eval.blind import Sight
from eval.datasets import NORMALISATIONS, Item, Normalisation, clusters_of, load_split, names_of
from eval.systems import Read, engine_for, is_pages, read_split
from fusion.domain.formulary import drug_names
from fusion.errors import ConfigError


class Variant(BaseModel):
    """One configuration of the engine to be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(description="Row label.")
    set: tuple[str, ...] = Field((), description="Overrides, `section.key=value`.")
    formulary_from: Path | None = Field(None, description="Split whose texts are given as the formulary.")
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
    variants: tuple[Variant, ...] = Field(min_length=1, description="Configurations; the first gives the OCR rows.")
    bootstrap: int = Field(2000, ge=100, description="Resamples.")
    seed: int = Field(20261122, description="Seed of the resampling.")


def load_run(path: Path) -> RunConfig:
    """Load a comparison; ConfigError names what is wrong."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RunConfig.model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(path, f"is no evaluation ({error})", "See configs/eval/ for examples.") from error


def run(config: RunConfig, progress: Callable[[str], None]) -> str:
    """Read the split with every variant and return the table as text."""
    items = load_split(config.data)
    if config.only is not None:
        kept = {row.split("\t")[0] for row in config.only.read_text(encoding="utf-8").splitlines()[1:]}
        items = [item for item in items if item.image in kept]
    crop = not is_pages(config.data, items)
    reads: dict[str, list[Read]] = {}
    for variant in config.variants:
        progress(variant.name)
        with engine_for(config.engine, variant.set, variant.formulary_from, variant.sight) as engine:
            reads[variant.name] = list(read_split(engine, items, crop=crop))
    return table(config, items, reads)


def table(config: RunConfig, items: Sequence[Item], reads: dict[str, list[Read]]) -> str:
    """The comparison as a Markdown table."""
    normal = NORMALISATIONS[config.normalise]
    references = [normal(item.reference) for item in items]
    first = next(iter(reads.values()))

    def count(texts: Sequence[str]) -> metrics.Counts:
        return metrics.Counts.of(references, [normal(text) for text in texts])

    def nearest(options: Sequence[Sequence[str]]) -> metrics.Counts:
        return count([_nearest(o, r, normal) for r, o in zip(references, options, strict=True)])

    ocr = count([read.ocr for read in first])
    clusters = clusters_of(list(items))
    rows: list[tuple[str, metrics.Counts, float | None]] = [("OCR only", ocr, _mean(r.ocr_seconds for r in first))]
    if any(read.vlm for read in first):
        said = count([read.vlm[0] if read.vlm else "" for read in first])
        rows.append(("VLM only", said, _mean(r.vlm_seconds for r in first)))
    rows += [(name, count([r.fused for r in own]), _mean(r.seconds for r in own)) for name, own in reads.items()]
    if names := _names(config.variants):
        snapped = [_nearest_name(read.ocr, names) for read in first]
        rows.append(("OCR snapped to the nearest name, no threshold", count(snapped), None))
    if any(read.nbest for read in first):
        rows.append(("oracle: OCR n-best", nearest([[read.ocr, *read.nbest] for read in first]), None))
        rows.append(("oracle: n-best, VLM, fused", nearest([[r.ocr, *r.nbest, *r.vlm, r.fused] for r in first]), None))
    lines = [
        f"{config.title}: n = {len(items)}, normalisation `{config.normalise}`, 95 % bootstrap over {len(set(clusters))} writers, words or items",
        "",
        "| system | exact match | CER | CER minus OCR only | mended / broken | s per item |",
        "|---|---|---|---|---|---|",
    ]
    for name, counts, mean in rows:
        exact = metrics.exact_interval(counts, clusters, config.bootstrap, config.seed)
        cer = metrics.cer_interval(counts, clusters, config.bootstrap, config.seed)
        paired = (
            "" if counts is ocr else str(metrics.cer_difference(counts, ocr, clusters, config.bootstrap, config.seed))
        )
        fixed = int((counts.exact & ~ocr.exact).sum())
        broken = int((~counts.exact & ocr.exact).sum())
        seconds = f"{mean:.3f}" if mean is not None else ""
        lines.append(
            f"| {name} | {exact} | {cer} | {paired} | {'' if counts is ocr else f'{fixed} / {broken}'} | {seconds} |"
        )
    fused = {name: count([r.fused for r in own]) for name, own in reads.items()}
    for variant in config.variants[1:]:
        if variant.against:
            gap = metrics.cer_difference(
                fused[variant.name], fused[config.variants[0].name], clusters, config.bootstrap, config.seed
            )
            lines.append(f"CER of {variant.name} minus {config.variants[0].name}: {gap}")
    lines += ["", *_trusted(config, items, reads)]
    lines += [
        _foreign(variant.name, reads[variant.name], references, {normal(name) for name in _names([variant])}, normal)
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


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(1, len(found))


def _nearest(texts: Sequence[str], reference: str, normal: Callable[[str], str]) -> str:
    return min(texts, key=lambda text: metrics.edits(reference, normal(text))[0])


def _trusted(config: RunConfig, items: Sequence[Item], reads: dict[str, list[Read]]) -> Iterator[str]:
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


def _texts(first: Sequence[Read], reads: dict[str, list[Read]]) -> dict[str, list[str]]:
    return {"OCR only": [read.ocr for read in first]} | {name: [r.fused for r in own] for name, own in reads.items()}


def _found(name: str, texts: Sequence[str], items: Sequence[Item], clusters: Sequence[str], config: RunConfig) -> str:
    """Words, or pairs of Chinese characters, whatever the order of lines."""
    chinese = config.normalise in ("han", "arithmetic")
    counts = [metrics.bags(item.reference, text, chinese=chinese) for item, text in zip(items, texts, strict=True)]
    both, own, theirs = ([float(row[n]) for row in counts] for n in range(3))
    found = metrics.ratio_interval(both, own, clusters, config.bootstrap, config.seed)
    right = metrics.ratio_interval(both, theirs, clusters, config.bootstrap, config.seed)
    return f"{name}: order aside, found {found}, right {right}"
