"""Photometric augmentation of a batch of crops, on the device that trains: light, paper, camera.

Knows tensors; knows no labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def photograph(pixels: Tensor, widths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A batch as the network takes it, each crop with random exposure, colour, blur and noise.

    Args:
        pixels: uint8 (B, 48, W), grey.
        widths: int64 (B,), px that are not padding.
        generator: random generator on the tensors' device.

    Returns:
        float32 (B, 3, 48, W) in [-1, 1], padding 0.
    """
    grey = pixels[:, None].float() / 255
    count, device = len(grey), grey.device

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        drawn = torch.rand(count, channels, 1, 1, device=device, generator=generator)
        return low + (high - low) * drawn

    def some(share: float) -> Tensor:
        return (uniform(0, 1) < share).float()

    grey = grey + some(0.3) * uniform(0, 1) * (_blur(grey) - grey)
    grey = grey + some(0.08) * (_coarse(grey) - grey)
    # Contrast of the strokes, then exposure.
    faint = some(0.5) * uniform(-0.35, 0.4)
    grey = grey.clamp_min(1e-3) ** (1 - faint)
    grey = grey * (1 + some(0.6) * uniform(-0.3, 0.15)) + some(0.4) * uniform(-0.1, 0.1)
    # Uneven light: a linear gradient over the crop.
    across = torch.linspace(-0.5, 0.5, grey.shape[3], device=device).view(1, 1, 1, -1)
    down = torch.linspace(-0.5, 0.5, grey.shape[2], device=device).view(1, 1, -1, 1)
    grey = grey * (1 + some(0.25) * (uniform(-0.35, 0.35) * across + uniform(-0.2, 0.2) * down))
    tinted = some(0.4)
    paper = 1 - tinted * uniform(0, 0.16, 3)
    ink = tinted * uniform(0, 0.35, 3)
    colour = grey * paper + (1 - grey) * ink
    spread = some(0.5) * uniform(0.005, 0.05)
    noise = torch.randn(colour.shape, device=device, generator=generator)
    colour = (colour + spread * noise).clamp(0, 1)
    inverted = some(0.02)
    colour = colour + inverted * (1 - 2 * colour)
    inside = torch.arange(grey.shape[3], device=device)[None] < widths[:, None]
    return (2 * colour - 1) * inside[:, None, None].float()


def plain(pixels: Tensor, widths: Tensor) -> Tensor:
    """A batch as the network takes it, without augmentation; see `photograph`."""
    inside = torch.arange(pixels.shape[2], device=pixels.device)[None] < widths[:, None]
    grey = (pixels.float() / 127.5 - 1) * inside[:, None].float()
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def _blur(grey: Tensor) -> Tensor:
    """Gaussian of 1.2 px."""
    taps = torch.exp(-(torch.arange(-3.0, 4.0, device=grey.device) ** 2) / (2 * 1.2**2))
    taps = taps / taps.sum()
    padded = F.pad(grey, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, 7)), taps.view(1, 1, 7, 1))


def _coarse(grey: Tensor) -> Tensor:
    """Half the resolution."""
    return F.interpolate(F.avg_pool2d(grey, 2), size=grey.shape[2:], mode="bilinear", align_corners=False)
