"""What tests of curvature share: small networks, their data, and dense answers by another road."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.functional import hessian as row_by_row
from torch.func import functional_call

from strandscope.provenance import torch_generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch_generator(seed, "test")


def network(*between, seed=0, dtype=torch.float64):
    """Linear(4, 5), what is given, Linear(5, 3)."""
    net = nn.Sequential(nn.Linear(4, 5), *between, nn.Linear(5, 3)).to(dtype)
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            p.copy_(normal(*p.shape, seed=seed + number))
    return net


X, CODES, TARGETS = normal(14, 4, seed=7), torch.arange(14) % 3, normal(14, 3, seed=8)
BATCHES = list(zip(X.split([5, 8, 1]), CODES.split([5, 8, 1]), strict=True))


def flat(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def at(net, vector, x=X):
    parts, start = {}, 0
    for name, p in net.named_parameters():
        parts[name] = vector[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return functional_call(net, parts, (x,))


def dense(net, loss):
    """The Hessian by another road: of a function of one vector, row by row."""
    return row_by_row(lambda vector: loss(at(net, vector)), flat(net))


def rotated(values, seed=0):
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    matrix = (basis * torch.as_tensor(values, dtype=torch.float64)) @ basis.T
    return (matrix + matrix.T) / 2
