"""The frame of the catalogue: checks judged together, entries run by name and seed, the command, and the pages."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strandscope.cli.main import main
from strandscope.errors import InputError
from strandscope.laws.catalogue import page, registry, run
from strandscope.laws.catalogue.checks import bound, certain, difference, exactly, mean, ratio, share, slope, within
from strandscope.laws.catalogue.entry import LEVEL, Entry, Trial, entry
from strandscope.laws.figure import Figure, Series
from strandscope.laws.law import Check, Control, Law, LawResult, together
from strandscope.reading import Reading

LAW = Law("made up", "y = 2", {"y": "a figure (1)"}, "here", tolerance=0.1)


def reading(low: float, high: float) -> Reading:
    return Reading((low + high) / 2, low, high, 0.95, 9, "x", None, "made up")


def check(low: float, high: float) -> Check:
    return Check("x", certain(1, "x", "closed form"), reading(low, high), reading(low, high), within(0.1))


@entry(LAW, source="nobody", control="Half of it must be violated.", seconds=1)
def made(trial: Trial) -> LawResult:
    """Two is two, from
    thirty draws."""
    draws = trial.numpy("draws").normal(2, 0.01, 30)
    control = Control.of("half", "violated", [ratio("y/2", 2, draws / 2, within(0.1), trial.level, "x")])
    figure = Figure.of("Two", "draw (1)", "y (1)", [Series.of("drawn", "measured", range(30), draws)])
    checks = [ratio("y", 2, draws, within(0.1), trial.level, "x"), exactly("1 + 1", 2, 1 + 1, 0, "x", "addition")]
    return LawResult.of(LAW, "paper", checks, control, figure=figure)


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The catalogue with one law in it, made up."""
    for place in (registry, run):
        monkeypatch.setattr(place, "ENTRIES", (made,))
    return made


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        ([(0.95, 1.05), (0.99, 1.01)], "consistent"),
        ([(0.95, 1.05), (0.5, 1.01)], "underpowered"),
        ([(0.5, 1.05), (1.2, 1.3)], "violated"),
    ],
)
def test_checks_are_judged_together(ends: list[tuple[float, float]], wanted: str) -> None:
    assert together([check(*end) for end in ends]) == wanted


def test_a_control_has_come_out_only_if_each_of_its_checks_has() -> None:
    assert Control.of("c", "violated", [check(2, 3), check(0.1, 0.2)]).verdict == "passed"
    mixed = Control.of("c", "violated", [check(2, 3), check(0.99, 1.01)])
    assert (mixed.verdict, mixed.found) == ("failed", "consistent")
    assert Control.of("c", "consistent", [check(0.99, 1.01), check(0.5, 1.01)]).found == "underpowered"


def test_a_check_that_was_not_measured_is_out_of_domain_unless_another_is_violated() -> None:
    missing = Check("x", certain(1, "x", "m"), none := Reading.not_measured("why", unit="x", method="m"), none, (0, 1))
    assert together([check(0.99, 1.01), missing]) == "out of domain"
    assert together([check(2, 3), missing]) == "violated"


def test_a_band_may_be_open_and_then_has_no_number_in_json() -> None:
    open_above = bound("x", reading(5, 6), (2, math.inf))
    assert open_above.verdict == "consistent" and open_above.to_dict()["band"] == [2, None]
    assert bound("x", reading(1, 3), (2, math.inf)).verdict == "underpowered"
    assert bound("x", reading(0, 1), (2, math.inf)).verdict == "violated"
    with pytest.raises(ValueError, match="holds nothing"):
        bound("x", reading(0, 1), (2, 1))


def test_intervals_of_means_hold_their_level() -> None:
    """2,000 means of twenty exponentials at 95 %: skew costs two points, no more."""
    draws = np.random.default_rng(0).exponential(1.0, (2000, 20))
    held = [one.low <= 1 <= one.high for one in (mean(row, 0.95, "x", "m") for row in draws)]  # type: ignore[operator]
    assert 0.90 < np.mean(held) < 0.96
    normal = np.random.default_rng(1).normal(1.0, 1.0, (2000, 20))
    held = [one.low <= 1 <= one.high for one in (mean(row, 0.95, "x", "m") for row in normal)]  # type: ignore[operator]
    assert 0.935 < np.mean(held) < 0.965


def test_a_ratio_carries_the_doubt_of_both_sides() -> None:
    sure = ratio("x", 2.0, [1.9, 2.0, 2.1], within(0.1), 0.95, "x").compared
    both = ratio("x", Reading(2.0, 1.8, 2.2, 0.95, 5, "x", None, "m"), [1.9, 2.0, 2.1], within(0.1), 0.95, "x").compared
    assert sure.value == both.value == pytest.approx(1.0)
    assert both.low == pytest.approx(sure.low * 2 / 2.2) and both.high == pytest.approx(sure.high * 2 / 1.8)  # type: ignore[operator]


