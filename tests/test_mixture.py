"""The coverage curve against a dense oracle, and both theories of sharing on planted libraries: the right one wins."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from strandscope.errors import InputError, TrustError
from strandscope.laws.law import laws_json
from strandscope.laws.sharing import _fit_missing as fit_missing
from strandscope.laws.sharing import _fit_smooth as fit_smooth
from strandscope.laws.sharing import contest, crps, missing_mass, nearer, results
from strandscope.strand import mixture
from strandscope.strand.library import Library, libraries, strands_of
from strandscope.strand.mixture import Coverage, Replicates, coverage, library_sizes

DRAWS, WIDTH, RANK = 32, 128, 10
SPECTRUM = np.arange(1, RANK + 1.0) ** -1 / (np.arange(1, RANK + 1.0) ** -1).sum()


# --- planted worlds: nothing here is taken from the code that measures them ---


def drawn(bases: np.ndarray, generator: np.random.Generator, noise: float = 0.5) -> torch.Tensor:
    """Gradients (contexts, draws, width) whose metric is bases (contexts, rank, width) with SPECTRUM, plus isotropic noise."""
    contexts, rank, width = bases.shape
    inside = generator.standard_normal((contexts, DRAWS, rank)) * np.sqrt(SPECTRUM)
    rows = inside @ bases + np.sqrt(noise / width) * generator.standard_normal((contexts, DRAWS, width))
    return torch.tensor(rows, dtype=torch.float32)


def frames(count: int, generator: np.random.Generator, width: int = WIDTH) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((count, width, RANK)))[0].transpose(0, 2, 1)


def discrete(contexts: int, types: int, generator: np.random.Generator) -> torch.Tensor:
    return drawn(frames(types, generator)[generator.integers(0, types, contexts)], generator)


def smooth(contexts: int, parameters: int, length: float, generator: np.random.Generator) -> torch.Tensor:
    """Directions that are Gaussian fields over parameters in a unit cube, with correlation length `length`."""
    place = generator.random((contexts, parameters))
    waves = generator.standard_normal((400, parameters)) / length
    features = np.sqrt(2 / 400) * np.cos(place @ waves.T + 2 * np.pi * generator.random(400))
    fields = generator.standard_normal((RANK, 400, WIDTH)) / np.sqrt(WIDTH)
    return drawn(np.einsum("cf,rfd->crd", features, fields), generator)


def measured(gradients: torch.Tensor, seed: int = 0, **more) -> Coverage:
    return coverage(gradients, generator=np.random.default_rng(seed), **more)


# --- the measurement ---


def test_shares_agree_with_a_dense_oracle() -> None:
    generator = np.random.default_rng(0)
    gradients = discrete(14, 3, generator)
    strands, weights = strands_of(gradients, 4)
    rows = gradients.double().numpy()
    for context in range(14):
        left = np.linalg.svd(rows[context])[2][:4]
        assert np.abs(strands[context].numpy()[::-1] @ left.T).round(6).tolist() == np.eye(4).tolist()
    power = np.linalg.svd(rows, compute_uv=False) ** 2
    assert weights.flip(1).numpy() == pytest.approx(power[:, :4] / power.sum(1, keepdims=True))

    half = gradients[0].double().unflatten(0, (2, -1))
    orders = [[generator.permutation(np.arange(1, 14)) for _ in range(2)]]
    found = Library.of(strands).scores(half, orders, (3, 7, 12), 3)
    for repeat, order in enumerate(orders[0]):
        for k, size in enumerate((3, 7, 12)):
            held = [float((half[0] @ strands[i].T).square().sum()) for i in order[:size]]
            near = order[np.argsort(held)[::-1][:3]]
            span = np.linalg.qr(np.concatenate([strands[i].numpy() for i in near]).T)[0]
            a, b = (part.numpy() @ span for part in half)
            best = np.linalg.svd(a)[2][:4]
            share = ((b @ best.T) ** 2).sum() / float(half[1].square().sum())
            assert found[0, repeat, k] == pytest.approx(share, rel=1e-4)


def test_the_ceiling_is_what_one_half_finds_and_the_other_scores() -> None:
    gradients = discrete(24, 4, np.random.default_rng(1))
    found = measured(gradients, rank=5)
    for context in (0, 11):
        a, b = gradients[context].double().numpy().reshape(2, -1, WIDTH)
        best, few = (np.linalg.svd(rows)[2][:5] for rows in (a, a[: len(a) // 2]))
        for share, directions in ((found.ceiling, best), (found.quarter, few)):
            assert share[context] == pytest.approx(((b @ directions.T) ** 2).sum() / (b**2).sum())


def test_a_rotation_of_the_space_changes_nothing_that_was_measured() -> None:
    gradients = discrete(24, 4, np.random.default_rng(2))
    turn = torch.tensor(np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, WIDTH)))[0])
    scale = torch.tensor(np.random.default_rng(4).uniform(0.1, 10, (24, 1, 1)))
    one, two = measured(gradients), measured((gradients.double() @ turn) * scale)
    np.testing.assert_allclose(two.nearest, one.nearest, rtol=1e-4)
    np.testing.assert_allclose(two.ceiling, one.ceiling, rtol=1e-5)
    for size in one.pooled:
        np.testing.assert_allclose(two.pooled[size], one.pooled[size], rtol=1e-4)


def test_contexts_of_a_group_never_stand_in_each_others_library() -> None:
    """Every context has a twin with the same strand; in one group with it, it holds no more than chance."""
    generator = np.random.default_rng(5)
    gradients = drawn(np.repeat(frames(30, generator), 2, axis=0), generator)
    pairs = [f"p{k // 2}" for k in range(60)]
    apart, together = measured(gradients), measured(gradients, groups=pairs)
    assert apart.shared().low > 0.5
    assert abs(together.shared().value) < 0.05
    assert all(together.blocks[2 * k] == together.blocks[2 * k + 1] for k in range(30))


def test_a_block_is_deleted_from_both_roles() -> None:
    """With one context of a type in every block but one, nobody there is served once that block is out."""
    generator = np.random.default_rng(6)
    found = measured(discrete(40, 6, generator), blocks=5, sizes=(6, 20))
    for block in range(5):
        assert np.isnan(found.nearest[1 + block][found.blocks == block]).all()
        assert np.isfinite(found.nearest[1 + block][found.blocks != block]).all()
    assert np.isfinite(found.nearest[0]).all()
    counted = found.replicates(lambda kept, near: float(len(kept)))
    assert counted.value == 40 and counted.without.tolist() == [40 - int((found.blocks == b).sum()) for b in range(5)]


def test_a_deleted_block_stands_in_nobody_s_library() -> None:
    """All strands are private but those of one pair, which serve each other until the other's block is out."""
    generator = np.random.default_rng(14)
    bases = frames(40, generator, 200)
    bases[22] = bases[5]
    found = measured(drawn(bases, generator), blocks=8, sizes=(30,), repeats=6)
    one, other = found.blocks[5], found.blocks[22]
    assert one != other
    share = found.nearest[..., 0].max(-1) / found.ceiling  # (1 + blocks, contexts): of six libraries of 30 some hold the partner
    for context, partner in ((5, other), (22, one)):
        assert share[0, context] > 0.8 and share[1 + partner, context] < 0.6
        assert all(share[1 + block, context] > 0.8 for block in range(8) if block not in (one, other))


