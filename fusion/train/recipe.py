"""What a training run is: data, sizes and stages, as a YAML file says.

Knows the keys and their ranges; trains nothing.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fusion.errors import ConfigError

LATIN = "".join(map(chr, range(32, 127))) + "×÷°½≤≥√π£µ–—’“”"
"""Characters that the small reader knows."""


class Part(BaseModel):
    """Base of every section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    data: Path = Field(description="Training split, a TSV with image, text, writer, note.")
    stretch: float = Field(1.0, gt=0, description="The crops' width is multiplied by this: 2.25 for squashed squares.")
    skip_notes: tuple[str, ...] = Field((), description="Rows whose note contains one of these are left out.")
    hold_out: float = Field(0.1, ge=0, lt=1, description="Share kept out of training: for weights and for evaluation.")
    distrust: float = Field(
        0.0, ge=0, lt=1, description="Share of each batch, that of the largest losses, taken as mislabelled."
    )


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
    size: Size = Field(Size(), description="Sides of the checkpoint.")
    ink: tuple[Ink, ...] = Field((), description="Real handwriting.")
    synthetic: Synthetic = Field(description="Rendered handwriting.")
    stages: tuple[Stage, ...] = Field(min_length=1, description="One after the other.")
    report_every: int = Field(500, ge=1, description="Steps between evaluations and saved states.")


def load_recipe(path: Path, overrides: dict[str, object] | None = None) -> Recipe:
    """Load a recipe; ConfigError names what is wrong."""
    try:
        return Recipe.model_validate({**yaml.safe_load(path.read_text(encoding="utf-8")), **(overrides or {})})
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(path, f"is no training recipe ({error})", "See configs/train/small_reader.yaml.") from error
