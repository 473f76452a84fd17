"""The census: figures equal dense oracles, differences are found where they were planted alone, nothing is measured twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

import families
import strandscope as ss
import tiny_chat
from strandscope.census import census as order_of_work
from strandscope.census import kept, measure
from strandscope.census.compare import MARGIN, compare, family_level, measured_rows, verdict_of
from strandscope.census.contexts import choose
from strandscope.census.measure import Measurement, Profile
from strandscope.cli.main import main
from strandscope.errors import InputError, StrandscopeError
from strandscope.io import save_tensors
from strandscope.reading import Reading
from strandscope.report.census import census_entry, schema_text
from strandscope.report.census_page import lines, markdown
from strandscope.statistics.paired import Contrast, Deleted, log_ratio, median, steadied

Floats = np.ndarray
QUANTITIES = ("local", "local_whitened", "pooled", "pooled_whitened", "pooled_at_n", "data", "two_nn", "contraction", "excess")


# --- figures on the same rows ---


def test_leaving_groups_out_is_what_it_says() -> None:
    draw = np.random.default_rng(0)
    values, groups = draw.normal(size=30), np.arange(30) // 3
    by_hand = Deleted.of(lambda rows: float(values[rows].mean()), groups)
    at_once = Deleted.mean(values, groups)
    assert by_hand.value == pytest.approx(at_once.value)
    np.testing.assert_allclose(by_hand.without, at_once.without)
    assert by_hand.without[4] == pytest.approx(np.delete(values, [12, 13, 14]).mean())


def planted(draw: np.random.Generator, contexts: int, twins: int, between: float) -> Contrast:
    """A figure and its twins' on the same contexts, with no difference in the mean; contexts matter to both, unequally."""
    groups, context = np.arange(contexts), draw.normal(size=contexts)
    own = Deleted.mean(1.5 * context + draw.normal(0, 0.3, contexts), groups)
    others = [Deleted.mean(0.5 * context + draw.normal(0, between) + draw.normal(0, 0.3, contexts), groups) for _ in range(twins)]
    return log_ratio(own, others)


@pytest.mark.parametrize(("contexts", "between"), [(24, 0.0), (24, 0.1), (60, 0.4)])
def test_the_interval_of_a_ratio_holds_contexts_and_seeds(contexts: int, between: float) -> None:
    draw = np.random.default_rng(1)
    held = alone = 0
    for _ in range(120):
        sites = steadied([planted(draw, contexts, 3, between) for _ in range(6)])
        for one in sites:
            low, high = one.interval(0.95)
            held += low <= 0 <= high
            low, high = Contrast.summed(one.value, one.rows_variance, 0.0, 1, one.groups).interval(0.95)
            alone += low <= 0 <= high
    assert held / 720 > 0.93
    if between == 0.4:  # without the twins' spread it would not have
        assert alone / 720 < 0.8


def test_twins_that_lie_close_by_luck_are_taken_to_lie_as_far_apart_as_at_the_other_sites() -> None:
    far, near = (Contrast.summed(0.0, 1.0, between, 3, 50) for between in (3.0, 0.0))
    one, other = steadied([far, near])
    assert one == far and other.between_variance == 1.5
    assert other.degrees < near.degrees == 49
    assert steadied([]) == []


def test_the_interval_of_a_median_holds_it_with_groups_and_without() -> None:
    draw = np.random.default_rng(2)
    held = {20: 0, 60: 0}
    for groups in held:
        codes = np.arange(60) % groups
        for _ in range(400):
            values = np.exp(draw.normal(size=60) + (draw.normal(size=groups)[codes] if groups < 60 else 0))
            middle, low, high = median(values, codes)
            assert low <= middle == np.median(values) <= high
            held[groups] += low <= 1 <= high
    assert all(0.93 < count / 400 < 0.995 for count in held.values()), held


