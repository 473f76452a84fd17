"""Full-batch gradient descent on named tensors, one loss or many side by side.

Many networks are trained at once where each tensor has their number as its first axis and the loss is one figure a network: the
gradient of the sum is that of each. Step sizes then have that axis too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...statistics.tangent.kernel import Parameters

Weights = dict[str, Tensor]


def descend(
    loss: Callable[[Parameters], Tensor], start: Parameters, step: Tensor | float, steps: int
) -> Iterator[tuple[Tensor, Weights]]:
    """(losses, weights) before the first step and after each of `steps`; losses are of shape () or (networks,)."""
    held = {name: value.detach() for name, value in start.items()}
    for number in range(steps + 1):
        leaves = {name: value.requires_grad_() for name, value in held.items()}
        losses = loss(leaves)
        yield losses.detach(), {name: value.detach() for name, value in leaves.items()}
        if number == steps:
            return
        slopes = torch.autograd.grad(losses.sum(), list(leaves.values()))
        held = {
            name: (value - _along(step, value) * slope).detach()
            for (name, value), slope in zip(leaves.items(), slopes, strict=True)
        }


def last(path: Iterator[tuple[Tensor, Weights]]) -> tuple[Tensor, Weights]:
    """The end of a path."""
    (end,) = deque(path, maxlen=1)
    return end


def separate(weights: Parameters) -> Iterator[Weights]:
    """The weights of networks side by side, one network after the other."""
    for parts in zip(*weights.values(), strict=True):
        yield dict(zip(weights, parts, strict=True))


def _along(step: Tensor | float, value: Tensor) -> Tensor | float:
    """A step of each network, in a shape that multiplies its weights."""
    return step.view(-1, *[1] * (value.ndim - 1)) if isinstance(step, Tensor) and step.ndim else step
