"""How rows of tokens go through the network: the tokens that all rows share once, then the rest in batches of similar length.

What it promises: each row meets exactly the tokens it would meet alone, at the same positions; padding is on the right, where a
left-to-right network cannot see it, and masked. The shared prefix is run once, with the network's own cache, and each batch gets
a view of that cache, which its pass cannot change. Where the network does not cache, is not left to right, keeps another kind of
cache, or carries forward hooks that were not there when it was opened (they may tell passes apart), every row is run whole:
slower, with the same result.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..errors import InputError
from ..subject.attach import Edits, Read, attach, hooks
from ..subject.trace import accepts

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject

# Padded tokens in a pass. On a CPU core 256 to 1024 were about equally fast and 4096 took a quarter longer: the states no longer
# fit its cache. An accelerator wants more at once (not measured).
_BATCH_TOKENS = {"cpu": 512}
_BATCH_TOKENS_ELSEWHERE = 8192
_SHORTEST_PREFIX = 8  # below this, the extra pass and the wider mask cost more than they save

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of every row, already run. `states` are its states (length, d) at the sites asked for."""

    length: int = 0
    cache: DynamicCache | None = None
    states: Mapping[Site, Tensor] = field(default_factory=dict)

    def inputs(self, subject: Subject, ids: Ids) -> dict[str, Any]:
        """Keyword arguments for a pass over what follows the prefix in these rows."""
        rest = [row[self.length :] for row in ids]
        longest, device = max(map(len, rest)), subject.device
        tokens = torch.zeros(len(rest), longest, dtype=torch.long)
        mask = torch.zeros(len(rest), self.length + longest, dtype=torch.long)
        for number, row in enumerate(rest):
            tokens[number, : len(row)] = torch.tensor(row)
            mask[number, : self.length + len(row)] = 1
        inputs: dict[str, Any] = {"input_ids": tokens.to(device)}
        if accepts(subject.module, "attention_mask"):
            inputs["attention_mask"] = mask.to(device)
        if self.cache is not None:
            inputs |= {"past_key_values": expanded(self.cache, len(rest)), "use_cache": True}
        elif accepts(subject.module, "use_cache"):
            inputs["use_cache"] = False
        return inputs


def run_prefix(subject: Subject, ids: Ids, *, sites: Sequence[Site] = (), edits: Edits | None = None) -> Prefix:
    """Run the tokens that all rows share, keeping their states at `sites`; an empty prefix where that is not possible."""
    length = _shared_length(ids) if _may_share(subject) else 0
    if length < _SHORTEST_PREFIX:
        return Prefix()
    states: dict[Site, Tensor] = {}
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids[0][:length])], device=subject.device), "use_cache": True}
    if accepts(subject.module, "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    reads: dict[Site, Read] = {site: lambda state, _, site=site: states.update({site: state[0].clone()}) for site in sites}
    with torch.no_grad(), attach(subject, reads=reads, edits=edits) as attached:
        output = attached.run(**inputs)
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        return Prefix()
    return Prefix(length, cache, states)


def length_batches(subject: Subject, lengths: Sequence[int], batch_tokens: int | None) -> list[list[int]]:
    """Row numbers in batches of similar length, the longest first (so that memory runs out at once or never).

    A batch holds at most `batch_tokens` tokens, padding included, or one row; None is what suits the kind of device.
    """
    if batch_tokens is None:
        batch_tokens = _BATCH_TOKENS.get(subject.device.type, _BATCH_TOKENS_ELSEWHERE)
    if batch_tokens < 1:
        raise InputError(f"batch_tokens {batch_tokens}: a pass holds at least one token; give a positive number")
    pads = subject.anatomy.causal or accepts(subject.module, "attention_mask")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fits = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens
        if fits and (pads or lengths[batches[-1][0]] == lengths[row]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _may_share(subject: Subject) -> bool:
    watched = any(kind in ("_forward_hooks", "_forward_pre_hooks") for _, kind, _ in hooks(subject.module) - subject.hooks)
    return subject.anatomy.causal and subject.anatomy.caches and accepts(subject.module, "past_key_values") and not watched


def _shared_length(ids: Ids) -> int:
    """The longest common prefix of all rows that leaves each at least one token of its own; 0 for a single row."""
    if len(ids) < 2:
        return 0
    first, last = min(map(tuple, ids)), max(map(tuple, ids))  # what the extremes share, everything between them shares
    most = min(map(len, ids)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def expanded(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache for a batch whose rows all see the one row of `cache`; layers grow by concatenation, so the original stays."""
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in grown.layers:
        layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (layer.keys, layer.values))  # type: ignore[union-attr]
    return grown
