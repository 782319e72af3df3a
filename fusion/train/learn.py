"""The training loop: batches, losses, steps, and a state from which a broken run goes on.

Knows a network and decks of samples; knows no file format but its own state and log. The tower learns by CTC (Graves et
al. 2006); the decoder by teacher forcing on the tower's tokens. Matrices are stepped by Muon (Jordan et al., "Muon: an
optimizer for hidden layers in neural networks", 2024), the rest by AdamW (Loshchilov and Hutter 2019).
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from fusion.ctc import Posterior, fold
from fusion.errors import InputError
from fusion.train import network
from fusion.train.crops import Deck, Sample, cuts, distort, join
from fusion.train.muon import Muon
from fusion.train.recipe import Recipe, Stage
from fusion.train.tower import CtcHead, columns_of, pad, tower, tower_block
from fusion.vlm.small import HEAD, READER, grey

WARM = 100
"""Steps until the full step length."""
WIDTHS = (72, 72, 96, 96, 96, 120, 120, 144)
"""Widths of a batch of words, px: a word of seven letters is squashed to 10 px a letter or spread to 24."""
LINE_PX = 240
"""Natural width from which real crops are lines, px: the mean one of a batch, or the median one of a source."""
BELIEVED = 0.7
"""Most nats per letter that a label may cost for its word to be cut into letters."""
LINE_SHARE = 3
"""A batch of lines is so many times smaller than one of words."""


@dataclass(frozen=True, slots=True)
class Decks:
    """What batches are drawn from.

    Attributes:
        ink: real words or lines, one deck per source.
        words: rendered short texts.
        lines: rendered lines.
        trust: per deck of `ink`, the share of a batch that is believed.
    """

    ink: tuple[Deck, ...]
    words: Deck
    lines: Deck
    trust: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one size, their texts, and the share of them whose labels are believed."""

    crops: torch.Tensor
    texts: list[str]
    trust: float