def test_replicates_leave_a_block_out_of_both_roles_and_readings_are_of_the_level_asked_for() -> None:
    found = measured(discrete(30, 5, np.random.default_rng(15)), blocks=6, sizes=(6, 18))
    replicates = found.replicates(lambda _, near: float(near.mean()))
    value = float(replicates.value)
    assert value == pytest.approx(found.nearest[0].mean())
    kept = [found.nearest[1 + b][found.blocks != b] for b in range(6)]
    assert replicates.without == pytest.approx([near.mean() for near in kept])
    assert replicates.single == pytest.approx(np.array([[near[:, draw].mean() for near in kept] for draw in range(2)]))
    for level in (0.8, 0.95):
        reading = found.reading(lambda _, near: float(near.mean()), unit="", method="", level=level)
        reach = student.ppf(0.5 + level / 2, 5) * float(replicates.error())
        assert (reading.low, reading.high, reading.level) == pytest.approx((value - reach, value + reach, level))
    near, own = found.nearest[0], found.ceiling
    assert found.missing()[18].value == pytest.approx(1 - near[..., 1].mean() / own.mean())
    assert found.curve()[6].value == pytest.approx(near[..., 0].mean())


def test_the_error_counts_what_draws_have_in_common_as_contexts_and_their_luck_once() -> None:
    """A figure whose blocks move it by c and whose draws of sub-libraries are noise of their own: J = var c, L as known."""
    generator, blocks, draws = np.random.default_rng(18), 40_000, 3
    common, luck = generator.normal(size=(blocks, 1)), generator.normal(size=(blocks, draws))
    single = (common + luck) / blocks  # so that (B − 1)/B·Σ of squares is the variance over blocks, divided by their number
    exchanged = 0.003 * generator.normal(size=20_000)
    error = float(Replicates(np.zeros(()), single.mean(1), single.T, exchanged).error())
    assert error**2 == pytest.approx(1 / blocks + 0.003**2 / 2, rel=0.05)
    alone = Replicates(np.zeros(()), single[:, 0], single[:, :1].T, exchanged)
    assert float(alone.error()) ** 2 == pytest.approx(2 / blocks, rel=0.05)  # one draw: its luck cannot be told apart
    apart = Replicates(np.zeros(()), single[:, 0] / 2, np.stack([single[:, 0], 0 * single[:, 0]]), np.zeros(2))
    assert float(apart.error()) ** 2 == pytest.approx(2 / 4 / blocks / 2, rel=0.05)  # nothing in common: half of the jackknife's
    assert Replicates(np.zeros(()), np.array([1.0, 2.0, 3.0]), np.zeros((1, 3)), np.zeros(2)).error() == pytest.approx(
        (4 / 3) ** 0.5
    )


