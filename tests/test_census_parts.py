"""The parts of a census one by one: what is compared, what laws are asked of, where contexts are cut, what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import strandscope as ss
import tiny_chat
from strandscope.census import census as order_of_work
from strandscope.census import kept, laws, measure
from strandscope.census.census import _inside, _limits, _spread
from strandscope.census.compare import _median_of_twins, compare, family_level, verdict_of
from strandscope.census.contexts import _length, choose
from strandscope.census.measure import Measurement, in_depth
from strandscope.errors import InputError, StrandscopeError, TrustError
from strandscope.laws.sharing import results
from strandscope.report.census import census_entry, read, write
from strandscope.statistics.paired import Deleted, log_ratio, median, steadied
from strandscope.strand.mixture import coverage
from strandscope.subject.twin import twin
from test_census import SITES, SMALL, network, texts, three


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(model: Path) -> ss.Subject:
    return ss.load(model, check="none")


# --- what is compared ---


def test_a_ratio_is_that_of_the_twins_of_its_kind_over_groups_with_the_sites_variances_between() -> None:
    """Every ratio and its interval again, from the paired figures of the module's docstring."""
    groups = np.arange(40) // 2
    networks = [network(local=4.3), *three("random"), *three("scrambled", local=4.1)]
    found = compare(networks, SITES, groups)
    level = family_level(6)
    for kind in ("random", "scrambled"):
        twins = [one for one in networks if one.kind == kind]
        own = [Deleted.mean(networks[0].sites[site].local, groups) for site in SITES]
        others = [[Deleted.mean(one.sites[site].local, groups) for one in twins] for site in SITES]
        contrasts = steadied([log_ratio(*pair) for pair in zip(own, others, strict=True)])
        for site, contrast in zip(found, contrasts, strict=True):
            beside = site["local"].beside(kind)
            for reading, at in ((beside.ratio, 0.95), (beside.decides, level)):
                wanted = [math.exp(end) for end in (contrast.value, *contrast.interval(at))]
                assert [reading.value, reading.low, reading.high] == pytest.approx(wanted) and reading.level == at
            assert beside.kind == kind and beside.twins == 3
            reading = site["local"].reading
            wanted = [math.exp(end) for end in median(networks[0].sites[site.site].local, groups)]
            assert [reading.value, reading.low, reading.high] == pytest.approx(wanted)


def test_the_verdict_is_read_off_the_interval_that_holds_for_all_sites() -> None:
    networks = [network(local=4.15), *three("random"), *three("scrambled")]
    narrow = (0.999, 1.001)
    both = [one for site in compare(networks, SITES, np.arange(40), margin=narrow) for q in site.quantities for one in q.against]
    assert all(one.verdict == verdict_of(one.decides, narrow) for one in both)
    assert any(one.verdict != verdict_of(one.ratio, narrow) for one in both)  # somewhere the single site's would say more


def test_whitened_figures_are_compared_with_whitened_ones() -> None:
    networks = [network(), *three("random")]
    for site in SITES:
        profile = networks[0].sites[site]
        profile.whitened[:] += math.log(3)
        profile.overlap_whitened[:] = networks[0].sites[site].overlap / 3
    networks[0] = replace(
        networks[0], sites={name: replace(one, overlap=one.overlap * 3) for name, one in networks[0].sites.items()}
    )
    for site in compare(networks, SITES, np.arange(40)):
        ratios = {name: site[name].beside("random").ratio.value for name in ("local", "local_whitened", "pooled_whitened")}
        assert ratios == pytest.approx({"local": 1.0, "local_whitened": 3.0, "pooled_whitened": 3.0}, rel=0.15)
        reading = site["pooled_whitened"].reading
        assert reading.low is not None and reading.low < reading.value < reading.high and "whitened" in reading.method


