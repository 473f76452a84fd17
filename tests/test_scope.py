"""Scopes: which positions are touched, over prompt and generation, chunks, padding and tokens; masks are made once a pass."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import families
import tiny_chat
from strandscope.capture.examples import Examples
from strandscope.capture.predict import next_token_logprobs
from strandscope.control.texts import replies
from strandscope.errors import InputError
from strandscope.subject.attach import Moment, Scope, attach
from strandscope.subject.load import load
from strandscope.subject.scope import prompt_of, told_prompt
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject
from strandscope.subject.verify import left_padded

ONE, TWO = Site("resid", 1), Site("resid", 2)
LENGTHS = (7, 5, 6)
PROMPT = {(row, position) for row, length in enumerate(LENGTHS) for position in range(length)}
NEW = {(row, length + made) for row, length in enumerate(LENGTHS) for made in range(3)}


@pytest.fixture(scope="module")
def llama() -> Subject:
    return families.subject("Llama")


def touched(subject: Subject, scope: Scope, *, told: bool, chunk: int | None = None, cache: bool = True) -> set[tuple[int, int]]:
    """(row, number of the content position) of every state that an edit was handed and changed, over prompt and 4 new tokens.

    The fourth new token is never run. An edit is handed whole batches, so what it *changes* is what a read after it sees move.
    """
    found: set[tuple[int, int]] = set()
    before: list[Tensor] = []

    def keep(state: Tensor, _: Moment) -> None:
        before.append(state.clone())

    def compare(state: Tensor, moment: Moment) -> None:
        numbers = moment.numbers(state)
        for row, position in (state != before.pop()).any(-1).nonzero().tolist():
            found.add((row, int(numbers[row, position])))

    batch = left_padded(subject, list(subject.probe))
    lengths = batch["attention_mask"].sum(1)
    path = Site("module", path=subject.port(ONE).path)
    options: dict[str, Any] = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "do_sample": False,
        "pad_token_id": 0,
        "use_cache": cache,
    }
    if chunk:
        options["prefill_chunk_size"] = chunk
    before_it, edit, after_it = {ONE: keep}, {path: [(lambda h: h + 1, scope)]}, {ONE: compare}
    tell = prompt_of(lengths) if told else nullcontext()
    with tell, torch.no_grad(), attach(subject, reads=before_it), attach(subject, edits=edit), attach(subject, reads=after_it):
        subject.module.generate(**batch, **options)
    return found


CASES = [
    (Scope(), PROMPT | NEW),
    (Scope(phase="prompt"), PROMPT),
    (Scope(phase="generation"), NEW),
    (Scope(positions="last"), {(row, length - 1) for row, length in enumerate(LENGTHS)} | NEW),
    (Scope(positions=(-1, 0)), {(0, 6), (1, 4), (2, 5), (0, 0), (1, 0), (2, 0)}),
    (Scope(window=(-2, None)), {(0, 5), (0, 6), (1, 3), (1, 4), (2, 4), (2, 5)} | NEW),
    (Scope(window=(1, 3), rows=(2,)), {(2, 1), (2, 2)}),
    (Scope(window=(6, None)), {place for place in PROMPT | NEW if place[1] >= 6}),
    (
        Scope(exclude=(Scope(phase="prompt", positions=(-1,)), Scope(rows=(0,)))),
        {p for p in PROMPT | NEW if p[0]} - {(1, 4), (2, 5)},
    ),
    (Scope(rows=(0, 1), phase="generation", positions="last"), {place for place in NEW if place[0] < 2}),
]


@pytest.mark.parametrize(("scope", "wanted"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_what_is_touched_is_what_is_named(llama: Subject, scope: Scope, wanted: set[tuple[int, int]]) -> None:
    assert touched(llama, scope, told=True) == wanted
    assert touched(llama, scope, told=False) == wanted


@pytest.mark.parametrize(("scope", "wanted"), CASES, ids=[str(number) for number in range(len(CASES))])
@pytest.mark.parametrize("chunk", [2, 3])
def test_chunks_of_a_prompt_are_prompt_even_one_of_a_single_token(
    llama: Subject, scope: Scope, wanted: set[tuple[int, int]], chunk: int
) -> None:
    """Chunks of 2 and 3 both leave one token of 7 over: told the prompt's length, it is not taken for a generated one."""
    assert touched(llama, scope, told=True, chunk=chunk) == wanted


