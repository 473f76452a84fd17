"""A network elsewhere (see `elsewhere.py`) gives what it gives here, and nothing on the way mixes devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import elsewhere
import families
import strandscope as ss
from strandscope.capture.examples import Examples
from strandscope.capture.predict import next_token_logprobs
from strandscope.capture.response import exact, respond
from strandscope.capture.tokens import tokenise
from strandscope.capture.variants import under_edits
from strandscope.census.census import census
from strandscope.control.edit import Ablate, Add
from strandscope.statistics.accumulators import Moments
from strandscope.statistics.dimension import data_participation, two_nn
from strandscope.strand import agop, nystrom, rfm
from strandscope.strand.relevant import relevant_dimension
from strandscope.strand.rfm_spec import RFMSpec
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

Move = Callable[[Tensor], Tensor]


def rows(count: int) -> Examples:
    draw = torch.Generator().manual_seed(3)
    return Examples.from_rows([{"tensor": torch.randint(3, 60, (9 + k % 7,), generator=draw)} for k in range(count)])


def captured(subject: Subject, _: Move) -> list[Tensor]:
    ways = ("last", "mean", "all", (1, None))
    return [part for way in ways for part in ss.capture(subject, rows(4), "resid:*,attn:1,embed", way).states.values()]


def responded(subject: Subject, _: Move) -> list[Tensor]:
    found = respond(subject, rows(4), draws=16, probes=8, output=True)
    scaled = respond(subject, rows(4), "resid:1", draws=16, entropy=0.8 * found.entropy)
    mean = respond(subject, rows(2), "resid:1", draws=16, position="mean")
    (one,) = exact(subject, rows(1), "resid:1", jacobians=True)
    return [*found.gradients.values(), *found.probes.values(), found.output_participation, scaled.scale, mean.at("resid:1"),
            *one.metrics.values(), *one.jacobians.values(), one.output, one.p]  # fmt: skip


def edited(subject: Subject, _: Move) -> list[Tensor]:
    tokens, along = tokenise(subject, rows(4)), torch.ones(32)
    said = [part for *_, part in under_edits(subject, tokens, Site("resid", 1), [Add(along, 0.3), Ablate(along, 0.1)])]
    return [next_token_logprobs(subject, tokens), *said]


def counted(subject: Subject, _: Move) -> list[Tensor]:
    found = census(subject, rows(9), draws=16, probes=16, seeds=1, kinds=("scrambled",), at="resid:1,resid:2")
    return [torch.as_tensor(getattr(at, name)) for one in found.measured for at in one.sites.values()
            for name in ("trace", "local", "whitened", "jacobian", "step", "overlap", "overlap_whitened")]  # fmt: skip


def fitted(_: Subject, move: Move) -> list[Tensor]:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, points = x[:, 0] * x[:, 1], move(x)
    machines = [rfm.fit(RFMSpec(iterations=1), points, y), nystrom.fit(RFMSpec(iterations=1), points, y, centres=30)]
    both = rfm.fit(RFMSpec(iterations=1), torch.stack([points, points.square()]), y)
    moments = Moments(6)
    moments.update(points)
    numbers = [relevant_dimension(points, y, permutations=19), data_participation(points), two_nn(points)]
    return [*(one.predict(points) for one in machines), both.alphas, moments.result().covariance,
            agop.agop(lambda given: given[:, 0] * given[:, 1], [points]).matrix(),
            torch.tensor([one.value for one in numbers])]  # fmt: skip


@pytest.mark.parametrize("work", [captured, responded, edited, counted, fitted])
def test_elsewhere_is_as_here(work: Callable[[Subject, Move], list[Tensor]]) -> None:
    here = work(ss.load(families.llama()), lambda given: given)
    with elsewhere.there():
        there = [one.cpu() for one in work(ss.load(elsewhere.moved(families.llama())), lambda given: given.to(elsewhere.THERE))]
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_devices_that_mix_are_seen() -> None:
    with elsewhere.there():
        away = torch.ones(3).to(elsewhere.THERE)
        for mix in (lambda: away + torch.ones(3), lambda: torch.ones(3)[away.long()], lambda: away @ torch.ones(3)):
            with pytest.raises(RuntimeError, match="elsewhere"):
                mix()
        assert float((2 * away[torch.tensor([0, 2])]).sum()) == 4
        with pytest.raises((TypeError, RuntimeError)):
            away.numpy()
