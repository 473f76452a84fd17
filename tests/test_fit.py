"""Fitted laws: forms and their slopes, least squares beside other programs', profiles, resampling. Coverage is judged by the
standards of `standards/fitting.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares, nnls
from scipy.stats import t as student

from strandscope.errors import InputError, TrustError
from strandscope.laws.fit import bootstrap
from strandscope.laws.fit.answer import answer
from strandscope.laws.fit.bootstrap import Resampled, interval, parameters, predictions, resample
from strandscope.laws.fit.fit import Fit, Outcome, fit
from strandscope.laws.fit.forms import FORMS, Axis, form, values
from strandscope.laws.fit.solve import descend, extremes, non_negative
from strandscope.laws.fit.table import Table

X = np.logspace(2, 5, 16)
TRUTH = 0.5 + 8 * X**-0.4


def noise(seed: int, scatter: float, n: int = 16) -> np.ndarray:
    return np.exp(scatter * np.random.default_rng(seed).normal(size=n))


def noisy(seed: int = 0, scatter: float = 0.02, **more: Any) -> Table:
    return Table.of(X, TRUTH * noise(seed, scatter), **more)


def fitted(seed: int = 0, scatter: float = 0.02, name: str = "power+const", **more: Any) -> Fit:
    found = fit(noisy(seed, scatter, **more), FORMS[name])
    assert found.outcome is Outcome.FOUND
    return found


# --- forms ---


def a_theta(name: str) -> np.ndarray:
    return {
        "power": np.array([0.1, 0.4]),
        "power+const": np.array([0.3, -0.2, -1.0]),
        "chinchilla": np.array([0.3, -0.2, 0.1, -1.0, -1.3]),
        "exponential": np.array([0.3, -0.2, 0.5]),
        "logistic": np.array([0.3, -0.2, 1.4, 0.2]),
        "broken-power": np.array([0.1, 0.2, 0.7, 0.3, -0.8]),
    }[name]


@pytest.mark.parametrize("name", FORMS)
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    one = FORMS[name]
    u = np.linspace(-1, 1, 2 * 7).reshape(2, 7)[: one.columns]
    theta, step = a_theta(name)[None], 1e-6
    _, jacobian = values(one, theta, u)
    assert jacobian is not None
    for at in range(theta.shape[1]):
        move = step * np.eye(theta.shape[1])[at]
        up, down = (values(one, theta + side * move, u, slopes=False)[0] for side in (1, -1))
        np.testing.assert_allclose(jacobian[0, at], (up - down)[0] / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_figures_read_off_a_fit_have_the_slopes_they_say_and_are_theta_plus_the_others(name: str) -> None:
    one = FORMS[name]
    x = np.stack([X, X[::-1] ** 0.5])[: one.columns]
    made = values(one, a_theta(name)[None], Axis.of(x, one.logarithmic).of_sizes(x), slopes=False)[0][0]
    found = fit(Table.of(x, made), one)
    for held in [found.held(parameter) for parameter in one.parameters] + [found.held_at(2 * x[:, -1])]:
        _, gradient = held.read(found.theta[None])
        differences = [
            (held.read((found.theta + move)[None])[0] - held.read((found.theta - move)[None])[0])[0] / 2e-6
            for move in 1e-6 * np.eye(len(found.theta))
        ]
        np.testing.assert_allclose(gradient[0], differences, rtol=1e-5, atol=1e-6)
        assert gradient[0, held.at] == pytest.approx(1)


def test_a_form_that_there_is_not_is_named() -> None:
    with pytest.raises(InputError, match="got 'linear', wanted one of power, power\\+const"):
        form("linear")


# --- least squares ---


def test_non_negative_least_squares_is_scipys() -> None:
    generator = np.random.default_rng(0)
    columns, y = generator.normal(size=(200, 3, 8)) + 0.3, generator.normal(size=8) + 0.5
    found, squares = non_negative(columns, y)
    for matrix, mine, left in zip(columns, found, squares, strict=True):
        theirs, norm = nnls(matrix.T, y)
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
        assert left == pytest.approx(norm**2)
    assert (found == 0).any(1).mean() > 0.2  # the bound is met


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("weighed", [False, True])
def test_least_squares_are_those_of_scipy(kind: str, weighed: bool) -> None:
    error = np.linspace(0.01, 0.1, 16) if weighed else None
    table = noisy(3, 0.03, error=error)

    def curve(x: np.ndarray, e: float, a: float, alpha: float) -> np.ndarray:
        y = e + a * x**-alpha
        return np.log(y) if kind == "multiplicative" else y

    y = np.log(table.y) if kind == "multiplicative" else table.y
    sigma = None if error is None else error / table.y if kind == "multiplicative" else error
    theirs, _ = curve_fit(curve, X, y, (0.5, 8, 0.4), sigma, xtol=1e-14, ftol=1e-14)
    found = fit(table, FORMS["power+const"], kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(list(found.parameters.values()), theirs, rtol=1e-5)


def test_a_power_law_is_a_straight_line_in_logarithms_and_may_rise() -> None:
    for alpha in (0.3, -0.3):
        table = Table.of(X, 3 * X**-alpha * noise(1, 0.05))
        slope, level = np.polyfit(np.log(X), np.log(table.y), 1)
        found = fit(table, FORMS["power"]).parameters
        assert (found["A"], found["α"]) == pytest.approx((np.exp(level), -slope))


def test_a_constant_is_not_below_zero_and_the_others_are_fitted_beside_it() -> None:
    table = next(
        table for table in (Table.of(X, 3 * X**-0.3 * noise(seed, 0.05)) for seed in range(20))
        if fit(table, FORMS["power+const"]).free[0] < -1e-3
    )  # fmt: skip
    found, without = fit(table, FORMS["power+const"]), fit(table, FORMS["power"])
    assert found.parameters == pytest.approx({"E": 0.0, **without.parameters}, rel=1e-5)
    made = parameters(resample(found, np.random.default_rng(0), 199))
    assert made["E"].value == made["E"].low == 0.0 and made["E"].high is not None


def test_parameters_follow_the_units() -> None:
    table = noisy()
    plain = fit(table, FORMS["power+const"])
    scaled = fit(Table.of(X * 1e6, table.y * 10), FORMS["power+const"])
    wanted = {"E": 10 * plain.parameters["E"], "α": plain.parameters["α"]}
    wanted["A"] = 10 * plain.parameters["A"] * 1e6 ** plain.parameters["α"]
    assert scaled.parameters == pytest.approx(wanted, rel=1e-6)
    made = [resample(one, np.random.default_rng(0), 199) for one in (plain, scaled)]
    one, other = (interval(of, of.fit.held("E"), "") for of in made)
    assert (other.low, other.high) == pytest.approx((10 * one.low, 10 * one.high), rel=1e-3)  # type: ignore[operator]


def test_the_scale_of_errors_is_estimated() -> None:
    error = np.linspace(0.01, 0.1, 16)
    one, other = (fitted(error=scale * error) for scale in (1, 7))
    assert one.parameters == pytest.approx(other.parameters)
    assert one.scatter == pytest.approx(other.scatter)


def test_a_row_without_a_say_has_none() -> None:
    error = np.full(16, 0.01)
    error[5] = 1e4
    table = noisy(error=error)
    y = table.y.copy()
    y[5] *= 3
    parts = [fit(Table.of(X, one, error), FORMS["power+const"], "additive").parameters for one in (table.y, y)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "y", "outcome"),
    [
        ("power+const", 1 + X / 1e5, Outcome.NO_FALL),
        ("exponential", 1 + X / 1e5, Outcome.NO_FALL),
        ("logistic", 3 * X**-0.5, Outcome.EDGE),
    ],
)
def test_a_search_that_fails_says_so(name: str, y: np.ndarray, outcome: Outcome) -> None:
    found = fit(Table.of(X, y), FORMS[name])
    assert found.outcome is outcome
    with pytest.raises(TrustError, match=r"table, [a-z+]+: (no amplitude|the best fit lies at an edge)"):
        answer(Table.of(X, y), FORMS[name])


# --- intervals ---


def test_the_ends_of_a_linear_profile_are_those_of_the_closed_form() -> None:
    table = Table.of(X, 3 * X**-0.3 * noise(1, 0.05))
    found = fit(table, FORMS["power"])
    centred = np.log(X) - np.log(X).mean()
    reach = 2.3 * found.scatter / np.sqrt(centred @ centred)
    squares = found.squares + 2.3**2 * found.squares / found.degrees
    ends, reached = extremes(found.problem, found.free, found.targets, found.held("α"), np.full(2, squares))
    assert reached.all()
    assert ends == pytest.approx([found.parameters["α"] - reach, found.parameters["α"] + reach])


@pytest.mark.parametrize("figure", ["E", "A", "α", "curve"])
def test_the_ends_of_a_profile_are_where_scipy_finds_them(figure: str) -> None:
    """With the figure held at its end, the least squares of the others are what was meant, and the figure is the outermost."""
    found = fitted(2, 0.08)
    held = found.held_at(np.array([1e6])) if figure == "curve" else found.held(figure)
    squares = found.squares * 1.4
    ends, reached = extremes(found.problem, found.free, found.targets, held, np.full(2, squares))
    assert reached.all() and ends[0] < held.read(found.free[None])[0][0] < ends[1]

    def left(free: np.ndarray, end: float) -> np.ndarray:
        """Residuals in the user's own writing, one parameter given by the figure."""
        value = found.told(held, end)
        if figure == "E":
            e, a, alpha = value, np.exp(free[0]), free[1]
        elif figure == "A":
            e, a, alpha = free[0], value, free[1]
        elif figure == "α":
            e, a, alpha = free[0], np.exp(free[1]), value
        else:
            a, alpha = np.exp(free[0]), free[1]
            e = value - a * 1e6**-alpha
        return np.log(found.table.y) - np.log(np.maximum(e + a * X**-alpha, 1e-12))

    e, a, alpha = found.parameters.values()
    start = {"E": (np.log(a), alpha), "A": (e, alpha), "α": (e, np.log(a)), "curve": (np.log(a), alpha)}[figure]
    for end in ends:
        best = least_squares(left, start, args=(end,), x_scale="jac", xtol=1e-14, ftol=1e-14)
        assert 2 * best.cost == pytest.approx(squares, rel=1e-4)