def test_figures_of_other_rows_are_not_compared() -> None:
    one, other = Deleted.mean(np.ones(9), np.arange(9)), Deleted.mean(np.ones(8), np.arange(8))
    for others in ([], [other]):
        with pytest.raises(InputError, match="log_ratio"):
            log_ratio(one, others)
    with pytest.raises(InputError, match="groups of rows, wanted at least 2"):
        median(np.ones(5), np.zeros(5, dtype=int))


# --- verdicts ---


def ratio(low: float, high: float) -> Reading:
    return Reading(math.sqrt(low * high), low, high, 0.95, 100, "trained/twin", None, "paired")


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.3, 0.7, "fewer than the twin"),
        (0.7, 0.99, "fewer than the twin"),
        (0.85, 0.95, "as the twin"),
        (0.8, 1.25, "as the twin"),
        (1.02, 1.2, "as the twin"),
        (0.79, 1.1, "cannot tell"),
        (0.9, 1.3, "cannot tell"),
        (1.01, 1.3, "more than the twin"),
        (2.0, 3.0, "more than the twin"),
    ],
)
def test_a_verdict_is_read_off_the_whole_interval(low: float, high: float, wanted: str) -> None:
    assert verdict_of(ratio(low, high), MARGIN) == wanted
    assert verdict_of(Reading.not_measured("few", unit="", method=""), MARGIN) == "not measured"


# --- networks made of numbers ---


def network(
    name: str = "trained",
    kind: str = "trained",
    local: float = 4.0,
    jacobian: float = 20.0,
    sites: int = 3,
    contexts: int = 40,
    seed: int = 0,
    noise: float = 0.1,
) -> Measurement:
    """Figures by context around these; what is context's own is the same in all networks."""
    shared, draw = np.random.default_rng(99), np.random.default_rng([seed, len(name), len(kind)])
    context = shared.normal(0, 0.5, contexts)

    def around(middle: float) -> Floats:
        return math.log(middle) + context + draw.normal(0, noise, contexts)

    profiles = {}
    for number in range(sites):
        own, states = around(local), draw.normal(size=(contexts, 12))
        pairs = np.full((contexts, contexts), 1 / (5 * local)) * np.exp(draw.normal(0, noise, (contexts, contexts)))
        pairs = (pairs + pairs.T) / 2
        few = np.full(contexts, 0.01)
        profiles[f"resid:{number}"] = Profile(
            width=64,
            trace=np.exp(draw.normal(0, 1, contexts)),
            local=own,
            local_variance=few,
            whitened=own - 0.2,
            whitened_variance=few,
            jacobian=around(jacobian),
            jacobian_variance=few,
            step=around(50.0),
            readable=np.ones(contexts),
            inverse=np.exp(-own),
            inverse_whitened=np.exp(0.2 - own),
            overlap=pairs,
            overlap_whitened=pairs,
            states=states,
        )
    return Measurement(
        name=name,
        kind=kind,
        seed=seed,
        fingerprint=f"{name}{seed}",
        draws=64,
        probes=64,
        width=64,
        entropy=np.full(contexts, 2.0),
        scale=np.ones(contexts),
        output=np.full(contexts, math.log(5.0)),
        sites=profiles,
        seconds=1.0,
    )


def three(kind: str, **about: Any) -> list[Measurement]:
    return [network(f"{kind} {number}", kind, seed=number, **about) for number in (1, 2, 3)]


SITES = ["resid:0", "resid:1", "resid:2"]


