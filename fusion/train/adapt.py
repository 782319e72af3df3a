"""`train adapt` and `train adapt-reader`: teach the recogniser of Latin hands, or the small reader, one's own hand.

Knows corrections and the order of work; `recogniser` and `learn` know how. A correction is a crop and its right text; what
the engine writes as JSON and a person has mended is one too.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fusion.errors import ConfigError, InputError
from fusion.train import hands, ppocr, recogniser
from fusion.train.card import PRIVATE
from fusion.train.corrections import HELD_OUT, read_rows
from fusion.train.crops import Deck, Sample, in_share, read_crop
from fusion.train.export import calibrate, export
from fusion.train.learn import Decks, Learner
from fusion.train.recipe import Hands, Recipe, RecogniserRecipe, Size, Stage, Synthetic
from fusion.vlm.small import READER

FEWEST = 20
KEPT_OUT = "kept_out.tsv"
"""Beside the checkpoint: the corrections it was not shown, as a split on which weights for it can be fitted."""


def adapt(
    data: Path, start: Path, output: Path, *, seconds: float, threads: int, bf16: bool, log: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Train the recogniser of Latin hands on corrections, and write it as ONNX with its card.

    Args:
        data: JSONL file.
        start: ONNX file to go on from.
        output: folder of the result.
        seconds: time of the whole run.
        threads: CPU threads.
        bf16: see `RecogniserRecipe.bf16`.
        log: takes progress lines.

    Returns:
        As `recogniser.train`, of the corrections kept out.

    Raises:
        ConfigError: there is something in the folder of the result.
        InputError, ReaderError: corrections or start can't be used.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output}", "is there already", "Name a new folder.")
    _, characters = ppocr.read(start)
    classes = {character: number for number, character in enumerate(filter(ppocr.is_latin, characters), 1)}
    every = read_rows(data)
    rows = [(image, text, stretch) for image, text, stretch in every if hands.spelt(text, classes)]
    _require(data, len(rows))
    held = _kept_out([row[:2] for row in rows])
    strange = len(every) - len(rows)
    log(_counts(held, strange))
    with tempfile.TemporaryDirectory() as work:
        sources = tuple(
            _source(
                Path(work) / f"{number}.tsv",
                stretch,
                [(kept, *row[:2]) for kept, row in zip(held, rows, strict=True) if row[2] == stretch],
            )
            for number, stretch in enumerate(sorted({stretch for *_, stretch in rows}))
        )
        recipe = RecogniserRecipe(
            work=Path(work), output=output, start=start, hands=sources, seconds=seconds, threads=threads, bf16=bf16,
            tether=0, tether_real=0,  # what it forgets of other hands, PP-OCR's own recogniser still reads
        )  # fmt: skip
        figures = recogniser.train(recipe, log)
    _write_split(output / KEPT_OUT, [row[:2] for kept, row in zip(held, rows, strict=True) if kept])
    return figures


def _kept_out(rows: Sequence[tuple[Path, str]]) -> list[bool]:
    """Which corrections are kept out, by image and text: the same, whoever is taught and whatever else there is."""
    held = [in_share(f"{image.name} {text}", HELD_OUT) for image, text in rows]
    return held if any(held) else [n == 0 for n in range(len(rows))]


def _counts(held: Sequence[bool], strange: int) -> str:
    seen = len(held) - sum(held)
    return f"{seen} corrections to learn from, {sum(held)} kept out, {strange} left out for characters it does not know"


def _source(path: Path, stretch: float, rows: Sequence[tuple[bool, Path, str]]) -> Hands:
    """A source of the recogniser's training: the corrections with one stretch; whether it is held out, image and text of each."""
    table = (
        f"{image.resolve()}\t{' '.join(text.split())}\t\t{hands.HELD_OUT_NOTE if held else ''}\n"
        for held, image, text in rows
    )
    path.write_text("image\ttext\twriter\tnote\n" + "".join(table), encoding="utf-8")
    return Hands(
        name=f"corrections ×{stretch}", data=path, kind="lines", upright=stretch, hold_out_by="note",
        licence=PRIVATE, attribution="Not to be passed on without asking its writers.",
    )  # fmt: skip


