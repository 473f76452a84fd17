"""Reading and writing states while the network runs. The only file that registers hooks.

    with attach(subject, reads={site: look}, edits={site: [(edit, Scope())]}) as attached:
        subject.module(**batch)

Promises: every hook is gone when the block is left, whatever is raised inside; attached but idle, the network computes what it
did before, bit for bit; an edit changes the states that its scope names and no others. States are handed over as (rows,
positions, d) whatever the network's own layout; a network without positions has one.

`Edit`s are pure functions h -> h' evaluated in the dtype of the site. A read at an edited site sees the state after the edit,
also where the edit was attached by an enclosing block. `output_hidden_states` of transformers records through hooks of its own,
which may come first and then show the state before the edit: read through `attach`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError

if TYPE_CHECKING:
    from .anatomy import Port
    from .site import Site
    from .subject import Subject


@dataclass(slots=True)
class Moment:
    """Which rows and positions the states in hand belong to, in the forward pass that is running.

    `content` (rows, positions) is False on padding; None where the network has no mask. `start` is the number of positions that
    the cache already held, padding included; 0 in the prompt's pass. `before` (rows) counts the content positions among them;
    where a decoded step comes without a mask (Mamba), it is what the passes before it counted (`seen`). `counted` is False where
    nobody has counted.
    """

    content: Tensor | None = None
    start: int = 0
    before: Tensor | None = None
    seen: Tensor | None = None
    counted: bool = True

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


@dataclass(frozen=True, slots=True)
class Scope:
    """Which states an edit is applied to: `rows` (None: all) and `positions`, never padding.

    "all": every content position, in the prompt and in each decoded step. "last": the last content position of each pass, that is
    the prompt's last token and then every generated one. A tuple: content positions of the row, counted from 0 over prompt and
    generation.
    """

    rows: tuple[int, ...] | None = None
    positions: Literal["all", "last"] | tuple[int, ...] = "all"

    def select(self, state: Tensor, moment: Moment) -> Tensor | None:
        """Mask (rows, positions) of the states to edit; None where that is every one of them."""
        if self.rows is None and self.positions == "all" and (moment.content is None or bool(moment.content.all())):
            return None
        if self.positions == "all":
            mask = moment.held(state)
        elif self.positions == "last":
            mask = torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
            mask[torch.arange(state.shape[0], device=state.device), moment.last(state)] = True
            mask &= moment.held(state)
        else:
            wanted = torch.tensor(self.positions, device=state.device)
            mask = torch.isin(moment.numbers(state), wanted) & moment.held(state)
        if self.rows is not None:
            if any(not 0 <= row < state.shape[0] for row in self.rows):
                raise InputError(f"scope rows {self.rows}: this batch has rows 0 to {state.shape[0] - 1}; name rows inside it")
            rows = torch.zeros(state.shape[0], dtype=torch.bool, device=state.device)
            rows[list(self.rows)] = True
            mask = mask & rows[:, None]
        return mask


Edit = Callable[[Tensor], Tensor]
Read = Callable[[Tensor, Moment], None]
Edits = Mapping["Site", Sequence[tuple[Edit, Scope]]]


class _Stop(Exception):
    """The deepest site that was asked for has been reached; the rest of the network need not run."""


@dataclass(slots=True)
class Attached:
    """A live attachment: runs the network up to the deepest site that is read, if it was attached with `stop=True`."""

    subject: Subject
    moment: Moment = field(default_factory=Moment)

    def run(self, **batch: Any) -> Any:
        """The network's output, or None where the pass stopped at the deepest site."""
        try:
            return self.subject.module(**batch)
        except _Stop:
            return None


@contextmanager
def attach(
    subject: Subject,
    *,
    reads: Mapping[Site, Read] | None = None,
    edits: Edits | None = None,
    stop: bool = False,
) -> Iterator[Attached]:
    """Attach reads and edits for the length of a `with` block.

    Args:
        reads: called with the state (rows, positions, d), after any edit there, and the `Moment`.
        edits: at each site, (edit, scope) pairs applied in the order given.
        stop: end each pass run through `Attached.run` once the deepest site that is read has been seen.

    Raises:
        InputError: a site is not in this network.
    """
    reads, edits = dict(reads or {}), dict(edits or {})
    ports = {site: subject.port(site) for site in [*edits, *reads]}  # edits first: a read of the same module sees what they wrote
    attached = Attached(subject)
    deepest = max((ports[site] for site in reads), key=lambda port: port.order, default=None) if stop else None
    last = None if deepest is None else [site for site, port in ports.items() if port.order == deepest.order][-1]
    with ExitStack() as stack:
        before_pass = _watch(attached.moment, subject)
        stack.callback(subject.module.register_forward_pre_hook(before_pass, with_kwargs=True, prepend=True).remove)
        for site, port in ports.items():
            hook = _Hook(port, reads.get(site), edits.get(site, ()), attached.moment, ends=site == last)
            stack.callback(port.module.register_forward_hook(hook).remove)
        yield attached


