"""What is proved of a function before its curvature is measured, each failure a sentence.

- It repeats itself: two passes give the same loss and gradient. A module in train mode with dropout, or with batch norms that
  keep running statistics, is refused before anything runs.
- Its head is smooth. The Hessian that autograd gives of |x|, max or a hinge is that of the pieces: it knows nothing of the kinks
  between them, where all of such a loss's curvature sits. So the weights nearest the loss are moved by as much as they are long
  and the change of the gradient along the way is held against the integral of the second derivative over it (fundamental theorem
  of calculus): kinks that are crossed are what is missing, in the mean over rows, so that jumps which cancel are not seen.
  Nothing behind these weights moves, so that the kinks of ReLUs inside a network are not asked about: their Hessian is the usual
  one, almost everywhere defined, and as blind to them.
- The second derivative is symmetric: where a part of the loss is cut from the graph, the operator is the Hessian of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, TrustError
from ...provenance import torch_generator
from .operator import Operator
from .weights import Weights

Losses = Callable[[Weights], Tensor]

NODES = (4, 16, 64)  # of Gauss–Legendre quadrature; more are taken only where fewer disagree
MISSING = 0.1  # of the change of the gradient that kinks may make
FARTHER = (1.0, 10.0, 100.0)  # steps, in lengths of the weights; the long ones only where the second derivative is zero
NEARER = 0.1  # where a step as long as the weights leaves the loss's domain
_VIEWS = ("TBackward", "ViewBackward", "ToCopyBackward", "TransposeBackward", "PermuteBackward", "ExpandBackward", "UnsafeView")


def refuse_training(module: nn.Module | None) -> None:
    """Refuse a module that would not repeat itself, or whose buffers a pass would change."""
    for name, part in module.named_modules() if module is not None else ():
        at = f"module: {name or type(part).__name__} ({type(part).__name__}) is in train mode"
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise InputError(f"{at} and drops units at random; curvature is that of one function: call module.eval() first")
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.training and part.track_running_stats:
            raise InputError(f"{at} and changes its running statistics at every pass; call module.eval() first")


@contextmanager
def buffers_kept(module: nn.Module | None) -> Iterator[None]:
    """Refuse a module whose buffers a pass has changed, and put them back."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()} if module is not None else {}
    yield
    changed = []
    for name, buffer in module.named_buffers() if module is not None else ():
        if name in before and not torch.equal(before[name], buffer):
            buffer.copy_(before[name])
            changed.append(name)
    if changed:
        raise InputError(f"module: a pass changes its buffer {changed[0]!r} (put back now); call module.eval() first")


def repeats(first: Sequence[tuple[float, Tensor]], second: Sequence[tuple[float, Tensor]]) -> None:
    """Losses and gradients of the batches of two passes agree."""
    if len(first) != len(second):
        raise TrustError(f"batches: {len(first)} on the first pass and {len(second)} on the second; pass a list of them")
    for number, ((loss, slope), (other, turned)) in enumerate(zip(first, second, strict=True)):
        most = min(100 * torch.finfo(slope.dtype).eps, 0.01)
        apart = max(abs(loss - other), float((slope - turned).norm()) / max(float(slope.norm()), 1e-300) * abs(loss))
        if apart > most * abs(loss):
            raise TrustError(
                f"loss: two passes over batch {number} gave {loss:.8g} and {other:.8g} and gradients that differ by "
                f"{float((slope - turned).norm()):.3g}, so the function is not deterministic; look for dropout, a module in "
                "train mode, or batches that are drawn or shuffled anew at every pass"
            )


def symmetric(operator: Operator) -> None:
    """u·Av = v·Au for two random vectors."""
    generator = torch_generator(0, "curvature symmetry")
    u, v = (torch.randn(operator.size, generator=generator, dtype=operator.dtype).to(operator.device) for _ in range(2))
    over, under = operator @ v, operator @ u
    apart = abs(float(u @ over) - float(v @ under))
    scale = float(u.norm() * over.norm() + v.norm() * under.norm()) / operator.size**0.5
    if apart > max(0.01, 30 * torch.finfo(operator.dtype).eps) * scale:
        raise InputError(
            f"loss: its second derivative is not symmetric (u·Hv and v·Hu differ by {apart:.3g}), so it is the Hessian of no "
            "function; look for detach(), no_grad() or a backward of your own"
        )


