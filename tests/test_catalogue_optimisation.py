"""Laws of wide networks and of optimisation, at tiny sizes: each side against one computed otherwise, and what must fail."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from strandscope.errors import TrustError
from strandscope.laws.catalogue import catapult, edge_of_stability, model_hessian, ntk_width, pl_rate
from strandscope.laws.catalogue import topmost as top
from strandscope.laws.catalogue.checks import ratio, within
from strandscope.laws.catalogue.descending import descend, last, separate
from strandscope.laws.catalogue.entry import LEVEL, Entry, Trial
from strandscope.laws.catalogue.topmost import topmost
from strandscope.laws.law import LawResult
from strandscope.standards.mutation import Mutation, applied
from strandscope.statistics import tangent
from strandscope.statistics.curvature import hessian
from strandscope.statistics.tangent import descent, relu_kernel, relu_spread, tangent_kernel, two_variable_map
from strandscope.statistics.tangent.closed import _arc_cosine

TRIAL = Trial("a test", 7)
ENTRIES = (
    ntk_width.ntk_width,
    model_hessian.model_hessian,
    pl_rate.pl_rate,
    catapult.catapult,
    edge_of_stability.edge_of_stability,
)


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.name)
def test_entries_say_what_they_do(one: Entry) -> None:
    assert one.about.endswith(".") and one.control.endswith(".") and one.source and 0 < one.seconds <= 60
    assert one.law.formula and one.law.domain and len(one.law.symbols) >= 2


# --- descent ---


def test_networks_side_by_side_are_trained_as_each_alone() -> None:
    x, y = edge_of_stability.data()
    begun = edge_of_stability.start(TRIAL.torch("starts"), 3, 4)
    steps = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)

    def loss(held: dict[str, Tensor]) -> Tensor:
        return edge_of_stability.loss(held, x, y)

    path = list(descend(loss, begun, steps, 5))  # type: ignore[arg-type]
    for number, alone in enumerate(separate(begun)):
        module = [value.clone().requires_grad_() for value in alone.values()]
        optimiser = torch.optim.SGD(module, lr=float(steps[number]))
        for losses, _ in path:
            value = loss(dict(zip(alone, module, strict=True)))
            assert value.item() == pytest.approx(losses[number].item(), rel=1e-12)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert len(path) == 6 and torch.equal(last(iter(path))[0], path[-1][0])
    assert all(not value.requires_grad for value in begun.values())  # the start is left as it was


def test_the_largest_eigenvalue_side_by_side_is_that_of_the_dense_hessian() -> None:
    x, y = edge_of_stability.data()
    held = edge_of_stability.start(TRIAL.torch("starts"), 2, 4)
    held = last(descend(lambda at: edge_of_stability.loss(at, x, y), held, 0.1, 50))[1]
    found, direction = topmost(lambda at: edge_of_stability.loss(at, x, y), held, TRIAL.torch("first"))
    for number, alone in enumerate(separate(held)):
        dense = hessian(lambda at: edge_of_stability.loss(at, x, y), alone).dense()
        truth = torch.linalg.eigvalsh(dense)[-1]
        assert float(found[number]) == pytest.approx(float(truth), rel=1e-10)
        torch.testing.assert_close(dense @ direction[number], truth * direction[number], rtol=0, atol=1e-4)
    again, _ = topmost(lambda at: edge_of_stability.loss(at, x, y), held, TRIAL.torch("x"), direction)
    torch.testing.assert_close(again, found, rtol=1e-10, atol=0)


def test_a_direction_that_is_far_off_is_refused_after_too_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "LATER", 2)
    x, y = edge_of_stability.data()
    held = edge_of_stability.start(TRIAL.torch("starts"), 1, 30)
    wild = torch.randn(1, sum(value.numel() for value in held.values()), generator=TRIAL.torch("wild"), dtype=torch.float64)
    with pytest.raises(TrustError, match="a residual of"):
        topmost(lambda at: edge_of_stability.loss(at, x, y), held, TRIAL.torch("x"), wild)


# --- the kernel against the width ---


WIDTHS = (64, 128, 256, 512)


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return ntk_width.on_sphere(TRIAL, 6, 4)


@pytest.fixture(scope="module")
def kernels(inputs: Tensor) -> Tensor:
    """(draws, widths, n, n)"""
    generator = TRIAL.torch("kernels")
    drawn = [
        [tangent_kernel(ntk_width.network, ntk_width.start(generator, m, 4), inputs).matrix for m in WIDTHS] for _ in range(200)
    ]
    return torch.stack([torch.stack(row) for row in drawn])


def verdict(inputs: Tensor, kernels: Tensor, factor: float = 1.0) -> str:
    """Of the law's first check, at 95 %; `factor` is of the deviation that is foretold."""
    limit = relu_kernel(inputs)
    squares = (kernels - limit).square().sum((2, 3)) / limit.square().sum() * torch.tensor(WIDTHS)
    return ratio("V", relu_spread(inputs) * factor**2, squares.mean(1).numpy(), within(0.1), 0.95, "1").verdict


