"""The parts of a network, found by structure: blocks, token and channel mixers, embedding, final norm, head.

Names are never read: blocks are the longest sequence of same-width modules that run once each, in order, each after the other
(stages of different widths are taken apart into their layers; an `nn.Sequential` of plain layers gives its hidden layers).
Inside a block, a mixer is a child with a weight matrix whose result has the block's width; the token mixer is the one through
which a position reaches furthest, the channel mixer the last of those that reach less far. So a mixture of experts is a channel
mixer, and of RWKV's two parts (both look back) `feed_forward`, which looks back one token, is the channel mixer. Where one
child does both, or a mixer is spread over several children, that kind of site does not exist. `verify.py` then tests by effect
what is found here.

Not known: networks whose blocks are attributes rather than a list, and encoder-decoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from .port import Port as Port
from .port import locate, scores
from .trace import Call, Place, Trace


@dataclass(frozen=True, slots=True)
class Anatomy:
    family: str  # config.model_type, or the class name
    tokens: bool  # inputs are token ids
    causal: bool  # verified: a later token changes nothing earlier
    decodes: bool  # can generate
    # verified: a cache, then one token or several, in one row or several, equals one pass: shared prefixes may be run once
    caches: bool
    steps: bool  # verified: a cache, then one token of one row, equals one pass
    batched: bool  # verified: a cache, then one token each of several rows, equals one pass
    counts: bool  # the cache knows how many positions it holds
    left_padding: bool  # verified: left padding with a mask leaves a row's outputs as without (to rounding)
    blocks: tuple[str, ...]  # module paths
    attn: tuple[str | None, ...]  # token mixers per block, None where a block has none
    mlp: tuple[str | None, ...]  # channel mixers
    embed: str | None
    final_norm: str | None
    head: str | None  # output embedding or classifier
    widths: tuple[int, ...]  # d at each block's output
    last_state_is_normed: bool  # hidden_states[-1] is after the final norm
    modules: Mapping[str, Place] = field(repr=False, compare=False)  # every module: how often it runs, and where its state lies

    def paths(self, kind: str) -> tuple[str | None, ...]:
        """Module path per index for a kind of site."""
        if kind == "embed":
            return (self.embed,)
        return {"resid": self.blocks, "attn": self.attn, "mlp": self.mlp}[kind]


def structure(module: nn.Module, seen: Trace, *, family: str, tokens: bool, decodes: bool) -> Anatomy:
    """What the layout and one pass show; nothing that must be verified by effect is claimed yet."""
    blocks = _repeated(module, seen.calls) or _hidden_layers(module, seen.calls)
    mixers = [_mixers(block, seen.calls) for block in blocks]
    after = sorted(
        (call for call in seen.calls.values() if blocks and call.order > blocks[-1].order), key=lambda call: call.order
    )
    head = _head(after or list(seen.calls.values()), scores(seen.output))
    norm = next((call for call in after if _is_norm(call.module) and call.state is not None), None)
    embed = _embed(blocks[0], seen.calls, tokens) if blocks else None
    return Anatomy(
        family=family,
        tokens=tokens,
        causal=False,
        decodes=decodes,
        caches=False,
        steps=False,
        batched=False,
        counts=False,
        left_padding=False,
        blocks=tuple(block.path for block in blocks),
        attn=tuple(token for token, _ in mixers),
        mlp=tuple(channel for _, channel in mixers),
        embed=None if embed is None else embed.path,
        final_norm=None if norm is None else norm.path,
        head=None if head is None else head.path,
        widths=tuple(block.width for block in blocks),
        last_state_is_normed=False,
        modules=seen.places,
    )


def _repeated(module: nn.Module, calls: Mapping[str, Call]) -> list[Call]:
    """The longest sequence of same-width modules in lists; sequences of one class in several lists (stages) are joined."""
    joined: dict[frozenset[type], list[Call]] = {}
    inside: list[str] = []
    for path, part in module.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        for run in _runs(path, part, calls):
            joined.setdefault(frozenset(type(call.module) for call in run), []).extend(run)
            inside += [f"{call.path}." for call in run]
    ordered = [sorted(run, key=lambda call: call.order) for run in joined.values()]
    return max(ordered, key=len, default=[])


def _runs(path: str, part: nn.Module, calls: Mapping[str, Call]) -> list[list[Call]]:
    if not isinstance(part, nn.ModuleList | nn.Sequential):
        return []
    entries = [calls.get(f"{path}.{name}" if path else name) for name, _ in part.named_children()]
    runs: list[list[Call]] = [[]]
    for entry in entries:
        if entry is None or entry.state is None or next(entry.module.children(), None) is None:
            runs.append([])
        elif runs[-1] and not _follows(runs[-1][-1], entry, same=isinstance(part, nn.Sequential)):
            runs.append([entry])
        else:
            runs[-1].append(entry)
    if isinstance(part, nn.ModuleList):  # a list that is not one whole sequence is experts, heads or stages
        return runs if len(runs) == 1 and len(runs[0]) == len(entries) > 0 else []
    return [run for run in runs if len(run) > 1]


def _follows(first: Call, then: Call, *, same: bool) -> bool:
    """Whether `then` runs after `first`, on other data, with a state of the same shape."""
    assert first.state is not None and then.state is not None
    parallel = first.taken() is not None and first.taken() is then.taken()
    alike = type(first.module) is type(then.module) or not same
    return alike and not parallel and then.order > first.order and then.state.shape == first.state.shape


def _hidden_layers(module: nn.Module, calls: Mapping[str, Call]) -> list[Call]:
    """Of a plain `nn.Sequential`: the modules before each later weight matrix: a block's output is the next one's input."""
    chains = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.Sequential)]
    best: list[Call] = []
    for path, part in chains:
        entries = [calls.get(f"{path}.{name}" if path else name) for name, _ in part.named_children()]
        weighty = [index for index, entry in enumerate(entries) if entry is not None and _has_matrix(entry.module)]
        ends = [entries[index - 1] for index in weighty[1:]]
        found = [end for end in ends if end is not None and end.state is not None]
        if len(found) == len(ends) > len(best):
            best = found
    return best


def _mixers(block: Call, calls: Mapping[str, Call]) -> tuple[str | None, str | None]:
    """(token mixer, channel mixer) among a block's children."""
    children = [calls.get(f"{block.path}.{name}") for name, _ in block.module.named_children()]
    reach: list[tuple[int, Call]] = []
    for child in children:
        if child is None or child.state is None or child.width != block.width or not _has_matrix(child.module):
            continue
        if block.state is not None and block.state.dim() > 2:
            reach.append((_reach(child), child))
    furthest = max((far for far, _ in reach), default=0)
    token = next((child.path for far, child in reversed(reach) if far == furthest > 0), None)
    channel = next((child.path for far, child in reversed(reach) if far < furthest or furthest == 0), None)
    return token, channel


