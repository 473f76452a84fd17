"""A push costs what it says, where it says, and leaves nothing behind: a tiny chat network, against passes of our own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

import families
import strandscope as ss
import tiny_chat
from strandscope.capture.examples import neutral_prompts
from strandscope.control import dose as dosing
from strandscope.control import steer as steering
from strandscope.control.dose import Bench, Dose, direction_digest, find_dose, network_of
from strandscope.control.edit import Add
from strandscope.control.steer import Steering, trial
from strandscope.control.texts import replies
from strandscope.errors import InputError, TrustError
from strandscope.reading import Reading
from strandscope.strand.strand import Strand
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

SITE = Site("resid", 1)
PROMPTS = ("hello", "what do you make of the weather today?", "a b c")
# A beginning that all prompts share, so that doses are measured with it run once, as with a real network's system prompt.
TEMPLATE = "be kind, be brief.{% for message in messages %}<{{ message['content'] }}>{% endfor %}"


def opened(folder: Path, dtype: str = "float32") -> Subject:
    subject = ss.load(folder, dtype=dtype, check="none")
    assert subject.tokenizer is not None
    subject.tokenizer.chat_template = TEMPLATE
    return subject


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


def vector(seed: int = 0, length: float = 1.0) -> Tensor:
    """(32,) a direction at random, of this length."""
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return length * drawn / drawn.norm()


PATTERN = vector(1, 1.7)


def strand_in(subject: Subject, site: Site = SITE) -> Strand:
    """What is written (pattern) is neither parallel to what is read (basis) nor of unit length, as in a strand that was found."""
    evidence = Reading.not_measured("made up for a test", unit="AUROC", method="none")
    basis = vector(1) + 0.4 * vector(2)
    made = {"pattern": PATTERN[:, None], "basis": (basis / basis.norm())[:, None], "spectrum": torch.ones(1)}
    about = {"name": "made up", "positive": "yes", "position": "last", "method": "by hand", "offset": torch.tensor([0.3])}
    return Strand(site=str(site), evidence=evidence, fingerprint=subject.fingerprint, **made, **about)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def strand(subject: Subject) -> Strand:
    return strand_in(subject)


def steer(subject: Subject, strand: Strand, *, dose: Dose | None = None, **how: Any) -> Any:
    """`steer`, where a dose that names no network is for this one."""
    if dose is not None and not dose.network:
        dose = replace(dose, network=network_of(subject))
    return steering.steer(subject, strand, dose=dose, **how)


def given(scale: float, toward: int = 1, site: str = "resid:1", positions: str = "all") -> Dose:
    """A dose of this scale for the strand above; its other figures are not looked at."""
    figure = Reading(scale, scale, scale, 0.95, 1, "lengths of the direction", None, "given")
    push = direction_digest(toward * PATTERN)
    return Dose(
        site=site, positions=positions, network="", push=push, target=1.0, scale=figure, cost=figure, rounding=figure, prompts=1
    )


# --- our own measurement of a cost: each prompt by itself, a hook by hand, KL in float64 ---


@contextmanager
def hooked(subject: Subject, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Block 1 returns `change` of its state."""

    def after(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = subject.module.get_submodule("model.layers.1").register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def pushed(step: Tensor, positions: str) -> Callable[[Tensor], Tensor]:
    def change(state: Tensor) -> Tensor:
        moved = state.clone()
        moved[:, slice(-1, None) if positions == "last" else slice(None)] += step.to(state.dtype)
        return moved

    return change


def logprobs(subject: Subject, ids: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return subject.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


@cache
def own_plain(subject: Subject, ids: tuple[tuple[int, ...], ...]) -> Tensor:
    return torch.stack([logprobs(subject, row) for row in ids])


def own_costs(subject: Subject, bench: Bench, step: Tensor, positions: str) -> np.ndarray:
    plain = own_plain(subject, bench.tokens.ids)
    with hooked(subject, pushed(step, positions)):
        after = torch.stack([logprobs(subject, ids) for ids in bench.tokens.ids])
    return (plain.exp() * (plain - after)).sum(-1).numpy()


def own_reach(costs: np.ndarray, topics: np.ndarray) -> float:
    """Half-width of the 95 % interval of a mean, clustered by topic: the sandwich formula, one topic at a time."""
    names = sorted(set(topics.tolist()))
    total = sum(float((costs[topics == name] - costs.mean()).sum()) ** 2 for name in names)
    error = (len(names) / (len(names) - 1) * total) ** 0.5 / len(costs)
    return float(student.ppf(0.975, len(names) - 1)) * error


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
        held += abs(costs.mean() - 1) <= dosing._reach(costs, topics)
    assert 0.935 <= held / 2000 <= 0.965


def test_doses_grow_with_the_nats(bench: Bench) -> None:
    scales = [find_dose(bench, SITE, vector(), nats).scale.value for nats in (1e-4, 0.001, 0.01, 0.1, 0.3)]
    assert scales == sorted(scales) and len(set(scales)) == 5


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
    with pytest.raises(TrustError, match="made the network's output NaN or infinite; ask for fewer nats"):
        find_dose(bench, SITE, vector(0, 1e38), 0.02, start=10.0)


@pytest.mark.parametrize("direction", [torch.zeros(32), vector(0, float("nan")), vector(0, float("inf"))])
def test_what_is_no_direction_is_refused(bench: Bench, direction: Tensor) -> None:
    with pytest.raises(InputError, match=r"^direction: got zeros, NaN or infinities, wanted one finite vector"):
        find_dose(bench, SITE, direction, 0.02)
    with pytest.raises(InputError, match=r"^direction: got shape \(1, 32\), wanted one finite vector"):
        find_dose(bench, SITE, vector()[None], 0.02)


def test_a_bench_of_one_prompt_is_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"^prompts: got 1, wanted at least 2"):
        Bench.of(subject, 1)


def test_positions_that_are_none_are_refused(subject: Subject, bench: Bench, strand: Strand) -> None:
    with pytest.raises(InputError, match=r"^positions: got 'first', wanted 'all' or 'last'$"):
        find_dose(bench, SITE, vector(), 0.02, positions="first")  # type: ignore[arg-type]
    wrong = steer(subject, strand, dose=given(0.8), positions="first")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^positions: got 'first', wanted 'all' or 'last'$"), wrong:
        pass


@pytest.mark.parametrize("width", [1, 31, 33])
def test_a_direction_of_another_width_is_refused(bench: Bench, width: int) -> None:
    """Of width 1 too, which would be added to every coordinate."""
    with pytest.raises(
        InputError, match=rf"^direction: got one of width {width}, the states here have 32; find the strand again"
    ):
        find_dose(bench, SITE, torch.ones(width), 0.02)


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_where_the_search_starts_does_not_matter(bench: Bench, start: float) -> None:
    dose, usual = find_dose(bench, SITE, vector(), 0.02, start=start), find_dose(bench, SITE, vector(), 0.02)
    assert dose.scale.value == pytest.approx(usual.scale.value, rel=0.025)
    assert dose.cost.value == pytest.approx(0.02, rel=0.02)


def test_the_search_reports_each_of_its_tries(bench: Bench) -> None:
    seen: list[int] = []
    find_dose(bench, SITE, vector(), 0.02, report=lambda: seen.append(len(seen)))
    assert len(seen) > 2


def test_a_search_over_many_prompts_begins_on_few_and_ends_on_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_dose(bench, SITE, vector(), 0.02)
    monkeypatch.setattr(dosing, "FEW", 8)
    few = bench.some(8)
    assert len(set(few.topics.tolist())) == len(few.prompts) == 8 and bench.some(19) is bench
    assert all(torch.equal(few.plain[i], bench.plain[bench.prompts.ids.index(name)]) for i, name in enumerate(few.prompts.ids))
    asked: list[int] = []
    costs = Bench.costs
    monkeypatch.setattr(Bench, "costs", lambda self, *a: (asked.append(len(self.prompts)), costs(self, *a))[1])
    dose = find_dose(bench, SITE, vector(), 0.02)
    assert asked == sorted(asked) and set(asked) == {8, 36} and asked.count(36) <= 4
    assert dose.prompts == 36 and dose.cost.value == pytest.approx(0.02, rel=0.02)
    assert dose.scale.value == pytest.approx(whole.scale.value, rel=0.025)
    assert dose.scale.low == pytest.approx(whole.scale.low, rel=0.1)


def test_a_network_that_takes_no_text_has_no_neutral_dose() -> None:
    with pytest.raises(
        InputError, match=r"takes no text, and doses are measured on neutral prompts; push by a scale of your own"
    ):
        Bench.of(ss.load(families.llama(), check="none"))


# --- the prompts it is measured on ---


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is not asked what it says: which prompts are chosen is all that is looked at."""
    monkeypatch.setattr(dosing, "next_token_logprobs", lambda *_: torch.empty(0))


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
    drawn = Counter(int(row) for seed in range(400) for row in dosing._spread(topics, 60, np.random.default_rng(seed)))
    assert len(drawn) == 300 and min(drawn.values()) > 45 and max(drawn.values()) < 120  # 80 expected, standard deviation 8


# --- steering ---


def states_under(subject: Subject, batch: dict[str, Tensor], strand: Strand | None = None, **how: Any) -> Tensor:
    """The states at the site in one pass, under a push if a strand is given."""
    seen: list[Tensor] = []
    read = {SITE: lambda state, _: seen.append(state.clone())}
    with torch.no_grad():
        if strand is None:
            with attach(subject, reads=read):
                subject.module(**batch)
        else:
            with steer(subject, strand, **how), attach(subject, reads=read):
                subject.module(**batch)
    return seen[0]


@pytest.mark.parametrize("toward", [1, -1])
def test_the_state_moves_by_the_dose_along_the_strand(subject: Subject, strand: Strand, toward: int) -> None:
    batch = subject.batch([subject.probe[0]])
    before, after = states_under(subject, batch), states_under(subject, batch, strand, dose=given(0.8, toward), toward=toward)
    assert torch.allclose(after - before, (toward * 0.8 * strand.pattern[:, 0]).expand_as(before), atol=1e-5)
    moved = strand.coordinates(after) - strand.coordinates(before)
    assert torch.allclose(moved, (toward * 0.8 * strand.scale).expand_as(moved), atol=1e-5)
    assert float(strand.scale) > 0.5  # toward the positive class is up


def test_last_at_the_prompt_changes_the_last_content_position_alone(subject: Subject, strand: Strand) -> None:
    batch = subject.batch(list(subject.probe))
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1  # so that padding is in it
    before = states_under(subject, batch)
    after = states_under(subject, batch, strand, dose=given(0.8, positions="last"), positions="last")
    changed = {(int(row), int(place)) for row, place in (before != after).any(-1).nonzero()}
    assert changed == {(row, int(length) - 1) for row, length in enumerate(lengths)}


def test_a_push_while_generating_writes_at_the_newest_position_of_each_pass(subject: Subject, strand: Strand) -> None:
    """Decoded with the cache, "all" and "last" differ in the prompt alone: every later pass holds one position."""
    passes: dict[str, list[Tensor]] = {}
    for positions in ("all", "last"):
        seen = passes.setdefault(positions, [])

        def keep(_module: Any, _args: Any, output: Any, seen: list[Tensor] = seen) -> None:
            seen.append(output.clone())  # before the push, for this hook is the first

        handle = subject.module.get_submodule("model.layers.1").register_forward_hook(keep)
        push = steer(subject, strand, dose=given(5.0, positions=positions), positions=positions)  # type: ignore[arg-type]
        with push, attach(subject, reads={SITE: lambda state, _, seen=seen: seen.append(state.clone())}):
            subject.generate("hello", 3, min_new_tokens=3)
        handle.remove()
    for positions, seen in passes.items():
        moved = [(after - before).abs().amax(-1) > 0.01 for before, after in zip(seen[::2], seen[1::2], strict=True)]
        assert [list(step.shape) for step in moved] == [[1, moved[0].shape[1]], [1, 1], [1, 1]]
        assert all(bool(step.all()) for step in moved[1:])
        assert moved[0][0].tolist() == [positions == "all"] * (moved[0].shape[1] - 1) + [True]


@contextmanager
def unchanged(subject: Subject) -> Iterator[None]:
    """Whatever happens inside, the network comes out as it was: hooks, weights, mode and logits, bit for bit."""
    batch = subject.batch(list(subject.probe))

    def look() -> tuple[Any, ...]:
        with torch.no_grad():
            logits = subject.module(**batch).logits
        weights = {name: weight.clone() for name, weight in subject.module.state_dict().items()}
        return hooks(subject.module), subject.module.training, logits, weights

    hung, mode, logits, weights = look()
    try:
        yield
    finally:
        now = look()
        assert now[:2] == (hung, mode) and torch.equal(now[2], logits)
        assert all(torch.equal(now[3][name], weight) for name, weight in weights.items())


@contextmanager
def untouched_random_state() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_push_is_gone_when_the_block_is_left(subject: Subject, strand: Strand) -> None:
    batch = subject.batch(list(subject.probe))
    with unchanged(subject), torch.no_grad():
        plain = subject.module(**batch).logits
        with steer(subject, strand, dose=given(3.0)):
            assert not torch.allclose(subject.module(**batch).logits, plain, atol=0.01)


def test_a_push_is_gone_after_an_exception_inside(subject: Subject, strand: Strand) -> None:
    with unchanged(subject), pytest.raises(ZeroDivisionError), steer(subject, strand, dose=given(3.0)):
        subject.generate("hello", 2)
        raise ZeroDivisionError


def test_a_dose_is_found_from_nats_on_all_neutral_prompts(subject: Subject, bench: Bench, strand: Strand) -> None:
    with untouched_random_state(), unchanged(subject), steer(subject, strand, nats=0.05, positions="last") as dose:
        pass
    assert (dose.site, dose.positions, dose.target, dose.prompts) == ("resid:1", "last", 0.05, 300)
    assert dose.scale.value is not None
    costs = bench.costs(SITE, Add(strand.pattern[:, 0], dose.scale.value), "last")  # on some of these prompts
    assert costs.mean() == pytest.approx(0.05, rel=0.2)


def test_a_strand_of_several_classes_has_no_way_to_be_pushed(subject: Subject, strand: Strand) -> None:
    several = replace(strand, provenance={"classes": ["a", "b", "c"]})
    wide = replace(
        strand, **{name: torch.randn(32, 2) for name in ("basis", "pattern")}, spectrum=torch.ones(2), offset=torch.ones(2)
    )
    for one in (several, wide):
        with pytest.raises(InputError, match=r"^strand 'made up': tells (a, b, c|yes) apart and has no one direction"):
            trial(subject, one, nats=0.02, prompts=PROMPTS, n_random=0, max_new_tokens=2, seed=0)
    two = replace(strand, provenance={"classes": ["no", "yes"]})
    with steer(subject, two, dose=given(1.0)) as dose:
        assert dose.scale.value == 1.0


def test_a_big_dose_changes_the_reply_and_the_two_ways_differ(subject: Subject, strand: Strand) -> None:
    said = [subject.generate("hello", 12)]
    for toward in (1, -1):
        with steer(subject, strand, dose=given(8.0, toward), toward=toward):
            said.append(subject.generate("hello", 12))
    assert len(set(said)) == 3
    assert subject.generate("hello", 12) == said[0]


@pytest.mark.parametrize("toward", [1, -1])
def test_a_dose_of_another_direction_is_refused(subject: Subject, strand: Strand, toward: int) -> None:
    """That of the opposite direction too: pushing away costs something else than pushing toward."""
    other = replace(strand, pattern=2 * strand.pattern)
    for pushed_along, dose in ((strand, given(1.0, -toward)), (other, given(1.0, toward))):
        sentence = "^dose: was found for another direction or its opposite; leave it out to have it found, or find it again$"
        with pytest.raises(InputError, match=sentence), steer(subject, pushed_along, dose=dose, toward=toward):
            pass


@pytest.mark.parametrize("toward", [0, 2, -0.5, None])
def test_a_direction_that_is_neither_toward_nor_away_is_refused(subject: Subject, strand: Strand, toward: Any) -> None:
    sentence = rf"^toward: got {toward}, wanted 1 \(toward yes\) or -1 \(away from it\)$"
    with pytest.raises(InputError, match=sentence), steer(subject, strand, dose=given(1.0), toward=toward):
        pass


@pytest.mark.parametrize(
    ("dose", "positions", "sentence"),
    [
        (given(1.0, site="resid:2"), "all", "dose: was found at resid:2, all positions, wanted resid:1, all; find it again"),
        (given(1.0), "last", "dose: was found at resid:1, all positions, wanted resid:1, last; find it again"),
        (given(1.0, positions="last"), "all", "dose: was found at resid:1, last positions, wanted resid:1, all; find it again"),
    ],
)
def test_a_dose_of_another_site_or_scope_is_refused(
    subject: Subject, strand: Strand, dose: Dose, positions: Any, sentence: str
) -> None:
    with unchanged(subject), pytest.raises(InputError) as caught, steer(subject, strand, dose=dose, positions=positions):
        pass
    assert str(caught.value) == sentence


@pytest.mark.parametrize("other", ["f" * 64 + " torch.float32", "{fingerprint} torch.bfloat16"])
def test_a_dose_of_another_network_is_refused_also_when_the_push_is_forced(subject: Subject, strand: Strand, other: str) -> None:
    dose = replace(given(1.0), network=other.format(fingerprint=subject.fingerprint))
    for force in (False, True):
        with pytest.raises(InputError) as caught, steer(subject, strand, dose=dose, force=force):
            pass
        assert str(caught.value) == (
            "dose: was found in another network or dtype; leave it out to have it found, or find it again"
        )


def test_a_strand_of_another_network_is_refused_unless_forced(subject: Subject, strand: Strand) -> None:
    foreign = replace(strand, fingerprint="f" * 64)
    sentence = r"^strand 'made up' was found in the network ffffffffffff, this one is"
    with pytest.raises(TrustError, match=sentence), steer(subject, foreign, dose=given(1.0)):
        pass
    with pytest.raises(TrustError, match=sentence):
        trial(subject, foreign, nats=0.02, prompts=PROMPTS, n_random=0, max_new_tokens=2, seed=0)
    with steer(subject, foreign, dose=given(1.0), force=True) as dose:
        assert dose.scale.value == 1.0


def test_a_strand_at_a_site_that_is_not_there_is_refused(subject: Subject) -> None:
    nowhere = strand_in(subject, Site("resid", 9))
    with pytest.raises(InputError, match="site resid:9 does not exist"), steer(subject, nowhere, nats=0.02):
        pass


# --- texts ---


@pytest.mark.parametrize("positions", [None, "all", "last"])
def test_replies_are_those_of_each_prompt_alone(subject: Subject, strand: Strand, positions: Any) -> None:
    def both() -> tuple[list[str], list[str]]:
        return replies(subject, PROMPTS, 12), [subject.generate(prompt, 12) for prompt in PROMPTS]

    if positions is None:
        together, alone = both()
    else:
        with steer(subject, strand, dose=given(4.0, positions=positions), positions=positions):
            together, alone = both()
    assert together == alone and len(set(alone)) > 1


@pytest.mark.parametrize("chat", [True, False])
def test_replies_take_the_special_tokens_of_texts_and_chats(folder: Path, chat: bool) -> None:
    """A tokenizer that begins a plain text with <s>; a chat's template writes what it wants itself."""
    from tokenizers.processors import TemplateProcessing

    subject = opened(folder)
    assert subject.tokenizer is not None
    subject.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    seen: list[list[int]] = []
    handle = subject.module.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"][:, 0].tolist()), with_kwargs=True
    )
    together = replies(subject, PROMPTS[1:2], 1, chat=chat)
    assert together == [subject.generate(PROMPTS[1], 1, chat=chat)]
    handle.remove()
    assert [first == [1] for first in seen] == [not chat, not chat]