def test_what_a_descent_with_a_figure_held_gives_holds_it() -> None:
    found = fitted(2, 0.05)
    for held in (found.held("A"), found.held_at(np.array([1e6]))):
        at = float(held.read(found.free[None])[0][0]) + 0.1
        theta, squares, done = descend(found.problem, found.free[None], found.targets, held, at)
        assert done.all() and held.read(theta)[0] == pytest.approx(at) and squares > found.squares


def test_a_linear_interval_is_that_of_student() -> None:
    table = Table.of(X, 3 * X**-0.3 * noise(1, 0.05))
    found = fit(table, FORMS["power"])
    made = interval(resample(found, np.random.default_rng(0), 9999), found.held("α"), "")
    centred = np.log(X) - np.log(X).mean()
    reach = student.ppf(0.975, 14) * found.scatter / np.sqrt(centred @ centred)
    assert made.low is not None and made.high is not None
    assert (made.high - made.low) / 2 == pytest.approx(reach, rel=0.08)


def test_an_interval_repeats_and_says_how_it_was_made() -> None:
    found = fitted()
    one, other = (predictions(resample(found, np.random.default_rng(4), 199), [[1e6]])[0] for _ in range(2))
    assert one == other
    assert one.method == "least squares of log y; profile with quantiles from 199 refits, residuals of rows resampled"
    assert (one.level, one.n, one.unit) == (0.95, 16, "y")


