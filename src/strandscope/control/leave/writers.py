"""Which weights write the residual stream: found by effect, never by name.

A weight writes a mixer's output if moving its rows by one moves every state that comes out by one, and nothing else changes:
so linear layers of either orientation, and experts whose weights lie in one tensor, are found alike, and a network that puts a
norm or a gate behind the weight is not taken for one that does not. A block adds what its mixers write if input plus those writes
is its output. `folder` then compares the network that it saved with the one that has hooks, so what slips through here is not
passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import InputError
from ...subject.port import locate, pick
from ...subject.quiet import quiet
from ...subject.site import Site
from ...subject.trace import Call, Trace, accepts, trace

if TYPE_CHECKING:
    from ...subject.subject import Subject

APART = 0.05  # relative distance at which two outputs are not the same up to rounding
KINDS: tuple[Literal["attn", "mlp"], ...] = ("attn", "mlp")
MOST_WAYS = 64  # of laying the state along a module's weights


@dataclass(frozen=True, slots=True)
class Writer:
    """A module whose output is what is added to the stream.

    `axes` says along which axis of each of its weights (full names) the state lies; `bias` names the one that is added as it is,
    or that would be, were it there; `table` is an embedding's, every row of which is an output.
    """

    path: str
    axes: Mapping[str, int]
    bias: str
    table: bool = False

    @property
    def has_bias(self) -> bool:
        return self.bias in self.axes


def stream(subject: Subject) -> tuple[Site, ...]:
    """Where the residual stream begins, and in each block every place at which it has just been written.

    Raises:
        InputError: no blocks were found, or no module gives the states that enter the first.
    """
    seen = passed(subject)
    found = [beginning(subject, seen)[0]]
    for index in range(subject.blocks):
        found += [*_mixing(subject, index)[:-1], Site("resid", index)]
    return tuple(found)


def passed(subject: Subject) -> Trace:
    """One pass over a made-up row.

    Raises:
        InputError: the network has no residual stream over positions that we know of.
    """
    kwargs = subject.batch([subject.probe[0]] * 2)
    with quiet():
        seen = trace(subject.module, {**kwargs, **({"use_cache": False} if accepts(subject.module, "use_cache") else {})})
    if not subject.blocks or any(seen.calls[path].layout != "rows positions d" for path in subject.anatomy.blocks):
        raise InputError(f"{subject.name}: has no blocks that write into one stream of states along positions; steer with hooks")
    return seen


def beginning(subject: Subject, seen: Trace) -> tuple[Site, tuple[Writer, ...]]:
    """The site whose state enters the first block, and what writes it: an embedding, or several that are added."""
    first = seen.calls[subject.anatomy.blocks[0]]
    taken = first.taken()
    outside = [call for path, call in seen.calls.items() if not path.startswith(f"{first.path}.")]
    before = sorted((call for call in outside if call.order < first.order), key=lambda call: call.order)
    gives = [call for call in before if call.state is not None and taken is not None and _equal(call.state, taken)]
    if not gives:
        raise InputError(f"{subject.name}: no module gives the states that enter its first block, so no edit can stand there")
    named = [call for call in gives if call.path == subject.anatomy.embed]
    start = (named or gives)[-1]
    site = Site("embed") if named else Site("module", path=start.path)
    tables = [
        call
        for call in before
        if isinstance(call.output, Tensor) and next(call.module.parameters(recurse=False), None) is not None
    ]
    sources = named or [call for call in tables if call.output.shape[-1] == start.width]
    assert start.state is not None
    summed = sum((call.output for call in sources), torch.zeros_like(start.state))
    if not _near(summed, start.state):
        raise InputError(
            f"{subject.name}: what enters its first block is not a sum of embeddings, so weights cannot take anything out"
        )
    return site, tuple(_writer(call, [call]) for call in sources)


def mixers(subject: Subject, seen: Trace, index: int) -> dict[Site, Writer]:
    """What writes each mixer's output in a block, in the order in which they run.

    Raises:
        InputError: one's output is not what a weight gives.
    """
    found = {}
    for site in _mixing(subject, index):
        call = seen.calls[subject.port(site).path]
        found[site] = _writer(call, _inside(call, seen))
    return found


def _mixing(subject: Subject, index: int) -> list[Site]:
    """The mixers of a block, in the order in which they run."""
    sites = [Site(kind, index) for kind in KINDS if subject.anatomy.paths(kind)[index] is not None]
    if not sites:
        raise InputError(
            f"{subject.name}: no mixer was found in block {index}, so it is not known what writes there; steer with hooks"
        )
    return sorted(sites, key=lambda site: subject.port(site).order)


def check_sum(subject: Subject, seen: Trace, index: int) -> None:
    """Refuse a block whose output is not its input plus what its mixers write."""
    block = seen.calls[subject.anatomy.blocks[index]]
    taken, given = block.taken(), block.state
    assert taken is not None and given is not None
    calls = [seen.calls[subject.port(site).path] for site in _mixing(subject, index)]
    written = torch.stack([pick(call.output, call.slot).float() for call in calls]).sum(0)
    rounding = 2 * torch.finfo(given.dtype).eps * float(given.float().norm())
    if (
        taken.shape != given.shape
        or float((given.float() - taken.float() - written).norm()) > 0.02 * float(written.norm()) + rounding
    ):
        raise InputError(
            f"{subject.name}: block {index} does not add what its mixers write to its input as it is (a norm or a scale behind a "
            "mixer does that), so no weight there can hold an edit of its output; steer with hooks"
        )


def _writer(call: Call, candidates: list[Call]) -> Writer:
    """The last module inside that owns weights along which the output lies."""
    for inner in candidates:
        prefix = inner.path.removeprefix(call.path).removeprefix(".")
        for axes in _ways(inner.module, call.width or call.output.shape[-1]):
            if _writes(call, {f"{prefix}.{name}".removeprefix("."): axis for name, axis in axes.items()}):
                bias = next((name for name in axes if dict(inner.module.named_parameters())[name].dim() == 1), "bias")
                full = {f"{inner.path}.{name}": axis for name, axis in axes.items()}
                return Writer(inner.path, full, f"{inner.path}.{bias}", isinstance(inner.module, nn.Embedding))
    raise InputError(
        f"{call.path}: what it gives is not what one weight in it writes, so no weight can hold an edit there; steer with hooks"
    )


def _ways(module: nn.Module, width: int) -> Iterator[dict[str, int]]:
    """Ways in which the state may lie along a module's own weights: first those that use most of them."""
    own = dict(module.named_parameters(recurse=False))
    choices = [[(name, axis) for axis in _axes(weight, width)] + [None] for name, weight in own.items()]
    ways = [dict(one for one in way if one is not None) for way in product(*choices)][:MOST_WAYS]
    yield from sorted((way for way in ways if any(own[name].dim() > 1 for name in way)), key=len, reverse=True)


