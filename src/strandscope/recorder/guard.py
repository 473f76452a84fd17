"""Measuring a network in the middle of its training and leaving everything as it was.

    with undisturbed(model) as notes:
        …

Inside, every module is in evaluation mode (dropout off, batch norms on their running statistics) and autocast is off. Afterwards
each module is in the mode it was in, and the random states of python, numpy and torch (every accelerator included), buffers and
`.grad` are those of before, to the last bit. A buffer that a forward pass writes to in evaluation mode is put back, and
`notes.restored` names it. A weight that is written to cannot be put back without a copy of the whole network: that is looked at
once, at the start, with such a copy (`refuse_writers`), and by version counters ever after.

Not known: what a forward pass changes outside tensors (a counter in Python, a cache in a list), and random states that neither
python, numpy nor torch keep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, TrustError

_DROPS = nn.modules.dropout._DropoutNd
_NORMS = nn.modules.batchnorm._BatchNorm


@dataclass(slots=True)
class Notes:
    """Names of buffers that were written to and put back."""

    restored: list[str] = field(default_factory=list)


@contextmanager
def undisturbed(model: nn.Module, touched: frozenset[str] = frozenset()) -> Iterator[Notes]:
    """Evaluation mode inside and no autocast, everything as before afterwards.

    Args:
        touched: weights that the forward pass is known to write to without changing them.

    Raises:
        TrustError: a weight or a gradient was written to inside.
    """
    notes = Notes()
    modes = [(module, module.training) for module in model.modules()]
    randomness = _random_states()
    buffers = [(module, name, held, _copy(held), _version(held)) for module, name, held in _buffers(model)]
    weights = [(name, weight, weight._version, weight.grad, _version(weight.grad)) for name, weight in model.named_parameters()]
    try:
        for module, _ in modes:
            module.training = False  # not .eval(): a module's own train() may do more than set the mode
        with ExitStack() as plain:
            for kind in {"cpu", *(weight.device.type for _, weight, *_ in weights)}:
                if kind != "meta" and torch.is_autocast_enabled(kind):
                    plain.enter_context(torch.autocast(kind, enabled=False))
            yield notes
    finally:
        for module, mode in modes:
            module.training = mode
        for restore in randomness:
            restore()
        for module, name, held, copy, version in buffers:
            replaced = module._buffers.get(name) is not held
            if replaced:
                module._buffers[name] = held
            changed = held is not None and copy is not None and _version(held) != version and not _same(held, copy)
            if changed and held is not None and copy is not None:
                with torch.no_grad():
                    held.copy_(copy)
            if replaced or changed:
                notes.restored.append(f"{type(module).__name__}.{name}")
        written = [name for name, weight, version, _, _ in weights if weight._version != version and name not in touched]
        graded = []
        for name, weight, _, gradient, version in weights:
            if weight.grad is not gradient or _version(gradient) != version:
                weight.grad = gradient
                graded.append(name)
    if written:
        raise TrustError(f"measuring wrote to the weight {written[0]}; the run is no longer what it would have been, start again")
    if graded:
        raise TrustError(f"measuring wrote to the gradient of {graded[0]}; a quantity takes torch.autograd.grad, not backward()")


def refuse_writers(model: nn.Module, once: Callable[[], object]) -> frozenset[str]:
    """Run `once` beside a copy of all weights; names of those that it writes to without changing them.

    Raises:
        InputError: a weight comes out changed; it is put back first.
    """
    weights = dict(model.named_parameters())
    copies = {name: weight.detach().clone() for name, weight in weights.items()}
    versions = {name: weight._version for name, weight in weights.items()}
    try:
        with undisturbed(model, frozenset(weights)):
            once()
    finally:
        touched = frozenset(name for name, weight in weights.items() if weight._version != versions[name])
        changed = [name for name in sorted(touched) if not _same(weights[name].detach(), copies[name])]
        with torch.no_grad():
            for name in changed:
                weights[name].copy_(copies[name])
        if changed:
            raise InputError(
                f"model: its forward pass in evaluation mode writes to its weight {changed[0]}, so it cannot be watched without "
                "changing the run; switch that off in its configuration (RWKV: rescale_every=0)"
            )
    return touched


def mode_sentence(model: nn.Module) -> str:
    """In which mode it is measured, and what that leaves out."""
    drops = sum(isinstance(part, _DROPS) for part in model.modules())
    norms = sum(isinstance(part, _NORMS) for part in model.modules())
    off = [f"{drops} dropout off" if drops else "", f"{norms} batch norms on their running statistics" if norms else ""]
    named = ", ".join(part for part in off if part)
    return "evaluation mode" + (f": {named}" if named else "")


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num()))


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor | None]]:
    return [(module, name, held) for module in model.modules() for name, held in module._buffers.items()]


def _copy(held: Tensor | None) -> Tensor | None:
    return None if held is None else held.detach().clone()


def _version(held: Tensor | None) -> int:
    return -1 if held is None else held._version


def _random_states() -> list[Callable[[], object]]:
    """For each generator that is global, what puts it back."""
    plain, arrays, host = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (the caller's)
    restore: list[Callable[[], object]] = [
        lambda: random.setstate(plain),
        lambda: np.random.set_state(arrays),  # noqa: NPY002
        lambda: torch.set_rng_state(host),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cards = torch.cuda.get_rng_state_all()
        restore.append(lambda: torch.cuda.set_rng_state_all(cards))
    return restore


def unwrapped(model: Any) -> nn.Module:
    """The network itself, out of the wrappers that run it on several ranks or compile it.

    Raises:
        InputError: no network, or one whose weights are spread over ranks.
    """
    while isinstance(model, nn.Module):
        if type(model).__name__ == "FullyShardedDataParallel":
            raise InputError("model: its weights are spread over ranks (FSDP), which a recorder does not gather; train it in DDP")
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
    raise InputError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
