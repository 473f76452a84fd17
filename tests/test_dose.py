"""A dose costs what it says and says how its scale was settled: a tiny chat network, against passes of our own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import families
import strandscope as ss
import tiny_chat
from pushing import SITE, hooked, logprobs, opened, own_costs, own_reach, pushed, vector
from strandscope.capture.examples import neutral_prompts
from strandscope.control import bench as benches
from strandscope.control import dose as dosing
from strandscope.control.bench import Bench
from strandscope.control.dose import _how, find_dose, solve
from strandscope.control.edit import Add
from strandscope.control.price import price
from strandscope.errors import InputError, TrustError
from strandscope.laws.price import half_width
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return opened(folder)


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench.of(subject, 36)


@pytest.fixture(scope="module")
def rough(folder: Path) -> Bench:
    return Bench.of(opened(folder, "bfloat16"), 36)


# --- the edit ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adding_is_done_in_the_dtype_of_the_states(dtype: torch.dtype) -> None:
    states, direction = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(3)).to(dtype), vector(0, 3.0)
    added = Add(direction, 0.25)(states)
    assert added.dtype == dtype and torch.equal(added, states + (0.25 * direction).to(dtype))
    if dtype == torch.bfloat16:  # and that is something else than a sum in fp32 that is rounded in the end
        assert not torch.equal(added, (states.float() + 0.25 * direction).to(dtype))


def test_one_edit_serves_states_of_two_dtypes() -> None:
    edit, states = Add(vector(), 0.5), torch.ones(2, 3, 32)
    assert edit(states.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(edit(states), states + 0.5 * vector())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_scale_0_changes_no_bit(folder: Path, dtype: str, positions: Any) -> None:
    subject = opened(folder, dtype)
    batch = subject.batch(list(subject.probe))
    with torch.no_grad():
        plain = subject.module(**batch).logits
        with attach(subject, edits={SITE: [(Add(vector(0, 50.0), 0.0), Scope(positions=positions))]}):
            nothing = subject.module(**batch).logits
        with attach(subject, edits={SITE: [(Add(vector(0, 50.0), 1.0), Scope(positions=positions))]}):
            something = subject.module(**batch).logits
    kind = {"float32": torch.int32, "bfloat16": torch.int16}[dtype]
    assert torch.equal(plain.view(kind), nothing.view(kind))
    assert not torch.equal(plain, something)


# --- the dose ---


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("nats", [0.002, 0.02, 0.2])
def test_a_dose_costs_what_it_says(subject: Subject, bench: Bench, nats: float, positions: Any) -> None:
    direction = vector(5, 2.5)
    dose = find_dose(bench, SITE, direction, nats, positions=positions)
    assert dose.scale.value is not None and dose.cost.value is not None
    costs = own_costs(subject, bench, dose.scale.value * direction, positions)
    assert costs.mean() == pytest.approx(nats, rel=0.0201)
    assert dose.cost.value == pytest.approx(costs.mean(), rel=1e-3)
    assert (dose.site, dose.positions, dose.target, dose.prompts) == ("resid:1", positions, nats, 36)
    reach = own_reach(costs, bench.topics)
    assert (dose.cost.low, dose.cost.high) == (
        pytest.approx(max(0.0, costs.mean() - reach), rel=1e-2, abs=1e-5),
        pytest.approx(costs.mean() + reach, rel=1e-2),
    )


def test_the_two_scopes_cost_differently(subject: Subject, bench: Bench) -> None:
    """Else the test above would not tell them apart."""
    everywhere, last = (own_costs(subject, bench, vector(5, 2.5), positions).mean() for positions in ("all", "last"))
    assert abs(everywhere / last - 1) > 0.1


def test_the_scales_interval_is_the_scales_whose_costs_bound_the_costs_interval(subject: Subject, bench: Bench) -> None:
    dose = find_dose(bench, SITE, vector(), 0.02)
    scale, cost = dose.scale, dose.cost
    assert scale.low and scale.value and scale.high and cost.low and cost.high
    assert scale.low < scale.value < scale.high
    low, high = (own_costs(subject, bench, end * vector(), "all").mean() for end in (scale.low, scale.high))
    assert low == pytest.approx(cost.low, rel=0.1) and high == pytest.approx(cost.high, rel=0.1)


def test_the_interval_by_topic_holds_the_mean_as_often_as_it_says() -> None:
    """2,000 sets of 100 costs of 24 topics that differ, skewed as costs are; binomial error of the coverage .005."""
    draw = np.random.default_rng(0)
    topics = np.arange(96) % 24
    held = 0
    for _ in range(2000):
        costs = 1 + 0.5 * draw.standard_normal(24)[topics] + 0.3 * (draw.gamma(4.0, 0.25, 96) - 1)
        held += abs(costs.mean() - 1) <= half_width(costs, topics)
    assert 0.935 <= held / 2000 <= 0.965


def test_doses_grow_with_the_nats(bench: Bench) -> None:
    scales = [find_dose(bench, SITE, vector(), nats).scale.value for nats in (1e-4, 0.001, 0.01, 0.1, 0.3)]
    assert scales == sorted(scales) and len(set(scales)) == 5  # type: ignore[type-var]


def test_a_longer_direction_needs_a_smaller_scale(bench: Bench) -> None:
    """Whatever its length: the push itself is the same."""
    pushes = [find_dose(bench, SITE, vector(0, length), 0.02).scale.value * length for length in (1e-3, 1.0, 1e3)]  # type: ignore[operator]
    assert pushes == pytest.approx([pushes[1]] * 3, rel=0.03)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_small_cost_grows_as_the_square(bench: Bench, positions: Any) -> None:
    scales = [0.02, 0.04, 0.08]
    costs = [bench.costs(SITE, Add(vector(), scale), positions).mean() for scale in scales]
    slope = np.polyfit(np.log(scales), np.log(costs), 1)[0]
    assert slope == pytest.approx(2, rel=0.05)


def test_a_small_cost_is_half_the_squared_scale_times_the_susceptibility(subject: Subject, bench: Bench) -> None:
    """½c²χ with χ = Var_p[∂ log p], the derivative by central differences of our own passes."""
    step, chi = 1e-2, []
    for ids in bench.tokens.ids:
        with hooked(subject, pushed(step * vector(), "all")):
            more = logprobs(subject, ids)
        with hooked(subject, pushed(-step * vector(), "all")):
            less = logprobs(subject, ids)
        p, slope = logprobs(subject, ids).exp(), (more - less) / (2 * step)
        chi.append(float((p * slope.square()).sum() - (p * slope).sum() ** 2))
    costs = bench.costs(SITE, Add(vector(), 0.04), "all")
    assert costs == pytest.approx(0.5 * 0.04**2 * np.array(chi), rel=0.1)


def test_rounding_is_what_a_hundredth_of_the_push_costs(subject: Subject, bench: Bench, rough: Bench) -> None:
    """In fp32 next to nothing, about the square of a hundredth; in bf16 many times more."""
    fine, coarse = find_dose(bench, SITE, vector(), 0.02), find_dose(rough, SITE, vector(), 0.02)
    assert fine.rounding.value is not None and coarse.rounding.value is not None and fine.scale.value is not None
    costs = own_costs(subject, bench, 0.01 * fine.scale.value * vector(), "all")
    assert fine.rounding.value == pytest.approx(costs.mean(), rel=0.1)
    assert coarse.rounding.value > 5 * fine.rounding.value


def test_a_dose_of_which_too_much_is_rounding_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share allowed is put just above and far below what this network has, which is less than a ten-thousandth."""
    monkeypatch.setattr(dosing, "TOO_ROUGH", 2e-4)
    find_dose(bench, SITE, vector(), 0.02)
    monkeypatch.setattr(dosing, "TOO_ROUGH", 1e-5)
    with pytest.raises(TrustError, match=r"^nats: got 0\.02, but at resid:1 rounding in float32 alone costs .* ask for more$"):
        find_dose(bench, SITE, vector(), 0.02)


