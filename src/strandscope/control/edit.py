"""Edits: pure functions h -> h' along a direction, evaluated in the dtype of the site."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class Add:
    """h + scale · direction. The sum is made in the states' own dtype, as the network would make it; scale 0 changes nothing.

    Args:
        direction: (d,), in the states' units.
        scale: how many of it.
    """

    direction: Tensor
    scale: float
    _ready: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, states: Tensor) -> Tensor:
        if self.scale == 0:
            return states
        key = (states.dtype, states.device)
        if len(self.direction) != states.shape[-1]:
            wide = f"got one of width {len(self.direction)}, the states here have {states.shape[-1]}"
            raise InputError(f"direction: {wide}; find the strand again in this network")
        if key not in self._ready:  # once per dtype and device, not once per pass
            self._ready[key] = (self.scale * self.direction.double()).to(device=states.device, dtype=states.dtype)
        return states + self._ready[key]
