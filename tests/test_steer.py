"""A push moves what it says, and leaves nothing behind; what a trial of it shows is what the network then says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_chat
from pushing import PROMPTS, SITE, given, opened, own_costs, strand_in
from strandscope.capture.examples import neutral_prompts
from strandscope.control import steer as steering
from strandscope.control.bench import Bench, network_of
from strandscope.control.dose import Dose, find_dose
from strandscope.control.edit import Add
from strandscope.control.steer import Steering, trial
from strandscope.control.texts import replies
from strandscope.errors import InputError, TrustError
from strandscope.strand.strand import Strand
from strandscope.subject.attach import attach, hooks
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return opened(folder)


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench.of(subject, 36)


@pytest.fixture(scope="module")
def rough(folder: Path) -> Bench:
    return Bench.of(opened(folder, "bfloat16"), 36)


@pytest.fixture(scope="module")
def strand(subject: Subject) -> Strand:
    return strand_in(subject)


def steer(subject: Subject, strand: Strand, *, dose: Dose | None = None, **how: Any) -> Any:
    """`steer`, where a dose that names no network is for this one."""
    if dose is not None and not dose.network:
        dose = replace(dose, network=network_of(subject))
    return steering.steer(subject, strand, dose=dose, **how)


def test_positions_that_are_none_are_refused(subject: Subject, strand: Strand) -> None:
    wrong = steer(subject, strand, dose=given(0.8), positions="first")
    with pytest.raises(InputError, match=r"^positions: got 'first', wanted 'all' or 'last'$"), wrong:
        pass


# --- steering ---


def states_under(subject: Subject, batch: dict[str, Tensor], strand: Strand | None = None, **how: Any) -> Tensor:
    """The states at the site in one pass, under a push if a strand is given."""
    seen: list[Tensor] = []
    read = {SITE: lambda state, _: seen.append(state.clone())}
    with torch.no_grad():
        if strand is None:
            with attach(subject, reads=read):
                subject.module(**batch)
        else:
            with steer(subject, strand, **how), attach(subject, reads=read):
                subject.module(**batch)
    return seen[0]


@pytest.mark.parametrize("toward", [1, -1])
def test_the_state_moves_by_the_dose_along_the_strand(subject: Subject, strand: Strand, toward: int) -> None:
    batch = subject.batch([subject.probe[0]])
    before, after = states_under(subject, batch), states_under(subject, batch, strand, dose=given(0.8, toward), toward=toward)
    assert torch.allclose(after - before, (toward * 0.8 * strand.pattern[:, 0]).expand_as(before), atol=1e-5)
    moved = strand.coordinates(after) - strand.coordinates(before)
    assert torch.allclose(moved, (toward * 0.8 * strand.scale).expand_as(moved), atol=1e-5)
    assert float(strand.scale) > 0.5  # toward the positive class is up


def test_last_at_the_prompt_changes_the_last_content_position_alone(subject: Subject, strand: Strand) -> None:
    batch = subject.batch(list(subject.probe))
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1  # so that padding is in it
    before = states_under(subject, batch)
    after = states_under(subject, batch, strand, dose=given(0.8, positions="last"), positions="last")
    changed = {(int(row), int(place)) for row, place in (before != after).any(-1).nonzero()}
    assert changed == {(row, int(length) - 1) for row, length in enumerate(lengths)}


def test_a_push_while_generating_writes_at_the_newest_position_of_each_pass(subject: Subject, strand: Strand) -> None:
    """Decoded with the cache, "all" and "last" differ in the prompt alone: every later pass holds one position."""
    passes: dict[str, list[Tensor]] = {}
    for positions in ("all", "last"):
        seen = passes.setdefault(positions, [])

        def keep(_module: Any, _args: Any, output: Any, seen: list[Tensor] = seen) -> None:
            seen.append(output.clone())  # before the push, for this hook is the first

        handle = subject.module.get_submodule("model.layers.1").register_forward_hook(keep)
        push = steer(subject, strand, dose=given(5.0, positions=positions), positions=positions)  # type: ignore[arg-type]
        with push, attach(subject, reads={SITE: lambda state, _, seen=seen: seen.append(state.clone())}):
            subject.generate("hello", 3, min_new_tokens=3)
        handle.remove()
    for positions, seen in passes.items():
        moved = [(after - before).abs().amax(-1) > 0.01 for before, after in zip(seen[::2], seen[1::2], strict=True)]
        assert [list(step.shape) for step in moved] == [[1, moved[0].shape[1]], [1, 1], [1, 1]]
        assert all(bool(step.all()) for step in moved[1:])
        assert moved[0][0].tolist() == [positions == "all"] * (moved[0].shape[1] - 1) + [True]


@contextmanager
def unchanged(subject: Subject) -> Iterator[None]:
    """Whatever happens inside, the network comes out as it was: hooks, weights, mode and logits, bit for bit."""
    batch = subject.batch(list(subject.probe))

    def look() -> tuple[Any, ...]:
        with torch.no_grad():
            logits = subject.module(**batch).logits
        weights = {name: weight.clone() for name, weight in subject.module.state_dict().items()}
        return hooks(subject.module), subject.module.training, logits, weights

    hung, mode, logits, weights = look()
    try:
        yield
    finally:
        now = look()
        assert now[:2] == (hung, mode) and torch.equal(now[2], logits)
        assert all(torch.equal(now[3][name], weight) for name, weight in weights.items())


@contextmanager
def untouched_random_state() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_push_is_gone_when_the_block_is_left(subject: Subject, strand: Strand) -> None:
    batch = subject.batch(list(subject.probe))
    with unchanged(subject), torch.no_grad():
        plain = subject.module(**batch).logits
        with steer(subject, strand, dose=given(3.0)):
            assert not torch.allclose(subject.module(**batch).logits, plain, atol=0.01)


def test_a_push_is_gone_after_an_exception_inside(subject: Subject, strand: Strand) -> None:
    with unchanged(subject), pytest.raises(ZeroDivisionError), steer(subject, strand, dose=given(3.0)):
        subject.generate("hello", 2)
        raise ZeroDivisionError


def test_a_dose_is_found_from_nats_on_all_neutral_prompts(subject: Subject, bench: Bench, strand: Strand) -> None:
    with untouched_random_state(), unchanged(subject), steer(subject, strand, nats=0.05, positions="last") as dose:
        pass
    assert (dose.site, dose.positions, dose.target, dose.prompts) == ("resid:1", "last", 0.05, 300)
    assert dose.scale.value is not None
    costs = bench.costs(SITE, Add(strand.pattern[:, 0], dose.scale.value), "last")  # on some of these prompts
    assert costs.mean() == pytest.approx(0.05, rel=0.2)


def test_a_strand_of_several_classes_has_no_way_to_be_pushed(subject: Subject, strand: Strand) -> None:
    several = replace(strand, provenance={"classes": ["a", "b", "c"]})
    wide = replace(
        strand, **{name: torch.randn(32, 2) for name in ("basis", "pattern")}, spectrum=torch.ones(2), offset=torch.ones(2)
    )
    for one in (several, wide):
        with pytest.raises(InputError, match=r"^strand 'made up': tells (a, b, c|yes) apart and has no one direction"):
            trial(subject, one, nats=0.02, prompts=PROMPTS, n_random=0, max_new_tokens=2, seed=0)
    two = replace(strand, provenance={"classes": ["no", "yes"]})
    with steer(subject, two, dose=given(1.0)) as dose:
        assert dose.scale.value == 1.0


def test_a_big_dose_changes_the_reply_and_the_two_ways_differ(subject: Subject, strand: Strand) -> None:
    said = [subject.generate("hello", 12)]
    for toward in (1, -1):
        with steer(subject, strand, dose=given(8.0, toward), toward=toward):
            said.append(subject.generate("hello", 12))
    assert len(set(said)) == 3
    assert subject.generate("hello", 12) == said[0]


@pytest.mark.parametrize("toward", [1, -1])
def test_a_dose_of_another_direction_is_refused(subject: Subject, strand: Strand, toward: int) -> None:
    """That of the opposite direction too: pushing away costs something else than pushing toward."""
    other = replace(strand, pattern=2 * strand.pattern)
    for pushed_along, dose in ((strand, given(1.0, -toward)), (other, given(1.0, toward))):
        sentence = "^dose: was found for another direction or its opposite; leave it out to have it found, or find it again$"
        with pytest.raises(InputError, match=sentence), steer(subject, pushed_along, dose=dose, toward=toward):
            pass


@pytest.mark.parametrize("toward", [0, 2, -0.5, None])
def test_a_direction_that_is_neither_toward_nor_away_is_refused(subject: Subject, strand: Strand, toward: Any) -> None:
    sentence = rf"^toward: got {toward}, wanted 1 \(toward yes\) or -1 \(away from it\)$"
    with pytest.raises(InputError, match=sentence), steer(subject, strand, dose=given(1.0), toward=toward):
        pass


@pytest.mark.parametrize(
    ("dose", "positions", "sentence"),
    [
        (given(1.0, site="resid:2"), "all", "dose: was found at resid:2, all positions, wanted resid:1, all; find it again"),
        (given(1.0), "last", "dose: was found at resid:1, all positions, wanted resid:1, last; find it again"),
        (given(1.0, positions="last"), "all", "dose: was found at resid:1, last positions, wanted resid:1, all; find it again"),
    ],
)
def test_a_dose_of_another_site_or_scope_is_refused(
    subject: Subject, strand: Strand, dose: Dose, positions: Any, sentence: str
) -> None:
    with unchanged(subject), pytest.raises(InputError) as caught, steer(subject, strand, dose=dose, positions=positions):
        pass
    assert str(caught.value) == sentence


@pytest.mark.parametrize("other", ["f" * 64 + " torch.float32", "{fingerprint} torch.bfloat16"])
def test_a_dose_of_another_network_is_refused_also_when_the_push_is_forced(subject: Subject, strand: Strand, other: str) -> None:
    dose = replace(given(1.0), network=other.format(fingerprint=subject.fingerprint))
    for force in (False, True):
        with pytest.raises(InputError) as caught, steer(subject, strand, dose=dose, force=force):
            pass
        assert str(caught.value) == (
            "dose: was found in another network or dtype; leave it out to have it found, or find it again"
        )


def test_a_strand_of_another_network_is_refused_unless_forced(subject: Subject, strand: Strand) -> None:
    foreign = replace(strand, fingerprint="f" * 64)
    sentence = r"^strand 'made up' was found in the network ffffffffffff, this one is"
    with pytest.raises(TrustError, match=sentence), steer(subject, foreign, dose=given(1.0)):
        pass
    with pytest.raises(TrustError, match=sentence):
        trial(subject, foreign, nats=0.02, prompts=PROMPTS, n_random=0, max_new_tokens=2, seed=0)
    with steer(subject, foreign, dose=given(1.0), force=True) as dose:
        assert dose.scale.value == 1.0


def test_a_strand_at_a_site_that_is_not_there_is_refused(subject: Subject) -> None:
    nowhere = strand_in(subject, Site("resid", 9))
    with pytest.raises(InputError, match="site resid:9 does not exist"), steer(subject, nowhere, nats=0.02):
        pass


# --- texts ---


@pytest.mark.parametrize("positions", [None, "all", "last"])
def test_replies_are_those_of_each_prompt_alone(subject: Subject, strand: Strand, positions: Any) -> None:
    def both() -> tuple[list[str], list[str]]:
        return replies(subject, PROMPTS, 12), [subject.generate(prompt, 12) for prompt in PROMPTS]

    if positions is None:
        together, alone = both()
    else:
        with steer(subject, strand, dose=given(4.0, positions=positions), positions=positions):
            together, alone = both()
    assert together == alone and len(set(alone)) > 1


@pytest.mark.parametrize("chat", [True, False])
def test_replies_take_the_special_tokens_of_texts_and_chats(folder: Path, chat: bool) -> None:
    """A tokenizer that begins a plain text with <s>; a chat's template writes what it wants itself."""
    from tokenizers.processors import TemplateProcessing

    subject = opened(folder)
    assert subject.tokenizer is not None
    subject.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    seen: list[list[int]] = []
    handle = subject.module.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"][:, 0].tolist()), with_kwargs=True
    )
    together = replies(subject, PROMPTS[1:2], 1, chat=chat)
    assert together == [subject.generate(PROMPTS[1], 1, chat=chat)]
    handle.remove()
    assert [first == [1] for first in seen] == [not chat, not chat]