def test_what_was_planted_is_found_and_nothing_else() -> None:
    networks = [network(local=8.0, jacobian=10.0), *three("random", local=4.0), *three("scrambled", local=8.0, jacobian=10.0)]
    for site in compare(networks, SITES, np.arange(40)):
        assert site.ambient == 64 and site.contexts == 40 and site.below == 0
        assert tuple(one.id for one in site.quantities) == QUANTITIES
        told = {one.id: (one.beside("random"), one.beside("scrambled")) for one in site.quantities}
        for name in ("local", "local_whitened", "pooled", "excess"):
            assert told[name][0].verdict == "more than the twin", name
        assert told["contraction"][0].verdict == "fewer than the twin"
        assert told["local"][0].ratio.value == pytest.approx(2.0, rel=0.08)
        assert told["pooled"][0].ratio.value == pytest.approx(2.0, rel=0.08)
        for name in QUANTITIES:
            if name not in ("data", "two_nn"):
                assert told[name][1].verdict == "as the twin", name
        reading = site["local"].reading
        assert reading.low < 8.0 < reading.high and reading.n == 40 and "median over contexts" in reading.method
        assert told["local"][0].reading.low < 4.0 < told["local"][0].reading.high
        free = 1 / 5 + 1 / 10 - 1 / 64
        assert site["excess"].reading.value == pytest.approx(8 * free, rel=0.3)


def test_the_interval_that_decides_is_the_family_s_and_wider() -> None:
    networks = [network(), *three("random"), *three("scrambled")]
    one = compare(networks, SITES, np.arange(40))[0]["local"].beside("random")
    assert one.ratio.level == 0.95 and one.decides.level == family_level(6) == pytest.approx(1 - 0.05 / 6)
    assert one.decides.low < one.ratio.low < one.ratio.value < one.ratio.high < one.decides.high
    assert "3 twins, their spread in the interval" in one.ratio.method
    alone = compare([network(), network("random 1", "random", seed=1)], SITES, np.arange(40))[0]["local"].beside("random")
    assert "one twin, whose like may differ" in alone.ratio.method


def test_few_contexts_and_much_noise_cannot_tell() -> None:
    networks = [network(contexts=9, noise=1.0), *three("random", contexts=9, noise=1.0)]
    verdicts = [
        site[name].beside("random").verdict for site in compare(networks, SITES, np.arange(9)) for name in ("local", "excess")
    ]
    assert set(verdicts) == {"cannot tell"}


def test_without_twins_no_dimension_is_reported() -> None:
    for site in compare([network()], SITES, np.arange(40), no_twins="this module cannot be drawn anew"):
        assert {one.reading.reason for one in site.quantities} == {"this module cannot be drawn anew"}
        assert site.trace.value is not None and site.ambient == 64


def test_contexts_whose_response_is_too_small_in_any_network_are_left_out_and_counted() -> None:
    trained, *twins = networks = [network(), *three("random")]
    trained.sites["resid:0"].trace[3] = 1e-9
    twins[0].sites["resid:0"].readable[4] = 0
    twins[1].sites["resid:0"].local[5] = np.nan
    assert np.flatnonzero(~measured_rows(networks, "resid:0")).tolist() == [3, 4, 5]
    first, second, _ = compare(networks, SITES, np.arange(40))
    assert (first.contexts, first.below, second.below) == (37, 3, 0)
    assert first["local"].reading.n == 37 and first["contraction"].reading.n == 40
    for profile in trained.sites.values():
        profile.readable[6:] = 0
    few = compare(networks, SITES, np.arange(40))[0]
    assert few["local"].reading.status == "not measured" and "only 3 contexts in 3 groups" in few["local"].reading.reason
    assert few["local"].beside("random").verdict == "not measured" and few["contraction"].reading.value is not None


def test_pooled_figures_delete_contexts_and_pairs_of_a_group_do_not_meet() -> None:
    groups = np.arange(40) // 2
    trained, *twins = networks = [network(local=4.0, noise=1e-6), *three("random", local=4.0, noise=1e-6)]
    for one in networks:
        for at in range(0, 40, 2):
            one.sites["resid:0"].overlap[at, at + 1] = one.sites["resid:0"].overlap[at + 1, at] = 1.0  # twice the same text
    site = compare(networks, ["resid:0"], groups)[0]
    assert site["pooled"].reading.value == pytest.approx(20.0, rel=1e-3)
    here = 1 / (np.mean(trained.sites["resid:0"].inverse) / 40 + (1 - 1 / 40) / 20)
    assert site["pooled_at_n"].reading.value == pytest.approx(here, rel=1e-3)
    assert len(twins) == 3


