"""What a push costs: χ, the next two orders and the edge against closed forms, in a softmax model and in a tiny network."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from scipy.stats import t as student
from torch import Tensor

import tiny_chat
from pushing import SITE, hooked, logprobs, opened, own_costs, pushed, vector
from strandscope.capture.derivative import directional
from strandscope.capture.predict import next_token_logprobs
from strandscope.capture.variants import under_edits
from strandscope.control import price as prices
from strandscope.control.bench import Bench
from strandscope.control.edit import Add
from strandscope.control.price import first_half, price
from strandscope.errors import InputError
from strandscope.laws import price as laws_price
from strandscope.laws.price import (
    Costs,
    divergence,
    edge_of,
    expand,
    foretell,
    half_width,
    judge_edge,
    measure_edge,
    passage,
    susceptibility,
)
from strandscope.subject.attach import Scope
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

# --- a linear softmax model: logits z + c·s, whose KL is the generating function of the cumulants of s under p ---


def softmax_model(rows: int = 60, words: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """Logits z (rows, words), their slopes s = Wv along the push, and the rows' topics."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, words, generator=draw, dtype=torch.float64),
        torch.randn(rows, words, generator=draw, dtype=torch.float64),
        np.arange(rows) % 12,
    )


def cumulants(z: Tensor, s: Tensor) -> np.ndarray:
    """κ₂, κ₃, κ₄ (3, rows) of s under softmax(z), from central moments."""
    p = z.softmax(-1)
    away = s - (p * s).sum(-1, keepdim=True)
    second, third, fourth = ((p * away**k).sum(-1).numpy() for k in (2, 3, 4))
    return np.stack([second, third, fourth - 3 * second**2])


def softmax_costs(z: Tensor, s: Tensor, topics: np.ndarray, sizes: np.ndarray) -> Costs:
    plain = z.log_softmax(-1)
    up, down = (np.stack([divergence(plain, (z + sign * float(size) * s).log_softmax(-1)) for size in sizes]) for sign in (1, -1))
    return Costs(sizes, up, down, susceptibility(plain, s), topics)


def test_chi_is_the_variance_of_the_logits_slopes() -> None:
    """χ = vᵀWᵀ(diag p − ppᵀ)Wv; whether the slope is that of the logits or of the log-probabilities does not matter."""
    z, s, _ = softmax_model()
    p = z.softmax(-1)
    wanted = [float(row @ (torch.diag(q) - torch.outer(q, q)) @ row) for q, row in zip(p, s, strict=True)]
    assert susceptibility(z.log_softmax(-1), s) == pytest.approx(wanted, rel=1e-12)
    assert susceptibility(z.log_softmax(-1), s - (p * s).sum(-1, keepdim=True)) == pytest.approx(wanted, rel=1e-12)
    assert susceptibility(z.log_softmax(-1), s)[0] == pytest.approx(cumulants(z, s)[0][0], rel=1e-12)


def test_chi_takes_words_that_cannot_come() -> None:
    logprobs = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert susceptibility(logprobs, torch.tensor([[1.0, -1.0, float("nan")]])) == pytest.approx([1.0])


def test_a_and_b_are_the_third_and_fourth_cumulants() -> None:
    """KL(c) = ½κ₂c² + κ₃c³/6 + κ₄c⁴/24 + …, so the ratio of means has a = Σκ₃/3Σκ₂ and b = Σκ₄/12Σκ₂."""
    z, s, topics = softmax_model()
    second, third, fourth = cumulants(z, s).sum(1)
    for sizes, close in ((np.array([0.02, 0.04]), 1e-5), (np.array([0.1, 0.2]), 3e-3)):
        a, b = expand(sizes, *(side[None] for side in softmax_costs(z, s, topics, sizes).ratios()))
        assert (float(a[0]), float(b[0])) == (
            pytest.approx(third / 3 / second, rel=close, abs=close / 10),
            pytest.approx(fourth / 12 / second, rel=close),
        )


