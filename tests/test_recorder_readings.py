"""The recorder keeps its share of the time, and what it says is true."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import strandscope as ss
from recorded import HELD, D, drawn, network, trained
from strandscope.errors import InputError
from strandscope.recorder.alignment import Kept, chance, emergence
from strandscope.recorder.cadence import Cadence
from strandscope.recorder.leading import leading
from strandscope.recorder.quantities import Sharpness, TangentKernel
from strandscope.recorder.quantity import Measured
from strandscope.recorder.recorder import Recorder
from strandscope.recorder.run import read_run
from strandscope.recorder.spikes import spikes
from strandscope.statistics.accumulators import outer_products

# --- its share of the time ---


def simulated(budget, step, cost, steps, slower=1.0, known=False):
    """Steps and records of a run on a clock of its own; the last step takes `slower` times as long as the first."""
    clock, now, records = Cadence(budget, steps=steps if known else None), 0.0, []

    def record(at, floor):
        nonlocal now
        now += cost
        clock.leave(now)
        clock.took(cost, floor=floor)
        records.append(at)
        clock.next = clock.plan(at)

    clock.enter(now)
    record(0, True)
    for at in range(1, steps + 1):
        now += step * slower ** (at / steps)
        clock.enter(now)
        if at == clock.next:
            if clock.due(at):
                record(at, False)
            else:
                clock.next = clock.plan(at)
        clock.leave(now)
    clock.enter(now)
    record(steps, True)
    return clock, records


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("slower", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("budget", "cost"), [(0.05, 3.0), (0.01, 0.3), (0.2, 20.0)])
def test_the_budget_is_kept_and_used(budget, cost, slower, known):
    clock, records = simulated(budget, 0.1, cost, 20000, slower, known)
    assert 0.6 * budget <= clock.share <= budget * (1 + 0.15 * (known and slower < 1))  # faster steps were not foreseen
    if known and slower == 1:
        assert sum(step <= 5000 for step in records) / len(records) == pytest.approx(0.5, abs=0.1)


def test_a_floor_beyond_the_budget_is_taken_and_said():
    clock, records = simulated(0.05, 0.1, 3.0, 40)
    assert records == [0, 40] and clock.share == pytest.approx(1.5)
    assert "the records at the start and the end alone took 150.0%" in clock.sentence()


def test_records_become_rare_as_a_run_becomes_long():
    _, records = simulated(0.5, 1.0, 1e-9, 40000)
    assert len(records) < 200 * (2 + np.log(40000 / 200))
    gaps = np.diff(records[:-1])
    assert gaps[:100].max() <= 2 and gaps[-1] >= 150


def test_the_overhead_is_recorded(tmp_path):
    trained(tmp_path / "run", steps=9)
    run = read_run(tmp_path / "run")
    share = run.overhead.value
    assert share is not None and share > 0
    assert all(record.cost > 0 for record in run.records)
    assert f"overhead {share:.1%} of the training time, of 5.0% allowed" in run.notes[-1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["overhead"]["value"] == share


# --- what it says is true ---


def test_the_features_of_a_linear_network_are_those_of_its_matrix(tmp_path):
    """f = Wx has AGOP WᵀW at the input, whatever the data; with all outputs equal in size every draw of signs has it too."""
    matrix = torch.linalg.qr(drawn(D, 3, seed=5)).Q.T * torch.tensor([[3.0], [2.0], [1.0]])
    model = nn.Linear(D, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(matrix)
    Recorder(model, lambda: drawn(4096), out=tmp_path / "run", sites=["input"], rank=3, every=1).close()
    run = read_run(tmp_path / "run")
    one = run.features("input", 0)
    assert one is not None
    assert torch.allclose(one.leading[0] @ one.leading[0].T, (torch.linalg.pinv(matrix) @ matrix).double(), atol=1e-5)
    readings = run.records[0].readings
    assert readings["input/share"].value == pytest.approx(1.0)
    assert readings["input/top"].low <= 9.0 <= readings["input/top"].high
    assert readings["input/dimension"].low <= 14**2 / (81 + 16 + 1) <= readings["input/dimension"].high
    assert readings["input/trace"].value == pytest.approx(14.0, abs=2.0)


def test_probes_see_the_same_metric_as_all_outputs(tmp_path):
    """At an inner site, of a nonlinear network, against the Jacobians themselves in float64."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(D, 10), nn.Tanh(), nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2))
    rows = drawn(128)
    Recorder(model, lambda: rows, out=tmp_path / "run", sites=["1", "in:2"], rank=2, probes=200).close()
    run = read_run(tmp_path / "run")
    states = model[1](model[0](rows)).detach().double()
    rest = nn.Sequential(*list(model)[2:]).double()
    jacobians = torch.autograd.functional.jacobian(lambda h: rest(h).sum(0), states).permute(1, 0, 2)
    truth = torch.einsum("nci,ncj->ij", jacobians, jacobians) / len(rows)
    values, vectors = torch.linalg.eigh(truth)
    for site in ("1", "in:2"):
        found = run.features(site, 0)
        assert found is not None
        assert float((found.leading[0].T @ vectors[:, -2:]).square().sum()) / 2 > 0.995
        top = run.records[0].readings[f"{site}/top"].value
        assert top == pytest.approx(float(values[-1]), rel=0.05)


