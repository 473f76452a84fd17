"""The verdict before a push: its figures, its rules, and its record where what a direction does was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import pushing
import tiny_chat
from strandscope.capture.predict import next_token_logprobs
from strandscope.control.bench import Bench
from strandscope.control.dose import dose_of, find_dose
from strandscope.control.preflight import Case, Outcome, Preflight, agreement, outcome_of, preflight, record, verdict_of
from strandscope.control.push import Push
from strandscope.control.use import use
from strandscope.errors import InputError, StrandscopeError, TrustError
from strandscope.reading import Null, Reading
from strandscope.statistics.effect import shift
from strandscope.strand.strand import Strand
from strandscope.subject.attach import Scope
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject
from test_effect import LAST, asked, letter


def read(value: float, low: float, high: float, p: float | None = None) -> Reading:
    null = None if p is None else Null(0.0, -0.1, 0.1, 0.95, 999, p, "null")
    return Reading(value, low, high, 0.95, 20, "cosine", null, "made up")


# --- agreement ---


def grouped(
    strength: float, groups: int = 12, rows: int = 6, d: int = 20, seed: int = 0
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """States whose classes differ along the first axis by `strength`, and in each group by noise."""
    draw = np.random.default_rng(seed)
    labels, code = np.tile([0, 1], groups * rows // 2), np.repeat(np.arange(groups), rows)
    states = draw.normal(0, 1, (groups * rows, d))
    states[labels == 1, 0] += strength
    return torch.tensor(states), labels, code


def test_agreement_is_the_mean_cosine_with_the_other_groups() -> None:
    states, labels, groups = grouped(2.0)
    found = agreement(states, labels, groups)
    rows = [[torch.as_tensor((groups == g) & (labels == code)) for code in (0, 1)] for g in range(12)]
    own = torch.stack([states[high].mean(0) - states[low].mean(0) for low, high in rows])
    rest = (own.sum(0) - own) / 11
    wanted = torch.nn.functional.cosine_similarity(own, rest).mean()
    assert found.value == pytest.approx(float(wanted)) and found.n == 12
    assert found.null is not None and found.null.p == pytest.approx(1 / 1000) and found.low > found.null.high  # type: ignore[operator]


def test_groups_without_a_common_direction_are_within_the_null_and_one_sided_ones_do_not_count() -> None:
    draws = [agreement(*grouped(0.0, seed=seed)) for seed in range(60)]
    below = [found.null.p <= 0.05 for found in draws]  # type: ignore[union-attr, operator]
    assert sum(below) <= 8  # 3 expected; more than 8 of 60 at 5 % has probability .006
    states, labels, groups = grouped(2.0)
    labels[groups == 3] = 1
    assert agreement(states, labels, groups).n == 11
    with pytest.raises(InputError, match="0 hold both classes"):
        agreement(states, np.ones_like(labels), groups)


# --- rules ---

AGREE, VAGUE, APART = read(0.5, 0.4, 0.6, 0.001), read(0.2, 0.05, 0.35, 0.2), read(0.0, -0.05, 0.05, 0.5)


@pytest.mark.parametrize(
    ("use", "agreed", "excess", "verdict"),
    [
        ("read and used", AGREE, 1.1, "will steer"),
        ("read and used", AGREE, 2.9, "will steer"),
        ("read and used", AGREE, 3.1, "cannot tell"),
        ("read and used", AGREE, 0.3, "cannot tell"),
        ("read and used", VAGUE, 1.1, "cannot tell"),
        ("read and used", APART, 1.1, "will not"),
        ("cannot tell", AGREE, 1.1, "cannot tell"),
        ("read, and equivalent to no use at this position", AGREE, 1.1, "will not"),
        ("read and used", AGREE, InputError("no size costs so much"), "will not"),
        ("read and used", AGREE, TrustError("rounding"), "cannot tell"),
    ],
)
def test_the_rules(use: str, agreed: Reading, excess: float | StrandscopeError, verdict: str) -> None:
    found, why = verdict_of(use, agreed, excess)
    assert found == verdict and why


def test_outcomes_and_the_record() -> None:
    assert [outcome_of(read(v, lo, hi)) for v, lo, hi in ((0.3, 0.1, 0.5), (0.0, -0.05, 0.05), (0.1, -0.1, 0.3))] == [
        "steered",
        "did not",
        "open",
    ]
    assert outcome_of(Reading.not_measured("no", unit="u", method="m")) == "open"
    cases = [Case("a", "will steer", "steered"), Case("b", "will steer", "did not"), Case("c", "will not", "did not")]
    found = record([*cases, Case("d", "cannot tell", "steered"), Case("e", "will steer", "open")])
    assert found.right.value == pytest.approx(2 / 3) and found.right.n == 3 and found.table["will steer", "open"] == 1
    assert found.right.low == pytest.approx(0.0943, abs=1e-3)  # Clopper and Pearson of 2 in 3
    assert record(cases[:0]).right.status == "not measured"


# --- planted cases ---

CODES = np.tile([0, 1], 48)
GROUPS = np.repeat(np.arange(16), 6)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    made = pushing.opened(tiny_chat.save_model(tmp_path_factory.mktemp("preflight")))
    with torch.no_grad():
        made.unembedding.mul_(3)  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench.on(subject, asked(16))


def rows_along(direction: Tensor, strength: float) -> Tensor:
    """(96, d) states whose classes differ along the direction by so many standard deviations."""
    states = torch.randn(96, len(direction), generator=torch.Generator().manual_seed(0))
    states[torch.as_tensor(CODES == 1)] += strength * direction / direction.norm()
    return states


def strand_along(subject: Subject, direction: Tensor) -> Strand:
    """That it is read is given; whether it is used is measured."""
    column = (direction / direction.norm())[:, None]
    return replace(pushing.strand_in(subject, LAST), basis=column, pattern=column, evidence=read(0.95, 0.9, 0.99))


def head_row(subject: Subject, bench: Bench, text: str) -> Tensor:
    """What raises a letter most for its length: its row of the head, less the mean of what is said."""
    (token,) = subject.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[misc, union-attr]
    rows = subject.unembedding.detach().float()  # type: ignore[union-attr]
    return rows[token] - (bench.plain.exp() @ rows).mean(0)


def said(subject: Subject, bench: Bench, direction: Tensor, strength: float) -> tuple[Preflight, float]:
    """The verdict, and the size of the push."""
    used = use(subject, strand_along(subject, direction), contexts=16, draws=16, controls=60)
    dose = find_dose(bench, LAST, direction, 0.05)
    assert dose.scale.value is not None
    agreed = agreement(rows_along(direction, strength), CODES, GROUPS)
    return preflight("planted", str(LAST), 0.05, used, agreed, dose), dose.scale.value


def moved(subject: Subject, bench: Bench, site: Site, direction: Tensor, size: float, text: str) -> np.ndarray:
    """(prompts,) what a push adds to the log-probability of a letter."""
    (token,) = subject.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[misc, union-attr]
    after = next_token_logprobs(subject, bench.tokens, Push({site: direction}).edits(size))
    return (after - bench.plain)[:, token].double().numpy()


def came(subject: Subject, bench: Bench, direction: Tensor, size: float, text: str) -> Outcome:
    """The outcome beside ten directions at random of the same nats."""
    others = []
    for seed in range(10):
        way = pushing.vector(seed)
        scale = find_dose(bench, LAST, way, 0.05).scale.value
        assert scale is not None
        others.append(moved(subject, bench, LAST, way, scale, text))
    own = moved(subject, bench, LAST, direction, size, text)
    return outcome_of(shift(own, np.stack(others), bench.topics, "nats", text).beyond)


def test_the_record_on_planted_cases(subject: Subject, bench: Bench) -> None:
    """Directions that write a letter, away from one, and one that nothing later reads. The verdict
    is wrong on a letter that the plain network next to never says: what small pushes do there tells nothing of larger ones."""
    cases = []
    for name, text, sign, strength in (("often", "z", 1, 3.0), ("away", "z", -1, 0.0), ("never", "q", 1, 3.0)):
        direction = sign * (letter(subject, text) if text == "q" else head_row(subject, bench, text))
        verdict, size = said(subject, bench, direction, strength)
        cases.append(Case(name, verdict.verdict, came(subject, bench, direction, size, text)))
    dead = Push({LAST: letter(subject, "z")}, Scope(positions=(0,)))  # after the last block nobody reads the first token's state
    with pytest.raises(StrandscopeError) as error:
        dose_of(bench, dead, 0.05)
    agreed = agreement(rows_along(letter(subject, "z"), 3.0), CODES, GROUPS)
    verdict = preflight("planted", str(LAST), 0.05, "cannot tell", agreed, error.value)
    assert bench.costs_under(dead.edits(100.0)).max() == 0
    cases.append(Case("dead", verdict.verdict, "did not"))
    found = {case.name: (case.verdict, case.outcome) for case in cases}
    assert found["often"] == ("will steer", "steered")
    assert found["dead"] == ("will not", "did not")
    assert found["away"][0] != "will steer" and found["away"][1] != "steered"
    assert found["never"] == ("will not", "steered")
    right = record(cases).right
    assert right.value is not None and right.value < 1