def test_exchanged_draws_are_each_context_s_own() -> None:
    found = measured(discrete(30, 5, np.random.default_rng(19)))
    seen: list[np.ndarray] = []
    found.replicates(lambda _, near: seen.append(near[:, 0, -1]) or 0.0)
    exchanged = np.array(seen[-mixture.EXCHANGES :])  # (exchanges, contexts): what is asked last
    draws = found.nearest[0, ..., -1]
    assert np.isin(exchanged, draws).all() and (exchanged[:, :, None] == draws[None]).any(-1).all()
    differ = np.flatnonzero(draws[:, 0] != draws[:, 1])
    first = exchanged[:, differ] == draws[differ, 0]
    assert 0.3 < first.mean() < 0.7 and (first[:, :1] != first).any()  # contexts are not exchanged together


def test_shared_goes_from_the_recorded_unrelated_library_to_the_ceiling_and_its_control_is_the_other_one() -> None:
    found = measured(discrete(30, 5, np.random.default_rng(16)))
    floor, again = found.unrelated[..., -1].mean((1, 2))
    room = found.ceiling.mean() - floor
    assert floor != again and found.unrelated[0, :, :, 0].mean() != floor
    assert found.shared().value == pytest.approx((found.nearest[0, ..., -1].mean() - floor) / room)
    assert found.shared(control=True).value == pytest.approx((again - floor) / room)


def test_what_is_pooled_is_pooled_from_other_blocks_and_by_the_share_that_directions_hold(monkeypatch) -> None:
    given, pooled = [], mixture._pooled
    monkeypatch.setattr(mixture, "_pooled", lambda rows, *more: given.append(rows) or pooled(rows, *more))
    generator = np.random.default_rng(17)
    gradients = drawn(np.repeat(frames(8, generator, 400), 2, axis=0), generator)
    apart, together = (measured(gradients, groups=groups, sizes=(12,)) for groups in (None, [f"p{k // 2}" for k in range(16)]))
    held = [float(found.pooled[12].mean()) for found in (apart, together)]
    assert held[0] > 2 * held[1] and held[1] < 0.3
    power = np.linalg.svd(gradients.double().numpy(), compute_uv=False) ** 2
    share = (power / power.sum(1, keepdims=True))[:, :RANK]
    assert given[0].square().sum(-1).flip(1).numpy() == pytest.approx(share)


