"""Laws of linear and kernel models and of random matrices: small ones hold, their controls do not, and slips are seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from strandscope.laws.catalogue import double_descent, fewshot, gcv, learnability, overfitting, random_matrices
from strandscope.laws.catalogue.entry import Trial
from strandscope.standards.mutation import Mutation, applied
from strandscope.statistics import marchenko_pastur
from strandscope.statistics.kernel import descent, eigenlearning, ridge
from strandscope.statistics.kernel import learnability as quantity
from strandscope.statistics.kernel.eigenlearning import overfitting_coefficient

EIGEN = eigenlearning.Eigenlearning
LEVEL = 0.999  # small sizes: the catalogue's own level would find nothing out

DESCENT = double_descent.Setting(
    n=20, whole=80, sizes=((6, 400), (12, 2500), (30, 2500), (80, 200)), around=2, draws=300
)  # fmt: skip
BENIGN = overfitting.Benign(n=20, sizes=(60, 120, 240, 480, 960), tail=800, leading=2, draws=200, control_draws=20)
TEMPERED = overfitting.Tempered(rows=(20, 60), spectra=((2.0, 600, 150), (1.5, 600, 100)), features=150, draws=150)
LEARN = learnability.Setting(d=5, n=12, functions=6, width=8, steps=20)
FEW = fewshot.Setting(dimensions=(16, 32, 64), examples=(4, 16), draws=1200, pilots=20, pilot=40)
NULLS = random_matrices.Setting(
    weights=(120, 60, 20), small=(120, 60, 60), spiked=(400, 100, 100), counted=30, spikes=(2.0,), participation=(100, 50, 60),
    pairs=(64, 16, 32, 100), spheres=((1, 100, 120), (2, 150, 120)),
)  # fmt: skip
SMALL = {
    "double descent": lambda trial: double_descent.descent(trial, DESCENT),
    "benign": lambda trial: overfitting.benign(trial, BENIGN),
    "tempered": lambda trial: overfitting.tempered(trial, TEMPERED),
    "learnability": lambda trial: learnability.conservation(trial, LEARN),
    "few shot": lambda trial: fewshot.fewshot(trial, FEW),
    "nulls": lambda trial: random_matrices.nulls(trial, NULLS),
}


def result(name: str, seed: int = 0):
    return SMALL[name](Trial(name, seed, LEVEL))


def failing(found) -> list[str]:
    return [f"{check.what}: {check.compared}" for check in found.checks if check.verdict == "violated"]


@pytest.mark.parametrize("name", SMALL)
def test_a_law_holds_at_small_sizes_and_its_control_does_not(name) -> None:
    found = result(name)
    assert failing(found) == []
    assert found.checks[0].verdict == "consistent"
    assert found.control.verdict == "passed" and found.control.expected == "violated"
    assert found.figure is not None and {one.kind for one in found.figure.series} >= {"predicted", "measured"}
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_same_seed_gives_the_same_figures() -> None:
    first, again, other = (result("benign", seed).reading.value for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("name", "slip"),
    [
        ("double descent", Mutation("p forgotten", descent.least_squares_risk, "fitted * (1 - n / p)", "fitted")),
        ("double descent", Mutation("b twice", descent.least_squares_risk, "1 + p / (n - p - 1)", "1 + p / (n - p + 1)")),
        ("double descent", Mutation("the noise without its root", double_descent.risks, "math.sqrt(b)", "b")),
        ("benign", Mutation("noise of two rows", overfitting.white_cost, "(1 / np.linalg", "(2 / np.linalg")),
        ("tempered", Mutation("a cube", EIGEN.overfitting, "np.square(self.learnabilities)", "(self.learnabilities**3)")),
        ("tempered", Mutation("a root", overfitting.noise_cost, "(features * values)", "(features * np.sqrt(values))")),
        ("learnability", Mutation("ridge where none is", quantity.kernel_learner, "+ ridge * torch", "+ (ridge + 1e-5) * torch")),
        ("few shot", Mutation("one class", fewshot.constant, "2 * float", "1 * float")),
        ("few shot", Mutation("the part along w kept", fewshot.across, "side - (side @ w)[:, None] * w", "side")),
        ("nulls", Mutation("θ for θ²", marchenko_pastur.spiked, "aspect / strength**2", "aspect / strength")),
        ("nulls", Mutation("the edge halved", marchenko_pastur.largest, ") / n", ") / n / 2")),
    ],
    ids=str,
)  # fmt: skip
def test_a_slip_violates_the_law(name, slip) -> None:
    with applied(slip):
        assert result(name).verdict == "violated"


# --- digits: the parts, since one run takes half a minute ---


def splits(count: int, rows: int = 250) -> list[gcv.Errors]:
    pixels, labels = gcv.load_digits(return_X_y=True)
    images, codes = torch.as_tensor(pixels / 16), torch.nn.functional.one_hot(torch.as_tensor(labels)).double()
    found = []
    for split in range(count):
        fitted = torch.zeros(len(images), dtype=torch.bool)
        fitted[torch.as_tensor(np.random.default_rng(split).permutation(len(images))[:rows])] = True
        found += gcv.errors_of(images, (codes,), fitted, (1e-6, 1e-2, 1.0))
    return found


def test_gcv_foretells_digits_in_its_domain_and_the_training_error_does_not() -> None:
    found = splits(4)
    told, trained, left = (
        np.mean([getattr(one, part) / one.found for one in found], axis=0) for part in ("told", "trained", "left")
    )
    assert np.abs(told[:, 1:] - 1).max() < 0.1
    assert np.abs(left - 1).max() < 0.15
    assert (told[:, 0] < 0.85).all()  # where it nearly interpolates, rows pull unlike
    assert (trained[:, 1] < 0.85).all() and (trained[:, 0] < 1e-3).all()


def test_gcv_holds_with_gaussian_features_and_a_slip_in_it_shows() -> None:
    small = gcv.Setting(made=(80, 320, 120))
    assert {check.verdict for check in gcv.white_features(Trial("gcv", 0, 0.95), small)} == {"consistent"}
    with applied(Mutation("training error", ridge.KernelRidge.gcv, "/ scale**2", "* (self.n * ridge) ** 2")):
        assert gcv.white_features(Trial("gcv", 0, 0.95), small)[1].verdict == "violated"


# --- what a law's parts promise ---


def test_the_best_ridge_beats_least_squares_everywhere() -> None:
    for p in (10, 19, 20, 30, 80):
        plain = double_descent.risks(DESCENT, p, 200, np.random.default_rng(0))
        ridged = double_descent.risks(DESCENT, p, 200, np.random.default_rng(0), ridged=True)
        assert ridged.mean() < plain.mean()


def test_noise_costs_what_fits_to_noise_cost() -> None:
    """The exact mean over the noise against 4,000 drawn noises on the same inputs."""
    values, n = overfitting.power(1.5, 60), 12
    told = overfitting.noise_cost(values, n, 1, np.random.default_rng(5))[0]
    generator = np.random.default_rng(5)
    features = generator.standard_normal((n, 60)) * np.sqrt(values)
    weights = np.linalg.pinv(features) @ generator.standard_normal((n, 4000))
    found = 1 + (values[:, None] * weights**2).sum(0)
    assert told == pytest.approx(found.mean(), abs=5 * found.std() / 4000**0.5)


def test_the_exponential_spectrum_has_no_limit() -> None:
    told = [overfitting_coefficient(torch.exp(-0.15 * torch.arange(1, 301.0).double()), n).value for n in (25, 50, 100)]
    assert told[1] / told[0] == pytest.approx(2, rel=0.1) and told[2] / told[1] == pytest.approx(2, rel=0.1)
