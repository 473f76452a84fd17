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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .scope import Moment as Moment
from .scope import Scope as Scope
from .scope import told_prompt

if TYPE_CHECKING:
    from .anatomy import Port
    from .site import Site
    from .subject import Subject


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
        edits: at each site, (edit, scope) pairs applied in the order given. What the scopes' gates read is attached with them.
        stop: end each pass run through `Attached.run` once the deepest site that is read has been seen.

    Raises:
        InputError: a site is not in this network.
    """
    edits = dict(edits or {})
    looks = _looks(reads or {}, edits)
    ports = {site: subject.port(site) for site in [*edits, *looks]}  # edits first: a read of the same module sees what they wrote
    attached = Attached(subject)
    deepest = max((ports[site] for site in looks), key=lambda port: port.order, default=None) if stop else None
    last = None if deepest is None else [site for site, port in ports.items() if port.order == deepest.order][-1]
    with ExitStack() as stack:
        before_pass = _watch(attached.moment, subject)
        stack.callback(subject.module.register_forward_pre_hook(before_pass, with_kwargs=True, prepend=True).remove)
        for site, port in ports.items():
            hook = _Hook(port, looks.get(site, ()), edits.get(site, ()), attached.moment, ends=site == last)
            stack.callback(port.module.register_forward_hook(hook).remove)
        yield attached


def _looks(reads: Mapping[Site, Read], edits: Edits) -> dict[Site, tuple[Read, ...]]:
    """The reads at each site: those asked for, then those of the gates."""
    looks: dict[Site, tuple[Read, ...]] = {site: (read,) for site, read in reads.items()}
    gates = {id(scope.gate): scope.gate for pairs in edits.values() for _, scope in pairs if scope.gate is not None}
    for gate in gates.values():
        for site, read in gate.reads.items():
            looks[site] = (*looks.get(site, ()), read)
    return looks


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


Entering = Callable[[str, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def watch_entering(module: nn.Module, seen: Entering, paths: Collection[str]) -> Iterator[None]:
    """Call `seen(path, args, kwargs)` each time a module of `paths` is about to run, before it can change what it was given."""
    with ExitStack() as stack:
        for path in paths:
            part = module.get_submodule(path)
            stack.callback(part.register_forward_pre_hook(_tell_before(path, seen), with_kwargs=True).remove)
        yield


def _tell_before(path: str, seen: Entering) -> Callable[..., None]:
    def before_module(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen(path, args, kwargs)

    return before_module


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
    """Before each pass, work out which of its positions are content, how many came before it, and what of it is prompt."""

    def before_pass(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds", args[0] if args else None)
        mask, counted, prompt = kwargs.get("attention_mask"), moment.seen, moment.prompt
        moment.content, moment.before, moment.seen, moment.start, moment.counted = None, None, None, 0, True
        moment.tokens, moment.prompt, moment.told, moment.decoded = None, None, False, False
        moment.masks.clear()
        if not subject.anatomy.tokens or not isinstance(tokens, Tensor):
            if isinstance(mask, Tensor) and mask.dim() == 2:
                moment.content = mask.bool()
            moment.whole = _whole(moment.content)
            return
        rows, length = tokens.shape[:2]
        moment.tokens = tokens if tokens.dim() == 2 and not tokens.is_floating_point() else None
        continues = subject.continues(kwargs)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            held = mask.bool()
            moment.content, moment.start = held[:, -length:], held.shape[1] - length
            moment.before = held[:, : moment.start].sum(1)
        elif continues:
            length_held = subject.cached_length(kwargs)
            moment.start = length_held or 0
            moment.before = counted if counted is not None and len(counted) == rows else None
            moment.counted = moment.before is not None or length_held is not None
        before = torch.full((rows,), moment.start, device=tokens.device) if moment.before is None else moment.before
        here = length if moment.content is None else moment.content.sum(1)
        moment.seen = before + here if moment.counted else None
        moment.decoded = continues and length == 1
        told = told_prompt(rows, tokens.device)
        moment.told = told is not None
        if told is not None:
            moment.prompt = told
        elif not moment.decoded:
            moment.prompt = moment.seen
        elif prompt is not None and len(prompt) == rows:
            moment.prompt = prompt
        moment.whole = _whole(moment.content)

    return before_pass


def _whole(content: Tensor | None) -> bool:
    """Whether there is no padding, as far as it can be seen without waiting for an accelerator."""
    return content is None or (content.device.type == "cpu" and bool(content.all()))


@dataclass(frozen=True, slots=True, eq=False)
class _Hook:
    """What runs after a module: its edits, then its read."""

    port: Port
    reads: tuple[Read, ...]
    edits: Sequence[tuple[Edit, Scope]]
    moment: Moment
    ends: bool

    def __call__(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        state = self.port.state(output)
        for edit, scope in self.edits:
            mask = scope.select(state, self.moment)
            if mask is True:
                state = _same_shape(edit(state), state, self.port)
            elif mask is not False:
                state = _written(edit, state, mask, scope.rows, self.port)
        for read in self.reads:
            read(state, self.moment)
        if self.ends:
            raise _Stop
        return self.port.replace(output, state) if self.edits else None


def _written(edit: Edit, state: Tensor, mask: Tensor, rows: tuple[int, ...] | None, port: Port) -> Tensor:
    """The state with the edit where `mask` is True; of named rows alone the edit is computed for them alone."""
    if rows is None or len(rows) == len(state):
        return torch.where(mask[..., None], _same_shape(edit(state), state, port), state)
    chosen = torch.tensor(rows, device=state.device)
    part = state[chosen]
    return state.index_copy(0, chosen, torch.where(mask[chosen][..., None], _same_shape(edit(part), part, port), part))


def _same_shape(edited: Tensor, state: Tensor, port: Port) -> Tensor:
    if edited.shape != state.shape or edited.dtype != state.dtype:
        raise InputError(
            f"edit at {port.site}: got {tuple(edited.shape)} {edited.dtype} back for {tuple(state.shape)} {state.dtype}; "
            "an edit returns states of the same shape and dtype"
        )
    return edited