def test_the_expansion_is_extrapolated_to_no_push_at_all() -> None:
    """Richardson: the error falls as the fourth power of the size, not as the square."""
    z, s, topics = softmax_model()
    second, third, _ = cumulants(z, s).sum(1)
    errors = []
    for small in (0.05, 0.1, 0.2):
        sizes = np.array([small, 2 * small])
        (a,), _ = expand(sizes, *(side[None] for side in softmax_costs(z, s, topics, sizes).ratios()))
        errors.append(abs(float(a) - third / 3 / second))
    assert np.polyfit(np.log([0.05, 0.1, 0.2]), np.log(errors), 1)[0] == pytest.approx(4, abs=0.4)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (0.1, 0.0, 2.0),
        (-0.1, 0.0, 2.0),
        (0.0, 0.2, 1.0),
        (0.0, -0.2, 1.0),
        (1.0, -1.0, 0.2 / ((1 + math.sqrt(0.2)) / 2)),  # rises to 1.25, and passes 1.2 on its way up
        (0.5, -0.5, (1 + math.sqrt(2.6)) / 2),  # rises to 1.125 only, and leaves at 0.8
        (0.0, 0.0, math.inf),
    ],
)
def test_the_edge_is_where_the_ratio_first_leaves_the_band(a: float, b: float, wanted: float) -> None:
    found = float(edge_of(a, b))
    assert found == pytest.approx(wanted, rel=1e-12)
    if math.isfinite(found):
        sizes = np.linspace(0, found, 10_001)[1:-1]
        assert np.abs(a * sizes + b * sizes**2).max() < 0.2
        assert abs(a * found + b * found**2) == pytest.approx(0.2)


def test_edges_of_many_at_once_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 200))
    assert edge_of(a, b) == pytest.approx([float(edge_of(x, y)) for x, y in zip(a, b, strict=True)])


def test_a_passage_is_found_between_two_sizes() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    up = passage(sizes, np.array([1.0, 1.1, 1.3, 1.0]))[0]
    down = passage(sizes, np.array([1.0, 0.9, 0.5, 1.0]))[0]
    assert (up, down) == (pytest.approx(2 * 2**0.5), pytest.approx(2 * 2**0.25))
    assert passage(sizes, np.array([[1.0, 1.1, 1.19, 0.81], [0.7, 1.0, 1.0, 1.0]])).tolist() == [math.inf, 1.0]


