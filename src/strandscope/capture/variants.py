"""What the network says next under many edits of the last position, each row's context run once.

An edit of the last position changes nothing before it, so the context's keys and values serve every edit: a pass holds one token
of several rows, repeated under several edits. Equal to `next_token_logprobs` under each edit by itself, up to the rounding of
batched arithmetic; where the network keeps no such cache, or hooks of others could tell the passes apart, it is just that.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..subject.attach import Edit, Scope, attach
from ..subject.trace import accepts
from .passes import Prefix, _may_share, expanded, run_prefix
from .predict import check_predicts, next_token_logprobs

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject
    from .tokens import TokenRows

_ROWS = {"cpu": 64}  # tokens in a pass, each of a row of its own
_ROWS_ELSEWHERE = 1024


def under_edits(
    subject: Subject, rows: TokenRows, site: Site, edits: Sequence[Edit], *, batch_rows: int | None = None
) -> Iterator[tuple[list[int], int, Tensor]]:
    """Yields (numbers of some rows, number of an edit, log-probabilities (rows, vocabulary) in fp32), each pair once.

    Args:
        edits: functions h -> h' of the state at the last position of `site`; what they return for a row must depend on it alone.
        batch_rows: tokens in one pass; it changes speed and memory, not results beyond rounding.
    """
    check_predicts(subject)
    kept = batch_rows or _ROWS.get(subject.device.type, _ROWS_ELSEWHERE)
    if not _may_share(subject) or min(map(len, rows.ids)) < 2:
        yield from _one_by_one(subject, rows, site, edits)
        return
    prefix = run_prefix(subject, rows.ids)
    alike: defaultdict[int, list[int]] = defaultdict(list)
    for number, ids in enumerate(rows.ids):
        alike[len(ids)].append(number)
    for numbers in alike.values():
        for start in range(0, len(numbers), kept):
            batch = numbers[start : start + kept]
            cache = _context(subject, prefix, [rows.ids[row] for row in batch])
            if cache is None:
                yield from _one_by_one(subject, rows.subset(batch), site, edits, batch)
                continue
            last = torch.tensor([rows.ids[row][-1:] for row in batch], device=subject.device)
            several = max(1, kept // len(batch))
            for first in range(0, len(edits), several):
                some = edits[first : first + several]
                said = _said(subject, cache, last, site, some)
                for number, part in enumerate(said.split(len(batch))):
                    yield batch, first + number, part


def _one_by_one(
    subject: Subject, rows: TokenRows, site: Site, edits: Sequence[Edit], numbers: list[int] | None = None
) -> Iterator[tuple[list[int], int, Tensor]]:
    numbers = list(range(len(rows.ids))) if numbers is None else numbers
    for number, edit in enumerate(edits):
        yield numbers, number, next_token_logprobs(subject, rows, {site: [(edit, Scope(positions="last"))]})


def _context(subject: Subject, prefix: Prefix, ids: list[tuple[int, ...]]) -> DynamicCache | None:
    """Keys and values of rows of equal length without their last token; None where the network hands out no such cache."""
    before = [row[:-1] for row in ids]
    if len(before[0]) == prefix.length and prefix.cache is not None:
        return expanded(prefix.cache, len(ids))
    inputs = prefix.inputs(subject, before) | {"use_cache": True}
    if accepts(subject.module, "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    with torch.no_grad():
        cache = getattr(subject.module(**inputs), "past_key_values", None)
    return cache if isinstance(cache, DynamicCache) and all(_repeats(layer) for layer in cache.layers) else None


def _repeats(layer: Any) -> bool:
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)


def _said(subject: Subject, cache: DynamicCache, last: Tensor, site: Site, edits: Sequence[Edit]) -> Tensor:
    """Log-probabilities (edits × rows, vocabulary): the last tokens (rows, 1) once under each edit."""
    times, rows = len(edits), len(last)

    def each(states: Tensor) -> Tensor:
        return torch.cat([edit(part) for edit, part in zip(edits, states.split(rows), strict=True)])

    inputs: dict[str, Any] = {"input_ids": last.repeat(times, 1), "past_key_values": _repeated(cache, times), "use_cache": True}
    if accepts(subject.module, "attention_mask"):
        held = cache.get_seq_length() + 1
        inputs["attention_mask"] = torch.ones(times * rows, held, dtype=torch.long, device=last.device)
    with torch.no_grad(), attach(subject, edits={site: [(each, Scope())]}):
        logits = subject.module(**inputs).logits[:, -1]
    return logits.float().log_softmax(-1).cpu()


def _repeated(cache: DynamicCache, times: int) -> DynamicCache:
    """The same cache for `times` copies of its rows; layers grow by concatenation, so the original stays."""
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in grown.layers:
        layer.keys, layer.values = (kept.repeat(times, 1, 1, 1) for kept in (layer.keys, layer.values))  # type: ignore[union-attr]
    return grown