@pytest.mark.parametrize("nats", [5e-5, 1e-5, 1e-6, 1e-7, 1e-9])
def test_a_dose_so_small_that_all_of_it_is_rounding_is_refused(rough: Bench, nats: float) -> None:
    """Also where a hundredth of the push is rounded away and costs nothing, and where no scale costs so little."""
    with pytest.raises(
        TrustError, match=r"^nats: got \S+, but .*rounding in bfloat16.*; ask for more, or load the network in float32"
    ):
        find_dose(rough, SITE, vector(), nats)


@pytest.mark.parametrize("nats", [0.02, 1e-3, 3e-4])
def test_a_dose_in_bf16_that_is_not_refused_is_the_dose_in_fp32(bench: Bench, rough: Bench, nats: float) -> None:
    fine, coarse = (find_dose(each, SITE, vector(), nats).scale.value for each in (bench, rough))
    assert coarse == pytest.approx(fine, rel=0.1)


def test_nobody_is_told_to_go_to_the_dtype_he_has(bench: Bench) -> None:
    with pytest.raises(TrustError, match=r"rounding in float32.*; ask for more$"):
        find_dose(bench, SITE, vector(), 1e-15)


@pytest.mark.parametrize("nats", [0, -0.02, float("nan"), float("inf"), -float("inf")])
def test_nats_that_are_no_cost_are_refused(bench: Bench, nats: float) -> None:
    with pytest.raises(InputError, match=rf"^nats: got {nats}, wanted a cost above 0, such as 0\.02$"):
        find_dose(bench, SITE, vector(), nats)


