"""Edits that hold what states say along k directions: erased, clamped into a range, or rotated towards a direction.

All compute in fp32 (or the states' own dtype where that is finer) and round to the states' dtype once, so what they promise of
coordinates and norms holds to rounding in that dtype. `edit` says how edits are composed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..linalg import finite
from .edit import Ready, check_direction, check_width, ready, wide

APART = 1e-6  # least singular value between the spans of a basis and a pattern, below which one does not write the other


@dataclass(frozen=True, slots=True, eq=False)
class Erase:
    """h − write · readᵀ(h − mean): an affine map of rank k, paid with 2dk multiplications a state and no d × d product.

    It is a projection where readᵀ write = I: what is read afterwards is what `mean` has, whatever it was.

    Args:
        read: (d, k) columns that read a state.
        write: (d, k) columns along which what was read is taken out.
        mean: (d,) the state that stays as it is.
    """

    read: Tensor
    write: Tensor
    mean: Tensor
    _ready: Ready = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _columns(self.read, "read")
        _columns(self.write, "write", self.read)
        if self.mean.shape != self.read.shape[:1]:
            raise InputError(f"mean: got shape {tuple(self.mean.shape)}, wanted ({len(self.read)},), one number a row of read")
        finite(self.mean, "mean")

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.read, states.shape[-1])
        read, write, mean = ready(self._ready, states, wide, lambda: (self.read, -self.write.T, self.mean))
        held = states.to(mean.dtype)  # less the mean before it is read: a common offset may be a thousand times the spread
        return _plus(held, (held - mean) @ read, write).to(states.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Clamp:
    """Coordinates basisᵀh, each into [low, high]; a state whose coordinates are all inside stays as it is, bit for bit.

    A coordinate that moves leaves the other k − 1 where they are.

    Args:
        basis: (d, k) independent columns that coordinates are read with.
        low, high: for all coordinates, or (k,) of them, in the coordinates' own unit; an infinity leaves that side open.
        pattern: (d, k) columns whose span coordinates are written in (a strand's pattern); the basis' own span where None.
    """

    basis: Tensor
    low: float | Tensor
    high: float | Tensor
    pattern: Tensor | None = None
    dual: Tensor = field(init=False, repr=False)  # (d, k) columns of that span with basisᵀ dual = I
    _ready: Ready = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        basis = _columns(self.basis, "basis")
        pattern = basis if self.pattern is None else _columns(self.pattern, "pattern", self.basis)
        k = basis.shape[1]
        for name, bound in (("low", self.low), ("high", self.high)):
            if isinstance(bound, Tensor) and bound.shape not in ((), (k,)):
                raise InputError(f"{name}: got shape {tuple(bound.shape)}, wanted a number, or ({k},) of them")
        low, high = self._bounds()
        if not bool((low <= high).all()):  # of a NaN too
            raise InputError(f"low: got {low.tolist()} with high {high.tolist()}, wanted low ≤ high in every coordinate")
        units = [columns / columns.norm(dim=0).clamp_min(1e-300) for columns in (basis, pattern)]
        if k and float(torch.linalg.svdvals(units[0].T @ units[1])[-1]) < APART:
            name = "basis" if self.pattern is None else "pattern"
            raise InputError(
                f"{name}: got columns that do not write {k} coordinates apart; leave out those that depend on others"
            )
        object.__setattr__(self, "dual", torch.linalg.solve(pattern.T @ basis, pattern.T).T)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """(k,) each."""
        k, device = self.basis.shape[1], self.basis.device
        low, high = (torch.as_tensor(bound, dtype=torch.float64, device=device).expand(k) for bound in (self.low, self.high))
        return low, high

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.basis, states.shape[-1])
        basis, dual, low, high = ready(self._ready, states, wide, lambda: (self.basis, self.dual.T, *self._bounds()))
        held = states.to(basis.dtype)
        read = held @ basis
        move = read.clamp(low, high) - read
        outside = move != 0 if basis.shape[1] == 1 else (move != 0).any(-1, keepdim=True)
        return torch.where(outside, _plus(held, move, dual).to(states.dtype), states)


@dataclass(frozen=True, slots=True, eq=False)
class Rotate:
    """States turned in the plane that each spans with a direction; their norms stay.

    Either by an `angle` towards the direction, at most until the state lies along it (a negative one away, at most until it lies
    against it), or until the state's cosine with the direction is `cosine`. A state that lies along the direction, or against it,
    or is 0, spans no plane with it and stays as it is.

    Args:
        direction: (d,), of any length.
        angle: radians.
        cosine: −1 to 1.
    """

    direction: Tensor
    angle: float | None = None
    cosine: float | None = None
    _ready: Ready = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_direction(self.direction)
        if (self.angle is None) == (self.cosine is None):
            got = "neither" if self.angle is None else "both"
            raise InputError(f"angle, cosine: got {got}, wanted one of them: how far to turn, or the cosine to reach")
        if self.angle is not None and not math.isfinite(self.angle):
            raise InputError(f"angle: got {self.angle}, wanted a finite number of radians")
        if self.cosine is not None and not -1 <= self.cosine <= 1:
            raise InputError(f"cosine: got {self.cosine}, wanted -1 to 1")

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.direction, states.shape[-1])
        if self.angle == 0:
            return states
        (unit,) = ready(self._ready, states, wide, lambda: (self.direction.double() / self.direction.double().norm(),))
        held = states.to(unit.dtype)
        along = (held @ unit)[..., None]
        across = held - along * unit
        norm, height = held.norm(dim=-1, keepdim=True), across.norm(dim=-1, keepdim=True)
        cosine, sine = self._aim(along, height)
        turned = cosine * unit + sine / height * across
        turned = turned * (norm / turned.norm(dim=-1, keepdim=True))  # where across is short, rounding is not square to unit
        plane = height > torch.finfo(unit.dtype).eps * math.sqrt(len(unit)) * norm
        return torch.where(plane, turned.to(states.dtype), states)

    def _aim(self, along: Tensor, height: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Cosine and sine of the angle to the direction afterwards."""
        if self.cosine is not None:
            return self.cosine, math.sqrt(1 - self.cosine**2)
        assert self.angle is not None
        after = (torch.atan2(height, along) - self.angle).clamp(0.0, math.pi)
        return after.cos(), after.sin()


def _plus(states: Tensor, coordinates: Tensor, rows: Tensor) -> Tensor:
    """states (…, d) + coordinates (…, k) · rows (k, d), of one row in one operation."""
    return torch.addcmul(states, coordinates, rows[0]) if len(rows) == 1 else states + coordinates @ rows


def _columns(columns: Tensor, name: str, beside: Tensor | None = None) -> Tensor:
    """The columns in float64, checked to be finite and (d, k), as those beside them are."""
    if columns.ndim != 2 or (beside is not None and columns.shape != beside.shape):
        wanted = "(d, k), a column a direction" if beside is None else f"{tuple(beside.shape)}, as the columns that read"
        raise InputError(f"{name}: got shape {tuple(columns.shape)}, wanted {wanted}")
    return finite(columns, name)
