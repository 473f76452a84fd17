"""Forms held against the sizes they did not see, what an answer says, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strandscope.errors import InputError
from strandscope.laws.fit.answer import answer, lines, residuals
from strandscope.laws.fit.bootstrap import noisy as resampled
from strandscope.laws.fit.compare import _problem_of, compare, split
from strandscope.laws.fit.fit import fit
from strandscope.laws.fit.forms import FORMS
from strandscope.laws.fit.table import Table
from test_fit import TRUTH, X, noise, noisy

# --- forms held against larger sizes ---


def test_the_largest_sizes_are_held_out_whole() -> None:
    x = np.repeat([1.0, 2, 4, 8, 16, 32], [3, 3, 3, 3, 3, 1])
    small, large = split(Table.of(x, x))
    assert set(large.y) == {16.0, 32.0} and small.y.max() == 8 and len(small.y) + len(large.y) == 16
    small, large = split(Table.of(np.stack([x, np.arange(1.0, 17)]), np.arange(16.0)))
    assert (small.x.prod(0).max()) < large.x.prod(0).min()
    with pytest.raises(InputError, match="2 sizes, too few"):
        split(Table.of([1.0, 1, 2, 2], [1.0, 1, 2, 2]))


NAMES = ("power", "power+const", "exponential")


def verdicts(table: Table, draws: int = 199) -> dict[str, str]:
    made = compare(table, [FORMS[name] for name in NAMES], np.random.default_rng(0), draws=draws)
    return {one.form.name: one.verdict for one in made}


def test_an_exponential_decay_rejects_the_power_law() -> None:
    x = np.linspace(1, 60, 16)
    for seed in range(3):
        found = verdicts(Table.of(x, np.exp(-x / 10) * noise(seed, 0.03)))
        assert found["power"] == "rejected" and found["exponential"] == "stands"


def test_a_power_law_rejects_the_exponential_and_stands() -> None:
    for seed in range(3):
        found = verdicts(Table.of(X, 3 * X**-0.3 * noise(seed, 0.03)))
        assert found["power"] == "stands" and found["exponential"] == "rejected"


def test_the_null_of_an_error_knows_nothing_of_the_sizes_held_out() -> None:
    y = TRUTH * noise(1, 0.02)
    moved = np.where(np.arange(16) > 11, y * 3, y)
    nulls, errors = [], []
    for one in (y, moved):
        (made,) = compare(Table.of(X, one), [FORMS["power"]], np.random.default_rng(0), draws=199)
        nulls.append(made.error.null)
        errors.append(made.error.value)
    assert (nulls[0].low, nulls[0].high) == (nulls[1].low, nulls[1].high)
    assert abs(errors[1] - errors[0]) > 0.5


def test_a_form_that_cannot_be_fitted_is_not_compared_and_says_why() -> None:
    made = compare(Table.of(X, 3 * X**0.3), [FORMS[name] for name in NAMES], np.random.default_rng(0), draws=199)
    found = {one.form.name: one for one in made}
    assert found["power"].verdict == "stands"
    assert found["exponential"].verdict == "not compared" and "no amplitude above 0" in found["exponential"].reason


def test_groups_that_are_too_few_without_the_largest_sizes_are_refused() -> None:
    table = noisy(groups=np.arange(16) // 2)  # eight in all
    with pytest.raises(InputError, match="table without its largest sizes: 6 groups, wanted at least 8"):
        compare(table, [FORMS["power"]], np.random.default_rng(0))


def test_the_true_form_is_not_rejected_for_starts_with_e_below_0() -> None:
    """The exponential's fit to the logistic's curve has E < 0, from where no step within its bounds looked better."""
    x, draw = np.linspace(1, 60, 16), np.random.default_rng(4)
    table = Table.of(x, 1 / (1 + (x / 40) ** 2) * np.exp(0.03 * draw.normal(size=16)))
    made = compare(table, [FORMS["logistic"], FORMS["exponential"]], np.random.default_rng(4), draws=299)
    (logistic,) = [one for one in made if one.form.name == "logistic"]
    assert logistic.verdict == "stands" and logistic.p is not None and logistic.p > 0.1


def test_groups_have_one_code_on_both_sides_of_the_split() -> None:
    small, large = split(Table.of(np.arange(1.0, 13), np.arange(1.0, 13), groups=[5, 5, 7, 7, 9, 9, 3, 3, 9, 3, 8, 4]))
    assert small.groups is not None and small.groups.tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 3]
    assert large.groups is not None and large.groups.tolist() == [0, 5, 4]


def stretches(seed: int) -> Table:
    """3 x^-.3 in 12 groups of five neighbouring sizes, which share nearly all of their noise of 10 %."""
    draw, x, run = np.random.default_rng(seed), np.logspace(2, 5, 60), np.repeat(np.arange(12), 5)
    luck, own = 0.1 * draw.normal(size=12)[run], 0.02 * draw.normal(size=60)
    return Table.of(x, 3 * x**-0.3 * np.exp(luck + own), groups=run)


def test_noise_of_larger_sizes_is_shared_by_their_groups() -> None:
    small, large = split(stretches(0))
    found = fit(small, FORMS["power"])
    here, ahead = resampled(found, np.random.default_rng(0), 4000, ahead=_problem_of(found, large), further=large.groups)
    made = np.asarray(np.corrcoef(np.concatenate([here, ahead], 1).T))
    run = stretches(0).groups
    assert run is not None
    same = run[:, None] == run
    assert made[same].min() > 0.7 and np.abs(made[~same]).max() < 0.1


def test_a_true_form_in_groups_is_rejected_as_often_as_it_is_said_to_be() -> None:
    """At most 20 of 200 tables at 5 %, where 10 are meant; with noise drawn row by row 30 were."""
    made = [compare(stretches(seed), [FORMS["power"]], np.random.default_rng(seed), draws=99) for seed in range(200)]
    assert 2 <= sum(one.verdict == "rejected" for (one,) in made) <= 20


# --- what is said ---


def test_an_answer_is_json_and_its_sentence_has_the_interval() -> None:
    made = answer(noisy(5), FORMS["power+const"], at=[[1e6]], comparing=True, draws=199)
    entry = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert entry["schema"] == "strandscope.fit/1" and set(entry["parameters"]) == {"E", "A", "α"}
    (sentence,) = made.sentences
    low, high = (entry["predictions"][0]["reading"][end] for end in ("low", "high"))
    assert low < 0.5 + 8 * 1e6**-0.4 < high
    assert sentence.startswith("power+const predicts 0.5") and f"[{low:.4g}, {high:.4g}] y at x = 1e+06" in sentence
    assert entry["comparison"][0]["form"] == "power+const"
    assert sentence in list(lines(made))


def test_the_scatter_holds_what_rows_were_scattered_by() -> None:
    made = [answer(noisy(seed), FORMS["power+const"], draws=199).scatter for seed in range(12)]
    held = sum(one.low <= 0.02 <= one.high for one in made)  # type: ignore[operator]
    assert held >= 10 and {one.unit for one in made} == {"of log y"}
    shared = answer(noisy(groups=np.arange(16) // 2), FORMS["power"], draws=199).scatter
    assert shared.value is None and "rows share their noise" in shared.reason


def test_residuals_are_a_figure() -> None:
    made = answer(noisy(), FORMS["power+const"], draws=199)
    curve, left = made.figures
    assert left.title == "residuals of log y, power+const" and left.scale == "log x"
    rows, _ = left.series
    wanted = np.log(made.fit.table.y) - np.log(made.fit.predict(X[None]))
    np.testing.assert_allclose(rows.y, wanted, atol=1e-12)
    np.testing.assert_allclose(residuals(made.fit), wanted, atol=1e-12)
    band = curve.series[1]
    assert band.low is not None and band.high is not None and all(np.array(band.low) < band.y) and band.kind == "predicted"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ([1.1e6], "x = 1.1e\\+06 is more than 10 times beyond the table's 100 to 100000"),
        ([9.0], "more than 10 times beyond"),
        ([0.0], "wanted a size above 0"),
        ([1e3, 1e3], "got 2 sizes, power wants 1"),
    ],
)
def test_a_place_too_far_is_refused(place: list[float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        answer(noisy(), FORMS["power"], at=[place])


def test_told_to_it_goes_far() -> None:
    assert answer(noisy(), FORMS["power+const"], at=[[1e9]], far=True, draws=199).predictions[0].value is not None


@pytest.mark.parametrize(
    ("x", "y", "name", "sentence"),
    [
        ([1, 2], [2, 1], "power", "2 rows; power has 2 parameters and wants at least 4 rows"),
        ([5] * 6, [2, 1, 2, 1, 2, 1], "power", "x takes 1 value, power wants at least 2"),
        ([1, 2, 3, 4, 5, 6], [3, 2, -1, 1, 1, 1], "power+const", "row 3: y is -1, wanted above 0 for multiplicative noise"),
        ([1, 2, 0, 4, 5, 6], [3, 2, 1, 1, 1, 1], "power+const", "row 3: x is 0, wanted above 0"),
        ([1, 2, 3, 4, 5, 6], [3, 2, 1, 1, 1, 1], "chinchilla", "1 columns of sizes \\(x\\), the form chinchilla wants 2"),
        ([1, 2, 3], [3, 2, np.nan], "power", "row 3: y is nan, wanted a finite number"),
        ([1, 2, 3], [3, 2], "power", "got lengths \\[2, 3\\]"),
    ],
)
def test_tables_that_cannot_hold_a_form_are_refused(x: list, y: list, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(Table.of(x, y), FORMS[name])
