"""What `law fit` says of a table: parameters, predictions, residuals and, where asked, what larger sizes say of other forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from ...errors import InputError, TrustError
from ...provenance import numpy_generator
from ...reading import Reading
from ..figure import Figure, Series
from ..law import reading_dict
from .bootstrap import DRAWS, LEVEL, Noises, Resampled, parameters, predictions, resample
from .compare import ALL, Compared, compare
from .fit import Fit, Outcome, fit
from .forms import Floats, Form
from .solve import Noise
from .table import Table

FAR = 10.0  # how many times the range of x a prediction may lie beyond it, unless told otherwise
SCHEMA = "strandscope.fit/1"
_GRID = 24  # places at which the curve's band is drawn


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A fitted form with what it says. `others` has the predictions of the other forms that larger sizes did not reject."""

    resampled: Resampled
    parameters: dict[str, Reading]
    at: tuple[tuple[float, ...], ...]
    predictions: tuple[Reading, ...]
    compared: tuple[Compared, ...]
    others: dict[str, tuple[Reading, ...]]
    figures: tuple[Figure, ...]
    level: float

    @property
    def fit(self) -> Fit:
        return self.resampled.fit

    @property
    def scatter(self) -> Reading:
        """How far runs lie from the curve: the standard deviation of log y, or of y; interval of χ², for normal noise."""
        fitted, level = self.fit, self.level
        value, degrees, n = fitted.scatter, fitted.degrees, len(fitted.targets)
        unit = f"of log {fitted.table.outcome}" if fitted.problem.noise == "multiplicative" else fitted.table.outcome
        how = "standard deviation of residuals; interval of χ² for normal noise"
        if self.resampled.groups is not None:
            why = "rows share their noise or scatter unalike, so that no one figure is every row's"
            return Reading.not_measured(why, unit=unit, method=how, n=n)
        low, high = (value * float(np.sqrt(degrees / chi2.ppf(tail, degrees))) for tail in ((1 + level) / 2, (1 - level) / 2))
        return Reading(value, low, high, level, n, unit, None, how)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is predicted where, one sentence a place."""
        table, form = self.fit.table, self.fit.form
        return tuple(
            f"{form.name} predicts {_told(reading)} at {_place(table, one)}"
            for one, reading in zip(self.at, self.predictions, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """`law fit --json`."""
        fitted, table = self.fit, self.fit.table
        return {
            "schema": SCHEMA,
            "data": {
                "name": table.name, "rows": len(table.y), "x": list(table.names), "y": table.outcome,
                "errors": table.error is not None, "groups": None if table.groups is None else int(table.groups.max()) + 1,
            },
            "form": fitted.form.name,
            "formula": fitted.form.formula,
            "noise": fitted.problem.noise,
            "scatter": reading_dict(self.scatter),
            "parameters": {name: reading_dict(reading) for name, reading in self.parameters.items()},
            "predictions": [
                {"at": dict(zip(table.names, one, strict=True)), "reading": reading_dict(reading), "sentence": sentence}
                for one, reading, sentence in zip(self.at, self.predictions, self.sentences, strict=True)
            ],
            "comparison": [one.to_dict() for one in self.compared],
            "others": {name: [reading_dict(reading) for reading in readings] for name, readings in self.others.items()},
            "figures": [figure.to_dict() for figure in self.figures],
        }  # fmt: skip


def answer(
    table: Table, form: Form, *, noise: Noise = "multiplicative", at: Sequence[Sequence[float]] = (), far: bool = False,
    comparing: bool = False, resampled: Noises | None = None, draws: int = DRAWS, level: float = LEVEL, seed: int = 0,
) -> Answer:  # fmt: skip
    """Fit a form to a table and say what follows.

    Args:
        at: sizes (columns,) at which the curve is wanted.
        far: let them lie more than ten times beyond the table's.

    Raises:
        InputError: the table cannot hold the form, or a place is too far.
        TrustError: the search did not find the form's least squares.
    """
    places = tuple(tuple(float(size) for size in one) for one in at)
    for one in places:
        check_place(table, form, one, far)
    made = _resampled(table, form, noise, resampled, draws, seed)
    compared = compare(
        table, ALL, numpy_generator(seed, "fit", "compare"), noise=noise, level=level, resampled=resampled
    ) if comparing else []  # fmt: skip
    others = {}
    for one in compared if places else ():
        if one.verdict == "stands" and one.form is not form:
            try:
                others[one.form.name] = tuple(
                    predictions(_resampled(table, one.form, noise, resampled, draws, seed), places, level)
                )
            except (InputError, TrustError) as refusal:
                reason = f"{one.form.name}: {refusal}"
                others[one.form.name] = tuple(Reading.not_measured(reason, unit=table.outcome, method="") for _ in places)
    return Answer(
        made, parameters(made, level), places, tuple(predictions(made, places, level)), tuple(compared), others,
        figures(made, level), level,
    )  # fmt: skip


def _resampled(table: Table, form: Form, noise: Noise, how: Noises | None, draws: int, seed: int) -> Resampled:
    fitted = fit(table, form, noise)
    if fitted.outcome is not Outcome.FOUND:
        raise TrustError(f"{table.name}, {form.name}: {fitted.outcome.value}")
    if fitted.squares <= 1e-20 * float(np.square(fitted.problem.weights * fitted.targets).sum()):
        return Resampled.exact(fitted)
    return resample(fitted, numpy_generator(seed, "fit", form.name), draws, how)


def check_place(table: Table, form: Form, place: Sequence[float], far: bool) -> None:
    """Raise InputError unless the form may be asked here."""
    if len(place) != form.columns:
        raise InputError(f"at: got {len(place)} sizes, {form.name} wants {form.columns} ({', '.join(table.names)})")
    for name, size, sizes in zip(table.names, place, table.x, strict=True):
        if not np.isfinite(size) or size < 0 or (form.logarithmic and size == 0):
            raise InputError(f"at: got {name} = {size:g}, wanted a size {'above' if form.logarithmic else 'of at least'} 0")
        low, high = float(sizes.min()) / FAR, float(sizes.max()) * FAR
        if not far and not low <= size <= high:
            raise InputError(
                f"at: {name} = {size:g} is more than {FAR:g} times beyond the table's {sizes.min():g} to {sizes.max():g}, where "
                "nothing says that the form still holds; choose a nearer place, add runs, or say --far"
            )


def figures(resampled: Resampled, level: float) -> tuple[Figure, ...]:
    """The curve with its band (one column of sizes), and the residuals."""
    fitted, table = resampled.fit, resampled.fit.table
    x, scale = table.x[0], "log" if fitted.form.logarithmic else "linear"
    found = []
    if fitted.form.columns == 1:
        ends = float(x.min()), float(x.max())
        places = np.geomspace(*ends, _GRID) if fitted.form.logarithmic else np.linspace(*ends, _GRID)
        places = np.clip(places, *ends)
        band = [
            (one, reading) for one, reading in zip(places, predictions(resampled, places[:, None].tolist(), level), strict=True)
        ]
        drawn = [
            (one, r.value, r.low, r.high) for one, r in band if r.value is not None and r.low is not None and r.high is not None
        ]
        if drawn:
            curve = Series.of(fitted.form.formula, "predicted", *np.array(drawn).T)
            title = f"{table.outcome} against {table.names[0]}, {fitted.form.name}"
            if min(float(table.y.min()), min(low for *_, low, _ in drawn)) <= 0:
                scale = "log x" if scale == "log" else scale  # no logarithm of y
            found.append(
                Figure.of(title, table.names[0], table.outcome, [Series.of("runs", "measured", x, table.y), curve], scale)
            )
    what = f"log {table.outcome}" if fitted.problem.noise == "multiplicative" else table.outcome
    zero = Series.of("the form", "guide", [x.min(), x.max()], [0.0, 0.0])
    rows = Series.of("runs", "measured", x, residuals(fitted))
    title = f"residuals of {what}, {fitted.form.name}"
    found.append(
        Figure.of(title, table.names[0], f"residual of {what}", [rows, zero], "log x" if fitted.form.logarithmic else "linear")
    )
    return tuple(found)


def residuals(fitted: Fit) -> Floats:
    """Measured less fitted (n,), of log y or of y."""
    unit = 1.0 if fitted.problem.noise == "multiplicative" else fitted.problem.unit
    return (fitted.targets - fitted.problem.curve(fitted.theta[None])[0]) * unit


def lines(said: Answer) -> Iterator[str]:
    """For a terminal."""
    fitted, table = said.fit, said.fit.table
    yield f"{table.outcome} = {fitted.form.formula} on {len(table.y)} rows of {table.name}"
    width = max(len(name) for name in said.parameters)
    for name, reading in said.parameters.items():
        yield f"  {name:{width}}  {_told(reading)}"
    yield f"  scatter: {_told(said.scatter)}"
    yield f"  intervals: {next(iter(said.parameters.values())).method}"
    yield from said.sentences
    for one in said.compared:
        yield _compared(one)
    for name, readings in said.others.items():
        for place, reading in zip(said.at, readings, strict=True):
            yield f"{name}, which stands too, predicts {_told(reading)} at {_place(table, place)}"


def _compared(one: Compared) -> str:
    if one.error.value is None or one.error.null is None:
        return f"{one.form.name}: not compared ({one.reason})"
    null = one.error.null
    band = f"{_figure(null.value)} [{_figure(null.low)}, {_figure(null.high)}]"
    return (
        f"{one.form.name}: {one.verdict}; off by {_figure(one.error.value)} {one.error.unit} at the {one.error.n} largest rows, "
        f"{band} where it holds; p = {one.p:.2g}"
    )


def _place(table: Table, place: Sequence[float]) -> str:
    return ", ".join(f"{name} = {size:g}" for name, size in zip(table.names, place, strict=True))


def _told(reading: Reading) -> str:
    if reading.value is None or reading.low is None or reading.high is None:
        return f"not measured ({reading.reason})"
    return f"{_figure(reading.value)} [{_figure(reading.low)}, {_figure(reading.high)}] {reading.unit}"


def _figure(figure: float) -> str:
    return f"{figure:.4g}"