@torch.no_grad()
def _reach(call: Call) -> int:
    """How many positions away from a changed input the output of this module, run by itself, changes."""
    taken = call.taken()
    if taken is None or taken.dim() < 3 or call.state is None:
        return 0
    changed = taken.clone()
    if changed.dim() == 4:
        changed[..., 0, 0] += 1 + changed[..., 0, 0].abs() if call.layout == "rows d height width" else 0
        if call.layout == "rows height width d":
            changed[:, 0, 0] += 1 + changed[:, 0, 0].abs()
    else:
        changed[:, 0] += changed[:, 0].flip(-1) + changed.float().std().to(changed.dtype)
    before = locate(_rerun(call, taken, taken), call.state.shape[0], None)
    after = locate(_rerun(call, taken, changed), call.state.shape[0], None)
    if before is None or after is None:
        return 0
    moved = _by_position((after[1] - before[1]).float(), call)
    return int((moved > 1e-4 * moved.max()).nonzero().max()) if moved.max() > 0 else 0


def _rerun(call: Call, taken: Tensor, new: Tensor) -> object:
    args = tuple(new if value is taken else value for value in call.args)
    return call.module(*args, **{key: new if value is taken else value for key, value in call.kwargs.items()})


def _by_position(change: Tensor, call: Call) -> Tensor:
    """Largest change at each position."""
    if change.dim() == 4:
        change = change.flatten(1, 2) if call.layout == "rows height width d" else change.flatten(2).transpose(1, 2)
    return change.abs().amax((0, 2))


def _embed(first: Call, calls: Mapping[str, Call], tokens: bool) -> Call | None:
    """The token embedding; without tokens, the outermost module whose result the first block takes."""
    earlier = [
        call for call in calls.values() if call.order < first.order and call.state is not None and not _inside(call, first)
    ]
    if tokens:
        whole = [call for call in earlier if isinstance(call.module, nn.Embedding) and _takes_ids(call)]
        return min(whole, key=lambda call: call.order, default=None)
    taken = (
        first.taken() if _has_matrix(first.module) else None
    )  # a hidden layer's activation follows its own layer, no embedding
    fed = [
        call for call in earlier if taken is not None and call.state is taken and next(call.module.parameters(), None) is not None
    ]
    return max(fed, key=lambda call: call.order, default=None)


def _inside(call: Call, block: Call) -> bool:
    return call.path.startswith(f"{block.path}.")


def _takes_ids(call: Call) -> bool:
    return any(isinstance(value, Tensor) and not value.is_floating_point() for value in [*call.args, *call.kwargs.values()])


def _head(after: list[Call], answer: Tensor) -> Call | None:
    """The last module with one weight matrix whose result has the answer's shape."""
    for call in sorted(after, key=lambda call: call.order, reverse=True):
        weight = getattr(call.module, "weight", None)
        if (
            isinstance(weight, Tensor)
            and weight.dim() == 2
            and isinstance(call.output, Tensor)
            and call.output.shape == answer.shape
        ):
            return call
    return None


def _is_norm(module: nn.Module) -> bool:
    weights = list(module.parameters())
    return bool(weights) and all(weight.dim() == 1 for weight in weights)


def _has_matrix(module: nn.Module) -> bool:
    return any(weight.dim() > 1 for weight in module.parameters())


def feeds(first: Call, then: Call) -> bool:
    """Whether a block's output is, value for value, the next one's input."""
    taken = then.taken()
    return first.state is not None and taken is not None and taken.shape == first.state.shape and torch.equal(taken, first.state)


def fed_blocks(blocks: list[Call]) -> list[bool]:
    return [feeds(first, then) for first, then in pairwise(blocks)]
