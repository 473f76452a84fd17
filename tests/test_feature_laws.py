"""Quantities of feature laws: the ansatz under its four definitions, FACT, neural collapse in one pass, circulant structure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.standards.feature_laws import STANDARDS, balanced
from strandscope.standards.run import caught, run
from strandscope.standards.standard import Draw
from strandscope.statistics.circulant import circulant_deviation, fourier_participation, fourier_power, wrapped
from strandscope.statistics.collapse import ClassSums, collapse_reading, joined
from strandscope.strand.agop import agop
from strandscope.strand.fact import FactSums
from strandscope.strand.nfa import PRESETS, NFASpec, Slopes, matched, nfa, nfa_exponent, powered, random_layer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("one", STANDARDS, ids=lambda one: one.name)
def test_every_standard_is_green_and_its_slips_turn_it_red(one) -> None:
    judged = run(one, "fast")
    assert judged.verdict == "green", judged.reasons
    assert all(slip.caught for slip in caught(one)), [slip.name for slip in caught(one) if not slip.caught]


# --- the neural feature ansatz ---


def net(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (7, 5), Jacobians (60, 3, 7) by the pre-activation, inputs."""
    weight, last, x = normal(7, 5, seed=seed), normal(3, 7, seed=seed + 1), normal(60, 5, seed=seed + 2)
    return weight, last[None] * (1 - (x @ weight.T).tanh().square())[:, None], x


def test_the_agop_through_the_layer_is_that_of_the_network_by_its_input() -> None:
    weight, jacobians, x = net()
    last = normal(3, 7, seed=1)
    whole = agop(lambda z: (z @ weight.T).tanh() @ last.T, [x])
    for centred in (False, True):
        metric = Slopes.of(jacobians).metric(centred=centred)
        if not centred:
            assert torch.allclose(weight.T @ metric @ weight, whole.matrix())
        else:
            assert torch.allclose(weight.T @ metric @ weight, whole.matrix(centred=True))


def test_slopes_merge_into_those_of_all_inputs_and_leave_blocks_out() -> None:
    _, jacobians, _ = net()
    parts = Slopes.of(jacobians[:25], blocks=3).merge(Slopes.of(jacobians[25:], blocks=4))
    assert parts.n == 60 and len(parts.counts) == 7
    for centred in (False, True):
        assert torch.allclose(parts.metric(centred=centred), Slopes.of(jacobians).metric(centred=centred))
    kept = torch.cat([jacobians[1:25:3], jacobians[2:25:3], jacobians[25:]])  # block 0 of the first holds rows 0, 3, 6, …
    assert torch.allclose(parts.metric(without=0), Slopes.of(kept).metric())
    with pytest.raises(InputError, match="merge"):
        parts.merge(Slopes.of(jacobians[:, :2]))


def test_groups_stay_in_one_block() -> None:
    _, jacobians, _ = net()
    groups = [f"text {row // 6}" for row in range(60)]
    made = Slopes.of(jacobians, blocks=20, groups=groups)
    assert len(made.counts) == 10 and made.counts.tolist() == [6.0] * 10
    assert torch.allclose(made.total[3], jacobians[18:24].sum(0))


def test_each_choice_of_the_spec_changes_the_figure_and_stands_in_the_reading() -> None:
    weight, jacobians, _ = net()
    start, slopes = normal(7, 5, seed=9), Slopes.of(jacobians)
    found = {name: nfa(weight, slopes, NFASpec.preset(name), start=start) for name in PRESETS}
    assert len({round(one.value or 0, 6) for one in found.values()}) == 4
    for name, one in found.items():
        spec = PRESETS[name]
        assert one.low is not None and one.value is not None and one.high is not None and one.low < one.value < one.high
        assert f"exponent {spec.exponent:g}" in one.method and spec.entries in one.method and spec.init in one.method
        assert one.n == 60 and one.null is not None
    changed = nfa(weight, slopes, NFASpec.preset("deep", centre_jacobians=True), start=start)
    assert changed.value != found["deep"].value and "Jacobians centred" in changed.method


def test_the_interval_covers_the_figure_of_all_inputs() -> None:
    """40 inputs out of a population of 4,000: the 95 % interval holds the population's figure about that often."""
    weight, last = normal(7, 5), normal(1, 7, seed=1)
    x = normal(4000, 5, seed=2)
    jacobians = last * (1 - (x @ weight.T).tanh().square())
    truth, random = nfa(weight, Slopes.of(jacobians)).value, np.random.default_rng(0)
    assert truth is not None
    held = 0
    for _ in range(80):
        one = nfa(weight, Slopes.of(jacobians[torch.as_tensor(random.choice(4000, 40, replace=False))]))
        held += one.low <= truth <= one.high  # type: ignore[operator]
    assert 0.86 <= held / 80 <= 1.0