def test_a_dimension_that_single_contexts_decide_is_not_measured() -> None:
    networks = [network(), *three("random")]
    networks[0].sites["resid:0"].states[:2] = 1e6 * np.eye(12)[0]  # two outsized states, as attention sinks have
    first, second, _ = compare(networks, SITES, np.arange(40))
    assert "single contexts decide it" in first["data"].reading.reason and second["data"].reading.value is not None
    assert first["data"].beside("random").verdict == "cannot tell"


# --- one network, by oracles ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(model: Path) -> ss.Subject:
    return ss.load(model, check="none")


def texts(n: int = 12) -> ss.Examples:
    draw = np.random.default_rng(3)
    made = ["".join(draw.choice(list("abcdefgh ,."), size=int(draw.integers(14, 30)))) + "x" for _ in range(n)]
    return ss.Examples.from_rows([{"text": text, "id": f"t{number}"} for number, text in enumerate(made)], "texts")


def metric(number: int, site: int) -> torch.Tensor:
    """A metric of its own for each context and site."""
    draw = torch.Generator().manual_seed(100 * number + site)
    root = torch.randn(32, 6, generator=draw, dtype=torch.float64) * torch.logspace(0, -1, 6, dtype=torch.float64)
    return root @ root.T


def test_figures_are_those_of_the_metrics_that_the_draws_come_from(subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = choose(subject, texts(10), 10)
    sites = subject.sites("resid:0,resid:2")

    def known(_: Any, examples: ss.Examples, at: Any, *, draws: int, probes: int, **__: Any) -> Iterator[Any]:
        draw = torch.Generator().manual_seed(0)
        for number in range(len(examples)):
            gradients, jacobians = {}, {}
            for place, site in enumerate(at):
                root = torch.linalg.cholesky(metric(number, place) + 1e-12 * torch.eye(32, dtype=torch.float64))
                gradients[site] = torch.randn(draws, 32, generator=draw, dtype=torch.float64) @ root.T
                jacobians[site] = torch.randn(probes, 32, generator=draw, dtype=torch.float64)
            states = {site: torch.randn(32, generator=draw, dtype=torch.float64) for site in at}
            yield measure.Response(number, gradients, jacobians, states, 1.5, 1.0, (4.0, 0.0), 32)

    monkeypatch.setattr(measure, "responses", known)
    seen: list[tuple[int, int]] = []
    found = measure.measure(subject, rows, sites, draws=600, probes=300, seed=0, progress=lambda *at: seen.append(at))
    states = ss.capture(subject, rows.examples, sites, (1, None))
    for place, site in enumerate(sites):
        profile = found.sites[str(site)]
        covariance = torch.cov(states.at(site).double().T, correction=0)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp_min(0).sqrt() @ vectors.T
        raw = [metric(number, place) for number in range(10)]
        for local, overlap, metrics in (
            (profile.local, profile.overlap, raw),
            (profile.whitened, profile.overlap_whitened, [root @ one @ root for one in raw]),
        ):
            scaled = [one / one.trace() for one in metrics]
            wanted = [1 / float((one @ one).trace()) for one in scaled]
            np.testing.assert_allclose(np.exp(local), wanted, rtol=0.2)
            pairs = [float((scaled[0] @ one).trace()) for one in scaled[1:]]
            np.testing.assert_allclose(overlap[0, 1:], pairs, rtol=0.35, atol=0.02)
        np.testing.assert_allclose(profile.trace, [float(one.trace()) for one in raw], rtol=0.3)
        np.testing.assert_allclose(np.exp(profile.jacobian), 32, rtol=0.15)
    assert seen == [(number, 10) for number in range(1, 11)]
    assert found.width == 32 and np.allclose(np.exp(found.output), 4.0) and found.entropy.tolist() == [1.5] * 10


def test_states_keep_their_distances_in_fewer_coordinates() -> None:
    states = torch.randn(9, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    turned = torch.from_numpy(measure._turned(states))
    assert turned.shape == (9, 9)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(states, states))
    wide = torch.from_numpy(measure._turned(states.T))
    torch.testing.assert_close(torch.cdist(wide, wide), torch.cdist(states.T, states.T), atol=1e-5, rtol=1e-6)


# --- contexts ---


def test_each_text_is_cut_where_its_own_draw_says(subject: ss.Subject) -> None:
    every, some = choose(subject, texts(12)), choose(subject, texts(12).subset(range(1, 11)))
    assert every.lengths is not None and some.lengths == every.lengths[1:11]
    whole = choose(subject, texts(12), cut=False).lengths
    assert whole is not None
    shares = np.array(every.lengths) / np.array(whole)
    assert ((shares >= 0.25) & (shares <= 1)).all() and len(set(every.lengths)) > 4 and shares.min() < 0.7
    assert choose(subject, texts(12), seed=1).lengths != every.lengths
    assert every.examples.kind == "tensor" and every.examples.ids == texts(12).ids
    assert (
        every.examples.rows[0].input.tolist()
        == choose(subject, texts(12), cut=False).examples.rows[0].input[: every.lengths[0]].tolist()
    )


def test_contexts_come_from_all_groups_alike(subject: ss.Subject) -> None:
    rows = [{"text": f"row {number} of a set {'abcdefgh'[number % 8]}", "group": f"g{number // 10}"} for number in range(90)]
    chosen = choose(subject, ss.Examples.from_rows(rows), 18, seed=4)
    assert len(chosen) == 18 and np.bincount(chosen.examples.groups).tolist() == [2] * 9


def with_nine_more(*first: dict[str, str]) -> ss.Examples:
    return ss.Examples.from_rows([*first, *({"text": f"text {number}"} for number in range(9))])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lambda _: texts(7), "7 rows, wanted at least 8 contexts; add texts"),
        (
            lambda _: ss.Examples.from_rows([{"text": f"one {number}", "group": "g"} for number in range(9)]),
            "9 contexts in 1 groups, wanted at least 8",
        ),
        (lambda _: with_nine_more({"text": "ab" * 600, "id": "long"}), "row long .*1200 tokens, and the context holds 1024"),
        (lambda _: with_nine_more({"text": "a", "id": "short"}), "row short: 1 token, wanted at least 2"),
        (lambda folder: folder / "none.txt", "no such file"),
        (lambda folder: tiny_chat.write_jsonl(folder / "mine.txt", []), "mine.txt: the file has no text; wanted one a line"),
    ],
)
def test_texts_that_cannot_be_measured_are_told(
    subject: ss.Subject, tmp_path: Path, given: Callable[[Path], Any], wanted: str
) -> None:
    with pytest.raises(StrandscopeError, match=wanted):
        choose(subject, given(tmp_path))