def test_chance_is_what_sixty_directions_at_random_hold() -> None:
    """Strands of ten directions without noise: what sixty of 128 dimensions hold of them has ten directions too, all kept."""
    generator = np.random.default_rng(18)
    found = measured(drawn(frames(30, generator), generator, noise=0.0), sizes=(6,))
    assert found.chance.mean() == pytest.approx(60 / WIDTH, abs=0.03)


def test_an_unrelated_library_has_every_strand_in_an_order_and_of_signs_of_its_own() -> None:
    width = 400
    for same in (torch.ones(width) / width**0.5, torch.eye(width)[0]):
        strands = same.double().expand(20, 1, width).contiguous()
        recorded, *unrelated = libraries(strands, np.random.default_rng(0))
        assert torch.equal(recorded, strands)
        for library in (*unrelated, torch.cat(unrelated, 1)[:, :1]):
            flat = torch.cat([strands[:1, 0], library[:, 0]])
            inner = (flat @ flat.T).abs().fill_diagonal_(0)
            assert float(library.norm(dim=-1).min()) == pytest.approx(1) and float(inner.mean()) < 0.08
        assert not torch.equal(*unrelated)


def test_the_mean_of_a_curve_has_the_standard_error_of_contexts() -> None:
    found = measured(discrete(80, 4, np.random.default_rng(7)))
    reading = found.level_of(found.ceiling, "ceiling")
    plain = 2 * found.ceiling.std(ddof=1) / np.sqrt(80)
    assert (reading.high - reading.low) / 2 == pytest.approx(plain, rel=0.35)


def test_unrelated_strands_hold_what_choice_alone_gives() -> None:
    """Where every context has a strand of its own, recorded strands hold what unrelated ones do, and more neighbours to choose
    from give both more."""
    generator = np.random.default_rng(8)
    found = measured(drawn(frames(90, generator), generator))
    near, unrelated = found.nearest[0].mean((0, 1)), found.unrelated.mean((1, 2))
    np.testing.assert_allclose(near, unrelated[0], atol=0.02)
    assert near[-1] > near[0] + 0.02
    assert abs(found.shared(control=True).value) < 0.03
    assert contest(found).verdict in ("nothing shared", "cannot tell")


def test_library_sizes_end_exactly() -> None:
    sizes = library_sizes(180)
    assert (sizes[0], sizes[-1]) == (6, 180)
    assert all(1.2 < b / a < 1.7 for a, b in pairwise(sizes))
    assert library_sizes(6) == (6,)


# --- the theories, piece by piece ---


def test_crps_is_the_mean_distance_of_distributions() -> None:
    generator = np.random.default_rng(9)
    values, came = generator.normal(size=40).round(1), generator.normal(size=25).round(1)
    weights = generator.random(40)
    weights /= weights.sum()
    distance = (weights[:, None] * np.abs(values[:, None] - came)).sum(0).mean()
    spread = (weights[:, None] * weights * np.abs(values[:, None] - values)).sum() / 2
    assert crps(values, weights, came) == pytest.approx(distance - spread)
    assert crps(np.array([2.0]), np.ones(1), came) == pytest.approx(np.abs(came - 2).mean())


def test_missing_mass_is_that_of_drawn_weights() -> None:
    generator = np.random.default_rng(10)
    a, b = 0.6, 5.0
    weights = generator.beta(a, b, 400_000)
    for n in (1, 5, 20):
        assert float(missing_mass(n, a / (a + b), a + b)) == pytest.approx(((1 - weights) ** n).mean(), rel=0.02)
    assert float(missing_mass(30, 0.05, 1e6)) == pytest.approx(0.95**30, rel=1e-2)


def test_fits_find_the_curve_that_was_drawn() -> None:
    sizes = np.array([6.0, 8, 12, 17, 24, 34, 48])
    weight, precision = fit_missing(sizes, missing_mass(sizes, 0.03, 9.0))
    assert float(missing_mass(170, weight, precision)) == pytest.approx(float(missing_mass(170, 0.03, 9.0)), rel=0.01)
    start = 0.1 + 0.9 * (1 + 48 / np.random.default_rng(11).uniform(10, 60, 300)) ** -0.8
    ratios = sizes / 48
    curve = nearer(start, ratios[:, None], 0.1, 0.8, 1.0).mean(-1)
    limit, exponent = fit_smooth(ratios, curve, start, 1.0, 0.0)
    far = [nearer(start, 3.5, *found, 1.0).mean() for found in ((0.1, 0.8), (limit, exponent))]
    assert far[0] == pytest.approx(far[1], abs=0.02)  # its grid of limits is a coarse one