def test_nats_out_of_reach_are_refused_with_what_was_reached(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"^nats: got 50, but pushing at resid:1 reached \d\S* nats in 24 tries; ask for fewer$"):
        find_dose(bench, SITE, vector(), 50)


def test_a_push_that_breaks_the_network_is_refused(bench: Bench) -> None:
    """Whether its derivative is beyond all numbers, or what it does to the output."""
    with pytest.raises(TrustError, match=r"^the derivative along the direction at resid:1 is NaN or infinite; load"):
        find_dose(bench, SITE, vector(0, 1e38), 0.02)
    with pytest.raises(TrustError, match="made the network's output NaN or infinite; ask for fewer nats"):
        bench.costs(SITE, Add(vector(0, 1e38), 10.0), "all")


@pytest.mark.parametrize("direction", [torch.zeros(32), vector(0, float("nan")), vector(0, float("inf"))])
def test_what_is_no_direction_is_refused(bench: Bench, direction: Tensor) -> None:
    with pytest.raises(InputError, match=r"^direction: got zeros, NaN or infinities, wanted one finite vector"):
        find_dose(bench, SITE, direction, 0.02)
    with pytest.raises(InputError, match=r"^direction: got shape \(1, 32\), wanted one finite vector"):
        find_dose(bench, SITE, vector()[None], 0.02)


def test_a_bench_of_one_prompt_is_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"^prompts: got 1, wanted at least 2"):
        Bench.of(subject, 1)


