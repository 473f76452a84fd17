"""The anatomy tested by effect: what structure suggests is written to, and the network's answer is watched.

Everything runs on the subject's few made-up rows and through `attach`, so what is verified is what will be used. What fails is
refused (TrustError); what a family cannot do (decode, take left padding) is recorded as such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TrustError
from .anatomy import Anatomy, fed_blocks
from .attach import Edit, Edits, Scope, attach
from .listed import listing
from .port import scores
from .site import Site
from .subject import Subject
from .trace import Trace, accepts

_ROWS = 64  # rows of one pass in which each row tests one site


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference between two ways of computing the same, beyond which it is not rounding."""
    return max(1e-4, 8 * torch.finfo(dtype).eps)


def differ(first: Tensor, second: Tensor) -> float:
    """Norm of the difference, relative to the spread of the first."""
    first, second = first.double(), second.double()
    return float((first - second).norm() / (first - first.mean(-1, keepdim=True)).norm().clamp_min(1e-30))


@torch.no_grad()
def verify(subject: Subject, seen: Trace) -> Anatomy:
    """The anatomy with what was verified filled in.

    Raises:
        TrustError: a block, or a mixer, that structure found does not act on the network's answer.
    """
    anatomy = _writes_act(subject, seen)
    listed = listing(
        subject, subject.batch(subject.probe[:1])
    )  # transformers hangs its recorders in the network here, once and for all
    anatomy = replace(anatomy, last_state_is_normed=listed is not None and listed.last_is_normed)
    if not anatomy.tokens:
        return anatomy
    causal = _causal(subject)
    return replace(anatomy, causal=causal, left_padding=_left_padding(subject), **_cached(subject, causal))


def _writes_act(subject: Subject, seen: Trace) -> Anatomy:
    """Write at every block and mixer, each in a row of its own, and see that the answer and what the next block takes move.

    A block that does not act is refused. A mixer that does not (an untrained ConvNeXt scales its own by 1e-6) is no site.
    """
    sites = [
        Site(kind, index) for kind in ("resid", "attn", "mlp") for index, path in enumerate(subject.anatomy.paths(kind)) if path
    ]
    for size in sizes(subject.dtype):
        sites = [
            site for start in range(0, len(sites), _ROWS) for site in _unmoved(subject, seen, sites[start : start + _ROWS], size)
        ]
    if sites and sites[0].kind == "resid":
        path = subject.port(sites[0]).path
        raise TrustError(
            f"{subject.name}: writing to {sites[0]} ({path}) does not change the network's answer and the next block's state; "
            "its blocks were not found, so it cannot be measured"
        )
    attn, mlp = (
        tuple(None if Site(kind, index) in sites else path for index, path in enumerate(subject.anatomy.paths(kind)))
        for kind in ("attn", "mlp")
    )
    return replace(subject.anatomy, attn=attn, mlp=mlp)


def sizes(dtype: torch.dtype) -> tuple[float, ...]:
    """Sizes of an edit, in units of the state's own, at which an effect is looked for: a ConvNeXt may scale a mixer by 1e-6."""
    return (1.0, 30.0) if dtype == torch.float16 else (1.0, 1e3, 1e6)


def moves(plain: Tensor, edited: Tensor) -> bool:
    """Whether an answer differs by more than the last bits."""
    return bool(edited.isfinite().all()) and differ(plain, edited) > 4 * torch.finfo(plain.dtype).eps


def _unmoved(subject: Subject, seen: Trace, sites: list[Site], size: float) -> list[Site]:
    """The sites that a write of this size did not show to act."""
    fed = fed_blocks([seen.calls[path] for path in subject.anatomy.blocks])
    row = subject.probe[1][:2] if subject.anatomy.tokens and isinstance(subject.probe[1], list) else subject.probe[1]
    batch = subject.batch([row] * len(sites))
    edits = {site: [(_shove(size), Scope(rows=(row,)))] for row, site in enumerate(sites)}
    plain, edited = _states(subject, batch, {}), _states(subject, batch, edits)  # equal bits but for what the edits do
    left = []
    for row, site in enumerate(sites):
        watched = [-1]
        if site.kind == "resid" and site.index < len(fed) and fed[site.index]:
            watched.append(site.index + 1)
        left += [] if all(moves(plain[index][row], edited[index][row]) for index in watched) else [site]
    return left


def _states(subject: Subject, batch: dict[str, Tensor], edits: Edits) -> list[Tensor]:
    """Every block's output, and the network's answer after them."""
    states: dict[Site, Tensor] = {}
    reads = {site: _keep(states, site) for site in (Site("resid", index) for index in range(subject.blocks))}
    with attach(subject, reads=reads, edits=edits) as attached:
        answer = scores(attached.run(**batch))
    return [*(states[site] for site in reads), answer]


def _keep(states: dict[Site, Tensor], site: Site) -> Callable[[Tensor, Any], None]:
    def read(state: Tensor, _moment: Any) -> None:
        states[site] = state

    return read