def smooth_head(losses: Losses, weights: Weights) -> None:
    """Refuse a loss whose gradient changes by kinks as the weights nearest it are moved (of several devices, those of one).

    Args:
        losses: (n,) at given weights.
    """
    found = _nearest(losses(weights), weights)
    names = tuple(name for name in found if weights.tensors[name].device == weights.tensors[found[-1]].device)
    near = weights.only(names)
    step = _step(near)
    start, slope, length = _slope(losses, near, step)
    scales = list(FARTHER)
    while scales:
        scale = scales.pop(0)
        end, other, reached = _slope(losses, near.moved({name: scale * part for name, part in step.items()}), step)
        if not math.isfinite(end + other):
            scales = [NEARER] if scale == FARTHER[0] else []  # past the edge of the loss's domain
            continue
        if length == reached == 0 and abs(end - start) > 1e-6 * max(abs(start), abs(end)):
            raise InputError(
                f"loss: it is constant in pieces (no gradient, although it moves from {start:.4g} to {end:.4g}), so it has no "
                "Hessian; take a smooth loss"
            )
        change = other - slope
        flat = abs(change) <= 1e-3 * max(abs(slope), abs(other))
        found = _Along.of(losses, near, step, scale, NODES[0])
        if flat and found.bend == 0:
            continue  # nothing bends so near: look farther
        for nodes in NODES[1:]:
            if flat or found.missing(change) <= MISSING:
                break
            found = _Along.of(losses, near, step, scale, nodes)
        if not flat and found.missing(change) > MISSING:
            raise InputError(
                f"loss: its head is not smooth: {found.missing(change):.0%} of the change of the gradient as "
                f"{', '.join(names[:3])} move comes from kinks (as of |x|, max, a hinge or a ReLU on the output), or from a part "
                "that is detached; a Hessian does not see it; take a smooth loss, or gauss_newton of what comes before the kinks"
            )
        return


def _slope(losses: Losses, near: Weights, step: dict[str, Tensor]) -> tuple[float, float, float]:
    """The mean loss, its derivative along the step and the gradient's norm."""
    mean = losses(near).mean()
    found = torch.autograd.grad(mean, near.leaves, allow_unused=True)
    along = sum(
        float((part * step[name]).double().sum()) for name, part in zip(near.chosen, found, strict=True) if part is not None
    )
    return float(mean.detach()), float(along), float(near.join(found).norm())


@dataclass(frozen=True, slots=True)
class _Along:
    """The second derivative along a step, integrated: with its sign, and `bend` without."""

    integral: float
    bend: float

    @classmethod
    def of(cls, losses: Losses, near: Weights, step: dict[str, Tensor], scale: float, nodes: int) -> _Along:
        places, shares = np.polynomial.legendre.leggauss(nodes)
        integral = bend = 0.0
        for place, share in zip((places + 1) / 2 * scale, shares / 2 * scale, strict=True):
            there = near.moved({name: float(place) * part for name, part in step.items()})
            second = cls._at(losses, there, step)
            integral, bend = integral + share * second, bend + share * abs(second)
        return cls(integral, bend)

    @staticmethod
    def _at(losses: Losses, there: Weights, step: dict[str, Tensor]) -> float:
        found = torch.autograd.grad(losses(there).mean(), there.leaves, create_graph=True, allow_unused=True)
        along = [(part * step[name]).sum() for name, part in zip(there.chosen, found, strict=True) if part is not None]
        if not any(part.requires_grad for part in along):
            return 0.0
        second = torch.autograd.grad(torch.stack(along).sum(), there.leaves, allow_unused=True)
        pairs = [(part, step[name]) for name, part in zip(there.chosen, second, strict=True) if part is not None]
        return sum(float((part * by).double().sum()) for part, by in pairs)

    def missing(self, change: float) -> float:
        """The share of the change of the gradient that the integral lacks."""
        return abs(change - self.integral) / max(abs(change), self.bend)


def _step(near: Weights) -> dict[str, Tensor]:
    """A random step, in each tensor as long as the tensor; where that is zero up to rounding, with entries of 1/√columns."""
    generator, step = torch_generator(0, "curvature head"), {}
    for name, leaf in zip(near.chosen, near.leaves, strict=True):
        drawn = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device, leaf.dtype)
        rms, usual = float(leaf.detach().double().square().mean().sqrt()), (leaf.shape[-1] if leaf.ndim else 1) ** -0.5
        step[name] = drawn * (rms if rms > torch.finfo(leaf.dtype).eps ** 0.5 * usual else usual)
    return step


def _nearest(losses: Tensor, weights: Weights) -> tuple[str, ...]:
    """Names of the weights nearest the loss: those that are met first on every way back through its graph."""
    names = {id(leaf): name for name, leaf in zip(weights.chosen, weights.leaves, strict=True)}
    found: set[str] = set()
    seen: set[Any] = set()
    waiting = [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [parent for parent, _ in node.next_functions if parent is not None]
        here = {names[key] for parent in before if (key := _leaf(parent)) in names}
        found |= here
        if not here:
            waiting += before
    return tuple(name for name in weights.chosen if name in found) or weights.chosen


def _leaf(node: Any) -> int | None:
    """id of the leaf that a node accumulates into, seen through views of it."""
    while (
        node is not None and node.name().removesuffix("0").removesuffix("1").startswith(_VIEWS) and len(node.next_functions) == 1
    ):
        node = node.next_functions[0][0]
    return id(node.variable) if node is not None and "AccumulateGrad" in node.name() else None
