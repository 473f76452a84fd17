"""Laws of features and strands at tiny sizes: what they are made of, and that they can fail."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from strandscope.laws.catalogue import collapse, fact, grokking, nfa, sharing, strands, twins
from strandscope.laws.catalogue.entry import Trial
from strandscope.laws.strands import free_log
from strandscope.provenance import numpy_generator
from strandscope.statistics.participation import participation_of
from strandscope.strand.nfa import matched, nfa_exponent, powered

TRIAL = Trial("a test", 0)


# --- the ansatz ---


@pytest.mark.parametrize("depth", [2, 3])
def test_deep_linear_networks_stay_balanced_and_have_the_exponent(depth: int) -> None:
    firsts, products = nfa.trained(TRIAL, depth, networks=2, steps=1500)
    for first, product in zip(firsts, products, strict=True):
        agop = product.T @ product
        assert nfa_exponent(first, agop) == pytest.approx(1 / depth, rel=0.02)
        assert matched(first.T @ first, powered(agop, 1 / depth)) > 0.999
        assert float(torch.linalg.svdvals(product)[0]) > 0.8  # it has learned: the start is at .05


def test_a_start_that_is_not_balanced_breaks_the_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large and unequal layers keep what they started with."""
    monkeypatch.setattr(nfa, "START", 2.0)
    firsts, products = nfa.trained(TRIAL, 2, networks=1, steps=300)
    assert nfa_exponent(firsts[0], products[0].T @ products[0]) == pytest.approx(0.5, rel=0.05)  # balanced, however large
    lopsided = firsts[0] + 0.5 * torch.randn(20, 20, generator=TRIAL.torch("off"), dtype=torch.float64)
    assert abs(nfa_exponent(lopsided, products[0].T @ products[0]) - 0.5) > 0.05


def test_the_rectifier_network_has_no_positive_exponent() -> None:
    slopes, shown = nfa.rectified(TRIAL, networks=2)
    assert max(slopes) < 0
    assert shown["weights"] == sorted(shown["weights"]) and shown["agop"][0] > 2 * shown["agop"][-1]


# --- FACT ---


def test_the_loss_has_the_gradient_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = fact.digits(TRIAL, rows=20)
    k, d = problem.sizes
    point = numpy_generator(0, "point").normal(size=k * d + k) / d**0.5
    value, gradient = problem.value(point)
    step = np.zeros_like(point)
    for place in (0, 5, -1):
        step[:] = 0
        step[place] = 1e-6
        assert (problem.value(point + step)[0] - value) / 1e-6 == pytest.approx(gradient[place], abs=1e-5)
    monkeypatch.setattr(fact, "HIDDEN", 3)
    few = fact.digits(TRIAL, rows=40)
    start = numpy_generator(0, "start").normal(size=3 * few.sizes[1] + 3) / d**0.5
    rest = fact.stopped(few, start, 2000)
    assert np.linalg.norm(few.value(rest)[1]) < 1e-7 and few.fact(rest).residual < 1e-4
    early = fact.stopped(few, start, 5)
    assert few.fact(early).residual > 0.05
    monkeypatch.setattr(fact, "DECAY", 2 * fact.DECAY)
    assert few.fact(rest).residual > 0.3  # another decay than that of training is another identity


# --- neural collapse ---


def test_free_features_collapse_and_uneven_classes_do_not() -> None:
    even, aligned = collapse.features(TRIAL, (5, 5, 5))
    assert even.nc1 < 1e-6 and even.angles < 0.01 and even.norms < 0.01 and aligned < 0.01 and even.nc4 == 0
    uneven, _ = collapse.features(TRIAL, (40, 40, 2))
    assert uneven.angles > 0.05


def test_networks_are_seen_before_and_after_they_fit_and_each_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, figures = [], collapse.figures
    monkeypatch.setattr(collapse, "figures", lambda *given: labels.append(given[1]) or figures(*given))
    two = collapse.networks(TRIAL, 2, rows=60, epochs=20)
    assert not torch.equal(labels[0], labels[1]) and torch.equal(labels[0], labels[2])  # each has rows of its own, and keeps them
    for epochs in two:
        assert [one.number for one in epochs][:3] == [1, 2, 3] and epochs[-1].number == 20
        assert epochs[-1].error < epochs[0].error and epochs[-1].nc1 < epochs[0].nc1
    assert two[0][-1] != two[1][-1]


# --- grokking ---


def test_addition_is_learned_by_features_alone_and_not_from_a_tenth() -> None:
    seen = grokking.updates(TRIAL, 0.65, p=31, count=14)
    assert seen[0].number == 1 and seen[0].accuracy < 0.1 and seen[-1].accuracy > 0.9
    early = [one for one in seen if one.accuracy < 2 / 31]
    assert early[-1].deviation < 0.85 * seen[0].deviation and max(one.error for one in seen) < 1e-10
    few = grokking.updates(TRIAL, 0.1, p=31, count=6)
    assert few[-1].accuracy < 0.1


# --- twins ---