def test_a_network_that_left_padding_changes_gets_its_prompts_one_by_one(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replies(subject, PROMPTS, 6)
    rows: list[int] = []
    generate = subject.module.generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        return generate(*args, **kwargs)  # type: ignore[operator]

    monkeypatch.setattr(subject.module, "generate", counted, raising=False)
    for lacking in ("left_padding", "batched"):
        alone = replace(subject, anatomy=replace(subject.anatomy, **{lacking: False}))  # type: ignore[arg-type]
        assert replies(alone, PROMPTS, 6) == wanted
    assert rows == [1] * 6
    replies(subject, PROMPTS, 6)
    assert rows[6:] == [3]


def test_replies_to_nothing_or_beyond_the_context_are_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"^prompts: got none, wanted at least one$"):
        replies(subject, [], 6)
    assert subject.context is not None
    with pytest.raises(InputError, match=r"^prompt: \d+ tokens and \d+ new ones, and the context of .* holds \d+; shorten"):
        replies(subject, PROMPTS, subject.context)
    for ask in (lambda: replies(subject, ["a", ""], 6, chat=False), lambda: subject.generate("", 6, chat=False)):
        with pytest.raises(InputError, match=r"^prompt: no token is left after tokenising; write a text$"):
            ask()
    with pytest.raises(InputError, match=r"^max_new_tokens: got 0, wanted 1 or more$"):
        subject.generate("a", 0)


