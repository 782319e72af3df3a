"""`train lora`: teach a GLM vision checkpoint one's own hand with a low-rank adapter.

Knows how a correction becomes tokens to be learnt from, and the order of work; that a crop and a question become tokens
is the local reader's knowledge, so a model is taught exactly what it will be asked. Low-rank adapters: Hu et al., "LoRA:
low-rank adaptation of large language models", ICLR 2022. The language model's projections get one; the vision tower
stays as it is.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn import functional
from transformers.utils.hub import cached_file

from fusion.config import LocalVlm
from fusion.errors import ConfigError, DependencyError, InputError
from fusion.ink import InkLine
from fusion.page import Reading, Recipe
from fusion.train.corrections import HELD_OUT, read_rows
from fusion.vlm.asking import Question
from fusion.vlm.cache import AnswerCache
from fusion.vlm.local import Checkpoint, LocalReader, load
from fusion.vlm.prompts import render
from fusion.vlm.protocol import Query
from fusion.vlm.small import READER

PROJECTIONS = r".*language_model.*\.(q|k|v|o|gate|up|gate_up|down)_proj"
"""Modules that get an adapter. The vision tower has projections of the same names, hence the path."""
STRENGTH = 2
"""Scale of the adapter's product (alpha over rank)."""
WARM = 0.1
"""Share of the steps until the full step length, which then falls evenly to nothing."""
FEWEST = 10
"""Usable corrections below which one tenth of them could judge nothing."""
IGNORED = -100
"""Label of a token that is not learnt."""
KEPT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
"""What a checkpoint folder holds beside its weights: tokenizer, chat template, image and generation settings."""
ADAPTER, MERGED = "adapter", "merged"
"""Folders of the result."""


@dataclass(frozen=True, slots=True)
class Line:
    """A crop, uint8 (h, w, 3) RGB, and what is written on it."""

    pixels: NDArray[np.uint8]
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines ready for one forward pass.

    Attributes:
        inputs: what the model takes. Each row is prompt, image, answer and stop without a gap; padding follows.
        labels: int64 (B, n), the answer and its stop where they stand in `input_ids`, `IGNORED` elsewhere.
        characters: characters of the answers.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    characters: int


def load_lines(path: Path) -> list[Line]:
    """Corrections with their crops in colour.

    Raises:
        InputError: the file, a row or an image can't be read.
    """
    return [Line(_pixels(image, stretch), text) for image, text, stretch in read_rows(path)]


