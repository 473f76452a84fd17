"""Which states an edit writes to: rows, positions, prompt or generation, tokens, and gates; and the moment that they belong to.

Positions are counted over a row's content, padding never counts and is never written to, and counts go on over prompt, chunks of
it and decoded steps. How long a prompt is, is told (`prompt_of`, as `Subject.generate` does) or seen: a pass that goes on from a
cache with one position is a decoded step, every other pass is prompt. What is seen is wrong where the last chunk of a prompt
holds one token, and where a reply is read again in one pass with its prompt; so such prompts have to be told.

A scope's mask is made once a pass and shared by the sites of a device, so that a hook makes nothing and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .site import Site

_told: ContextVar[Tensor | None] = ContextVar("prompt lengths", default=None)


@contextmanager
def prompt_of(lengths: int | Sequence[int] | Tensor) -> Iterator[None]:
    """In this block, so many content tokens of each row are its prompt, and what comes after is generation.

    Args:
        lengths: one for all rows, or (rows,).

    Raises:
        InputError: a length below 1.
    """
    told = torch.as_tensor(lengths, dtype=torch.long).reshape(-1)
    if not len(told) or bool((told < 1).any()):
        raise InputError(f"prompt lengths: got {told.tolist()}, wanted 1 or more tokens a row")
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def told_prompt(rows: int, device: torch.device) -> Tensor | None:
    """(rows,) lengths that `prompt_of` told; None outside it. A batch of several beams a row repeats each row's."""
    told = _told.get()
    if told is None:
        return None
    if rows % len(told):
        raise InputError(f"prompt lengths: got {len(told)} for a batch of {rows} rows; tell one for each row, or one for all")
    return told.repeat_interleave(rows // len(told)).to(device)


@dataclass(slots=True)
class Moment:
    """Which rows and positions the states in hand belong to, in the forward pass that is running.

    `content` (rows, positions) is False on padding; None where the network has no mask. `start` is the number of positions that
    the cache already held, padding included; 0 in the prompt's pass. `before` (rows) counts the content positions among them;
    where a decoded step comes without a mask (Mamba), it is what the passes before it counted (`seen`). `counted` is False where
    nobody has counted. `tokens` (rows, positions) are the ids of the pass, `prompt` (rows) the content tokens of each prompt,
    where it was `told` or as far as it has been seen. `whole` is True where it is known that no position is padding.
    """

    content: Tensor | None = None
    start: int = 0
    before: Tensor | None = None
    seen: Tensor | None = None
    counted: bool = True
    tokens: Tensor | None = None
    prompt: Tensor | None = None
    told: bool = False
    decoded: bool = False  # the pass is one position on a cache
    whole: bool = False
    masks: dict[Any, tuple[Scope, Tensor | bool]] = field(default_factory=dict)  # of this pass, by scope, shape and device

    def held(self, state: Tensor) -> Tensor:
        """`content` for this state, as a mask (rows, positions) that is True wherever there is no padding."""
        rows, positions = state.shape[:2]
        if self.content is None or self.content.shape != (rows, positions):
            return torch.ones(rows, positions, dtype=torch.bool, device=state.device)
        return self.content.to(state.device)

    def numbers(self, state: Tensor) -> Tensor:
        """The number of each content position in its own row, from 0, counted over prompt and generation; -1 on padding."""
        if not self.counted:
            raise InputError(
                "scope: numbered positions need the length of what the network has already read, which its state does not hold; "
                "attach before the first pass"
            )
        held = self.held(state)
        before = self.before if self.before is not None else torch.full((state.shape[0],), self.start)
        counted = held.long().cumsum(1) - 1 + before.to(state.device)[:, None]
        return torch.where(held, counted, -1)

    def last(self, state: Tensor) -> Tensor:
        """Index (rows) of the last content position in this pass."""
        held = self.held(state)
        return held.shape[1] - 1 - held.flip(1).long().argmax(1)

    def generated(self, state: Tensor) -> Tensor:
        """(rows, positions): whether a position is of the generation; never on padding."""
        held = self.held(state)
        if self.told:
            assert self.prompt is not None
            return held & (self.numbers(state) >= self.prompt.to(state.device)[:, None])
        return held if self.decoded else torch.zeros_like(held)

    def from_end(self, state: Tensor) -> Tensor:
        """(rows, positions): number of each position from the prompt's end, −1 its last token, 0 the first generated one."""
        if self.prompt is None or not (self.told or self.decoded or self.start == 0):
            raise InputError(
                "scope: positions from the prompt's end are not known while it comes in chunks; tell its length with prompt_of"
            )
        return self.numbers(state) - self.prompt.to(state.device)[:, None]


class Gate(Protocol):
    """Opens a scope for some of the states in hand, by what they say or by what was read before, at sites of its own."""

    @property
    def reads(self) -> Mapping[Site, Callable[[Tensor, Moment], None]]:
        """What `attach` has to read for it, in the same passes; a site that comes later in a pass speaks for the next one."""
        ...

    def open(self, state: Tensor, moment: Moment) -> Tensor:
        """Mask (rows, positions) of the states (rows, positions, d) that may be written to."""
        ...


Phase = Literal["both", "prompt", "generation"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which states an edit is applied to: those that every condition names, never padding, less what `exclude` names.

    Attributes:
        rows: of the batch; None is all.
        positions: "all"; "last", the last content position of each pass, that is the prompt's last token and then every generated
            one; or a tuple of numbers, from 0 over prompt and generation, negative ones from the prompt's end (−1 is its last
            token).
        phase: "prompt", "generation", or "both".
        window: (start, stop) of positions, stop not included; None leaves an end open. Counted as numbers in `positions` are.
        tokens: ids; only positions that hold one of them. None is any.
        exclude: scopes whose states are left alone.
        gate: opens for some of the states, by what they say or what was read before.
    """

    rows: tuple[int, ...] | None = None
    positions: Literal["all", "last"] | tuple[int, ...] = "all"
    phase: Phase = "both"
    window: tuple[int | None, int | None] | None = None
    tokens: tuple[int, ...] | None = None
    exclude: tuple[Scope, ...] = ()
    gate: Gate | None = None

    @property
    def alike(self) -> bool:
        """Whether rows that begin alike are written to alike, as far as they are: what such rows share can be run once."""
        ends = self.window or ()
        inside = self.positions if isinstance(self.positions, tuple) else ()
        from_end = any(end is not None and end < 0 for end in (*ends, *inside))
        return self.rows is None and self.gate is None and not from_end and all(scope.alike for scope in self.exclude)

    @property
    def by_row(self) -> bool:
        """Whether it names rows of a batch, or leaves some out."""
        return self.rows is not None or any(scope.by_row for scope in self.exclude)

    def among(self, rows: Sequence[int]) -> Scope | None:
        """The same scope where these rows of the batch stand alone, in this order; None where it names none of them."""
        place = {row: number for number, row in enumerate(rows)}
        kept = None if self.rows is None else tuple(place[row] for row in self.rows if row in place)
        if kept == ():
            return None
        left = tuple(scope for scope in (out.among(rows) for out in self.exclude) if scope is not None)
        return replace(self, rows=kept, exclude=left)

    def select(self, state: Tensor, moment: Moment) -> Tensor | bool:
        """Mask (rows, positions) of the states to write to; True where that is every one of them, False where it is none.

        On an accelerator it may be a mask that is all True or all False: to look would be to wait.
        """
        key = (id(self), *state.shape[:2], state.device)
        kept = moment.masks.get(key)  # with its scope, whose id is no other's while it is kept
        if kept is None:
            kept = moment.masks[key] = (self, self._mask(state, moment))
        mask = kept[1]
        if self.gate is None or mask is False:
            return mask
        opened = self.gate.open(state, moment)
        opened = opened & moment.held(state) if mask is True else opened & mask
        return opened if opened.device.type != "cpu" or bool(opened.any()) else False

    def _mask(self, state: Tensor, moment: Moment) -> Tensor | bool:
        one = moment.decoded and state.shape[1] == 1 and moment.whole  # a decoded step without padding: the commonest by far
        if self.rows is None and self.window is None and self.tokens is None and not self.exclude:
            if self.phase == "both" and ((self.positions == "all" and moment.whole) or (self.positions == "last" and one)):
                return True
            if one and not moment.told and not isinstance(self.positions, tuple):
                return self.phase != "prompt"
        mask = self._named(state, moment)
        for scope in self.exclude:
            left = scope._mask(state, moment)
            mask = mask & (~left if isinstance(left, Tensor) else not left)
        if mask.device.type != "cpu":
            return mask
        return False if not bool(mask.any()) else True if bool(mask.all()) else mask

    def _named(self, state: Tensor, moment: Moment) -> Tensor:
        mask = moment.held(state)
        if self.rows is not None:
            mask = mask & self._rows(state)[:, None]
        if self.positions == "last":
            mask = mask & self._last(state, moment)
        elif isinstance(self.positions, tuple):
            mask = mask & _numbered(self.positions, state, moment)
        if self.window is not None:
            start, stop = self.window
            mask = mask & ~_before(start, state, moment, False) & _before(stop, state, moment, True)
        if self.phase != "both":
            generated = moment.generated(state)
            mask = mask & (generated if self.phase == "generation" else ~generated)
        if self.tokens is not None:
            if moment.tokens is None or moment.tokens.shape != mask.shape:
                raise InputError("scope tokens: this pass was given no token ids; name positions instead")
            mask = mask & torch.isin(moment.tokens.to(mask.device), torch.tensor(self.tokens, device=mask.device))
        return mask

    def _rows(self, state: Tensor) -> Tensor:
        assert self.rows is not None
        if any(not 0 <= row < state.shape[0] for row in self.rows):
            raise InputError(f"scope rows {self.rows}: this batch has rows 0 to {state.shape[0] - 1}; name rows inside it")
        rows = torch.zeros(state.shape[0], dtype=torch.bool, device=state.device)
        rows[list(self.rows)] = True
        return rows

    def _last(self, state: Tensor, moment: Moment) -> Tensor:
        if moment.told:
            return moment.from_end(state) >= -1
        mask = torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
        mask[torch.arange(state.shape[0], device=state.device), moment.last(state)] = True
        return mask


def _numbered(positions: tuple[int, ...], state: Tensor, moment: Moment) -> Tensor:
    from_start, from_end = ([p for p in positions if (p < 0) == negative] for negative in (False, True))
    mask = torch.isin(moment.numbers(state), torch.tensor(from_start, dtype=torch.long, device=state.device))
    if from_end:
        mask = mask | torch.isin(moment.from_end(state), torch.tensor(from_end, device=state.device))
    return mask


def _before(position: int | None, state: Tensor, moment: Moment, absent: bool) -> Tensor:
    """(rows, positions): whether each comes before a position; `absent` everywhere where there is none."""
    if position is None:
        return torch.full(state.shape[:2], absent, device=state.device)
    return (moment.numbers(state) if position >= 0 else moment.from_end(state)) < position