def test_a_network_that_left_padding_changes_gets_its_prompts_one_by_one(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replies(subject, PROMPTS, 6)
    rows: list[int] = []
    generate = subject.module.generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        return generate(*args, **kwargs)  # type: ignore[operator]

    monkeypatch.setattr(subject.module, "generate", counted, raising=False)
    for lacking in ("left_padding", "batched"):
        alone = replace(subject, anatomy=replace(subject.anatomy, **{lacking: False}))  # type: ignore[arg-type]
        assert replies(alone, PROMPTS, 6) == wanted
    assert rows == [1] * 6
    replies(subject, PROMPTS, 6)
    assert rows[6:] == [3]


def test_replies_to_nothing_or_beyond_the_context_are_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"^prompts: got none, wanted at least one$"):
        replies(subject, [], 6)
    assert subject.context is not None
    with pytest.raises(InputError, match=r"^prompt: \d+ tokens and \d+ new ones, and the context of .* holds \d+; shorten"):
        replies(subject, PROMPTS, subject.context)
    for ask in (lambda: replies(subject, ["a", ""], 6, chat=False), lambda: subject.generate("", 6, chat=False)):
        with pytest.raises(InputError, match=r"^prompt: no token is left after tokenising; write a text$"):
            ask()
    with pytest.raises(InputError, match=r"^max_new_tokens: got 0, wanted 1 or more$"):
        subject.generate("a", 0)