def _pixels(path: Path, stretch: float) -> NDArray[np.uint8]:
    """An image as uint8 (h, w, 3) RGB, its width multiplied by `stretch`."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        way = "Take the row out of the corrections, or mend the file."
        raise InputError(path, "is no image that can be read", way) from error
    if stretch != 1.0:
        image = image.resize((max(1, round(image.width * stretch)), image.height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


class Tutor:
    """A checkpoint and the question it is taught to answer: lines to tensors, tensors to losses."""

    def __init__(self, checkpoint: Checkpoint, prompt: Literal["glm_ocr", "blind"]) -> None:
        """Take over a loaded checkpoint."""
        self.model = checkpoint.model
        self._tokenizer = checkpoint.tokenizer
        self._stops = checkpoint.stops
        self._prompt = prompt
        self._reader = LocalReader(LocalVlm(prompts=(prompt,)), AnswerCache(None), checkpoint)

    def can_write(self, text: str) -> bool:
        """Whether a text can be learnt: not an empty one, one that spells a control token, or one that has no tokens."""
        ids = self._answer(text)
        return bool(ids) and set(ids).isdisjoint(self._tokenizer.all_special_ids)

    def _answer(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _question(self, line: Line) -> Question:
        """The question in the language in which it will be asked: that follows what an OCR reads, here the text itself."""
        reading = Reading("ocr", line.text, Recipe("correction", "", "", ""))
        query = Query("", InkLine("", (), line.pixels, reading, None))
        return Question(line.pixels, render(self._prompt, "auto", query).text)

    def batch(self, lines: Sequence[Line]) -> Batch:
        """Prompts with their images from the reader, each followed by its answer and a stop."""
        inputs = self._reader.inputs([self._question(line) for line in lines])
        device = inputs["input_ids"].device
        answers = [[*self._answer(line.text), self._stops[0]] for line in lines]
        width = max(map(len, answers))
        labels = torch.tensor([[*ids, *[IGNORED] * (width - len(ids))] for ids in answers], device=device)
        learnt = labels != IGNORED
        rows = {
            "input_ids": torch.cat([inputs["input_ids"], labels.where(learnt, self._stops[0])], dim=1),
            "attention_mask": torch.cat([inputs["attention_mask"], learnt.long()], dim=1),
            "mm_token_type_ids": functional.pad(inputs["mm_token_type_ids"], (0, width)),
            "labels": torch.cat([torch.full_like(inputs["input_ids"], IGNORED), labels], dim=1),
        }
        # The reader pads prompts in front. Moved behind, no token is left with nothing to look at, whose attention is
        # not a number on some devices, and whose gradient would be none either.
        mask = rows["attention_mask"]
        order = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(dim=1).max())]
        rows = {name: tensor.gather(1, order) for name, tensor in rows.items()}
        labels = rows.pop("labels")
        return Batch({**inputs, **rows}, labels, sum(len(line.text) for line in lines))

    def nats(self, batch: Batch) -> torch.Tensor:
        """Minus the log-probability of each answer and of stopping after it, float32 (B,).

        Where several tokens end an answer, ending is one event, as it is for the reader.
        """
        # Logits of the answers alone: of all tokens they would be the largest tensor by far.
        hidden = self.model.model(**batch.inputs, use_cache=False).last_hidden_state[:, :-1]
        wanted = batch.labels[:, 1:]
        learnt = wanted != IGNORED
        table = self.model.lm_head(hidden[learnt]).float().log_softmax(-1)
        stops = torch.tensor(self._stops, device=table.device)
        chosen = table.gather(1, wanted[learnt][:, None])[:, 0]
        ended = torch.isin(wanted[learnt], stops)
        scores = torch.where(ended, table[:, stops].logsumexp(-1), chosen)
        return -torch.zeros(len(wanted), device=table.device).index_add(0, learnt.nonzero()[:, 0], scores)

    def nats_per_character(self, lines: Sequence[Line], batch: int) -> float:
        """Mean over all characters of the lines."""
        total, characters = 0.0, 0
        with torch.inference_mode():
            for part in _parts(lines, batch):
                made = self.batch(part)
                total += float(self.nats(made).sum())
                characters += made.characters
        return total / characters


def _parts(lines: Sequence[Line], size: int) -> list[Sequence[Line]]:
    return [lines[start : start + size] for start in range(0, len(lines), size)]


def lora(
    data: Path,
    model: str,
    output: Path,
    *,
    epochs: int,
    batch: int,
    rate: float,
    rank: int,
    device: str,
    threads: int,
    prompt: Literal["glm_ocr", "blind"],
    log: Callable[[str], None],
) -> dict[str, float]:
    """Train an adapter on corrections; write it to `output / "adapter"` and the model with it to `output / "merged"`.

    Args:
        data: JSONL file of corrections, see `read_rows`.
        model: checkpoint folder, or a hub name already in the local cache.
        output: folder of the result; its `merged` can be named in `vlm.model`.
        epochs: times that each crop is seen.
        batch: crops per step.
        rate: peak step length of AdamW.
        rank: rank of the adapter.
        device: torch device.
        threads: CPU threads.
        prompt: what is asked; the reader has to be asked the same (`vlm.prompts`).
        log: takes progress lines.

    Returns:
        Nats per character, stop included, of the corrections kept out: `before`, and `after` of the merged model.

    Raises:
        DependencyError: peft is not installed, or there is no such checkpoint here.
        InputError: the corrections can't be used.
        ReaderError: the checkpoint can't be used.
        ConfigError: the device or the step length can't be used, or the result would overwrite the checkpoint.
    """
    peft = _peft()
    if Path(model).resolve() == (output / MERGED).resolve():
        raise ConfigError(f"output: {output}", "the result would overwrite the checkpoint", "Give another folder.")
    lines = load_lines(data)  # before the model: a wrong path shouldn't cost the minutes that loading takes
    checkpoint = load(LocalVlm(model=model, device=device, threads=threads))
    tutor = Tutor(checkpoint, prompt)
    seen, unseen = _split(data, lines, tutor, log)
    before = tutor.nats_per_character(unseen, batch)
    adapted = _with_adapter(peft, checkpoint.model, rank)
    _train(tutor, seen, epochs, batch, rate, log)
    # With "auto" peft would ask the model hub whether the vocabulary has grown.
    adapted.save_pretrained(output / ADAPTER, save_embedding_layers=False)
    adapted.merge_and_unload(safe_merge=True)
    after = tutor.nats_per_character(unseen, batch)  # of what is written: merging rounds
    card = (
        f"# {Path(model).name} adapted to one hand\n\nLoRA of rank {rank}, {epochs} epochs at rate {rate} over {len(seen)} "
        f"corrected crops, prompt `{prompt}`. Nats per character on {len(unseen)} kept out: {before:.3f} before, {after:.3f} "
        "after.\n"
    )
    _write(checkpoint, output, card)
    return {"before": before, "after": after}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise DependencyError("peft", "not installed", "Install it with pip install 'fusion[train]'.") from error
    return peft


def _with_adapter(peft: Any, model: Any, rank: int) -> Any:
    """Put a fresh adapter into the model itself and freeze the rest; returned is peft's handle on both."""
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=rank, lora_alpha=STRENGTH * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, settings)