def twin() -> tuple[twins.Twin, torch.Tensor]:
    random = TRIAL.torch("twin")
    states = torch.randn(3, 12, generator=random, dtype=torch.float64)
    return twins.Twin.drawn(random, 12, 2).scaled(states), states


def test_a_twin_has_the_entropy_that_was_asked_for() -> None:
    made, states = twin()
    p = (made.from_site(0, states) @ made.unembedding.T).softmax(-1)
    assert float(-(p * p.log()).sum(-1).mean()) == pytest.approx(twins.ENTROPY, abs=1e-6)


def test_every_metric_of_a_twin_is_what_autograd_gives_for_the_whole() -> None:
    made, states = twin()
    state = states[1]
    found = twins.seen(made, state)
    whole = torch.autograd.functional.jacobian(lambda h: made.from_site(0, h), state)
    scores = torch.autograd.functional.jacobian(lambda h: (made.unembedding @ made.from_site(0, h)).log_softmax(-1), state)
    p = (made.unembedding @ made.from_site(0, state)).softmax(-1)
    fisher = (scores * p[:, None]).T @ scores
    assert isinstance(whole, torch.Tensor)
    assert found.response == pytest.approx(math.log(participation_of(fisher)), abs=1e-9)
    assert found.jacobians[0] == pytest.approx(math.log(participation_of(whole.T @ whole)), abs=1e-9)
    assert len(found.jacobians) == 3 and len(found.blocks) == 2
    second = made.sites(state)[1]
    later = torch.autograd.functional.jacobian(lambda h: made.from_site(1, h), second)
    assert isinstance(later, torch.Tensor)
    assert found.jacobians[1] == pytest.approx(math.log(participation_of(later.T @ later)), abs=1e-9)


def test_twins_compose_freely_and_turned_metrics_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strands, "TWINS", 12)
    pairs = strands.contexts(TRIAL, twins=12, width=64)
    logs = [one.response - float(free_log(np.array(one.output), np.array(one.jacobians[0]), 64)) for one in pairs.seen]
    turned = [one.aligned - float(free_log(np.array(one.output), np.array(one.jacobians[0]), 64)) for one in pairs.seen]
    assert abs(float(np.mean(logs))) < 0.15 and float(np.mean(turned)) < -0.2
    assert len(set(pairs.twins)) == 12 and len(logs) == 12 * strands.CONTEXTS


def test_overlap_is_foretold_by_contexts_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strands, "PLANTS", 6)
    found = strands.pooled.test(Trial("overlap", 0, 0.9))
    assert found.verdict == "consistent" and found.control.verdict == "passed"
    assert found.figure is not None and len(found.figure.series[0].x) == 6
    assert json.loads(json.dumps(found.to_dict()))["negative_control"]["verdict"] == "passed"
    logs = np.array([0.1, 0.2, 0.3])
    check = strands._geometric("x", logs, 0.9, "y")
    assert check.reading.value == pytest.approx(math.exp(0.2)) and check.verdict == "consistent"


# --- sharing ---


def test_planted_kinds_are_what_they_say() -> None:
    small = sharing.Kind("small", 4, 40, 2, 20, 10, 2)
    rows = sharing.gradients(small, numpy_generator(0, "rows"))
    assert rows.shape == (40, 10, 20)
    bases = [torch.linalg.svd(one, full_matrices=False)[2][:2] for one in rows]
    shares = torch.stack([torch.stack([(a @ b.T).square().sum() / 2 for b in bases]) for a in bases])
    assert set(shares.gt(0.9).sum(1).tolist()) and len({tuple(row.gt(0.9).tolist()) for row in shares}) == 4
    family = sharing.gradients(sharing.Kind("family", 0, 40, 2, 20, 10, 2), numpy_generator(0, "rows"))
    assert family.shape == (40, 10, 20)


def test_the_theory_at_home_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "BLOCKS", 6)
    small = sharing.Kind("discrete", 20, 72, 3, 60, 24, 2)
    found = sharing.contests(TRIAL, small, libraries=2)
    assert found.difference.mean() > 0 and abs(found.ratio(0).mean() - 1) < abs(found.ratio(1).mean() - 1)
    assert abs(found.nothing.mean()) < 0.1 and len(found.curve) == len(found.sizes)


ENTRIES = (
    nfa.ansatz, fact.identity, collapse.collapse, grokking.grokking, strands.composition, strands.stack, strands.pooled,
    sharing.discrete, sharing.smooth,
)  # fmt: skip


def test_every_entry_says_where_it_is_from_what_it_costs_and_what_its_control_must_do() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.about and entry.source and "violated" in entry.control and 0 < entry.seconds <= 60
        assert len(entry.about.split()) > 25 and entry.law.domain and entry.law.symbols


def test_what_shows_from_the_first_update_on_has_nothing_before_it() -> None:
    machine = [grokking.Update(number, 0.0, 0.08, 0.9 / number, 1.0) for number in (1, 2, 3)]
    assert grokking._fallen(machine, []).value is None
    assert grokking._fallen(machine, machine[:2]).value == pytest.approx(0.5)
