"""Networks of random weights with a softmax on top: what free composition and depth are judged on, with every metric exact.

A twin is a stack of residual blocks h ← h + g·W₂ tanh(W₁ h/|h|) (|h| the root mean square of its entries), a last normalisation
and an unembedding whose logits are scaled until the output's entropy is the one asked for. Its Jacobians come from autograd, one
context at a time, in float64; nothing is learned, nothing sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...statistics.participation import participation_of

WIDTH, INNER, BLOCKS, WORDS = 128, 256, 4, 400
GAIN, ENTROPY = 1.5, 2.5  # of a block's output; of the next token, in nats


@dataclass(frozen=True, slots=True)
class Twin:
    """Random weights: per block (INNER, WIDTH) and (WIDTH, INNER), an unembedding (WORDS, WIDTH) and its scale."""

    inner: tuple[Tensor, ...]
    outer: tuple[Tensor, ...]
    unembedding: Tensor

    @classmethod
    def drawn(cls, random: torch.Generator, width: int = WIDTH, blocks: int = BLOCKS) -> Twin:
        def normal(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, generator=random, dtype=torch.float64) / columns**0.5

        wide = INNER * width // WIDTH
        inner = tuple(normal(wide, width) for _ in range(blocks))
        outer = tuple(normal(width, wide) for _ in range(blocks))
        return cls(inner, outer, normal(WORDS, width))

    def block(self, number: int, h: Tensor) -> Tensor:
        return h + GAIN * (normed(h) @ self.inner[number].T).tanh() @ self.outer[number].T

    def from_site(self, site: int, h: Tensor) -> Tensor:
        """The last normalised state, from the state before block `site`."""
        for number in range(site, len(self.inner)):
            h = self.block(number, h)
        return normed(h)

    def sites(self, h: Tensor) -> list[Tensor]:
        """States (…, width) before every block and after the last."""
        states = [h]
        for number in range(len(self.inner)):
            states.append(self.block(number, states[-1]))
        return states

    def scaled(self, h: Tensor, entropy: float = ENTROPY) -> Twin:
        """The same with logits scaled until the mean entropy over contexts (n, width) is `entropy` nats, by bisection."""
        logits, low, high = self.from_site(0, h) @ self.unembedding.T, 1e-3, 1e3
        for _ in range(60):
            middle = math.sqrt(low * high)
            p = (middle * logits).softmax(-1)
            if float(-(p * p.clamp_min(1e-300).log()).sum(-1).mean()) > entropy:
                low = middle
            else:
                high = middle
        return Twin(self.inner, self.outer, self.unembedding * low)

    def output_metric(self, last: Tensor) -> Tensor:
        """A = Wᵀ(diag p − ppᵀ)W at a last state (width,)."""
        p = (self.unembedding @ last).softmax(-1)
        mean = p @ self.unembedding
        return (self.unembedding * p[:, None]).T @ self.unembedding - torch.outer(mean, mean)


@dataclass(frozen=True, slots=True)
class Seen:
    """Log participation ratios of one context, all exact.

    Attributes:
        response, output: of F = JᵀAJ at the first site, and of A.
        aligned: of F if A's eigenvectors were turned onto the directions that J reaches most, in order.
        jacobians: of JᵀJ from each site to the last state; `blocks`: of every block's own.
    """

    response: float
    aligned: float
    output: float
    jacobians: tuple[float, ...]
    blocks: tuple[float, ...]


def normed(h: Tensor) -> Tensor:
    return h / h.square().mean(-1, keepdim=True).sqrt()


def seen(twin: Twin, h: Tensor) -> Seen:
    """Everything of one context (width,), exactly."""
    states = twin.sites(h)
    steps = [_jacobian(lambda z, n=number: twin.block(n, z), state) for number, state in enumerate(states[:-1])]
    after = _jacobian(normed, states[-1])
    whole = [after]
    for step in reversed(steps):
        whole.append(whole[-1] @ step)
    whole.reverse()
    metric = twin.output_metric(normed(states[-1]))
    first = whole[0]
    reached = torch.linalg.svdvals(first)  # descending
    aligned = torch.linalg.eigvalsh(metric).flip(0) * reached.square()
    return Seen(
        _log(first.T @ metric @ first),
        _log(torch.diag(aligned)),
        _log(metric),
        tuple(_log(part.T @ part) for part in whole),
        tuple(_log(part.T @ part) for part in steps),
    )


def _jacobian(f, h: Tensor) -> Tensor:
    """(outputs, width), by one batched backward pass."""
    rows = h.expand(len(h), -1).clone().requires_grad_()
    (found,) = torch.autograd.grad(f(rows), rows, torch.eye(len(h), dtype=h.dtype))
    return found


def _log(metric: Tensor) -> float:
    return math.log(participation_of(metric))