@pytest.fixture(scope="module")
def made(subject: Subject, strand: Strand) -> Steering:
    stages: list[tuple[str, int, int]] = []
    with untouched_random_state(), unchanged(subject):
        found = trial(
            subject,
            strand,
            nats=0.1,
            prompts=PROMPTS,
            n_random=2,
            max_new_tokens=10,
            seed=3,
            dose_prompts=36,
            progress=lambda *stage: stages.append(stage),
        )
    assert list(dict.fromkeys(stages)) == [("doses and texts", number, 4) for number in range(5)] and len(stages) > 12
    return found


def test_a_trial_pushes_every_way_at_the_same_cost(subject: Subject, strand: Strand, made: Steering) -> None:
    assert (made.strand, made.site, made.chat) == ("made up", "resid:1", True)
    assert [pushed.along for pushed in made.pushed] == ["toward", "away", "random 1", "random 2"]
    bench = Bench.of(subject, 36, 3)
    for pushed, direction in zip(made.pushed, (strand.pattern[:, 0], -strand.pattern[:, 0]), strict=False):
        assert pushed.dose.scale.value is not None
        assert own_costs(subject, bench, pushed.dose.scale.value * direction, "all").mean() == pytest.approx(0.1, rel=0.0201)
    for pushed in made.pushed:
        assert pushed.dose.cost.value == pytest.approx(0.1, rel=0.02)