def test_what_cannot_be_known_of_chunks_is_refused(llama: Subject) -> None:
    with pytest.raises(InputError, match="tell its length with prompt_of"):
        touched(llama, Scope(positions=(-1,)), told=False, chunk=4)


def test_without_a_cache_a_reply_is_told_from_its_prompt_by_what_was_told(llama: Subject) -> None:
    assert touched(llama, Scope(phase="generation"), told=True, cache=False) == NEW
    assert touched(llama, Scope(phase="generation"), told=False, cache=False) == set()


def test_tokens_are_named_by_their_ids(llama: Subject) -> None:
    batch = llama.batch([llama.probe[0]])
    wanted = batch["input_ids"][0, 2]
    seen: list[Tensor] = []
    with torch.no_grad():
        for edits in ({}, {ONE: [(lambda h: h + 1, Scope(tokens=(int(wanted),)))]}):
            with attach(llama, reads={ONE: lambda state, _: seen.append(state.clone())}, edits=edits):
                llama.module(**batch)
    assert torch.equal((seen[0] != seen[1]).any(-1), batch["input_ids"] == wanted)


def test_a_mask_is_made_once_a_pass(llama: Subject) -> None:
    made: list[Moment] = []
    scope, sites = Scope(window=(1, 3)), [Site("resid", index) for index in range(4)]
    reads = {site: lambda _, moment: made.append(moment) for site in sites[3:]}
    edits = {site: [(lambda h: h + 1, scope)] for site in sites}
    with torch.no_grad(), attach(llama, reads=reads, edits=edits):
        llama.module(**llama.batch(list(llama.probe)))
        assert len(made[0].masks) == 1


def test_a_mask_is_never_another_scopes() -> None:
    """A scope that was thrown away may leave its id to the next one."""
    moment, state = Moment(), torch.zeros(1, 6, 2)
    for number in range(6):
        mask = Scope(positions=(number,)).select(state, moment)
        assert isinstance(mask, Tensor) and mask[0].nonzero().tolist() == [[number]]


@dataclass(frozen=True, eq=False)
class Above:
    """Open where the states at a site, and so far in the passes, had a first coordinate above a value."""

    site: Site
    value: float
    seen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reads(self) -> dict[Site, Any]:
        return {self.site: lambda state, _: self.seen.update(state=state.clone())}

    def open(self, state: Tensor, moment: Moment) -> Tensor:
        return self.seen["state"][..., 0] > self.value


def test_a_gate_reads_in_the_same_pass_and_opens_for_some_states(llama: Subject) -> None:
    batch = llama.batch(list(llama.probe))
    plain: dict[Site, Tensor] = {}
    with (
        torch.no_grad(),
        attach(llama, reads={site: lambda h, _, site=site: plain.update({site: h.clone()}) for site in (ONE, TWO)}),
    ):
        llama.module(**batch)
    first = plain[ONE][..., 0]
    gate = Above(ONE, float(first[batch["attention_mask"].bool()].median()))
    seen: list[Tensor] = []
    edits = {TWO: [(lambda h: h + 1, Scope(gate=gate))]}
    with torch.no_grad(), attach(llama, reads={TWO: lambda h, _: seen.append(h.clone())}, edits=edits):
        llama.module(**batch)
    opened = (first > gate.value) & batch["attention_mask"].bool()
    assert 0 < int(opened.sum()) < int(batch["attention_mask"].sum())
    assert torch.equal((seen[0] != plain[TWO]).any(-1), opened)


@pytest.mark.parametrize(
    "scope",
    [
        Scope(phase="prompt"),
        Scope(phase="generation"),
        Scope(positions=(-2,)),
        Scope(window=(-3, -1)),
        Scope(window=(2, None)),
        Scope(positions="last"),
        Scope(exclude=(Scope(positions=(-1,)),)),
    ],
)
@pytest.mark.parametrize("own", [((20,), (21, 22), (23, 24, 25)), ((20,), (21,), (22,))])
def test_a_shared_prefix_is_run_only_where_its_rows_are_written_to_alike(llama: Subject, scope: Scope, own: Any) -> None:
    """Ten shared tokens and then one to three of one's own: what comes next is that of each row run alone."""
    rows = [[*range(1, 11), *rest] for rest in own]
    examples = Examples.from_rows([{"tensor": torch.tensor(row)} for row in rows])
    vector = torch.linspace(-2, 2, llama.d)
    edits = {ONE: [(lambda h: h + vector, scope)]}
    together = next_token_logprobs(llama, examples, edits)
    for number, row in enumerate(rows):
        one = torch.tensor([row])
        with torch.no_grad(), prompt_of(len(row)), attach(llama, edits=edits):
            alone = llama.module(input_ids=one, attention_mask=torch.ones_like(one)).logits[0, -1].log_softmax(-1)
        assert torch.allclose(together[number], alone, atol=1e-4)
    plain = next_token_logprobs(llama, examples)
    assert torch.allclose(together, plain, atol=1e-4) == (scope.phase == "generation")


