"""Laws: the verdict is the stated test; free composition, depth and overlap on matrices whose answer is known in closed form."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from strandscope.errors import InputError
from strandscope.laws.law import Control, Law, LawResult, judge, laws_json
from strandscope.laws.overlap import OVERLAP, overlap_law, pooled_log
from strandscope.laws.strands import FREE, depth, free_composition, free_log
from strandscope.reading import Null, Reading
from strandscope.report.census import law_entry
from strandscope.report.record import as_json
from strandscope.statistics.paired import median
from strandscope.statistics.spectrum import overlap, participations

WIDTH = 160


def reading(low: float, high: float) -> Reading:
    return Reading((low * high) ** 0.5, low, high, 0.95, 10, "", None, "made up")


def haar(generator: np.random.Generator, width: int = WIDTH) -> np.ndarray:
    q, r = np.linalg.qr(generator.standard_normal((width, width)))
    return q * np.sign(np.diag(r))


def ratio_of(matrix: np.ndarray) -> float:
    return float(np.trace(matrix) ** 2 / np.trace(matrix @ matrix))


def powers(exponent: float, width: int = WIDTH) -> np.ndarray:
    return np.arange(1, width + 1.0) ** -exponent


# --- the test that decides ---


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.95, 1.05, "consistent"),
        (1.02, 1.09, "consistent"),  # significant, and within what the law promises
        (1.02, 1.15, "underpowered"),
        (0.5, 2.0, "underpowered"),
        (1.11, 1.3, "violated"),
        (0.5, 0.9, "violated"),
        (1 / 1.1, 1.1, "consistent"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(low: float, high: float, verdict: str) -> None:
    assert judge(reading(low, high), Law("x", "a = b", {}, "all", tolerance=0.1)) == verdict


def test_what_was_not_measured_is_out_of_domain() -> None:
    none = Reading.not_measured("no draws", unit="", method="")
    assert judge(none, FREE) == "out of domain"


def test_a_control_passes_only_by_what_was_said_beforehand() -> None:
    assert Control("x", "violated", "violated", reading(2, 3)).verdict == "passed"
    assert Control("x", "violated", "underpowered", reading(1, 3)).verdict == "failed"
    assert Control("x", "consistent", "violated", reading(2, 3)).verdict == "failed"


@pytest.mark.parametrize("truth", [1.0, 1.1, 1.25])
def test_verdicts_are_wrong_in_at_most_one_test_of_twenty(truth: float) -> None:
    """Log-normal estimates of a ratio whose truth is 1, at the band's edge, or outside: the false verdict stays below 5 %."""
    generator = np.random.default_rng(0)
    law, error = Law("x", "a = b", {}, "all", tolerance=0.1), 0.03
    found = []
    for value in math.log(truth) + error * generator.standard_normal(4000):
        low, high = (math.exp(value + sign * 1.96 * error) for sign in (-1, 1))
        found.append(judge(Reading(math.exp(value), low, high, 0.95, 1, "", None, ""), law))
    share = {name: found.count(name) / len(found) for name in ("consistent", "violated", "underpowered")}
    assert share["violated"] < 0.05 if truth <= 1.1 else share["consistent"] < 0.05
    assert share["underpowered"] > 0.9 if truth == 1.1 else max(share.values()) > 0.5


def test_a_law_cannot_be_changed_and_needs_a_tolerance() -> None:
    with pytest.raises(InputError, match="tolerance"):
        Law("x", "a = b", {}, "all", tolerance=0)
    with pytest.raises(FrozenInstanceError):
        FREE.tolerance = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        FREE.symbols["d"] = "anything"  # type: ignore[index]


