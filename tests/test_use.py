"""Read and use: a network that never looks along a direction, one that does, and subspaces that are planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

import families
import strandscope as ss
import tiny_chat
from strandscope.capture.examples import Examples, neutral_prompts
from strandscope.capture.record import capture
from strandscope.capture.response import exact, respond
from strandscope.control import use as uses
from strandscope.control.edit import Ablate
from strandscope.control.use import Margin, Use, _beyond, _controls, _null, jackknife_ratio, name, use, verdict_of
from strandscope.errors import InputError, TrustError
from strandscope.reading import Null, Reading
from strandscope.strand.response import along, held_share, inside, normalised, response_strands
from strandscope.strand.strand import Strand
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

SITE = Site("resid", 1)
TEMPLATE = "be kind, be brief.{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
D = 32


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A GPT-2: its layer norms take the mean out, so that no block after a site, nor the head, sees the direction of ones."""
    folder = tiny_chat.save_model(tmp_path_factory.mktemp("model"))
    sizes = {"vocab_size": 64, "n_embd": D, "n_layer": 4, "n_head": 4, "n_positions": 1024, "tie_word_embeddings": False}
    module = families._transformers("GPT2Config", "GPT2LMHeadModel", bos_token_id=1, eos_token_id=2, **sizes)
    with torch.no_grad():  # and what it says depends strongly on one direction of what it does see
        module.lm_head.weight += 3 * torch.outer(torch.randn(64, generator=torch.Generator().manual_seed(5)), used())  # type: ignore[operator]
    module.save_pretrained(folder)  # type: ignore[operator]
    opened = ss.load(folder, dtype="float32", check="none")
    assert opened.tokenizer is not None
    opened.tokenizer.chat_template = TEMPLATE
    return opened


def unused() -> Tensor:
    return torch.ones(D) / D**0.5


def used() -> Tensor:
    drawn = torch.randn(D, generator=torch.Generator().manual_seed(3))
    return (drawn - drawn.mean()) / (drawn - drawn.mean()).norm()


READ = Reading(0.9, 0.8, 0.95, 0.95, 100, "AUROC", Null(0.5, 0.4, 0.6, 0.95, 100, 0.01, "labels"), "made up")


def strand_along(subject: Subject, direction: Tensor, site: Site = SITE, evidence: Reading = READ) -> Strand:
    column = (direction / direction.norm())[:, None]
    return Strand(
        name="made up",
        positive="yes",
        site=str(site),
        position="last",
        basis=column,
        pattern=2.5 * column,
        spectrum=torch.ones(1),
        offset=torch.zeros(1),
        method="by hand",
        evidence=evidence,
        fingerprint=subject.fingerprint,
        template={"format": "chat"},
    )