@pytest.fixture(scope="module")
def made(subject: Subject, strand: Strand) -> Steering:
    stages: list[tuple[str, int, int]] = []
    with untouched_random_state(), unchanged(subject):
        found = trial(
            subject,
            strand,
            nats=0.1,
            prompts=PROMPTS,
            n_random=2,
            max_new_tokens=10,
            seed=3,
            dose_prompts=36,
            progress=lambda *stage: stages.append(stage),
        )
    assert list(dict.fromkeys(stages)) == [("doses and texts", number, 4) for number in range(5)] and len(stages) > 12
    return found


def test_a_trial_pushes_every_way_at_the_same_cost(subject: Subject, strand: Strand, made: Steering) -> None:
    assert (made.strand, made.site, made.chat) == ("made up", "resid:1", True)
    assert [pushed.along for pushed in made.pushed] == ["toward", "away", "random 1", "random 2"]
    bench = Bench.of(subject, 36, 3)
    for pushed, direction in zip(made.pushed, (strand.pattern[:, 0], -strand.pattern[:, 0]), strict=False):
        assert pushed.dose.scale.value is not None
        assert own_costs(subject, bench, pushed.dose.scale.value * direction, "all").mean() == pytest.approx(0.1, rel=0.0201)
    for pushed in made.pushed:
        assert pushed.dose.cost.value == pytest.approx(0.1, rel=0.02)


