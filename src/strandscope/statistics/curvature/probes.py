"""Random vectors that an operator is asked with."""

from __future__ import annotations

import torch
from torch import Tensor

from .operator import Operator

LEAST_PROBES = 4  # fewer give no interval that could be believed


def signs(operator: Operator, generator: torch.Generator) -> Tensor:
    """(p,) of independent ±1."""
    drawn = torch.randint(0, 2, (operator.size,), generator=generator)
    return (2 * drawn - 1).to(operator.device, operator.dtype)
