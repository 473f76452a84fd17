"""Many pushes at once: texts of one batch whose rows are pushed along different directions, and directions at random to hold a
push against, all of the same cost.

Two kinds of random directions. Matched ones are random mixtures of the states of neutral prompts, the same mixture at every site,
so that they have the states' covariance within sites and between them. Isotropic ones are drawn evenly from all directions, at
each site as long as the states' spread. How far either goes is found by the cost in nats, as for any push.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ..capture.record import capture
from ..errors import InputError, TrustError
from ..provenance import torch_generator
from ..subject.attach import Scope, attach
from ..subject.site import Site
from .bench import Bench
from .edit import Ready, check_width, own, ready
from .push import Push
from .texts import in_batches, replies

if TYPE_CHECKING:
    from ..subject.subject import Subject

Kind = Literal["matched", "isotropic"]
KINDS: tuple[Kind, ...] = ("matched", "isotropic")
CLOSE = 0.05  # relative distance from the wanted cost at which a random direction's size is good enough
MOST = 16
ROWS = {"cpu": 16}  # rows of a batch of texts
ROWS_ELSEWHERE = 512
Told = Callable[[], None]


@dataclass(frozen=True, slots=True)
class AddEach:
    """h + its own direction for each row of the batch; directions (rows, d), in the states' units."""

    directions: Tensor
    _ready: Ready = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, states: Tensor) -> Tensor:
        check_width(self.directions[0], states.shape[-1])
        if states.shape[0] != len(self.directions):
            raise InputError(f"directions: got {len(self.directions)} for a batch of {states.shape[0]} rows, wanted one a row")
        (push,) = ready(self._ready, states, own, lambda: (self.directions[:, None, :],))
        return states + push


@dataclass(frozen=True, slots=True)
class Sized:
    """A push with the size at which it costs what was asked, and that cost as measured (nats per next token)."""

    push: Push
    size: float
    cost: float


def texts_under(
    subject: Subject,
    prompts: Sequence[str],
    pushes: Sequence[Sized],
    max_new_tokens: int,
    *,
    chat: bool,
    report: Told | None = None,
) -> list[tuple[str, ...]]:
    """Greedy replies to each prompt under each push by itself; several pushes in a batch where rows may stand together.

    Raises:
        InputError: as `texts.replies`, or pushes that differ in their sites or scopes.
    """
    if not pushes:
        return []
    check_alike([sized.push for sized in pushes])
    tell = report or (lambda: None)
    room = ROWS.get(subject.device.type, ROWS_ELSEWHERE)
    each = max(1, room // len(prompts)) if in_batches(subject) else 1
    made: list[tuple[str, ...]] = []
    for start in range(0, len(pushes), each):
        part = pushes[start : start + each]
        edits = part[0].push.edits(part[0].size) if len(part) == 1 else _edits(part, len(prompts))
        with attach(subject, edits=edits):
            found = replies(subject, [*prompts] * len(part), max_new_tokens, chat=chat)
        made += [tuple(found[number : number + len(prompts)]) for number in range(0, len(found), len(prompts))]
        tell()
    return made


def _edits(pushes: Sequence[Sized], prompts: int) -> Mapping[Site, list[tuple[AddEach, Scope]]]:
    scope = pushes[0].push.scope
    return {
        site: [
            (
                AddEach(
                    torch.cat([(one.size * one.push.directions[site].double()).float().expand(prompts, -1) for one in pushes])
                ),
                scope,
            )
        ]
        for site in pushes[0].push.sites
    }


def check_alike(pushes: Sequence[Push]) -> None:
    for push in pushes:
        if push.sites != pushes[0].sites or push.scope != pushes[0].scope:
            raise InputError("pushes: differ in their sites or scopes; ask for texts under one kind at a time")


@dataclass(frozen=True)
class Randoms:
    """Random directions for pushes at some sites in one scope; `states` are those of neutral prompts, (prompts, d) a site."""

    states: Mapping[Site, Tensor]
    scope: Scope
    seed: int

    @classmethod
    def of(cls, bench: Bench, push: Push, seed: int = 0) -> Randoms:
        """From the states of the bench's prompts, at their last positions."""
        found = capture(bench.subject, bench.prompts, list(push.sites), "last")
        return cls({site: found.at(site).float() for site in push.sites}, push.scope, seed)

    def draw(self, kind: Kind, count: int) -> list[Push]:
        """The same ones at every call, whatever the count: the first of many are the few."""
        return [self._one(kind, number) for number in range(count)]

    def _one(self, kind: Kind, number: int) -> Push:
        generator = torch_generator(self.seed, "random directions", kind, str(number))
        rows = len(next(iter(self.states.values())))
        mixture = torch.randn(rows, generator=generator) / math.sqrt(rows)
        made = {}
        for site, states in self.states.items():
            centred = states - states.mean(0)
            if kind == "matched":
                made[site] = mixture @ centred
            else:
                drawn = torch.randn(states.shape[1], generator=generator)
                made[site] = drawn / drawn.norm() * centred.norm(dim=1).square().mean().sqrt()
        return Push(made, self.scope)


def equal_cost(bench: Bench, push: Push, nats: float, start: float, report: Told | None = None) -> Sized:
    """The size at which a push costs `nats` within a twentieth, searched from a guess by secant steps inside a bracket.

    Raises:
        InputError: no size near enough costs so much.
    """
    low, high, size = 0.0, math.inf, start
    tried: list[tuple[float, float]] = []
    for _ in range(MOST):
        try:
            cost = float(bench.costs_under(push.edits(size)).mean())
        except TrustError:  # so far that the output is no number: a bracket like any other
            cost = math.inf
        if report:
            report()
        tried.append((size, cost))
        if abs(cost / nats - 1) <= CLOSE:
            return Sized(push, size, cost)
        low, high = (max(low, size), high) if cost < nats else (low, min(high, size))
        slope = _slope(tried)
        step = size * min(8.0, max(1 / 8, max(cost / nats, 1e-12) ** (-1 / slope)))
        size = step if low < step < high else (low * high) ** 0.5 if low > 0 and math.isfinite(high) else 2 * low or high / 2
    reached = max((cost for _, cost in tried if math.isfinite(cost)), default=0.0)
    raise InputError(
        f"nats: got {nats:g}, but no size of the push at {push.site} costs that (at most {reached:.3g}); ask for fewer"
    )


def _slope(tried: Sequence[tuple[float, float]]) -> float:
    """d log cost / d log size between the last two sizes; 2 where they say nothing."""
    if len(tried) < 2:
        return 2.0
    (a, first), (b, second) = tried[-2:]
    if not (0 < first < math.inf and 0 < second < math.inf) or abs(math.log(b / a)) < 0.02:
        return 2.0
    return min(4.0, max(0.5, math.log(second / first) / math.log(b / a)))


def same_nats(bench: Bench, pushes: Sequence[Push], nats: float, report: Told | None = None) -> list[Sized]:
    """Each push at its own size for the same cost; each search starts at the median size of those before it.

    Raises:
        InputError: for one of them no size costs so much.
    """
    found: list[Sized] = []
    for push in pushes:
        guess = float(np.median([one.size for one in found])) if found else _first(bench, push, nats)
        found.append(equal_cost(bench, push, nats, guess, report))
    return found


def _first(bench: Bench, push: Push, nats: float) -> float:
    """A size from which to search: where a small push's cost, taken as quadratic, would be right."""
    for size in (0.1, 1.0, 10.0):
        cost = float(bench.costs_under(push.edits(size)).mean())
        if cost > nats / 100:
            return size * math.sqrt(nats / cost)
    return 10.0
