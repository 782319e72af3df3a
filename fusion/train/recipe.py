"""What a training run is: data, sizes and stages, as a YAML file says.

Knows the keys and their ranges; trains nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fusion.errors import ConfigError

LATIN = "".join(map(chr, range(32, 127))) + "×÷°½≤≥√π£µ–—’“”"
"""Characters that the small reader knows."""


class Part(BaseModel):
    """Base of every section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)


class Size(Part):
    """Sides of the checkpoint."""

    patch: int = Field(12, ge=4, description="Side of a patch, px.")
    height: int = Field(48, ge=16, description="Height of a crop, px; a multiple of twice the patch.")
    vision_width: int = Field(192, ge=16, description="Features of a patch.")
    vision_depth: int = Field(5, ge=1, description="Blocks of the vision tower.")
    vision_heads: int = Field(6, ge=1, description="Attention heads of the vision tower.")
    text_width: int = Field(192, ge=16, description="Features of a token.")
    text_depth: int = Field(3, ge=1, description="Layers of the decoder.")
    text_heads: int = Field(6, ge=1, description="Attention heads of the decoder.")
    frames: int = Field(3, ge=1, description="CTC frames per column of patches.")
    head: int = Field(256, ge=16, description="Hidden features of the CTC head.")
    alphabet: str = Field(LATIN, min_length=1, description="Characters, one token each.")

    @model_validator(mode="after")
    def _check_height(self) -> Size:
        if self.height % (2 * self.patch):
            raise ValueError(f"height {self.height} is no multiple of twice the patch {self.patch}")
        return self


class Ink(Part):
    """Real handwriting whose licence lets the weights be shipped."""

    name: str = Field(min_length=1, description="For the log and the card.")
    data: Path = Field(description="Training split of words or lines, a TSV with image, text, writer, note.")
    stretch: float = Field(1.0, gt=0, description="The crops' width is multiplied by this: 2.25 for squashed squares.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    hold_out: float = Field(0.1, ge=0, lt=1, description="Share kept out of training: for weights and for evaluation.")
    hold_out_by: Literal["image", "writer"] = Field("image", description="Unit of the held-out part.")
    distrust: float = Field(
        0.0, ge=0, lt=1, description="Share of each batch, that of the largest losses, taken as mislabelled."
    )
    licence: str = Field(min_length=1, description="As stated by the publisher.")
    attribution: str = Field(min_length=1, description="Authors and origin, to be named with the weights.")


class Synthetic(Part):
    """Rendered lines."""

    fonts: Path = Field(description="Listing of fonts and word lists.")
    names: tuple[Path, ...] = Field(
        (), description="Lists of names to draw texts from beside the real words' own, one a line."
    )
    lines: int = Field(30_000, ge=1, description="Texts rendered.")
    longest_word: int = Field(12, ge=1, description="Most characters of a short text, batched with words.")


class Stage(Part):
    """One leg of the training.

    A batch is of real words, of rendered short texts, or of lines (rendered ones, and real words set side by side).
    """

    name: str = Field(description="For the log.")
    steps: int = Field(ge=1, description="Optimiser steps.")
    batch: int = Field(64, ge=1, description="Short crops per step; of lines a third.")
    rate: float = Field(2e-2, gt=0, description="Peak step length of the matrices (Muon).")
    decay: float = Field(
        0.5, ge=0, le=1, description="Share of the stage, its last, over which the step length falls to nothing."
    )
    ink: float = Field(0.5, ge=0, le=1, description="Share of steps on real words.")
    lines: float = Field(0.15, ge=0, le=1, description="Share of steps on lines.")
    splice: float = Field(
        0.0, ge=0, le=1, description="Share of the real words of a batch that are put together from two."
    )
    decoder: bool = Field(False, description="Train the decoder too; otherwise tower and head alone.")
    slower: float = Field(1.0, gt=0, description="Step length of tower and head relative to the decoder's.")


class Recipe(Part):
    """A whole run."""

    seed: int = Field(1, description="Seed of weights, draws and pictures.")
    threads: int = Field(2, ge=1, description="CPU threads.")
    device: str = Field("cpu", description="Torch device.")
    compile: bool = Field(True, description="Compile the blocks.")
    bf16: bool = Field(False, description="Autocast to bfloat16: only where the processor has it.")
    work: Path = Field(description="Folder for caches, logs and the state that a run resumes from.")
    output: Path = Field(description="Folder of the exported checkpoint.")
    start: Path | None = Field(None, description="Checkpoint of the same size to go on from; None: from nothing.")
    keep: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the start's weights in those written; of what it knew, so much less is forgotten.",
    )
    size: Size = Field(Size(), description="Sides of the checkpoint.")
    ink: tuple[Ink, ...] = Field((), description="Real handwriting.")
    synthetic: Synthetic = Field(description="Rendered handwriting.")
    stages: tuple[Stage, ...] = Field(min_length=1, description="One after the other.")
    report_every: int = Field(500, ge=1, description="Steps between evaluations and saved states.")


