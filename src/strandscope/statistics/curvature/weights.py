"""The weights of a function to be differentiated, as leaves of our own: the network's are read and never written.

With an nn.Module the function is a closure that calls it, and while it runs the module's parameters are exchanged for our copies
(`torch.func.functional_call`); with a tensor or a mapping of tensors it is a function of them. Global random states are put back
after every call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import InputError

Parameters = nn.Module | Mapping[str, Tensor] | Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors, detached; those in `chosen` are leaves that require a gradient.

    `module` is that whose parameters they stand for; None where the function takes them as its argument, `alone` as one tensor.
    """

    tensors: dict[str, Tensor]
    chosen: tuple[str, ...]
    module: nn.Module | None
    alone: bool

    @property
    def able(self) -> tuple[str, ...]:
        """Names of all that can be differentiated by, on whatever device."""
        return _able(self.tensors)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.tensors[name] for name in self.chosen]

    @property
    def size(self) -> int:
        return sum(leaf.numel() for leaf in self.leaves)

    @property
    def dtype(self) -> torch.dtype:
        wide = torch.float32
        for leaf in self.leaves:
            wide = torch.promote_types(wide, leaf.dtype)
        return wide

    @property
    def device(self) -> torch.device:
        return self.leaves[0].device

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function at these weights; attention by its plain formula, which has second derivatives."""
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            if self.module is not None:
                given = {f"module.{name}": tensor for name, tensor in self.tensors.items()}
                return functional_call(_Closure(self.module, function), given, arguments)
            return function(next(iter(self.tensors.values())) if self.alone else dict(self.tensors), *arguments)

    def split(self, vector: Tensor) -> list[Tensor]:
        """(p,) cut into the leaves' shapes and precisions."""
        parts = vector.split([leaf.numel() for leaf in self.leaves])
        return [part.view(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, self.leaves, strict=True)]

    def join(self, parts: Sequence[Tensor | None]) -> Tensor:
        """(p,) of one tensor a leaf; None counts as zeros."""
        filled = (torch.zeros_like(leaf) if part is None else part for part, leaf in zip(parts, self.leaves, strict=True))
        return torch.cat([part.detach().reshape(-1).to(self.dtype) for part in filled])

    def only(self, names: Sequence[str]) -> Weights:
        """The same weights, others of them to be differentiated."""
        return _weights(self.tensors, tuple(names), self.module, self.alone)

    def moved(self, by: Mapping[str, Tensor]) -> Weights:
        """Other weights: some of these with a step added."""
        tensors = {name: tensor.detach() + by[name] if name in by else tensor for name, tensor in self.tensors.items()}
        return _weights(tensors, self.chosen, self.module, self.alone)


class _Closure(nn.Module):
    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _weights(tensors: Mapping[str, Tensor], chosen: tuple[str, ...], module: nn.Module | None, alone: bool) -> Weights:
    leaves = {name: tensor.detach().requires_grad_(name in chosen) for name, tensor in tensors.items()}
    return Weights(leaves, chosen, module, alone)


def weights_of(parameters: Parameters, only: Sequence[str] | None = None) -> Weights:
    """Every floating-point parameter that was given, or those under the names in `only` ("blocks.3" takes all below it)."""
    module = parameters if isinstance(parameters, nn.Module) else None
    alone = isinstance(parameters, Tensor)
    tensors: dict[str, Tensor]
    if isinstance(parameters, nn.Module):
        tensors = dict(parameters.named_parameters())
    elif isinstance(parameters, Tensor):
        tensors = {"parameters": parameters}
    elif isinstance(parameters, Mapping) and all(isinstance(tensor, Tensor) for tensor in parameters.values()):
        tensors = dict(parameters)
    else:
        raise InputError(f"parameters: got a {type(parameters).__name__}, wanted an nn.Module, a tensor or a mapping of tensors")
    able = _able(tensors)
    if not able:
        raise InputError("parameters: got none with floating-point numbers; there is nothing to differentiate by")
    for name in only or ():
        if not any(_under(each, name) for each in able):
            raise InputError(f"only: no parameter is called {name!r} or lies below it; they are {', '.join(able[:6])}, …")
    chosen = tuple(name for name in able if only is None or any(_under(name, above) for above in only))
    if not chosen:
        raise InputError("only: got no name, wanted at least one; leave it out for all parameters")
    if len({tensors[name].device for name in chosen}) > 1:
        raise InputError("parameters: they lie on several devices; name those of one in `only`")
    return _weights(tensors, chosen, module, alone)


def _able(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel())


def _under(name: str, above: str) -> bool:
    return name == above or name.startswith(above + ".")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Global random states (Python, numpy, torch here and on the device) are afterwards what they were before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (read and put back, never drawn from)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