@pytest.mark.parametrize("shown", [LawResult.to_dict, lambda result: as_json(law_entry(result))], ids=["json", "census"])
def test_every_figure_of_a_result_stands_under_its_own_name(shown) -> None:
    null = Null(0.5, 0.4, 0.6, 0.9, 99, 0.02, "made up")
    one, two, three, four = (
        Reading(k, k - 0.5, k + 0.5, 0.9, int(k), f"unit {k}", null, "made up") for k in (1.0, 2.0, 3.0, 4.0)
    )
    law = Law("x", "a = b", {"a": "one"}, "all", tolerance=0.1)
    entry = shown(LawResult(law, "here", one, two, three, "violated", Control("c", "violated", "underpowered", four, 7.0), "why"))
    assert [entry[name]["value"] for name in ("predicted", "reading", "ratio")] == [1.0, 2.0, 3.0]
    told = entry["reading"]
    assert (told["unit"], told["n"], told["level"], told["low"], told["high"]) == ("unit 2.0", 2, 0.9, 1.5, 2.5)
    assert told["null"] == {"value": 0.5, "low": 0.4, "high": 0.6, "level": 0.9, "n": 99, "p": 0.02, "method": "made up"}
    control = entry["negative_control"]
    assert (control["expected"], control["found"], control["verdict"]) == ("violated", "underpowered", "failed")
    assert control["ratio"]["value"] == 4.0 and control["predicted"] == 7.0
    plain = {name: entry[name] for name in ("name", "where", "formula", "domain", "tolerance", "verdict", "reason")}
    assert list(plain.values()) == ["x", "here", "a = b", "all", 0.1, "violated", "why"]


# --- free composition and depth, against matrices ---


@pytest.mark.parametrize(("a", "j"), [(0.5, 0.3), (1.0, 0.5), (0.0, 0.4), (0.7, 0.7)])
def test_free_composition_holds_for_matrices_in_general_position(a: float, j: float) -> None:
    """The formula tagged [D] in the references: exact participation ratios of JᵀAJ with Haar orientation."""
    generator = np.random.default_rng(1)
    output, jacobian = np.diag(powers(a)), np.diag(powers(j))
    measured = []
    for _ in range(40):
        turn = haar(generator)
        root = np.sqrt(jacobian)
        measured.append(math.log(ratio_of(root @ turn @ output @ turn.T @ root)))
    predicted = float(free_log(np.log(ratio_of(output)), np.log(ratio_of(jacobian)), WIDTH))
    assert np.mean(measured) == pytest.approx(predicted, abs=0.04)  # free only in the limit of large widths: .03 off at 160
    aligned = math.log(ratio_of(output @ jacobian))
    assert abs(aligned - predicted) > 0.1 or 0.0 in (a, j)  # a metric that is the identity cannot be aligned with anything


def figures(generator: np.random.Generator, contexts: int, aligned: bool, draws: int = 64) -> tuple[np.ndarray, ...]:
    """Estimated log PR of F and J, exact log PR of A: A a projector of rank 12, JᵀJ one of rank 30."""
    response, probes = [], []
    for _ in range(contexts):
        a = np.eye(WIDTH)[:12] if aligned else haar(generator)[:12]
        response.append((generator.standard_normal((draws, 12)) @ a)[:, :30])
        probes.append(generator.standard_normal((draws, 30)))
    rows = [participations(torch.tensor(np.stack(part))).log.numpy() for part in (response, probes)]
    return rows[0], rows[1], np.full(contexts, math.log(12))


@pytest.mark.parametrize(("aligned", "verdict"), [(False, "consistent"), (True, "violated")])
def test_free_composition_is_judged_from_draws(aligned: bool, verdict: str) -> None:
    found = free_composition(
        *figures(np.random.default_rng(2), 60, aligned), WIDTH, "resid:3", generator=np.random.default_rng(3)
    )
    assert found.verdict == verdict
    assert found.control.verdict == "passed" and found.control.expected == "violated"
    assert found.control.predicted == pytest.approx(12 * (1 / 12 + 1 / 30 - 1 / WIDTH), rel=0.1)
    assert (
        found.control.ratio.low <= found.control.predicted * 1.03 and found.control.ratio.high >= found.control.predicted / 1.03
    )
    assert found.details["general_position"]["found"] != "violated"
    if aligned:
        assert found.ratio.value == pytest.approx(12 * (1 / 12 + 1 / 30 - 1 / WIDTH), rel=0.05)
    entry = json.loads(json.dumps(laws_json([found]), allow_nan=False))["laws"][0]
    assert {"name", "verdict", "reading", "predicted", "negative_control"} <= set(entry)
    assert entry["negative_control"]["verdict"] == "passed" and entry["reading"]["unit"] == "dimensions"


