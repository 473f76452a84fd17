"""An edit seen from outside: the state before it and the state that the network goes on with, pass by pass.

The observers hang before and after the edit on the same module, and work out for themselves which states should have changed
(from rows, lengths and the pass's number), so they do not trust what they check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attach import Edit, Scope, attach, watch
from .port import scores
from .site import Site
from .subject import Subject
from .verify import cache_of, step, with_positions


class Broken(Exception):
    """A property that the selfcheck tests does not hold; the text is the sentence to print."""


class NotApplicable(Exception):
    """A property that this family does not have; the text says why."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass at one site: the state as the module made it, and as the rest of the network got it."""

    before: Tensor
    after: Tensor


def observe(
    subject: Subject, edits: Mapping[Site, tuple[Edit, Scope]], run: Callable[[], Any]
) -> tuple[dict[Site, list[Pass]], Any]:
    """The passes of `run` at each edited site, and what it returned."""
    before: dict[str, list[Tensor]] = {subject.port(site).path: [] for site in edits}
    after: dict[str, list[Tensor]] = {path: [] for path in before}
    ports = {subject.port(site).path: subject.port(site) for site in edits}

    def note(into: dict[str, list[Tensor]]) -> Callable[..., None]:
        return lambda path, _args, _kwargs, output: into[path].append(ports[path].state(output).clone())

    with (
        torch.no_grad(),
        watch(subject.module, note(before), before),
        attach(subject, edits={site: [edit] for site, edit in edits.items()}),
        watch(subject.module, note(after), before),
    ):
        result = run()
    made = {path: [Pass(*pair) for pair in zip(before[path], after[path], strict=True)] for path in before}
    return {site: made[subject.port(site).path] for site in edits}, result


def direction(site: Site, state: Tensor) -> Tensor:
    """A vector (d) as large as the states at the site, in their dtype."""
    generator = torch.Generator().manual_seed(site.index + 1)
    vector = torch.randn(state.shape[-1], generator=generator).to(state.device)
    scale = state.float().pow(2).mean().sqrt().clamp_min(1e-6)
    return (2 * scale * vector).to(state.dtype)


def adding(vector: Tensor) -> Edit:
    return lambda state: state + vector


def expect(passes: Sequence[Pass], masks: Sequence[Tensor], vector: Tensor, what: str) -> None:
    """Each pass's state is h + v, bit for bit, where its mask is True, and h elsewhere."""
    if len(passes) != len(masks):
        raise Broken(f"{what}: {len(passes)} passes, wanted {len(masks)}")
    for number, (made, mask) in enumerate(zip(passes, masks, strict=True)):
        wanted = torch.where(mask[..., None].to(made.before.device), made.before + vector, made.before)
        if not torch.equal(made.after, wanted):
            rows, positions = (made.after != wanted).any(-1).nonzero(as_tuple=True)
            raise Broken(f"{what}: pass {number}, row {int(rows[0])}, position {int(positions[0])} is not what was asked for")


def held(subject: Subject, batch: dict[str, Tensor], state: Tensor) -> Tensor:
    """(rows, positions): True where the batch has content."""
    mask = batch.get("attention_mask")
    if not subject.anatomy.tokens or mask is None or mask.shape != state.shape[:2]:
        return torch.ones(state.shape[:2], dtype=torch.bool, device=state.device)
    return mask.bool()


def plain_states(subject: Subject, sites: Sequence[Site], batch: dict[str, Tensor]) -> tuple[dict[Site, Tensor], Tensor]:
    """(state at each site, the network's answer) of an untouched pass."""
    paths = {subject.port(site).path: site for site in sites}
    states: dict[Site, Tensor] = {}

    def note(path: str, _args: object, _kwargs: object, output: Any) -> None:
        states[paths[path]] = subject.port(paths[path]).state(output).clone()

    with torch.no_grad(), watch(subject.module, note, paths):
        answer = scores(subject.module(**batch)).clone()
    return states, answer


def decode(subject: Subject, batch: dict[str, Tensor], steps: int) -> Callable[[], list[Tensor]]:
    """Prompt, then so many greedy tokens with the cache, by hand: padding may be on either side."""

    def run() -> list[Tensor]:
        grown = dict(batch)
        output = subject.module(**with_positions(subject, grown), use_cache=True)
        last = grown["attention_mask"].shape[1] - 1 - grown["attention_mask"].flip(1).argmax(1)
        chosen = scores(output)[torch.arange(len(last)), last].argmax(-1, keepdim=True)
        answers = [scores(output)]
        for _ in range(steps):
            grown["input_ids"] = torch.cat([grown["input_ids"], chosen], 1)
            grown["attention_mask"] = torch.cat([grown["attention_mask"], torch.ones_like(chosen)], 1)
            output = step(subject, grown, 1, cache_of(output))
            chosen = scores(output)[:, -1].argmax(-1, keepdim=True)
            answers.append(scores(output))
        return answers

    return run