def test_positions_that_are_none_are_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"^positions: got 'first', wanted 'all' or 'last'$"):
        find_dose(bench, SITE, vector(), 0.02, positions="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 31, 33])
def test_a_direction_of_another_width_is_refused(bench: Bench, width: int) -> None:
    """Of width 1 too, which would be added to every coordinate."""
    with pytest.raises(
        InputError, match=rf"^direction: got one of width {width}, the states here have 32; find the strand again"
    ):
        find_dose(bench, SITE, torch.ones(width), 0.02)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(what, prompts) of every pass over prompts from now on."""
    seen: list[tuple[str, int]] = []
    for name in ("costs", "susceptibility"):
        method = {"costs": "costs_under", "susceptibility": "susceptibility_of"}[name]
        plain = getattr(Bench, method)
        monkeypatch.setattr(
            Bench, method, lambda self, *a, name=name, plain=plain: (seen.append((name, len(self.prompts))), plain(self, *a))[1]
        )
    return seen


def test_a_small_dose_takes_one_derivative_and_one_measurement(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of a hundredth of it, for rounding."""
    seen, told = counted(monkeypatch), []
    dose = find_dose(bench, SITE, vector(), 1e-4, positions="last", report=lambda: told.append(1))
    assert seen == [("susceptibility", 36), ("costs", 36), ("costs", 36)] and len(told) == 3
    assert dose.how == "predicted and confirmed"
    assert dose.predicted.value == pytest.approx(1e-4, rel=1e-6) and dose.cost.value == pytest.approx(1e-4, rel=0.02)


def test_the_predicted_cost_is_half_the_squared_scale_times_chi(bench: Bench) -> None:
    dose = find_dose(bench, SITE, vector(), 0.05)
    chi = bench.susceptibility(SITE, vector(), "all")
    assert dose.scale.value is not None and dose.cost.value is not None and dose.predicted.value is not None
    assert dose.predicted.value == pytest.approx(0.5 * dose.scale.value**2 * chi.mean(), rel=1e-6)
    far = abs(dose.cost.value / dose.predicted.value - 1)
    assert dose.how != "predicted and confirmed" or far < 0.0201
    assert dose.edge.status == "not measured" and "no price of this push" in dose.edge.reason


def test_a_prediction_stands_within_a_fifth_of_itself_and_no_farther() -> None:
    for cost, measured, how in (
        (1.19, 1, "predicted and confirmed"),
        (0.81, 1, "predicted and confirmed"),
        (1.19, 2, "predicted, then corrected"),
        (1.21, 1, "solved numerically: beyond the edge"),
        (0.79, 3, "solved numerically: beyond the edge"),
    ):
        assert _how(0.02 * cost, 0.02, measured) == how


def test_a_price_that_is_known_sharpens_the_prediction(bench: Bench) -> None:
    """Its a and b stand in the prediction, and its edge in the dose."""
    known = price(bench, SITE, vector(), "all")
    assert known.a.value is not None and known.b.value is not None
    for nats in (0.004, 0.01):
        without, within = (find_dose(bench, SITE, vector(), nats, price=given) for given in (None, known))
        assert within.scale.value is not None and within.predicted.value is not None and within.cost.value is not None
        scale, chi = within.scale.value, float(bench.susceptibility(SITE, vector(), "all").mean())
        factor = 1 + known.a.value * scale + known.b.value * scale**2
        assert within.predicted.value == pytest.approx(0.5 * scale**2 * chi * factor, rel=1e-6)
        assert within.edge == known.edge and within.scale.value == pytest.approx(without.scale.value, rel=0.02)
        assert abs(within.predicted.value / within.cost.value - 1) < abs(without.predicted.value / without.cost.value - 1)  # type: ignore[operator]
    assert find_dose(bench, SITE, vector(), 0.01, price=known).how == "predicted and confirmed"


def test_a_price_of_another_push_is_refused(bench: Bench, rough: Bench) -> None:
    known = price(bench, SITE, vector(), "last")
    sentence = (
        r"^price: was measured for another push \(direction, site, positions or network\); leave it out or measure it again$"
    )
    find_dose(bench, SITE, vector(), 0.01, positions="last", price=known)
    for other, site, direction, positions in (
        (bench, SITE, vector(), "all"),
        (bench, SITE, -vector(), "last"),
        (bench, Site("resid", 0), vector(), "last"),
        (rough, SITE, vector(), "last"),
    ):
        with pytest.raises(InputError, match=sentence):
            find_dose(other, site, direction, 0.01, positions=positions, price=known)  # type: ignore[arg-type]


def test_a_dose_beyond_the_edge_is_solved_numerically_and_says_so(bench: Bench) -> None:
    """Where the measured cost is not within a fifth of the square law's."""
    hows = {}
    for nats in (1e-4, 0.15, 1.0):
        dose = find_dose(bench, SITE, vector(), nats, positions="last")
        assert dose.cost.value == pytest.approx(nats, rel=0.0201) and dose.predicted.value is not None
        hows[nats] = dose.how
        assert (abs(nats / dose.predicted.value - 1) > 0.19) == (dose.how == "solved numerically: beyond the edge")
    assert list(hows.values()) == ["predicted and confirmed", "predicted, then corrected", "solved numerically: beyond the edge"]


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.3, 0.1), (-0.4, 0.05), (0.2, -0.3)])
@pytest.mark.parametrize("nats", [1e-3, 0.1])
def test_the_scale_that_is_solved_for_costs_what_was_asked(a: float, b: float, nats: float) -> None:
    scale = solve(nats, 3.0, a, b)
    assert 0.5 * scale**2 * 3.0 * (1 + a * scale + b * scale**2) == pytest.approx(nats, rel=1e-9)