def test_a_trials_texts_are_those_of_its_pushes(subject: Subject, strand: Strand, made: Steering) -> None:
    assert made.prompts == PROMPTS
    assert made.plain == tuple(subject.generate(prompt, 10) for prompt in PROMPTS)
    for toward, pushed in zip((1, -1), made.pushed, strict=False):
        with steer(subject, strand, dose=pushed.dose, toward=toward):
            assert pushed.texts == tuple(subject.generate(prompt, 10) for prompt in PROMPTS)
    assert all(len(pushed.texts) == len(PROMPTS) for pushed in made.pushed)
    assert any(len(set(texts)) > 2 for texts in zip(made.plain, *(pushed.texts for pushed in made.pushed), strict=True))


def test_a_trial_repeats_and_follows_its_seed(subject: Subject, strand: Strand, made: Steering) -> None:
    again = trial(subject, strand, nats=0.1, prompts=PROMPTS, n_random=2, max_new_tokens=10, seed=3, dose_prompts=36)
    other = trial(subject, strand, nats=0.1, prompts=PROMPTS[:1], n_random=1, max_new_tokens=2, seed=4, dose_prompts=36, along=())
    assert again == made
    assert [pushed.along for pushed in other.pushed] == ["random 1"]
    assert other.pushed[0].dose.push != made.pushed[2].dose.push