def test_rows_with_edits_of_their_own_answer_as_each_would_alone(llama: Subject) -> None:
    batch = left_padded(llama, list(llama.probe))
    pushes = [torch.linspace(-k, k, llama.d) for k in (1, 2, 3)]

    def reply(edits: Any, row: int | None = None) -> Tensor:
        chosen = batch if row is None else {key: value[[row]] for key, value in batch.items()}
        with torch.no_grad(), attach(llama, edits=edits):
            return llama.module(**chosen).logits[:, -1]

    several = reply({ONE: [(lambda h, v=v: h + v, Scope(rows=(row,))) for row, v in enumerate(pushes)]})
    for row, push in enumerate(pushes):
        alone = reply({ONE: [(lambda h, v=push: h + v, Scope())]}, row)
        assert torch.allclose(several[[row]], alone, atol=1e-4)
    assert not torch.allclose(several, reply({}), atol=1e-2)


def test_a_prompt_of_one_token_is_prompt(llama: Subject) -> None:
    one, seen = torch.tensor([[5]]), []
    scope = Scope(phase="generation")
    read = {ONE: lambda state, moment: seen.append(bool(moment.generated(state).any()))}
    with torch.no_grad(), attach(llama, reads=read, edits={ONE: [(lambda h: h + 1, scope)]}):
        llama.module.generate(one, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert seen == [False, True, True]


def test_beams_of_a_row_have_its_prompt() -> None:
    with prompt_of([3, 5]):
        assert told_prompt(4, torch.device("cpu")).tolist() == [3, 3, 5, 5]


def test_generate_tells_how_long_the_prompt_is(tmp_path: Path) -> None:
    """A chunk of all but one of the prompt's tokens leaves one that looks like a decoded step."""
    subject, seen = load(tiny_chat.save_model(tmp_path / "m")), []
    length = len(
        subject.tokenizer(subject.render([{"role": "user", "content": "hello there"}]), add_special_tokens=False).input_ids
    )
    read = {Site("resid", 0): lambda state, moment: seen.append(int(moment.generated(state).sum()))}
    with attach(subject, reads=read):
        subject.generate("hello there", 3, min_new_tokens=3, prefill_chunk_size=length - 1)
        assert seen == [0, 0, 1, 1]
        seen.clear()
        replies(subject, ["hello there", "hello"], 3)
        assert seen[0] == 0 and seen[1] == 2


@pytest.mark.parametrize("lengths", [0, [3, 0]])
def test_a_prompt_of_no_tokens_is_refused(lengths: Any) -> None:
    with pytest.raises(InputError, match="1 or more tokens"), prompt_of(lengths):
        pass


def test_lengths_that_do_not_fit_the_batch_are_refused(llama: Subject) -> None:
    scope = Scope(phase="prompt")
    with (
        pytest.raises(InputError, match="got 2 for a batch of 3"),
        prompt_of([3, 3]),
        attach(llama, edits={ONE: [(lambda h: h, scope)]}),
    ):
        llama.module(**llama.batch(list(llama.probe)))


def test_rows_are_counted_over_all_rows_wherever_a_scope_names_them(llama: Subject) -> None:
    """Rows go through the network in batches of one, in the order of their length."""
    rows = [[3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15]]
    examples = Examples.from_rows([{"tensor": torch.tensor(row)} for row in rows])
    plain = next_token_logprobs(llama, examples)
    for scope in (Scope(rows=(0, 2)), Scope(exclude=(Scope(rows=(1,)),)), Scope(exclude=(Scope(rows=(1,), positions=(5,)),))):
        edits = {ONE: [(lambda h: h + torch.linspace(-2, 2, llama.d), scope)]}
        moved = (next_token_logprobs(llama, examples, edits, batch_tokens=1) - plain).abs().amax(1) > 1e-2
        assert moved.tolist() == [True, scope.exclude[0].positions != "all" if scope.exclude else False, True]