@pytest.mark.parametrize(
    ("spec", "k", "d"),
    [
        (NFASpec(1.0), 5, 100),
        (NFASpec(1.0), 20, 20),  # as many units as dimensions: √(PR/k) alone would be a sixth too small
        (NFASpec(0.5), 5, 120),
        (NFASpec.preset("grokking"), 5, 120),
        (NFASpec.preset("deep"), 5, 30),
        (NFASpec.preset("centred"), 5, 100),
    ],
    ids=str,
)
def test_the_null_is_what_random_layers_have(spec: NFASpec, k: int, d: int) -> None:
    """√(PR(K)/k), tagged [D] in the references, with its correction for k/d."""
    metric = torch.diag(torch.linspace(1, 0.1, k, dtype=torch.float64) ** 3)
    slopes = Slopes(torch.ones(4).double(), metric.repeat(4, 1, 1), torch.zeros(4, 1, k).double())
    found = []
    for seed in range(60):
        weight, start = normal(k, d, seed=2 * seed), normal(k, d, seed=2 * seed + 1)
        weight = weight + start if spec.init == "from both" else weight
        start = weight - start if spec.init == "from W" else start
        found.append(nfa(weight, slopes, spec, start=start).value)
    spread = float(metric.trace() ** 2 / metric.square().sum())
    expected = random_layer(metric, d, spec)
    if spec.exponent == 1 and spec.init != "from W" and d > 10 * k:
        assert expected == pytest.approx(math.sqrt(spread / k), rel=0.06)
    error = float(np.std(found)) / 60**0.5
    assert abs(float(np.mean(found)) - expected) < 4 * error + 0.02 * expected


def test_a_layer_is_refused_where_it_cannot_be_judged() -> None:
    weight, jacobians, _ = net()
    slopes = Slopes.of(jacobians)
    with pytest.raises(InputError, match="start"):
        nfa(weight, slopes, NFASpec.preset("deep"))
    with pytest.raises(InputError, match="weight: got shape"):
        nfa(weight.T, slopes)
    with pytest.raises(InputError, match="zero"):
        nfa(weight, slopes, NFASpec.preset("deep"), start=weight)
    with pytest.raises(InputError, match="preset"):
        NFASpec.preset("nfa")
    with pytest.raises(InputError, match="exponent"):
        NFASpec(0.0)
    assert nfa(weight, Slopes.of(jacobians, blocks=2)).status == "not measured"


def test_the_exponent_is_refused_where_eigenvalues_are_alike_and_chosen_by_the_agop_alone() -> None:
    first, product = balanced(Draw("test", 0), 3)
    agop_ = product.T @ product
    assert nfa_exponent(first, agop_) == pytest.approx(1 / 3, abs=1e-9)
    assert nfa_exponent(first, agop_, floor=0.5) == pytest.approx(1 / 3, abs=1e-9)
    with pytest.raises(InputError, match="all alike"):
        nfa_exponent(first, torch.eye(12, dtype=torch.float64))
    assert matched(first.T @ first, powered(agop_, 1 / 3)) > 1 - 1e-9 > matched(first.T @ first, agop_)


# --- FACT ---


def test_fact_is_read_off_autograd_and_merges() -> None:
    """Away from rest the residual is ‖Wᵀ∇L‖/(λ‖WᵀW‖), whatever the network."""
    weight, last, x = (part.requires_grad_() for part in (normal(6, 4), normal(2, 6, seed=1), normal(30, 4, seed=2)))
    losses = ((x @ weight.T).tanh() @ last.T).square().sum(1)
    decay = 0.05
    (slope,) = torch.autograd.grad(losses.mean() + decay / 2 * weight.square().sum(), weight, retain_graph=True)
    (gradients,) = torch.autograd.grad(losses.sum(), x)
    whole, shards = FactSums(4), [FactSums(4), FactSums(4)]
    whole.update(gradients, x)
    for shard, one, other in zip(shards, gradients.split(18), x.split(18), strict=True):
        shard.update(one, other)
    shards[0].merge(shards[1])
    held = FactSums(4)
    held.load_state_dict(shards[0].state_dict())
    one, other = (sums.result(weight, decay) for sums in (whole, held))
    assert torch.allclose(one.right, other.right) and one.n == other.n == 30
    plain = weight.detach()
    wanted = float((plain.T @ slope).norm()) / (decay * float((plain.T @ plain).norm()))
    assert one.residual == pytest.approx(wanted, rel=1e-12) and one.reading().value == one.residual
    with pytest.raises(InputError, match="decay"):
        whole.result(plain, 0.0)
    with pytest.raises(InputError, match="inputs"):
        whole.update(gradients, x[:3])


# --- neural collapse ---