def test_a_text_file_holds_a_text_a_line(subject: ss.Subject, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(f"this is line {number} of them" for number in range(9)) + "\n\n", encoding="utf-8")
    rows = choose(subject, path)
    assert len(rows) == 9 and rows.examples.ids[1] == "mine.txt:2" and rows.source == str(path)


# --- the whole census ---

SMALL: dict[str, Any] = {"contexts": 12, "at": "resid:0,resid:2", "draws": 16, "probes": 16, "seeds": 2, "laws_at": "resid:2"}


@pytest.fixture(scope="module")
def done(subject: ss.Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("census")
    return ss.census(subject, texts(), out=out, **SMALL), out


def same(one: Any, other: Any) -> bool:
    drop = {"resumed": (), "measured": (), "networks": ()}
    return repr(replace(one, **drop).sites) == repr(replace(other, **drop).sites)


def test_networks_are_measured_once(done: tuple[Any, Path], subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    first, out = done
    assert [one.name for one in first.networks] == ["trained", "random 1", "random 2", "scrambled 1", "scrambled 2"]
    assert first.resumed == () and len(list((out / ".work").glob("network-*.safetensors"))) == 5
    monkeypatch.setattr(order_of_work, "measure", lambda *_, **__: pytest.fail("measured again"))
    said: list[str] = []
    again = ss.census(subject, texts(), out=out, progress=lambda stage, *_: said.append(stage), **SMALL)
    assert again.resumed == tuple(one.name for one in first.networks) and same(first, again)
    assert "taken from an earlier run" in said[0]


@pytest.mark.parametrize("changed", [{"draws": 17}, {"seed": 1}, {"at": "resid:0,resid:1"}, {"cut": False}])
def test_another_setting_is_another_network(
    done: tuple[Any, Path], subject: ss.Subject, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    def measured(*_: Any, **__: Any) -> Any:
        raise RuntimeError("measured anew")

    monkeypatch.setattr(order_of_work, "measure", measured)
    with pytest.raises(RuntimeError, match="measured anew"):
        ss.census(subject, texts(), out=done[1], **SMALL | changed)


def test_what_is_kept_comes_back_whole_and_what_is_spoilt_is_told(done: tuple[Any, Path], tmp_path: Path) -> None:
    wanted = done[0].measured[1]
    kept.write(wanted, tmp_path / "one.safetensors")
    found = kept.read(tmp_path / "one.safetensors")
    for name, profile in wanted.sites.items():
        for part in kept._ARRAYS:
            np.testing.assert_array_equal(getattr(found.sites[name], part), getattr(profile, part))
    assert (found.name, found.seed, found.width) == (wanted.name, wanted.seed, wanted.width)
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"schema": "else"})
    with pytest.raises(InputError, match="a else, wanted strandscope/census-network/1"):
        kept.read(tmp_path / "other.safetensors")
    data = (tmp_path / "one.safetensors").read_bytes()
    (tmp_path / "one.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        kept.read(tmp_path / "one.safetensors")


def test_the_same_seed_gives_the_same_figures_and_another_does_not(done: tuple[Any, Path], subject: ss.Subject) -> None:
    small = SMALL | {"seeds": 1, "kinds": ("scrambled",)}
    one, again, other = (ss.census(subject, texts(), **small, seed=seed) for seed in (0, 0, 1))
    assert same(one, again) and not same(one, other)
    assert one.at("resid:2")["local"].reading == done[0].at("resid:2")["local"].reading  # of fewer twins, the same contexts


def test_twins_are_as_uncertain_as_the_network(done: tuple[Any, Path]) -> None:
    trained, *twins = done[0].measured
    for one in twins:
        np.testing.assert_allclose(one.entropy, trained.entropy, atol=1e-5)
        assert one.fingerprint != trained.fingerprint and not np.allclose(one.scale, 1)
    assert np.allclose(trained.scale, 1)


def test_the_network_is_as_it_was(subject: ss.Subject) -> None:
    before = {name: weight.clone() for name, weight in subject.module.state_dict().items()}
    said, hooks = subject.generate("abc", 8), subject.hooks
    ss.census(subject, texts(), **SMALL | {"seeds": 1})
    assert all(torch.equal(before[name], weight) for name, weight in subject.module.state_dict().items())
    assert subject.generate("abc", 8) == said and subject.hooks == hooks
    assert not any(weight.requires_grad and weight.grad is not None for weight in subject.module.parameters())


def test_the_record_has_its_published_shape_and_the_page_says_what_it_shows(done: tuple[Any, Path]) -> None:
    entry = census_entry(done[0], "strandscope census `x`")
    shape = json.loads(schema_text())
    from strandscope.report.finding import as_json

    made = as_json(entry)
    jsonschema.validate(made, shape)
    assert "NaN" not in json.dumps(made)
    page = markdown(entry)
    assert "## What this shows, and what it does not" in page and "| resid:2 | 32 |" in page and "\\`x\\`" in page
    table = lines(entry)
    assert table[0].startswith("census of") and "2 random, 2 scrambled" in table[0]
    assert any(line.startswith("resid:0") for line in table) and any(line.startswith("contraction") for line in table)


def test_the_published_schema_is_what_the_code_says() -> None:
    import strandscope.report

    published = Path(strandscope.report.__file__).parent / "census.schema.json"
    assert published.read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"draws": 8}, "draws: got 8, wanted at least 16"),
        ({"contexts": 7}, "contexts: got 7, wanted at least 8"),
        ({"seeds": -1}, "seeds: got -1"),
        ({"kinds": ("pruned",)}, "kinds: got 'pruned', wanted some of random, scrambled"),
        ({"margin": (0.5, 0.9)}, "margin: got"),
        ({"at": "resid:9"}, "there are|does not exist"),
    ],
)
def test_settings_that_cannot_be_are_told(subject: ss.Subject, changed: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        ss.census(subject, texts(), **SMALL | changed)
    with pytest.raises(InputError, match="wanted a Subject"):
        ss.census("smollm2")


def test_a_network_that_cannot_be_drawn_anew_has_no_dimension(subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(*_: Any) -> Any:
        raise InputError("no twin: the module holds no block")

    monkeypatch.setattr(order_of_work, "twin", impossible)
    found = ss.census(subject, texts(), **SMALL)
    assert len(found.networks) == 1 and "no twin: the module holds no block" in found.no_twins
    assert found.at("resid:2")["local"].reading.status == "not measured"
    entry = census_entry(found)
    assert "A dimension means nothing without its twins" in markdown(entry) and "no twins" in lines(entry)[0]


def test_a_network_without_positions_is_measured_by_the_plain_route() -> None:
    images = families.subject("ViT")
    draw = torch.Generator().manual_seed(0)
    rows = ss.Examples.from_rows([{"tensor": torch.randn(3, 16, 16, generator=draw), "id": f"i{n}"} for n in range(9)])
    found = ss.census(images, rows, at="resid:1,resid:2", draws=16, probes=16, seeds=1, kinds=("scrambled",))
    assert found.tokens.status == "not measured" and found.at("resid:1")["contraction"].reading.value is not None


def test_a_regression_has_no_entropy_to_match() -> None:
    plain = families.subject("plain MLP")
    rows = ss.Examples.from_rows([{"tensor": torch.randn(6, generator=torch.Generator().manual_seed(n))} for n in range(12)])
    found = ss.census(plain, rows, at="module:0,module:2", draws=16, probes=16, seeds=1, kinds=("random",), noise=1.0)
    assert found.networks[0].entropy.status == "not measured" and found.at("module:2").ambient == 12
    with pytest.raises(InputError, match="takes no text"):
        ss.census(plain, seeds=1)


# --- the program ---


def test_the_command_writes_the_record_and_the_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_chat.write_jsonl(tmp_path / "mine.jsonl", [{"text": row.input} for row in texts(9).rows])
    words = ["census", str(model), "--texts", str(path), "--sites", "resid:1", "--draws", "16", "--probes", "16", "--seeds", "1"]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    made = json.loads(printed.out)
    assert made == json.loads((out / "census.json").read_text(encoding="utf-8")) and made["schema"] == "strandscope/census/1"
    assert made["dtype"] == "float32" and f"--texts {path}" in made["command"] and "census.md are in" in printed.err
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "alignment excess" in printed.out and "taken from an earlier run" in printed.err
    assert main(["census", str(model), "--texts", str(tmp_path / "none.jsonl"), "--out", str(out)]) == 3
    assert main([*words, "--sites", "resid:77", "--out", str(out)]) == 2
