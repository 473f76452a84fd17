"""The contest of the two theories of sharing, on coverage curves that are written down and not measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strandscope.laws.sharing import Theory, _decided, contest, results
from strandscope.reading import Reading
from strandscope.strand.mixture import Coverage

SIZES = (6, 8, 12, 17, 24, 34, 48, 68, 96, 136, 192)
CONTEXTS, BLOCKS, REPEATS = 120, 12, 2
CEILING, UNRELATED = 0.8, 0.2
N = np.array(SIZES, dtype=float)


def curve(gaps: np.ndarray, *, again: float = 0.0, chance: float = 0.1, quarter: float = 0.72, noise: float = 0.0) -> Coverage:
    """Contexts that lack `gaps` (contexts, repeats, sizes) of what lies between unrelated strands and their own directions."""
    blocks = np.arange(CONTEXTS) % BLOCKS
    nearest = np.broadcast_to(CEILING - (CEILING - UNRELATED) * gaps, (1 + BLOCKS, *gaps.shape)).copy()
    for block in range(BLOCKS):
        nearest[1 + block, blocks == block] = np.nan
    unrelated = np.full((2, *gaps.shape), UNRELATED)
    unrelated[1] += again + noise * np.random.default_rng(5).normal(size=BLOCKS)[blocks][:, None, None]
    each = np.ones(CONTEXTS)
    return Coverage(SIZES, blocks, CEILING * each, quarter * each, chance * each, {}, nearest, unrelated, 10, 6)


def discrete(types: float = 50.0, seen: float = 0.05, seed: int = 0) -> np.ndarray:
    """Each context's type is recorded after a geometric number of others."""
    draw = np.random.default_rng(seed)
    first = draw.geometric(1 / types, (CONTEXTS, REPEATS, 1))
    return np.where(first <= N, seen, 0.95) + draw.normal(0, 0.02, (CONTEXTS, REPEATS, len(N)))