class Hands(Part):
    """One source of real handwriting for the recogniser; its licence must let the weights be shipped."""

    name: str = Field(description="For the log and the card.")
    data: Path = Field(description="A TSV with image, text, writer, note.")
    kind: Literal["words", "lines"] = Field(description="What a crop holds.")
    upright: float = Field(1.0, gt=0, description="The crops' width is multiplied by this: 2.25 for squashed squares.")
    stretch: tuple[float, float] = Field((0.8, 1.25), description="Least and greatest width, relative to that.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    hold_out: float = Field(0.06, ge=0, lt=1, description="Share of the words, or of the writers, kept for evaluation.")
    hold_out_by: Literal["word", "writer", "note"] = Field(
        "writer",
        description="Unit of the held-out part; `note`: the rows whose note says `held out`, whatever the share.",
    )
    distrust: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of this source's crops in a batch, those with the largest losses, taken for mislabelled.",
    )
    any_case: bool = Field(False, description="The labels' case is unreliable: train on the likeliest case.")
    licence: str = Field(description="As stated by the publisher.")
    attribution: str = Field(description="Authors and origin, to be named with the weights.")


class Rendered(Part):
    """Rendered texts: new words and phrases, and rehearsal of print."""

    fonts: Path = Field(description="Listing of handwriting fonts and of word lists.")
    print_fonts: Path = Field(description="Listing of print fonts.")
    accent_fonts: Path | None = Field(None, description="Listing of fonts that have accented letters; None: draw none.")
    names: tuple[Path, ...] = Field((), description="Lists of names to draw texts from, one a line.")
    judged: int = Field(200, ge=1, description="Texts of each kind, in held-out fonts and words, to evaluate on.")


class Shares(Part):
    """Relative frequencies of the kinds of crops."""

    word: float = Field(0.17, ge=0, description="A real word.")
    spliced: float = Field(0.14, ge=0, description="The beginning of one real word and the end of another.")
    pad: float = Field(0.14, ge=0, description="Real words and rendered doses side by side: a line of a prescription.")
    line: float = Field(0.18, ge=0, description="A real line, whole or a stretch of it.")
    joined: float = Field(0.07, ge=0, description="Stretches of real lines of one hand side by side.")
    hand: float = Field(0.20, ge=0, description="A text in a handwriting font.")
    print: float = Field(0.10, ge=0, description="A text in a print font.")


class RecogniserRecipe(Part):
    """A run of `python -m fusion.train recogniser`."""

    seed: int = Field(1, description="Seed of draws and pictures.")
    device: str = Field("cpu", description="Torch device.")
    threads: int = Field(2, ge=1, description="CPU threads of the network.")
    workers: int = Field(0, ge=0, description="Worker processes that make crops; 0: none.")
    bf16: bool = Field(False, description="Autocast to bfloat16: only where the processor has it.")
    work: Path = Field(description="Folder of the material, and of the state that a run resumes from.")
    output: Path = Field(description="Folder of the recogniser, its card and its log.")
    start: Path | None = Field(None, description="ONNX file to start from; default: the packaged PP-OCRv6-small.")
    hands: tuple[Hands, ...] = Field(min_length=1, description="Real handwriting.")
    rendered: Rendered | None = Field(None, description="Rendered texts; None: none, and no font is fetched.")
    shares: Shares = Field(Shares(), description="Mixture of a batch.")
    seconds: float = Field(7200, gt=0, description="Time of the whole run, evaluation and export included.")
    batch: int = Field(32, ge=2, description="Crops per step, of 320 px; of wider ones proportionally fewer.")
    rate: float = Field(1.5e-3, gt=0, description="Peak step length, as a share of a kernel's size.")
    clip: float = Field(1.0, gt=0, description="Greatest norm of the gradients, in units of the kernels' sizes.")
    warm_up: float = Field(0.05, ge=0, lt=1, description="Share of the time in which the step length grows.")
    average: float = Field(0.999, ge=0, lt=1, description="Decay of the average of the weights (EMA).")
    tether: float = Field(0.3, ge=0, description="Weight of the divergence from the start on rendered texts.")
    tether_real: float = Field(0.05, ge=0, description="The same on real handwriting.")
    reports: int = Field(6, ge=1, description="Evaluations and saved states, evenly over the time.")

    @property
    def distrusted(self) -> dict[str, float]:
        """Source → share of its crops taken for mislabelled."""
        return {source.name: source.distrust for source in self.hands if source.distrust}


def load_recogniser_recipe(path: Path, overrides: dict[str, object] | None = None) -> RecogniserRecipe:
    """Load a recipe of the recogniser; ConfigError names what is wrong."""
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RecogniserRecipe.model_validate({**read, **(overrides or {})})
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(
            path, f"is no recipe of a recogniser ({error})", "See configs/train/recogniser.yaml."
        ) from error


def load_recipe(path: Path, overrides: dict[str, object] | None = None) -> Recipe:
    """Load the small reader's recipe; ConfigError names what is wrong."""
    return load_part(path, Recipe, overrides)


def load_part(path: Path, kind: type[P], overrides: dict[str, object] | None = None) -> P:
    """Load a recipe of a kind; ConfigError names what is wrong."""
    try:
        return kind.model_validate({**yaml.safe_load(path.read_text(encoding="utf-8")), **(overrides or {})})
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(
            path, f"is no training recipe ({error})", "The recipes that ship are in configs/train."
        ) from error