def test_a_figure_that_one_twin_lacks_is_compared_with_none() -> None:
    networks = [network(), *three("random")]
    networks[2].sites["resid:1"].overlap[:] = -0.1  # its pairs of draws do not show it above zero
    _, second, third = compare(networks, SITES, np.arange(40))
    beside = second["pooled"].beside("random")
    assert beside.verdict == "not measured" and "ask for more draws" in beside.ratio.reason
    assert beside.reading.status == "not measured" and third["pooled"].beside("random").ratio.value is not None


def test_a_pooled_figure_lies_between_its_ends_and_twins_that_lie_apart_have_it_wide() -> None:
    near, far = (
        compare(
            [network(), *(network(f"random {k}", "random", seed=k, local=4 * step**k) for k in (1, 2, 3))], SITES, np.arange(40)
        )
        for step in (1.0, 2.0)
    )
    for site in (near[0], far[0]):
        for one in (site["pooled_at_n"].reading, site["pooled_at_n"].beside("random").reading):
            assert one.low is not None and one.high is not None and one.value is not None and one.low < one.value < one.high
    widths = [site["pooled_at_n"].beside("random").reading for site in (near[0], far[0])]
    assert math.log(widths[1].high / widths[1].low) > 3 * math.log(widths[0].high / widths[0].low)  # type: ignore[operator]


def test_pairs_of_a_group_meet_in_no_pooled_ratio() -> None:
    """Twice the same text, whose overlap is 1 in the trained network alone; with each group left out it is left out too."""
    networks = [network(noise=1e-6), *three("random", noise=1e-6)]
    for at in range(0, 40, 2):
        networks[0].sites["resid:0"].overlap[at, at + 1] = networks[0].sites["resid:0"].overlap[at + 1, at] = 1.0
    site = compare(networks, ["resid:0"], np.arange(40) // 2)[0]
    for name in ("pooled", "pooled_at_n"):
        ratio = site[name].beside("random").ratio
        assert [ratio.low, ratio.value, ratio.high] == pytest.approx([1, 1, 1], rel=1e-3)


def test_the_median_of_three_twins_has_the_interval_of_three_figures() -> None:
    """Logarithms 0, 1 and 2, contexts all but alike: t with 2 degrees, 4.30·1/√3."""
    values = np.arange(3.0)[:, None] + 1e-6 * np.random.default_rng(0).normal(size=(3, 30))
    found = _median_of_twins(values, np.arange(30), "dimensions", "made up")
    assert math.log(found.value) == pytest.approx(1, abs=1e-5)
    assert math.log(found.high) - 1 == pytest.approx(4.3027 / 3**0.5, rel=1e-3) == 1 - math.log(found.low)
    alike = np.random.default_rng(1).normal(size=(1, 30)).repeat(3, 0)  # and of one figure where they do not differ
    found = _median_of_twins(alike, np.arange(30), "dimensions", "made up")
    _, low, high = median(alike[0], np.arange(30))
    assert math.log(found.high / found.low) == pytest.approx(high - low, rel=1e-6)


# --- what the laws are asked of ---


def test_laws_are_asked_of_contexts_that_can_be_read_and_named_by_their_network() -> None:
    networks = [network(contexts=60), network("random 1", "random", seed=1, contexts=60)]
    profile = networks[0].sites["resid:1"]
    profile.trace[[3, 9]] = 1e-9
    groups = np.arange(60) // 2
    tests, untested = laws.strands(networks, ["resid:1"], groups, 0)
    assert untested == () and [(one.name, one.where) for one in tests] == [
        (name, f"{place}, {who}")
        for who in ("trained", "random 1")
        for name, place in (("free composition", "resid:1"), ("overlap", "resid:1"), ("depth", "resid:0 to resid:2"))
    ]
    free, overlap, depth = tests[:3]
    rows = np.delete(np.arange(60), [3, 9])
    assert free.reading.n == 58 and free.reading.value == pytest.approx(math.exp(profile.local[rows].mean()))
    inverse = np.exp(-networks[0].output) + np.exp(-profile.jacobian) - 1 / 64
    assert free.predicted.value == pytest.approx(math.exp(-np.log(inverse[rows]).mean()))
    assert overlap.predicted.n + overlap.reading.n == 58
    assert depth.reading.value == pytest.approx(math.exp(networks[0].sites["resid:0"].jacobian.mean()))
    assert [step["adds"] for step in depth.details["blocks"]] == pytest.approx(
        [float((64 / np.exp(networks[0].sites[site].step) - 1).mean()) for site in ("resid:0", "resid:1")]
    )


def test_overlap_is_asked_of_the_raw_figures_of_the_contexts_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        laws, "overlap_law", lambda inverse, matrix, where, **more: asked.append((inverse, matrix, more["groups"]))
    )
    one = network(contexts=60)
    profile = replace(one.sites["resid:0"], overlap_whitened=np.ones((60, 60)))
    profile.readable[[0, 20]] = 0
    one = replace(one, sites={"resid:0": profile})
    groups, rows = np.arange(60) // 2, np.delete(np.arange(60), [0, 20])
    laws._overlap(one, "resid:0", groups, 0)
    inverse, matrix, names = asked[0]
    np.testing.assert_array_equal(inverse, profile.inverse[rows])
    np.testing.assert_array_equal(matrix, profile.overlap[np.ix_(rows, rows)])
    assert names == groups[rows].tolist()