def test_rows_that_share_their_luck_make_the_interval_wider() -> None:
    run = np.repeat(np.arange(8), 4)
    x = np.logspace(2, 5, 32)
    luck = 0.05 * np.random.default_rng(1).normal(size=8)[run]
    y = 3 * x**-0.3 * np.exp(luck) * noise(2, 0.01, 32)
    widths = []
    for groups in (None, run):
        found = fit(Table.of(x, y, groups=groups), FORMS["power"])
        made = interval(resample(found, np.random.default_rng(0), 999), found.held("α"), "")
        widths.append(made.high - made.low)  # type: ignore[operator]
    assert widths[1] > 1.3 * widths[0]
    assert "signs of the residuals of 8 groups" in made.method  # pyright: ignore[reportPossiblyUnboundVariable]


def test_the_standard_error_by_group_is_the_sandwich() -> None:
    run = np.repeat(np.arange(8), 2)
    found = fit(Table.of(X, 3 * X**-0.3 * noise(1, 0.05), groups=run), FORMS["power"])
    made = resample(found, np.random.default_rng(0), 199)
    design = np.stack([np.ones(16), -np.log(X)], 1)
    inverse = np.linalg.inv(design.T @ design)
    left = np.log(found.table.y) - design @ inverse @ design.T @ np.log(found.table.y)
    sums = np.stack([design[run == one].T @ left[run == one] for one in range(8)])
    usual = left @ left / 14 * inverse
    clustered = inverse @ sums.T @ sums @ inverse
    scale = np.array([found.squares / found.degrees])
    ratio = bootstrap._clustering(made, found.held("α"), found.free[None], found.targets[None], scale)
    assert ratio[0] == pytest.approx(np.sqrt(clustered[1, 1] / usual[1, 1]))


