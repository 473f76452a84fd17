"""One context's forward pass, kept so that gradients of its answer can be pulled back to the states at many sites at once.

A zero vector is added to the state at every site, through `attach`; the gradient with respect to it is the gradient with respect
to the state, whatever later sites do. Two routes give the same numbers, to rounding:

*last step*: a left-to-right language model runs the context without its last token once, with its own cache and no graph, then
the last token alone. Gradients are pulled back many at a time through that one token.
*whole*: the whole context in one pass, gradients pulled back one after another: any position, encoders, state-space models,
networks whose cache is of another kind or that carry foreign hooks (they may tell passes apart), and rows that are no tokens.

Parameters get no gradient and nothing is left on the network. Memory beyond the network's own: the graph of one token (or of one
context), and per pull what one token's (context's) backward pass holds, times the gradients pulled at a time (`_AT_ONCE`, and
fewer over long caches).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..errors import InputError, TrustError
from ..subject.attach import Edits, Moment, Scope, attach, hooks, watch
from ..subject.port import scores
from ..subject.site import Site
from ..subject.subject import Subject
from ..subject.trace import accepts
from .examples import Examples
from .laststep import SplitAttention, SplitCache
from .passes import Prefix, expanded, run_prefix
from .readout import Head, Readout, squared_norms
from .record import tokens_of
from .tape import At, Tape

_AT_ONCE = 1024  # gradients pulled back together through one token
_HELD = 1 << 22  # of these times cached positions, at most: what attention holds of each


def tapes(
    subject: Subject, examples: Examples, sites: Sequence[Site], position: At = "last", noise: float | None = None
) -> Iterator[Tape]:
    """The pass of each row, in the order of `examples`; only one is ever held.

    Args:
        position: whose state is looked at: the row's last, one counted from 0, or "mean": all positions moved alike, which is the
            gradient with respect to their mean.
        noise: σ of a regression whose outputs are the network's answer; None is a network that answers with logits.

    Raises:
        InputError: a row or position that this network cannot take. TrustError: NaN or infinite states.
    """
    rows = tokens_of(subject, examples)
    check_asked(subject, position, noise)
    taker = Taker.of(subject, tuple(sites), position, noise)
    if rows is None:
        for number, row in enumerate(examples.rows):
            yield taker.whole(number, row.id, subject.batch([row.input]))
        return
    prefix = run_prefix(subject, rows.ids) if taker.steps else Prefix()
    for number, (ids, name) in enumerate(zip(rows.ids, rows.names, strict=True)):
        tape = taker.last_step(number, name, ids, prefix) if taker.steps and len(ids) > 1 else None
        yield tape if tape is not None else taker.whole(number, name, Prefix().inputs(subject, [ids]), len(ids))


def check_asked(subject: Subject, position: At, noise: float | None) -> None:
    if isinstance(position, bool) or not (position in ("last", "mean") or (isinstance(position, int) and position >= 0)):
        raise InputError(f'position: got {position!r}, wanted "last", "mean" or a position counted from 0')
    if noise is not None and not 0 < noise < float("inf"):
        raise InputError(f"noise: got {noise}, wanted the standard deviation σ > 0 of the regression's outputs")
    if noise is None and subject.anatomy.head is None:
        raise InputError(
            f"{subject.name}: no head was found, so its answer is no distribution; for a regression give noise=, its outputs' σ"
        )


@dataclass(frozen=True, eq=False)
class Taker:
    subject: Subject
    sites: tuple[Site, ...]
    position: At
    noise: float | None
    head: Head | None
    steps: bool  # the last token may be run by itself, after a cache

    @classmethod
    def of(cls, subject: Subject, sites: tuple[Site, ...], position: At, noise: float | None) -> Taker:
        weight = subject.unembedding if noise is None else None
        head = None
        if weight is not None and subject.anatomy.head is not None:
            wide = torch.promote_types(weight.dtype, torch.float32)
            head = Head(subject.module.get_submodule(subject.anatomy.head), squared_norms(weight, wide))
        foreign = any(kind in ("_forward_hooks", "_forward_pre_hooks") for _, kind, _ in hooks(subject.module) - subject.hooks)
        able = subject.anatomy.causal and subject.anatomy.steps and accepts(subject.module, "past_key_values") and not foreign
        return cls(subject, sites, position, noise, head, able and position == "last" and noise is None)

    def last_step(self, number: int, name: str, ids: tuple[int, ...], prefix: Prefix) -> Tape | None:
        """The last token after a cache of the others; None where the network's cache is of another kind."""
        cache = self._prefilled(ids, prefix)
        if cache is None:
            return None
        step = Prefix(len(ids) - 1, cache)
        at_once = max(1, min(_AT_ONCE, _HELD // len(ids)))
        split = step.inputs(self.subject, [ids])
        split["past_key_values"] = SplitCache.of(split["past_key_values"])
        attention = SplitAttention(split["past_key_values"])
        tape = self._taken(number, name, split, at_once, attention)
        if attention.missed:
            tape = self._taken(number, name, step.inputs(self.subject, [ids]), at_once, sdpa_kernel(SDPBackend.MATH))
        return tape

    def _prefilled(self, ids: tuple[int, ...], prefix: Prefix) -> DynamicCache | None:
        """The cache of all tokens but the last."""
        cache = prefix.cache
        if prefix.length < len(ids) - 1:
            inputs = prefix.inputs(self.subject, [ids[:-1]])
            more = {"logits_to_keep": 1} if accepts(self.subject.module, "logits_to_keep") else {}
            with torch.no_grad():
                cache = self.subject.module(**{**inputs, "use_cache": True}, **more).past_key_values
        known = isinstance(cache, DynamicCache) and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
        )
        return expanded(cache, 1) if known else None  # type: ignore[arg-type]

    def whole(self, number: int, name: str, inputs: Mapping[str, Any], length: int | None = None) -> Tape:
        """The whole row in one pass."""
        if accepts(self.subject.module, "use_cache"):
            inputs = {**inputs, "use_cache": False}
        if length is not None and isinstance(self.position, int) and self.position >= length:
            raise InputError(f"position {self.position}: row {name} has {length} tokens; name one that it has, counted from 0")
        return self._taken(number, name, inputs, 0, nullcontext())

    def _taken(self, number: int, name: str, inputs: Mapping[str, Any], at_once: int, within: Any) -> Tape:
        subject = self.subject
        zeros: dict[Site, Tensor] = {}
        live: dict[Site, Tensor] = {}
        states: dict[Site, Tensor] = {}
        seen: list[tuple[Tensor, Tensor]] = []
        moments: list[Moment] = []

        def look(_path: str, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                seen.append((args[0], output))

        scope = Scope(positions="all" if self.position == "mean" else "last" if self.position == "last" else (self.position,))
        edits: Edits = {site: [(_Zero(site, zeros, live), scope)] for site in self.sites}
        reads = {site: _Look(site, scope, states, moments) for site in self.sites}
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            attached = stack.enter_context(attach(subject, reads=reads, edits=edits))
            if self.head is not None and subject.anatomy.head is not None:
                stack.enter_context(watch(subject.module, look, {subject.anatomy.head}))
            stack.enter_context(within)
            answer = scores(attached.run(**inputs))
        self._check(name, zeros, states)
        readout = self._readout(name, answer, seen, moments[-1])
        return Tape(number, name, states, readout, zeros, live, at_once)

    def _check(self, name: str, zeros: Mapping[Site, Tensor], states: Mapping[Site, Tensor]) -> None:
        for site in self.sites:
            if site not in zeros:
                raise InputError(
                    f"position {self.position}: row {name} has no such position at site {site}; name one that it has"
                )
            if not bool(states[site].isfinite().all()):
                raise TrustError(f"row {name}, site {site}: its state is NaN or infinite; load the network in float32")

    def _readout(self, name: str, answer: Tensor, seen: Sequence[tuple[Tensor, Tensor]], moment: Moment) -> Readout:
        place = self._place(answer, moment)
        logits = answer[place] if self.noise is None else answer[place].flatten()
        if not bool(logits.isfinite().all()):
            raise TrustError(f"row {name}: the network's answer is NaN or infinite; load the network in float32")
        if not logits.requires_grad:
            raise InputError(f"row {name}: the answer of {self.subject.name} has no gradient at any site (it runs under no_grad)")
        plain = logits.detach().double()
        if self.head is not None and len(seen) == 1 and logits.dim() == 1 and seen[0][1].shape == answer.shape:
            read = self.head.read(*seen[0], place, logits)
            if read is not None:
                return Readout(read[0], plain, self.head.module.weight, read[1], norms=self.head.norms)  # type: ignore[arg-type]
        return Readout(logits, plain, noise=self.noise)

    def _place(self, answer: Tensor, moment: Moment) -> tuple[int, ...]:
        """Where in the answer (1, …) that of this row stands: at its last token, or at the position looked at in an encoder."""
        if answer.dim() < 3 or (self.noise is not None and not self.subject.anatomy.tokens):
            return (0,)
        if self.subject.anatomy.causal or self.position == "last":
            return (0, int(moment.last(answer)[0]) if moment.content is not None else answer.shape[1] - 1)
        if self.position == "mean":
            raise InputError(
                f"position: {self.subject.name} answers at every position, so the mean has no answer of its own; name one"
            )
        return (0, int((moment.numbers(answer)[0] == self.position).nonzero()[0]))


@dataclass(frozen=True, eq=False)
class _Zero:
    """An edit that adds a zero vector, made to the measure of the state, with respect to which gradients are taken."""

    site: Site
    zeros: dict[Site, Tensor]
    live: dict[Site, Tensor]

    def __call__(self, state: Tensor) -> Tensor:
        self.zeros[self.site] = state.new_zeros(state.shape[-1]).requires_grad_()
        self.live[self.site] = state + self.zeros[self.site]
        return self.live[self.site]


@dataclass(frozen=True, eq=False)
class _Look:
    """A read that keeps the state that its scope names, or their mean."""

    site: Site
    scope: Scope
    states: dict[Site, Tensor]
    moments: list[Moment]

    def __call__(self, state: Tensor, moment: Moment) -> None:
        mask = self.scope.select(state, moment)
        chosen = state.detach()[0, mask[0]] if isinstance(mask, Tensor) else state.detach()[0, : None if mask else 0]
        wide = torch.promote_types(state.dtype, torch.float32)
        self.states[self.site] = chosen.to("cpu", wide).mean(0) if len(chosen) else chosen.new_zeros(state.shape[-1]).cpu()
        self.moments.append(moment)