def _split(
    data: Path, lines: Sequence[Line], tutor: Tutor, log: Callable[[str], None]
) -> tuple[list[Line], list[Line]]:
    """Lines to learn from and lines kept out; the same in every run."""
    usable = [line for line in lines if tutor.can_write(line.text)]
    if len(usable) < FEWEST:
        way = f"Give at least {FEWEST} corrected crops; some hundreds are worth the time."
        raise InputError(data, f"holds {len(usable)} usable corrections", way)
    random.Random(1).shuffle(usable)
    kept = max(1, round(len(usable) * HELD_OUT))
    strange = len(lines) - len(usable)
    log(f"{len(usable) - kept} corrections to learn from, {kept} kept out, {strange} left out for what it can't write")
    return usable[kept:], usable[:kept]


def _train(
    tutor: Tutor, lines: Sequence[Line], epochs: int, batch: int, rate: float, log: Callable[[str], None]
) -> None:
    """All epochs; the model stays in evaluation mode, so what is learnt from is what will be seen."""
    parameters = [parameter for parameter in tutor.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(lines) / batch)
    warm = max(1, round(steps * WARM))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    every, begun, losses = max(1, steps // 20), time.perf_counter(), []
    for epoch in range(epochs):
        order = random.Random(epoch).sample(lines, len(lines))
        for part in _parts(order, batch):
            made = tutor.batch(part)
            loss = tutor.nats(made).sum() / (made.labels != IGNORED).sum()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise ConfigError(f"rate: {rate}", "the loss is no longer a number", "Give a smaller one.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            if len(losses) % every == 0 or len(losses) == steps:
                mean = round(float(np.mean(losses[-every:])), 4)
                seconds = round(time.perf_counter() - begun)
                log(json.dumps({"step": len(losses), "of": steps, "loss": mean, "seconds": seconds}))


def _write(checkpoint: Checkpoint, output: Path, card: str) -> None:
    """The merged checkpoint beside the adapter, and a model card for both."""
    _export(checkpoint, output / MERGED)
    for folder in (output / ADAPTER, output / MERGED):
        (folder / "README.md").write_text(card, encoding="utf-8")
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # written for one's own eyes otherwise


def _export(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint as it was, with its present weights."""
    checkpoint.model.save_pretrained(folder)
    name = checkpoint.model.name_or_path
    source = Path(str(cached_file(name, "config.json", local_files_only=True))).parent
    kept = {file for pattern in KEPT_FILES for file in source.glob(pattern)}
    for file in kept:
        if file.name not in ("config.json", READER) and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
