"""Machines on centres: with every row a centre the dense one, with few what their normal equations say, whatever the order."""

from __future__ import annotations

import pytest
import torch

from strandscope.errors import InputError
from strandscope.strand import nystrom, rfm
from strandscope.strand.kernels import Kernel
from strandscope.strand.rfm_spec import RFMSpec

SPEC = RFMSpec(bandwidth=3.0, ridge=0.1, iterations=2)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def planted(n=200, d=6, seed=0):
    states = drawn(n, d, seed=seed)
    return states, states[:, 0] * states[:, 1] + 0.1 * drawn(n, seed=seed + 50)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        RFMSpec(Kernel("gaussian"), 2.0, 0.1, centre_gradients=True, power=0.5, normalise="max", iterations=2),
        RFMSpec(Kernel("laplace", 1.0), 3.0, 0.1, diagonal=True, iterations=2),
        RFMSpec(Kernel("laplace"), 3.0, 0.1, diagonal=True, centre_gradients=True, iterations=1),
    ],
    ids=lambda spec: str(spec.kernel) + (" diagonal" if spec.diagonal else ""),
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_with_every_row_a_centre_it_is_the_dense_machine(spec, outputs):
    states, targets = planted()
    targets = torch.stack([targets * (k + 1) + k * states[:, k] for k in range(outputs)], 1)
    new = drawn(9, 6, seed=9)
    dense = rfm.fit(spec, states, targets)
    made = nystrom.fit(spec, states, targets, centres=200, block=37, tolerance=1e-10)
    assert made.outcome == "solved"
    torch.testing.assert_close(made.predict(new), dense.predict(new), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.metric.dense(), dense.metric.dense(), rtol=1e-4, atol=1e-5)


def test_few_centres_satisfy_their_normal_equations():
    states, targets = planted()
    made = nystrom.fit(RFMSpec(bandwidth=3.0, ridge=0.1, iterations=0), states, targets, centres=30, tolerance=1e-12)
    rows = states - states.mean(0)

    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b) / 3.0)

    across, inner = kernel(rows, made.centres), kernel(made.centres, made.centres)
    wanted = torch.linalg.solve(across.T @ across + 0.1 * inner, across.T @ (targets - targets.mean())[:, None])
    torch.testing.assert_close(made.alphas, wanted, rtol=1e-6, atol=1e-7)
    assert all(bool((made.centres[k] == rows).all(1).any()) for k in range(30))


def test_gradients_of_given_rows_make_the_agop():
    states, targets = planted(n=60)
    made = nystrom.fit(SPEC, states, targets, centres=20, block=16)
    each = torch.stack([torch.func.jacrev(lambda z: made.predict(z[None])[0, 0])(row) for row in states])
    torch.testing.assert_close(made.agop(states).dense(), each.T @ each / 60)


def test_the_metric_is_the_agop_over_all_rows_or_as_many_as_are_asked_for():
    states, targets = planted(n=60)
    spec = RFMSpec(bandwidth=3.0, ridge=0.1, normalise="none", iterations=1)
    first, made = nystrom.iterates(spec, states, targets, centres=20)
    torch.testing.assert_close(made.metric.dense(), first.agop(states).dense())
    first, made = nystrom.iterates(spec, states, targets, centres=20, gradient_rows=35)
    seen = states[nystrom.by_digest(states, 0)[:35]]
    torch.testing.assert_close(made.metric.dense(), first.agop(seen).dense())


def test_bandwidth_and_ridge_are_those_that_the_centres_choose():
    states = drawn(200, 3)
    targets = states[:, 0]
    spec = RFMSpec(centre_labels=False, iterations=0)
    made = nystrom.fit(spec, states, targets, centres=60)
    rows = [int((states - states.mean(0) - centre).norm(dim=1).argmin()) for centre in made.centres]
    alone = rfm.fit(spec, states[rows], targets[rows])
    assert (float(made.bandwidth), float(made.ridge)) == pytest.approx((float(alone.bandwidth), float(alone.ridge)))
    assert float(rfm.fit(spec, states[rows], targets[:60]).ridge) > float(made.ridge)  # with others' labels all is noise


