"""Finding a concept in planted states: what is there is found, what is not is not, and no choice sees its evidence."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import strandscope as ss
from strandscope.errors import InputError
from strandscope.strand import nested
from strandscope.strand.find import _shown
from strandscope.strand.linear import DEFAULT, Method
from strandscope.strand.nested import fold_aurocs, nested_evidence
from strandscope.subject.site import Site

MEANS = (Method("difference of means"),)
WIDTH, SITE = 12, "resid:1"


def arranged(groups=20, each=6, classes=2):
    """Labels and groups; every group mixes the classes."""
    return np.arange(groups * each) % classes, np.repeat(np.arange(groups), each)


def states_with(labels, groups, gap, sites=3, seed=0):
    """Noise and group effects at every site, and at site 1 the classes `gap` apart (each further class along its own axis)."""
    generator = np.random.default_rng(seed)
    found = {}
    for site in range(sites):
        noise = generator.normal(size=(len(labels), WIDTH)) + 0.5 * generator.normal(size=(groups.max() + 1, WIDTH))[groups]
        axes = np.zeros((labels.max() + 1, WIDTH))
        axes[1:] = gap * (site == 1) * np.eye(WIDTH)[: labels.max()]
        found[Site.parse(f"resid:{site}")] = torch.as_tensor(noise + axes[labels], dtype=torch.float32)
    return found


def made(states, labels, groups, texts=None, positions="last"):
    def content(row):
        return {"tensor": torch.tensor([float(row)])} if texts is None else {"text": texts[row]}

    rows = [content(i) | {"label": int(labels[i]), "group": f"g{groups[i]}"} for i in range(len(labels))]
    index = torch.arange(len(labels))
    none = torch.full((len(labels),), -1)
    return ss.Activations(states, ss.Examples.from_rows(rows, "planted"), positions, index, none, none, {}, "f" * 64, {})


def planted(gap=3.0, seed=0, **shape):
    labels, groups = arranged(**shape)
    return made(states_with(labels, groups, gap, seed=seed), labels, groups)


# What is found


def test_a_planted_concept_is_found_where_it_is():
    steps = []
    found = ss.find(planted(), permutations=40, progress=lambda *step: steps.append(step))
    assert (found.verdict, found.best.site, found.p) == ("detected", SITE, pytest.approx(1 / 41))
    for reading in (found.decodable, found.best.evidence):
        assert reading.null.high < reading.low <= reading.value and (reading.n, reading.null.n) == (120, 40)
    curve = {point.site: point.reading for point in found.layers}
    assert list(curve) == ["resid:0", SITE, "resid:2"]
    assert curve[SITE].value > found.band > max(curve["resid:0"].value, curve["resid:2"].value)
    assert len(found.choices) == 5 and all(choice.startswith(f"{SITE} by ") for choice in found.choices)
    assert {found.words.status, found.length.status, found.beyond_words.status} == {"not measured"}
    assert steps[-1] == ("nested selection", 15, 15)


def test_each_strand_carries_the_evidence_of_its_own_site():
    labels, groups = arranged()
    states = {}
    for site in range(4):  # the same weak signal, told four times
        states |= {Site.parse(f"resid:{site}"): states_with(labels, groups, 1.0, sites=2, seed=site)[Site.parse(SITE)]}
    found = ss.find(made(states, labels, groups), permutations=0)
    curve = {point.site: point.reading for point in found.layers}
    assert len(found.strands) > 1 and found.strands[0] is found.best
    assert all(strand.evidence == curve[strand.site] for strand in found.strands[1:])
    assert found.best.evidence not in curve.values()  # of the choice of a site, which is part of it


def test_where_rows_of_a_pair_are_alike_the_null_exchanges_labels_inside_pairs():
    """A null that shuffles the whole group splits the pairs, and what their rows share makes it wide."""
    labels, groups = arranged(groups=10, each=12)
    pairs, generator = np.arange(120) // 2, np.random.default_rng(4)
    shared = 2 * generator.normal(size=(60, WIDTH))[pairs]
    states = states_with(labels, groups, 0.4, seed=4)
    states[Site.parse(SITE)] += torch.as_tensor(shared, dtype=torch.float32)
    acts = made({Site.parse(SITE): states[Site.parse(SITE)]}, labels, groups)
    rows = tuple(replace(row, pair=f"p{pair}") for row, pair in zip(acts.examples.rows, pairs, strict=True))
    paired = replace(acts, examples=replace(acts.examples, rows=rows))
    loose, tight = (ss.find(each, permutations=100).decodable for each in (acts, paired))
    assert tight.value == loose.value
    assert tight.null.high - tight.null.low < 0.6 * (loose.null.high - loose.null.low)


def test_where_nothing_is_there_it_says_so_and_what_it_would_have_seen():
    found = ss.find(planted(gap=0.0), permutations=40)
    assert found.verdict == "not detected" and found.p > 0.05
    assert found.detectable.status == "measured" and 0.55 < found.detectable.value < 0.9
    assert found.detectable.value > found.decodable.null.value
    assert found.decodable.low < 0.5 < found.decodable.high


def test_more_rows_make_less_detectable():
    few, many = (ss.find(planted(0.0, groups=groups), permutations=40).detectable.value for groups in (10, 60))
    assert 0.5 < many < few - 0.05


def test_without_permutations_nothing_was_tested():
    found = ss.find(planted(), permutations=0)
    assert (found.verdict, found.p, found.band, found.decodable.null) == ("not tested", None, None, None)
    assert found.detectable.status == "not measured" and "no permutations" in found.detectable.reason
    assert found.decodable.value > 0.9


def test_what_is_no_states_is_refused():
    examples = ss.Examples.from_rows([{"text": f"t{i}", "label": i % 2} for i in range(20)])
    with pytest.raises(InputError, match=r"^acts: got a Examples, wanted captured states; ss\.capture"):
        ss.find(examples)


def test_copies_under_chance_labels_are_not_detected():
    """Forty rows by chance, each there twice: in groups of their own the copies would tell each other."""
    draw = np.random.default_rng(4)
    labels, states = np.repeat(draw.permutation([0, 1] * 20), 2), np.repeat(draw.normal(size=(40, 64)), 2, axis=0)
    texts = [f"row {i // 2}" + " " * (i % 2) for i in range(80)]
    acts = made({Site.parse(SITE): torch.as_tensor(states, dtype=torch.float32)}, labels, np.arange(80), texts)
    assert acts.examples.copies == 40 and len(set(acts.groups.tolist())) == 40
    assert str(acts.examples).startswith("planted: 80 text rows in 40 groups (repeated rows: 40; copies share a group), 40 0")
    found = ss.find(acts)
    assert found.verdict == "not detected" and found.decodable.value < 0.7


def test_three_classes_have_a_strand_of_rank_two():
    found = ss.find(planted(3.5, groups=15, classes=3), permutations=20)
    assert (found.verdict, found.best.site, found.best.rank, found.best.positive) == ("detected", SITE, 2, "0, 1, 2")
    basis, pattern = found.best.basis, found.best.pattern
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), rtol=0, atol=1e-5)
    # The classes differ along two axes only, and nearly all of the plane that was found lies in them.
    assert float(torch.linalg.matrix_norm(basis[:2])) ** 2 > 1.7
    torch.testing.assert_close(basis.T @ pattern, torch.diag(found.best.scale), rtol=0, atol=1e-4)
    assert found.best.shown == ()


def test_logistic_regression_may_compete():
    labels, groups = arranged()
    states = {SITE: states_with(labels, groups, 3.0)[Site.parse(SITE)]}
    acts = made({Site.parse(site): rows for site, rows in states.items()}, labels, groups)
    found = ss.find(acts, methods=(), logistic=True, permutations=19)
    assert found.best.method.startswith("logistic (c = ") and found.decodable.value > 0.9
    assert found.decodable.value > found.decodable.null.high


def test_it_says_what_the_states_know_beyond_words_and_length():
    labels, groups = arranged(groups=15)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice("tree stone river cloud lamp".split(), 5)) for _ in labels]
    found = ss.find(made(states_with(labels, groups, 3.0), labels, groups, texts), permutations=0)
    for baseline, beyond in ((found.words, found.beyond_words), (found.length, found.beyond_length)):
        assert baseline.low < 0.5 < baseline.high
        assert beyond.low > 0 and beyond.value == pytest.approx(found.decodable.value - baseline.value)
    shown = {why: [row for row in found.best.shown if row.why == why] for why in ("highest", "lowest", "nearest the boundary")}
    assert all(len(rows) == 3 for rows in shown.values())
    assert {row.label for row in shown["highest"]} == {"1"} and {row.label for row in shown["lowest"]} == {"0"}
    nearest = max(abs(row.score) for row in shown["nearest the boundary"])
    assert nearest < min(row.score for row in shown["highest"]) and nearest < -max(row.score for row in shown["lowest"])


def test_rows_are_shown_by_their_standing_within_their_fold():
    """Each fold's scores come from a model of its own, with its own boundary and unit."""
    labels, groups = arranged()
    examples = made({}, labels, groups, [f"row {i}" for i in range(len(labels))]).examples
    standing = torch.randn(len(labels), generator=torch.Generator().manual_seed(0)) + 2 * torch.as_tensor(labels)
    folds = groups % 4
    moved = standing * torch.as_tensor(1.0 + folds) + 50 * torch.as_tensor(folds)
    one, other = (
        _shown(SimpleNamespace(single=scores[:, None, None], folds=folds), labels, examples, np.arange(len(labels)))
        for scores in (standing, moved)
    )
    assert [(row.id, row.why) for row in one] == [(row.id, row.why) for row in other]
    assert [row.score for row in one] == pytest.approx([row.score for row in other], abs=1e-4)