def test_what_could_not_be_tested_is_told() -> None:
    one = network(contexts=60)
    tests, untested = laws.strands([one], ["resid:1"], np.arange(60) % 3, 0)  # three groups: no interval
    assert [test.name for test in tests] == ["overlap"]
    assert [sentence[:46] for sentence in untested] == [
        "The law of free composition was not tested at ", "The law of depth was not tested in trained: co"
    ]  # fmt: skip
    assert "resid:1, trained: contexts: 3 groups" in untested[0]


@pytest.fixture(scope="module")
def curve() -> Any:
    generator = np.random.default_rng(0)
    bases = np.linalg.qr(generator.standard_normal((5, 80, 10)))[0].transpose(0, 2, 1)[np.arange(26) % 5]
    rows = generator.standard_normal((26, 24, 10)) @ bases + 0.05 * generator.standard_normal((26, 24, 80))
    return coverage(torch.as_tensor(rows), generator=generator)


def with_curve(one: Measurement, curve: Any) -> Measurement:
    return replace(one, coverage={"resid:1": curve})


def test_the_coverage_curve_of_every_network_is_shown_and_the_trained_one_s_laws(curve: Any) -> None:
    networks = [with_curve(network(), curve), with_curve(network("random 1", "random", seed=1), curve)]
    entries, tests = laws.shared(networks)
    assert [(one.site, one.network, one.kind) for one in entries] == [
        ("resid:1", "trained", "trained"), ("resid:1", "random 1", "random")
    ]  # fmt: skip
    assert [test.where for test in tests] == ["resid:1, trained"] * 2
    one, wanted = entries[0], results(curve, "x")[0]
    near = curve.nearest[0]
    assert one.ceiling.value == pytest.approx(curve.ceiling.mean()) != pytest.approx(curve.chance.mean())
    assert one.chance.value == pytest.approx(curve.chance.mean())
    assert one.held.value == pytest.approx(near[..., -1].mean() / curve.ceiling.mean())
    assert one.curve[curve.sizes[0]].value == pytest.approx(near[..., 0].mean())
    assert (one.verdict, one.reason, one.shared, one.contexts) == (wanted.verdict, wanted.reason, curve.shared(), 26)


# --- contexts ---


def test_every_cut_from_a_quarter_to_the_whole_is_as_likely_and_a_text_s_own() -> None:
    for tokens, least in ((2, 2), (8, 2), (9, 3), (13, 4)):
        lengths = [_length(tuple(range(tokens)), "row", f"digest {row}", 0) for row in range(800)]
        counts = np.bincount(lengths, minlength=tokens + 1)
        share = 800 / (tokens + 1 - least)
        assert counts[:least].sum() == 0 and (np.abs(counts[least:] - share) < 5 * share**0.5 + 1e-9).all()
    assert len({_length(tuple(range(40)), "row", "digest", seed) for seed in range(20)}) > 5


