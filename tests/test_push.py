"""Pushes at several sites, and what an edit costs over whole replies: against passes made by hand, one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tiny_chat
from pushing import SITE, opened, vector
from strandscope.control.bench import Bench
from strandscope.control.dose import dose_of, find_dose
from strandscope.control.edit import direction_digest
from strandscope.control.push import Push
from strandscope.control.replies import ReplyBench
from strandscope.control.texts import replies, sampled
from strandscope.errors import InputError
from strandscope.subject.attach import Edits, Scope, attach
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

OTHER = Site("resid", 2)
BOTH = {SITE: vector(0), OTHER: vector(1)}


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return opened(tiny_chat.save_model(tmp_path_factory.mktemp("push") / "model"))


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench.of(subject, 24)


@pytest.fixture(scope="module")
def replying(subject: Subject) -> ReplyBench:
    return ReplyBench.replying(subject, 6, new_tokens=5)


def test_one_dose_for_several_sites(bench: Bench) -> None:
    push = Push(BOTH)
    dose = dose_of(bench, push, 0.02)
    assert dose.scale.value is not None and dose.cost.value == pytest.approx(0.02, rel=0.03)
    assert bench.costs_under(push.edits(dose.scale.value)).mean() == pytest.approx(dose.cost.value)
    assert dose.site == "resid:1,resid:2" and dose.push == push.digest


def test_the_susceptibility_of_several_sites_has_their_cross_terms(bench: Bench) -> None:
    """χ of both together is that of small pushes, and not the sum of each one's."""
    chi = bench.susceptibility_of(Push(BOTH))
    size = 0.02
    measured = (bench.costs_under(Push(BOTH).edits(size)) + bench.costs_under(Push(BOTH).edits(-size))) / 2
    assert measured.sum() == pytest.approx((0.5 * size**2 * chi).sum(), rel=0.02)
    apart = sum(bench.susceptibility_of(Push({site: way})) for site, way in BOTH.items())
    assert abs(apart.sum() / chi.sum() - 1) > 0.02


def test_a_push_at_one_site_is_find_doses(bench: Bench) -> None:
    one, push = find_dose(bench, SITE, vector(), 0.02, positions="last"), Push({SITE: vector()}, Scope(positions="last"))
    assert one == dose_of(bench, push, 0.02)
    assert push.digest == direction_digest(vector())


def test_digests_tell_sites_and_signs_apart() -> None:
    swapped = {SITE: BOTH[OTHER], OTHER: BOTH[SITE]}
    assert len({Push(BOTH).digest, Push(swapped).digest, Push(BOTH).opposite().digest, Push({SITE: BOTH[SITE]}).digest}) == 4


def test_a_push_of_nothing_or_of_another_width_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="got none"):
        Push({})
    with pytest.raises(InputError, match="zeros, NaN"):
        Push({SITE: torch.zeros(32)})
    with pytest.raises(InputError, match="width 31"):
        dose_of(bench, Push({SITE: vector(), OTHER: torch.ones(31)}), 0.02)


def stepped(subject: Subject, replying: ReplyBench, row: int, edits: Edits) -> torch.Tensor:
    """Log-probabilities before each token of a reply, made with the cache one token at a time, as generate does."""
    ids, length = replying.tokens.ids[row], replying.lengths[row]
    said, cache = [], None
    with torch.no_grad(), attach(subject, edits=edits):
        for start, stop in [(0, length), *((place, place + 1) for place in range(length, len(ids) - 1))]:
            step = {"input_ids": torch.tensor([ids[start:stop]]), "attention_mask": torch.ones(1, stop, dtype=torch.long)}
            output = subject.module(**step, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            said.append(output.logits[0, -1].double().log_softmax(-1))
    return torch.stack(said)


@pytest.mark.parametrize("scope", [Scope(), Scope(phase="prompt"), Scope(phase="generation"), Scope(positions="last")])
def test_what_a_reply_costs_is_the_sum_over_its_steps(subject: Subject, replying: ReplyBench, scope: Scope) -> None:
    edits = Push({SITE: vector(0, 3.0)}, scope).edits(1.0)
    wanted = []
    for row in range(len(replying.lengths)):
        plain, edited = stepped(subject, replying, row, {}), stepped(subject, replying, row, edits)
        wanted.append(float((plain.exp() * (plain - edited)).sum()))
    assert replying.sums_under(edits) == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert replying.costs_under(edits) == pytest.approx(np.array(wanted) / replying.steps, rel=1e-3, abs=1e-5)
    assert min(wanted) > 1e-4
    assert replying.reading(edits).value == pytest.approx(np.mean(wanted), rel=1e-3)


def test_no_edit_costs_a_reply_nothing(replying: ReplyBench) -> None:
    assert replying.sums_under({}) == pytest.approx(0, abs=1e-6)


def test_a_dose_for_the_generation_alone_is_per_token_of_the_reply(replying: ReplyBench) -> None:
    push = Push({SITE: vector()}, Scope(phase="generation"))
    dose = dose_of(replying, push, 0.01)
    assert dose.cost.value == pytest.approx(0.01, rel=0.03) and "per token of replies" in dose.cost.method
    assert dose.predicted.value == pytest.approx(0.01, rel=0.2)
    assert dose.positions == "generation"


def test_replies_are_drawn_from_the_seed_alone_and_end_where_the_network_ends_them(subject: Subject) -> None:
    prompts = [[6, 7, 8], [9, 10]]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = sampled(subject, prompts, 40, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == sampled(subject, prompts, 40, seed=1) != sampled(subject, prompts, 40, seed=2)
    end = subject.module.generation_config.eos_token_id  # type: ignore[union-attr]
    made = [row for seed in range(12) for row in sampled(subject, prompts, 40, seed=seed)]
    assert all(1 <= len(row) <= 40 and end not in row[:-1] for row in made)
    assert any(row[-1] == end for row in made) and any(len(row) == 40 for row in made)


def test_prompts_stand_in_one_batch_without_a_token_for_padding(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their replies are those that each gets alone, and nothing stands after the end of one."""
    prompts = ["hello", "what do you make of the weather today?", "a b c"]
    batches: list[int] = []
    made = subject.module.generate
    assert subject.tokenizer is not None

    def generate(**options: Any) -> torch.Tensor:
        batches.append(len(options["input_ids"]))
        return made(**options)  # type: ignore[operator]

    alone = [subject.generate(prompt, 12) for prompt in prompts]
    monkeypatch.setattr(subject.module, "generate", generate)
    named, subject.tokenizer.pad_token = subject.tokenizer.pad_token, None
    try:
        assert replies(subject, prompts, 12) == alone and batches == [3]
    finally:
        subject.tokenizer.pad_token = named
