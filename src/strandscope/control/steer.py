"""Steering along a strand at a cost in nats, and a trial of it: texts plain, pushed along it, and pushed at random.

A trial shows texts and scores nothing: the coordinate that an edit writes is never evidence of its effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..capture.record import capture
from ..errors import InputError
from ..progress import Progress
from ..provenance import torch_generator
from ..subject.attach import Scope, attach
from ..subject.site import Site
from .bench import Applied, Bench, network_of
from .dose import Dose, check_wanted, find_dose
from .edit import Add, direction_digest
from .texts import replies

if TYPE_CHECKING:
    from ..strand.strand import Strand
    from ..subject.subject import Subject

Along = Literal["toward", "away"]
_SIGN: dict[Along, int] = {"toward": 1, "away": -1}


@contextmanager
def steer(
    subject: Subject,
    strand: Strand,
    *,
    nats: float = 0.02,
    dose: Dose | None = None,
    positions: Applied = "all",
    toward: int = 1,
    force: bool = False,
) -> Iterator[Dose]:
    """Push every pass of the network along a strand for the length of a `with` block; yields the dose.

    Args:
        nats: cost per next token on the project's neutral prompts, from which the scale is found (takes seconds).
        dose: a dose found before in this network, for this strand and scope, instead of `nats`.
        positions: "all" writes at every position of prompt and reply, "last" at the newest one of each pass.
        toward: 1 toward the strand's positive class, −1 away from it.
        force: push although the strand was found in another network.

    Raises:
        TrustError: the strand is from another network. InputError: no scale costs so much.
    """
    strand.check(subject.fingerprint, force=force)
    check_wanted(nats, positions)
    site, direction = Site.parse(strand.site), _push(strand, toward)
    subject.port(site)
    if dose is None:
        dose = find_dose(Bench.of(subject), site, direction, nats, positions=positions)
    elif dose.push != direction_digest(direction):
        raise InputError("dose: was found for another direction or its opposite; leave it out to have it found, or find it again")
    elif dose.network != network_of(subject):
        raise InputError("dose: was found in another network or dtype; leave it out to have it found, or find it again")
    elif (dose.site, dose.positions) != (str(site), positions):
        raise InputError(f"dose: was found at {dose.site}, {dose.positions} positions, wanted {site}, {positions}; find it again")
    with _pushed(subject, site, direction, dose, positions):
        yield dose


def _push(strand: Strand, toward: int) -> Tensor:
    if toward not in (1, -1):
        raise InputError(f"toward: got {toward!r}, wanted 1 (toward {strand.positive}) or -1 (away from it)")
    return toward * strand.direction()


@contextmanager
def _pushed(subject: Subject, site: Site, direction: Tensor, dose: Dose, positions: Applied) -> Iterator[None]:
    assert dose.scale.value is not None  # a dose is always measured
    with attach(subject, edits={site: [(Add(direction, dose.scale.value), Scope(positions=positions))]}):
        yield


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push toward the concept ("toward"), away from it ("away") or along a random direction ("random 1", …), and the text
    that each prompt then got."""

    along: str
    dose: Dose
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """What pushes of the same nats did to texts. With `chat` the prompts were asked as a user's, else they were continued."""

    strand: str
    site: str
    chat: bool
    prompts: tuple[str, ...]
    plain: tuple[str, ...]
    pushed: tuple[Pushed, ...]


def trial(
    subject: Subject,
    strand: Strand,
    *,
    nats: float,
    prompts: Sequence[str],
    n_random: int,
    max_new_tokens: int,
    seed: int,
    along: Sequence[Along] = ("toward", "away"),
    positions: Applied = "all",
    chat: bool | None = None,
    dose_prompts: int = 100,
    within_the_law: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Steering:
    """What the network says to `prompts` before and after pushes of equal cost.

    Random directions have the covariance of the states of neutral prompts at the strand's site, and doses of their own.

    Args:
        along: pushes along the strand, before those along `n_random` random directions.
        chat: whether prompts, and the neutral prompts for the doses, are asked as chats; None is yes if there is a template.
        within_the_law: refuse a dose along the strand that lies beyond the edge of its prediction.
        force: push although the strand was found in another network.

    Raises:
        TrustError: the strand is from another network. InputError: no scale costs so much, a prompt does not fit, or a dose
            lies beyond the edge.
    """
    strand.check(subject.fingerprint, force=force)
    check_wanted(nats, positions)
    if n_random < 0:
        raise InputError(f"n_random: got {n_random}, wanted how many random directions, 0 for none")
    site = Site.parse(strand.site)
    chat = subject.chats if chat is None else chat
    plain = replies(subject, prompts, max_new_tokens, chat=chat)
    bench = Bench.of(subject, dose_prompts, seed, chat)
    directions = {name: _push(strand, _SIGN[name]) for name in along}
    drawn = _random_directions(bench, strand, n_random, seed)
    directions |= {f"random {number}": direction for number, direction in enumerate(drawn, start=1)}
    pushed: list[Pushed] = []

    def told() -> None:
        if progress:
            progress("doses and texts", len(pushed), len(directions))

    for name, direction in directions.items():
        told()
        dose = find_dose(bench, site, direction, nats, positions=positions, report=told)
        if name in _SIGN:
            dose.require_within(f"nats: got {nats:g} {name} {strand.name}", within_the_law)
        with _pushed(subject, site, direction, dose, positions):
            pushed.append(Pushed(name, dose, tuple(replies(subject, prompts, max_new_tokens, chat=chat))))
    told()
    return Steering(strand.name, strand.site, chat, tuple(prompts), tuple(plain), tuple(pushed))


def _random_directions(bench: Bench, strand: Strand, count: int, seed: int) -> list[Tensor]:
    """Directions with the covariance of the states of the bench's prompts, as long as the strand's pattern."""
    if not count:
        return []
    states = capture(bench.subject, bench.prompts, strand.site, "last").at(strand.site).float()
    mixture = torch.randn(count, len(states), generator=torch_generator(seed, "random directions", strand.name)) @ (
        states - states.mean(0)
    )
    return [row / row.norm() * strand.pattern[:, 0].norm() for row in mixture]