def test_the_spread_foretells_every_width_and_a_tenth_more_is_violated(inputs: Tensor, kernels: Tensor) -> None:
    off = ntk_width.deviations(TRIAL, inputs, WIDTHS, 2)
    limit = relu_kernel(inputs)
    np.testing.assert_allclose(off, (kernels[:2] - limit).norm(dim=(2, 3)) / limit.norm())
    assert verdict(inputs, kernels) == "consistent"
    assert verdict(inputs, kernels, 1.1) == verdict(inputs, kernels, 0.9) == "violated"


@pytest.mark.parametrize(
    "slip",
    [
        Mutation("κ₂ without its half", relu_spread, "kappa2 / 2", "kappa2"),
        Mutation("missing half", relu_kernel, "lengths / 2", "lengths / 2.6"),
        Mutation("κ₂ of the sine alone", _arc_cosine, "away * (1 + 2 * u.square())", "away * (1 + 0 * u.square())"),
    ],
    ids=str,
)
def test_a_slip_in_the_closed_forms_violates_the_law(slip: Mutation, inputs: Tensor, kernels: Tensor) -> None:
    with applied(slip):
        assert verdict(inputs, kernels) == "violated"


def test_motion_falls_with_the_width_but_not_in_mean_field(inputs: Tensor) -> None:
    still, moving = (ntk_width.motions(TRIAL, inputs, (32, 512), 6, 40, field).mean(0) for field in (False, True))
    assert still[1] < 0.25 * still[0] and moving[1] > 0.5 * moving[0] and moving[1] > 5 * still[1]


# --- the Hessian of the output ---


@pytest.mark.parametrize("m", [3, 12])
def test_the_closed_form_is_the_norm_of_the_dense_hessian(m: int) -> None:
    generator = TRIAL.torch("hessian", str(m))
    x = torch.randn(3, generator=generator, dtype=torch.float64)
    output, weights = model_hessian.drawn(generator, x, m)
    dense = torch.autograd.functional.hessian(output, weights).reshape(3 * m, 3 * m)
    truth = float(torch.linalg.matrix_norm(dense, 2))
    assert float(model_hessian.closed(weights @ x)) * float(x.square().sum()) == pytest.approx(truth, rel=1e-12)
    assert model_hessian.norm(output, weights, generator, 1e-6) == pytest.approx(truth, rel=1e-8)
    bent = torch.autograd.functional.hessian(output.bent, weights).reshape(3 * m, 3 * m)
    assert model_hessian.norm(output.bent, weights, generator, 1e-6) == pytest.approx(
        float(torch.linalg.matrix_norm(bent, 2)), rel=1e-8
    )


def test_the_constant_is_the_maximum_of_the_second_derivative() -> None:
    z = torch.linspace(-4, 4, 100_001, dtype=torch.float64)
    assert float(model_hessian.closed(z)) * len(z) ** 0.5 == pytest.approx(model_hessian.CONSTANT, rel=1e-8)
    assert pytest.approx(0.7698, abs=1e-4) == model_hessian.CONSTANT


def test_the_hessian_of_the_output_vanishes_and_a_sigmoid_s_does_not() -> None:
    generator = TRIAL.torch("sizes")
    x = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    found = {m: [[], []] for m in (8, 128)}
    for m, (plain, bent) in found.items():
        for _ in range(6):
            output, weights = model_hessian.drawn(generator, x, m)
            plain.append(model_hessian.norm(output, weights, generator, 1e-2))
            bent.append(model_hessian.norm(output.bent, weights, generator, 1e-2))
    steep, flat = (math.log(np.mean(found[128][kind]) / np.mean(found[8][kind])) / math.log(16) for kind in (0, 1))
    assert steep == pytest.approx(-0.5, abs=0.1) and flat > -0.3


@pytest.mark.parametrize(("factor", "wanted"), [(1.0, "consistent"), (1.1, "violated"), (0.9, "violated")])
def test_a_constant_that_is_off_by_a_tenth_is_violated(factor: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"WIDTHS": (32, 256), "RUNS": 4, "FINE": (32,), "FINE_RUNS": 1, "CONSTANT": factor * model_hessian.CONSTANT}
    for name, value in small.items():
        monkeypatch.setattr(model_hessian, name, value)
    found = model_hessian.model_hessian.run(1, level=0.8)
    assert (found.verdict, found.checks[0].verdict) == (wanted, wanted), found.checks[0]
    assert found.checks[1].verdict == found.checks[2].verdict == "consistent"


# --- PL* ---


def test_modes_of_a_linear_model_fall_as_foretold_and_not_with_another_kernel() -> None:
    foretold, seen = pl_rate.linear_modes(TRIAL)
    assert float((seen / foretold.energies - 1).abs().max()) < 1e-6
    with applied(Mutation("rate", descent.kernel_descent, "1 - step * values", "1 - 1.1 * step * values")):
        foretold, seen = pl_rate.linear_modes(TRIAL)
    assert float((seen / foretold.energies - 1).abs().max()) > 0.01


