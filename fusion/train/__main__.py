"""`python -m fusion.train`: train the small reader, or go on from a checkpoint with one's own corrections."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fusion.errors import FusionError
from fusion.train.recipe import load_recipe

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


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
def adapt(
    data: Annotated[Path, typer.Option(help='Corrections, a JSONL file of {"image": …, "text": …}.')],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint: name it in vlm.model.")],
    start: Annotated[str, typer.Option(help="Checkpoint to go on from: small, or a folder.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1500,
    batch: Annotated[int, typer.Option(min=4, help="Words per step; of lines proportionally fewer.")] = 48,
    rate: Annotated[float, typer.Option(min=1e-6, help="Peak step length of the matrices.")] = 0.01,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Go on from a checkpoint with corrected crops of one's own hand."""
    from importlib.resources import files

    from fusion.train import adapt as adapting

    folder = Path(str(files("fusion.vlm") / "small")) if start == "small" else Path(start)
    rates = adapting.adapt(data, folder, output, steps=steps, batch=batch, rate=rate, threads=threads, log=typer.echo)
    typer.echo(
        f"character error rate on corrections kept out: {rates['before']:.3f} before, {rates['after']:.3f} after"
    )
    typer.echo(f"use it with --set vlm.model={output}")


def main() -> None:
    """Errors of the user are one line, not a traceback."""
    try:
        app()
    except FusionError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