def test_padding_has_no_part_in_the_features(tmp_path):
    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, input_ids, attention_mask):
            return self.head(torch.tanh(self.table(input_ids).cumsum(1)))

    torch.manual_seed(0)
    model = Summing()
    mask = torch.ones(16, 5, dtype=torch.long)
    mask[:, 3:] = 0
    ids = torch.randint(7, (16, 5), generator=torch.Generator().manual_seed(0))
    found = []
    for fill in (1, 2):
        filled = torch.where(mask.bool(), ids, fill)
        out = tmp_path / f"run{fill}"
        Recorder(model, lambda f=filled: {"input_ids": f, "attention_mask": mask}, out=out, sites=["table"], rank=2).close()
        found.append(read_run(out).records[0].readings)
    assert found[0] == found[1]


def test_a_frozen_beginning_does_not_hide_the_features(tmp_path):
    model = network()
    for weight in model[:4].parameters():
        weight.requires_grad_(False)
    Recorder(model, lambda: HELD, out=tmp_path / "run", sites=["0", "in:2"]).close()
    readings = read_run(tmp_path / "run").records[0].readings
    assert readings["0/trace"].status == readings["in:2/trace"].status == "measured"


def test_a_single_index_emerges_when_it_is_planted_to(tmp_path):
    """f = g(aᵀx), a turning from e₁ to e₂ by a known angle each step: alignment with e₂ is sin², and crosses ½ at 45 degrees."""
    model = nn.Sequential(nn.Linear(D, 1, bias=False), nn.Tanh())
    second = torch.eye(D)[:, 1:2]
    steps = 30

    def turn(step):
        angle = np.pi / 2 * step / steps
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].weight[0, :2] = torch.tensor([np.cos(angle), np.sin(angle)])

    turn(0)
    with Recorder(
        model, lambda: HELD, out=tmp_path / "run", sites=["input"], rank=1, every=2, reference={"input": second}
    ) as recorder:
        for step in range(1, steps + 1):
            turn(step)
            recorder.step(loss=1.0)
    run = read_run(tmp_path / "run")
    truth = [np.sin(np.pi / 2 * step / steps) ** 2 for step in run.steps]
    for to in ("last", "reference"):
        found = run.alignment("input", to=to)
        assert [one.value for one in found] == pytest.approx(truth, abs=1e-5)
        emerged = run.emergence("input", to=to)
        assert emerged.low <= 15 <= emerged.high and emerged.value == pytest.approx(15, abs=0.1)
        assert (emerged.low, emerged.high) == (14.0, 16.0)
    turned = run.rotation("input")
    assert turned[0] is None and turned[2].value == pytest.approx(np.sin(np.pi / steps) ** 2, abs=1e-5)
    chance = found[0].null
    assert chance is not None and chance.value == pytest.approx(1 / D)