def test_the_edge_is_predicted_on_some_rows_and_found_on_others() -> None:
    """A softmax model again: the law is consistent, its control violated, and the opposite direction has an edge of its own."""
    gap = -2 + 0.4 * torch.randn(900, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, s = torch.stack([gap, 0 * gap], 1), torch.tensor([1.0, 0.0], dtype=torch.float64).expand(900, 2)  # skewed: a is not 0
    topics = np.arange(900) % 24
    costs = softmax_costs(z, s, topics, np.geomspace(0.02, 3, 30))
    for seen in (costs, costs.opposite):
        first = topics < 12
        told = foretell(seen.of(first).at(np.array([0, 4])), "test")
        found = judge_edge("here", told, seen.of(~first))
        assert found.verdict == "consistent" and found.control.verdict == "passed", found.ratio
        assert told.edge.low and told.edge.value and told.edge.high and told.edge.low < told.edge.value < told.edge.high
    misled = foretell(_wider(costs).of(first), "test")
    wrong = judge_edge("here", misled, costs.of(~first))
    assert wrong.verdict == "violated"


def test_the_interval_of_measured_over_predicted_counts_the_topics_of_both_halves() -> None:
    """Two jackknives added, with Satterthwaite's degrees of freedom from scipy's kurtosis; the control's interval is as wide."""
    draw = np.random.default_rng(3)
    gap = -2 + 0.6 * torch.as_tensor(draw.normal(size=600))
    z, s = torch.stack([gap, 0 * gap], 1), torch.tensor([1.0, 0.0], dtype=torch.float64).expand(600, 2)
    topics = np.where(np.arange(600) < 150, np.arange(600) % 8, 8 + np.arange(600) % 30)
    costs = softmax_costs(z, s, topics, np.geomspace(0.02, 3, 30))
    told = foretell(costs.of(topics < 8).at(np.array([0, 4])), "test")
    found, (_, without) = judge_edge("here", told, costs.of(topics >= 8)), measure_edge(costs.of(topics >= 8), "test")
    variance = doubt = 0.0
    for log in (np.log(told.without), np.log(without)):
        n, off = len(log), log - log.mean()
        own = (n - 1) / n * np.square(off).sum()
        variance, doubt = variance + own, doubt + own**2 / min(2 / (kurtosis(off, bias=False) / n + 2 / (n - 1)), n - 1)
    reach = student.ppf(0.975, variance**2 / doubt) * variance**0.5
    for reading, times in ((found.ratio, 1.0), (found.control.ratio, 2.0)):
        assert reading.value is not None and reading.low is not None and reading.high is not None
        assert reading.value == pytest.approx(times * found.reading.value / told.edge.value)
        assert [math.log(reading.value / reading.low), math.log(reading.high / reading.value)] == pytest.approx([reach, reach])


def _wider(costs: Costs) -> Costs:
    """Small doses whose third order is a fifth of what it is."""
    small = costs.at(np.array([0, 4]))
    mean = (small.up + small.down) / 2
    return Costs(small.sizes, mean + (small.up - mean) / 5, mean + (small.down - mean) / 5, small.chi, small.topics)


def test_the_cost_at_the_edge_is_the_ratio_times_the_square() -> None:
    z, s, topics = softmax_model(120)
    costs = softmax_costs(z, s.exp(), topics, np.array([0.02, 0.04]))
    told = foretell(costs, "test")
    assert told.edge.value is not None and told.nats.value is not None
    factor = told.nats.value / (0.5 * told.edge.value**2 * costs.chi.mean())
    assert abs(factor - 1) == pytest.approx(0.2)


def test_an_edge_beyond_the_largest_size_is_not_measured() -> None:
    z, s, topics = softmax_model()
    reading, _ = measure_edge(softmax_costs(z, s, topics, np.array([0.001, 0.002, 0.003])), "test")
    assert reading.status == "not measured" and "up to the largest size tried, 0.003" in reading.reason


def test_the_interval_of_a_holds_it_as_often_as_it_says() -> None:
    """200 samples of 12 topics from a population whose a and b are known; binomial error of the coverage .015."""
    z, s, _ = softmax_model(20_000, seed=1)
    sizes = np.array([0.05, 0.1])
    second, third, fourth = cumulants(z, s).sum(1)
    everything = softmax_costs(z, s, np.arange(20_000), sizes)
    draw, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        rows = draw.choice(20_000, 120, replace=False)
        told = foretell(replace(everything.of(rows), topics=np.arange(120) % 12), "test")
        for number, (reading, truth) in enumerate(((told.a, third / 3 / second), (told.b, fourth / 12 / second))):
            assert reading.low is not None and reading.high is not None
            held[number] += reading.low <= truth <= reading.high
    assert (held / 200 >= 0.88).all() and (held / 200 <= 0.99).all()


def test_the_interval_of_a_mean_by_topic_holds_it_as_often_as_it_says() -> None:
    """2,000 sets of 96 costs of 24 topics that differ, skewed as costs are; binomial error of the coverage .005."""
    draw = np.random.default_rng(0)
    topics = np.arange(96) % 24
    held = 0
    for _ in range(2000):
        costs = 1 + 0.5 * draw.standard_normal(24)[topics] + 0.3 * (draw.gamma(4.0, 0.25, 96) - 1)
        held += abs(costs.mean() - 1) <= half_width(costs, topics)
    assert 0.935 <= held / 2000 <= 0.965


def test_topics_of_unequal_size_are_drawn_whole() -> None:
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    found = laws_price._means(np.array([1.0, 2.0, 3.0, 10.0]), np.array([4, 4, 4, 7]), weights)
    assert found == pytest.approx([2, 10, 4, 22 / 7])


def test_costs_that_do_not_fit_are_refused() -> None:
    z, s, topics = softmax_model()
    good = softmax_costs(z, s, topics, np.array([0.1, 0.2]))
    with pytest.raises(InputError, match=r"^costs: got .*, wanted \(sizes, rows\) = \(2, 59\) and a topic for each row$"):
        Costs(good.sizes, good.up, good.down, good.chi[:-1], good.topics)
    with pytest.raises(InputError, match=r"^costs: got sizes \[0.0, 0.2\], wanted finite ones above 0$"):
        Costs(np.array([0.0, 0.2]), good.up, good.down, good.chi, good.topics)
    with pytest.raises(InputError, match=r"^small doses: got sizes \[0.1\], wanted two that differ$"):
        foretell(good.at(np.array([0])), "test")
    with pytest.raises(InputError, match=r"^topics: got 3, wanted at least 4"):
        foretell(Costs(good.sizes, good.up, good.down, good.chi, topics % 3), "test")


# --- the same in a network ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return opened(folder)


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench.of(subject, 60)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_derivative_is_that_of_central_differences(folder: Path, positions: Any) -> None:
    """Passes of our own in float64, each row by itself; at two steps, extrapolated, since norms are computed in fp32."""
    fine = opened(folder, "float64")
    bench = Bench.of(fine, 12)
    plain, slope = directional(fine, bench.tokens, {SITE: [(vector(), Scope(positions=positions))]})
    for row, ids in enumerate(bench.tokens.ids):
        coarse = []
        for step in (0.04, 0.08):
            ends = []
            for sign in (1, -1):
                with hooked(fine, pushed(sign * step * vector(), positions)):
                    ends.append(logprobs(fine, ids))
            coarse.append((ends[0] - ends[1]) / (2 * step))
        assert torch.allclose(plain[row].double(), logprobs(fine, ids), atol=1e-6)
        assert torch.allclose(slope[row].double(), (4 * coarse[0] - coarse[1]) / 3, atol=5e-5)
    assert float(slope.abs().max()) > 1e-2


def test_derivatives_of_several_sites_add(subject: Subject, bench: Bench) -> None:
    tokens = bench.tokens.subset(range(4))
    moves = {Site("resid", 0): [(vector(1), Scope())], SITE: [(vector(2), Scope(positions="last"))]}
    together = directional(subject, tokens, moves)[1]
    apart = sum(directional(subject, tokens, {site: pairs})[1] for site, pairs in moves.items())
    assert torch.allclose(together, apart, atol=1e-5)  # type: ignore[arg-type]


def test_a_network_without_such_a_derivative_is_told(subject: Subject, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> Tensor:
        raise NotImplementedError("Trying to use forward AD with _foo that does not support it\nmore")

    monkeypatch.setattr("strandscope.capture.derivative.next_token_logprobs", refuses)
    with pytest.raises(InputError, match=r"has no forward-mode derivative \(Trying to use forward AD with _foo .* support it\);"):
        directional(subject, bench.tokens, {SITE: [(vector(), Scope())]})


def test_many_edits_of_the_last_position_are_each_by_itself(subject: Subject, bench: Bench) -> None:
    """Rows of several lengths, in passes that hold fewer tokens than there are rows and edits."""
    edits = [Add(vector(seed), scale) for seed, scale in ((0, 0.5), (1, -2.0), (2, 0.0))]
    seen, tokens = set(), bench.tokens
    wanted = [next_token_logprobs(subject, tokens, {SITE: [(edit, Scope(positions="last"))]}) for edit in edits]
    for rows, number, said in under_edits(subject, tokens, SITE, edits, batch_rows=2):
        assert torch.allclose(said, wanted[number][rows], atol=1e-5)
        seen |= {(row, number) for row in rows}
    assert seen == {(row, number) for row in range(60) for number in range(3)}


def test_where_contexts_cannot_be_kept_every_edit_takes_whole_rows(subject: Subject, bench: Bench) -> None:
    """A foreign hook could tell the passes apart."""
    tokens, edits = bench.tokens.subset(range(5)), [Add(vector(), 0.5)]
    lengths: list[int] = []
    handle = subject.module.register_forward_pre_hook(
        lambda _m, _a, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    ((rows, number, said),) = under_edits(subject, tokens, SITE, edits)
    handle.remove()
    assert (rows, number) == (list(range(5)), 0) and min(lengths) > 1
    ((_, _, kept),) = list(under_edits(subject, bench.tokens.subset([0]), SITE, edits))
    assert torch.allclose(said[:1], kept, atol=1e-5)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_chi_of_a_network_is_what_small_pushes_cost(subject: Subject, bench: Bench, positions: Any) -> None:
    chi = bench.susceptibility(SITE, vector(), positions)
    costs = sum(own_costs(subject, bench, sign * 0.05 * vector(), positions) for sign in (1, -1)) / 2  # the odd order cancels
    assert costs == pytest.approx(0.5 * 0.05**2 * chi, rel=0.02)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_price_says_what_pushes_cost(subject: Subject, bench: Bench, positions: Any) -> None:
    """The curve against passes of our own; a and b against costs of pushes ten times the small doses' inverse."""
    found = price(bench, SITE, vector(), positions)
    assert (found.site, found.positions, found.prompts, found.chi.n) == ("resid:1", positions, 60, 60)
    clear = [point for point in found.curve if not point.rounded]
    assert len(found.curve) >= 16 and found.curve[-1].size / found.curve[0].size > 0.9e5
    for point in clear[::4]:
        for side, sign in ((point.toward, 1), (point.away, -1)):
            assert side.value == pytest.approx(
                own_costs(subject, bench, sign * point.size * vector(), positions).mean(), rel=2e-3
            )
    assert found.chi.value is not None and found.a.value is not None and found.edge.value is not None
    first = first_half(bench.topics)
    assert found.a.n == int(first.sum()) and found.toward.reading.n == int((~first).sum())
    chi = bench.susceptibility(SITE, vector(), positions)[first].mean()
    size = 0.1 / float(np.sqrt(chi))
    ends = [own_costs(subject, bench, sign * size * vector(), positions)[first].mean() for sign in (1, -1)]
    assert found.a.value == pytest.approx((ends[0] - ends[1]) / (0.5 * size**2 * chi) / 2 / size, rel=0.1)
    assert found.toward.verdict in ("consistent", "underpowered") and found.rounding < 1e-6


def test_the_edge_is_tested_on_prompts_that_had_no_part_in_it(bench: Bench) -> None:
    """Costs made up so that the ratio leaves the band at 1 in the half that predicts and at 3 in the other."""
    first, sizes = first_half(bench.topics), np.geomspace(0.1, 10, 41)
    rate = np.where(first, 0.2, 0.2 / 3)  # the ratio is 1 + rate · c
    up, down = (0.5 * sizes[:, None] ** 2 * (1 + sign * rate * sizes[:, None]).clip(0) for sign in (1, -1))
    costs = Costs(sizes, up, down, np.ones(len(first)), bench.topics)
    small = np.arange(len(sizes)) < 2
    curve = tuple(prices._point(costs, number, 0.0) for number in range(len(sizes)))
    found, told = prices._tested(costs, small, first, "", "here", curve)
    assert told.edge.value == pytest.approx(1, rel=1e-6) and found.predicted == told.edge
    assert found.reading.value == pytest.approx(3, rel=0.01) and found.verdict == "violated"


class Written:
    """A bench without a network: the softmax model's costs, and what rounding adds to those of one sign."""

    network, dtype, subject = "made up", "float32", SimpleNamespace(name="softmax")

    def __init__(self, sign: float = 1.0, rounding: float = 0.0, rounded: int = -1) -> None:
        z, s, self.topics = softmax_model(rows=60, seed=7)
        s = sign * (s.square() - 1)  # skewed, so that toward and away differ
        self.plain, self.slopes, self.chi = z, s, susceptibility(z.log_softmax(-1), s)
        self.rounding, self.rounded = rounding, rounded

    def susceptibility(self, *_: Any) -> np.ndarray:
        return self.chi

    def costs_of(self, _: Any, edits: list[Add], __: Any, ___: Any = None) -> np.ndarray:
        plain, costs = self.plain.log_softmax(-1), []
        for edit in edits:
            cost = divergence(plain, (self.plain + edit.scale * self.slopes).log_softmax(-1))
            costs.append(cost + self.rounding * (np.sign(edit.scale) == self.rounded))
        return np.stack(costs)


def written(**about: Any) -> prices.Price:
    return price(Written(**about), "resid:1", torch.ones(3))  # type: ignore[arg-type]


def test_sizes_are_those_that_cost_so_many_nats_and_each_side_has_its_own_edge() -> None:
    found, turned, bench = written(), written(sign=-1.0), Written()
    assert [point.predicted for point in found.curve] == sorted(point.predicted for point in found.curve)
    assert (found.curve[0].predicted, found.curve[-1].predicted) == pytest.approx((1e-9, 10**1.5))
    assert found.chi.value == pytest.approx(bench.chi.mean()) and found.chi.n == 60 and found.rounding == 0
    assert found.toward.predicted.value == pytest.approx(turned.away.predicted.value)
    assert found.away.predicted.value == pytest.approx(turned.toward.predicted.value)
    assert abs(found.away.predicted.value / found.toward.predicted.value - 1) > 0.03  # type: ignore[operator]
    assert found.edge == found.toward.predicted and found.away.reading.value != found.toward.reading.value
    first = first_half(bench.topics)
    one = np.stack([bench.costs_of(None, [Add(torch.ones(3), size)], None)[0] for size in (1e-3, -1e-3)])[:, first].mean(1)
    half = 0.5 * 1e-6 * bench.chi[first].mean()
    assert found.a.value == pytest.approx((one[0] - one[1]) / half / 2 / 1e-3, rel=0.02)


def test_what_rounding_adds_is_read_off_the_worse_side_and_small_doses_below_it_say_nothing() -> None:
    """A price needs the floor to be at most 2 % of .0025 nats, the smaller of the small doses."""
    plain, clear, hidden = written(), written(rounding=4.5e-5), written(rounding=5.5e-5)
    assert clear.rounding == pytest.approx(4.5e-5, rel=1e-3) and hidden.rounding == pytest.approx(5.5e-5, rel=1e-3)
    assert [point.rounded for point in clear.curve] == [0.02 * point.predicted < 4.5e-5 for point in clear.curve]
    assert clear.a.value is not None and clear.away.verdict != "out of domain"
    assert clear.away.reading.value == pytest.approx(plain.away.reading.value, rel=0.01)  # sizes that rounding hides are left out
    assert hidden.a.status == hidden.b.status == hidden.edge.status == hidden.nats.status == "not measured"
    assert "use float32" in hidden.a.reason and hidden.chi.value == plain.chi.value
    for side in (hidden.toward, hidden.away):
        assert side.verdict == side.control.found == "out of domain" and side.control.verdict == "failed"


def test_the_halves_share_no_topic_and_do_not_depend_on_the_order(bench: Bench) -> None:
    first = first_half(bench.topics)
    assert set(bench.topics[first]).isdisjoint(bench.topics[~first]) and abs(first.mean() - 0.5) < 0.1
    order = np.random.default_rng(0).permutation(len(first))
    assert first_half(bench.topics[order]).tolist() == first[order].tolist()


def test_small_doses_that_rounding_hides_are_not_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding may make up is put where a large network in bf16 would be: this one has little to round."""
    monkeypatch.setattr(prices, "CLEAR", 1e-3)
    found = price(Bench.of(opened(folder, "bfloat16"), 36), SITE, vector(), "last")
    for reading in (found.a, found.b, found.edge, found.nats, found.toward.ratio):
        assert reading.status == "not measured" and "rounding in bfloat16 costs up to" in reading.reason
    assert found.toward.verdict == "out of domain" and found.chi.value is not None and found.rounding > 1e-5
    assert any(point.rounded for point in found.curve) and not found.curve[-1].rounded


def test_a_direction_or_a_site_that_is_none_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"^direction: got zeros, NaN or infinities"):
        price(bench, SITE, torch.zeros(32))
    with pytest.raises(InputError, match=r"^direction: got one of width 31, the states here have 32"):
        price(bench, SITE, torch.ones(31))
    with pytest.raises(InputError, match=r"site resid:9 does not exist"):
        price(bench, "resid:9", vector())
    with pytest.raises(InputError, match=r"^positions: got 'mean', wanted 'all' or 'last'$"):
        price(bench, SITE, vector(), "mean")  # type: ignore[arg-type]


def test_a_network_that_says_nothing_next_has_no_derivative(subject: Subject, bench: Bench) -> None:
    with pytest.raises(InputError, match="predicts no next token"):
        directional(replace(subject, anatomy=replace(subject.anatomy, head=None)), bench.tokens, {SITE: [(vector(), Scope())]})