def test_a_trials_texts_are_those_of_its_pushes(subject: Subject, strand: Strand, made: Steering) -> None:
    assert made.prompts == PROMPTS
    assert made.plain == tuple(subject.generate(prompt, 10) for prompt in PROMPTS)
    for toward, pushed in zip((1, -1), made.pushed, strict=False):
        with steer(subject, strand, dose=pushed.dose, toward=toward):
            assert pushed.texts == tuple(subject.generate(prompt, 10) for prompt in PROMPTS)
    assert all(len(pushed.texts) == len(PROMPTS) for pushed in made.pushed)
    assert any(len(set(texts)) > 2 for texts in zip(made.plain, *(pushed.texts for pushed in made.pushed), strict=True))


def test_a_trial_repeats_and_follows_its_seed(subject: Subject, strand: Strand, made: Steering) -> None:
    again = trial(subject, strand, nats=0.1, prompts=PROMPTS, n_random=2, max_new_tokens=10, seed=3, dose_prompts=36)
    other = trial(subject, strand, nats=0.1, prompts=PROMPTS[:1], n_random=1, max_new_tokens=2, seed=4, dose_prompts=36, along=())
    assert again == made
    assert [pushed.along for pushed in other.pushed] == ["random 1"]
    assert other.pushed[0].dose.push != made.pushed[2].dose.push