def test_a_run_without_emergence_says_why(tmp_path):
    with Recorder(network(), lambda: HELD, out=tmp_path / "run", sites=["input"], every=1) as recorder:
        for _ in range(5):
            recorder.step()
    emerged = read_run(tmp_path / "run").emergence("input")
    assert emerged.value is None and "is not above the first" in emerged.reason


def test_intervals_of_alignment_hold_what_many_rows_give(tmp_path):
    """Two networks of which only samples of 64 rows are seen: the alignment of all rows lies in 95 % intervals nearly always."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(D, 12), nn.Tanh(), nn.Linear(12, 4))
    other = {name: weight + 0.15 * torch.randn_like(weight) for name, weight in model.state_dict().items()}
    first = {name: weight.clone() for name, weight in model.state_dict().items()}

    def aligned(rows, number):
        model.load_state_dict(first)
        settings = {"sites": ["input"], "rank": 2, "every": 1, "seed": number}
        recorder = Recorder(model, lambda: rows, out=tmp_path / str(number), **settings).start()
        model.load_state_dict(other)
        recorder.step()
        recorder.close()
        return read_run(tmp_path / str(number)).alignment("input")[0]

    truth = aligned(drawn(20000, seed=0), 0).value
    found = [aligned(drawn(64, seed=10 + number), 10 + number) for number in range(16)]
    assert 0.3 < truth < 0.99
    assert sum(one.low <= truth <= one.high for one in found) >= 12  # of 16 at .95: fewer in one of 10³
    assert np.mean([one.high - one.low for one in found]) < 0.6


def test_a_planted_spike_is_found_with_what_it_moved(tmp_path):
    model = nn.Sequential(nn.Linear(D, 1, bias=False), nn.Tanh())
    generator = np.random.default_rng(0)
    with Recorder(model, lambda: HELD, out=tmp_path / "run", sites=["input"], rank=1, every=2) as recorder:
        for step in range(1, 101):
            with torch.no_grad():
                model[0].weight.zero_()
                model[0].weight[0, 0 if step < 61 else 1] = 1.0
                model[0].weight[0, 2] = 0.01 * step / 100
            loss = float(np.exp(0.05 * generator.standard_normal()))
            recorder.step(loss=loss * (8.0 if 61 <= step <= 63 else 1.0))
    (moved,) = read_run(tmp_path / "run").spikes()
    assert (moved.spike.first, moved.spike.last) == (61, 64) and 61 <= moved.spike.top <= 63
    assert moved.spike.height == pytest.approx(8, rel=0.3) and moved.between == (60, 64)
    assert moved.rotation["input"].value == pytest.approx(1.0, abs=0.01)
    assert moved.usual["input"] == pytest.approx(0.0, abs=0.01)


def test_noise_and_descent_are_no_spikes_and_a_new_plateau_ends():
    generator = np.random.default_rng(1)
    noise = np.exp(-np.linspace(0, 3, 4000) + 0.2 * generator.standard_normal(4000))
    assert spikes(range(4000), noise) == []
    (step,) = spikes(range(300), np.r_[np.ones(150), 3 * np.ones(150)] * np.exp(0.05 * generator.standard_normal(300)))
    assert step.first == 150 and step.last is not None and step.last < 200
    (lost,) = spikes(range(100), [1.0] * 60 + [float("nan")] * 40)
    assert lost.first == 60 and lost.last is None and lost.peak == float("inf")


def test_sharpness_and_the_kernel_s_motion_are_those_of_a_linear_model(tmp_path):
    """Of mean squared error of wᵀx the Hessian is 2XᵀX/n, and the tangent kernel XXᵀ does not move; of (wᵀx)² it does."""
    model = nn.Linear(D, 1, bias=False)
    quantities = [Sharpness(lambda said, y: mse_loss(said, y)), TangentKernel(rows=8)]
    out = tmp_path / "run"
    with Recorder(model, lambda: (HELD, torch.ones(64, 1)), quantities, out, every=1) as recorder:
        with torch.no_grad():
            model.weight.mul_(3)
        recorder.step()
    run = read_run(out)
    truth = float(torch.linalg.eigvalsh(2 * HELD.T.double() @ HELD.double() / 64)[-1])
    assert run.series("sharpness")[0].value == pytest.approx(truth, rel=1e-3)
    assert [one.value for one in run.kernel_motion()] == [0.0] * len(run.records)

    model, out = nn.Sequential(nn.Linear(D, 1, bias=False), Square()), tmp_path / "square"
    with Recorder(model, lambda: HELD, [TangentKernel(rows=8)], out, every=1) as recorder:
        with torch.no_grad():
            model[0].weight.mul_(2)
        recorder.step()
    assert read_run(out).kernel_motion()[1].value == pytest.approx(3.0)  # Θ grows by 2² of w


def test_quantities_of_one_s_own_plug_in(tmp_path):
    class Norm:
        name = "weight norm"

        def settings(self):
            return {}

        def measure(self, model, _batch):
            norm = float(model.weight.detach().norm())
            return Measured(
                {"weight norm": ss.Reading(norm, norm, norm, None, 1, "", None, "Frobenius")}, {"weight": model.weight}
            )

    model = nn.Linear(D, 2)
    Recorder(model, lambda: HELD, [Norm()], tmp_path / "run").close()
    run = read_run(tmp_path / "run")
    assert run.series("weight norm")[0].value == pytest.approx(float(model.weight.detach().norm()))
    with pytest.raises(InputError, match="wanted names that differ"):
        Recorder(model, lambda: HELD, [Norm(), Norm()], tmp_path / "other")


def test_tables_and_figures_hold_what_was_recorded(tmp_path):
    trained(tmp_path / "run")
    run = read_run(tmp_path / "run")
    table = run.table()
    assert [row["step"] for row in table] == run.steps
    assert table[1]["loss"] == pytest.approx(np.mean([loss for step, loss in run.losses if step <= 3]))
    figure = run.figure("dimension")
    assert figure.series[0].y == tuple(record.readings["input/dimension"].value for record in run.records)
    assert {series.name for series in run.figure().series} == set(run.sites)
    for call in (lambda: run.figure("nothing"), lambda: run.series("nothing"), lambda: run.alignment("input", to="reference")):
        with pytest.raises(InputError):
            call()


def test_losses_come_out_as_they_went_in_where_the_loss_is_on_a_tensor(tmp_path):
    losses, _, _ = trained(tmp_path / "run", steps=20)
    assert [loss for _, loss in read_run(tmp_path / "run").losses] == losses


def test_a_spike_brings_the_next_record_forward(tmp_path):
    model = nn.Linear(D, 2)
    with Recorder(model, lambda: HELD, out=tmp_path / "run", sites=["input"], budget=0.9) as recorder:
        recorder._clock.outside = 1e6  # as if hours had passed: a record is affordable at any time
        for step in range(1, 121):
            recorder._clock.next = max(recorder._clock.next, 1000) if step == 2 else recorder._clock.next
            recorder.step(loss=5.0 if step in (100, 101) else 1.0)
    steps = {record.step: record.why for record in read_run(tmp_path / "run").records}
    assert steps[100] == "spike" and 102 in steps


def test_no_warning_is_given_where_nothing_is_wrong(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(tmp_path / "run", steps=6)


def curve(*values, spread=0.0):
    """Shares at each step: of all rows, then without each of eight blocks, moved in time by as many steps as `spread` says."""
    steps = np.arange(len(values))
    moved = [np.interp(steps + spread * (block - 3.5) / 3.5, steps, values) for block in range(8)]
    return np.stack([np.asarray(values), *moved], 1).tolist()


def test_emergence_is_the_last_crossing_of_half_way_and_never_narrower_than_its_bracket():
    found = emergence([0, 10, 20, 30], curve(0.3, 0.4, 0.6, 0.7), 64, "x")
    assert (found.value, found.low, found.high) == (pytest.approx(15.0), 10.0, 20.0)
    again = emergence([0, 10, 20, 30, 40], curve(0.3, 0.6, 0.4, 0.6, 0.7), 64, "x")  # it came and went
    assert (again.value, again.low, again.high) == (pytest.approx(25.0), 20.0, 30.0)
    values = np.clip(np.linspace(-0.5, 1.5, 101), 0, 1)
    unsure = emergence(list(range(101)), curve(*values, spread=5.0), 64, "x")
    error = np.sqrt(7 / 8 * np.sum((5 * (np.arange(8) - 3.5) / 3.5) ** 2))
    reach = 2.3646 * error  # t of 7 degrees of freedom
    assert (unsure.low, unsure.high) == (pytest.approx(50 - reach, abs=0.1), pytest.approx(50 + reach, abs=0.1))
    assert emergence([0, 1, 2], curve(0.5, 0.4, 0.3), 64, "x").reason.endswith("0.30, is not above the first, 0.50")
    assert "2 records" in emergence([0, 1], curve(0.1, 0.4), 64, "x").reason


def test_random_directions_hold_what_chance_says():
    generator = torch.Generator().manual_seed(0)
    d, k = 20, 3
    values = torch.tensor([5.0, 3.0, 2.0, *[0.5] * 17], dtype=torch.float64)
    features = Kept(torch.eye(d, dtype=torch.float64)[None], values[None], values.sum()[None], 3, 64, 64.0)
    drawn_at_random = torch.randn(4000, d, k, generator=generator, dtype=torch.float64)
    held = [features.shares(one)[0] for one in torch.linalg.qr(drawn_at_random).Q]
    null = chance(features, k)
    assert null is not None and null.value == pytest.approx(np.mean(held), abs=0.004)
    assert np.quantile(held, [0.025, 0.975]) == pytest.approx([null.low, null.high], abs=0.012)


@pytest.mark.parametrize("form", ["dense", "gram"])
def test_leading_pairs_are_those_of_the_matrix_whole_and_without_each_block(form):
    rows = drawn(24, 30, seed=3).double() * torch.linspace(1, 3, 30)
    parts = list(rows.split(4))
    blocks = []
    for part in parts:
        blocks.append(outer_products(30, form, most=24))
        blocks[-1].update(part)
    for number, found in enumerate(leading(blocks, 3)):
        kept = rows if number == 0 else torch.cat([*parts[: number - 1], *parts[number:]])
        values, vectors = torch.linalg.eigh(kept.T @ kept / len(kept))
        assert torch.allclose(found.values, values.flip(0)[:3])
        assert torch.allclose((found.vectors.T @ vectors.flip(1)[:, :3]).abs(), torch.eye(3, dtype=torch.float64), atol=1e-6)
        assert found.trace == pytest.approx(float(values.sum())) and float(found.residuals.max()) < 1e-10


def test_few_rows_that_carry_everything_are_no_evidence(tmp_path):
    rows = drawn(64) * 1e-3
    rows[:3] *= 1e6
    Recorder(nn.Sequential(nn.Linear(D, 1, bias=False), Square()), lambda: rows, out=tmp_path / "run", sites=["input"]).close()
    run = read_run(tmp_path / "run")
    assert "rows carry the trace; at least 8 must" in run.alignment("input")[0].reason


class Square(nn.Module):
    def forward(self, x):
        return x.square()