def rows_along(subject: Subject, direction: Tensor, site: Site) -> Examples:
    """Neutral prompts labelled by the coordinate along a direction: it is read there, by construction."""
    prompts = neutral_prompts()
    level = capture(subject, prompts, [site], "last").at(site) @ direction
    high = (level > level.median()).tolist()
    return Examples.from_rows(
        [
            {"id": row.id, "messages": list(row.input), "group": row.group, "label": int(label)}
            for row, label in zip(prompts.rows, high, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def told(subject: Subject) -> dict[str, Use]:
    last = Site("resid", 3)
    return {
        key: use(subject, strand_along(subject, direction, site), rows_along(subject, direction, site), contexts=48, draws=32)
        for key, direction, site in (("unused", unused(), SITE), ("used", used(), last))
    }


# --- verdicts where the answer is known ---


def test_what_is_read_and_lies_in_the_null_space_of_all_that_follows_is_not_used(subject: Subject, told: dict[str, Use]) -> None:
    """The rows are told apart along it without error, and nothing that the network says depends on it."""
    found = told["unused"]
    assert found.verdict == "read, and equivalent to no use at this position", found.why
    assert found.susceptibility.value == pytest.approx(0, abs=1e-6) and found.share.value == pytest.approx(0, abs=1e-6)
    assert found.beyond.value == pytest.approx(0, abs=1e-6)
    for reading in (found.ablation, found.ablation_whole, found.ablation_own):
        assert reading.value == pytest.approx(0, abs=1e-6)
        assert reading.null is not None and reading.null.value > 1e-4 and reading.null.p == 1


def test_what_the_head_looks_at_is_used(told: dict[str, Use]) -> None:
    found = told["used"]
    assert found.verdict == "read and used", found.why
    assert found.susceptibility.value is not None and found.susceptibility.value > 5
    assert found.susceptibility.null is not None and found.susceptibility.null.p == pytest.approx(1 / 101)
    assert found.beyond.low is not None and found.beyond.low > 1
    assert found.ablation_own.null is not None and found.ablation_own.value > found.ablation_own.null.high  # type: ignore[operator]
    assert found.share.null is not None and found.share.value > found.share.null.high  # type: ignore[operator]


def test_a_matched_direction_is_seldom_called_used(subject: Subject) -> None:
    """What is drawn as the controls are exceeds them at the level, by exchangeability; 6 of 40 would be p = .01 at 5 %."""
    gradients, _ = normalised(*_recorded(subject))
    states = capture(subject, neutral_prompts(), [SITE], "last").at(SITE).double()
    drawn = _controls(states, 140, torch.Generator().manual_seed(0))[140:]
    size = along(gradients, drawn).mean(0).numpy()
    used_by_chance = 0
    for number in range(40):
        p = (1 + (size[40:] >= size[number]).sum()) / 101
        used_by_chance += p <= 0.05
    assert used_by_chance <= 6


def _recorded(subject: Subject) -> tuple[Tensor, np.ndarray]:
    found = respond(subject, neutral_prompts().subset(range(0, 300, 10)), str(SITE), draws=16)
    return found.at(SITE), found.groups


def test_without_rows_of_its_own_neutral_ones_decide(subject: Subject) -> None:
    found = use(subject, strand_along(subject, unused()), contexts=24, draws=16, controls=20)
    assert found.verdict == "read, and equivalent to no use at this position"
    assert found.ablation_own.reason == "no rows of the concept were given"
    assert found.agreement == pytest.approx(1, abs=1e-6)


def test_the_same_seed_gives_the_same_use(subject: Subject) -> None:
    first, again, other = (
        use(subject, strand_along(subject, used()), contexts=16, draws=8, controls=20, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def reading(value: float, low: float, high: float, p: float) -> Reading:
    return Reading(value, low, high, 0.95, 64, "times", Null(1.0, 0.5, 2.0, 0.95, 100, p, "matched"), "made up")


@pytest.mark.parametrize(
    ("evidence", "beyond", "ablation", "verdict"),
    [
        (READ, reading(1.0, 0.7, 1.9, 0.5), reading(0.004, 0.002, 0.009, 0.5), "read, and equivalent to no use at this position"),
        (READ, reading(1.0, 0.7, 2.1, 0.5), reading(0.004, 0.002, 0.009, 0.5), "cannot tell"),
        (READ, reading(1.0, 0.7, 1.9, 0.5), reading(0.008, 0.002, 0.011, 0.5), "cannot tell"),
        (READ, reading(4.0, 2.0, 8.0, 0.01), reading(0.02, 0.01, 0.03, 0.5), "read and used"),
        (READ, reading(4.0, 0.9, 8.0, 0.01), reading(0.02, 0.01, 0.03, 0.5), "cannot tell"),
        (READ, reading(4.0, 2.0, 8.0, 0.02), reading(0.02, 0.01, 0.03, 0.5), "cannot tell"),  # three looks: .06
        (READ, reading(1.0, 0.5, 2.5, 0.5), reading(0.2, 0.1, 0.3, 0.01), "read and used"),
        (replace(READ, low=0.45), reading(4.0, 2.0, 8.0, 0.01), reading(0.2, 0.1, 0.3, 0.01), "cannot tell"),
        (replace(READ, low=0.45), reading(0.1, 0.0, 0.2, 0.9), reading(0.0, 0.0, 0.001, 0.9), "cannot tell"),
        (Reading.not_measured("none", unit="AUROC", method=""), reading(4.0, 2.0, 8.0, 0.01), READ, "cannot tell"),
    ],
)
def test_a_verdict_follows_from_its_readings(evidence: Reading, beyond: Reading, ablation: Reading, verdict: str) -> None:
    own = reading(0.004, 0.002, 0.006, 0.9)
    assert verdict_of(evidence, beyond, [ablation, own], Margin())[0] == verdict


def test_looks_count_by_their_own_null_and_the_highest_end() -> None:
    """An ablation whose value is below the margin and whose interval is not; a concept not read whatever it does."""
    plain, over = reading(1.0, 0.7, 1.9, 0.5), reading(0.004, 0.002, 0.011, 0.5)
    for ablations in ([over, plain_own()], [plain_own(), over]):
        assert verdict_of(READ, plain, ablations, Margin())[0] == "cannot tell"
    named = verdict_of(READ, reading(1.0, 0.5, 2.5, 0.5), [plain_own(), reading(0.2, 0.1, 0.3, 0.004)], Margin())
    assert named[0] == "read and used" and "ablation on its own rows (p = 0.012)" in named[1]  # Holm: three looks


def plain_own() -> Reading:
    return reading(0.004, 0.002, 0.006, 0.9)


def test_a_null_is_the_others_and_the_value_counts_among_them() -> None:
    others = np.arange(1.0, 100.0)  # 99 of them
    for value, p in ((1000.0, 0.01), (99.0, 0.02), (50.0, 0.51), (0.0, 1.0)):
        assert _null(value, others, "made up").p == pytest.approx(p)
    null = _null(50.0, others, "made up")
    assert (null.value, null.n, null.level) == (50.0, 99, 0.95)
    assert (null.low, null.high) == pytest.approx(tuple(np.quantile(others, [0.025, 0.975])))


def test_matched_directions_lie_as_the_states_spread_and_not_where_they_are() -> None:
    states = torch.full((50, 6), 100.0, dtype=torch.float64)
    states[:, 2] += torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random, matched = _controls(states, 30, torch.Generator().manual_seed(1)).split(30)
    assert float((matched[:, 2].square() / matched.square().sum(1)).min()) > 0.999
    assert float((random[:, 2].square() / random.square().sum(1)).mean()) < 0.5


def test_a_ratio_of_means_counts_topics_and_is_held_against_matched_directions() -> None:
    draw = np.random.default_rng(0)
    topics = np.arange(48) // 4
    shared = draw.gamma(4.0, 0.25, 12)[topics]
    own, others = 3 * shared * draw.gamma(9.0, 1 / 9, 48), draw.gamma(2.0, 0.5, (48, 60))
    found = _beyond(own, others, topics)
    deleted = [np.log(own[topics != t].sum() / others.mean(1)[topics != t].sum()) for t in range(12)]
    reach = student.ppf(0.975, 11) * np.sqrt(11 / 12 * np.square(deleted - np.mean(deleted)).sum())
    value = own.sum() / others.mean(1).sum()
    assert [found.value, found.low, found.high] == pytest.approx([value, value * np.exp(-reach), value * np.exp(reach)])
    assert found.null is not None and found.null.value == pytest.approx(np.median(others.sum(0) / others.mean(1).sum()))


def test_what_is_pushed_on_is_what_a_concept_writes_and_not_what_reads_it(subject: Subject) -> None:
    """Read along a direction that the head looks at, written along one that nothing sees."""
    strand = replace(strand_along(subject, used(), Site("resid", 3)), pattern=(3 * unused() + 1e-3 * used())[:, None])
    asked: list[int] = []
    found = use(subject, strand, contexts=16, draws=8, controls=20, progress=lambda *_: asked.append(1))
    assert found.susceptibility.value == pytest.approx(0, abs=1e-3) and found.ablation.value == pytest.approx(0, abs=1e-4)
    assert found.agreement == pytest.approx(1e-3 / 3, rel=0.01) and asked
    assert found.susceptibility.null is not None and found.susceptibility.null.method == "directions at random"
    assert found.susceptibility.null.value == pytest.approx(1, abs=0.6)  # of a direction at random
    assert found.beyond.null is not None and found.beyond.null.n == 20


def test_coordinates_are_set_to_their_mean_and_to_nothing_beside_those_of_matched_directions(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the bench: the strand first, then directions within the spread of the states; costs by their number."""
    asked: list[list[Ablate]] = []
    kinds: list[str] = []

    class Counted:
        topics = np.arange(24) % 6

        def costs_of(self, site: Site, edits: list[Ablate], positions: str) -> np.ndarray:
            asked.append(edits)
            return 1e3 * len(asked) + np.arange(len(edits))[:, None] + np.zeros(24)

    monkeypatch.setattr(uses, "Bench", SimpleNamespace(on=lambda _, some: kinds.append(some.kind) or Counted()))
    seen: list[Tensor] = []
    monkeypatch.setattr(uses, "capture", lambda *given: seen.append(capture(*given).at(SITE).double()) or capture(*given))
    found = use(subject, strand_along(subject, used()), rows_along(subject, used(), SITE), contexts=12, draws=8, controls=20)
    assert [len(edits) for edits in asked] == [42, 21]
    assert (found.ablation.value, found.ablation_whole.value, found.ablation_own.value) == (1000, 1021, 2000)
    means = seen[0].mean(0)
    spread = torch.linalg.qr((seen[0] - means).T)[0]  # twelve contexts in 32 dimensions
    for edits, whole in ((asked[0][:21], False), (asked[0][21:], True), (asked[1], False)):
        vectors = torch.stack([edit.direction for edit in edits]).double()
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(21, dtype=torch.float64))
        torch.testing.assert_close(vectors[0], used().double(), rtol=1e-5, atol=1e-6)
        wanted = torch.zeros(21, dtype=torch.float64) if whole else vectors @ means
        torch.testing.assert_close(torch.tensor([edit.mean for edit in edits], dtype=torch.float64), wanted, rtol=1e-5, atol=1e-6)
        assert float((vectors[1:] @ spread).norm(dim=1).min()) > 0.999
    texts = replace(strand_along(subject, used()), template={"format": "text"})  # found in texts, so asked in texts
    use(subject, texts, contexts=12, draws=8, controls=20)
    assert kinds == ["chat", "chat", "text"]


def test_margins_are_stated(told: dict[str, Use]) -> None:
    assert "margins 2 times and 0.01 nats" in told["unused"].why and told["unused"].margin == Margin(2.0, 0.01)


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says() -> None:
    """1,000 sets of 60 skewed pairs in 15 topics; binomial error of the coverage .007."""
    draw, topics, held = np.random.default_rng(0), np.arange(60) % 15, 0
    for _ in range(1000):
        shared = draw.gamma(4.0, 0.25, 15)[topics]
        low, high = jackknife_ratio(3 * shared * draw.gamma(4.0, 0.25, 60), shared * draw.gamma(4.0, 0.25, 60), topics)
        held += low <= 3 <= high
    assert 0.92 <= held / 1000 <= 0.97


def test_a_ratio_that_is_zero_has_an_interval_at_zero() -> None:
    assert jackknife_ratio(np.zeros(8), np.ones(8), np.arange(8)) == (0.0, 0.0)


# --- what is refused ---


def test_strands_that_use_is_not_asked_of_are_refused(subject: Subject) -> None:
    strand = strand_along(subject, used())
    wide = replace(strand, basis=torch.eye(D)[:, :2], pattern=torch.eye(D)[:, :2], spectrum=torch.ones(2), offset=torch.zeros(2))
    with pytest.raises(InputError, match=r"^strand 'made up': has 2 directions"):
        use(subject, wide)
    with pytest.raises(InputError, match=r"^strand 'made up': was read at 'mean', and use is measured at the last position"):
        use(subject, replace(strand, position="mean"))
    with pytest.raises(InputError, match=r"^controls: got 19, wanted at least 20"):
        use(subject, strand, controls=19)
    with pytest.raises(TrustError, match=r"^strand 'made up' was found in the network ffffffffffff"):
        use(subject, replace(strand, fingerprint="f" * 64))


# --- the edit ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ablating_sets_one_coordinate_and_leaves_the_others(dtype: torch.dtype) -> None:
    states = torch.randn(5, 7, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    unit = used()
    for mean in (0.0, 0.7):
        gone = Ablate(3 * unit, mean)(states)
        close = 1e-5 if dtype == torch.float32 else 2e-2
        assert gone.dtype == dtype and torch.allclose(gone.float() @ unit, torch.full((5, 7), mean), atol=close)
        across = torch.eye(D) - torch.outer(unit, unit)
        assert torch.allclose(gone.float() @ across, states.float() @ across, atol=close)
        again = Ablate(3 * unit, mean)(gone)
        assert torch.allclose(again.float(), gone.float(), atol=close)
    with pytest.raises(InputError, match=r"^direction: got one of width 31, the states here have 32"):
        Ablate(torch.ones(31))(states)


# --- response strands: planted gradients ---


def planted(contexts: int = 40, draws: int = 24, rank: int = 3, noise: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gradients (contexts, draws, d) in a subspace with an orthonormal basis (d, rank), and noise everywhere."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, rank, generator=draw, dtype=torch.float64))[0]
    held = torch.randn(contexts, draws, rank, generator=draw, dtype=torch.float64) @ basis.T
    size = torch.rand(contexts, 1, 1, generator=draw, dtype=torch.float64) * 10 + 0.01  # contexts differ in how much they respond
    return size * (held + noise * torch.randn(contexts, draws, D, generator=draw, dtype=torch.float64)), basis


TOPICS = np.arange(40) % 10


def test_a_direction_at_random_has_susceptibility_1_with_the_stated_spread() -> None:
    """√(2/PR − 2/d), exactly up to a factor d/(d + 2) and a term of order 1/d, over 20,000 directions."""
    gradients, _ = normalised(planted(noise=0.3)[0], TOPICS)
    metric = torch.einsum("ckd,cke->de", gradients, gradients) / len(gradients)
    ratio = float(metric.trace() ** 2 / metric.square().sum())
    directions = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1))
    found = along(gradients, directions).mean(0)
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert float(found.std()) == pytest.approx((D / (D + 2) * (2 / ratio - 2 / D)) ** 0.5, rel=0.03)
    one = directions[0].double()
    assert float(found[0]) == pytest.approx(float(one @ metric @ one / one.square().sum() * D / metric.trace()), rel=1e-9)


def test_every_context_counts_alike_and_one_without_a_gradient_not_at_all() -> None:
    gradients, _ = planted()
    silent = torch.cat([gradients, torch.zeros(2, *gradients.shape[1:])])
    kept, topics = normalised(silent, np.append(TOPICS, [10, 11]))
    assert len(kept) == len(topics) == 40 and torch.allclose(kept.square().sum((1, 2)), torch.ones(40).double())
    assert torch.allclose(kept, normalised(gradients * torch.rand(40, 1, 1).double().add(0.1), TOPICS)[0])
    with pytest.raises(InputError, match=r"^gradients: got zeros alone; the answer does not depend on this site"):
        normalised(torch.zeros(4, 8, D), np.arange(4))


def test_the_share_inside_is_1_in_the_subspace_0_across_it_and_k_over_d_at_random() -> None:
    gradients, basis = planted()
    kept, topics = normalised(gradients, TOPICS)
    across = torch.linalg.qr(torch.cat([basis, torch.randn(D, 1).double()], 1))[0][:, 3]
    random = torch.randn(4000, D, generator=torch.Generator().manual_seed(2))
    shares = inside(kept, topics, torch.cat([basis.T, across[None], random.double()]), 3)
    assert shares[:3] == pytest.approx([1, 1, 1]) and float(shares[3]) == pytest.approx(0, abs=1e-12)
    assert float(shares[4:].mean()) == pytest.approx(3 / D, rel=0.05)


def test_the_share_that_is_held_is_cross_fitted() -> None:
    """All of it where the contexts share a subspace; a tenth, as by chance, where none shares anything."""
    kept, topics = normalised(planted()[0], TOPICS)
    assert held_share(kept, topics, 3).value == pytest.approx(1)
    draw = torch.Generator().manual_seed(0)
    alone = torch.randn(40, 1, D, generator=draw).double() * torch.randn(40, 24, 1, generator=draw).double()
    chance = held_share(*normalised(alone, TOPICS), 3)
    assert chance.low is not None and chance.low < 3 / D < chance.high and chance.null is not None  # type: ignore[operator]
    assert chance.null.value == pytest.approx(3 / D)


class Planted:
    """Recorded gradients, without a network."""

    fingerprint, position, groups = "f" * 64, "last", TOPICS

    def __init__(self, noise: float = 0.02) -> None:
        self.gradients, self.basis = planted(noise=noise)

    def at(self, site: object) -> Tensor:
        return self.gradients


def test_response_strands_span_what_was_planted(tmp_path: Path) -> None:
    recorded = Planted()
    strand = response_strands(recorded, "resid:1", 3)
    assert (strand.site, strand.position, strand.rank, strand.fingerprint) == ("resid:1", "last", 3, "f" * 64)
    angles = torch.linalg.svdvals(strand.basis.double().T @ recorded.basis)
    assert float(angles.min()) > 0.999
    assert float(strand.spectrum.sum()) == pytest.approx(strand.evidence.value, abs=0.02)  # type: ignore[arg-type]
    assert strand.spectrum.tolist() == sorted(strand.spectrum.tolist(), reverse=True)
    strand.save(tmp_path / "response.safetensors")
    assert torch.equal(Strand.load(tmp_path / "response.safetensors").basis, strand.basis)
    for k in (0, D):
        with pytest.raises(InputError, match=rf"^k: got {k}, wanted 1 to 31 directions of the 32 at resid:1"):
            response_strands(recorded, "resid:1", k)
    recorded.groups = TOPICS % 3
    with pytest.raises(InputError, match=r"^contexts: got 3 topics, wanted at least 4"):
        response_strands(recorded, "resid:1", 3)


def test_in_a_network_they_are_the_top_of_the_exact_metric(subject: Subject) -> None:
    prompts = neutral_prompts().subset(range(0, 300, 15))
    found = respond(subject, prompts, str(SITE), draws=256)
    metric = torch.stack([one.metrics[SITE] / one.metrics[SITE].trace() for one in exact(subject, prompts, str(SITE))]).mean(0)
    best = torch.linalg.eigh(metric.double())[1][:, -1]
    assert float((response_strands(found, SITE, 2).basis[:, 0].double() @ best).abs()) > 0.98


# --- names ---


def test_a_response_direction_is_named_by_the_concept_along_it(subject: Subject) -> None:
    recorded = Planted()
    recorded.fingerprint = subject.fingerprint
    response = response_strands(recorded, str(SITE), 3)
    near = response.basis[:, 1] + 0.5 * torch.randn(D, generator=torch.Generator().manual_seed(0)) / D**0.5
    far = torch.linalg.qr(torch.cat([response.basis, torch.randn(D, 1)], 1))[0][:, 3]
    concepts = [replace(strand_along(subject, way), name=called) for called, way in (("near", near), ("far", far))]
    named = name(response, concepts)
    assert [one.verdict for one in named] == ["used, unnamed", "used and named by a concept", "used, unnamed"]
    assert named[1].concept == "near" and named[1].cosine.null is not None and named[1].cosine.null.p < 1e-3  # type: ignore[operator]
    with pytest.raises(InputError, match=r"^concepts: got none"):
        name(response, [])
    with pytest.raises(InputError, match=r"^strand 'made up': is not at resid:1 of the same network"):
        name(response, [strand_along(subject, near, Site("resid", 2))])


def test_in_three_dimensions_chance_is_uniform_and_the_null_is_a_power() -> None:
    """There |cos| of a random direction is uniform, so the largest of k has the distribution c^k."""

    def along_of(vector: list[list[float]], called: str) -> Strand:
        basis = torch.linalg.qr(torch.tensor(vector).T)[0]
        return Strand(
            name=called, positive="yes", site="resid:1", position="last", basis=basis, pattern=-7 * torch.tensor(vector).T,
            spectrum=torch.ones(len(vector)), offset=torch.zeros(len(vector)), method="hand", evidence=READ, fingerprint="f" * 64,
        )  # fmt: skip

    response = along_of([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "response")
    concepts = [along_of([[0.6, 0.0, 0.8]], "one"), along_of([[0.0, 0.999, 0.0447]], "two"), along_of([[0.8, 0.6, 0.0]], "three")]
    concepts = [replace(one, basis=torch.eye(3)[:, 2:]) for one in concepts]  # what reads a concept does not name it
    first, second = name(response, concepts)  # six pairs
    assert (first.concept, second.concept) == ("three", "two")
    for found, cosine, verdict in ((first, 0.8, "used, unnamed"), (second, 0.999, "used and named by a concept")):
        null = found.cosine.null
        assert found.cosine.value == pytest.approx(cosine, abs=1e-4) and found.verdict == verdict and null is not None
        assert null.p == pytest.approx(1 - cosine**6, rel=1e-2)
        assert [null.low, null.value, null.high] == pytest.approx([q ** (1 / 6) for q in (0.025, 0.5, 0.975)])
    for other in (replace(concepts[0], fingerprint="e" * 64), replace(concepts[0], site="resid:2")):
        with pytest.raises(InputError, match="is not at resid:1 of the same network"):
            name(response, [other])


def test_random_directions_are_seldom_named(subject: Subject) -> None:
    """2,000 sets of 2 concepts and 3 directions; of 6,000 directions, sets with a name are 5 % at most, and not far fewer."""
    draw = torch.Generator().manual_seed(0)
    recorded = Planted()
    recorded.fingerprint = subject.fingerprint
    response = response_strands(recorded, str(SITE), 3)
    sets = 0
    for _ in range(2000):
        concepts = [strand_along(subject, torch.randn(D, generator=draw)) for _ in range(2)]
        sets += any(one.verdict == "used and named by a concept" for one in name(response, concepts))
    assert 0.03 < sets / 2000 < 0.065