def _axes(weight: Tensor, width: int) -> list[int]:
    first = 0 if weight.dim() < 3 else 1  # the first axis of three is that of experts
    return [axis for axis in range(first, weight.dim()) if weight.shape[axis] == width]


@torch.no_grad()
def _writes(call: Call, axes: Mapping[str, int]) -> bool:
    """Whether moving these weights by one along their axes moves the output by one."""
    own = dict(call.module.named_parameters())
    moved = {name: own[name].roll(1, axis) for name, axis in axes.items()}
    before = call.output if call.state is None else pick(call.output, call.slot)
    made = functional_call(call.module, moved, call.args, call.kwargs, tie_weights=False)
    found = (None, made) if isinstance(made, Tensor) else locate(made, before.shape[0], None)
    return found is not None and found[1].shape == before.shape and _near(found[1], before.roll(1, -1))


def _inside(call: Call, seen: Trace) -> list[Call]:
    """The module and those in it, the last that ran first."""
    inner = [other for path, other in seen.calls.items() if path == call.path or path.startswith(f"{call.path}.")]
    return sorted(inner, key=lambda other: other.order, reverse=True)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _near(first: Tensor, second: Tensor) -> bool:
    wanted = second.float()
    return float((first.float() - wanted).norm()) <= APART * float(wanted.norm())
