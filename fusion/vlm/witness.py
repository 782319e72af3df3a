"""The ink witness of a checkpoint: a CTC head on its vision tower, which says of any string how well it fits the strokes.

A second pair of eyes, independent of PaddleOCR and of every word list. A decoder scores strings too, but what it says is
mostly which words it expects; the head sees nothing but the crop. Knows the vision tower of `glm_ocr` checkpoints and
the two files beside one (`witness.json`, `witness.safetensors`); knows no question, no decoder and no decision.

Sources: Graves et al., "Connectionist temporal classification", ICML 2006; Hu et al., "GTC: guided training of CTC",
AAAI 2020, for a CTC head that shares its encoder with a decoder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers.models.glm_ocr.modeling_glm_ocr import rotate_half
from transformers.vision_utils import get_vision_position_ids

from fusion.ctc import Posterior, Views, fold
from fusion.page import is_ideograph

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS, WEIGHTS = "witness.json", "witness.safetensors"
CRAMPED = 10.0
"""Px per character, at the tower's height, under which a crop has been squashed and is looked at wider."""
WIDTHS = (11.0, 13.5, 16.5, 20.0, 24.0)
"""Px per character at which a cramped crop is looked at: the range of the training crops."""
STRETCHES = (0.7, 0.85, 1.0, 1.2, 1.4)
"""Stretches of the width at which any other crop is looked at. On unseen words five looks err by a fifth less than one."""
BUDGET = 1200.0
"""Px of width that several looks at one crop may have together: five at a word, few at a line, where more gained nothing
(CER .738 on Hooker lines, .737 with 1,600)."""
WIDEST = 1600.0
"""Px of width that one look may have: bounds time and memory; a line of A4 is about 1,400 wide."""
NARROWEST = 2
"""Fewest columns of patches: a single stroke still has paper beside it."""


