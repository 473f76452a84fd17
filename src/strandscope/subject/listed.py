"""What `output_hidden_states` of a network holds: which captured state each of its entries is, found by comparing values.

Families differ: some begin with the embedding and some with block 0, some end with the last block and some after the final norm
(where the last block's own output is not in the list at all), ConvNeXt lists the last layer of each stage, RWKV lists states
halved between blocks. Nothing is assumed; an entry that equals no captured state is reported as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .attach import Moment, attach, watch
from .site import Site
from .subject import Subject

EMBED, NORM = "what block 0 takes", "after the final norm"


@dataclass(frozen=True, slots=True)
class Listing:
    """Per entry of `hidden_states`, the name of the state that it equals (None: none captured); `halved`: at half its size."""

    entries: tuple[str | None, ...]
    halved: tuple[str, ...] = ()

    @property
    def last_is_normed(self) -> bool:
        return bool(self.entries) and self.entries[-1] == NORM

    def absent(self, blocks: int) -> list[int]:
        """Blocks whose output is nowhere in the list."""
        return [index for index in range(blocks) if f"resid:{index}" not in self.entries]


@torch.no_grad()
def listing(subject: Subject, batch: Mapping[str, Tensor]) -> Listing | None:
    """None where the network lists no hidden states."""
    if getattr(subject.module, "config", None) is None or not subject.anatomy.blocks:
        return None
    states, output = _captured(subject, batch)
    listed = output.get("hidden_states") if isinstance(output, Mapping) else None
    if not listed:
        return None
    names, halved, remaining = [], [], list(states)
    for entry in listed:
        entry = entry.flatten(2).transpose(1, 2) if entry.dim() == 4 else entry
        name = next((name for name in remaining if _equal(entry, states[name])), None)
        if name is None:
            name = next((name for name in remaining if _equal(entry * 2, states[name])), None)
            halved += [] if name is None else [name]
        names.append(name)
        remaining = (
            remaining if name is None else remaining[remaining.index(name) + 1 :]
        )  # in order: a shuffled list matches nothing
    return Listing(tuple(names), tuple(halved))


def _captured(subject: Subject, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """States by name, in order of the pass, and the network's output with its own list."""
    states: dict[str, Tensor] = {EMBED: torch.empty(0)}
    entered: list[Tensor] = []
    sites = {f"resid:{index}": Site("resid", index) for index in range(subject.blocks)}
    if subject.anatomy.final_norm is not None:
        sites[NORM] = Site("module", path=subject.anatomy.final_norm)

    def look(_path: str, args: tuple[object, ...], kwargs: dict[str, object], _output: object) -> None:
        taken = next(
            (value for value in [*args, *kwargs.values()] if isinstance(value, Tensor) and value.is_floating_point()), None
        )
        entered.extend([] if taken is None else [taken])

    def keep(name: str) -> Callable[[Tensor, Moment], None]:
        return lambda state, _moment: states.update({name: state})

    reads = {site: keep(name) for name, site in sites.items() if subject.anatomy.modules[subject.port(site).path].calls == 1}
    with watch(subject.module, look, {subject.anatomy.blocks[0]}), attach(subject, reads=reads):
        output = subject.module(**batch, output_hidden_states=True)
    if entered:
        first = entered[0]
        states[EMBED] = first.flatten(2).transpose(1, 2) if first.dim() == 4 else first
    return states, output


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)
