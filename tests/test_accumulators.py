"""Any split into shards, merged in any order, gives what one batch gives; and what cannot be merged is told in a sentence."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.statistics.accumulators import (
    ClassMoments,
    Counts,
    DenseProducts,
    Histogram,
    KeptRows,
    Moments,
    Quantiles,
    SketchedProducts,
    outer_products,
)
from strandscope.statistics.participation import participation

D = 6


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(97) % 3
ROWS = drawn(97, D) @ drawn(D, D, seed=1) + 5.0
KINDS = {
    "moments": (lambda: Moments(D), lambda rows, index: (rows,)),
    "class moments": (lambda: ClassMoments(3, D), lambda rows, index: (rows, LABELS[index])),
    "dense": (lambda: DenseProducts(D), lambda rows, index: (rows,)),
    "gram": (lambda: KeptRows(D, 97), lambda rows, index: (rows,)),
    "sketch": (lambda: SketchedProducts(D, 2, 0), lambda rows, index: (rows,)),
    "counts": (Counts, lambda rows, index: ((rows[:, 0]).long(),)),
    "histogram": (lambda: Histogram([-2.0, 0.0, 4.5, 6.0]), lambda rows, index: (rows,)),
    "quantiles": (lambda: Quantiles(0.01), lambda rows, index: (rows,)),
}


def told(result):
    """Figures of a result, whatever its kind."""
    if hasattr(result, "top"):
        spectrum, centred = result.top(2), result.top(2, centred=True)
        figures = [result.n, result.trace, result.square, result.participation, *result.mean.tolist()]
        return [*figures, *spectrum.values.tolist(), *centred.values.tolist(), *result.matrix().flatten().tolist()]
    if hasattr(result, "classes"):
        return [*result.counts, *result.means.flatten().tolist(), *result.within.flatten().tolist()]
    if hasattr(result, "covariance"):
        return [result.n, *result.mean.tolist(), *result.covariance.flatten().tolist()]
    if hasattr(result, "edges"):
        return [*result.counts, result.below, result.above]
    if hasattr(result, "quantile"):
        return [result.n, *(result.quantile(q) for q in (0.0, 0.1, 0.5, 0.99, 1.0))]
    return sorted(result.items())


def fed(kind, index):
    make, arguments = KINDS[kind]
    one = make()
    one.update(*arguments(ROWS[index], index))
    return one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_any_split_merged_in_any_order_is_the_batch(kind, seed):
    """Shards of any size, none and one row included, some of them fed in several batches, merged as a random tree."""
    chance = random.Random(seed)
    order = torch.as_tensor(np.random.default_rng(seed).permutation(97))
    cuts = sorted(chance.randint(0, 97) for _ in range(7))
    shards = [order[low:high] for low, high in zip([0, *cuts], [*cuts, 97], strict=True)]
    parts = []
    for shard in shards:
        one = fed(kind, shard[: len(shard) // 2])
        one.update(*KINDS[kind][1](ROWS[shard[len(shard) // 2 :]], shard[len(shard) // 2 :]))
        parts.append(one)
    while len(parts) > 1:
        chance.shuffle(parts)
        other = parts.pop()
        before = told_state(other)
        parts[0].merge(other)
        assert told_state(other) == before  # the other stays as it was
    exact = kind in ("counts", "histogram", "quantiles")
    assert told(parts[0].result()) == (
        told(fed(kind, torch.arange(97)).result())
        if exact
        else pytest.approx(told(fed(kind, torch.arange(97)).result()), rel=1e-9, abs=1e-9)
    )


def told_state(one):
    return json.dumps(plain(one.state_dict()))


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_through_json_and_tensors_and_comes_back(kind):
    one = fed(kind, torch.arange(50))
    state = one.state_dict()
    again = KINDS[kind][0]()
    again.load_state_dict(state)
    for accumulator in (one, again):
        accumulator.update(*KINDS[kind][1](ROWS[50:], torch.arange(50, 97)))
    assert told(again.result()) == told(one.result())
    assert told_state(one) != json.dumps(plain(state))  # what was saved did not move


@pytest.mark.parametrize("kind", ["moments", "dense", "gram"])
def test_a_huge_common_offset_costs_no_digits(kind):
    """Sums of squares about zero would leave none: 1e8 squared has all sixteen."""
    noise = drawn(400, D)
    one, two = KINDS[kind][0]() if kind != "gram" else KeptRows(D, 400), KINDS[kind][0]() if kind != "gram" else KeptRows(D, 400)
    one.update(noise[:150] + 1e8)
    two.update(noise[150:] + 1e8)
    one.merge(two)
    found = one.result().covariance * 399 / 400 if kind == "moments" else one.result().matrix(centred=True)
    centred = noise - noise.mean(0)
    assert float((found - centred.T @ centred / 400).abs().max()) < 1e-6


def test_moments_are_those_of_numpy():
    found = fed("moments", torch.arange(97)).result()
    assert np.allclose(found.covariance, np.cov(ROWS.T.numpy()))
    assert np.allclose(found.variance, ROWS.var(0))
    classes = fed("class moments", torch.arange(97)).result()
    wanted = sum((k == LABELS).sum().item() * np.cov(ROWS[k == LABELS].T.numpy(), bias=True) for k in range(3)) / 94
    assert np.allclose(classes.within, wanted)
    assert np.allclose(classes.means[1], ROWS[LABELS == 1].mean(0))


@pytest.mark.parametrize("form", ["dense", "gram", "sketch"])
def test_every_form_knows_the_same_matrix(form):
    """The sketch is wider than the rank, so that it too is exact."""
    rows = drawn(30, 4) @ drawn(4, 40, seed=1) + drawn(40, seed=2)
    products = outer_products(40, form, k=5, most=30)
    products.update(rows)
    result = products.result()
    raw = rows.T @ rows / 30
    own = rows - rows.mean(0)
    for matrix, centred in ((raw, False), (own.T @ own / 30, True)):
        wanted = torch.linalg.eigvalsh(matrix).flip(0)
        found = result.top(4, centred=centred)
        assert torch.allclose(found.values, wanted[:4], rtol=1e-7)
        assert found.trace == pytest.approx(float(matrix.trace()))
        true = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
        assert bool((true <= found.residuals + 1e-9 * found.trace).all())
        assert float((result.matrix(centred=centred) - matrix).abs().max()) < 1e-6 * found.trace
    assert result.trace == pytest.approx(float(raw.trace()))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_sketch_s_bounds_hold_and_are_not_idle(power):
    scale = torch.arange(1, 301, dtype=torch.float64) ** -power
    rows = drawn(2000, 300) * scale
    matrix = rows.T @ rows / 2000
    for seed in range(5):
        sketch = SketchedProducts(300, 20, seed)
        sketch.update(rows)
        found = sketch.result().top(20)
        true = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
        assert bool((true <= found.residuals).all())
        assert float(found.residuals[0]) < 60 * float(true.max())
        assert bool((found.values <= torch.linalg.eigvalsh(matrix).flip(0)[:20] + 1e-9).all())  # Nyström never exceeds M
    assert sketch.result().trace == pytest.approx(float(matrix.trace()))


def test_a_sketch_s_square_is_unbiased():
    rows = drawn(50, 30) * torch.arange(1, 31, dtype=torch.float64) ** -0.5
    found = []
    for seed in range(300):
        sketch = SketchedProducts(30, 2, seed)
        sketch.update(rows)
        found.append(sketch.result().square)
    wanted = participation(rows).square
    assert np.mean(found) == pytest.approx(wanted, abs=4 * np.std(found) / 300**0.5)


def test_traces_over_pairs_are_those_of_the_rows():
    rows = drawn(25, 10)
    for form in ("dense", "gram"):
        products = outer_products(10, form, most=25)
        products.update(rows)
        found, wanted = products.result(), participation(rows)
        assert (found.square, found.trace) == pytest.approx((wanted.square, wanted.trace))
        assert found.participation == pytest.approx(wanted.value, rel=0.2)  # which has its bias taken off


def test_single_precision_rows_are_summed_in_double():
    rows = (drawn(20000, 5) + 100).float()
    products = DenseProducts(5)
    for part in rows.split(37):
        products.update(part)
    wide = rows.double() - rows.double().mean(0)
    assert torch.allclose(products.result().matrix(centred=True), wide.T @ wide / 20000, rtol=1e-4, atol=1e-5)


def test_the_form_follows_from_a_stated_bound():
    assert outer_products(100).form == "dense"
    assert outer_products(100, most=50).form == "gram"
    assert outer_products(100, k=5, limit=79_999).form == "sketch"
    assert outer_products(100_000, k=5).form == "sketch"


def test_quantiles_are_within_their_relative_error():
    values = torch.cat([drawn(5000).exp(), -drawn(3000, seed=1).exp() * 1e-6, torch.zeros(100, dtype=torch.float64)])
    quantiles = Quantiles(0.005)
    quantiles.update(values)
    ordered = values.sort().values
    for q in (0.0, 0.05, 0.37, 0.375, 0.5, 0.9, 1.0):
        true = float(ordered[int(q * (len(values) - 1))])
        assert quantiles.result().quantile(q) == pytest.approx(true, rel=0.0051, abs=0.0)


def test_counts_take_texts_and_numbers_and_come_back_through_json():
    counts = Counts()
    counts.update(["a", "b", "a"])
    counts.update(torch.tensor([[1, 2], [2, 2]]))
    again = Counts()
    again.load_state_dict(json.loads(json.dumps(counts.state_dict())))
    assert again.result() == {"a": 2, "b": 1, 1: 1, 2: 3}


def test_a_histogram_puts_an_edge_into_the_bin_that_it_opens():
    histogram = Histogram([0.0, 1.0, 2.0])
    histogram.update(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 7.0]))
    found = histogram.result()
    assert (found.counts, found.below, found.above) == ((2, 1), 1, 2)


@pytest.mark.parametrize(
    ("mine", "others", "words"),
    [
        (lambda: Moments(3), lambda: Moments(4), "d is 3 here and 4 there"),
        (lambda: Moments(3), lambda: Counts(), "got a Counts, wanted a Moments"),
        (lambda: ClassMoments(2, 3), lambda: ClassMoments(3, 3), "classes is 2 here and 3 there"),
        (lambda: DenseProducts(3), lambda: KeptRows(3, 5), "got a KeptRows"),
        (lambda: SketchedProducts(9, 2, 0), lambda: SketchedProducts(9, 2, 1), "seed is 0 here and 1 there"),
        (lambda: Histogram([0.0, 1.0]), lambda: Histogram([0.0, 2.0]), "edges is"),
        (lambda: Quantiles(0.01), lambda: Quantiles(0.02), "error is 0.01 here and 0.02 there"),
    ],
)
def test_what_was_made_differently_is_not_merged(mine, others, words):
    with pytest.raises(InputError, match=words):
        mine().merge(others())
    if type(mine()) is type(others()):
        with pytest.raises(InputError, match="load_state_dict"):
            mine().load_state_dict(others().state_dict())


def test_bad_input_is_told_in_a_sentence():
    full = KeptRows(3, 4)
    full.update(drawn(3, 3))
    for call, words in (
        (lambda: DenseProducts(100_000), r"would hold 80,000,000,000 bytes, .* take the form 'sketch'"),
        (lambda: Moments(100_000), r"80,000,000,000 bytes"),
        (lambda: full.update(drawn(2, 3)), "got 5, wanted at most 4"),
        (lambda: Moments(3).update(drawn(2, 4)), r"got shape \(2, 4\), wanted \(rows, 3\)"),
        (lambda: Moments(2).update(torch.tensor([[1.0, float("nan")]])), "batch: row 0 holds a NaN"),
        (lambda: Moments(2).result().covariance, "wanted at least 2"),
        (lambda: ClassMoments(2, 2).update(drawn(2, 2), torch.tensor([0, 2])), "got 0 to 2, wanted 0 to 1"),
        (lambda: DenseProducts(3).result(), "no row came yet"),
        (lambda: SketchedProducts(5, 6, 0), "k: got 6, wanted 1 to 5"),
        (lambda: outer_products(5, "gram"), "say how many at most"),
        (lambda: outer_products(5, "square"), "got 'square', wanted 'dense', 'gram' or 'sketch'"),
        (lambda: Counts().update(drawn(3)), "Histogram counts the others"),
        (lambda: Histogram([1.0, 0.0]), "ascending"),
        (lambda: Quantiles(0.7), "error: got 0.7"),
        (lambda: Quantiles().result().quantile(0.5), "nothing was counted yet"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    one = KeptRows(4, 3)
    one.update(drawn(2, 4))
    with pytest.raises(InputError, match="k: got 3, wanted 1 to 2"):
        one.result().top(3)
