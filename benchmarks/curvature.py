"""Top eigenvalues and trace of a Hessian of 1M parameters beside curvlinops-for-pytorch 3.0.1: time, and the same figures.

A character transformer (fp32, attention written out), a few Adam steps old, on eight stretches of 64 characters of Python's own
sources. Ours pays for the operator and its proofs (deterministic, smooth head, symmetric); theirs for its operator with its
check of determinism, and `scipy.sparse.linalg.eigsh(which="LA")`, which is the way their documentation names. Equal residual:
theirs runs first at a tolerance of 1e-3, and ours has to reach the worst residual that theirs reached, or better. Traces take as
many products on either side, both with random signs. Eigenvalues, products with one vector, and traces are compared.

The network normalises by plain operations, on which both agree. With `nn.LayerNorm` they do not: `torch.func`, by which theirs
differentiates, gets second derivatives by its weights wrong in torch 2.13 (central differences of the gradient in float64 decide,
and stand in the table).
"""

from __future__ import annotations

import copy
import inspect
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from common import Line, Results, Size, Table, main, paired
from strandscope.provenance import torch_generator
from strandscope.statistics.curvature import Eigenpairs, Operator, hessian, hutch_plus_plus, top_eigenvalues, trace

WORDS, LENGTH, K, TOLERANCE = 128, 64, 5, 1e-3