def rows(seed: int = 0, classes: int = 4, d: int = 6, n: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % classes
    return normal(classes, d, seed=seed)[labels] * 3 + normal(n, d, seed=seed + 1), labels


def test_one_pass_in_shards_is_the_definition_over_all_rows() -> None:
    features, labels = rows()
    labels[:20] = 0  # classes of unequal size
    parts = [ClassSums(4, 6) for _ in range(3)]
    for number, (one, code) in enumerate(zip(features.split(7), labels.split(7), strict=True)):
        parts[number % 3].update(one, code)
    found = joined(parts).result()
    h, y = features.numpy(), labels.numpy()
    means = np.stack([h[y == c].mean(0) for c in range(4)])
    centred = means - means.mean(0)
    within = sum(np.outer(row, row) for row in h - means[y]) / len(h)
    between = centred.T @ centred / 4
    assert found.nc1 == pytest.approx(float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10))) / 4, rel=1e-9)
    sizes = np.linalg.norm(centred, axis=1)
    cosines = (centred / sizes[:, None]) @ (centred / sizes[:, None]).T
    assert found.norms == pytest.approx(sizes.std() / sizes.mean())
    assert found.angles == pytest.approx(max(abs(cosines[i, j] + 1 / 3) for i in range(4) for j in range(4) if i != j))
    weight = normal(4, 6, seed=5)
    apart = weight.numpy() / np.linalg.norm(weight) - centred / np.linalg.norm(centred)
    assert found.nc3(weight) == pytest.approx(float(np.linalg.norm(apart)))
    assert found.nc4 is None and found.n == 90


def test_nc4_counts_rows_whose_nearest_mean_is_another_class_than_the_classifier_says() -> None:
    features, labels = rows()
    first = ClassSums(4, 6)
    first.update(features, labels)
    again = ClassSums(4, 6, centres=first.means)
    nearest = torch.cdist(features, first.means).argmin(1)
    logits = torch.nn.functional.one_hot(nearest, 4).double()
    logits[:9] = logits[:9].roll(1, 1)
    again.update(features, labels, logits)
    assert again.result().nc4 == pytest.approx(9 / 90)
    with pytest.raises(InputError, match="centres"):
        first.update(features, labels, logits)


def test_sums_are_kept_in_a_state_and_refuse_what_was_made_differently() -> None:
    features, labels = rows()
    one, other = ClassSums(4, 6), ClassSums(4, 6)
    one.update(features, labels)
    other.load_state_dict(one.state_dict())
    assert other.result().nc1 == one.result().nc1
    with pytest.raises(InputError, match="classes"):
        one.merge(ClassSums(5, 6))
    with pytest.raises(InputError, match="class 3 has no row"):
        few = ClassSums(4, 6)
        few.update(features[labels < 3], labels[labels < 3])
        few.result()
    with pytest.raises(InputError, match="simplex"):
        flat = ClassSums(4, 2)
        flat.update(features[:, :2], labels)
        flat.result()
    with pytest.raises(InputError, match="labels"):
        one.update(features, labels + 1)


def test_a_reading_of_collapse_holds_what_other_rows_show() -> None:
    features, labels = rows(n=400)
    shards = []
    for one, code in zip(features.split(20), labels.split(20), strict=True):
        shards.append(ClassSums(4, 6))
        shards[-1].update(one, code)
    read = collapse_reading(shards, lambda found: found.nc1, unit="1", method="NC1")
    assert read.value == pytest.approx(joined(shards).result().nc1) and read.n == 400
    many = ClassSums(4, 6)
    more = torch.arange(40_000) % 4
    many.update(normal(4, 6)[more] * 3 + normal(40_000, 6, seed=77), more)
    assert read.low < many.result().nc1 < read.high  # type: ignore[operator]
    left = np.log([joined([*shards[:k], *shards[k + 1 :]]).result().nc1 for k in range(20)])
    error = math.sqrt(19 / 20 * float(((left - left.mean()) ** 2).sum()))
    assert read.high / read.value == pytest.approx(math.exp(2.0930 * error), rel=1e-4)  # type: ignore[operator]
    assert collapse_reading(shards[:3], lambda found: found.nc1, unit="1", method="NC1").status == "not measured"


# --- circulant structure ---


def test_circulant_matrices_have_no_deviation_and_a_constant_or_diagonal_does_not_hide_any() -> None:
    first = normal(11)
    matrix = torch.stack([first.roll(row) for row in range(11)])
    assert circulant_deviation(matrix) < 1e-25
    noise = normal(11, 11, seed=1)
    bare = circulant_deviation(noise)
    assert bare > 0.7
    assert circulant_deviation(noise + 100 + 1000 * torch.eye(11, dtype=torch.float64)) == pytest.approx(bare)
    assert torch.equal(wrapped(matrix)[3], matrix[0, 3].expand(11))
    with pytest.raises(InputError, match="same"):
        circulant_deviation(torch.eye(5, dtype=torch.float64))
    with pytest.raises(InputError, match="square"):
        circulant_deviation(normal(3, 4))


@pytest.mark.parametrize("p", [8, 9])
def test_power_adds_to_the_trace_and_counts_frequencies(p: int) -> None:
    embedding = normal(p, 3)
    gram = embedding @ embedding.T
    assert float(fourier_power(gram).sum()) == pytest.approx(float(gram.trace()))
    spectrum = torch.fft.fft(embedding, dim=0, norm="ortho").abs().square().sum(1)
    assert float(fourier_power(gram)[2]) == pytest.approx(float(spectrum[2] + spectrum[-2]))
    flat = fourier_participation(torch.eye(9, dtype=torch.float64))
    assert flat == pytest.approx(4.0)  # noise without end: every frequency alike
    with pytest.raises(InputError, match="frequency"):
        fourier_participation(torch.ones(5, 5, dtype=torch.float64))