def test_the_smooth_theory_ends_in_its_power_law_and_leaves_noise_alone() -> None:
    gaps = np.array([-0.2, 0.3, 1.1])
    assert nearer(gaps, 1.0, 0.0, 0.7, 1.0) == pytest.approx(gaps)
    assert nearer(gaps, 50.0, 0.0, 0.7, 1.0)[[0, 2]].tolist() == [-0.2, 1.1]
    near, far = nearer(gaps[1:2], 1e6, 0.0, 0.7, 1.0), nearer(gaps[1:2], 1e7, 0.0, 0.7, 1.0)
    assert float(far[0] / near[0]) == pytest.approx(10**-0.7, rel=1e-3)


# --- the theories, on planted worlds ---


def test_a_discrete_library_is_told_from_a_smooth_family() -> None:
    found, law, other = results(measured(discrete(120, 40, np.random.default_rng(0)), 99), "planted")
    assert found.verdict == "discrete" and found.difference.low > 0
    assert law.verdict != "violated" and other.verdict != "consistent"
    assert law.control.verdict == other.control.verdict == "passed"
    assert 1 / found.theories[0].parameters["weight"] == pytest.approx(40, rel=0.35)  # as many types as were planted
    json.dumps(laws_json([law, other]), allow_nan=False)


def test_a_smooth_family_is_told_from_a_discrete_library() -> None:
    found, other, law = results(measured(smooth(180, 4, 0.35, np.random.default_rng(0)), 99), "planted")
    assert found.verdict == "smooth" and found.difference.high < 0
    assert law.verdict == "consistent" and other.ratio.low > 1
    assert found.fitted[-1] * 3.4 < found.tested[-1]


def test_where_nothing_is_shared_neither_theory_speaks() -> None:
    generator = np.random.default_rng(12)
    private = drawn(frames(80, generator, 400), generator)
    found, *laws = results(measured(private, sizes=(6, 20, 60)), "planted")
    assert found.verdict == "nothing shared" and "less than 0.05" in found.reason
    assert [law.verdict for law in laws] == ["out of domain"] * 2
    noise = torch.tensor(generator.standard_normal((40, DRAWS, WIDTH)))
    found = contest(measured(noise))
    assert found.verdict == "out of domain" and "no more" in found.reason


def test_few_contexts_are_too_few_to_extrapolate() -> None:
    found = contest(measured(discrete(40, 6, np.random.default_rng(13))))
    assert found.verdict == "out of domain" and "record more contexts" in found.reason


# --- bad input ---


@pytest.mark.parametrize(
    ("gradients", "more", "words"),
    [
        (torch.ones(20, 30), {}, "wanted \\(contexts, draws, d\\)"),
        (torch.ones(5, 30, 100), {}, "got 5 contexts"),
        (torch.ones(20, 10, 100), {}, "10 draws"),
        (torch.ones(20, 30, 50), {}, "50 dimensions"),
        (torch.zeros(20, 30, 100), {}, "no response at all"),
        (torch.ones(20, 30, 100), {"groups": ["a", "b"]}, "groups: got 2"),
        (torch.ones(20, 30, 100), {"groups": ["a", "b"] * 10}, "at least 4"),
        (torch.ones(20, 30, 100), {"sizes": (3, 9)}, "sizes: got 3 to 9"),
        (torch.ones(20, 30, 100), {"sizes": (6, 19)}, "sizes: got 6 to 19"),
    ],
)
def test_bad_input_is_one_sentence(gradients: torch.Tensor, more: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measured(gradients, **more)


def test_a_context_that_is_not_finite_is_named() -> None:
    gradients = torch.ones(20, 30, 100)
    gradients[7, 3, 1] = torch.nan
    with pytest.raises(TrustError, match="context 7"):
        measured(gradients)