def test_a_control_knows_where_the_law_has_no_power() -> None:
    """Where A has two dimensions and J hundreds, alignment can change nothing, and the control says so."""
    some = np.random.default_rng(0).normal(0, 0.02, 20)
    found = free_composition(
        math.log(2) + some, np.full(20, math.log(300)), np.full(20, math.log(2)), 576, "x", generator=np.random.default_rng(0)
    )
    assert found.control.expected == "consistent"


def test_contexts_without_a_figure_are_left_out_and_groups_widen_the_interval() -> None:
    generator = np.random.default_rng(4)
    shared = np.repeat(generator.normal(0, 0.3, 10), 6)
    response = math.log(5) + shared + generator.normal(0, 0.02, 60)
    response[7] = np.nan
    rest = (np.full(60, math.log(50.0)), np.full(60, math.log(5.5)), 576, "x")
    alone = free_composition(response, *rest, generator=np.random.default_rng(0))
    grouped = free_composition(response, *rest, generator=np.random.default_rng(0), groups=np.repeat(np.arange(10), 6))
    assert alone.reading.n == grouped.reading.n == 59
    width = [math.log(one.ratio.high / one.ratio.low) for one in (alone, grouped)]
    assert width[1] > 1.8 * width[0]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_the_groups_means_at_the_level_asked_for(level: float) -> None:
    """Ten groups of six: the mean of their means, t with 9 degrees; predicted, measured and ratio alike."""
    generator = np.random.default_rng(5)
    groups = generator.permutation(np.repeat(np.arange(10), 6))
    response, jacobian = (middle + generator.normal(0, 0.2, 10)[groups] + generator.normal(0, 0.1, 60) for middle in (1.5, 4.0))
    response = np.concatenate(
        [response, [np.nan, 1.0, 2.0]]
    )  # contexts of groups that are left out with them do not shift others
    jacobian, groups = np.concatenate([jacobian, [4.0, np.nan, np.nan]]), np.concatenate([groups, [10, 11, 12]])
    order = generator.permutation(63)
    response, jacobian, groups = response[order], jacobian[order], groups[order]
    output = np.full(63, math.log(6.0))
    rest = {"generator": np.random.default_rng(0), "groups": groups, "level": level}
    found = free_composition(response, jacobian, output, 300, "x", **rest)
    kept, predicted = groups < 10, free_log(output, jacobian, 300)
    for reading_, logs in ((found.reading, response), (found.predicted, predicted), (found.ratio, response - predicted)):
        means = np.array([logs[groups == group].mean() for group in range(10)])
        reach = student.ppf(0.5 + level / 2, 9) * means.std(ddof=1) / 10**0.5
        wanted = [math.exp(means.mean() + end) for end in (0, -reach, reach)]
        assert [reading_.value, reading_.low, reading_.high] == pytest.approx(wanted)
        assert (reading_.level, reading_.n) == (level, 60)
    middle = found.details["median"]
    assert [middle["value"], middle["low"], middle["high"]] == pytest.approx(
        [math.exp(end) for end in median((response - predicted)[kept], groups[kept], level)]
    )


