"""One pass over a tiny probe batch, every module watched: which ran, in what order, on what, with what result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .attach import watch
from .port import Layout, locate


@dataclass(frozen=True, slots=True)
class Call:
    """A module that ran once in the pass."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    order: int
    slot: int | None
    state: Tensor | None  # as it lies in the output
    layout: Layout | None

    @property
    def width(self) -> int:
        return 0 if self.state is None else self.state.shape[1 if self.layout == "rows d height width" else -1]

    def taken(self) -> Tensor | None:
        """The first float tensor that went in."""
        values = [*self.args, *self.kwargs.values()]
        return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


@dataclass(frozen=True, slots=True)
class Place:
    """What is kept of a call: enough to resolve a site, without the tensors."""

    calls: int
    order: int = -1
    slot: int | None = None
    layout: Layout | None = None
    width: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    calls: Mapping[str, Call]  # modules that ran exactly once
    places: Mapping[str, Place]  # all modules
    output: Any


def accepts(module: nn.Module, name: str) -> bool:
    """Whether the network's forward names this argument."""
    if "forward" in vars(module):  # a wrapper of this module alone, which must not outlive it in a cache
        return name in inspect.signature(module.forward).parameters
    return name in _arguments(type(module).forward)


@lru_cache(256)
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    """Of a class's forward, looked up once: it takes as long as a small layer, and is asked in every pass."""
    return frozenset(inspect.signature(function).parameters)


@torch.no_grad()
def trace(module: nn.Module, batch: Mapping[str, Any]) -> Trace:
    """Run the network once on the batch."""
    tokens = batch.get("input_ids")
    rows = next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))
    positions = tokens.shape[1] if tokens is not None else None
    raw: dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Any, int]]] = {}
    order = 0

    def seen(path: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal order
        raw.setdefault(path, []).append((args, kwargs, output, order))
        order += 1

    with watch(module, seen):
        output = module(**batch)
    modules = dict(module.named_modules())
    calls = _calls(modules, raw, rows, positions)
    places = {path: Place(len(raw.get(path, ()))) for path in modules}
    for path, call in calls.items():
        places[path] = Place(1, call.order, call.slot, call.layout, call.width)
    return Trace(calls, places, output)


def _calls(modules: dict[str, nn.Module], raw: dict[str, list[Any]], rows: int, positions: int | None) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    last_axis: set[int] = set()  # ids of 4-D tensors known to be channels last; `raw` keeps them alive, so ids stay theirs
    once = sorted(((made[0], path) for path, made in raw.items() if len(made) == 1), key=lambda item: item[0][3])
    for (args, kwargs, output, order), path in once:
        found = locate(output, rows, positions)
        slot, state = found if found is not None else (None, None)
        layout = None if state is None else _layout(modules[path], state, args, last_axis)
        if state is not None and layout == "rows height width d":
            last_axis.add(id(state))
        calls[path] = Call(path, modules[path], args, kwargs, output, order, slot, state, layout)
    return calls


def _layout(module: nn.Module, state: Tensor, args: tuple[Any, ...], last_axis: set[int]) -> Layout:
    """Of a 4-D output: channels first, unless a Linear's, or normalised along the last axis, or of a weightless one after."""
    if state.dim() < 4:
        return "rows positions d" if state.dim() == 3 else "rows d"
    plain = next(module.parameters(), None) is None
    after = any(id(value) in last_axis for value in args)
    if isinstance(module, nn.Linear) or (plain and after) or (isinstance(module, nn.LayerNorm) and _centred(module, state)):
        return "rows height width d"
    return "rows d height width"


def _centred(norm: nn.LayerNorm, state: Tensor) -> bool:
    """Whether a LayerNorm's output is centred along its last axis, not along axis 1 as a channels-first wrapper makes it."""
    if state.shape[-1] != norm.weight.shape[0]:
        return False
    if state.shape[1] != norm.weight.shape[0]:
        return True
    bias = 0 if norm.bias is None else norm.bias
    last = ((state - bias) / norm.weight).float().mean(-1).abs().mean()
    first = ((state.movedim(1, -1) - bias) / norm.weight).float().mean(-1).abs().mean()
    return bool(last < first)