def test_a_wide_network_contracts_as_foretold_and_nothing_lies_below_its_bound() -> None:
    x = pl_rate.on_sphere(TRIAL, 6, 4)
    wide = pl_rate.trained(TRIAL, "wide", x, 2048, 3)
    assert wide.contraction == pytest.approx(1, abs=0.05)
    assert (wide.low, wide.slow, wide.looked) == (0, 0, 15)
    assert wide.losses[-1].max() < 0.7 * wide.losses[0].min()
    with applied(Mutation("rate", descent.kernel_descent, "1 - step * values", "1 - 1.1 * step * values")):
        wrong = pl_rate.trained(TRIAL, "wide", x, 2048, 3)
    assert ratio("wrong", 1, wrong.contraction, within(0.05), 0.95, "1").verdict == "violated"
    narrow = pl_rate.trained(TRIAL, "narrow", x, 3, 20)
    assert abs(narrow.contraction - 1).mean() > 0.1 and narrow.low == 0
    with applied(Mutation("half", descent.pl_star, "square / (2 * value)", "square / (2 * value) / 40")):
        assert pl_rate.trained(TRIAL, "wide", x, 2048, 3).low > 0  # a bound that cannot be broken shows nothing


# --- the catapult ---


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catapult, "WIDTH", 256)
    monkeypatch.setattr(catapult, "RUNS", 3)


def test_the_catapult_is_consistent_and_its_control_violated(small: None) -> None:
    found = catapult.catapult.run(3, level=0.95)
    assert (found.verdict, found.control.verdict) == ("consistent", "passed"), [check.to_dict() for check in found.checks]
    assert found.figure is not None and {one.kind for one in found.figure.series} == {"measured", "predicted", "control"}


def test_the_spike_lies_along_the_top_and_not_along_the_next() -> None:
    shares = catapult.spike_shares(TRIAL, 256, 2)
    assert min(shares) > 0.9
    with applied(Mutation("the bottom for the top", tangent.spike_share, "[:, :k]", "[:, -k:]")):
        assert max(abs(share) for share in catapult.spike_shares(TRIAL, 256, 2)) < 0.2


@pytest.mark.parametrize(("old", "new"), [("kernel - 4", "kernel - 4.4"), ("1 - step * kernel", "1 - 1.1 * step * kernel")])
def test_a_wrong_map_violates_it(small: None, old: str, new: str) -> None:
    with applied(Mutation("wrong", two_variable_map, old, new)):
        found = catapult.catapult.run(3)
    assert found.verdict == "violated" and found.checks[0].verdict == "violated"


# --- the edge ---


def test_the_median_is_taken_from_the_first_crossing_on() -> None:
    edge = np.array([[0.5, 0.2], [1.2, 0.3], [0.9, 0.9], [1.0, 0.9]])
    losses = np.array([[8.0, 1.0], [4.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    found = edge_of_stability.Sharpening(edge * 20, losses, np.zeros((4, 2)), {})
    medians, highest, fallen = found.after(np.array([0.1, 0.1]))
    assert (medians[0], highest[0], fallen[0]) == pytest.approx((1.0, 1.2, 0.25))
    assert np.isnan([medians[1], highest[1], fallen[1]]).all()  # never at the edge: not measured, so out of domain


def edges(monkeypatch: pytest.MonkeyPatch, **more: float) -> LawResult:
    sizes = {"WIDTH": 20, "STEPS": (0.2,), "NETWORKS": 3, "LONG": 1000, "FLOWING": 2, "FLOW": 2500}
    for name, value in {**sizes, **more}.items():
        monkeypatch.setattr(edge_of_stability, name, value)
    one = edge_of_stability.edge_of_stability
    return one.test(replace(TRIAL, law=one.name, level=0.5))


def test_descent_stays_at_the_edge_and_the_flow_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = edges(monkeypatch)
    assert found.checks[0].compared.value == pytest.approx(1.0, abs=0.1), found.checks[0]
    assert found.control.found == "violated" and min(found.details["largest ηλ₁/2 of the flow"]) > 1.3
    assert found.checks[-1].verdict == "consistent"  # side by side against alone


def test_an_edge_that_is_off_by_a_tenth_is_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interval that 20 starts of a full run have; they spread by .01 to .05 about 1."""
    medians = np.random.default_rng(0).normal(1.0, 0.01, 20)
    assert edge_of_stability._median(0.05, medians, LEVEL).verdict == "consistent"
    for factor in (1.1, 0.9):
        monkeypatch.setattr(edge_of_stability, "EDGE", 2 * factor)
        assert edge_of_stability._median(0.05, medians, LEVEL).verdict == "violated"


def test_an_offset_that_is_rounding_does_not_hide_the_hessian() -> None:
    """Networks of an odd function keep an output offset of 1e-17; a step of that length tells nothing of its loss."""
    x, y = edge_of_stability.data()
    (held,) = separate(edge_of_stability.start(TRIAL.torch("starts"), 1, 4))
    held = {**held, "b2": torch.full_like(held["b2"], -2.7e-17)}
    assert hessian(lambda at: edge_of_stability.loss(at, x, y), held).size == 4 + 4 + 16 + 4 + 4 + 1
