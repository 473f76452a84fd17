"""Does reading and writing work in this network as promised? Each property is tested on the subject, bit for bit where it can be.

Bits are compared between passes over batches of the same shape only: kernels choose their way by shape, so the same row in
another batch agrees to rounding and no better. What a family cannot do is "not applicable", with the reason; everything else
passes or fails, and a subject with a failed line is refused when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from .attach import Scope, attach, hooks
from .fingerprint import module_fingerprint
from .listed import EMBED, NORM, listing
from .observe import Broken, NotApplicable, adding, decode, direction, expect, held, observe, plain_states
from .port import scores
from .site import Site
from .subject import Subject
from .verify import differ, left_padded, moves, sizes, tolerance, with_positions


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a selfcheck."""

    name: str
    status: Literal["passed", "failed", "not applicable"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.status}{f' ({self.detail})' if self.detail else ''}"


def selfcheck(subject: Subject, full: bool = True) -> tuple[Check, ...]:
    """Every line, in the order of the support matrix; the quick form tests one site of the middle block and no decoding."""
    if not isinstance(subject, Subject):
        raise InputError(f"subject: got a {type(subject).__name__}, wanted a Subject; ss.load opens one")
    sites = _sites(subject)
    if not sites:
        raise InputError(
            f"{subject.name}: no place was found in it that can be written to; its structure is not one of those known"
        )
    if not full:
        middle = Site("resid", subject.blocks // 2)
        sites = [middle] if middle in sites else sites[:1]
    return tuple(_line(name, check, subject, sites) for name, check in (_FULL if full else _QUICK).items())


def render(checks: Sequence[Check]) -> list[str]:
    """One line of text each."""
    width = max((len(check.name) for check in checks), default=0)
    return [f"{check.name:<{width}}  {check.status}{f': {check.detail}' if check.detail else ''}" for check in checks]


def _line(name: str, check: Callable[[Subject, list[Site]], str], subject: Subject, sites: list[Site]) -> Check:
    try:
        with torch.no_grad():
            return Check(name, "passed", check(subject, sites))
    except Broken as broken:
        return Check(name, "failed", str(broken))
    except NotApplicable as reason:
        return Check(name, "not applicable", str(reason))


def _sites(subject: Subject) -> list[Site]:
    """First, middle and last block, both mixers of the middle one, the embedding, and the path of a module inside one of them."""
    anatomy, middle = subject.anatomy, subject.blocks // 2
    sites = [Site("resid", index) for index in sorted({0, middle, subject.blocks - 1}) if 0 <= index < subject.blocks]
    mixers = [Site(kind, middle) for kind in ("attn", "mlp") if subject.blocks and anatomy.paths(kind)[middle]]
    sites += mixers + ([Site("embed")] if anatomy.embed is not None else [])
    within = tuple(f"{subject.port(site).path}." for site in mixers)
    inner = [path for path, place in anatomy.modules.items() if within and path.startswith(within) and place.layout is not None]
    inner = [path for path in inner if next(subject.module.get_submodule(path).parameters(), None) is not None]
    inner += [path for path in (anatomy.final_norm, anatomy.head) if path is not None]
    return sites + [Site("module", path=path) for path in inner[:1]]


def _batch(subject: Subject, rows: int) -> dict[str, Tensor]:
    return subject.batch(subject.probe[:1] if rows == 1 else subject.probe[:3])


def _answer(subject: Subject, batch: dict[str, Tensor]) -> Tensor:
    return scores(subject.module(**batch)).clone()


def _repeats(subject: Subject, _sites: list[Site]) -> str:
    batch = _batch(subject, 3)
    if not torch.equal(_answer(subject, batch), _answer(subject, batch)):
        raise Broken("two passes over the same batch differ; is it in training mode, or does it draw random numbers?")
    return ""


def _idle(subject: Subject, sites: list[Site]) -> str:
    """Attached but idle: the answer is the same, bit for bit."""
    batch = _batch(subject, 3)
    before = _answer(subject, batch)
    with attach(subject, reads={site: lambda *_: None for site in sites}):
        during = _answer(subject, batch)
    if not torch.equal(before, during):
        raise Broken("with reads attached the answer is another")
    return ""


def _zero(subject: Subject, sites: list[Site]) -> str:
    """An edit of zero, at all sites at once, changes no bit, before and after an edit that is not zero."""
    for rows in (1, 3):
        batch = _batch(subject, rows)
        before = _answer(subject, batch)
        for size in (0.0, 1.0, 0.0):
            edit = (lambda state, size=size: state + size * torch.ones_like(state), Scope())
            with attach(subject, edits={site: [edit] for site in sites}):
                during = _answer(subject, batch)
            if size == 0 and not torch.equal(before, during):
                raise Broken(f"an edit of zero changes the answer (batch {rows}, one of {', '.join(map(str, sites))})")
    return ""


def _writes(subject: Subject, sites: list[Site], sizes_of_batch: tuple[int, ...] = (1, 3)) -> str:
    """h + v where it was asked for and h elsewhere: rows, positions, batch 1 and 3 (of different lengths, padded right)."""
    for rows in sizes_of_batch:
        _write(subject, sites, _batch(subject, rows), f"batch {rows}")
    return ", ".join(str(site) for site in sites)


def _write(subject: Subject, sites: list[Site], batch: dict[str, Tensor], what: str) -> None:
    states, answer = plain_states(subject, sites, batch)
    for site, state in states.items():
        vector, content = direction(site, state), held(subject, batch, state)
        row = torch.arange(len(state), device=state.device)[:, None] == len(state) - 1
        number = torch.where(content, content.long().cumsum(1) - 1, -1)
        asked = {
            Scope(rows=(len(state) - 1,)): content & row,
            Scope(positions="last"): content & (number == content.sum(1, keepdim=True) - 1),
            Scope(positions=(0, 2)): (number == 0) | (number == 2),
        }
        for scope, mask in asked.items():
            case = f"{site}, {what}, {scope}"
            found, output = observe(subject, {site: (adding(vector), scope)}, lambda: subject.module(**batch))
            expect(found[site], [mask], vector, case)
            if not torch.equal(found[site][0].before, state):
                raise Broken(f"{case}: the state before the edit is not that of a plain pass")
            others = ~mask.any(1)
            if others.any() and differ(answer[others], scores(output)[others]) > tolerance(answer.dtype):
                raise Broken(f"{case}: rows that were not written to answer differently")


def _acts(subject: Subject, sites: list[Site]) -> str:
    """An edit that the network does not notice would be reported as one: writing must move the answer."""
    batch, large = _batch(subject, 3), []
    states, answer = plain_states(subject, sites, batch)
    for site, state in states.items():
        vector = direction(site, state)
        for size in sizes(subject.dtype):
            with attach(subject, edits={site: [(adding(size * vector), Scope())]}):
                moved = moves(answer, _answer(subject, batch))
            if moved:
                large += [f"{site} only at {size:g} times its own size"] if size > 1 else []
                break
        else:
            raise Broken(f"writing to {site} does not move the answer")
    return ", ".join(large)


def _right_padded(subject: Subject, _sites: list[Site]) -> str:
    """A row padded on its right answers as it does alone, to rounding."""
    batch = _batch(subject, 3)
    mask = batch.get("attention_mask")
    if not subject.anatomy.tokens or mask is None or bool(mask.all()):
        raise NotApplicable("its rows are not padded")
    together = _answer(subject, batch)
    for index, row in enumerate(subject.probe[:3]):
        alone = _answer(subject, subject.batch([row]))
        if together.dim() == 3 and differ(alone[0], together[index, : alone.shape[1]]) > tolerance(alone.dtype):
            raise Broken(f"row {index}, padded on its right, answers differently from alone")
    return "writing to padded rows: see write"


def _left_padded(subject: Subject, sites: list[Site]) -> str:
    if not subject.anatomy.tokens:
        raise NotApplicable("its inputs are not tokens")
    if not subject.anatomy.left_padding:
        raise NotApplicable("left padding changes its answers: pad on the right")
    batch = with_positions(subject, left_padded(subject, list(subject.probe[:3])))
    _write(subject, sites, batch, "left-padded")
    return ""


def _decoding(subject: Subject, sites: list[Site]) -> str:
    """In the prompt and in every decoded step, batch 1 and 3, padded right, and left where the network can."""
    if not subject.anatomy.decodes:
        raise NotApplicable("it does not generate")
    if not subject.anatomy.steps:
        raise NotApplicable("it has no cache that equals a whole pass, so each step is a prompt")
    cases = {"batch 1": _batch(subject, 1)}
    if not subject.anatomy.batched:
        cases["batch 1, for its cached step is wrong with several rows"] = cases.pop("batch 1")
    elif subject.anatomy.counts:  # a recurrent state has gone through the padding on the right
        cases["batch 3, padded right"] = _batch(subject, 3)
    else:
        cases["batch 3"] = subject.batch([subject.probe[0][: len(subject.probe[1])], subject.probe[1], subject.probe[1][::-1]])
    if subject.anatomy.left_padding and subject.anatomy.batched:
        cases["batch 3, padded left"] = left_padded(subject, list(subject.probe[:3]))
    for name, batch in cases.items():
        _decodes(subject, sites, name, batch)
    return "; ".join(cases)


def _decodes(subject: Subject, sites: list[Site], name: str, batch: dict[str, Tensor]) -> None:
    """All sites are written to in the same passes: each is judged by its own state before and after."""
    content, lengths = batch["attention_mask"].bool(), batch["attention_mask"].sum(1)
    new = torch.ones_like(content[:, :1])
    first = (torch.arange(len(lengths), device=new.device) == 0)[:, None]
    number = torch.where(content, content.long().cumsum(1) - 1, -1)
    token = int(lengths[0])  # the number of row 0's first new token; shorter rows come to it later
    asked = {
        Scope(rows=(0,)): [content & first, *[new & first] * 3],
        Scope(positions="last"): [content & (number == lengths[:, None] - 1), *[new] * 3],
        Scope(positions=(token,)): [number == token, *[(lengths + made == token)[:, None] for made in range(3)]],
        Scope(positions=(-1, 1)): [content & ((number == lengths[:, None] - 1) | (number == 1)), *[new & False] * 3],
        Scope(phase="generation", exclude=(Scope(rows=(0,)),)): [content & False, *[new & ~first] * 3],
    }
    states, _ = plain_states(subject, sites, with_positions(subject, batch))
    vectors = {site: direction(site, state) for site, state in states.items()}
    for scope, masks in asked.items():
        edits = {site: (adding(vector), scope) for site, vector in vectors.items()}
        found, _ = observe(subject, edits, decode(subject, batch, 3))
        for site, passes in found.items():
            expect(passes, masks, vectors[site], f"{site}, decoding, {name}, {scope}")


def _listed(subject: Subject, _sites: list[Site]) -> str:
    """Captured states equal `output_hidden_states`."""
    found = listing(subject, _batch(subject, 3))
    if found is None:
        raise NotApplicable("it lists no hidden states")
    unknown = [index for index, name in enumerate(found.entries) if name is None]
    if unknown:
        raise Broken(f"hidden_states[{unknown[0]}] equals no captured state")
    absent = found.absent(subject.blocks)
    stages = len(set(subject.anatomy.widths)) > 1
    if not stages and absent not in ([], [subject.blocks - 1]):
        raise Broken(f"the output of block {absent[0]} is not in hidden_states")
    notes = [f"begins with {EMBED if found.entries[0] == EMBED else found.entries[0]}"]
    notes += [f"last entry {NORM if found.last_is_normed else 'as the last block left it'}"]
    notes += [f"blocks {', '.join(map(str, absent))} not listed"] if stages and absent else []
    notes += [f"{', '.join(found.halved)} listed halved"] if found.halved else []
    return "; ".join(notes)


def _left_as_found(subject: Subject, sites: list[Site]) -> str:
    return _restored(subject, sites, fail=False)


def _after_exception(subject: Subject, sites: list[Site]) -> str:
    return _restored(subject, sites, fail=True)


class _Deliberate(Exception):
    """Raised inside an edit, to see what an exception leaves behind."""


def _restored(subject: Subject, sites: list[Site], *, fail: bool) -> str:
    batch = _batch(subject, 3)
    before = hooks(subject.module), module_fingerprint(subject.module), _answer(subject, batch)

    def edit(state: Tensor) -> Tensor:
        if fail:
            raise _Deliberate
        return state + 1

    for some in [[site] for site in sites] if fail else [sites]:
        try:
            with attach(subject, edits={site: [(edit, Scope())] for site in some}):
                subject.module(**batch)
        except _Deliberate:
            continue
    after = hooks(subject.module), module_fingerprint(subject.module), _answer(subject, batch)
    for name, first, second in zip(("hooks", "parameters"), before[:2], after[:2], strict=True):
        if first != second:
            raise Broken(f"its {name} are not as they were before")
    if not torch.equal(before[2], after[2]):
        raise Broken("its answer is not what it was before")
    return "hooks, parameters, answer"


def _hooks_gone(subject: Subject, sites: list[Site]) -> str:
    before = hooks(subject.module)
    batch = _batch(subject, 1)
    answer = _answer(subject, batch)
    with attach(subject, edits={sites[0]: [(lambda state: state + 1, Scope())]}):
        subject.module(**batch)
    if hooks(subject.module) != before or not torch.equal(answer, _answer(subject, batch)):
        raise Broken("hooks or answer are not as they were before")
    return "hooks, answer"


_FULL: dict[str, Callable[[Subject, list[Site]], str]] = {
    "two passes agree": _repeats,
    "idle": _idle,
    "zero edit": _zero,
    "write": _writes,
    "write moves the answer": _acts,
    "right padding": _right_padded,
    "left padding": _left_padded,
    "decoding": _decoding,
    "hidden states": _listed,
    "after detaching": _left_as_found,
    "after an exception": _after_exception,
}
_QUICK = {name: _FULL[name] for name in ("two passes agree", "idle")}
_QUICK |= {"write": lambda subject, sites: _writes(subject, sites, (3,)), "write moves the answer": _acts}
_QUICK |= {"hidden states": _listed, "after detaching": _hooks_gone}