def test_where_nothing_is_moved_no_dose_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "susceptibility_of", lambda self, *_: np.zeros(len(self.prompts)))
    monkeypatch.setattr(Bench, "costs_under", lambda self, *_: np.zeros(len(self.prompts)))
    with pytest.raises(InputError, match=r"pushing at resid:1 reached 0 nats in 24 tries; ask for fewer$"):
        find_dose(bench, SITE, vector(), 0.02)


def test_a_scale_is_corrected_on_few_prompts_before_many_are_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_dose(bench, SITE, vector(), 0.1)
    monkeypatch.setattr(dosing, "FEW", 8)
    few = bench.some(8)
    assert len(set(few.topics.tolist())) == len(few.prompts) == 8 and bench.some(19) is bench
    assert all(torch.equal(few.plain[i], bench.plain[bench.prompts.ids.index(name)]) for i, name in enumerate(few.prompts.ids))
    assert [bench.prompts.ids[row] for row in bench.rows_of(few)] == list(few.prompts.ids)
    seen = counted(monkeypatch)
    dose = find_dose(bench, SITE, vector(), 0.1)
    assert seen[0] == ("susceptibility", 36) and seen[1] == ("costs", 8)
    assert seen[-1] == ("costs", 8) and seen.count(("costs", 36)) <= 2
    assert dose.prompts == 36 and dose.rounding.n == 8 and dose.cost.value == pytest.approx(0.1, rel=0.02)
    assert dose.scale.value == pytest.approx(whole.scale.value, rel=0.025)
    assert dose.scale.low == pytest.approx(whole.scale.low, rel=0.1)


def test_few_prompts_are_measured_against_their_own_prediction(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the square law holds in each prompt, few that cost twice what the others do send the scale nowhere else."""
    monkeypatch.setattr(dosing, "FEW", 8)
    dear = set(bench.some(8).prompts.ids)

    def chi(self: Bench, *_: object) -> np.ndarray:
        return np.array([2.0 if name in dear else 1.0 for name in self.prompts.ids])

    monkeypatch.setattr(Bench, "susceptibility_of", chi)
    monkeypatch.setattr(Bench, "costs_under", lambda self, edits: 0.5 * edits[SITE][0][0].scale ** 2 * chi(self))
    seen = counted(monkeypatch)
    dose = find_dose(bench, SITE, vector(), 0.1)
    assert seen == [("susceptibility", 36), ("costs", 8), ("costs", 36), ("costs", 8)]
    assert dose.how == "predicted and confirmed" and dose.cost.value == pytest.approx(0.1)


def test_a_network_that_takes_no_text_has_no_neutral_dose() -> None:
    with pytest.raises(
        InputError, match=r"takes no text, and doses are measured on neutral prompts; push by a scale of your own"
    ):
        Bench.of(ss.load(families.llama(), check="none"))


# --- the prompts it is measured on ---


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is not asked what it says: which prompts are chosen is all that is looked at."""
    monkeypatch.setattr(benches, "next_token_logprobs", lambda *_: torch.empty(0))


@pytest.mark.parametrize("count", [30, 36, 75])
def test_a_bench_spreads_over_topics_and_keeps_the_order(subject: Subject, count: int, unheard: None) -> None:
    bench, everything = Bench.of(subject, count), neutral_prompts()
    counts = Counter(row.group for row in bench.prompts.rows)
    assert len(bench.prompts) == count and len(counts) == 30 and max(counts.values()) - min(counts.values()) <= 1
    places = [everything.ids.index(row) for row in bench.prompts.ids]
    assert places == sorted(set(places))


def test_a_bench_is_drawn_by_its_seed_alone(subject: Subject, unheard: None) -> None:
    first, again, other = (Bench.of(subject, 40, seed).prompts.ids for seed in (1, 1, 2))
    assert first == again != other
    assert Bench.of(subject).prompts.ids == Bench.of(subject, 900).prompts.ids == neutral_prompts().ids


def test_every_prompt_has_its_turn(subject: Subject) -> None:
    """Over seeds each prompt is drawn about as often as any other: none is always in, none never."""
    topics = neutral_prompts().groups
    drawn = Counter(int(row) for seed in range(400) for row in benches.spread(topics, 60, np.random.default_rng(seed)))
    assert len(drawn) == 300 and min(drawn.values()) > 45 and max(drawn.values()) < 120  # 80 expected, standard deviation 8