def _shove(size: float) -> Edit:
    """So many times as large as the state itself, and in no direction that a norm removes."""
    return lambda state: state + (size * (state.flip(-1) + state.float().std().clamp_min(1e-3).to(state.dtype)))


def _run(subject: Subject, batch: dict[str, Tensor], **more: Any) -> Any:
    if accepts(subject.module, "use_cache"):
        more = {"use_cache": False, **more}
    return subject.module(**batch, **more)


def positions_of(mask: Tensor) -> Tensor:
    """Numbers of the content positions in each row, as `generate` of transformers counts them."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def with_positions(subject: Subject, batch: dict[str, Tensor], last: int | None = None) -> dict[str, Tensor]:
    """The batch with position_ids where the network takes them; of the last so many positions when a cache holds the others."""
    if not accepts(subject.module, "position_ids") or "attention_mask" not in batch:
        return batch
    numbers = positions_of(batch["attention_mask"])
    return {**batch, "position_ids": numbers if last is None else numbers[:, -last:]}


def _causal(subject: Subject) -> bool:
    """A changed last token changes nothing before it, and something at it."""
    plain = subject.batch([subject.probe[0]])
    other = {**plain, "input_ids": plain["input_ids"].clone()}
    other["input_ids"][:, -1] = subject.probe[1][0]
    first, second = scores(_run(subject, plain)), scores(_run(subject, other))
    if first.dim() < 3 or torch.equal(plain["input_ids"], other["input_ids"]):
        return False
    return differ(first[:, :-1], second[:, :-1]) <= tolerance(first.dtype) < differ(first[:, -1], second[:, -1])


def cache_of(output: Any) -> dict[str, Any]:
    """The keyword argument that hands the cache of a pass to the next one; empty where there is none."""
    for key in ("past_key_values", "cache_params", "state"):
        if output.get(key) is not None:
            return {key: output[key]}
    return {}


def step(subject: Subject, batch: dict[str, Tensor], new: int, cache: dict[str, Any]) -> Any:
    """Run the last `new` tokens of the batch after a cache that holds the others."""
    mine = with_positions(subject, batch, last=new)
    if not _counts(cache):  # a recurrent state has no positions to mask, and `generate` hands it no mask either
        mine = {key: value for key, value in mine.items() if key != "attention_mask"}
    return subject.module(**{**mine, "input_ids": batch["input_ids"][:, -new:]}, **cache, use_cache=True)


def _cached(subject: Subject, causal: bool) -> dict[str, bool]:
    """What a pass that goes on from a cache does as a single pass would: each case is run both ways.

    Of the families known, RWKV in transformers is wrong for one token of several rows (it broadcasts its state over them), and
    Mamba for several tokens (it drops the state that the cache holds).
    """
    if not causal or not accepts(subject.module, "use_cache"):
        return {}
    one = subject.batch([subject.probe[0]])
    two = subject.batch([subject.probe[0], subject.probe[0][::-1]])
    step_of_one, step_of_two, several = _continues(subject, one, 1), _continues(subject, two, 1), _continues(subject, two, 3)
    return {
        "steps": step_of_one,
        "batched": step_of_two,
        "caches": step_of_one and step_of_two and several,
        "counts": _counts(cache_of(subject.module(**with_positions(subject, one), use_cache=True))),
    }


def _continues(subject: Subject, batch: dict[str, Tensor], new: int) -> bool:
    """Whether the last `new` tokens after a cache of the others give what the whole gives in one pass."""
    whole = scores(_run(subject, batch))[:, -new:]
    prompt = {key: value[:, :-new] for key, value in batch.items()}
    cache = cache_of(subject.module(**with_positions(subject, prompt), use_cache=True))
    if not cache:
        return False
    made = scores(step(subject, batch, new, cache))
    return made.shape == whole.shape and differ(whole, made) <= tolerance(whole.dtype)


def _counts(cache: dict[str, Any]) -> bool:
    if not cache or "state" in cache:
        return False
    try:
        return next(iter(cache.values())).get_seq_length() > 0
    except ValueError:  # how a transformers cache of recurrent layers says that it does not count
        return False


def _left_padding(subject: Subject) -> bool:
    """A row left-padded beside a longer one, with its mask, gives what it gives alone."""
    short, long = sorted(subject.probe[:2], key=len)
    alone = scores(_run(subject, subject.batch([short])))
    beside = scores(_run(subject, with_positions(subject, left_padded(subject, [short, long]))))
    return beside.dim() == 3 and differ(alone[0], beside[0, -len(short) :]) <= tolerance(alone.dtype)


def left_padded(subject: Subject, rows: list[Any]) -> dict[str, Tensor]:
    """The batch with each row's padding moved to its left."""
    batch = subject.batch(rows)
    held, longest = batch["attention_mask"].sum(1), batch["attention_mask"].shape[1]
    index = (torch.arange(longest, device=held.device)[None] - (longest - held)[:, None]) % longest
    return {key: value.gather(1, index) if value.shape == index.shape else value for key, value in batch.items()}