def draw(decks: Decks, stage: Stage, size: tuple[int, int], rng: random.Random, noise: np.random.Generator) -> Batch:
    """One batch, distorted.

    Args:
        decks: sources.
        stage: shares of the sources.
        size: height of a crop and unit of its width, px.
        rng: randomness of choices, advanced.
        noise: randomness of whole fields, advanced.
    """
    height, unit = size
    trust = 1.0
    few = max(1, stage.batch // LINE_SHARE)
    real = bool(decks.ink) and rng.random() < stage.ink
    source = rng.randrange(len(decks.ink)) if real else 0
    if rng.random() < stage.lines and not (real and _of_lines(decks.ink[source], height)):
        samples = (
            [join(decks.ink[source].draw(rng.randint(2, 4), rng), rng) for _ in range(few)]
            if real
            else decks.lines.draw(few, rng)
        )
        width = _line_width(samples, height, unit, rng)
    else:
        samples = decks.ink[source].draw(stage.batch, rng) if real else decks.words.draw(stage.batch, rng)
        long = _natural(samples, height) > LINE_PX
        if real and (long or _of_lines(decks.ink[source], height)):  # real lines: fewer, in their own proportions
            samples = samples[: max(4, round(stage.batch * LINE_PX / 2 / _natural(samples, height)))]
            width = _line_width(samples, height, unit, rng)
        else:
            width = rng.choice(WIDTHS)
            if real and stage.splice and decks.ink[source].cuts:
                deck = decks.ink[source]
                samples = [deck.draw_spliced(s, rng) if rng.random() < stage.splice else s for s in samples]
    if real:
        trust = decks.trust[source]
    crops = np.stack([distort(sample, height, width, rng, noise) for sample in samples])
    return Batch(torch.from_numpy(crops), [sample.text for sample in samples], trust)


def _of_lines(deck: Deck, height: int) -> bool:
    """Whether a source holds lines: they are shown as they are, not cut between letters or set side by side."""
    return deck.middle * height > LINE_PX


def _natural(samples: Sequence[Sample], height: int) -> float:
    """Mean width at a height, px."""
    return float(np.mean([sample.pixels.shape[1] * height / sample.pixels.shape[0] for sample in samples]))


def _line_width(samples: Sequence[Sample], height: int, unit: int, rng: random.Random) -> int:
    wide = _natural(samples, height) * rng.uniform(0.7, 1.15)
    return max(2 * unit, round(wide / unit) * unit)


def _briefly(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class Learner:
    """A network in training."""

    def __init__(self, recipe: Recipe) -> None:
        """A fresh network; call `restore` to go on from a state or `start_from` to go on from a checkpoint."""
        torch.set_num_threads(recipe.threads)
        cv2.setNumThreads(1)
        torch.manual_seed(recipe.seed)
        size = recipe.size
        self.recipe, self.size = recipe, size
        self.words: Any = network.tokenizer(size.alphabet)
        self.model: Any = network.glm(size, self.words)
        self.head: CtcHead = network.head(size)
        self.model.model.language_model.config._attn_implementation = "eager"  # SDPA's backward is slow on a CPU
        self.device = torch.device(recipe.device)
        for module in (self.model, self.head):
            torch.nn.Module.to(module, self.device)
        self._block = torch.compile(tower_block, dynamic=True) if recipe.compile else tower_block
        self.classes = {character: number for number, character in enumerate(size.alphabet, 1)}
        self.done = 0

    # --- forward --------------------------------------------------------------------------------------------------

    def features(self, crops: torch.Tensor) -> torch.Tensor:
        """Patch features, float (B, patches, d), of float crops (B, H, W)."""
        return tower(self.model.model.visual, crops.to(self.device), self._block)

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, float (B, T, C)."""
        return self.head(columns_of(features, self.size.height // self.size.patch, 2)).float()  # type: ignore[no-any-return]

    def ctc_losses(
        self, frames: torch.Tensor, texts: Sequence[str], lengths_of: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Nats per character of each text, float (B,); infinite where a text does not fit its frames.

        Args:
            frames: log-probabilities, float (B, T, C).
            texts: labels.
            lengths_of: frames of each sample that are not padding; None: all.
        """
        labels = [[self.classes[c] for c in text] for text in texts]
        lengths = torch.tensor([len(label) for label in labels])
        given = torch.tensor(lengths_of if lengths_of is not None else [frames.shape[1]] * len(texts))
        losses = functional.ctc_loss(
            frames.transpose(0, 1),
            torch.tensor([c for label in labels for c in label], device=frames.device),
            given,
            lengths,
            reduction="none",
            zero_infinity=True,  # for the gradient: an infinite loss would make it NaN
        )
        needed = torch.tensor([len(label) + sum(a == b for a, b in itertools.pairwise(label)) for label in labels])
        losses = torch.where((needed <= given).to(losses.device), losses, torch.inf)
        return losses / lengths.to(losses.device).clamp_min(1)

    def frames_of(self, width: int) -> int:
        """Frames that a crop of a width fills, the last one in part."""
        return math.ceil(width * self.size.frames / self.size.patch)

    def decoder_loss(self, features: torch.Tensor, columns: int, texts: Sequence[str]) -> torch.Tensor:
        """Mean nats per token of the texts and their stops, given the image tokens and the fixed prompt."""
        visual, language = self.model.model.visual, self.model.model.language_model
        batch, count, width = features.shape
        squares = features.reshape(batch * count // 4, 2, 2, width).permute(0, 3, 1, 2).flatten(1)
        kernel = visual.downsample.weight.flatten(1)
        merged = visual.merger(functional.linear(squares, kernel, visual.downsample.bias)).view(batch, count // 4, -1)
        number: Any = self.words.convert_tokens_to_ids
        head = number(["[gMASK]", "<sop>", "<|user|>", "<|begin_of_image|>"])
        asked = number(["<|end_of_image|>", network.PROMPT, "<|assistant|>"])
        answers = [[*number(list(text)), self.words.eos_token_id] for text in texts]
        longest = max(map(len, answers))
        padded = [[*answer, *[self.words.pad_token_id] * (longest - len(answer))] for answer in answers]
        targets = torch.tensor(padded, device=self.device)
        known = torch.tensor([[n < len(a) for n in range(longest)] for a in answers], device=self.device)
        tokens = torch.cat([torch.tensor([asked] * batch, device=self.device), targets[:, :-1]], dim=1)
        embed = language.embed_tokens
        inputs = torch.cat([embed(torch.tensor([head] * batch, device=self.device)), merged, embed(tokens)], dim=1)
        positions = self._positions(len(head), columns, count, tokens.shape[1]).expand(-1, batch, -1)
        out = language(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state
        logits = self.model.lm_head(out[:, -longest:])
        return functional.cross_entropy(logits[known].float(), targets[known])

    def _positions(self, before: int, columns: int, patches: int, after: int) -> torch.Tensor:
        """Rotary positions (3, 1, tokens): GLM counts an image as one step in time, down and across."""
        across, down = columns // 2, patches // columns // 2
        start = torch.arange(before)
        rows, cols = torch.arange(down).repeat_interleave(across), torch.arange(across).repeat(down)
        image = before + torch.stack([torch.zeros_like(rows), rows, cols])
        end = before + max(across, down) + torch.arange(after)
        both = torch.cat([start.expand(3, -1), image, end.expand(3, -1)], dim=1)
        return both[:, None].to(self.device)

    # --- training -------------------------------------------------------------------------------------------------

    def optimisers(self, stage: Stage) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside, AdamW for the rest; what the stage doesn't train is in neither."""
        visual, language = self.model.model.visual, self.model.model.language_model
        tower_parts = [visual.patch_embed, visual.blocks, visual.post_layernorm, self.head]
        groups = [(tower_parts, stage.slower)]
        if stage.decoder:
            groups.append(([visual.downsample, visual.merger, language], 1.0))
        matrices, others = [], []
        for parts, factor in groups:
            named = [item for part in parts for item in part.named_parameters()]
            inner = [p for name, p in named if p.ndim == 2 and "outer" not in name and "embed" not in name]
            outer = [p for name, p in named if p.ndim != 2 or "outer" in name or "embed" in name]
            matrices.append({"params": inner, "lr": stage.rate * factor})
            others.append({"params": outer, "lr": stage.rate * factor * 0.1})
        muon = Muon(matrices, dtype=torch.bfloat16 if self.recipe.bf16 else torch.float32)
        adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01)
        for optimiser in (muon, adam):
            for group in optimiser.param_groups:
                group["peak"] = group["lr"]
        return [muon, adam]

    def loss(self, batch: Batch, stage: Stage) -> torch.Tensor:
        """Mean loss per character of the samples that are believed."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            features = self.features(batch.crops)
            losses = self.ctc_losses(self.frames(features), batch.texts)
            kept = losses.sort().values[: max(1, round(len(losses) * batch.trust))]
            kept = kept[kept.isfinite()]  # a text too long for its frames teaches nothing
            total = kept.mean() if len(kept) else features.sum() * 0.0
            if stage.decoder:
                columns = batch.crops.shape[2] // self.size.patch
                total = total + self.decoder_loss(features, columns, batch.texts)
        return total

    def run(self, decks: Decks, report: Callable[[], dict[str, float]], log: Callable[[str], None]) -> None:
        """All stages from where the state stands; states and reports every `report_every` steps."""
        before = 0
        for stage in self.recipe.stages:
            if self.done < before + stage.steps:
                self._run_stage(stage, before, decks, report, log)
            before += stage.steps

    def _run_stage(
        self,
        stage: Stage,
        before: int,
        decks: Decks,
        report: Callable[[], dict[str, float]],
        log: Callable[[str], None],
    ) -> None:
        optimisers = self.optimisers(stage)
        if self._saved is None:
            words = [
                deck.samples if stage.splice and not _of_lines(deck, self.size.height) else () for deck in decks.ink
            ]
            self._cuts = [self.cut(samples) for samples in words]
        else:
            for optimiser, state in zip(optimisers, self._saved, strict=True):
                optimiser.load_state_dict(state)
            self._saved = None
        for deck, found in zip(decks.ink, self._cuts, strict=True):
            deck.cuts = found
        parameters = [p for o in optimisers for g in o.param_groups for p in g["params"]]
        drawer = ThreadPoolExecutor(1)  # the next batch is drawn while this one is learnt
        waiting = drawer.submit(self._draw, decks, stage, self.done)
        start, begun, mean = time.perf_counter(), self.done, 0.0
        while self.done < before + stage.steps:
            part = (self.done - before) / stage.steps
            scale = min(1.0, (self.done - before + 1) / WARM, (1 - part) / stage.decay if stage.decay else 1.0)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * scale
            batch, waiting = waiting.result(), drawer.submit(self._draw, decks, stage, self.done + 1)
            loss = self.loss(batch, stage)
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in optimisers:
                optimiser.step()
            self.done += 1
            mean = float(loss.detach()) if self.done == begun + 1 else 0.98 * mean + 0.02 * float(loss.detach())
            if self.done % self.recipe.report_every == 0 or self.done == before + stage.steps:
                figures = {"step": self.done, "loss": round(mean, 4), "seconds": round(time.perf_counter() - start)}
                log(json.dumps({"stage": stage.name, **figures, **report()}))
                self.save(optimisers if self.done < before + stage.steps else [])
        drawer.shutdown(cancel_futures=True)

    def _draw(self, decks: Decks, stage: Stage, step: int) -> Batch:
        """A step's crops depend on its number alone: a resumed run draws what an unbroken one would have."""
        rng = random.Random(f"{self.recipe.seed} {step}")
        noise = np.random.default_rng((self.recipe.seed, step))
        return draw(decks, stage, (self.size.height, 2 * self.size.patch), rng, noise)

    # --- state ----------------------------------------------------------------------------------------------------

    _saved: list[dict[str, Any]] | None = None
    _cuts: Sequence[dict[int, tuple[int, ...]]] = ()

    @property
    def _state_file(self) -> Path:
        return self.recipe.work / "state.pt"

    def save(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        """Write weights, optimisers and the number of steps done, whole or not at all."""
        content = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "cuts": list(self._cuts),
            "done": self.done,
        }
        unfinished = self._state_file.with_suffix(".new")
        torch.save(content, unfinished)
        unfinished.replace(self._state_file)

    def restore(self) -> bool:
        """Go on from the saved state; False when there is none."""
        if not self._state_file.is_file():
            return False
        content = torch.load(self._state_file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(content["model"])
        self.head.load_state_dict(content["head"])
        self._saved = content["optimisers"] or None
        self._cuts = content["cuts"]
        self.done = content["done"]
        return True

    def start_from(self, folder: Path) -> None:
        """Weights of an exported checkpoint of the same size.

        Raises:
            InputError: a file is missing, broken or of another size.
        """
        try:
            unmatched = self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
            self.head.load_state_dict(load_file(folder / HEAD))
            if unmatched.unexpected_keys or set(unmatched.missing_keys) - {"lm_head.weight"}:  # tied: stored once
                raise RuntimeError("other layers")
            if json.loads((folder / READER).read_text(encoding="utf-8"))["alphabet"] != self.size.alphabet:
                raise RuntimeError("another alphabet")
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            way = "Give the folder of a checkpoint that `python -m fusion.train reader` or `adapt-reader` has written."
            raise InputError(folder, f"can't be gone on from ({_briefly(error)})", way) from error

    def average_with(self, folder: Path, share: float) -> None:
        """Mix the weights of a checkpoint into this network's, which began as that one.

        Less of what the start read is forgotten so (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

        Raises:
            InputError: as `start_from`.
        """
        ours = [*self.model.parameters(), *self.head.parameters()]
        kept = [parameter.detach().clone() for parameter in ours]
        self.start_from(folder)
        with torch.no_grad():
            for parameter, own in zip(ours, kept, strict=True):
                parameter.lerp_(own, 1 - share)

    # --- figures --------------------------------------------------------------------------------------------------

    def read(self, samples: Sequence[Sample], batch: int = 32) -> list[str]:
        """Best path of the head for each sample, undistorted."""
        texts: dict[int, str] = {}
        order = sorted(range(len(samples)), key=lambda n: samples[n].pixels.shape[1] / samples[n].pixels.shape[0])
        alphabet = ["", *self.size.alphabet]
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                views = [grey(samples[n].pixels, self.size.height) for n in rows]
                crops = pad(views, 2 * self.size.patch)
                features = tower(self.model.model.visual, crops.to(self.device))
                for n, crop, path in zip(rows, views, self.frames(features).argmax(-1).tolist(), strict=True):
                    path = path[: self.frames_of(crop.shape[1])]
                    runs = [c for k, c in enumerate(path) if k == 0 or c != path[k - 1]]
                    texts[n] = "".join(alphabet[c] for c in runs)
        return [texts[n] for n in range(len(samples))]

    def cut(self, samples: Sequence[Sample]) -> dict[int, tuple[int, ...]]:
        """Columns between the letters of those samples whose label the head believes; see `crops.cuts`."""
        found: dict[int, tuple[int, ...]] = {}
        alphabet = ("", *self.size.alphabet)
        for number, sample in enumerate(samples):
            view = grey(sample.pixels, self.size.height)
            with torch.inference_mode():
                features = tower(self.model.model.visual, pad([view], 2 * self.size.patch).to(self.device))
                table = self.frames(features)[0, : self.frames_of(view.shape[1])].exp().cpu().numpy()
            look = Posterior.compact(
                table, alphabet, sample.pixels.shape[1] / view.shape[1] * self.size.patch / self.size.frames
            )
            if len(sample.text) > 1 and look.score([sample.text])[0] > -BELIEVED * len(sample.text):
                found[number] = cuts(sample.pixels, look.place(sample.text))
        return found

    def error_rate(self, samples: Sequence[Sample]) -> float:
        """Pooled character error rate of the head's best path, case aside."""
        found = self.read(samples)
        pairs = [(fold(sample.text), fold(text)) for sample, text in zip(samples, found, strict=True)]
        return sum(Levenshtein.distance(a, b) for a, b in pairs) / max(1, sum(len(a) for a, _ in pairs))
