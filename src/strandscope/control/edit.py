"""Edits: pure functions h -> h' of states (…, d), which give back states of the same shape and dtype.

Here are the pushes along one direction and the composition of edits; `hold` has erasing, clamping and rotating. What an edit
computes with is made once for each dtype and device that it meets, so a pass allocates nothing but states and never waits for
the device. Its tensors are taken as they are at its first use: do not write into them afterwards.

Edits are composed in the order in which they are written, in `Then` as in the sequences that `attach` takes; the order matters
(what one adds the next may erase). Each rounds to the states' dtype, as if it were attached alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..provenance import digest

Ready = dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Add:
    """h + scale · direction. The sum is made in the states' own dtype, as the network would make it; scale 0 changes nothing.

    Args:
        direction: (d,), in the states' units.
        scale: how many of it.
    """

    direction: Tensor
    scale: float
    _ready: Ready = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, states: Tensor) -> Tensor:
        if self.scale == 0:
            return states
        check_width(self.direction, states.shape[-1])
        (push,) = ready(self._ready, states, own, lambda: (self.scale * self.direction.double(),))
        return states + push


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
    _ready: Ready = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.direction, states.shape[-1])
        (unit,) = ready(self._ready, states, wide, lambda: (self.direction.double() / self.direction.double().norm(),))
        held = states.to(unit.dtype)
        return (held - ((held @ unit)[..., None] - self.mean) * unit).to(states.dtype)


@dataclass(frozen=True, slots=True, init=False)
class Then:
    """Several edits as one: the first is applied first, the next to what it gave. Of none, states stay as they are."""

    edits: tuple[Callable[[Tensor], Tensor], ...]

    def __init__(self, *edits: Callable[[Tensor], Tensor]) -> None:
        object.__setattr__(self, "edits", edits)

    def __call__(self, states: Tensor) -> Tensor:
        for edit in self.edits:
            states = edit(states)
        return states


def ready(
    made: Ready, states: Tensor, dtype: Callable[[Tensor], torch.dtype], make: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What `make` gives, in `dtype(states)` on the states' device; made at the first call for such states and kept in `made`."""
    key = (states.dtype, states.device)
    found = made.get(key)
    if found is None:
        with torch.inference_mode(False):  # what is made inside it could not be differentiated through later
            found = made[key] = tuple(part.detach().to(device=states.device, dtype=dtype(states)) for part in make())
    return found


def own(states: Tensor) -> torch.dtype:
    return states.dtype


def wide(states: Tensor) -> torch.dtype:
    """fp32, or the states' own dtype where that is finer."""
    return torch.promote_types(states.dtype, torch.float32)


def check_width(direction: Tensor, width: int) -> None:
    if len(direction) != width:
        got = f"got one of width {len(direction)}, the states here have {width}"
        raise InputError(f"direction: {got}; find the strand again in this network")


def check_direction(direction: Tensor) -> None:
    if direction.ndim != 1 or not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
        what = f"shape {tuple(direction.shape)}" if direction.ndim != 1 else "zeros, NaN or infinities"
        raise InputError(f"direction: got {what}, wanted one finite vector (d,) that is not zero")


def direction_digest(direction: Tensor) -> str:
    return digest(direction.detach().float().cpu().contiguous().numpy().tobytes())