def test_progress_counts_solves_and_memory_bounds_what_is_kept(monkeypatch):
    states, targets = planted(n=80)
    steps, calls, profile = [], [], nystrom.profile
    nystrom.fit(SPEC, states, targets, centres=20, progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(nystrom, "profile", lambda *given, **more: calls.append(len(given[2])) or profile(*given, **more))
    made = {}
    for memory in (80 * 20 * 8 - 1, 80 * 20 * 8):
        calls.clear()
        found = nystrom.fit(RFMSpec(bandwidth=3.0, ridge=0.1, iterations=0), states, targets, centres=20, memory=memory)
        made[memory] = (calls.count(80), found.steps)
    (short, steps_short), (enough, _) = made.values()
    assert enough == 1 and short == 1 + steps_short > 2


@pytest.mark.parametrize("memory", [0, nystrom.MEMORY])
def test_order_block_and_memory_do_not_matter_beyond_rounding(memory):
    states, targets = planted()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    one = nystrom.fit(SPEC, states, targets, centres=40, gradient_rows=120, tolerance=1e-10)
    other = nystrom.fit(
        SPEC, states[order], targets[order], centres=40, gradient_rows=120, tolerance=1e-10, block=23, memory=memory
    )
    new = drawn(5, 6, seed=9)
    torch.testing.assert_close(one.predict(new), other.predict(new), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(one.metric.dense(), other.metric.dense(), rtol=1e-7, atol=1e-9)
    assert not torch.equal(one.centres, nystrom.fit(SPEC, states, targets, centres=40, seed=1).centres)


def test_float32_is_near_float64():
    states, targets = planted(n=600)
    new = drawn(50, 6, seed=9)
    one = nystrom.fit(SPEC, states, targets, centres=80)
    other = nystrom.fit(SPEC, states.float(), targets.float(), centres=80)
    assert other.outcome == "solved" and other.predict(new.float()).dtype == torch.float32
    wanted = one.predict(new)  # digests differ between precisions, so the centres do; what is learned does not
    assert float((other.predict(new.float()).double() - wanted).norm() / wanted.norm()) < 0.3


def test_it_learns_what_the_plain_kernel_does_not():
    states, targets = planted(n=3000, d=30)
    spec = RFMSpec(bandwidth=10.0, ridge=1e-2, iterations=4)
    made = nystrom.fit(spec, states[:2500].float(), targets[:2500].float(), centres=400)
    plain = nystrom.fit(
        RFMSpec(bandwidth=10.0, ridge=1e-2, iterations=0), states[:2500].float(), targets[:2500].float(), centres=400
    )

    def r2(machine):
        return 1 - float((machine.predict(states[2500:].float())[:, 0] - targets[2500:]).square().mean() / targets[2500:].var())

    assert r2(plain) < 0.6 < 0.9 < r2(made)
    _, vectors = made.metric.top(2)
    assert float(vectors[:2].square().sum()) / 2 > 0.95


def test_what_does_not_converge_is_the_outcome():
    states, targets = planted()
    made = nystrom.fit(RFMSpec(bandwidth=3.0, ridge=1e-8, iterations=0), states, targets, centres=100, most=1, tolerance=1e-12)
    assert made.outcome.startswith("not solved: the residual is") and made.steps == 1 and made.residual > 1e-12


def test_rows_that_repeat_are_one_centre():
    states, targets = planted(n=50)
    twice = torch.cat([states, states])
    made = nystrom.fit(SPEC, twice, torch.cat([targets, targets]), centres=80)
    assert len(made.centres) == 50 and made.outcome == "solved"


def test_the_dense_machine_sends_many_rows_here():
    with pytest.raises(InputError, match=r"strand\.nystrom\.fit"):
        rfm.fit(SPEC, torch.zeros(20_001, 2), torch.arange(20_001) % 2)


@pytest.mark.parametrize(
    ("states", "changes", "said"),
    [
        (drawn(2, 5, 3), {}, r"wanted \(rows, d\), one site"),
        (drawn(5, 3), {"centres": 9}, "wanted 2 to 5"),
        (torch.zeros(3, 40_000), {"centres": 2}, "24 GiB for a full metric of 40000 dimensions"),
    ],
)
def test_bad_input_is_a_sentence(states, changes, said):
    with pytest.raises(InputError, match=said):
        nystrom.fit(SPEC, states, torch.arange(states.shape[-2]) % 2, **({"centres": 2} | changes))
