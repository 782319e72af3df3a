"""`eval ask`: what asking the second reader about some lines only keeps of its gain, the least sure lines first.

Every line is decided twice: by the OCR alone, and with the reader. The order is the engine's own under `vlm.ask: budget`, as
if all lines stood on one page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from eval import metrics
from eval.datasets import NORMALISATIONS, Item, clusters_of
from eval.runs import RunConfig, items_of
from eval.systems import engine_for, is_pages
from fusion.config import load_config
from fusion.engine import Engine
from fusion.errors import ConfigError
from fusion.ink import Evidence, Seen
from fusion.intake import open_pages

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the lines that are asked about."""


def curve(config: RunConfig, progress: Callable[[str], None]) -> str:
    """CER against the share of lines asked, under the first variant of a comparison of crops, as a Markdown table."""
    items = items_of(config)
    if is_pages(config.data, items):
        raise ConfigError(config.data, "holds pages", "Name a split of lines or words.")
    variant = config.variants[0]
    asking = hasattr(load_config(config.engine, variant.set).vlm, "ask")
    progress(f"{config.title}, {variant.name}")
    with engine_for(config.engine, [*variant.set, *["vlm.ask=all"] * asking], variant.formulary_from) as engine:
        rows = [_twice(engine, item) for item in items]
    return table(config, items, rows)


def _twice(engine: Engine, item: Item) -> tuple[str, str, float]:
    """A line as the OCR alone decides it, as it is with the reader, and how sure the OCR alone is."""
    (image,) = open_pages(item.path, engine.config.intake, crop=True)
    seen = engine.look(image, name=str(item.path), crop=True)
    sure = min((engine.sureness(one.line) for one in seen.lines), default=0.0)
    return engine.decide(_alone(seen)).text, engine.decide(seen).text, sure


def _alone(evidence: Evidence) -> Evidence:
    return replace(evidence, lines=tuple(Seen(seen.line) for seen in evidence.lines))


def table(config: RunConfig, items: Sequence[Item], rows: Sequence[tuple[str, str, float]]) -> str:
    """The curve; each row of `rows` is an item's text without and with the reader, and its confidence without."""
    normal = NORMALISATIONS[config.normalise]
    references = [normal(item.reference) for item in items]
    without = metrics.Counts.of(references, [normal(row[0]) for row in rows])
    with_it = metrics.Counts.of(references, [normal(row[1]) for row in rows])
    gain, clusters = without.edits - with_it.edits, clusters_of(list(items))
    order = np.argsort([row[2] for row in rows], kind="stable")
    told = [
        f"{config.title}, {config.variants[0].name}: n = {len(items)}, gain of asking about all {gain.sum()} edits",
        "",
        "| share asked | CER | CER minus all asked | share of the gain kept |",
        "|---|---|---|---|",
    ]
    for share in SHARES:
        asked = np.zeros(len(items), dtype=np.bool_)
        asked[order[: round(share * len(items))]] = True
        edits = np.where(asked, with_it.edits, without.edits)
        bounds = (clusters, config.bootstrap, config.seed)
        cer = metrics.ratio_interval(edits, without.lengths, *bounds)
        kept = metrics.ratio_interval(gain * asked, gain, *bounds) if gain.sum() > 0 else "no gain"
        more = metrics.ratio_interval(edits - with_it.edits, without.lengths, *bounds)
        told.append(f"| {share:.1f} | {cer} | {more} | {kept} |")
    return "\n".join(told)
