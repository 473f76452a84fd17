"""Gates: scopes that open where a strand's coordinate says so.

A gate whose strand is read at a site that comes before the edit's in a pass speaks for the very positions that it reads. One that
is read later in the pass cannot: it speaks for the next pass, by the last position of each row, and is closed in the first. A
lasting gate stays open from the first position on at which it opened, in its own row, until another sequence begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..subject.attach import Moment, Read
from ..subject.site import Site
from .edit import Ready, ready, wide

Order = Literal["before", "here", "after"]


@dataclass(eq=False, slots=True)
class CoordinateGate:
    """Open where a coordinate of the state is above, or below, a value.

    Args:
        site: where it is read; `order`: how that site stands to the edit's in a pass.
        read: (d,) and `offset`: the coordinate is readᵀh − offset.
        text: how it is printed.
    """

    site: Site
    order: Order
    read: Tensor
    offset: float
    side: Literal[">", "<"]
    value: float
    lasting: bool
    text: str
    _ready: Ready = field(default_factory=dict, init=False, repr=False)
    _opened: Tensor | None = field(default=None, init=False)  # (rows, positions) of this pass, read before the edit
    _carried: Tensor | None = field(default=None, init=False)  # (rows,) open at the end of the pass before, or ever since

    @property
    def reads(self) -> Mapping[Site, Read]:
        return {} if self.order == "here" else {self.site: self._look}

    def open(self, state: Tensor, moment: Moment) -> Tensor:
        """Mask (rows, positions)."""
        if self.order == "here":
            return self._over(self._says(state) & moment.held(state), moment)
        if self.order == "before":
            assert self._opened is not None  # its site ran before, in this pass
            return self._opened.to(state.device)
        carried = self._carried if _continues(moment) else None
        if carried is None or len(carried) != len(state):
            return torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
        return carried.to(state.device)[:, None].expand(state.shape[:2])

    def _look(self, state: Tensor, moment: Moment) -> None:
        says = self._says(state) & moment.held(state)
        if self.order == "before":
            self._opened = self._over(says, moment)
            return
        open_here = self._over(says, moment)
        self._carried = (
            open_here[:, -1] if self.lasting else says[torch.arange(len(says), device=says.device), moment.last(state)]
        )

    def _says(self, state: Tensor) -> Tensor:
        (read,) = ready(self._ready, state, wide, lambda: (self.read,))
        coordinate = state.to(read.dtype) @ read - self.offset
        return coordinate > self.value if self.side == ">" else coordinate < self.value

    def _over(self, says: Tensor, moment: Moment) -> Tensor:
        """What it says, or where it lasts, whether it has ever said so by then."""
        if not self.lasting:
            return says
        opened = says.long().cummax(1).values.bool()
        if _continues(moment) and self._carried is not None and len(self._carried) == len(says):
            opened = opened | self._carried.to(says.device)[:, None]
        self._carried = opened[:, -1]
        return opened

    def __str__(self) -> str:
        return self.text


def _continues(moment: Moment) -> bool:
    return moment.decoded or moment.start > 0
