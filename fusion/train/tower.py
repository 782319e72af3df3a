"""The vision tower of `glm_ocr` for batches of crops, and the CTC head on it, in torch.

Knows the tower of a checkpoint; knows no decoder, no data and no decision. What runs in the package is exported from here
(`graphs`). Sources: Graves et al., "Connectionist temporal classification", ICML 2006; Hu et al., "GTC: guided training of
CTC", AAAI 2020, for a CTC head that shares its encoder with a decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers.models.glm_ocr.modeling_glm_ocr import rotate_half
from transformers.vision_utils import get_vision_position_ids

from fusion.vlm.small import padded

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    batch, _, width = features.shape
    squares = features.view(batch, rows // merge, -1, merge, merge, width)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, rows * width)


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
    patches = merge_order(patches.reshape(batch, rows, columns, side * side), merge)
    grid = torch.tensor([[1, rows, columns]], device=crops.device)
    cos, sin = vision.rotary_pos_emb(patches, get_vision_position_ids(grid, merge, kwargs={}))
    return features(vision, patches, cos, sin, block)


def features(
    vision: Any, patches: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, block: Any = None
) -> torch.Tensor:
    """Features, float (B, N, d), of grey patches, float (B, N, side²), with the rotary table of their places, (N, d)."""
    kernel = vision.patch_embed.proj.weight.sum(dim=(1, 2)).flatten(1)  # grey: the same in all channels and frames
    hidden = functional.linear(patches, kernel, vision.patch_embed.proj.bias)
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


def pad(crops: Sequence[NDArray[np.float32]], unit: int) -> torch.Tensor:
    """See `padded`, as a tensor."""
    return torch.from_numpy(padded(crops, unit))