def test_a_text_that_tells_the_class_leaves_nothing_beyond_it():
    labels, groups = arranged(groups=15)
    texts = [f"row {i} is {'splendid' if label else 'dull'}" for i, label in enumerate(labels)]
    found = ss.find(made(states_with(labels, groups, 1.0), labels, groups, texts), permutations=0)
    assert found.words.value == 1.0 and found.beyond_words.high < 0.1


# The strand


def test_the_strand_reads_the_positive_class_above_its_boundary():
    acts = planted()
    strand = ss.find(acts, permutations=0).best
    states, labels = acts.at(SITE), torch.as_tensor(acts.labels)
    coordinates = strand.coordinates(states)[:, 0]
    above, below = coordinates[labels == 1], coordinates[labels == 0]
    assert (above > 0).float().mean() > 0.8 and (below < 0).float().mean() > 0.8
    assert float(above.mean()) == pytest.approx(-float(below.mean()), abs=1e-5)
    assert float(above.mean() - below.mean()) == pytest.approx(float(strand.scale[0]), rel=1e-5)
    within = torch.cat([above - above.mean(), below - below.mean()]).square().mean().sqrt()
    assert float(strand.spectrum[0]) == pytest.approx(float(strand.scale[0] / within), rel=1e-4)
    assert float(strand.basis.norm()) == pytest.approx(1.0, abs=1e-6)