def test_a_skew_root_moves_the_ends_the_right_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """r runs from −1 to 3: the truth may be 3 standard errors below the figure and 1 above."""
    found = fit(Table.of(X, 3 * X**-0.3 * noise(1, 0.05)), FORMS["power"])
    made = resample(found, np.random.default_rng(0), 199)
    monkeypatch.setattr(bootstrap, "_roots", lambda *_: np.repeat([-1.0, 0.0, 3.0], [20, 159, 20]))
    centred = np.log(X) - np.log(X).mean()
    error = found.scatter / np.sqrt(centred @ centred)
    reading = interval(made, found.held("α"), "")
    assert (reading.low, reading.high) == pytest.approx((reading.value - 3 * error, reading.value + error), rel=1e-6)  # type: ignore[operator]


def test_few_groups_are_refused() -> None:
    found = fitted(groups=np.arange(16) // 4)
    with pytest.raises(InputError, match="4 groups, wanted at least 8"):
        resample(found, np.random.default_rng(0), 199)


def test_too_few_draws_for_a_level_are_refused() -> None:
    with pytest.raises(InputError, match=r"got 19, wanted at least 39 for an interval at 0\.95"):
        parameters(resample(fitted(), np.random.default_rng(0), 19))


def test_what_the_table_does_not_bound_is_not_measured() -> None:
    x = np.logspace(2, 3, 6)
    found = fit(Table.of(x, (0.5 + 8 * x**-0.4) * noise(0, 0.1, 6)), FORMS["power+const"])
    made = parameters(resample(found, np.random.default_rng(0), 199))
    assert made["A"].value is None and "the table does not bound it on" in made["A"].reason


def test_a_constant_that_the_table_wants_below_0_is_not_measured() -> None:
    x = np.geomspace(1, 60, 16)
    found = fit(Table.of(x, 3 * np.exp(-x / 40) * noise(0, 0.03)), FORMS["power+const"])
    made = resample(found, np.random.default_rng(0), 199)
    assert found.outcome is Outcome.FOUND and found.parameters["E"] == 0 > found.free[0]
    assert parameters(made)["E"].reason == "the table wants E below 0; the form does not hold"
    assert predictions(made, [[600]])[0].reason == "the table wants the curve there below 0; the form does not hold"


def test_a_constant_whose_interval_has_0_inside_is_cut_there() -> None:
    found = fit(Table.of(X, 8 * X**-0.4 * noise(0, 0.02)), FORMS["power+const"])
    made = parameters(resample(found, np.random.default_rng(0), 199))["E"]
    assert made.low == 0 and made.high is not None and made.high > 0


def test_a_descent_from_beyond_its_bounds_begins_at_them() -> None:
    """From E < 0, whose squares no E of at least 0 has, to the least with E at least 0."""
    x = np.geomspace(1, 60, 16)
    found = fit(Table.of(x, 3 * np.exp(-x / 40) * noise(0, 0.03)), FORMS["power+const"])
    theta, squares, done = descend(found.problem, found.free[None], found.targets, floor=True)
    assert done.all() and theta[0] == pytest.approx(found.theta, abs=1e-4) and theta[0, 0] == 0
    assert squares[0] == pytest.approx(found.problem.squares(theta, found.targets[None])[0])
    assert squares[0] == pytest.approx(found.problem.squares(found.theta[None], found.targets[None])[0])
    held = found.held("A")
    at = float(held.read(found.theta[None])[0][0])
    theta, squares, _ = descend(found.problem, found.free[None], found.targets, held, at, floor=True)
    assert held.read(theta)[0] == pytest.approx(at) and theta[0, 0] == 0


def test_without_noise_an_interval_has_no_width() -> None:
    made = answer(Table.of(X, TRUTH), FORMS["power+const"], at=[[1e6]])
    assert made.resampled.draws == Resampled.exact(made.fit).draws == 0
    (reading,) = made.predictions
    assert reading.low == reading.high == pytest.approx(0.5 + 8 * 1e6**-0.4)
    assert "lie on the form to rounding" in reading.method
