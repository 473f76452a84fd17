"""The specification curve on planted states: one direction whatever is asked, and where nothing is there, none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t as student

import strandscope as ss
from strandscope.errors import InputError
from strandscope.strand import specification
from strandscope.strand.kernels import Kernel
from strandscope.strand.rfm import fit
from strandscope.strand.rfm_spec import PRESETS, RFMSpec
from strandscope.strand.specification import _angle, _between, _directions, specification_curve, variations
from strandscope.subject.site import Site

FEW = {
    "base": RFMSpec(iterations=2),
    "gaussian": RFMSpec(Kernel("gaussian"), iterations=2),
    "ridge 10": RFMSpec(ridge=10.0, iterations=2),
    "not solvable": RFMSpec(Kernel("linear"), ridge=0.0),
}


def made(gap, classes=2, seed=0, width=12):
    """States at two sites; at resid:1 the classes lie `gap` apart along the first axes."""
    generator = np.random.default_rng(seed)
    labels, groups = np.arange(120) % classes, np.repeat(np.arange(20), 6)
    states = {}
    for site in range(2):
        axes = np.zeros((classes, width))
        axes[1:] = gap * (site == 1) * np.eye(width)[: classes - 1]
        states[Site.parse(f"resid:{site}")] = torch.as_tensor(
            generator.normal(size=(120, width)) + axes[labels], dtype=torch.float32
        )
    rows = [{"tensor": torch.tensor([float(i)]), "label": int(labels[i]), "group": f"g{groups[i]}"} for i in range(120)]
    index, none = torch.arange(120), torch.full((120,), -1)
    return ss.Activations(states, ss.Examples.from_rows(rows, "planted"), "last", index, none, none, {}, "f" * 64, {})


def test_a_direction_that_is_the_data_s_is_found_by_every_specification():
    steps = []
    curve = specification_curve(made(4.0), FEW, progress=lambda *step: steps.append(step))
    assert curve.site == "resid:1" and curve.reference == "the difference of means" and steps[-1] == (4, 4)
    for row in curve.rows[:3]:
        assert row.outcome == "solved" and row.auroc.value > 0.97 and row.angle.value < 25
        assert float(row.directions[0].abs()) > 0.9 and row.angle.low <= row.angle.value <= row.angle.high
    assert float(curve.among[:3, :3].max()) < 25 and float(curve.among[:3, :3].diagonal().max()) < 1e-5
    failed = curve.rows[3]
    assert failed.outcome.startswith("not solved") and failed.directions is None
    assert failed.auroc.status == failed.angle.status == "not measured" and bool(curve.among[3].isnan().all())
    assert "4 specifications at resid:1: AUROC" in str(curve) and str(curve).endswith("1 not solved") and "\n" not in str(curve)


def test_where_nothing_is_there_the_figures_say_so():
    curve = specification_curve(made(0.0, seed=3), {"base": FEW["base"]}, site="resid:0")
    assert curve.rows[0].auroc.low < 0.5 < curve.rows[0].auroc.high


def test_several_classes_have_a_subspace_and_the_first_specification_as_reference():
    curve = specification_curve(made(6.0, classes=3), {name: FEW[name] for name in ("base", "gaussian")}, rank=2, site="resid:1")
    assert curve.reference == "base" and curve.rows[0].angle.value == pytest.approx(0, abs=1e-4)
    assert curve.rows[1].directions.shape == (12, 2) and curve.rows[1].angle.value < 30
    assert float(curve.rows[1].directions[:2].square().sum()) / 2 > 0.8


def test_the_site_is_chosen_without_the_rows_that_are_scored(monkeypatch):
    """All rows choose resid:0, where nothing is; every training part chooses resid:1, and its machines are scored there."""
    seen = []
    monkeypatch.setattr(specification, "_best_site", lambda data, part, *_: seen.append(part) or int(not part.all()))
    curve = specification_curve(made(4.0), {"base": FEW["base"]})
    assert curve.site == "resid:0" and curve.rows[0].auroc.value > 0.97 and curve.rows[0].angle.value > 25
    assert seen[0].all() and sum((~part).astype(int) for part in seen[1:]).tolist() == [1] * 120


def test_rows_of_a_group_stand_together_on_one_side_and_count_as_one():
    """Six copies of every row, labels by luck: apart they would tell on each other, and seem to be six times as many."""
    acts = made(0.0, seed=4)
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(20) % 2)
    site = Site.parse("resid:0")
    states = torch.as_tensor(np.repeat(generator.normal(size=(20, 12)), 6, axis=0), dtype=torch.float32)
    states += 1e-3 * torch.as_tensor(generator.normal(size=(120, 12)), dtype=torch.float32)
    rows = [{"tensor": torch.tensor([float(i)]), "label": int(labels[i // 6]), "group": f"g{i // 6}"} for i in range(120)]
    acts = replace(acts, states={site: states}, examples=ss.Examples.from_rows(rows, "copies"))
    auroc = specification_curve(acts, {"gaussian": FEW["gaussian"]}, site="resid:0").rows[0].auroc
    assert auroc.value < 0.8 and auroc.low < 0.5
    assert auroc.high - auroc.low > 0.35  # 20 independent rows: twice 1.96 standard errors of .13


def test_a_machine_that_is_the_difference_of_means_lies_at_no_angle_to_it_whatever_is_left_out():
    """A linear kernel under a ridge beyond all bounds: weights are the labels, so the gradient is the difference of means."""
    spec = RFMSpec(Kernel("linear"), ridge=1e9, iterations=0, normalise="none")
    angle = specification_curve(made(1.0), {"linear": spec}, site="resid:1").rows[0].angle
    assert angle.value < 0.1 and angle.high < 0.3


def test_an_angle_s_interval_is_the_jackknife_s():
    def at(degrees):
        radians = np.deg2rad(degrees)
        return torch.tensor([[np.cos(radians)], [np.sin(radians)], [0.0]])

    bases, reference = [at(angle) for angle in (30, 28, 32, 33)], [at(0)] * 4
    found, folds = _angle(bases, reference, 50), np.array([28, 32, 33])
    error = np.sqrt(2 / 3 * ((folds - folds.mean()) ** 2).sum())
    reach = student.ppf(0.975, 2) * error
    assert (found.value, found.low, found.high) == pytest.approx((30, 30 - reach, 30 + reach))
    assert (found.unit, found.n, found.level) == ("degrees", 50, 0.95)
    wide = _angle([at(80), at(60), at(89)], [at(0)] * 3, 50)
    assert wide.high == 90 and wide.low == 0
    assert _angle([at(1), None, at(2)], [at(0)] * 3, 50).status == "not measured"


def test_of_two_planes_the_largest_angle_counts():
    eye = torch.eye(4)
    assert _between(eye[:, :2], eye[:, [0, 2]]) == pytest.approx(90)  # they share a direction
    assert _between(eye[:, :2], eye[:, :2]) == pytest.approx(0, abs=1e-3)


def test_a_machine_that_was_not_solved_has_no_direction_even_where_it_has_numbers():
    machine = fit(RFMSpec(bandwidth=2.0, ridge=0.1, iterations=1), torch.randn(20, 3).double(), torch.arange(20) % 2)
    assert _directions(machine, 1).shape == (3, 1)
    assert _directions(replace(machine, outcomes=("not solved: the residual is 2",)), 1) is None


def test_bandwidths_are_given_in_root_mean_squared_distances(monkeypatch):
    given = []
    monkeypatch.setattr(specification, "variations", lambda distance: given.append(distance) or {"base": FEW["base"]})
    acts = made(2.0)
    specification_curve(acts, site="resid:1")
    states = acts.at("resid:1").double()
    assert given == [pytest.approx(float(torch.cdist(states, states).square().mean().sqrt()), rel=1e-5)]


def test_the_variations_change_one_choice_each_and_hold_the_seven():
    specs = variations(7.0)
    base = specs["base"]
    for name, spec in specs.items():
        changed = [field for field in RFMSpec.__slots__ if getattr(spec, field) != getattr(base, field)]
        assert name == "base" or name.startswith("published") or len(changed) <= (2 if "l1" in name else 1), name
    assert {name.removeprefix("published: ") for name in specs if name.startswith("published")} == set(PRESETS)
    assert specs["bandwidth 0.3"].bandwidth == pytest.approx(2.1)


@pytest.mark.parametrize(("changes", "said"), [({"rank": 0}, "rank: got 0"), ({"site": "resid:9"}, "site: got 'resid:9'")])
def test_bad_input_is_a_sentence(changes, said):
    with pytest.raises(InputError, match=said):
        specification_curve(made(1.0), FEW, **changes)
