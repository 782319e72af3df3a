"""`python -m fusion.train`: train the models that ship, or teach them one's own hand by corrections."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fusion.errors import ConfigError, FusionError
from fusion.train.recipe import load_part, load_recipe, load_recogniser_recipe

app = typer.Typer(
    add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__
)


@app.callback()
def _root() -> None:
    """Train the small reader, or go on from a checkpoint with one's own corrections."""


@app.command()
def reader(
    config: Annotated[Path, typer.Option(help="Recipe, a YAML file.")],
) -> None:
    """Train the small reader and export its checkpoint; a broken run goes on where it stood."""
    recipe = load_recipe(config)
    from fusion.train.reader import train

    recipe.work.mkdir(parents=True, exist_ok=True)
    with (recipe.work / "log.jsonl").open("a", encoding="utf-8") as file:

        def log(line: str) -> None:
            typer.echo(f"{time.strftime('%H:%M:%S')} {line}")
            file.write(line + "\n")
            file.flush()

        train(recipe, log)


@app.command()
def marks(config: Annotated[Path, typer.Option(help="Recipe, a YAML file.")]) -> None:
    """Train the network that tells print from hand and sees what is struck out."""
    from fusion.train import marks as training

    training.train(load_part(config, training.Recipe), typer.echo)


@app.command()
def languages(config: Annotated[Path, typer.Option(help="Recipe, a YAML file.")]) -> None:
    """Make the models of English prose and of Chinese words."""
    from fusion.train import languages as training

    training.train(load_part(config, training.Recipe), typer.echo)


@app.command()
def recogniser(
    config: Annotated[Path, typer.Option(help="Recipe, a YAML file.")],
    device: Annotated[str | None, typer.Option(help="Torch device, instead of the recipe's.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Time of the whole run, instead of the recipe's.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Crops per step, instead of the recipe's.")] = None,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="Peak step length, instead of the recipe's.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that make crops, instead of the recipe's.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the result, instead of the recipe's.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the material, instead of the recipe's.")] = None,
    start: Annotated[Path | None, typer.Option(help="ONNX file to go on from, instead of the packaged one.")] = None,
    gather: Annotated[bool, typer.Option("--gather", help="Only fill the folder of the material.")] = False,
) -> None:
    """Fine-tune PP-OCR's recogniser on real handwriting; a broken run continues from its saved state."""
    given = {
        "device": device,
        "seconds": seconds,
        "batch": batch,
        "rate": rate,
        "workers": workers,
        "output": output,
        "work": work,
        "start": start,
    }
    recipe = load_recogniser_recipe(config, {key: value for key, value in given.items() if value is not None})
    from fusion.train.recogniser import prepare, train

    recipe.output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with (recipe.output / "log.jsonl").open("a", encoding="utf-8") as file:

        def log(line: str) -> None:
            typer.echo(f"{time.monotonic() - begun:7.1f} {line}")
            file.write(line + "\n")
            file.flush()

        prepare(recipe, log) if gather else train(recipe, log)


@app.command()
def adapt(
    data: Annotated[Path, typer.Option(help='Corrections, a JSONL file of {"image": …, "text": …}.')],
    output: Annotated[Path, typer.Option(help="Folder of the new recogniser: name its file in ocr.hand_model.")],
    start: Annotated[
        Path | None, typer.Option(help="ONNX file to go on from, instead of the packaged recogniser of Latin hands.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Time of the whole run.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    bf16: Annotated[bool, typer.Option(help="bfloat16 arithmetic: faster where the processor has it.")] = False,
) -> None:
    """Teach the recogniser of Latin hands one's own hand by corrected crops."""
    from fusion.ocr import LATIN
    from fusion.train import adapt as adapting

    figures = adapting.adapt(
        data, start or LATIN, output, seconds=60 * minutes, threads=threads, bf16=bf16, log=typer.echo
    )
    for name, before in figures["start"].items():
        after = figures["end"][name]["cer"]
        worse = "" if after <= before["cer"] else ": it has learnt nothing; give more corrections, or more --minutes"
        typer.echo(f"{name}: character error rate {before['cer']:.3f} before, {after:.3f} after{worse}")
    typer.echo(f"use it with --set ocr.hand_model={output / 'recogniser.onnx'}")


@app.command()
def adapt_reader(
    data: Annotated[Path, typer.Option(help='Corrections, a JSONL file of {"image": …, "text": …}.')],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint: name it in vlm.model.")],
    start: Annotated[str, typer.Option(help="Checkpoint to go on from: small, or a folder.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1500,
    batch: Annotated[int, typer.Option(min=4, help="Words per step; of lines proportionally fewer.")] = 48,
    rate: Annotated[float, typer.Option(min=1e-6, help="Peak step length of the matrices.")] = 0.01,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    bf16: Annotated[bool, typer.Option(help="bfloat16 arithmetic: faster where the processor has it.")] = False,
) -> None:
    """Teach the small reader one's own hand by corrected crops."""
    from importlib.resources import files

    from fusion.train import adapt as adapting

    folder = Path(str(files("fusion.vlm") / "small")) if start == "small" else Path(start)
    rates = adapting.adapt_reader(
        data, folder, output, steps=steps, batch=batch, rate=rate, threads=threads, bf16=bf16, log=typer.echo
    )
    typer.echo(
        f"character error rate on corrections kept out: {rates['before']:.3f} before, {rates['after']:.3f} after"
    )
    typer.echo(f"use it with --set vlm.model={output}")


@app.command()
def graphs(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint of the small reader.")],
) -> None:
    """Write the ONNX graphs of a checkpoint of the small reader anew, from its weights; nothing is trained."""
    from fusion.train.graphs import rewrite_graphs

    rewrite_graphs(folder)
    typer.echo(f"wrote look.onnx, prompt.onnx, proceed.onnx and reader.json in {folder}")


@app.command()
def lora(
    data: Annotated[Path, typer.Option(help='Corrections, a JSONL file of {"image": …, "text": …}.')],
    output: Annotated[Path, typer.Option(help="Folder for the adapter and the merged checkpoint.")],
    model: Annotated[
        str, typer.Option(help="GLM checkpoint: a folder, or a hub name already here.")
    ] = "zai-org/GLM-OCR",
    epochs: Annotated[int, typer.Option(min=1, help="Times that every correction is seen.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 4,
    rate: Annotated[float, typer.Option(min=1e-9, help="Peak step length.")] = 1e-4,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter's matrices.")] = 16,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda …")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    prompt: Annotated[str, typer.Option(help="glm_ocr (the one GLM-OCR knows) or blind.")] = "glm_ocr",
) -> None:
    """Teach a large GLM one's own hand with LoRA (peft)."""
    from fusion.train import lora as tuning

    if prompt not in ("glm_ocr", "blind"):
        raise ConfigError("--prompt", f"is {prompt}", "Use glm_ocr or blind.")
    nats = tuning.lora(
        data,
        model,
        output,
        epochs=epochs,
        batch=batch,
        rate=rate,
        rank=rank,
        device=device,
        threads=threads,
        prompt="blind" if prompt == "blind" else "glm_ocr",
        log=typer.echo,
    )
    typer.echo(f"nats per character on corrections kept out: {nats['before']:.3f} before, {nats['after']:.3f} after")
    typer.echo(f"use it with --set vlm.engine=local --set vlm.model={output / 'merged'}")


def main() -> None:
    """Errors of the user are one line, not a traceback."""
    try:
        app()
    except FusionError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
