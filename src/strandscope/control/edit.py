"""Edits: pure functions h -> h' along a direction, evaluated in the dtype of the site."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..provenance import digest


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
        check_width(self.direction, states.shape[-1])
        if key not in self._ready:  # once per dtype and device, not once per pass
            self._ready[key] = (self.scale * self.direction.double()).to(device=states.device, dtype=states.dtype)
        return states + self._ready[key]


@dataclass(frozen=True, slots=True)
class Ablate:
    """h − (vᵀh − mean)·v for the unit vector v along `direction`: the coordinate along it is `mean` afterwards, whatever it was.

    The coordinate is taken and the difference made in fp32 (or better), and rounded to the states' dtype once.

    Args:
        direction: (d,), of any length.
        mean: the coordinate vᵀh that is written; 0 takes the whole component out.
    """

    direction: Tensor
    mean: float = 0.0

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.direction, states.shape[-1])
        wide = torch.promote_types(states.dtype, torch.float32)
        unit = self.direction.double()
        unit = (unit / unit.norm()).to(device=states.device, dtype=wide)
        held = states.to(wide)
        return (held - ((held @ unit)[..., None] - self.mean) * unit).to(states.dtype)


def check_width(direction: Tensor, width: int) -> None:
    if len(direction) != width:
        wide = f"got one of width {len(direction)}, the states here have {width}"
        raise InputError(f"direction: {wide}; find the strand again in this network")


def check_direction(direction: Tensor) -> None:
    if direction.ndim != 1 or not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
        what = f"shape {tuple(direction.shape)}" if direction.ndim != 1 else "zeros, NaN or infinities"
        raise InputError(f"direction: got {what}, wanted one finite vector (d,) that is not zero")


def direction_digest(direction: Tensor) -> str:
    return digest(direction.detach().float().cpu().contiguous().numpy().tobytes())
