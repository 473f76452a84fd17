"""Quantities of feature laws: the ansatz under its four definitions, FACT, neural collapse in one pass, circulant structure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from strandscope.errors import InputError
from strandscope.standards.feature_laws import STANDARDS, balanced
from strandscope.standards.run import caught, run
from strandscope.standards.standard import Draw
from strandscope.statistics.circulant import circulant_deviation, fourier_participation, fourier_power, wrapped
from strandscope.statistics.collapse import ClassSums, collapse_reading, joined
from strandscope.strand.agop import agop
from strandscope.strand.fact import FactSums
from strandscope.strand.nfa import PRESETS, NFASpec, Slopes, matched, nfa, nfa_exponent, powered, random_layer

Floats = NDArray[np.float64]


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
        (NFASpec.preset("deep"), 5, 30),
        (NFASpec.preset("centred"), 5, 100),
    ],
    ids=str,
)
def test_the_null_is_what_random_layers_have(spec: NFASpec, k: int, d: int) -> None:
    """√(PR(K)/k), tagged [D] in the references, with its correction for k/d; the drawn null agrees."""
    metric = torch.diag(torch.linspace(1, 0.1, k, dtype=torch.float64) ** 3)
    slopes = Slopes(torch.ones(4).double(), metric.repeat(4, 1, 1), torch.zeros(4, 1, k).double())
    found, drawn = [], None
    for seed in range(60):
        weight, start = normal(k, d, seed=2 * seed), normal(k, d, seed=2 * seed + 1)
        weight = weight + start if spec.init == "from both" else weight
        start = weight - start if spec.init == "from W" else start
        reading = nfa(weight, slopes, spec, start=start)
        found.append(reading.value)
        drawn = reading.null
    spread = float(metric.trace() ** 2 / metric.square().sum())
    expected = random_layer(metric, d, spec)
    if spec.exponent == 1 and spec.init != "from W" and d > 10 * k:
        assert expected == pytest.approx(math.sqrt(spread / k), rel=0.06)
    error = float(np.std(found)) / 60**0.5
    assert abs(float(np.mean(found)) - expected) < 4 * error + 0.02 * expected
    assert drawn is not None and drawn.low < drawn.value < drawn.high
    assert abs(drawn.value - expected) < 4 * float(np.std(found)) / drawn.n**0.5 + 0.02 * expected
    inside = np.mean([drawn.low <= one <= drawn.high for one in found])
    assert inside > 0.8, inside


def by_singular_values(weight: Floats, moved: Floats, roots: Floats, spec: NFASpec) -> float:
    """The correlation of VᵀV with (WᵀKW)^α for a diagonal K, by numpy and another road: singular values of √K W."""
    _, singular, right = np.linalg.svd(roots[:, None] * weight, full_matrices=False)
    one, other = moved.T @ moved, (right.T * singular ** (2 * spec.exponent)) @ right
    kept = ~np.eye(len(one), dtype=bool) if spec.entries == "centred, off the diagonal" else np.ones_like(one, dtype=bool)
    if spec.entries == "as they are":
        return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
    return float(np.corrcoef(one[kept], other[kept])[0, 1])


@pytest.mark.parametrize(
    ("spec", "k", "d", "fall"),
    [
        (NFASpec.preset("grokking"), 256, 32, 1.0),  # where α = 1's closed form with K^α in it says .77, not .40
        (NFASpec.preset("grokking"), 96, 96, 1.0),
        (NFASpec(), 256, 32, 2.0),
        (NFASpec.preset("science"), 96, 96, 0.5),
        (NFASpec.preset("science"), 40, 20, 0.5),
    ],
    ids=str,
)
def test_the_null_of_other_exponents_is_drawn(spec: NFASpec, k: int, d: int, fall: float) -> None:
    values = torch.arange(1, k + 1, dtype=torch.float64) ** -fall
    slopes = Slopes(torch.ones(4).double(), torch.diag(values).repeat(4, 1, 1), torch.zeros(4, 1, k).double())
    random, found = np.random.default_rng(0), []
    for _ in range(100):
        weight, other = random.normal(size=(2, k, d))
        found.append(by_singular_values(weight, other if spec.init == "from W" else weight, values.sqrt().numpy(), spec))
    weight = normal(k, d)
    null = nfa(weight, slopes, spec, start=weight - normal(k, d, seed=1)).null
    assert null is not None and null.n > 20 and "drawn" in null.method
    spread = float(np.std(found))
    assert abs(null.value - float(np.mean(found))) < 4 * spread * (1 / null.n + 1 / 100) ** 0.5
    assert null.low < null.value < null.high and 2 * spread < null.high - null.low < 7 * spread
    assert np.mean([null.low <= one <= null.high for one in found]) > 0.8


def test_the_null_of_a_square_layer_is_the_quarter_circle_s() -> None:
    """K = I, k = d → ∞, α = ½: ⟨s³⟩/√(⟨s²⟩⟨s⁴⟩) = 64/(15π√2) with the quarter circle's moments; at α = 1 it is 1."""
    slopes = Slopes(torch.ones(4).double(), torch.eye(64).double().repeat(4, 1, 1), torch.zeros(4, 1, 64).double())
    null = nfa(normal(64, 64), slopes, NFASpec(0.5)).null
    assert null is not None and null.value == pytest.approx(64 / (15 * math.pi * 2**0.5), abs=1e-3)
    with pytest.raises(InputError, match=r"exponent: got 0\.5"):
        random_layer(torch.eye(64), 64, NFASpec(0.5))


def test_the_null_s_level_is_what_so_many_draws_can_bound_and_its_seed_is_named() -> None:
    weight, jacobians, _ = net()
    slopes = Slopes.of(jacobians)
    one, same, other = (nfa(weight, slopes, seed=seed).null for seed in (0, 0, 1))
    assert one == same and one is not None and other is not None and one.value != other.value
    assert "seed 0" in one.method and "seed 1" in other.method
    wide, narrow = nfa(weight, slopes, level=0.99).null, nfa(weight, slopes, level=0.5).null
    assert wide is not None and narrow is not None and wide.level == pytest.approx(one.level) == pytest.approx(0.95)
    assert narrow.level == 0.5 and one.low < narrow.low < narrow.high < one.high


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


@pytest.mark.parametrize("wrong", ["without centres", "a column too few", "not a number"])
def test_rows_whose_logits_are_refused_are_not_counted(wrong: str) -> None:
    """Who catches the refusal and passes the rows again has them once."""
    features, labels = rows()
    centres = torch.stack([features[labels == code].mean(0) for code in range(4)])
    logits = -torch.cdist(features, centres)
    sums, once = (ClassSums(4, 6, centres=None if wrong == "without centres" else centres) for _ in range(2))
    bad = {"a column too few": logits[:, :3], "not a number": logits * torch.nan}.get(wrong, logits)
    with pytest.raises(InputError, match="logits"):
        sums.update(features, labels, bad)
    assert int(sums.counts.sum()) == sums.judged == 0
    for each in (sums, once):
        each.update(features, labels, None if wrong == "without centres" else logits)
    assert sums.result().n == 90 and sums.result().nc1 == once.result().nc1 and sums.result().nc4 == once.result().nc4


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
