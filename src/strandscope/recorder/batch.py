"""The batch that a recorder measures on: made by a function of the user's, the same whenever it is asked.

A batch is a tensor (the network's only argument), a mapping of arguments by name, or a pair (either of these, targets). All its
tensors have the rows on their first axis, or do not have rows at all. What is measured at one step is compared with what was
measured at another, so the batch is made twice at the start and must come out the same; then it is held.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..provenance import digest
from ..subject.port import scores

BatchFunction = Callable[[], Any]
Output = Callable[[Any], Tensor]
LEAST = 16  # rows: fewer give no interval that could be believed


@dataclass(frozen=True, slots=True)
class Batch:
    """Arguments of the network by position and by name, the targets (None where there are none), and a digest of them all."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    digest: str
    rows: int

    @property
    def mask(self) -> Tensor | None:
        """(rows, positions) True where there is content, of a batch that says so."""
        mask = self.kwargs.get("attention_mask")
        return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    @property
    def enters(self) -> Tensor | None:
        """What goes in, where it is floating-point numbers (token ids have no gradient)."""
        values = [*self.args, *self.kwargs.values()]
        return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)

    def call(self, model: nn.Module, entering: Tensor | None = None) -> Any:
        """The network's output, with another tensor in the place of `enters` where one is given."""
        if entering is None:
            return model(*self.args, **self.kwargs)
        own = self.enters
        args = tuple(entering if value is own else value for value in self.args)
        return model(*args, **{name: entering if value is own else value for name, value in self.kwargs.items()})

    def named(self, model: nn.Module) -> dict[str, Any] | None:
        """All arguments by name; None where the network does not name them."""
        names = list(inspect.signature(model.forward).parameters.values())
        plain = [one.name for one in names if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if len(plain) < len(self.args):
            return None
        return {**dict(zip(plain, self.args, strict=False)), **self.kwargs}


def make(batch_fn: BatchFunction, device: torch.device) -> Batch:
    """The batch, made twice and found the same, copied to the network's device.

    Raises:
        InputError: it is of no known form, of too few rows, or differs from one call to the next.
    """
    first = _batch(batch_fn(), device)
    second = _batch(batch_fn(), device)
    if first.digest != second.digest:
        raise InputError(
            "batch_fn: gave another batch when it was called again; draw the batch once before the training "
            "(batch = next(iter(loader)); batch_fn=lambda: batch), so that records can be compared"
        )
    return first


def _batch(made: Any, device: torch.device) -> Batch:
    inputs, targets = made if isinstance(made, tuple | list) and len(made) == 2 else (made, None)
    if isinstance(inputs, Tensor):
        args, kwargs = (_own(inputs, device),), {}
    elif isinstance(inputs, Mapping):
        args, kwargs = (), {name: _own(value, device) for name, value in inputs.items()}
    else:
        raise InputError(
            f"batch_fn: gave a {type(inputs).__name__}, wanted a tensor, a mapping of arguments, or (one of these, targets)"
        )
    tensors = {str(name): value for name, value in [*enumerate(args), *kwargs.items()] if isinstance(value, Tensor)}
    if not tensors or any(value.dim() == 0 for value in tensors.values()):
        raise InputError("batch_fn: gave no tensor with rows; wanted at least one, rows on the first axis")
    rows = next(iter(tensors.values())).shape[0]
    if isinstance(targets, Tensor):
        tensors["targets"] = targets
    if rows < LEAST:
        raise InputError(f"batch_fn: gave {rows} rows, wanted at least {LEAST}; intervals are made of blocks of rows")
    return Batch(args, kwargs, _own(targets, device), digest(*(part for pair in tensors.items() for part in _parts(*pair))), rows)


def _own(value: Any, device: torch.device) -> Any:
    """A copy that nobody else writes to."""
    return value.detach().clone().to(device) if isinstance(value, Tensor) else value


def _parts(name: str, value: Tensor) -> list[Any]:
    held = value.detach().cpu().contiguous()
    return [name, str(held.dtype), list(held.shape), held.view(torch.uint8).numpy().tobytes() if held.numel() else b""]


def answer(output: Any, chosen: Output | None, rows: int) -> Tensor:
    """What the network says, (rows, …): `chosen(output)`, or its logits, last hidden state or the tensor that it returns.

    Raises:
        InputError: it does not have the batch's rows.
    """
    said = scores(output) if chosen is None else chosen(output)
    if not isinstance(said, Tensor) or said.dim() == 0 or said.shape[0] != rows:
        shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise InputError(f"output: got {shape} for {rows} rows, wanted one answer a row; name it with output=lambda o: …")
    return said
