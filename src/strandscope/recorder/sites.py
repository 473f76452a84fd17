"""Where a recorder looks: `input`, a module's path (the state that leaves it) or `in:PATH` (the state that enters it).

One pass notes where in the graph each state was made, before anything after it can change it in place, and the gradient of any
scalar of the answer with respect to all of them is one backward pass that reaches no weight. States are handed over as (rows,
positions, d) whatever the module's layout; an input of two axes or more has one position and all its numbers as coordinates. Of
a module that runs several times in a pass the first run is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..errors import InputError
from ..subject.anatomy import structure
from ..subject.attach import watch, watch_entering
from ..subject.port import Layout, locate
from ..subject.trace import Trace, trace
from .batch import Batch, Output, answer

INPUT = "input"
MOST_BLOCKS = 4  # looked at where nobody says which
WIDEST_INPUT = 4096  # numbers: a wider input is looked at only if it is named


@dataclass(frozen=True, slots=True)
class Place:
    """A site found in one network: the module, whether its input or its output, and how the state lies there."""

    name: str
    path: str
    enters: bool
    layout: Layout
    width: int

    def state(self, held: Tensor) -> Tensor:
        """(rows, positions, d) of a tensor as it lies in the network."""
        if self.path == INPUT and self.name == INPUT:
            return held.flatten(1)[:, None]
        if self.layout == "rows d":
            return held[:, None]
        if self.layout == "rows height width d":
            return held.flatten(1, 2)
        return held.flatten(2).transpose(1, 2) if self.layout == "rows d height width" else held


@dataclass(slots=True)
class Pass:
    """One pass: the answer (rows, …) and where in its graph each state was made."""

    answer: Tensor
    places: Mapping[str, Place]
    edges: dict[str, GradientEdge] = field(default_factory=dict)

    def pull(self, cotangent: Tensor, keep: bool) -> dict[str, Tensor]:
        """The gradient of ⟨answer, cotangent⟩ with respect to the state at each site, (rows, positions, d), detached.

        A site that the answer does not depend on is left out.
        """
        names = list(self.edges)
        # Of a scalar: a gradient of a tensor along another has PyTorch load its symbolic algebra, a second of the first record.
        along = (self.answer * cotangent.to(self.answer)).sum()
        found = torch.autograd.grad(along, [self.edges[name] for name in names], retain_graph=keep, allow_unused=True)
        pairs = zip(names, found, strict=True)
        return {name: self.places[name].state(gradient.detach()) for name, gradient in pairs if gradient is not None}


@contextmanager
def passed(model: nn.Module, batch: Batch, places: Mapping[str, Place], output: Output | None) -> Iterator[Pass]:
    """Run the network once with gradients on; what had to be marked as having a gradient is unmarked afterwards."""
    marked: list[Tensor] = []
    edges: dict[str, GradientEdge] = {}

    def note(name: str, held: Any) -> None:
        place = places[name]
        state = held if place.enters else _located(held, batch.rows)
        if name in edges or not isinstance(state, Tensor):
            return
        if not state.requires_grad:  # everything before it is frozen
            state.requires_grad_()
            marked.append(state)
        edges[name] = get_gradient_edge(state)

    leaving = {place.path: place.name for place in places.values() if not place.enters and place.name != INPUT}
    entering = {place.path: place.name for place in places.values() if place.enters and place.name != INPUT}
    with torch.enable_grad(), ExitStack() as stack:
        if leaving:
            stack.enter_context(watch(model, lambda path, _a, _k, out: note(leaving[path], out), leaving))
        if entering:
            stack.enter_context(watch_entering(model, lambda path, a, k: note(entering[path], _first(a, k)), entering))
        x = None
        if INPUT in places:
            assert batch.enters is not None
            x = batch.enters.detach().requires_grad_()
            edges[INPUT] = get_gradient_edge(x)
        try:
            said = answer(batch.call(model, x), output, batch.rows)
            yield Pass(said, places, edges)
        finally:
            for state in marked:
                if state.is_leaf:
                    state.requires_grad_(False)


def _located(output: Any, rows: int) -> Tensor | None:
    found = locate(output, rows, None)
    return None if found is None else found[1]


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    values = [*args, *kwargs.values()]
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def resolve(model: nn.Module, batch: Batch, asked: Sequence[str] | None) -> dict[str, Place]:
    """The sites by name, in the order asked; of nothing asked the input and up to four blocks, evenly spaced.

    Raises:
        InputError: a site does not exist, does not run, or has no state with the batch's rows.
    """
    named = batch.named(model)
    seen = None if named is None else trace(model, named)
    names = list(asked) if asked is not None else _default(model, batch, seen)
    if not names:
        raise InputError("sites: no blocks were found and the input has no gradient; name module paths (sites=['layers.0'])")
    if len(set(names)) != len(names):
        raise InputError(f"sites: got {', '.join(names)}, wanted each of them once")
    return {name: _place(model, batch, name, seen) for name in names}


def _default(model: nn.Module, batch: Batch, seen: Trace | None) -> list[str]:
    enters = batch.enters
    names = [INPUT] if enters is not None and enters[0].numel() <= WIDEST_INPUT else []
    if seen is not None:
        blocks = structure(model, seen, family="", tokens=enters is None, decodes=False).blocks
        some = min(MOST_BLOCKS, len(blocks))
        names += [blocks[round(one * (len(blocks) - 1) / max(some - 1, 1))] for one in range(some)]
    return list(dict.fromkeys(names))


def _place(model: nn.Module, batch: Batch, name: str, seen: Trace | None) -> Place:
    if name == INPUT:
        if batch.enters is None:
            raise InputError("sites: the input is no floating-point tensor, so it has no gradient; name the embedding's path")
        return Place(name, INPUT, True, "rows d", batch.enters[0].numel())
    enters = name.startswith("in:")
    path = name.removeprefix("in:")
    if path not in dict(model.named_modules()) or not path:
        near = ", ".join(list(dict(model.named_children()))[:6])
        raise InputError(f"sites: got {name!r}, wanted 'input', a module path or 'in:PATH'; this network has {near}, …")
    held: list[Any] = []
    with torch.no_grad():
        if enters:
            with watch_entering(model, lambda _path, a, k: held.append(_first(a, k)), (path,)):
                batch.call(model)
        else:
            with watch(model, lambda _path, _a, _k, out: held.append(_located(out, batch.rows)), (path,)):
                batch.call(model)
    state = held[0] if held else None
    if not isinstance(state, Tensor) or not 2 <= state.dim() <= 4 or state.shape[0] != batch.rows:
        raise InputError(f"sites: {name!r} holds no state with the batch's {batch.rows} rows; name another module")
    layout = _layout(model.get_submodule(path), path, state, enters, seen)
    return Place(name, path, enters, layout, state.shape[1 if layout == "rows d height width" else -1])


def _layout(module: nn.Module, path: str, state: Tensor, enters: bool, seen: Trace | None) -> Layout:
    if state.dim() < 4:
        return "rows positions d" if state.dim() == 3 else "rows d"
    known = None if seen is None or path not in seen.calls else seen.calls[path].layout
    if enters and isinstance(module, nn.Linear | nn.LayerNorm):
        return "rows height width d"
    return known or "rows d height width"
