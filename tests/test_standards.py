"""Standards: how they are judged, that every slip turns its standard red, and that the certificate says what came out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from strandscope.cli.main import main
from strandscope.errors import InputError, TrustError
from strandscope.reading import Reading
from strandscope.standards import certificate as made
from strandscope.standards import page, run
from strandscope.standards.judge import FAMILY, WRONG, alarm_band, coverage_band, judge
from strandscope.standards.mutation import Mutation, applied, plain
from strandscope.standards.registry import STANDARDS, standard
from strandscope.standards.standard import Bands, Draw, Outcome, case
from strandscope.statistics.detect import Area, quick_auroc, score_interval

DOCS = Path(__file__).parents[1] / "docs"
CHEAP = "five concepts of noise, Holm"


# --- every standard, true and with each of its slips ---


@pytest.mark.parametrize("name", [one.name for one in STANDARDS if one.runs("fast")])
def test_the_estimator_meets_its_standard_and_every_slip_is_caught(name: str) -> None:
    one = standard(name)
    judged = run.run(one, "fast")
    assert judged.verdict == "green", judged.reasons
    assert [slip.name for slip in run.caught(one) if not slip.caught] == []


def test_there_are_as_many_standards_as_promised_each_with_a_truth_and_a_source() -> None:
    assert len(STANDARDS) >= 25
    for one in STANDARDS:
        assert one.about and one.truth and one.source and one.estimator
        assert one.times.fast <= one.times.quick <= one.times.certify > 0
        if {"coverage", "level"} & set(one.kinds):
            assert one.times.certify >= 2000


# --- bands ---


@pytest.mark.parametrize("repetitions", [60, 200, 1000, 2000, 5000])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_coverage_bands_are_the_exact_family_wise_ones(level: float, repetitions: int) -> None:
    low, high = (round(edge * repetitions) for edge in coverage_band(level, repetitions))
    tail = WRONG / FAMILY / 2
    exact = (binom.cdf(low - 1, repetitions, level), binom.sf(high, repetitions, level))
    if level == 0.95 and repetitions >= 2000:  # there the promise is narrower still, by one repetition at most
        assert max(exact) <= 1.1 * tail
    else:
        assert max(exact) <= tail
        assert binom.cdf(low, repetitions, level) > tail
        assert high == repetitions or binom.sf(high - 1, repetitions, level) > tail


def test_a_certificate_promises_the_issue_s_band() -> None:
    """93.3 to 96.7 %, two-sided, family-wise at 5 % over 75 intervals of 2,000 repetitions."""
    claims = [kind for one in STANDARDS for kind in one.kinds]
    assert claims.count("coverage") + claims.count("level") <= FAMILY and claims.count("bias") <= FAMILY
    low, high = coverage_band(0.95, 2000)
    assert 0.933 <= low < high <= 0.967
    wrong = binom.cdf(np.ceil(low * 2000) - 1, 2000, 0.95) + binom.sf(np.floor(high * 2000), 2000, 0.95)
    assert 1 - (1 - wrong) ** 75 == pytest.approx(0.05, abs=0.015)
    error = (0.95 * 0.05 / 2000) ** 0.5
    assert (0.95 - 0.933) / error == pytest.approx(3.49, abs=0.1)  # the normal quantile of .05/150 is 3.40


@pytest.mark.parametrize("repetitions", [100, 2000])
def test_alarm_bands_are_the_exact_family_wise_ones(repetitions: int) -> None:
    most = round(alarm_band(0.05, repetitions) * repetitions)
    assert binom.sf(most, repetitions, 0.05) <= WRONG / FAMILY < binom.sf(most - 1, repetitions, 0.05)


# --- judging ---

NEVER = Mutation("never", quick_auroc, "ranks", "ranks")


def judged(outcomes: list[Outcome], certify: int = 10**6, **bands: float):
    """What the outcomes are judged to be under these bands."""
    made_up = case("made up", "none", "0", Bands(**bands), (1, 1, max(certify, 2000) if "bias" not in bands else certify), NEVER)
    return judge(made_up(lambda draw: outcomes[draw.number]), outcomes)


def intervals(held: int, of: int) -> list[Outcome]:
    return [Outcome(0.0, 0.0, low=-1.0 if k < held else 0.5, high=1.0) for k in range(of)]


@pytest.mark.parametrize(("held", "verdict"), [(1866, "green"), (1865, "red"), (1932, "green"), (1933, "red")])
def test_coverage_is_judged_at_its_edges(held: int, verdict: str) -> None:
    found = judged(intervals(held, 2000), coverage=0.95)
    assert (found.verdict, found.coverage) == (verdict, held / 2000)


def test_too_many_false_positives_are_red_and_too_few_are_not() -> None:
    most = round(alarm_band(0.05, 2000) * 2000)
    for alarms, verdict in ((0, "green"), (most, "green"), (most + 1, "red")):
        found = judged([Outcome(alarm=k < alarms) for k in range(2000)], level=0.05)
        assert (found.verdict, found.false_positive_rate, found.bias) == (verdict, alarms / 2000, None)


def test_a_bias_is_judged_with_its_own_standard_error() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)  # mean 0, standard error 1/20
    for mean, bias, verdict in ((0.16, 0.0, "green"), (0.18, 0.0, "red"), (0.36, 0.2, "green"), (0.38, 0.2, "red")):
        found = judged([Outcome(float(x) + mean) for x in noise], bias=bias)
        assert found.verdict == verdict and found.bias == pytest.approx(mean) and found.bias_error == pytest.approx(0.05)


def test_too_few_repetitions_to_tell_are_red_once_certified() -> None:
    outcomes = [Outcome(float(k % 2)) for k in range(20)]  # standard error .11
    assert judged(outcomes, bias=0.6).verdict == "green"
    found = judged(outcomes, certify=20, bias=0.3)
    assert found.verdict == "red" and "too few repetitions" in found.reasons[0]


def test_an_error_is_judged_by_its_worst_repetition() -> None:
    assert judged([Outcome(0.1), Outcome(-0.2)], error=0.2).verdict == "green"
    assert judged([Outcome(0.1), Outcome(-0.2001)], error=0.2).verdict == "red"
    assert judged([Outcome(float("inf"))], error=0.2).verdict == "red"


def test_what_was_not_measured_counts() -> None:
    refused = [Outcome(0.0), Outcome(refused="too few rows")]
    found = judged(refused, error=1.0)
    assert found.verdict == "red" and "too few rows" in found.reasons[0] and found.refused == 0.5
    assert judged(refused, error=1.0, refusals=0.5).verdict == "green"
    assert judged([Outcome(refused="none"), Outcome(refused="none")], coverage=0.95, refusals=0.5).verdict == "red"


def test_a_level_needs_an_interval_in_every_repetition() -> None:
    with pytest.raises(ValueError, match="without an interval"):
        judged([Outcome(0.0)], coverage=0.95)


def test_outcomes_of_readings_and_arrays() -> None:
    reading = Reading(3.0, 2.0, 5.0, 0.95, 10, "", None, "")
    assert Outcome.of(reading, 4.0, relative=True).error == -0.25 and Outcome.of(reading, 4.0).held
    assert not Outcome.of(reading, 6.0).held
    assert Outcome.of(Reading.not_measured("no rows", unit="", method=""), 4.0).refused == "no rows"
    assert Outcome.farthest([1.0, 3.0], [1.0, 4.0]).error == 0.25
    assert Outcome.farthest([1.0], [1.0, 4.0]).error == np.inf


def test_a_standard_that_cannot_be_judged_is_refused() -> None:
    run_ = lambda draw: Outcome(0.0)  # noqa: E731
    with pytest.raises(ValueError, match="claims nothing"):
        case("x", "", "", Bands(), (1, 1, 1), NEVER)(run_)
    with pytest.raises(ValueError, match="not 2000"):
        case("x", "", "", Bands(coverage=0.95), (1, 1, 100), NEVER)(run_)
    with pytest.raises(ValueError, match="no mutation"):
        case("x", "", "", Bands(error=1.0), (1, 1, 1))(run_)


# --- slips ---


def test_a_slip_changes_the_function_wherever_it_is_held_and_is_taken_back() -> None:
    held, code = quick_auroc, quick_auroc.__code__
    slip = Mutation("ties lost", quick_auroc, "rankdata(scores, axis=-1)", "rankdata(-scores, axis=-1)")
    scores, labels = np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])
    with pytest.raises(RuntimeError, match="inside"), applied(slip):
        assert held(scores, labels) == 0.0
        raise RuntimeError("inside")
    assert held(scores, labels) == 1.0 and held.__code__ is code


@pytest.mark.parametrize("old", ["no such line", "a"])
def test_a_slip_whose_place_is_not_found_once_must_be_written_again(old: str) -> None:
    with pytest.raises(TrustError, match="wanted once"), applied(Mutation("lost", score_interval, old, "")):
        pass


def test_decorated_functions_methods_and_properties_are_found() -> None:
    assert plain(applied).__name__ == "applied" and plain(Outcome.error).__name__ == "error"
    assert plain(Outcome.of).__name__ == "of"
    with pytest.raises(TypeError, match="written in Python"):
        plain(Area.value)  # a slot


# --- repetitions ---


def test_any_repetition_can_be_run_again_alone() -> None:
    one = standard("auroc, independent rows")
    together = run.outcomes(one, 4)
    assert one.repeat(3) == together[3] == run.outcomes(one, 1, start=3)[0]
    assert len({outcome.value for outcome in together}) == 4
    assert Draw("a", 0).numpy.random() != Draw("b", 0).numpy.random()


def test_what_takes_a_minute_is_run_for_certificates_and_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Draw] = []
    nothing = Mutation("changes nothing", quick_auroc, "rankdata(scores, axis=-1)", "rankdata(scores,  axis=-1)")

    def run_(draw: Draw) -> Outcome:
        asked.append(draw)
        return Outcome(0.0)

    long, short = (case(name, "none", "0", Bands(error=1.0), times, nothing)(run_) for name, times in
                   (("long", (0, 0, 2)), ("short", (1, 1, 1))))  # fmt: skip
    monkeypatch.setattr(run, "STANDARDS", (long, short))
    monkeypatch.setattr(run, "standard", {"long": long, "short": short}.__getitem__)
    for mode, names, wanted in (
        ("quick", (), ["short"]),
        ("quick", ("long",), ["long"] * 2),
        ("certify", (), ["long"] * 2 + ["short"]),
    ):
        asked.clear()
        run.calibrate(names, mode)
        assert [draw.standard for draw in asked] == wanted
    asked.clear()
    assert [slip.caught for slip in run.caught(long)] == [False] and len(asked) == 2


def test_figures_do_not_depend_on_the_number_of_processes() -> None:
    names = ["auroc, independent rows", CHEAP]
    alone, spread = (run.calibrate(names, "fast", slips=True, jobs=jobs) for jobs in (1, 2))
    assert [one.judged for one in alone] == [one.judged for one in spread]
    assert [one.slips for one in alone] == [one.slips for one in spread]
    assert all(slip.caught for one in alone for slip in one.slips or ())


def test_a_slip_that_stays_unseen_makes_a_standard_red() -> None:
    unseen = run.Result(standard(CHEAP), run.run(standard(CHEAP), "fast"), 0.0, (run.Caught("none", False),))
    assert unseen.verdict == "red" and "stays unseen" in unseen.reasons[0]


# --- the certificate ---


def test_a_certificate_survives_json_and_names_what_is_red() -> None:
    issued = made.issue([CHEAP], "quick")
    again = made.Certificate.from_json(json.loads(json.dumps(issued.as_json())), "here")
    assert again == issued and issued.verdict == "green" and "1 of 1 standards met" in str(issued)
    (line,) = issued.as_json()["standards"]
    assert {"name", "estimator", "bias", "coverage", "false_positive_rate", "verdict"} <= set(line)
    with pytest.raises(InputError, match="calibrate again"):
        made.Certificate.from_json({"schema": "other"}, "here")
    with pytest.raises(InputError, match="not a whole certificate"):
        made.Certificate.from_json({"schema": made.SCHEMA}, "here")


def test_a_certificate_is_made_once_for_the_same_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRANDSCOPE_CACHE", str(tmp_path))
    calls = []

    def counted(names: tuple[str, ...], mode: str, **options: object) -> made.Certificate:
        calls.append(mode)
        return real([CHEAP], mode, **options)  # type: ignore[arg-type]

    real = made.issue
    monkeypatch.setattr(made, "issue", counted)
    first = made.certificate()
    assert made.certificate() == first and calls == ["quick"]
    (kept,) = (tmp_path / "certificates").iterdir()
    kept.write_text("{", encoding="utf-8")
    assert made.certificate().standards[0].coverage == first.standards[0].coverage and calls == ["quick", "quick"]
    monkeypatch.setattr(made, "sources", lambda: "others")
    made.certificate()
    assert calls == ["quick"] * 3


def test_calibrate_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "certificate.json"
    assert main(["calibrate", "--standard", CHEAP, "--out", str(out), "--json"]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == written and written["mode"] == "quick"
    assert CHEAP in (tmp_path / "certificate.md").read_text(encoding="utf-8")
    assert main(["calibrate", "--standard", "none"]) == 2 and main(["calibrate", "--out", "x.txt"]) == 2
    assert main(["calibrate", "--list"]) == 0
    assert all(one.name in capsys.readouterr().out for one in STANDARDS[:1])


def test_calibrate_ends_with_exit_code_1_where_a_standard_is_red(capsys: pytest.CaptureFixture[str]) -> None:
    one = standard(CHEAP)
    with applied(one.mutations[0]):
        assert main(["calibrate", "--standard", CHEAP]) == 1
    printed = capsys.readouterr().out
    assert f"red: {CHEAP}: false positives" in printed and "0 of 1 standards met" in printed


def published() -> made.Certificate:
    return made.Certificate.from_json(json.loads((DOCS / "certificate.json").read_text(encoding="utf-8")), "docs")


def test_the_published_certificate_is_whole_and_its_page_says_what_it_says_red_or_green() -> None:
    one = published()
    count = len(one.standards)
    assert one.mode == "certify" and count >= 70
    shown = (DOCS / "certificate.md").read_text(encoding="utf-8")
    assert shown == page.markdown(one) and f"{count - len(one.red)} of {count} standards are met" in shown
    for line in one.standards:
        assert line.slips and all(line.slips.values())
        assert line.coverage is None or line.repetitions >= 2000
        assert line.verdict == "red" or line.coverage is None or 0.933 <= line.coverage <= 0.967


def test_the_published_certificate_names_every_standard() -> None:
    assert [line.name for line in published().standards] == [case.name for case in STANDARDS]


def test_the_published_certificate_is_green() -> None:
    assert published().red == ()