def load_corrections(path: Path, alphabet: str) -> tuple[list[tuple[Path, Sample]], int]:
    """Corrections of a JSONL file with their images, and how many were left out for a character that the checkpoint lacks.

    Raises:
        InputError: names the row and what is wrong with it.
    """
    samples, strange = [], 0
    for image, text, stretch in read_rows(path):
        if not text or not set(text) <= set(alphabet):
            strange += 1
            continue
        samples.append((image, Sample(read_crop(image, stretch), text)))
    _require(path, len(samples))
    return samples, strange


def _require(path: Path, count: int) -> None:
    if count < FEWEST:
        way = f"Give at least {FEWEST} corrected crops in Latin script; some hundreds are worth the time."
        raise InputError(path, f"holds {count} usable corrections", way)


def adapt_reader(
    data: Path,
    start: Path,
    output: Path,
    *,
    steps: int,
    batch: int,
    rate: float,
    threads: int,
    bf16: bool,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Train the small reader on corrections and export the result.

    Args:
        data: JSONL file.
        start: checkpoint folder to go on from.
        output: folder of the new checkpoint.
        steps: optimiser steps.
        batch: words per step; of lines proportionally fewer.
        rate: peak step length of the matrices.
        threads: CPU threads.
        bf16: see `Recipe.bf16`.
        log: takes progress lines.

    Returns:
        Character error rates of the head's best path on the corrections kept out: `before` and `after`.

    Raises:
        InputError: corrections or checkpoint can't be used.
    """
    size = _size(start)
    rows, strange = load_corrections(data, size.alphabet)
    random.Random(1).shuffle(rows)
    held = _kept_out([(image, sample.text) for image, sample in rows])
    unseen, seen = (
        [sample for kept, (_, sample) in zip(held, rows, strict=True) if kept is wanted] for wanted in (True, False)
    )
    log(_counts(held, strange))
    with tempfile.TemporaryDirectory() as work:
        stage = Stage(name="adapt", steps=steps, batch=batch, rate=rate, ink=1.0, lines=0.0, decoder=True)
        recipe = _recipe(Path(work), output, size, stage, threads, bf16)
        learner = Learner(recipe)
        learner.start_from(start)
        before = learner.error_rate(unseen)
        deck = Deck(seen)
        learner.run(Decks((deck,), deck, deck, (1.0,)), lambda: {"kept out": round(learner.error_rate(unseen), 4)}, log)
    after = learner.error_rate(unseen)
    card = (
        f"# A reader adapted to one hand\n\nFrom `{start.name}`, {steps} steps on {len(seen)} corrected crops. Character "
        f"error rate of its own best path on {len(unseen)} crops kept out: {before:.3f} before, {after:.3f} after.\n"
    )
    export(learner, output, card, calibrate(learner, unseen))
    split = [(image, sample.text) for kept, (image, sample) in zip(held, rows, strict=True) if kept]
    _write_split(output / KEPT_OUT, split)
    return {"before": before, "after": after}


def _recipe(work: Path, output: Path, size: Size, stage: Stage, threads: int, bf16: bool) -> Recipe:
    return Recipe(
        work=work,
        output=output,
        size=size,
        threads=threads,
        bf16=bf16,
        compile=False,  # needs a compiler, and a short run does not earn back its time
        synthetic=Synthetic(fonts=Path("-")),
        stages=(stage,),
        report_every=max(50, stage.steps // 10),
    )


def _write_split(path: Path, rows: Sequence[tuple[Path, str]]) -> None:
    table = "".join(f"{image.resolve()}\t{' '.join(text.split())}\t\t\n" for image, text in rows)
    path.write_text("image\ttext\twriter\tnote\n" + table, encoding="utf-8")


def _size(folder: Path) -> Size:
    """Sides of an exported checkpoint."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reader = json.loads((folder / READER).read_text(encoding="utf-8"))
        vision, text = config["vision_config"], config["text_config"]
        return Size(
            patch=vision["patch_size"],
            height=reader["height"],
            vision_width=vision["hidden_size"],
            vision_depth=vision["depth"],
            vision_heads=vision["num_heads"],
            text_width=text["hidden_size"],
            text_depth=text["num_hidden_layers"],
            text_heads=text["num_attention_heads"],
            frames=reader["frames"],
            head=reader["hidden"],
            alphabet=reader["alphabet"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        way = "Give the folder of a checkpoint that `python -m fusion.train reader` or `adapt-reader` has written."
        raise InputError(folder, f"is no checkpoint of a small reader ({type(error).__name__})", way) from error