Seen = Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]


@contextmanager
def watch(module: nn.Module, seen: Seen, paths: Collection[str] | None = None) -> Iterator[None]:
    """Call `seen(path, args, kwargs, output)` each time a module of the network (of `paths`; None: every one) has run.

    The watcher changes nothing. It sees outputs as the rest of the network gets them, if it is attached after the edits.
    """
    with ExitStack() as stack:
        for path, part in module.named_modules():
            if paths is None or path in paths:
                stack.callback(part.register_forward_hook(_tell(path, seen), with_kwargs=True).remove)
        yield


def _tell(path: str, seen: Seen) -> Callable[..., None]:
    def after_module(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen(path, args, kwargs, output)

    return after_module


Hook = tuple[str, str, int]  # module path, kind, number


def hooks(module: nn.Module) -> frozenset[Hook]:
    """Every hook that hangs on the network: equal before and after if nothing was left behind."""
    kinds = [name for name in vars(module) if name.endswith("_hooks")]
    return frozenset(
        (path, kind, number) for path, part in module.named_modules() for kind in kinds for number in vars(part).get(kind) or ()
    )


def edited(module: nn.Module) -> bool:
    """Whether an enclosing `attach` has edits on this network now."""
    return any(isinstance(hook, _Hook) and hook.edits for part in module.modules() for hook in part._forward_hooks.values())


def _watch(moment: Moment, subject: Subject) -> Callable[..., None]:
    """Before each pass, work out which of its positions are content and how many came before it."""

    def before_pass(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds", args[0] if args else None)
        mask, counted = kwargs.get("attention_mask"), moment.seen
        moment.content, moment.before, moment.seen, moment.start, moment.counted = None, None, None, 0, True
        if not subject.anatomy.tokens or not isinstance(tokens, Tensor):
            if isinstance(mask, Tensor) and mask.dim() == 2:
                moment.content = mask.bool()
            return
        rows, length = tokens.shape[:2]
        if isinstance(mask, Tensor) and mask.dim() == 2:
            held = mask.bool()
            moment.content, moment.start = held[:, -length:], held.shape[1] - length
            moment.before = held[:, : moment.start].sum(1)
        elif subject.continues(kwargs):
            length_held = subject.cached_length(kwargs)
            moment.start = length_held or 0
            moment.before = counted if counted is not None and len(counted) == rows else None
            moment.counted = moment.before is not None or length_held is not None
        before = torch.full((rows,), moment.start, device=tokens.device) if moment.before is None else moment.before
        here = length if moment.content is None else moment.content.sum(1)
        moment.seen = before + here if moment.counted else None

    return before_pass


@dataclass(frozen=True, slots=True, eq=False)
class _Hook:
    """What runs after a module: its edits, then its read."""

    port: Port
    read: Read | None
    edits: Sequence[tuple[Edit, Scope]]
    moment: Moment
    ends: bool

    def __call__(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        state = self.port.state(output)
        for edit, scope in self.edits:
            mask = scope.select(state, self.moment)
            if mask is None:
                state = _same_shape(edit(state), state, self.port)
            elif bool(mask.any()):
                state = torch.where(mask[..., None], _same_shape(edit(state), state, self.port), state)
        if self.read is not None:
            self.read(state, self.moment)
        if self.ends:
            raise _Stop
        return self.port.replace(output, state) if self.edits else None


def _same_shape(edited: Tensor, state: Tensor, port: Port) -> Tensor:
    if edited.shape != state.shape or edited.dtype != state.dtype:
        raise InputError(
            f"edit at {port.site}: got {tuple(edited.shape)} {edited.dtype} back for {tuple(state.shape)} {state.dtype}; "
            "an edit returns states of the same shape and dtype"
        )
    return edited
