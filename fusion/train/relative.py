"""Adam with step lengths relative to the kernels: a weight moves by a share of its kernel's root mean square.

Knows tensors; knows no network. A network for inference has its batch normalisations folded into its kernels, so that
their magnitudes differ a hundredfold from channel to channel; an absolute step length that moves the large ones destroys
the small ones. This is Adam (Kingma and Ba, 2015) on weights divided by the root mean square of their kernel, as LARS
(You et al., 2017) does it for layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)
EPSILON = 1e-12
BIAS = 0.5
"""Size of a bias, as a share of what its kernel gives for inputs of unit variance."""


def sizes(network: nn.Module) -> list[Tensor]:
    """The size of each parameter, by kernel where it has kernels; broadcastable to it."""
    found: list[Tensor] = []
    for module in network.modules():
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight")
        if weight is None:
            continue
        inner = tuple(range(1, weight.ndim))
        if inner:
            kernel = weight.detach().pow(2).mean(inner, keepdim=True).sqrt()
            kernel = kernel.clamp_min(0.05 * float(kernel.mean()))  # so that a dead channel can recover
            found.append(kernel)
        else:
            kernel = weight.detach().pow(2).mean().sqrt().expand_as(weight)
            found.append(kernel)
        if own.get("bias") is not None:
            fan_in = weight[0].numel() if inner else 1
            found.append(BIAS * math.sqrt(fan_in) * kernel.flatten())
    return [size.clone() for size in found]


class RelativeAdam:
    """Steps over the parameters of a network, in the order of its modules."""

    def __init__(self, network: nn.Module, largest: float = 1.0) -> None:
        """Take the sizes from the weights as they are now.

        Args:
            network: every module with parameters has a `weight`, and maybe a `bias`.
            largest: gradients, in units of the sizes, are clipped to this norm.
        """
        self.parameters: list[Tensor] = [
            own
            for module in network.modules()
            for name in ("weight", "bias")
            if (own := dict(module.named_parameters(recurse=False)).get(name)) is not None
        ]
        self.largest, self.steps = largest, 0
        self.sizes = [
            torch.empty_like(parameter).copy_(size)
            for parameter, size in zip(self.parameters, sizes(network), strict=True)
        ]
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> Tensor:
        """One step with the accumulated gradients, which it clears.

        Args:
            rate: share of its kernel's size that a weight moves by at most, about.

        Returns:
            The gradients' norm before clipping, a scalar. If it is not finite, no weight moves.
        """
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        scaled = torch._foreach_mul(gradients, self.sizes)
        for parameter in self.parameters:
            parameter.grad = None
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
        if not torch.isfinite(norm):
            return norm
        torch._foreach_mul_(scaled, (self.largest / norm.clamp_min(self.largest)))
        self.steps += 1
        torch._foreach_lerp_(self.first, scaled, 1 - BETAS[0])
        torch._foreach_mul_(self.second, BETAS[1])
        torch._foreach_addcmul_(self.second, scaled, scaled, 1 - BETAS[1])
        spread = torch._foreach_div(self.second, 1 - BETAS[1] ** self.steps)
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, EPSILON)
        moves = torch._foreach_div(self.first, spread)
        torch._foreach_mul_(moves, -rate / (1 - BETAS[0] ** self.steps))
        torch._foreach_addcmul_(self.parameters, moves, self.sizes)
        return norm

    def lay_out(self) -> None:
        """Give the state the memory layout that the parameters have now; mixed layouts are slow."""
        for name in ("sizes", "first", "second"):
            kept = zip(self.parameters, getattr(self, name), strict=True)
            setattr(self, name, [torch.empty_like(parameter).copy_(own) for parameter, own in kept])

    def forget(self) -> None:
        """Reset the moments."""
        torch._foreach_zero_(self.first)
        torch._foreach_zero_(self.second)
        self.steps = 0

    def state_dict(self) -> dict[str, object]:
        """Moments, sizes and the count of steps, for `load_state_dict`."""
        return {"first": self.first, "second": self.second, "sizes": self.sizes, "steps": self.steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from what `state_dict` gave."""
        for name in ("first", "second", "sizes"):
            for own, given in zip(getattr(self, name), state[name], strict=True):  # type: ignore[call-overload]
                own.copy_(given)
        self.steps = int(state["steps"])  # type: ignore[call-overload]
