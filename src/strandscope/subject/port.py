"""Where a state lies in what a module returns, and how to put one back.

States are handed over as (rows, positions, d) whatever the module's own layout; a network without positions has one. The
module's own container, tensor strides included, is kept: a kernel that picks its way by strides must not notice that a state
was replaced by its equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .site import Site

Layout = Literal["rows positions d", "rows d", "rows d height width", "rows height width d"]


@dataclass(frozen=True, slots=True)
class Port:
    """A site resolved in one network: the module whose output holds the state, and how the state lies in it."""

    site: Site
    module: nn.Module
    path: str
    width: int
    order: int  # place in the order of execution: a pass stopped at the largest order has seen all smaller ones
    slot: int | None  # index of the state in the module's output tuple; None where the output is the state itself
    layout: Layout

    def state(self, output: Any) -> Tensor:
        """(rows, positions, d); a view of the output where the layout allows."""
        held = pick(output, self.slot)
        if self.layout == "rows positions d":
            return held
        if self.layout == "rows d":
            return held[:, None, :]
        if self.layout == "rows height width d":
            return held.flatten(1, 2)
        return held.flatten(2).transpose(1, 2)

    def replace(self, output: Any, state: Tensor) -> Any:
        """The module's own output with the state put back."""
        held = pick(output, self.slot)
        if self.layout == "rows positions d":
            new = state
        elif self.layout == "rows d":
            new = state[:, 0]
        elif self.layout == "rows height width d":
            new = state.unflatten(1, held.shape[1:3])
        else:
            new = state.transpose(1, 2).unflatten(2, held.shape[2:])
        if new.stride() != held.stride():
            new = torch.empty_like(held).copy_(new)
        return _put(output, self.slot, new)


def pick(output: Any, slot: int | None) -> Any:
    if slot is None:
        return output
    return list(output.values())[slot] if isinstance(output, Mapping) else output[slot]


def _put(output: Any, slot: int | None, new: Tensor) -> Any:
    if slot is None:
        return new
    if isinstance(output, Mapping):  # ModelOutput of transformers, or a dict
        key = list(output)[slot]
        return type(output)(**{**output, key: new})
    parts = [*output[:slot], new, *output[slot + 1 :]]
    return type(output)(*parts) if isinstance(output, tuple) and type(output) is not tuple else type(output)(parts)


def scores(output: Any) -> Tensor:
    """What the network answers: its logits where it has a head, else its last hidden state or the tensor that it returns."""
    if isinstance(output, Mapping):
        for key in ("logits", "last_hidden_state"):
            if key in output:
                return output[key]
        output = next(value for value in output.values() if isinstance(value, Tensor))
    return output if isinstance(output, Tensor) else next(part for part in output if isinstance(part, Tensor))


def locate(output: Any, rows: int, positions: int | None) -> tuple[int | None, Tensor] | None:
    """(slot, tensor) of the state in an output: its first float tensor that has the batch's rows (and positions, for tokens)."""
    if isinstance(output, Tensor):
        parts: list[tuple[int | None, Any]] = [(None, output)]
    elif isinstance(output, Mapping):
        parts = list(enumerate(output.values()))
    elif isinstance(output, tuple | list):
        parts = list(enumerate(output))
    else:
        return None
    for slot, part in parts:
        if isinstance(part, Tensor) and part.is_floating_point() and _fits(part, rows, positions):
            return slot, part
    return None


def _fits(part: Tensor, rows: int, positions: int | None) -> bool:
    if part.dim() not in (2, 3, 4) or part.shape[0] != rows:
        return False
    return part.dim() == 2 or positions is None or (part.dim() == 3 and part.shape[1] in (1, positions))
