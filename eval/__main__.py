"""Command line of the evaluation: `python -m eval run | report | calibrate | probe | labels | …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from eval.datasets import load_split
from fusion.errors import FusionError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override; repeatable.")]


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


@app.command()
def run(configs: Annotated[list[Path], typer.Argument(help="Evaluations, e.g. configs/eval/rxhandbd.yaml.")]) -> None:
    """Compare OCR only, VLM only, fused and the oracles on the same lines."""
    from eval.runs import load_run
    from eval.runs import run as compare

    for path in configs:
        print(compare(load_run(path), _say), end="\n\n", flush=True)


@app.command()
def report(
    config: Annotated[Path, typer.Argument(help="What to compare, e.g. configs/eval/all.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder to write; what is there already is not read again.")],
    worst: Annotated[int, typer.Option(min=0, help="Lines shown of each set.")] = 12,
) -> None:
    """Every set and every system as one HTML file, with curves and ablations, and a Markdown table."""
    from eval.report import load_report
    from eval.report import report as write

    print(write(load_report(config), out, _say, worst))


@app.command()
def ask(
    configs: Annotated[list[Path], typer.Argument(help="Evaluations of lines or words; of each the first variant.")],
) -> None:
    """What asking the second reader about the least sure lines only keeps of its gain."""
    from eval.ask import curve
    from eval.runs import load_run

    for path in configs:
        print(curve(load_run(path), _say), end="\n\n", flush=True)


@app.command()
def predict(
    config: Annotated[Path, typer.Argument(help="Engine configuration.")],
    data: Annotated[Path, typer.Option(help="Split, a TSV.")],
    out: Annotated[Path, typer.Option(help="JSON lines to write.")],
    set_: Sets = None,
) -> None:
    """Read a split and write one line per row: image, text, confidence, review."""
    from eval.systems import engine_for, is_pages, read_split

    items = load_split(data)
    with engine_for(config, set_ or []) as engine, out.open("w", encoding="utf-8") as file:
        for read in read_split(engine, items, crop=not is_pages(data, items)):
            row = {"image": read.item.image, "text": read.fused, "confidence": read.confidence, "review": read.review}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()


@app.command()
def fit(config: Annotated[Path, typer.Argument(help="What to fit on.")] = Path("configs/eval/fit.yaml")) -> None:
    """Fit weights on training data only."""
    from eval.fit import fit as fit_weights
    from eval.fit import load_fit

    print(fit_weights(load_fit(config), f"python -m eval fit {config}", _say))


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="What to calibrate on.")] = Path("configs/eval/calibrate.yaml"),
) -> None:
    """Fit confidences, and the limits that keep what is left alone right, on lines that nothing else was fitted on."""
    from eval.fit import calibrate as calibrate_weights
    from eval.fit import load_fit

    print(calibrate_weights(load_fit(config), f"python -m eval calibrate {config}", _say))


@app.command()
def corrections(
    data: Annotated[Path, typer.Option(help="Training split, a TSV.")],
    out: Annotated[Path, typer.Option(help="JSON lines to write, for `python -m fusion.train adapt`.")],
    limit: Annotated[int, typer.Option(min=1, help="Rows drawn.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
) -> None:
    """Write rows of a split as corrections, as if somebody had mended that many lines."""
    import random

    items = load_split(data)
    drawn = random.Random(seed).sample(items, min(limit, len(items)))
    rows = [
        json.dumps({"image": str(item.path.resolve()), "text": item.reference}, ensure_ascii=False) for item in drawn
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(rows) + "\n", encoding="utf-8")


@app.command()
def rendered(
    recipe: Annotated[Path, typer.Argument(help="Training recipe.")] = Path("configs/train/small_reader.yaml"),
    print_fonts: Annotated[Path, typer.Option(help="Listing of print fonts.")] = Path("configs/train/print_fonts.yaml"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("build/rendered"),
    count: Annotated[int, typer.Option(min=1, help="Lines.")] = 660,
) -> None:
    """Write a split of lines, handwriting and print, in fonts and texts that the training keeps out (synthetic)."""
    from eval.rendered import write_split

    print(write_split(recipe, print_fonts, out, count))


@app.command()
def rendered_zh(
    fonts: Annotated[Path, typer.Option(help="Folder with the font families; see eval/samples/make.py.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("build/rendered_zh"),
    count: Annotated[int, typer.Option(min=1, help="Lines.")] = 1500,
) -> None:
    """Write a split of drawn Chinese lines, from clean to hardly legible, for calibration (synthetic)."""
    from eval.rendered_zh import write_split

    print(write_split(fonts, out, count))


@app.command()
def labels(
    split: Annotated[Path, typer.Argument(help="Split of words or lines, a TSV, rows in the order of labelling.")],
    out: Annotated[Path, typer.Option(help="TSV to write.")] = Path("build/suspects.tsv"),
    normalise: Annotated[str, typer.Option(help="What counts: plain, letters, han or arithmetic.")] = "plain",
    config: Annotated[Path | None, typer.Option(help="Engine configuration.")] = None,
    set_: Sets = None,
) -> None:
    """Find labels that are probably wrong: readers agree with each other and not with the label."""
    from eval.labels import search

    print(search(split, out, normalise, config, set_ or []))


@app.command()
def probe(
    fonts: Annotated[
        Path | None,
        typer.Option(help="Folder with the font families, see eval/samples/make.py: also probe over-correction."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to draw into.")] = Path("build/probes"),
    each: Annotated[int, typer.Option(min=1, help="Crops of each kind of paper.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Wrong hints per line.")] = 12,
) -> None:
    """Try the engine where a reader is wrong or there is nothing to read (synthetic)."""
    from eval import overcorrection, probes
    from eval.systems import engine_for

    with engine_for(None, probes.SETTINGS) as engine:
        print(probes.table(list(probes.all_probes(engine, probes.PAGES, each, rounds, _say))), flush=True)
    if fonts is not None:
        overcorrection.draw(fonts, out)
        print("\n" + overcorrection.measure(out, _say))


@app.command()
def batch(
    config: Annotated[Path, typer.Argument(help="Configuration with a `batch` section.")],
    set_: Sets = None,
    kills: Annotated[int, typer.Option(min=0, help="Times that a run is killed.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
) -> None:
    """Measure batch runs: workers, a changed weight, memory, and runs that are killed."""
    from eval.batches import measure

    print(measure(config, set_ or [], kills, rounds))


@app.command()
def bench(
    config: Annotated[Path, typer.Argument(help="Evaluation of pages, e.g. configs/eval/zh_notes_pages.yaml.")],
    against: Annotated[list[str] | None, typer.Option(help="PaddleOCR, RapidOCR or Tesseract; repeatable.")] = None,
    set_: Sets = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    pages: Annotated[int | None, typer.Option(min=1, help="Only the first pages of the split.")] = None,
) -> None:
    """Pages per second on two processes against other programs, errors beside it, and where the time of a page goes."""
    from eval.bench import bench as measure
    from eval.runs import load_run

    print(measure(load_run(config), against or [], set_ or [], rounds, pages, _say))


def main() -> None:
    """Entry point: an error for people ends with its message and exit code, never a traceback."""
    try:
        app()
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}. Check the path.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