class CtcHead(nn.Module):
    """Columns of patch features to frames of characters."""

    def __init__(self, rows: int, width: int, frames: int, classes: int, hidden: int = 256) -> None:
        """A head for crops of `rows` patches of `width` features in height; `frames` per column of patches."""
        super().__init__()
        self.frames, self.classes = frames, classes
        self.inner = nn.Linear(rows * width, hidden)
        self.outer = nn.Linear(hidden, frames * classes)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, float (B, columns · frames, C), of float (B, columns, rows · width)."""
        table: torch.Tensor = self.outer(functional.gelu(self.inner(columns)))
        return table.view(table.shape[0], -1, self.classes).log_softmax(-1)


def merge_order(grid: torch.Tensor, merge: int) -> torch.Tensor:
    """(B, rows, columns, …) to (B, rows · columns, …) in the order of GLM's image processor: merge squares first."""
    batch, rows, columns = grid.shape[:3]
    squares = grid.view(batch, rows // merge, merge, columns // merge, merge, *grid.shape[3:])
    return squares.transpose(2, 3).reshape(batch, rows * columns, *grid.shape[3:])


def columns_of(features: torch.Tensor, rows: int, merge: int) -> torch.Tensor:
    """Features in merge order, (B, rows · columns, d), to columns from left to right, (B, columns, rows · d)."""
    batch, count, width = features.shape
    squares = features.view(batch, rows // merge, count // rows // merge, merge, merge, width)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, count // rows, rows * width)


def tower(vision: Any, crops: torch.Tensor, block: Any = None) -> torch.Tensor:
    """Patch features of equally large grey crops before merging: those of `GlmOcrVisionModel`, for a batch at once.

    Args:
        vision: a `GlmOcrVisionModel`.
        crops: float (B, H, W) in [-1, 1]; sides are multiples of patch · merge.
        block: stands in for `tower_block` (training compiles it).

    Returns:
        float (B, patches, d), in merge order, after the last norm.
    """
    side, merge = vision.patch_size, vision.spatial_merge_size
    batch, height, width = crops.shape
    rows, columns = height // side, width // side
    patches = crops.view(batch, rows, side, columns, side).transpose(2, 3)
    kernel = vision.patch_embed.proj.weight.sum(dim=(1, 2)).flatten(1)  # grey: the same in all channels and frames
    hidden = functional.linear(
        merge_order(patches.reshape(batch, rows, columns, side * side), merge), kernel, vision.patch_embed.proj.bias
    )
    grid = torch.tensor([[1, rows, columns]], device=crops.device)
    cos, sin = vision.rotary_pos_emb(hidden, get_vision_position_ids(grid, merge, kwargs={}))
    run = block or tower_block
    for layer in vision.blocks:
        hidden = run(layer, hidden, cos[None, :, None], sin[None, :, None])
    return vision.post_layernorm(hidden)  # type: ignore[no-any-return]


def tower_block(layer: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """One block on float (B, N, d); every crop attends to itself only, so no sequence has to be cut up."""
    attention = layer.attn
    batch, count, _ = hidden.shape
    query, key, value = attention.qkv(layer.norm1(hidden)).view(batch, count, 3, attention.num_heads, -1).unbind(2)
    query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = (x * cos + rotate_half(x) * sin for x in (query, key))  # type: ignore[no-untyped-call]
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
    hidden = hidden + attention.proj((weights @ value).transpose(1, 2).reshape(batch, count, -1))
    return hidden + layer.mlp(layer.norm2(hidden))  # type: ignore[no-any-return]


def soften(frames: torch.Tensor, share: float) -> torch.Tensor:
    """Log-probabilities (…, C) with a share of every frame spread evenly over the classes."""
    if share == 0.0:
        return frames
    return torch.logaddexp(frames + math.log1p(-share), torch.tensor(math.log(share / frames.shape[-1])))


def grey(pixels: NDArray[np.uint8], height: int, factor: float = 1.0) -> NDArray[np.float32]:
    """A crop as the tower sees it: grey, `height` px high, `factor` times as wide as natural, paper 1 and ink -1.

    Args:
        pixels: uint8 (h, w, 3) RGB or (h, w), not empty.
        height: px.
        factor: stretch of the width.

    Returns:
        float32 (height, W) in [-1, 1].
    """
    single = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    width = max(1, round(single.shape[1] * height / single.shape[0] * factor))
    shrinks = height < single.shape[0]
    single = cv2.resize(single, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return level(single)


def level(single: NDArray[Any]) -> NDArray[np.float32]:
    """Paper to 1 and ink to -1, whatever the light: float32 (H, W) from grey of any range."""
    ink, paper = np.percentile(single, (0.5, 85))
    span = max(float(paper) - float(ink), 16.0)  # an empty crop stays paper and does not become noise
    return np.clip(1.0 + 2.0 * (single.astype(np.float32) - np.float32(paper)) / np.float32(span), -1.0, 1.0)


def pad(crops: Sequence[NDArray[np.float32]], unit: int) -> torch.Tensor:
    """Crops of one height side by side in a batch, float32 (B, H, W), paper on the right up to whole units."""
    widest = max(max(crop.shape[1] for crop in crops), NARROWEST * unit)
    batch = torch.ones(len(crops), crops[0].shape[0], math.ceil(widest / unit) * unit)
    for row, crop in zip(batch, crops, strict=True):
        row[:, : crop.shape[1]] = torch.from_numpy(crop)
    return batch


@dataclass(frozen=True)
class Witness:
    """A head with what it needs to be asked.

    Attributes:
        vision: the checkpoint's vision tower.
        head: on the same device.
        height: px of the crops that it was trained on.
        alphabet: one text per class; `alphabet[0]` is "" (blank).
        softness: share of every frame that is spread over the classes; calibrated on unseen words.
    """

    vision: Any
    head: CtcHead
    height: int
    alphabet: tuple[str, ...]
    softness: float = 0.0

    @property
    def unit(self) -> int:
        """Px of the square that is one image token."""
        return int(self.vision.patch_size * self.vision.spatial_merge_size)

    def knows(self, text: str) -> bool:
        """Whether a text is in a script of the alphabet: no Chinese, and at least half of its characters are in it."""
        inked = [character for character in fold(text) if not character.isspace()]
        known = sum(character in self.spells for character in inked)
        return not any(map(is_ideograph, inked)) and 2 * known >= len(inked)

    @cached_property
    def spells(self) -> frozenset[str]:
        """The characters that it was trained on; where another stands it abstains."""
        return frozenset(self.alphabet[1:])

    def frames(self, crops: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, float (B, T, C), of float crops (B, H, W)."""
        features = tower(self.vision, crops.to(self.head.inner.weight))
        rows = crops.shape[1] // self.vision.patch_size
        return self.head(columns_of(features, rows, self.vision.spatial_merge_size))  # type: ignore[no-any-return]

    def look(self, pixels: NDArray[np.uint8], characters: int) -> tuple[Views, float]:
        """What stands on a crop of about so many characters.

        Args:
            pixels: uint8 (h, w, 3), RGB, not empty.
            characters: length of the OCR's reading: tells a squashed crop from a short word.

        Returns:
            The looks, the most probable first, and the stretch of the width of that one.
        """
        factors = self._factors(pixels.shape[1] / pixels.shape[0] * self.height, max(1, characters))
        crops = [grey(pixels, self.height, factor) for factor in factors]
        with torch.inference_mode():
            frames = self.frames(pad(crops, self.unit)).float()
            table = soften(frames, self.softness).exp().cpu().numpy()
        side = self.vision.patch_size / self.head.frames
        views = []
        for crop, rows in zip(crops, table, strict=True):
            used = min(len(rows), math.ceil(crop.shape[1] / side))
            column_px = side * pixels.shape[1] / crop.shape[1]
            views.append(Posterior.compact(rows[:used], self.alphabet, column_px, self.spells))
        ranked = sorted(zip(views, factors, strict=True), key=lambda item: -item[0].quality)
        return Views(tuple(view for view, _ in ranked), agree=True), ranked[0][1]

    def _factors(self, natural: float, characters: int) -> list[float]:
        """Stretches of a crop `natural` px wide at the tower's height: as many as the budget allows, the middle ones first."""
        cramped = natural < CRAMPED * characters
        wanted = [wide * characters / natural for wide in WIDTHS] if cramped else list(STRETCHES)
        chosen: list[float] = []
        for factor in sorted(wanted, key=lambda factor: abs(math.log(factor / wanted[len(wanted) // 2]))):
            if chosen and (sum(chosen) + factor) * natural > BUDGET:
                break
            chosen.append(min(factor, WIDEST / natural))
        return chosen


def load_witness(folder: Path, vision: Any) -> Witness | None:
    """The witness beside a checkpoint; None where there is none."""
    if not (folder / SETTINGS).is_file():
        return None
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    alphabet = ("", *settings["alphabet"])
    height, frames = int(settings["height"]), int(settings["frames"])
    width = vision.config.hidden_size
    head = CtcHead(height // vision.patch_size, width, frames, len(alphabet), int(settings["hidden"]))
    head.load_state_dict(load_file(folder / WEIGHTS))
    return Witness(vision, head.eval().to(vision.device), height, alphabet, float(settings["softness"]))