def test_a_trial_without_random_directions_is_a_trial(subject: Subject, strand: Strand) -> None:
    found = trial(subject, strand, nats=0.1, prompts=PROMPTS[:1], n_random=0, max_new_tokens=3, seed=0, dose_prompts=30)
    assert [pushed.along for pushed in found.pushed] == ["toward", "away"]


def test_texts_are_continued_and_doses_measured_on_texts_where_that_is_asked_or_no_template_is(
    subject: Subject, folder: Path
) -> None:
    bare = opened(folder)
    assert bare.tokenizer is not None
    bare.tokenizer.chat_template = None
    how = {"nats": 0.1, "prompts": PROMPTS, "n_random": 0, "max_new_tokens": 6, "seed": 0, "dose_prompts": 30}
    asked, unable = (
        trial(one, strand_in(one), along=["toward"], **how, **more) for one, more in ((subject, {"chat": False}), (bare, {}))
    )  # type: ignore[arg-type]
    assert not asked.chat and asked == unable
    assert asked.plain == tuple(subject.generate(prompt, 6, chat=False) for prompt in PROMPTS)
    with steer(bare, strand_in(bare), dose=asked.pushed[0].dose):
        assert asked.pushed[0].texts == tuple(bare.generate(prompt, 6, chat=False) for prompt in PROMPTS)
    prompts = Bench.of(bare, 30).prompts
    assert prompts.texts() == neutral_prompts().subset([neutral_prompts().ids.index(name) for name in prompts.ids]).texts()
    cost = asked.pushed[0].dose.cost
    assert "neutral prompts as plain texts" in cost.method
    chats = find_dose(Bench.of(subject, 30), SITE, strand_in(subject).pattern[:, 0], 0.1)
    assert "asked as chats" in chats.cost.method and chats.scale.value != asked.pushed[0].dose.scale.value


def test_random_directions_have_the_covariance_of_the_states(subject: Subject, strand: Strand, bench: Bench) -> None:
    """4,000 of them, each as long as the pattern: their second moments are those of the states, shape for shape."""
    from strandscope.capture.record import capture
    from strandscope.control.steer import _random_directions

    drawn = torch.stack(_random_directions(bench, strand, 4000, 0)).double()
    length = strand.pattern[:, 0].double().norm()
    assert torch.allclose(drawn.norm(dim=1), length.expand(4000), rtol=1e-5)
    states = capture(subject, bench.prompts, SITE, "last").at(SITE).double()
    wanted, found = ((rows - rows.mean(0)).T @ (rows - rows.mean(0)) for rows in (states, drawn))
    assert float((wanted * found).sum() / (wanted.norm() * found.norm())) > 0.98
    round_ = torch.eye(32).double()
    assert float((wanted * round_).sum() / (wanted.norm() * round_.norm())) < 0.9  # which round directions would not have