def test_the_pattern_is_the_difference_of_the_class_means():
    acts = planted()
    strand = ss.find(acts, permutations=0).best
    states, labels = acts.at(SITE), torch.as_tensor(acts.labels)
    torch.testing.assert_close(strand.pattern[:, 0], states[labels == 1].mean(0) - states[labels == 0].mean(0), rtol=0, atol=1e-5)
    moved = strand.coordinates(states + strand.pattern[:, 0]) - strand.coordinates(states)
    torch.testing.assert_close(moved, strand.scale.expand_as(moved), rtol=0, atol=1e-4)


def test_with_three_classes_each_pattern_moves_its_own_coordinate():
    acts = planted(3.5, groups=15, classes=3)
    strand = ss.find(acts, permutations=0).best
    states = acts.at(SITE)
    for k in range(2):
        moved = (strand.coordinates(states + strand.pattern[:, k]) - strand.coordinates(states)).mean(0)
        torch.testing.assert_close(moved, strand.scale * torch.eye(2)[k], rtol=0, atol=1e-4)


def test_turning_the_space_turns_the_strand_and_changes_no_figure():
    labels, groups = arranged()
    states = states_with(labels, groups, 1.0)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))).Q
    found, turned = (
        ss.find(made({site: rows @ by for site, rows in states.items()}, labels, groups), methods=MEANS, permutations=20)
        for by in (torch.eye(WIDTH), turn)
    )
    assert turned.decodable.value == pytest.approx(found.decodable.value, abs=1e-3)  # rounding may swap a close pair
    assert turned.decodable.null.value == pytest.approx(found.decodable.null.value, abs=1e-3)
    torch.testing.assert_close(turned.best.basis, turn.T @ found.best.basis, rtol=0, atol=1e-4)


# What the figures rest on


def of_groups_alone(labels, groups, folds, generator):
    """Folds that no label enters."""
    return np.unique(groups, return_inverse=True)[1] % folds


