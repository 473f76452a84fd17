"""Steering along a strand at a cost in nats, and a trial of it: texts plain, pushed, pushed the other way, and pushed at random.

A trial shows texts and scores nothing: the coordinate that an edit writes is never evidence of its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..capture.record import capture
from ..errors import InputError
from ..provenance import torch_generator
from ..subject.attach import Scope, attach
from ..subject.site import Site
from .dose import Applied, Bench, Dose, check_wanted, direction_digest, find_dose
from .edit import Add
from .texts import replies

if TYPE_CHECKING:
    from ..strand.strand import Strand
    from ..subject.subject import Subject

Progress = Callable[[str, int, int], None]


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
        dose: a dose found before for this strand and scope, instead of `nats`.
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
    elif (dose.site, dose.positions) != (str(site), positions):
        raise InputError(f"dose: was found at {dose.site}, {dose.positions} positions, wanted {site}, {positions}; find it again")
    with _pushed(subject, site, direction, dose, positions):
        yield dose


def _push(strand: Strand, toward: int) -> Tensor:
    if toward not in (1, -1):
        raise InputError(f"toward: got {toward!r}, wanted 1 (toward {strand.positive}) or -1 (away from it)")
    return toward * strand.pattern[:, 0]


@contextmanager
def _pushed(subject: Subject, site: Site, direction: Tensor, dose: Dose, positions: Applied) -> Iterator[None]:
    assert dose.scale.value is not None  # a dose is always measured
    with attach(subject, edits={site: [(Add(direction, dose.scale.value), Scope(positions=positions))]}):
        yield


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt's replies: plain, pushed toward the concept, away from it, and along random directions of the same nats."""

    prompt: str
    plain: str
    toward: str
    away: str
    random: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """What a push did to the texts, and what each push cost."""

    strand: str
    site: str
    dose: Dose
    away: Dose
    random_doses: tuple[Dose, ...]
    samples: tuple[Sample, ...]


def trial(
    subject: Subject,
    strand: Strand,
    *,
    nats: float,
    prompts: Sequence[str],
    n_random: int,
    max_new_tokens: int,
    seed: int,
    dose_prompts: int = 100,
    positions: Applied = "all",
    progress: Progress | None = None,
) -> Steering:
    """Replies to `prompts` before and after pushes of equal cost.

    Random directions have the covariance of the states of neutral prompts at the strand's site, and doses of their own.
    """
    strand.check(subject.fingerprint)
    check_wanted(nats, positions)
    if n_random < 0:
        raise InputError(f"n_random: got {n_random}, wanted how many random directions, 0 for none")
    site = Site.parse(strand.site)
    bench = Bench.of(subject, dose_prompts, seed)
    directions = [_push(strand, 1), _push(strand, -1), *_random_directions(bench, strand, n_random, seed)]
    doses, texts = [], [replies(subject, prompts, max_new_tokens)]
    for number, direction in enumerate(directions):
        if progress:
            progress("doses and texts", number, len(directions))
        start = doses[0].scale.value if doses else None
        dose = find_dose(bench, site, direction, nats, positions=positions, start=start or 1.0)
        doses.append(dose)
        with _pushed(subject, site, direction, dose, positions):
            texts.append(replies(subject, prompts, max_new_tokens))
    if progress:
        progress("doses and texts", len(directions), len(directions))
    samples = tuple(
        Sample(prompt, *(made[i] for made in texts[:3]), random=tuple(made[i] for made in texts[3:]))
        for i, prompt in enumerate(prompts)
    )
    return Steering(strand.name, strand.site, doses[0], doses[1], tuple(doses[2:]), samples)


def _random_directions(bench: Bench, strand: Strand, count: int, seed: int) -> list[Tensor]:
    """Directions with the covariance of the states of the bench's prompts, as long as the strand's pattern."""
    if not count:
        return []
    states = capture(bench.subject, bench.prompts, strand.site, "last").at(strand.site).float()
    mixture = torch.randn(count, len(states), generator=torch_generator(seed, "random directions", strand.name)) @ (
        states - states.mean(0)
    )
    return [row / row.norm() * strand.pattern[:, 0].norm() for row in mixture]