def smooth(limit: float = 0.0, exponent: float = 0.6, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    near = draw.uniform(5, 40, (CONTEXTS, REPEATS, 1))
    return limit + (1 - limit) * (1 + N / near) ** -exponent + draw.normal(0, 0.01, (CONTEXTS, REPEATS, len(N)))


@pytest.mark.parametrize(("gaps", "verdict"), [(discrete(), "discrete"), (smooth(), "smooth")])
def test_the_theory_that_made_the_curve_wins_by_libraries_that_it_was_not_fitted_to(gaps: np.ndarray, verdict: str) -> None:
    found, *tests = results(curve(gaps), "here")
    assert found.verdict == verdict and found.reason == ""
    assert found.fitted == tuple(n for n in SIZES if n <= 192 / 3.5) and found.tested == (96, 136, 192)  # 1.9 times 48 and more
    one, two = found.theories
    assert (found.difference.value or 0) == pytest.approx((two.score.value or 0) - (one.score.value or 0))
    held = 1 - gaps[..., -1].mean()
    assert found.shared.value == pytest.approx(held)
    for theory, test in zip(found.theories, tests, strict=True):
        assert theory.ratio.value == pytest.approx(held / theory.predicted.value)  # type: ignore[operator]
        assert theory.ratio.low < theory.ratio.value < theory.ratio.high  # type: ignore[operator]
        assert (test.predicted, test.reading, test.ratio) == (theory.predicted, found.shared, theory.ratio)
    winner = found.theories[0 if verdict == "discrete" else 1]
    assert winner.ratio.value == pytest.approx(1, abs=0.05)
    if verdict == "discrete":
        assert 1 / one.parameters["weight"] == pytest.approx(50, rel=0.3)
    else:
        assert two.parameters["exponent"] == pytest.approx(0.6, rel=0.35)


def test_neighbours_without_end_may_hold_more_than_half_the_draws_found() -> None:
    """A context's own directions come from half of its draws: with a limit of −.1 the nearest pass them, as far as those of a
    quarter fall short of them and no farther."""
    gaps = smooth(limit=-0.1, exponent=1.2)
    for quarter, least in ((0.72, -0.08 / 0.6), (0.797, -0.003 / 0.6)):
        limit = contest(curve(gaps, quarter=quarter)).theories[1].parameters["limit"]
        assert least - 1e-6 <= limit
        assert limit < -0.02 if quarter == 0.72 else limit < 0.05


def read(low: float, high: float) -> Reading:
    return Reading((low + high) / 2, low, high, 0.95, 100, "", None, "made up")


RIGHT, OFF = (0.95, 1.05), (1.5, 2.0)


@pytest.mark.parametrize(
    ("difference", "ratios", "verdict", "why"),
    [
        ((0.1, 0.2), (RIGHT, OFF), "discrete", ""),
        ((-0.2, -0.1), (OFF, RIGHT), "smooth", ""),
        ((0.1, 0.2), (RIGHT, RIGHT), "discrete", ""),
        ((-0.1, 0.2), (RIGHT, RIGHT), "cannot tell", "holds 0"),
        ((-0.1, 0.2), (RIGHT, OFF), "cannot tell", "holds 0"),
        ((0.1, 0.2), (OFF, RIGHT), "neither", "the discrete theory is nearer"),
        ((-0.2, -0.1), (RIGHT, OFF), "neither", "the smooth theory is nearer"),
        ((0.1, 0.2), (OFF, OFF), "neither", "either theory"),
        ((-0.1, 0.2), (OFF, OFF), "neither", "either theory"),
    ],
)
def test_who_wins_follows_from_the_scores_and_from_what_each_foretold(difference, ratios, verdict: str, why: str) -> None:
    theories = tuple(Theory(name, read(0, 1), read(*ratio), read(0, 1), {}) for name, ratio in zip("ds", ratios, strict=True))
    found, reason = _decided(read(*difference), theories)
    assert found == verdict and why in reason and bool(why) == bool(reason)


def by_block(middle: float, spread: float) -> np.ndarray:
    """Gaps that lack all but a share, which differs between blocks."""
    share = middle + spread * np.random.default_rng(3).permutation(np.linspace(-1.6, 1.6, BLOCKS))[np.arange(CONTEXTS) % BLOCKS]
    return np.broadcast_to(1 - share[:, None, None], (CONTEXTS, REPEATS, len(N))).copy()


def test_where_little_is_shared_the_whole_interval_decides() -> None:
    for middle, spread, verdict, words in (
        (0.02, 0.02, "nothing shared", "less than 0.05"),
        (0.04, 0.1, "cannot tell", "may hold no more"),  # from below 0 to above .05
        (0.08, 0.07, "", ""),  # from below .05, and clear of 0: the theories are asked
    ):
        found = contest(curve(by_block(middle, spread)))
        assert found.shared.value == pytest.approx(middle, abs=1e-9)
        assert (found.verdict == verdict and words in found.reason and not found.theories) if verdict else found.theories
    found = contest(curve(discrete(), chance=0.85))
    assert found.verdict == "out of domain" and "directions at random" in found.reason
    few = curve(discrete())
    few = replace(few, sizes=SIZES[-3:], nearest=few.nearest[..., -3:], unrelated=few.unrelated[..., -3:])
    assert "wanted 4" in contest(few).reason and contest(few).verdict == "out of domain"


@pytest.mark.parametrize(
    ("again", "noise", "found"), [(0.0, 0.005, "out of domain"), (0.01, 0.08, "underpowered"), (0.3, 0.01, "violated")]
)
def test_the_control_is_read_off_the_second_unrelated_library(again: float, noise: float, found: str) -> None:
    _, *tests = results(curve(discrete(), again=again, noise=noise), "here")
    for test in tests:
        assert test.control.found == found and test.control.verdict == ("passed" if found == "out of domain" else "failed")
        assert test.control.predicted == 0.0 and test.control.ratio.value != test.reading.value
