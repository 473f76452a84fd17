"""The law of power-law scaling: exact errors beside a direct solve, what is foretold beside a closed form, and its control."""

from __future__ import annotations

import numpy as np
import pytest

from strandscope.laws.catalogue.entry import Trial
from strandscope.laws.catalogue.scaling import SCALING, Setting, curves, errors_by_mode, foretold, rejections, scale


def test_errors_by_mode_are_those_of_a_direct_fit() -> None:
    generator, values = np.random.default_rng(0), np.arange(1.0, 31) ** -1.5
    rows = generator.normal(size=(12, 30))
    found = errors_by_mode(rows, values, (7, 12))
    for row, n in enumerate((7, 12)):
        x = rows[:n] * np.sqrt(values)
        for mode in (0, 5, 29):
            fitted = np.linalg.pinv(x) @ rows[:n, mode]  # least norm
            left = np.eye(30)[mode] - fitted * np.sqrt(values)
            assert found[row, mode] == pytest.approx(left @ left)


def test_a_flat_spectrum_leaves_what_the_rows_do_not_span() -> None:
    told = foretold(np.ones(200), np.full((1, 200), 1 / 200), (20, 50, 100))
    np.testing.assert_allclose(told[0], 1 - np.array([20, 50, 100]) / 200, rtol=1e-9)
    setting = Setting(features=200, sizes=(20, 50, 100), draws=10)
    found = curves(setting, np.ones(200), np.full((1, 200), 1 / 200), np.random.default_rng(0))
    np.testing.assert_allclose(found[0], np.broadcast_to(told[0], (10, 3)), rtol=1e-9)  # whatever the rows


def test_what_is_foretold_falls_as_the_law_says() -> None:
    places = np.arange(1.0, 20001)
    for a, b in ((2.0, 2.0), (2.0, 3.0), (1.2, 5.0), (1.5, 9.0)):
        told = foretold(places**-a, places[None] ** -b, (64, 128))[0]
        assert np.log2(told[0] / told[1]) == pytest.approx(min(b - 1, 2 * a), rel=0.06)


def test_a_small_run_has_all_checks_and_its_control_comes_out_as_stated() -> None:
    setting = Setting(features=400, sizes=(12, 24, 48), draws=12, tables=20, compared=(8, 8), refits=(79, 79))
    made = scale(Trial(SCALING.name, level=0.95), setting)
    assert made.control.verdict == "passed" and made.control.found == "violated"
    assert len(made.checks) == 4 + 3 + 2 + 1 and made.figure is not None
    assert all(check.compared.value is not None for check in made.checks)
    assert {check.verdict for check in made.checks[:4]} <= {"consistent", "underpowered"}


def test_a_power_law_seldom_rejects_itself_and_a_decay_always_does() -> None:
    x = np.logspace(2, 5, 16)
    assert rejections(x, 3 * x**-0.3, 20, 199, np.random.default_rng(0)) <= 3
    x = np.linspace(1, 60, 16)
    assert rejections(x, np.exp(-x / 10), 5, 199, np.random.default_rng(0)) == 5