class Norm(nn.Module):
    """nn.LayerNorm by plain operations."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight + self.bias


class Block(nn.Module):
    def __init__(self, d: int, heads: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = norm(d), norm(d)
        self.into, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, h: Tensor) -> Tensor:
        n, t, d = h.shape
        q, k, v = self.into(self.first(h)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask = torch.full((t, t), -1e9).triu(1)
        mixed = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5 + mask).softmax(-1) @ v
        h = h + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return h + self.down(F.gelu(self.up(self.second(h))))


class Transformer(nn.Module):
    """Next-character logits (n·t, 128) of characters (n, t)."""

    def __init__(self, d: int, layers: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, d), nn.Parameter(0.02 * torch.randn(LENGTH, d))
        self.blocks = nn.Sequential(*(Block(d, 4, norm) for _ in range(layers)))
        self.last, self.head = norm(d), nn.Linear(d, WORDS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.words(x) + self.places))).flatten(0, 1)


def made(size: Size, norm: type[nn.Module] = Norm) -> tuple[Transformer, Tensor, Tensor]:
    """A network a few steps old, and the characters it is measured on, which are none of those it was trained on."""
    torch.manual_seed(0)
    net = Transformer(size.of(128, 16), size.of(5, 1), norm)
    text = torch.tensor([min(ord(c), WORDS - 1) for c in inspect.getsource(inspect)])
    rows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    x, y = rows[:8, :-1], rows[:8, 1:].flatten()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(size.of(40, 2)):
        part = rows[8 + 16 * step : 24 + 16 * step]
        optimiser.zero_grad()
        F.cross_entropy(net(part[:, :-1]), part[:, 1:].flatten()).backward()
        optimiser.step()
    return net.eval(), x, y


def layer_norms(size: Size) -> tuple[float, float]:
    """How far a product is from central differences with nn.LayerNorm in the network, in float64: ours and theirs."""
    from curvlinops import HessianLinearOperator

    net, x, y = made(size, nn.LayerNorm)
    net = net.double()
    parameters = list(net.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), generator=torch_generator(1, "vector"), dtype=torch.float64)
    parts = [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in parameters]), parameters, strict=True)]
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for p, part in zip(moved.parameters(), parts, strict=True):
                p += sign * 1e-5 * part
        found = torch.autograd.grad(F.cross_entropy(moved(x), y), list(moved.parameters()))
        ends.append(torch.cat([part.flatten() for part in found]))
    truth = (ends[0] - ends[1]) / 2e-5
    ours = hessian(lambda: F.cross_entropy(net(x), y), net) @ vector
    theirs = HessianLinearOperator(net, nn.CrossEntropyLoss(), parameters, [(x, y)]) @ vector
    return float((ours - truth).norm() / truth.norm()), float((theirs - truth).norm() / truth.norm())


def run(size: Size) -> Results:
    warnings.simplefilter("ignore")
    net, x, y = made(size)
    count = sum(p.numel() for p in net.parameters())
    probes = size.of(30, 12)

    def ours() -> Operator:
        return hessian(lambda: F.cross_entropy(net(x), y), net)

    def theirs() -> Any:
        from curvlinops import HessianLinearOperator

        parameters = list(net.parameters())
        return HessianLinearOperator(net, nn.CrossEntropyLoss(), parameters, [(x, y)])

    def their_top() -> tuple[np.ndarray, np.ndarray]:
        start = torch.randn(count, generator=torch_generator(0, "start")).numpy()
        return eigsh(theirs().to_scipy(), k=K, which="LA", tol=TOLERANCE, v0=start)

    values, vectors = their_top()
    mine = ours()
    order = np.argsort(-values)
    values, columns = values[order], torch.as_tensor(vectors[:, order])
    worst = float(((mine @ columns).double() - columns.double() * torch.as_tensor(values)).norm(dim=0).max()) / values[0]

    def our_top() -> Eigenpairs:
        return top_eigenvalues(ours(), K, generator=torch_generator(0, "start"), tolerance=worst)

    found = our_top()
    reached = float(found.residuals.max()) / float(found.values[0])
    apart = float(np.abs(found.values.numpy() / values - 1).max())
    vector = torch.randn(count, generator=torch_generator(1, "vector"))
    product, other = mine @ vector, theirs() @ vector

    def their_trace(how: str) -> float:
        import curvlinops

        torch.manual_seed(0)
        return float(getattr(curvlinops, how)(theirs(), probes, distribution="rademacher"))

    def our_trace(how: Any) -> Any:
        return how(ours(), probes, generator=torch_generator(0, "probes"))

    pairs = size.of(5, 1)
    traced = {"Hutchinson": (trace, "hutchinson_trace"), "Hutch++": (hutch_plus_plus, "hutchpp_trace")}
    lines = [
        paired(our_top, their_top, pairs).line(f"top {K} eigenvalues / curvlinops and eigsh, equal residual", 1.0),
        Line("worst residual, ours / theirs", reached / worst, most=1.0),
        Line("largest distance of eigenvalues", apart, unit="of the eigenvalue", most=1e-3),
        Line("distance of one product", float((product - other).norm() / other.norm()), unit="of its norm", most=1e-4),
    ]
    differences = layer_norms(size)
    what = "with nn.LayerNorm, distance of one product from central differences"
    lines.append(Line(f"{what}, ours", differences[0], unit="of its norm", most=1e-6))
    lines.append(Line(f"{what}, theirs", differences[1], unit="of its norm"))
    rows = [("eigenvalue", f"{a:.6g}", f"{b:.6g}") for a, b in zip(found.values.tolist(), values.tolist(), strict=True)]
    rows.append(("product with nn.LayerNorm, distance", *(f"{d:.3g}" for d in differences)))
    rows.append(("worst residual of λ₁", f"{reached:.3g}", f"{worst:.3g}"))
    for name, (mine_of, theirs_of) in traced.items():
        one, two = our_trace(mine_of), their_trace(theirs_of)
        timed = paired(lambda f=mine_of: our_trace(f), lambda f=theirs_of: their_trace(f), pairs)
        lines.append(timed.line(f"trace, {name} with {probes} products / curvlinops", 1.0))
        lines.append(Line(f"distance of traces, {name}", abs(one.value - two) / (2**0.5 * one.error), unit="errors", most=5.0))
        rows.append((f"trace, {name}", f"{one.value:.5g} ± {one.error:.2g}", f"{two:.5g}"))
    return Results(
        f"Hessian of a transformer of {count:,} parameters over {len(y)} characters, beside curvlinops-for-pytorch "
        f"{version('curvlinops-for-pytorch')}.",
        tuple(lines),
        (Table("In full figures", ("what", "ours", "theirs"), tuple(rows)),),
        {"products of ours": found.products, "loss": round(float(F.cross_entropy(net(x), y).detach()), 3)},
    )


if __name__ == "__main__":
    main("curvature", run, __doc__ or "")
