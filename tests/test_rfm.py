"""Recursive feature machines: every published variant against one written down again with dense matrices, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strandscope.errors import InputError, TrustError
from strandscope.strand.kernels import Kernel
from strandscope.strand.linear import Method, Training, fit_scores
from strandscope.strand.relevant import relevant_dimension, relevant_directions
from strandscope.strand.rfm import fit, iterates
from strandscope.strand.rfm_directions import UPDATES, rfm_directions
from strandscope.strand.rfm_rows import Factored, Symmetric
from strandscope.strand.rfm_spec import PRESETS, RFMSpec


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- the seven, written down again: d × d matrices, gradients by automatic differentiation ---

WRITTEN = {  # kernel, L, ridge, inputs centred, gradients centred, divided by its greatest entry, power: theory, table 1.1
    "notebook": ("laplace", 10.0, 1e-3, False, False, False, 1.0),
    "package": ("laplace", 1.0, 1e-3, False, False, True, 1.0),
    "tutorial": ("laplace", 10.0, 1e-3, False, True, False, 1.0),
    "grokking": ("gaussian", 2.5, 0.0, False, True, False, 0.5),
    "xrfm": ("laplace", 10.0, 1e-3, False, False, True, 1.0),
    "clas": ("laplace", (1.0, 10.0, 100.0), 1e-3, True, True, True, 1.0),
    "lin-rfm": ("linear", 1.0, 1e-3, False, False, False, 0.5),
}


def kernel_value(kind, bandwidth, x, z, metric):
    if kind == "linear":
        return x @ metric @ z
    squared = (x - z) @ metric @ (x - z)
    if kind == "gaussian":
        return torch.exp(-squared / (2 * bandwidth**2))
    safe = torch.where(squared > 0, squared, 1.0).sqrt()  # no gradient where the rows meet
    return torch.exp(-torch.where(squared > 0, safe, 0.0) / bandwidth)


def kernel_matrix(kind, bandwidth, rows, others, metric):
    one = torch.func.vmap(lambda x, z: kernel_value(kind, bandwidth, x, z, metric), (None, 0))
    return torch.func.vmap(one, (0, None))(rows, others)


def again(name, states, targets, updates):
    """Predictor and metric after some updates, from the table alone."""
    kind, bandwidth, ridge, inputs, slopes, greatest, power = WRITTEN[name]
    centre = states.mean(0) if inputs else torch.zeros(states.shape[1], dtype=states.dtype)
    rows, n = states - centre, len(states)
    metric = torch.eye(states.shape[1], dtype=states.dtype)
    if isinstance(bandwidth, tuple):  # leave every row out in turn and fit the others
        errors = []
        for L in bandwidth:
            K, error = kernel_matrix(kind, L, rows, rows, metric), 0.0
            for i in range(n):
                kept = [j for j in range(n) if j != i]
                alphas = torch.linalg.solve(K[kept][:, kept] + ridge * torch.eye(n - 1, dtype=K.dtype), targets[kept])
                error += float((targets[i] - K[i, kept] @ alphas).square().sum())
            errors.append(error)
        bandwidth = bandwidth[int(np.argmin(errors))]
    for update in range(updates + 1):
        K = kernel_matrix(kind, bandwidth, rows, rows, metric)
        alphas = torch.linalg.solve(K + ridge * torch.eye(n, dtype=K.dtype), targets)
        used = metric

        def predict(z, alphas=alphas, metric=used):
            return alphas.T @ torch.func.vmap(lambda x: kernel_value(kind, bandwidth, x, z, metric))(rows)

        if update < updates:
            jacobians = torch.stack([torch.func.jacrev(predict)(row) for row in rows])  # (n, outputs, d)
            jacobians = jacobians - jacobians.mean(0) if slopes else jacobians
            metric = torch.einsum("nki,nkj->ij", jacobians, jacobians) / n
            if power != 1:
                values, vectors = torch.linalg.eigh(metric)
                metric = vectors @ torch.diag(values.clamp_min(0) ** power) @ vectors.T
            metric = metric / metric.max() if greatest else metric
    return lambda new: torch.stack([predict(z - centre) for z in new]), used


@pytest.mark.parametrize("shape", [(24, 6), (14, 20)], ids=["more rows", "more dimensions"])
@pytest.mark.parametrize("classes", [2, 3])  # with more dimensions than gradients, two classes have a metric in factors
@pytest.mark.parametrize("name", WRITTEN)
def test_each_preset_is_the_published_machine(name, shape, classes):
    states, new = drawn(*shape) + 0.3, drawn(4, shape[1], seed=1)
    labels = torch.arange(shape[0]) % classes
    targets = labels[:, None].double() if classes == 2 else torch.nn.functional.one_hot(labels, 3).double()
    predict, metric = again(name, states, targets, 3)
    made = fit(RFMSpec.preset(name, iterations=3), states, labels)
    assert made.outcomes == ("solved",) and float(made.residual) < 1e-8 and made.iteration == 3
    torch.testing.assert_close(made.metric.dense(), metric, rtol=1e-6, atol=1e-7)  # the root of an eigenvalue that is rounding
    torch.testing.assert_close(made.predict(new), predict(new), rtol=1e-6, atol=1e-7)


def test_the_table_and_the_presets_name_the_same_seven():
    assert set(WRITTEN) == set(PRESETS)
    for spec in PRESETS.values():
        assert spec.source and str(spec).count("iterations") == 1


def test_a_spec_says_every_choice():
    said = str(RFMSpec())
    for word in (
        "laplace",
        "bandwidth",
        "ridge",
        "centre inputs yes",
        "centre gradients no",
        "power 1",
        "iterations 3",
        "spread",
    ):
        assert word in said
    assert "leave-one-out" in said and "0.3" in said


# --- the pieces ---


@pytest.mark.parametrize("kernel", [Kernel("laplace"), Kernel("gaussian"), Kernel("quadratic"), Kernel("linear")], ids=str)
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("shape", [(20, 5), (10, 16), (8, 16)])
@pytest.mark.parametrize("updates", [0, 2])
def test_gradients_are_those_of_the_predictions(kernel, diagonal, shape, updates):
    spec = RFMSpec(kernel, 3.0, 0.1, diagonal=diagonal, iterations=updates)
    made = fit(spec, drawn(*shape), drawn(shape[0], 2, seed=1))
    new = drawn(3, shape[1], seed=2)
    wanted = torch.stack([torch.func.jacrev(lambda z: made.predict(z[None])[0])(z) for z in new])  # (m, outputs, d)
    torch.testing.assert_close(made.gradients(new), wanted.movedim(1, 0), rtol=1e-7, atol=1e-9)
    at_rows = made.gradients(drawn(*shape))
    dense = torch.einsum("kni,knj->ij", at_rows, at_rows) / shape[0]
    found = made.agop().dense()
    torch.testing.assert_close(found.diagonal(), dense.diagonal())
    if not diagonal:
        if made.metric is not None or shape[0] > shape[1]:
            torch.testing.assert_close(found, dense)
        values, vectors = made.agop().top(2)
        torch.testing.assert_close(found @ vectors, vectors * values)


def test_leave_one_out_is_leaving_one_out():
    states, targets = drawn(16, 4), drawn(16, seed=1)[:, None]
    grid = {"bandwidth": (0.5, 2.0, 8.0), "ridge": (1e-3, 1e-1, 3.0)}
    made = fit(RFMSpec(**grid, iterations=0), states, targets)
    errors = {}
    for L in grid["bandwidth"]:
        for ridge in grid["ridge"]:
            error = 0.0
            for i in range(16):
                kept = [j for j in range(16) if j != i]
                K = torch.exp(-torch.cdist(states, states) / L)
                alphas = torch.linalg.solve(
                    K[kept][:, kept] + ridge * torch.eye(15, dtype=K.dtype), targets[kept] - targets.mean()
                )
                error += float(targets[i] - targets.mean() - K[i, kept] @ alphas) ** 2
            errors[L, ridge] = error
    assert (float(made.bandwidth), float(made.ridge)) == min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sites_are_fitted_as_each_alone(dtype):
    states, labels, new = drawn(3, 30, 40, dtype=dtype), torch.arange(30) % 2, drawn(3, 5, 40, seed=1, dtype=dtype)
    together = fit(RFMSpec(), states, labels)
    assert len(together.outcomes) == 3
    for site in range(3):
        alone = fit(RFMSpec(), states[site], labels)
        torch.testing.assert_close(together.predict(new)[site], alone.predict(new[site]), rtol=1e-3, atol=2e-3)
        assert float(together.bandwidth[site]) == pytest.approx(float(alone.bandwidth))


@pytest.mark.parametrize("spec", [RFMSpec(), RFMSpec.preset("clas"), RFMSpec.preset("xrfm")], ids=["ours", "clas", "xrfm"])
def test_an_output_twice_is_the_same_machine_with_twice_the_agop(spec):
    """One output is fitted through factors, two of so many rows through matrices."""
    states, target, new = drawn(30, 40), drawn(30, seed=1)[:, None], drawn(5, 40, seed=2)
    once, twice = fit(spec, states, target), fit(spec, states, target.expand(-1, 2))
    assert isinstance(once.metric, Factored) and isinstance(twice.metric, Symmetric)
    torch.testing.assert_close(once.metric.dense(), twice.metric.dense())
    torch.testing.assert_close(once.metric.values(), twice.metric.values())
    torch.testing.assert_close(2 * once.agop().dense(), twice.agop().dense())
    torch.testing.assert_close(2 * once.spectra[0], twice.spectra[0])
    torch.testing.assert_close(once.predict(new)[:, [0, 0]], twice.predict(new))
    values, vectors = once.metric.top(30)  # one more than its rank
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(30).double())
    torch.testing.assert_close(once.metric.dense() @ vectors, vectors * values)


@pytest.mark.parametrize("classes", [2, 3])
def test_one_of_several_sites_is_what_it_is_alone(classes):
    states, labels, new = drawn(3, 30, 40), torch.arange(30) % classes, drawn(5, 40, seed=1)
    several = fit(RFMSpec(iterations=2), states, labels)
    alone = [fit(RFMSpec(iterations=2), one, labels) for one in states]
    close = torch.testing.assert_close  # a basis among others lies differently in memory, and rounds differently
    close(several.predict(new), torch.stack([one.predict(new) for one in alone]))
    close(several.gradients(new), torch.stack([one.gradients(new) for one in alone]))
    close(several.agop().dense(), torch.stack([one.agop().dense() for one in alone]))
    close(several.metric.dense(), torch.stack([one.metric.dense() for one in alone]))
    close(several.metric.values(), torch.stack([one.metric.values() for one in alone]))
    close(several.metric.top(4)[0], torch.stack([one.metric.top(4)[0] for one in alone]))
    for place, one in enumerate(alone):
        part = several.site(place)
        close(part.predict(new), one.predict(new))
        close(part.spectra, one.spectra)
        assert part.outcomes == one.outcomes


def test_neither_the_order_of_rows_nor_the_batch_matters_beyond_rounding():
    states, labels, new = drawn(40, 60), torch.arange(40) % 2, drawn(7, 60, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    one, other = fit(RFMSpec(), states, labels), fit(RFMSpec(), states[order], labels[order])
    torch.testing.assert_close(one.predict(new), other.predict(new))
    torch.testing.assert_close(one.metric.dense(), other.metric.dense())
    torch.testing.assert_close(one.predict(new), torch.cat([one.predict(new[:3]), one.predict(new[3:])]))


def test_turning_the_states_turns_the_metric():
    states, targets = drawn(30, 8), drawn(30, seed=1)
    turn = torch.linalg.qr(drawn(8, 8, seed=2)).Q
    one, other = fit(RFMSpec(), states, targets), fit(RFMSpec(), states @ turn, targets)
    torch.testing.assert_close(turn.T @ one.metric.dense() @ turn, other.metric.dense())


def test_a_linear_concept_is_annihilated_by_centring_gradients():
    states = drawn(60, 5)
    targets = states @ torch.tensor([3.0, 4.0, 0, 0, 0]).double()
    spec = RFMSpec(Kernel("linear"), ridge=1e-9, iterations=1, normalise="none")
    kept = fit(spec, states, targets)
    beta = torch.tensor([3.0, 4, 0, 0, 0]).double()
    torch.testing.assert_close(kept.metric.dense(), torch.outer(beta, beta), rtol=1e-6, atol=1e-6)
    gone = fit(RFMSpec(Kernel("linear"), ridge=1e-9, iterations=1, normalise="none", centre_gradients=True), states, targets)
    assert float(gone.metric.dense().abs().max()) < 1e-12


def test_a_system_that_cannot_be_solved_is_an_outcome_and_no_other_solver_takes_over():
    states = drawn(2, 12, 3)
    states[1, 1] = states[1, 0]  # rows that repeat, and no ridge
    made = fit(RFMSpec(bandwidth=1.0, ridge=0.0, iterations=1), states, torch.arange(12) % 2)
    assert made.outcomes[0] == "solved" and made.outcomes[1].startswith("not solved") and "ridge" in made.outcomes[1]
    new = drawn(2, 3, 3, seed=1)
    assert bool(torch.isfinite(made.predict(new)[0]).all()) and bool(made.predict(new)[1].isnan().all())
    with pytest.raises(TrustError, match="not positive definite"):
        made.require_solved()


@pytest.mark.parametrize(
    ("states", "labels", "said"),
    [
        (drawn(6, 3).long(), torch.arange(6), "wanted float32 or float64"),
        (torch.full((6, 3), torch.nan), torch.arange(6), "row 0 holds a NaN"),
        (torch.cat([drawn(1, 6, 3), torch.full((1, 6, 3), torch.inf).double()]), torch.arange(6), "row 0 of site 1"),
        (drawn(6, 3), torch.arange(5), "for 6 rows"),
        (drawn(6, 3), torch.ones(6).long(), "wanted two classes or more"),
        (drawn(6, 3), torch.ones(6), "every row has the same"),
        (drawn(6, 3), torch.tensor([0.0, 1, 2, 3, 4, torch.nan]), "NaN"),
        (drawn(1, 3), torch.arange(1), "wanted two or more"),
    ],
)
def test_bad_input_is_a_sentence(states, labels, said):
    with pytest.raises(InputError, match=said):
        fit(RFMSpec(), states, labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bandwidth": 0.0}, "bandwidth: got 0"),
        ({"ridge": -1.0}, "ridge: got -1"),
        ({"ridge": ()}, "empty grid"),
        ({"power": 0.0}, "power"),
        ({"iterations": -1}, "iterations"),
        ({"normalise": "unit"}, "normalise"),
        ({"kernel": Kernel("laplace", 1.0)}, "set diagonal=True"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        RFMSpec(**changes)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match="notebook, package, tutorial, grokking, xrfm, clas, lin-rfm"):
        RFMSpec.preset("rfm")


# --- among the methods of find ---


def test_the_direction_for_find_is_that_of_a_refit_and_its_held_out_scores_see_no_label_of_theirs():
    states, labels = drawn(40, 9), (torch.arange(40) % 2).double()[:, None]
    states[:, 0] += 2 * labels[:, 0]
    training, method = Training.of(states), Method("RFM", 0.1)
    part = torch.arange(10)
    inside, outside = fit_scores(training, drawn(5, 9, seed=3), [method], labels, [part, torch.arange(10, 40)])
    standard = (states - states.mean(0)) / states.std(0, correction=0)
    kept = standard[10:] - standard[10:].mean(0)
    distance = float((2 * kept.square().sum(1).mean()).sqrt())
    made = fit(RFMSpec(bandwidth=distance, ridge=0.1, iterations=UPDATES), kept, labels[10:])
    axis = made.metric.top(1)[1][:, 0]
    truth, along = labels[10:, 0] - labels[10:].mean(), kept @ axis
    wanted = (standard[:10] - standard[10:].mean(0)) @ axis * (along @ truth) / (along @ along)
    torch.testing.assert_close(inside[0, :10, 0], wanted, rtol=1e-3, atol=1e-4)
    changed = labels.clone()
    changed[part] = 1 - changed[part]
    again = fit_scores(training, drawn(5, 9, seed=3), [method], changed, [part, torch.arange(10, 40)])[0]
    torch.testing.assert_close(again[0, part], inside[0, part])
    assert outside.shape == (1, 5, 1)
    weights = training.weights(method, labels)[:, 0]
    assert float((states @ weights)[labels[:, 0] == 1].mean()) > float((states @ weights)[labels[:, 0] == 0].mean())


def test_many_label_columns_are_each_as_alone():
    rows, labels = drawn(30, 6), (torch.rand(30, 5, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    together = rfm_directions(rows, labels, 1.0)
    for column in range(5):
        torch.testing.assert_close(together[:, [column]], rfm_directions(rows, labels[:, [column]], 1.0), rtol=1e-3, atol=1e-4)


# --- known answers ---


def test_the_tutorial_learns_the_two_coordinates():
    states = drawn(2400, 100, seed=3)
    targets = states[:, 0] * states[:, 1]
    made = fit(RFMSpec.preset("tutorial", ridge=1e-4), states[:1000], targets[:1000], spectra=False)
    _, vectors = made.metric.top(2)
    plain = fit(RFMSpec.preset("tutorial", ridge=1e-4, iterations=0), states[:1000], targets[:1000])

    def r2(machine):
        wanted = targets[1000:]
        return 1 - float((machine.predict(states[1000:])[:, 0] - wanted).square().mean() / wanted.var())

    assert r2(plain) < 0.1 < 0.6 < r2(made)
    assert float(vectors[:2].square().sum()) / 2 > 0.85


def test_modular_addition_is_learned_long_after_it_is_fitted():
    p = 17
    first, second = (part.flatten() for part in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
    hot = torch.nn.functional.one_hot
    states = torch.cat([hot(first, p), hot(second, p)], 1).double()
    sums = (first + second) % p
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(0))
    train, new = order[: int(0.8 * p * p)], order[int(0.8 * p * p) :]
    right, matrix = [], torch.eye(2 * p)
    for made in iterates(RFMSpec.preset("grokking", iterations=25), states[train], hot(sums, p)[train].double(), spectra=False):
        right.append(float((made.predict(states[new]).argmax(-1) == sums[new]).double().mean()))
        assert float((made.predict(states[train]).argmax(-1) == sums[train]).double().mean()) == 1.0
        matrix = matrix if made.metric is None else made.metric.dense()
    assert right[0] < 0.1 and right[-1] > 0.95
    block = matrix[:p, :p]
    shift = (torch.arange(p)[:, None] - torch.arange(p)) % p
    circulant = torch.stack([block[shift == k].mean() for k in range(p)])[shift]
    assert float((block - circulant).square().sum() / (block - block.mean()).square().sum()) < 0.05


def planted(case, seed, n=150, d=10):
    x, e = drawn(n, d, seed=100 + seed), 0.5 * drawn(n, seed=500 + seed)
    return x, {
        "nothing": e,
        "line": x[:, 0] + e,
        "product": x[:, 0] * x[:, 1] + e,
        "bowls": x[:, 0] ** 2 + 0.7 * x[:, 1] ** 2 + e,
    }[case]


@pytest.mark.parametrize(("case", "truth"), [("nothing", 0), ("line", 1), ("product", 2), ("bowls", 2)])
def test_the_dimension_is_the_number_of_directions(case, truth):
    found = [relevant_dimension(*planted(case, seed), permutations=39, seed=seed) for seed in range(12)]
    assert np.mean([reading.value == truth for reading in found]) >= 10 / 12
    assert np.mean([reading.low > truth for reading in found]) <= 2 / 12
    assert all(reading.unit == "directions" and reading.null.n == 39 and reading.high == 10 for reading in found)


def test_iterated_rfm_ends_at_rank_one_where_the_ridge_binds_and_our_dimension_does_not():
    """y = x₁² + .7 x₂²: the AGOP is diag(4, 1.96, 0, …) in closed form, 67 : 33. With a ridge that lets the machine fit, updates
    stay there, since what M takes away the next solve gives back; with one that does not, they are a power iteration."""
    states, targets = planted("bowls", 0, n=300)
    shares = {}
    for ridge in (0.1, 10.0):
        made = fit(RFMSpec(bandwidth=10.0, ridge=ridge, iterations=12, normalise="max"), states, targets)
        shares[ridge] = [float(values[0] / values.sum()) for values in made.spectra]
    assert shares[10.0][0] < 0.65 and shares[10.0][-1] > 0.999
    assert all(abs(share - 4 / 5.96) < 0.1 for share in shares[0.1][1:])
    relevant = relevant_directions(states, targets, permutations=39)
    assert relevant.dimension.value == 2
    assert float(relevant.directions[:2].square().sum()) / 2 > 0.9
    assert "λ2" in str(relevant)


def test_dimension_does_not_depend_on_the_order_of_rows():
    states, targets = planted("product", 1)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(2))
    one, other = (
        relevant_directions(states, targets, permutations=39),
        relevant_directions(states[order], targets[order], permutations=39),
    )
    assert one.dimension == other.dimension and one.p_values == other.p_values


def test_dimension_with_fewer_rows_than_dimensions_and_classes_and_groups():
    labels, groups, axis = torch.arange(80) % 2, np.arange(80) // 4, torch.full((120,), 120**-0.5).double()
    states = drawn(80, 120, seed=4) + 5 * labels[:, None] * axis
    relevant = relevant_directions(states, labels, groups, permutations=39)
    assert relevant.dimension.value == 1 and float((relevant.directions[:, 0] @ axis).abs()) > 0.7
    shuffled = labels[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    assert relevant_dimension(states, shuffled, groups, permutations=39).value == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"permutations": 9}, "wanted at least 19"), ({"kernel": Kernel("linear")}, "a radial kernel")],
)
def test_dimension_refuses_what_would_show_nothing(changes, said):
    with pytest.raises(InputError, match=said):
        relevant_dimension(*planted("line", 0), **changes)
