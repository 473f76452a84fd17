"""Gates: open for the positions that say so, in the pass or for the next one, once or from then on, each row by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import families
from strandscope.control.gate import CoordinateGate
from strandscope.subject.attach import Moment, Scope, attach
from strandscope.subject.scope import prompt_of
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject
from strandscope.subject.verify import left_padded

ONE, TWO = Site("resid", 1), Site("resid", 2)
LENGTHS = (7, 5, 6)


@pytest.fixture(scope="module")
def llama() -> Subject:
    return families.subject("Llama")


def coordinates(subject: Subject, site: Site, edits: Any = None) -> list[list[float]]:
    """First coordinates of each row's content at a site over prompt and 3 decoded steps of forced tokens."""
    batch = left_padded(subject, list(subject.probe))
    forced = torch.tensor([[3, 4, 5]] * 3)
    rows: list[list[float]] = [[], [], []]

    def keep(state: Tensor, moment: Any) -> None:
        held = moment.held(state)
        for row in range(3):
            rows[row] += state[row, held[row], 0].tolist()

    with torch.no_grad(), prompt_of(list(LENGTHS)), attach(subject, edits=edits or {}), attach(subject, reads={site: keep}):
        cache = subject.module(**batch, use_cache=True).past_key_values
        for step in range(3):
            batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)
            cache = subject.module(
                input_ids=forced[:, [step]], attention_mask=batch["attention_mask"], past_key_values=cache, use_cache=True
            ).past_key_values
    return rows


def gate(subject: Subject, site: Site, order: Any, value: float, side: Any = ">", lasting: bool = False) -> CoordinateGate:
    read = torch.zeros(subject.d)
    read[0] = 2.0
    return CoordinateGate(site, order, read, 0.5, side, value, lasting, f"when(x{side}{value})")


def bump(states: Tensor) -> Tensor:
    return states + torch.nn.functional.one_hot(torch.tensor(0), states.shape[-1])


def median(rows: list[list[float]]) -> float:
    return float(torch.tensor([2 * value - 0.5 for row in rows for value in row]).median())


@pytest.mark.parametrize("side", [">", "<"])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_gate_read_before_the_edit_opens_for_what_it_reads(llama: Subject, side: str, lasting: bool) -> None:
    says = coordinates(llama, ONE)
    value = median(says)
    opened = [[(2 * x - 0.5 > value) == (side == ">") and 2 * x - 0.5 != value for x in row] for row in says]
    if lasting:
        opened = [[any(row[: place + 1]) for place in range(len(row))] for row in opened]
    assert {True, False} == {one for row in opened for one in row}
    # At the site of the edit what changes is the bump alone: later tokens are forced, and attention reads other sites.
    held = gate(llama, ONE, "before", value, side, lasting)
    plain = coordinates(llama, TWO)
    seen = coordinates(llama, TWO, {TWO: [(bump, Scope(gate=held))]})
    changed = [[abs(b - a) > 0.5 for a, b in zip(*pair, strict=True)] for pair in zip(plain, seen, strict=True)]
    assert changed == opened


def test_a_gate_at_the_edits_own_site_reads_what_is_in_hand(llama: Subject) -> None:
    says = coordinates(llama, ONE)
    value = median(says)
    seen = coordinates(llama, ONE, {ONE: [(bump, Scope(gate=gate(llama, ONE, "here", value)))]})
    first = [row[:length] for row, length in zip(says, LENGTHS, strict=True)]
    moved = [[b - a > 0.5 for a, b in zip(one, two, strict=False)] for one, two in zip(first, seen, strict=True)]
    assert moved == [[2 * x - 0.5 > value for x in row] for row in first]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_gate_read_after_the_edit_speaks_for_the_next_pass(llama: Subject, lasting: bool) -> None:
    """Nothing in the prompt; then each step by the last position of the pass before, or by all of them."""
    said = coordinates(llama, TWO)
    value = median(said)
    held = gate(llama, TWO, "after", value, lasting=lasting)
    plain = coordinates(llama, ONE)
    seen = coordinates(llama, ONE, {ONE: [(bump, Scope(gate=held))]})
    after = coordinates(llama, TWO, {ONE: [(bump, Scope(gate=held))]})
    for row, length in enumerate(LENGTHS):
        says = [2 * x - 0.5 > value for x in after[row]]
        wanted = [False] * length
        for step in range(3):
            wanted.append(any(says[: length + step]) if lasting else says[length + step - 1])
        assert [abs(b - a) > 0.5 for a, b in zip(plain[row], seen[row], strict=True)] == wanted


@pytest.mark.parametrize(("order", "lasting"), [("here", True), ("after", True), ("after", False)])
def test_a_gate_closes_when_another_sequence_begins(llama: Subject, order: Any, lasting: bool) -> None:
    held = gate(llama, ONE, order, -1e9, lasting=lasting)
    edits = {ONE: [(bump, Scope(gate=held))]}
    assert coordinates(llama, ONE, edits) != coordinates(llama, ONE)
    held.value = 1e9
    plain, again = coordinates(llama, ONE), coordinates(llama, ONE, edits)
    assert plain == again


def test_padding_opens_nothing() -> None:
    """The first position is padding, and what stands there says yes."""
    moment = Moment(content=torch.tensor([[False, True, True, True]]))
    states = torch.tensor([[[9.0], [0.0], [2.0], [0.0]]])
    held = CoordinateGate(ONE, "here", torch.ones(1), 0.0, ">", 1.0, True, "since(x>1)")
    assert held.open(states, moment).tolist() == [[False, False, True, True]]
