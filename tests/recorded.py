"""Networks and runs that the tests of the recorder watch."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from strandscope.recorder.recorder import Recorder

D, CLASSES = 12, 5


def drawn(n=64, d=D, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


HELD = drawn()


class Counting(nn.Module):
    """Writes to a buffer in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return x * (1 + 1e-6 * self.passes)


def network(*, counting=False):
    middle = [Counting()] if counting else []
    return nn.Sequential(
        nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3), *middle, nn.Linear(16, 8), nn.Tanh(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip


def trained(out=None, steps=18, make=network, **settings):
    """The losses of a run whose dropout, data and their order come from the global random states; the network at its end."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (a user's loop)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watching = None if out is None else Recorder(model, lambda: HELD, out=out, **{"every": 3, **settings}).start()
    losses = []
    for _ in range(steps):
        x = torch.randn(16, D) * (1 + random.random() + np.random.rand())  # noqa: NPY002
        y = torch.randint(CLASSES, (16,))
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watching is not None:
            watching.step(loss=loss)
        optimizer.zero_grad()
    if watching is not None:
        watching.close()
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    return losses, model, states