def test_repetitions_that_are_not_finite_are_not_measured() -> None:
    assert ratio("x", 2.0, [1.0, math.nan], within(0.1), 0.95, "x").verdict == "out of domain"
    assert difference("x", 2.0, [1.0, math.inf], (-1, 1), 0.95, "x").verdict == "out of domain"
    assert ratio("x", 0.0, [1.0, 2.0], within(0.1), 0.95, "x").verdict == "out of domain"


def test_a_share_has_an_exact_interval_even_at_its_ends() -> None:
    none = share("x", 0, 50, (0, 0.1), 0.95)
    assert none.reading.low == 0 and none.reading.high == pytest.approx(1 - 0.025 ** (1 / 50))
    assert share("x", 50, 50, (0.9, 1), 0.95).reading.high == 1


def test_slopes_of_several_repetitions() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert slope(x, [2 * x + 1, -x]) == pytest.approx([2, -1])


def test_a_figure_holds_only_finite_points() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Series.of("x", "measured", [1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="as many"):
        Series.of("x", "measured", [1, 2], [1])


def test_a_run_repeats_and_its_seeds_differ(catalogue: Entry) -> None:
    first, second = run.run(["made-up"], [3, 4]).ran
    again = run.run(["MADE UP"], [3]).ran[0]
    assert first.passed and first.result == again.result and first.result.reading != second.result.reading
    assert first.result.figure is not None and len(first.result.figure.series[0].x) == 30


def test_processes_give_what_one_gives() -> None:
    alone = run.run(["overlap"], [1])
    spread = run.run(["overlap"], [1, 2], jobs=2)
    assert [one.seed for one in spread.ran] == [1, 2] and spread.ran[0].result.to_dict() == alone.ran[0].result.to_dict()


def test_what_fails_fails_the_run(catalogue: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    for spoilt in (lambda result: replace(result, verdict="violated"),
                   lambda result: replace(result, control=replace(result.control, found="consistent"))):  # fmt: skip
        broken = replace(made, test=lambda trial, spoilt=spoilt: spoilt(made.test(trial)))
        for place in (registry, run):
            monkeypatch.setattr(place, "ENTRIES", (broken,))
        assert run.run().verdict == "failed"


def test_a_law_that_is_not_there_is_named_with_its_neighbours() -> None:
    with pytest.raises(InputError, match="there is none; the nearest are"):
        registry.law("edge of stabilty")
    with pytest.raises(InputError, match="wanted at least 1 of both"):
        run.run([], [])


def test_names_serve_with_blanks_or_hyphens(catalogue: Entry) -> None:
    assert registry.law("made-up") is registry.law("Made up") is made


def test_the_command_lists_shows_and_runs(catalogue: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["law", "list"]) == 0 and "made up  y = 2" in capsys.readouterr().out
    assert main(["law", "show", "made-up"]) == 0
    shown = capsys.readouterr().out
    assert "Two is two, from thirty draws." in shown and "Half of it must be violated." in shown and "nobody" in shown
    out = tmp_path / "laws.json"
    assert main(["law", "run", "all", "--seeds", "2", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "consistent" in table and "violated, as stated" in table and "2 of 2 passed" in table
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["verdict"] == "passed" and [one["seed"] for one in kept["laws"]] == [0, 1]
    one = kept["laws"][0]
    assert {"name", "verdict", "reading", "predicted"} <= set(one) and one["negative_control"]["verdict"] == "passed"
    assert one["checks"][1]["band"] == [0, 0] and one["checks"][1]["verdict"] == "consistent"


def test_the_command_fails_where_a_law_does(
    catalogue: Entry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = replace(made, test=lambda trial: replace(made.test(trial), verdict="violated", reason="it was spoilt"))
    for place in (registry, run):
        monkeypatch.setattr(place, "ENTRIES", (failing,))
    assert main(["law", "run", "all"]) == 1 and "made up, seed 0: it was spoilt" in capsys.readouterr().out


def test_bad_input_of_the_command(catalogue: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["law", "run", "nothing"]) == 2 and "there is none" in capsys.readouterr().err
    assert main(["law", "run", "all", "made-up"]) == 2 and "wanted all alone" in capsys.readouterr().err
    assert main(["law", "run", "all", "--out", str(tmp_path / "x.txt")]) == 2
    assert "ends in .json" in capsys.readouterr().err


def test_the_page_has_the_law_and_its_last_run(catalogue: Entry) -> None:
    ran = [one.to_dict() for one in run.run([], [0, 1]).ran]
    text = page.markdown(made, ran, "made-up.svg")
    assert "# Made up" in text and "y = 2" in text and "![made up](made-up.svg)" in text
    assert "0: consistent, control violated" in text and "| control: y/2 |" in text
    assert "last run" not in page.markdown(made, []).casefold()


def test_every_entry_says_what_it_must() -> None:
    for one in registry.ENTRIES:
        assert one.about and one.source and one.control and one.law.symbols and one.law.domain
        assert 0 < one.seconds <= 180 and one.about.endswith(".")
    assert len({one.name for one in registry.ENTRIES}) == len(registry.ENTRIES)
    assert abs(LEVEL - (1 - 1e-5)) < 1e-9