def test_chats_are_measured_where_the_network_answers_and_other_rows_by_another_seed(subject: ss.Subject) -> None:
    chats = ss.Examples.from_rows(
        [{"messages": [{"role": "user", "content": f"tell me of number {n} and more"}]} for n in range(12)]
    )
    cut, whole = choose(subject, chats), choose(subject, chats, cut=False)
    assert cut.lengths == whole.lengths and cut.cut == "chats up to where the network answers"
    one, again, other = (choose(subject, texts(30), 10, seed=seed).examples.ids for seed in (0, 0, 1))
    assert one == again != other


def test_sites_are_spread_evenly_and_laws_tested_in_the_middle_of_as_many_parts() -> None:
    assert _spread(list(range(10)), 4) == [0, 3, 6, 9] and _spread(list(range(10)), 1) == [5]  # type: ignore[arg-type]
    assert _spread(list(range(3)), 7) == [0, 1, 2] and _spread(list(range(30)), None) == list(range(30))  # type: ignore[arg-type]
    assert _inside(list(range(9)), 3) == [1, 4, 7] and _inside(list(range(2)), 3) == [0, 1]  # type: ignore[arg-type]


def test_blocks_in_order_have_steps_and_others_have_none(subject: ss.Subject) -> None:
    for at, wanted in (("resid:0,resid:2", True), ("resid:0,mlp:1", False)):
        assert in_depth(subject.sites(at)) is wanted
    low, high = subject.sites("resid:0,resid:2")
    assert not in_depth([high, low]) and not in_depth([low, low])


def test_the_covariance_leaves_out_the_position_where_networks_park_an_outsized_state(
    subject: ss.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stream = [], measure.states_of
    monkeypatch.setattr(measure, "states_of", lambda *given: asked.append(given[3]) or stream(*given))
    dict(measure._roots(subject, choose(subject, texts(10), 10), subject.sites("resid:0")))
    assert asked == [(1, None)]


def test_a_coverage_curve_is_of_readable_contexts_in_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(measure.mixture, "coverage", lambda rows, groups, **_: asked.append((rows, groups)) or "curve")
    held, groups = measure._Site(), np.arange(24) // 2
    held.figures["readable"] = [float(number not in (3, 8)) for number in range(24)]
    rows = torch.randn(24, 24, 80, generator=torch.Generator().manual_seed(0)).half()
    contexts = SimpleNamespace(examples=SimpleNamespace(groups=groups))
    assert measure._coverage(held, rows, contexts, np.random.default_rng(0)) == "curve"  # type: ignore[arg-type]
    kept = np.delete(np.arange(24), [3, 8])
    assert asked[0][1] == groups[kept].tolist() and asked[0][0].shape == (22, 24, 80)
    torch.testing.assert_close(asked[0][0] * 256, rows[torch.as_tensor(kept)].float())
    for few in (rows[:, :19], rows[..., :60]):  # too few draws, or too narrow for spans of sixty directions
        assert measure._coverage(held, few, contexts, np.random.default_rng(0)) is None  # type: ignore[arg-type]


def test_a_context_without_a_response_has_no_overlap() -> None:
    rows = torch.randn(12, 30, 20, generator=torch.Generator().manual_seed(0))
    rows[4] = 0
    inverse, pairs = measure._overlaps(rows)
    assert np.flatnonzero(np.isnan(inverse)).tolist() == [4]
    assert np.isnan(pairs[4]).all() and np.isnan(pairs[:, 4]).all() and np.isnan(pairs).sum() == 23
    alone, others = measure._overlaps(rows[[k for k in range(12) if k != 4]])
    np.testing.assert_allclose(np.delete(inverse, 4), alone)
    np.testing.assert_allclose(np.delete(np.delete(pairs, 4, 0), 4, 1), others)


# --- the order of work ---


@pytest.fixture(scope="module")
def done(subject: ss.Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, list[int]]]:
    out, seeds, real = tmp_path_factory.mktemp("census"), [], order_of_work.measure
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(order_of_work, "measure", lambda *given, **more: seeds.append(more["seed"]) or real(*given, **more))
        yield ss.census(subject, texts(), out=out, **SMALL), out, seeds


