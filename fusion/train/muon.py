"""Muon: momentum whose every matrix is made nearly orthogonal before it is stepped.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. torch.optim.Muon always does the
orthogonalisation in bfloat16, one matrix at a time. On a processor without bfloat16 that takes half of a step, so here
the caller says in which type, and all matrices of one shape go together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, chosen by the authors to rise fast at 0."""


def orthogonal(matrices: torch.Tensor, steps: int) -> torch.Tensor:
    """Each (N, rows, columns) matrix U S Vᵀ as about U Vᵀ, by Newton-Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x: torch.Tensor = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For the matrices inside a network; embeddings, norms and the last layer belong to AdamW."""

    def __init__(
        self,
        groups: Any,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
        steps: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Parameter groups with their own `lr`; `steps` of the iteration, done in `dtype`."""
        super().__init__(groups, {"lr": 0.02, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, parameters in shapes.items():
                steps = []
                for p in parameters:
                    assert p.grad is not None  # as found above
                    kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    kept.lerp_(p.grad, 1 - group["momentum"])
                    steps.append(p.grad.lerp(kept, group["momentum"]))  # Nesterov
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonal(torch.stack(steps).to(self._dtype), group["steps"])
                for p, update in zip(parameters, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
