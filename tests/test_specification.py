"""The specification curve on planted states: one direction whatever is asked, and where nothing is there, none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import strandscope as ss
from strandscope.errors import InputError
from strandscope.strand.kernels import Kernel
from strandscope.strand.rfm_spec import PRESETS, RFMSpec
from strandscope.strand.specification import specification_curve, variations
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