def test_every_network_has_weights_and_draws_of_its_own(done: tuple[Any, Path, list[int]], subject: ss.Subject) -> None:
    found, _, seeds = done
    assert len(set(seeds)) == 5  # the same draws in all networks would make them differ less than they do
    assert len({one.fingerprint for one in found.networks}) == 5 and len({one.seed for one in found.networks[1:]}) == 4
    for one in (found.networks[1], found.networks[4]):
        assert one.fingerprint == twin(subject, one.kind, one.seed).fingerprint
    assert found.level == family_level(4)
    for one, measured in zip(found.networks, found.measured, strict=True):
        assert one.output.value == pytest.approx(np.median(np.exp(measured.output)))
        assert (one.seed, one.kind) == (measured.seed, measured.kind)


@pytest.mark.parametrize("changed", [{"probes": 17}, {"laws_at": "resid:0"}, {"noise": 1.0}])
def test_other_settings_too_make_another_network(
    done: tuple[Any, Path, list[int]], subject: ss.Subject, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    def measured(*_: Any, **__: Any) -> Any:
        raise RuntimeError("measured anew")

    monkeypatch.setattr(order_of_work, "measure", measured)
    with pytest.raises(RuntimeError, match="measured anew"):
        ss.census(subject, texts(), out=done[1], **SMALL | changed)


def test_a_site_for_laws_that_is_not_measured_is_left_out_and_no_twins_are_asked_for(subject: ss.Subject) -> None:
    found = ss.census(subject, texts(), **SMALL | {"seeds": 0, "laws_at": "resid:1"})
    assert [one.name for one in found.networks] == ["trained"] and found.no_twins == "no twins were asked for"
    assert {one.name for one in found.laws} <= {"depth"}
    assert found.at("resid:0")["local"].reading.reason == "no twins were asked for"
    with pytest.raises(InputError, match="seeds: got -1"):
        ss.census(subject, texts(), **SMALL | {"seeds": -1})
    with pytest.raises(InputError, match="margin: got"):
        ss.census(subject, texts(), **SMALL | {"margin": (1.1, 1.3)})


def test_entropies_that_could_not_be_matched_are_told(subject: ss.Subject) -> None:
    rows, trained = choose(subject, texts(10), 10), network(contexts=10)
    for gap, told in ((0.5, True), (0.005, False)):
        twins = replace(network("random 1", "random", seed=1, contexts=10), entropy=trained.entropy + gap)
        said = " ".join(_limits(rows, [trained, twins], False, ""))
        assert ("entropy differs from the network's by up to 0.5 nats" in said) is told
    assert "Some twins are missing: none there." in _limits(rows, [trained], False, "none there")


def test_the_record_says_everything_under_its_own_name_and_is_of_its_own_network(
    done: tuple[Any, Path, list[int]], tmp_path: Path
) -> None:
    found = done[0]
    entry = census_entry(found, "strandscope census x")
    assert (entry.twins, entry.kinds, entry.schema, entry.command) == (
        2, ("random", "scrambled"), "strandscope/census/1", "strandscope census x"
    )  # fmt: skip
    for one, source in zip(entry.networks, found.networks, strict=True):
        assert (one.name, one.kind, one.scale, one.entropy, one.output) == (
            source.name, source.kind, source.scale, source.entropy, source.output
        )  # fmt: skip
    for site in found.sites:
        shown = entry.site(site.site)
        assert (shown.site, shown.ambient, shown.contexts, shown.below) == (site.site, 32, site.contexts, site.below)
        assert shown.contexts != shown.below and shown.trace == site.trace
        for quantity in site.quantities:
            told = shown.quantity(quantity.id)
            assert (told.reading, told.what, told.coordinates) == (quantity.reading, quantity.what, quantity.coordinates)
            for one, source in zip(told.against, quantity.against, strict=True):
                assert (one.reading, one.ratio, one.decides, one.verdict) == (
                    source.reading, source.ratio, source.decides, source.verdict
                )  # fmt: skip
    write(entry, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["census.json", "census.md"]
    assert read(tmp_path, found.fingerprint) == read(tmp_path / "census.json", found.fingerprint) == entry
    with pytest.raises(TrustError, match="take its census again"):
        read(tmp_path, "0" * 64)
    with pytest.raises(InputError, match="is not in this census"):
        entry.site("resid:1")


# --- what is kept ---


def test_a_kept_network_is_named_by_all_that_its_figures_depend_on(subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = choose(subject, texts(10), 10)
    plain = kept.network_key(subject, rows, seed=0)
    assert plain == kept.network_key(subject, rows, seed=0)
    others = [
        kept.network_key(subject, rows, seed=1),
        kept.network_key(subject, choose(subject, texts(11), 11), seed=0),
        kept.network_key(subject, replace(rows, cut="otherwise"), seed=0),
        kept.network_key(replace(subject, fingerprint="0" * 64), rows, seed=0),
    ]
    weight = next(parameter for name, parameter in subject.module.named_parameters() if "embed_tokens" in name)
    with torch.no_grad():  # changed in memory: the fingerprint is still that of the file
        weight.mul_(2)
        others.append(kept.network_key(subject, rows, seed=0))
        weight.div_(2)
    assert kept.network_key(subject, rows, seed=0) == plain
    monkeypatch.setattr(kept, "versions", lambda: {"torch": "0"})
    others.append(kept.network_key(subject, rows, seed=0))
    assert len({plain, *others}) == 7


def test_a_coverage_curve_comes_back_whole_and_a_file_that_lacks_a_part_is_told(curve: Any, tmp_path: Path) -> None:
    apart = {
        site: replace(profile, **{name: getattr(profile, name).copy() for name in kept._ARRAYS})
        for site, profile in network().sites.items()
    }
    wanted = with_curve(replace(network(), sites=apart), curve)
    kept.write(wanted, tmp_path / "one.safetensors")
    found = kept.read(tmp_path / "one.safetensors").coverage["resid:1"]
    assert found.sizes == curve.sizes and (found.rank, found.neighbours) == (curve.rank, curve.neighbours)
    assert sorted(found.pooled) == sorted(curve.pooled)
    for size, held in curve.pooled.items():
        np.testing.assert_array_equal(found.pooled[size], held)
    for name in ("blocks", "ceiling", "quarter", "chance", "nearest", "unrelated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(curve, name))
    monkey = pytest.MonkeyPatch()
    monkey.setattr(kept, "_ARRAYS", tuple(name for name in kept._ARRAYS if name != "inverse"))
    kept.write(wanted, tmp_path / "part.safetensors")
    monkey.undo()
    with pytest.raises(InputError, match="not a whole measured network"):
        kept.read(tmp_path / "part.safetensors")


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_measured(
    subject: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_of_work, "measure", lambda *_, **__: pytest.fail("measured first"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StrandscopeError, match="file"):
        ss.census(subject, texts(), out=tmp_path / "file" / "census", **SMALL)


def test_what_is_asked_for_by_a_wrong_name_is_refused_with_the_right_ones(done: tuple[Any, Path, list[int]]) -> None:
    found = done[0]
    assert found.at("resid:2").site == "resid:2" and found.at("resid:2")["local_whitened"].id == "local_whitened"
    assert found.at("resid:2")["local"].beside("scrambled").kind == "scrambled"
    assert str(found).startswith(f"census of {found.subject}: 12 contexts, 2 sites, twins: 2 random, 2 scrambled\nresid:0")
    for ask, words in (
        (lambda: found.at("resid:1"), "there are resid:0, resid:2"),
        (lambda: found.at("resid:2")["width"], "wanted one of local, local_whitened"),
        (lambda: found.at("resid:2")["local"].beside("pruned"), "there are random, scrambled"),
    ):
        with pytest.raises(InputError, match=words):
            ask()
