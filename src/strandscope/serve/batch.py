"""Rows that are decoded together: each is read by itself when it comes, joins the others' cache, and leaves when it is over.

A prompt is run in a pass of its own, without padding, so that what it begins with is what it would be alone, bit for bit. From
then on a pass reads one token of every row. Rows are padded on the left and masked, which is known to change nothing beyond
rounding where the subject's anatomy says so (`left_padding`, `batched`); of any other network one row is decoded at a time. In
fp32 rounding is of the order of 1e-6 of a logit, so greedy tokens are those of each row alone; in bf16 a batch rounds differently
from a row, and where two tokens are within that of each other, the other one may be taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..control.texts import in_batches
from ..errors import InputError, TrustError
from ..subject.attach import Edits, Read, attach
from ..subject.scope import prompt_of
from ..subject.trace import accepts
from ..subject.verify import cache_of, with_positions
from .ask import Why
from .cache import joined, joins, thin
from .row import Row, edits_of, reads_of
from .sampling import likeliest

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject


def check_serves(subject: Subject) -> None:
    """Raise InputError where the network writes no text, or cannot go on from a cache."""
    anatomy = subject.anatomy
    if subject.tokenizer is None or not anatomy.decodes:
        missing = "tokenizer" if anatomy.decodes else "decoder"
        raise InputError(f"{subject.name} writes no text (it has no {missing}); serve a language model")
    if not anatomy.steps:
        raise InputError(f"{subject.name} does not go on from a cache of what it has read; serve another network")


@dataclass(eq=False)
class Batch:
    """Rows under way in one network; `wide` is whether several may stand together."""

    subject: Subject
    rows: list[Row] = field(default_factory=list)
    wide: bool = field(init=False)
    _cache: dict[str, Any] = field(default_factory=dict, init=False)
    _mask: Tensor | None = field(default=None, init=False)  # (rows, positions) of what the cache holds
    _edits: Edits = field(default_factory=dict, init=False)
    _reads: dict[Site, Read] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.wide = in_batches(self.subject)

    def admit(self, row: Row) -> None:
        """Run a row's prompt, write its first token, and let it join unless that was all.

        Raises:
            Whatever its pass, its edits or its monitors raise; the others are as they were.
        """
        row.place = 0
        ids = torch.tensor([row.ask.ids], device=self.subject.device)
        mask = torch.ones_like(ids)
        given = {"input_ids": ids, "attention_mask": mask}
        output = self._pass(given, [row], row.edits, reads_of([row]), use_cache=True)
        if self._chose([row], output.logits[:, -1])[0]:
            self._join(row, cache_of(output), mask)

    def step(self) -> None:
        """One pass over the newest token of every row."""
        assert self._mask is not None
        for place, row in enumerate(self.rows):
            row.place = place
        device = self._mask.device
        newest = torch.tensor([row.made[-1] for row in self.rows], device=device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(newest)], 1)
        given = {"input_ids": newest, "attention_mask": self._mask}
        output = self._pass(given, self.rows, self._edits, self._reads, **self._cache, use_cache=True)
        self._cache = cache_of(output)
        self._keep(self._chose(self.rows, output.logits[:, -1]))

    def drop_finished(self) -> None:
        """End rows that were given up, or whose time is over, and give their memory back."""
        why: list[Why | None] = [row.over for row in self.rows]
        for row, reason in zip(self.rows, why, strict=True):
            if reason is not None:
                row.end(reason)
        self._keep([reason is None for reason in why])

    def clear(self) -> list[Row]:
        """Forget every row; gives them back, not told of anything."""
        rows, self.rows, self._cache, self._mask, self._edits, self._reads = self.rows, [], {}, None, {}, {}
        return rows

    @property
    def positions(self) -> int:
        """Positions that the cache holds, padding and all rows counted."""
        return 0 if self._mask is None else self._mask.numel()

    # --- passes ---

    def _pass(self, given: dict[str, Tensor], rows: Sequence[Row], edits: Edits, reads: dict[Site, Read], **more: Any) -> Any:
        subject, counts = self.subject, self.subject.anatomy.counts
        given = with_positions(subject, given)
        if "position_ids" in given:
            given["position_ids"] = given["position_ids"][:, -given["input_ids"].shape[1] :]
        if not (counts and accepts(subject.module, "attention_mask")):
            del given["attention_mask"]
        if accepts(subject.module, "logits_to_keep"):
            more["logits_to_keep"] = 1
        telling = prompt_of([len(row.ask.ids) for row in rows]) if counts else nullcontext()
        with torch.no_grad(), telling, attach(subject, reads=reads, edits=edits):
            return subject.module(**given, **more)

    def _chose(self, rows: Sequence[Row], logits: Tensor) -> list[bool]:
        """Give each row its next token, and tell those that are over; whether each goes on."""
        goes_on = []
        for place, (row, best) in enumerate(zip(rows, likeliest(logits), strict=True)):
            if isinstance(best, TrustError):
                row.fail(best)
                goes_on.append(False)
                continue
            token = None
            if not row.stopped_by_alarm:
                token = row.draws.token(logits[place].cpu()) if row.ask.sampling.temperature else best
            why = row.wrote(token)
            if why is not None:
                row.end(why)
            goes_on.append(why is None)
        return goes_on

    # --- who stands in the batch ---

    def _join(self, row: Row, cache: dict[str, Any], mask: Tensor) -> None:
        rows = [*self.rows, row]
        edits, reads = edits_of(rows), reads_of(rows)
        if self.rows:
            assert self._mask is not None
            length = max(self._mask.shape[1], mask.shape[1])
            (key,) = cache
            cache = {key: joined([self._cache[key], cache[key]], length)}
            mask = torch.cat([torch.nn.functional.pad(held, (length - held.shape[1], 0)) for held in (self._mask, mask)])
        self.wide = self.wide and joins(next(iter(cache.values()), None))
        self.rows, self._cache, self._mask, self._edits, self._reads = rows, cache, mask, edits, reads

    def _keep(self, goes_on: Sequence[bool]) -> None:
        if all(goes_on):
            return
        kept = [place for place, stays in enumerate(goes_on) if stays]
        if not kept:
            self.clear()
            return
        assert self._mask is not None  # only a cache that joins has several rows
        self.rows = [self.rows[place] for place in kept]
        held = self._mask[torch.tensor(kept, device=self._mask.device)]
        length = held.shape[1] - int(held.any(0).long().argmax())  # columns before the first content of any row are padding
        self._mask = held[:, held.shape[1] - length :]
        thin(next(iter(self._cache.values())), kept, length)
        self._edits, self._reads = edits_of(self.rows), reads_of(self.rows)
