"""The parts of a recursive feature machine: what predictions stand on, powers and norms of the metric, spans, grids, solves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strandscope.errors import TrustError
from strandscope.strand.kernels import Kernel
from strandscope.strand.rfm import fit
from strandscope.strand.rfm_directions import rfm_directions
from strandscope.strand.rfm_rows import Rows, Symmetric
from strandscope.strand.rfm_solve import solve
from strandscope.strand.rfm_spec import BANDWIDTHS, RIDGES, RFMSpec


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_predictions_stand_on_the_targets_mean():
    """A mean of 10⁸ is taken off before the fit and put back after it, and nothing on the way is narrower than the states."""
    states, small = drawn(20, 3), drawn(20, seed=1)
    for targets in (1e8 + small, torch.stack([1e8 + small, small], 1)):
        made = fit(RFMSpec(bandwidth=2.0, ridge=1e-7, iterations=0), states, targets)
        found = made.predict(states) - made.intercept
        torch.testing.assert_close(made.predict(states)[:, 0] - 1e8, small, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[:, 0], small - small.mean(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_metric_is_a_power_of_the_agop_and_the_spectrum_its_own(diagonal):
    states, targets = drawn(30, 4), drawn(30, seed=1)
    spec = RFMSpec(bandwidth=3.0, ridge=0.1, power=0.5, normalise="none", diagonal=diagonal, iterations=1)
    agop = fit(replace(spec, iterations=0), states, targets).agop().dense()
    made = fit(spec, states, targets)
    root = made.metric.dense()
    torch.testing.assert_close(root @ root, agop)
    torch.testing.assert_close(made.spectra[0], torch.linalg.eigvalsh(agop).flip(-1))


@pytest.mark.parametrize(
    "changes",
    [{}, {"unit_rows": True, "centre_inputs": False}, {"diagonal": True}, {"kernel": Kernel("linear")}],
    ids=["laplace", "unit rows", "diagonal", "linear"],
)
def test_spread_keeps_how_far_rows_are_apart(changes):
    """For a radial kernel the mean squared distance of two rows, wherever they lie; for an inner product the squared norm."""
    made = fit(RFMSpec(bandwidth=2.0, ridge=0.1, iterations=2, **changes), drawn(25, 4) + 3, drawn(25, seed=1))
    rows, metric = made.rows.states, made.metric.dense()
    apart = rows if "kernel" in changes else (rows[:, None] - rows).flatten(0, 1)
    assert float(((apart @ metric) * apart).sum(-1).mean()) == pytest.approx(float(apart.square().sum(-1).mean()))


def test_a_matrix_in_a_span_or_on_the_axes_answers_as_the_whole():
    half = drawn(3, 3)
    inner, basis = half @ half.T, torch.linalg.qr(drawn(6, 3, seed=1)).Q
    given = (
        Symmetric(inner, basis),
        Symmetric(basis @ inner @ basis.T),
        Symmetric(torch.tensor([0.2, 3.0, 1.0, 2.0]).double(), diagonal=True),
    )
    for made in given:
        dense, (values, vectors) = made.dense(), made.top(2)
        wanted = torch.linalg.eigvalsh(dense).flip(-1)
        torch.testing.assert_close(values, wanted[:2])
        torch.testing.assert_close(made.values()[:3], wanted[:3])
        torch.testing.assert_close(dense @ vectors, vectors * values)
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(2).double())
        assert float(made.greatest_entry()) == pytest.approx(float(dense.max()))


def test_rows_are_centred_and_then_brought_to_unit_norm():
    states = drawn(10, 4) + 5
    centred = states - states.mean(0)
    rows = Rows.of(RFMSpec(unit_rows=True), states)
    torch.testing.assert_close(rows.states, centred / centred.norm(dim=1, keepdim=True))
    torch.testing.assert_close(rows.prepared(states[:3]), rows.states[:3])
    alone = Rows.of(RFMSpec(unit_rows=True, centre_inputs=False), states)
    torch.testing.assert_close(alone.states, states / states.norm(dim=1, keepdim=True))


def test_the_default_grids_are_in_the_rows_and_the_kernel_s_own_units():
    states = 7 * drawn(20, 3) + 100
    made = fit(RFMSpec(iterations=0), states, states[:, 0])
    distance = float(torch.cdist(states, states).square().mean().sqrt())
    assert min(abs(float(made.bandwidth) / distance - times) for times in BANDWIDTHS) < 1e-9
    linear = fit(RFMSpec(Kernel("linear"), iterations=0), states, states[:, 0])
    size = float((states - states.mean(0)).square().sum(1).mean())
    assert min(abs(float(linear.ridge) / size / ridge - 1) for ridge in RIDGES) < 1e-9


def test_a_grid_is_chosen_from_among_what_can_be_solved():
    states, targets = drawn(40, 3), drawn(40, seed=1)  # a linear kernel of 40 rows in 3 dimensions has no factor without a ridge
    assert float(fit(RFMSpec(Kernel("linear"), ridge=(0.0, 0.1), iterations=0), states, targets).ridge) == 0.1
    with pytest.raises(TrustError, match="no bandwidth and ridge of the grid gives a positive definite system"):
        fit(RFMSpec(Kernel("linear"), ridge=(0.0,), iterations=0), states, targets)


def test_weights_that_solve_nothing_are_no_weights_and_those_that_miss_are_told():
    one = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    found = solve(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)[0], one)
    assert bool(found.alphas.isnan().all()) and "not positive definite (from row 2 on)" in found.outcomes[0]
    hilbert = 1 / (torch.arange(7)[:, None] + torch.arange(7) + 1.0)  # of condition 5·10⁸: in float32 it has a factor, and no use
    found = solve(hilbert, torch.tensor(0.0), (-1.0) ** torch.arange(7)[:, None])
    assert float(found.residual) > 0.01 and found.outcomes[0].startswith("not solved: the residual is")
    assert solve(hilbert.double(), torch.tensor(0.0).double(), (-1.0) ** torch.arange(7)[:, None].double()).outcomes == (
        "solved",
    )


def test_neither_rows_nor_labels_have_an_origin():
    rows, labels = drawn(30, 6), (drawn(30, 5, seed=1) > 0).double()
    torch.testing.assert_close(rfm_directions(rows + 4, labels + 9, 1.0), rfm_directions(rows, labels, 1.0), rtol=1e-3, atol=1e-4)
