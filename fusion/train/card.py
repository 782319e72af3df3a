"""The card of a trained recogniser: its data, its training, and its figures on held-out material."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch

from fusion.onnx import file_sha256
from fusion.train import ppocr
from fusion.train.recipe import RecogniserRecipe, Rendered

if TYPE_CHECKING:
    from fusion.train.recogniser import Learner


def write_card(
    recipe: RecogniserRecipe,
    learner: Learner,
    sources: list[dict[str, Any]],
    figures: dict[str, dict[str, dict[str, float]]],
    difference: float,
) -> None:
    """Write the card, as JSON and as Markdown: data, training, figures on held-out material."""
    path = recipe.output / "recogniser.onnx"
    about = {source.name: source for source in recipe.hands}
    made = {
        "start": recipe.start.name if recipe.start else ppocr.NAME,
        "sha256": file_sha256(path),
        "characters": len(learner.characters),
        "sources": [
            {**entry, "licence": about[entry["source"]].licence, "attribution": about[entry["source"]].attribution}
            for entry in sources
        ],
        "steps": learner.steps,
        "samples": learner.samples,
        "seconds": round(learner.before + time.monotonic() - learner.begun),
        "device": torch.cuda.get_device_name() if learner.device.type == "cuda" else recipe.device,
        "onnx_difference": difference,
        "held_out": figures,
        "recipe": json.loads(recipe.model_dump_json()),
    }
    (recipe.output / "recogniser.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", "utf-8")
    rows = [
        f"| {name} | {before['exact']:.3f} / {before['cer']:.3f} | {after['exact']:.3f} / {after['cer']:.3f} |"
        for (name, before), after in zip(figures["start"].items(), figures["end"].values(), strict=True)
    ]
    real = [
        f"- {entry['source']}: {entry['trained_on']} crops, {entry['held_out']} more held out by "
        f"{UNITS[about[entry['source']].hold_out_by]}. {entry['licence']}. {entry['attribution']}"
        for entry in made["sources"]
    ]
    private = any(source.licence == PRIVATE for source in recipe.hands)
    card = CARD.format(
        licence="other" if private else "apache-2.0",
        start=made["start"],
        characters=made["characters"],
        sha256=made["sha256"],
        samples=made["samples"],
        seconds=made["seconds"],
        device=made["device"],
        data="\n".join([*real, *([_rendered(recipe.rendered)] if recipe.rendered is not None else [])]),
        rows="\n".join(rows),
    )
    (recipe.output / "README.md").write_text(card, encoding="utf-8")


def _rendered(rendered: Rendered) -> str:
    names = ", ".join(f"`{path.name}`" for path in rendered.names) or "none"
    return RENDERED.format(names=names, fonts=f"`{rendered.fonts}`, `{rendered.print_fonts}`")


RENDERED = """- Rendered texts in open fonts, each listed with its licence in {fonts}; English words of SCOWL; names of {names} and of
  the real words' labels; phrases, doses and sums written for this project; words of the real lines' labels."""
PRIVATE = "the corrector's own"
"""Licence of corrections: weights taught by them are not for others without asking."""
UNITS = {"word": "whole words", "writer": "whole writers", "note": "single lines"}
"""What is held out together, by `Hands.hold_out_by`."""
CARD = """---
license: {licence}
---
# A recogniser of Latin handwriting

{start} (PaddlePaddle, Apache-2.0), cut to {characters} characters of Latin script and signs and fine-tuned on real
handwriting by `fusion.train`: {samples:,} crops in {seconds} s on {device}. `recogniser.onnx` takes
crops as PP-OCR does and gives a CTC posterior; its metadata `character` lists the classes.

SHA-256 of `recogniser.onnx`: `{sha256}`

## Data

{data}

## Held-out material: exact / character error rate of the best path, regardless of case

| set | before | after |
|---|---|---|
{rows}

Rendered texts are held out by font and by text. Labels of words are noisy.
"""