def chain(generator: np.random.Generator, blocks: int, aligned: bool, contexts: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Exact log PR of products of blocks to the end, (sites, contexts), and of each block, (blocks, contexts)."""
    total, single = np.empty((blocks + 1, contexts)), np.empty((blocks, contexts))
    for context in range(contexts):
        product = np.diag(powers(0.2))
        total[blocks, context] = math.log(ratio_of(product.T @ product))
        for number in reversed(range(blocks)):
            spectrum = np.diag(powers(0.15 + 0.02 * number))
            block = spectrum if aligned else haar(generator) @ spectrum @ haar(generator)
            single[number, context] = math.log(ratio_of(block.T @ block))
            product = product @ block
            total[number, context] = math.log(ratio_of(product.T @ product))
    return total, single


@pytest.mark.parametrize(("aligned", "verdict"), [(False, "consistent"), (True, "violated")])
def test_depth_adds_over_blocks_in_general_position(aligned: bool, verdict: str) -> None:
    total, single = chain(np.random.default_rng(5), 5, aligned)
    found = depth(total, single, WIDTH, [f"resid:{k}" for k in range(6)], generator=np.random.default_rng(6))
    assert found.verdict == verdict and found.control.verdict == "passed"
    steps = found.details["blocks"]
    if aligned:  # PR measured over predicted: d/PR_J(s) − 1 is more than the sum where one direction grows in every block
        assert all(step["ratio"]["value"] < 0.95 for step in steps) and found.ratio.value < 0.9
    typical = np.median([step["adds"] for step in steps])
    kept = round(WIDTH / (1 + typical))
    assert found.control.what == f"5 blocks that all keep the same {kept} of {WIDTH} directions"
    assert found.control.predicted == pytest.approx(kept / WIDTH * (1 + 5 * (WIDTH / kept - 1)))
    assert [step["to"] for step in steps] == [f"resid:{k}" for k in range(1, 6)]
    for number, step in enumerate(steps):
        assert step["adds"] == pytest.approx(WIDTH / math.exp(single[number, 0]) - 1, rel=1e-6)
        assert abs(math.log(step["ratio"]["value"])) < 0.02 if not aligned else True
    if not aligned:
        together = sum(step["adds"] for step in steps) + WIDTH / math.exp(total[-1, 0])
        assert found.predicted.value == pytest.approx(WIDTH / together, rel=1e-6)


# --- overlap ---


def contexts_of(generator: np.random.Generator, kinds: np.ndarray, draws: int = 24, width: int = 40) -> torch.Tensor:
    """Metrics of rank 4; contexts of a kind share half of their directions."""
    common = {kind: generator.standard_normal((2, width)) for kind in np.unique(kinds)}
    made = [np.concatenate([common[kind], generator.standard_normal((2, width))]) for kind in kinds]
    return torch.tensor(np.stack([generator.standard_normal((draws, 4)) @ basis for basis in made]))


def test_overlap_of_those_it_was_read_from_is_algebra() -> None:
    """The identity tagged [D]: exact metrics, pooled by hand."""
    generator = np.random.default_rng(7)
    metrics = []
    for _ in range(9):
        rows = generator.standard_normal((5, 20))
        metrics.append(rows.T @ rows / np.trace(rows.T @ rows))
    inverse = np.array([1 / ratio_of(metric) for metric in metrics])
    matrix = np.array([[np.trace(one @ other) for other in metrics] for one in metrics])
    assert math.exp(pooled_log(inverse, matrix, np.arange(9), 9)) == pytest.approx(ratio_of(np.mean(metrics, axis=0)))


def test_few_contexts_foretell_many_and_a_cluster_does_not() -> None:
    generator = np.random.default_rng(8)
    found = overlap(contexts_of(generator, generator.integers(0, 30, 140)))
    law = overlap_law(found.local.numpy(), found.matrix.numpy(), "x", generator=np.random.default_rng(9))
    assert law.verdict == "consistent"
    assert law.control.found == "violated" and law.control.ratio.low > 1
    assert law.predicted.n == 24 and law.reading.n == 116


def test_contexts_that_are_not_drawn_alike_violate_overlap() -> None:
    """The first 24 of one kind: the same law, asked of a sample that is none, is violated."""
    generator = np.random.default_rng(10)
    kinds = np.concatenate([np.zeros(24, dtype=int), generator.integers(1, 9, 116)])
    found = overlap(contexts_of(generator, kinds))

    class First(np.random.Generator):
        def permutation(self, x, axis=0):
            return np.arange(x)

    law = overlap_law(found.local.numpy(), found.matrix.numpy(), "x", generator=First(np.random.PCG64(0)))
    assert law.verdict == "violated" and law.ratio.low > 1.5


def test_the_interval_of_overlap_covers() -> None:
    """Predicted from 24 and measured on 60 others of the same population: the ratio's interval holds 1 in about 95 %."""
    generator, held = np.random.default_rng(11), []
    for _ in range(120):
        found = overlap(contexts_of(generator, generator.integers(0, 12, 84), draws=12, width=30))
        law = overlap_law(found.local.numpy(), found.matrix.numpy(), "x", generator=generator)
        held.append(law.ratio.low <= 1 <= law.ratio.high)
    assert 0.88 <= np.mean(held) <= 0.995


def test_overlap_s_interval_is_the_jackknife_over_groups_on_either_side() -> None:
    """Each group deleted from the few and the many, those of which it is no part left as they are; figures by hand."""
    generator = np.random.default_rng(12)
    found = overlap(contexts_of(generator, generator.integers(0, 12, 60)))
    inverse, matrix, groups = found.local.numpy(), found.matrix.numpy(), np.arange(60) // 3
    law = overlap_law(inverse, matrix, "x", generator=np.random.default_rng(1), groups=groups, few=20, level=0.9)
    few = np.sort(np.random.default_rng(1).permutation(60)[:20])
    many = np.setdiff1d(np.arange(60), few)

    def log_ratio(without: int) -> float:
        logs = []
        for rows in (many[groups[many] != without], few[groups[few] != without]):
            pairs = matrix[np.ix_(rows, rows)][~np.eye(len(rows), dtype=bool)]
            logs.append(-math.log(inverse[rows].mean() / 40 + (1 - 1 / 40) * pairs.mean()))
        return logs[0] - logs[1]

    value, deleted = log_ratio(-1), np.array([log_ratio(group) for group in range(20)])
    reach = student.ppf(0.95, 19) * math.sqrt(19 / 20 * ((deleted - deleted.mean()) ** 2).sum())
    assert [law.ratio.value, law.ratio.low, law.ratio.high] == pytest.approx(
        [math.exp(value + end) for end in (0, -reach, reach)]
    )
    assert law.details["local"] == pytest.approx(1 / inverse.mean())
    assert law.control.what.startswith("predicted from the 20 contexts") and OVERLAP.tolerance == 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"matrix": np.eye(29)}, "matrix: got shape"),
        ({"few": 16}, "few: got 16 of 30"),
        ({"groups": ["a"] * 3}, "groups: got 3"),
    ],
)
def test_overlap_says_what_is_wrong(given: dict, words: str) -> None:
    whole = {"inverse": np.full(30, 0.1), "matrix": np.full((30, 30), 0.01), "few": 10} | given
    with pytest.raises(InputError, match=words):
        overlap_law(whole.pop("inverse"), whole.pop("matrix"), "x", generator=np.random.default_rng(0), **whole)


def test_strands_say_what_is_wrong() -> None:
    rest = (np.full(8, 2.0), np.full(8, 2.0), 100, "x")
    with pytest.raises(InputError, match="wanted at least 4"):
        free_composition(np.array([1.0, 1, 1, np.nan, np.nan, np.nan, np.nan, np.nan]), *rest, generator=np.random.default_rng(0))
    with pytest.raises(InputError, match="groups: got 2"):
        free_composition(np.ones(8), *rest, groups=[1, 2], generator=np.random.default_rng(0))
    with pytest.raises(InputError, match="jacobians, blocks"):
        depth(np.ones((3, 8)), np.ones((3, 8)), 100, ["a", "b", "c"], generator=np.random.default_rng(0))