def evidence_of(states, labels, groups):
    return nested_evidence(states, labels[None], groups, 2, DEFAULT, 3, np.random.default_rng(0))


@pytest.mark.parametrize("fold", range(3))
def test_no_choice_and_no_fit_sees_the_labels_that_it_is_judged_by(fold, monkeypatch):
    monkeypatch.setattr(nested, "group_folds", of_groups_alone)
    labels, groups = arranged()
    states = list(states_with(labels, groups, 0.7).values())
    mine = groups % 3 == fold
    before = evidence_of(states, labels, groups)
    own = evidence_of(states, np.where(mine, 1 - labels, labels), groups)
    assert (before.folds == groups % 3).all()
    for name in ("combined", "single", "by_site"):
        first, second = (getattr(found, name).reshape(-1, len(labels)) for found in (before, own))
        assert torch.equal(first[:, mine], second[:, mine])
        assert not torch.allclose(first[:, ~mine], second[:, ~mine])
    assert before.choices[fold] == own.choices[fold]
    others = evidence_of(states, np.where(mine, labels, 1 - labels), groups)
    assert not torch.allclose(before.combined[mine], others.combined[mine])


def test_a_permuted_column_goes_through_the_procedure_as_if_it_were_the_truth(monkeypatch):
    monkeypatch.setattr(nested, "group_folds", of_groups_alone)
    labels, groups = arranged()
    states = list(states_with(labels, groups, 1.0).values())
    fake = np.random.default_rng(1).permutation(labels)
    both = nested_evidence(states, np.stack([labels, fake]), groups, 2, DEFAULT, 3, np.random.default_rng(0))
    alone = evidence_of(states, fake, groups)
    torch.testing.assert_close(both.combined[:, 1], alone.combined[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.by_site[:, :, 1], alone.by_site[:, :, 0], rtol=1e-4, atol=1e-5)


def test_groups_are_never_on_both_sides():
    """States that tell their group and nothing else: a fit that had seen the group would read its label."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 5)
    labels = generator.permutation(np.arange(24) % 2)[groups]
    states = generator.normal(size=(24, 40))[groups] + 0.01 * generator.normal(size=(120, 40))
    found = ss.find(made({Site.parse(SITE): torch.as_tensor(states, dtype=torch.float32)}, labels, groups), permutations=40)
    assert found.verdict == "not detected" and found.decodable.value < 0.75
    # 24 groups move whole under the null; 120 rows that moved one by one would spread by half as much.
    assert found.decodable.null.high - found.decodable.null.low > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_null_with_pure_folds_is_still_a_number(seed):
    """Six groups of each class in five folds: now and then a permutation leaves no pair to compare in any fold."""
    groups = np.repeat(np.arange(12), 5)
    labels = groups % 2
    states = {Site.parse(SITE): states_with(labels, groups, 0.0, seed=seed)[Site.parse(SITE)]}
    found = ss.find(made(states, labels, groups), methods=MEANS, permutations=200, seed=seed)
    null = found.decodable.null
    assert np.isfinite([null.value, null.low, null.high, found.band]).all() and null.low < null.value < null.high


def test_the_inner_auroc_is_that_of_scikit_learn_and_says_when_there_is_none():
    generator = torch.Generator().manual_seed(0)
    values, truth = (
        torch.randint(0, 9, (2, 3, 20, 4), generator=generator).float(),
        (torch.rand(20, 4, generator=generator) > 0.5).float(),
    )
    truth[:, 3] = 1.0
    found = fold_aurocs(values, truth)
    assert found.shape == (2, 3, 4) and bool(found[..., 3].isnan().all())
    for column in range(3):
        wanted = roc_auc_score(truth[:, column].numpy(), values[1, 2, :, column].numpy())
        assert float(found[1, 2, column]) == pytest.approx(wanted, abs=1e-6)


# Repeating it


def figures(found):
    return (
        found.decodable,
        found.best.evidence,
        found.layers,
        found.band,
        found.detectable,
        found.choices,
        found.strands[0].site,
    )


def test_a_seed_gives_the_same_figures_and_touches_no_global_state():
    acts = planted(0.8)
    torch.manual_seed(3)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())  # noqa: NPY002
    first, again, other = (ss.find(acts, permutations=20, seed=seed) for seed in (1, 1, 2))
    after = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())  # noqa: NPY002
    assert before == after
    assert figures(first) == figures(again) and torch.equal(first.best.basis, again.best.basis)
    assert first.decodable.value != other.decodable.value and first.decodable.null != other.decodable.null


def test_the_order_of_the_rows_is_no_matter():
    labels, groups = arranged()
    states = states_with(labels, groups, 0.8)
    acts = made(states, labels, groups)
    order = np.random.default_rng(0).permutation(len(labels))
    moved = replace(
        acts, examples=acts.examples.subset(order), states={site: rows[torch.as_tensor(order)] for site, rows in states.items()}
    )
    first, again = (ss.find(each, permutations=20) for each in (acts, moved))
    assert figures(first) == figures(again) and torch.equal(first.best.basis, again.best.basis)


@pytest.mark.parametrize("farther", ["resid:0", "resid:2"])
def test_sites_that_all_read_it_are_ordered_by_how_far_apart_the_classes_are(farther):
    """At three sites the AUROC is 1; before or after the planted one, the strand is where the gap is widest."""
    labels, groups = arranged()
    states = states_with(labels, groups, 6.0)
    for site, rows in states.items():
        rows[:, 1] += torch.as_tensor(labels) * (18.0 if str(site) == farther else 6.0)
    found = ss.find(made(states, labels, groups), permutations=0)
    assert all(point.reading.value > 0.999 for point in found.layers)
    assert found.best.site == farther


def test_a_strand_says_whether_its_states_were_captured_under_edits():
    acts = planted()
    for edited in (False, True):
        assert ss.find(replace(acts, edited=edited), permutations=0).best.provenance["captured_under_edits"] is edited


# What cannot be measured


def test_a_site_without_variation_is_left_out_and_named():
    labels, groups = arranged()
    states = states_with(labels, groups, 3.0)
    still = torch.ones(len(labels), WIDTH)
    found = ss.find(made({Site.parse("embed"): still} | states, labels, groups), permutations=0)
    assert found.skipped == ("embed",)
    assert [point.site for point in found.layers] == ["resid:0", SITE, "resid:2"] and found.best.site == SITE
    with pytest.raises(InputError, match="every row has the same state at all of them"):
        ss.find(made({Site.parse("embed"): still}, labels, groups))


def test_a_site_that_hardly_ever_varies_tells_nothing_and_stops_nothing():
    """All rows alike but those of one group: the fold that holds it out trains on nothing."""
    labels, groups = arranged()
    rare = torch.ones(len(labels), WIDTH)
    rare[groups == 3] += torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    states = {Site.parse("embed"): rare} | states_with(labels, groups, 3.0)
    found = ss.find(made(states, labels, groups), permutations=20)
    embed = next(point.reading for point in found.layers if point.site == "embed")
    assert found.best.site == SITE and found.skipped == () and embed.low < 0.5 < embed.high


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"permutations": 18}, r"^permutations: got 18, wanted at least 19 .* or 0$"),
        ({"folds": 1}, r"^folds: got 1, wanted at least 2"),
        ({"methods": ()}, r"^methods: got none, wanted at least one"),
    ],
)
def test_settings_that_can_find_nothing_are_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        ss.find(planted(), **wrong)


def test_states_that_are_no_numbers_are_refused_by_the_name_of_their_site():
    acts = planted()
    acts.at("resid:2")[4, 3] = float("nan")
    with pytest.raises(InputError, match=r"^site resid:2: its states hold a NaN or an infinity; leave it out"):
        ss.find(acts)


def test_several_states_a_row_are_refused():
    labels, groups = arranged()
    one = made(states_with(labels, groups, 1.0), labels, groups)
    twice = torch.arange(len(labels)).repeat_interleave(2)
    none = torch.full((len(twice),), -1)
    states = {site: rows[twice] for site, rows in one.states.items()}
    acts = ss.Activations(states, one.examples, "all", twice, none, none, {}, "f" * 64, {})
    with pytest.raises(InputError, match=r"^positions 'all': got 240 states for 120 rows; find wants one a row"):
        ss.find(acts)


@pytest.mark.parametrize(
    ("labels", "groups", "sentence"),
    [
        (*arranged(groups=4, each=10), "4 groups for 5 folds"),
        (np.arange(27) % 3 // 2, np.arange(27), "class 1 has 9 rows, wanted at least 10"),
    ],
)
def test_too_little_to_cross_fit_is_said(labels, groups, sentence):
    with pytest.raises(InputError, match=sentence):
        ss.find(made(states_with(labels, groups, 1.0), labels, groups))
