"""Before the first record: the batch, the sites, and whether this network can be watched at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..provenance import versions
from . import ranks
from .batch import Batch, BatchFunction, Output, answer, make
from .guard import mode_sentence, refuse_writers
from .quantity import Quantity
from .sites import Place, resolve


@dataclass(frozen=True, slots=True)
class Watched:
    """What is measured on and where; `touched`: weights that a pass writes to without changing them."""

    batch: Batch
    places: dict[str, Place]
    touched: frozenset[str]


def look_at(model: nn.Module, batch_fn: BatchFunction, sites: Sequence[str] | None, output: Output | None) -> Watched:
    """Make the batch, find the sites, and see that the network answers the same twice and writes to no weight.

    Raises:
        InputError: whatever of these does not hold.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    found: list[tuple[Batch, dict[str, Place]]] = []

    def look() -> None:
        batch = make(batch_fn, device)
        found.append((batch, resolve(model, batch, sites)))
        with torch.no_grad():
            first, second = (answer(batch.call(model), output, batch.rows).detach().double() for _ in range(2))
        near = 1e-4 * float(first.abs().nan_to_num().max())
        if not torch.allclose(first, second, rtol=1e-4, atol=near, equal_nan=True):
            raise InputError(
                "model: answers the same batch differently from one pass to the next in evaluation mode, so records could not be "
                "compared; switch off what draws random numbers there"
            )

    touched = refuse_writers(model, look)
    return Watched(*found[0], touched)


def about(model: nn.Module, batch: Batch, quantities: Sequence[Quantity], budget: float, every: int | None) -> dict[str, Any]:
    """What run.json says. On several ranks all of them have to ask."""
    return {
        "model": type(model).__name__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "batch": {"rows": ranks.rows_before(batch.rows)[1], "digest": batch.digest, "ranks": ranks.count()},
        "mode": mode_sentence(model),
        "quantities": {one.name: one.settings() for one in quantities},
        "budget": budget,
        "every": every,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