def test_a_trial_without_random_directions_is_a_trial(subject: Subject, strand: Strand) -> None:
    found = trial(subject, strand, nats=0.1, prompts=PROMPTS[:1], n_random=0, max_new_tokens=3, seed=0, dose_prompts=30)
    assert [pushed.along for pushed in found.pushed] == ["toward", "away"]


def test_texts_are_continued_and_doses_measured_on_texts_where_that_is_asked_or_no_template_is(
    subject: Subject, folder: Path
) -> None:
    bare = opened(folder)
    assert bare.tokenizer is not None
    bare.tokenizer.chat_template = None
    how = {"nats": 0.1, "prompts": PROMPTS, "n_random": 0, "max_new_tokens": 6, "seed": 0, "dose_prompts": 30}
    asked, unable = (
        trial(one, strand_in(one), along=["toward"], **how, **more) for one, more in ((subject, {"chat": False}), (bare, {}))
    )  # type: ignore[arg-type]
    assert not asked.chat and asked == unable
    assert asked.plain == tuple(subject.generate(prompt, 6, chat=False) for prompt in PROMPTS)
    with steer(bare, strand_in(bare), dose=asked.pushed[0].dose):
        assert asked.pushed[0].texts == tuple(bare.generate(prompt, 6, chat=False) for prompt in PROMPTS)
    prompts = Bench.of(bare, 30).prompts
    assert prompts.texts() == neutral_prompts().subset([neutral_prompts().ids.index(name) for name in prompts.ids]).texts()
    cost = asked.pushed[0].dose.cost
    assert "neutral prompts as plain texts" in cost.method
    chats = find_dose(Bench.of(subject, 30), SITE, strand_in(subject).pattern[:, 0], 0.1)
    assert "asked as chats" in chats.cost.method and chats.scale.value != asked.pushed[0].dose.scale.value


def test_random_directions_have_the_covariance_of_the_states(subject: Subject, strand: Strand, bench: Bench) -> None:
    """4,000 of them, each as long as the pattern: their second moments are those of the states, shape for shape."""
    from strandscope.capture.record import capture
    from strandscope.control.steer import _random_directions

    drawn = torch.stack(_random_directions(bench, strand, 4000, 0)).double()
    length = strand.pattern[:, 0].double().norm()
    assert torch.allclose(drawn.norm(dim=1), length.expand(4000), rtol=1e-5)
    states = capture(subject, bench.prompts, SITE, "last").at(SITE).double()
    wanted, found = ((rows - rows.mean(0)).T @ (rows - rows.mean(0)) for rows in (states, drawn))
    assert float((wanted * found).sum() / (wanted.norm() * found.norm())) > 0.98
    round_ = torch.eye(32).double()
    assert float((wanted * round_).sum() / (wanted.norm() * round_.norm())) < 0.9  # which round directions would not have
