"""What a recorder measures: anything with a name that, given the network and the batch, returns readings and tensors by name.

A quantity is called in evaluation mode, under the recorder's guard, with the network as it stands. It takes gradients with
`torch.autograd.grad` and leaves `.grad` alone. Its readings go into the record's line, its tensors into the file beside it, both
under "PLACE/what" or "what". An `InputError` or `TrustError` after the first record (a training that diverged) is written as the
reason why its readings are not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..reading import Reading
from .batch import Batch


@dataclass(frozen=True, slots=True)
class Measured:
    readings: Mapping[str, Reading] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Quantity(Protocol):
    """`settings` is what two runs, or a run and its resumption, must have in common to be compared; JSON holds it."""

    @property
    def name(self) -> str: ...

    def settings(self) -> dict[str, object]: ...

    def measure(self, model: nn.Module, batch: Batch) -> Measured: ...


def gradient_norm(model: nn.Module) -> Reading:
    """The norm of `.grad` as it stands: of the step just made, if it was not cleared."""
    norms = [weight.grad.detach().double().norm() for weight in model.parameters() if weight.grad is not None]
    method, unit = "norm of .grad over all weights after the step", "loss per weight unit"
    if not norms:
        return Reading.not_measured("no .grad: it was cleared before step()", unit=unit, method=method)
    norm = float(torch.stack([one.cpu() for one in norms]).norm())
    if not math.isfinite(norm):
        return Reading.not_measured("a gradient is NaN or infinite", unit=unit, method=method)
    return Reading(norm, norm, norm, None, len(norms), unit, None, method)
