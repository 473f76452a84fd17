"""An edit as the affine map that it is: h -> h − write · readᵀh + constant.

Additions, ablations and affine erasures are such maps, and so is any sequence of them. What is not (clamping, rotating, gating)
is refused by name: no weight and no bias computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...subject.attach import Scope
from ..edit import Ablate, Add, Then, check_direction, check_width
from ..hold import Erase

Edit = Callable[[Tensor], Tensor]
NOTHING = 1e-12  # relative size of what float64 leaves of a column that another has taken out
SAME = 1e-5  # relative size of what is left of a map that float32 factors say is none


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """h -> h − write · readᵀh + constant, in float64 on the CPU; `write` and `read` are (d, r), `constant` (d,)."""

    write: Tensor
    read: Tensor
    constant: Tensor

    @classmethod
    def none(cls, width: int) -> Affine:
        """The map that leaves states as they are."""
        zeros = torch.zeros(width, dtype=torch.float64)
        return cls(zeros.new_zeros(width, 0), zeros.new_zeros(width, 0), zeros)

    @classmethod
    def of(cls, edits: Sequence[tuple[Edit, Scope]], width: int, where: str) -> Affine:
        """What the edits at one site do, one after another.

        Raises:
            InputError: one is not affine, or not applied to every position of every row.
        """
        made = cls.none(width)
        for edit, scope in edits:
            if scope != Scope():
                raise InputError(
                    f"edits at {where}: got {scope}, wanted every position of every row; what leaves knows no other scope, "
                    "so leave the scope out or steer with hooks"
                )
            for one in _single(edit):
                made = made.then(_affine(one, width, where))
        return made

    def then(self, after: Affine) -> Affine:
        """This map, and `after` applied to what it gives."""
        read = after.read - self.read @ (self.write.T @ after.read)
        new = read.norm(dim=0) > NOTHING * after.read.norm(dim=0)  # what was taken out before is not taken out again
        write, read = torch.cat([self.write, after.write[:, new]], 1), torch.cat([self.read, read[:, new]], 1)
        return Affine(write, read, after.linear(self.constant) + after.constant)

    def linear(self, states: Tensor) -> Tensor:
        """Its linear part on states (…, d), in their own dtype and on their device."""
        if not self.rank:
            return states
        read, write = (part.to(states) for part in (self.read, self.write))
        return states - (states @ read) @ write.T

    @property
    def rank(self) -> int:
        return self.read.shape[1]

    @property
    def moves(self) -> bool:
        """Whether it adds a constant."""
        return bool(self.constant.any())

    @property
    def plain(self) -> bool:
        """Whether it leaves states as they are."""
        return not self.rank and not self.moves

    def keeps(self, before: Affine) -> bool:
        """Whether its linear part leaves all that `before` lets through as it is, so that only new writes need to be changed."""
        if not self.rank:
            return True
        left = self.read.T - (self.read.T @ before.write) @ before.read.T
        outer = torch.linalg.qr(self.write).R
        return float((outer @ left).norm()) <= SAME * float((outer @ self.read.T).norm())


def _single(edit: Edit) -> list[Edit]:
    return [one for part in edit.edits for one in _single(part)] if isinstance(edit, Then) else [edit]


def _affine(edit: Edit, width: int, where: str) -> Affine:
    if isinstance(edit, Add):
        check_width(edit.direction, width)
        return _wide(width, constant=edit.scale * edit.direction.double())
    if isinstance(edit, Ablate):
        check_direction(edit.direction)
        check_width(edit.direction, width)
        unit = _own(edit.direction)
        unit = (unit / unit.norm())[:, None]
        return _wide(width, unit, unit, edit.mean * unit[:, 0])
    if isinstance(edit, Erase):
        check_width(edit.read, width)
        write, read = _own(edit.write), _own(edit.read)
        return _wide(width, write, read, write @ (read.T @ _own(edit.mean)))
    raise InputError(
        f"edits at {where}: got {type(edit).__name__}, wanted Add, Ablate or Erase: no weight and no bias computes another; "
        "steer with hooks"
    )


def _wide(width: int, write: Tensor | None = None, read: Tensor | None = None, constant: Tensor | None = None) -> Affine:
    none = Affine.none(width)
    return Affine(
        none.write if write is None else write,
        none.read if read is None else read,
        none.constant if constant is None else _own(constant),
    )


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
