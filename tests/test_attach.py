"""Reading and writing: scopes mean what they say, whatever the container; nothing is left behind, whatever goes wrong."""

from __future__ import annotations

import gc
import weakref
from collections import namedtuple
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import families
from strandscope.errors import InputError
from strandscope.subject.attach import Moment, Scope, attach, hooks
from strandscope.subject.port import Port
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject
from strandscope.subject.trace import accepts
from strandscope.subject.verify import left_padded


@pytest.fixture(scope="module")
def llama() -> Subject:
    return families.subject("Llama")


def states(subject: Subject, site: Site, batch: dict[str, Tensor], **edits: Any) -> Tensor:
    seen: list[Tensor] = []
    with torch.no_grad(), attach(subject, reads={site: lambda state, _: seen.append(state.clone())}, **edits):
        subject.module(**batch)
    return seen[0]


ONE = Site("resid", 1)


def plus(state: Tensor) -> Tensor:
    return state + 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (Scope(), {(row, position) for row, length in enumerate((7, 5, 6)) for position in range(length)}),
        (Scope(rows=(1,)), {(1, position) for position in range(5)}),
        (Scope(positions="last"), {(0, 6), (1, 4), (2, 5)}),
        (Scope(positions=(0, 5)), {(0, 0), (0, 5), (1, 0), (2, 0), (2, 5)}),
        (Scope(rows=(0, 2), positions=(6,)), {(0, 6)}),
    ],
)
def test_a_scope_names_content_positions_by_their_number_in_the_row(
    llama: Subject, scope: Scope, wanted: set[Any], side: str
) -> None:
    rows = list(llama.probe)
    batch = llama.batch(rows) if side == "right" else left_padded(llama, rows)
    before, after = states(llama, ONE, batch), states(llama, ONE, batch, edits={ONE: [(plus, scope)]})
    changed = {(int(row), int(position)) for row, position in (before != after).any(-1).nonzero()}
    shift = {row: 0 if side == "right" else 7 - len(rows[row]) for row in range(3)}
    assert changed == {(row, position + shift[row]) for row, position in wanted}
    mask = (before != after).any(-1)
    assert torch.equal(after[mask], before[mask] + 1)


def test_padding_is_never_written_to(llama: Subject) -> None:
    batch = llama.batch(list(llama.probe))
    before, after = states(llama, ONE, batch), states(llama, ONE, batch, edits={ONE: [(plus, Scope())]})
    padding = ~batch["attention_mask"].bool()
    assert padding.any()
    assert torch.equal(before[padding], after[padding])


def test_edits_apply_in_order_and_a_read_sees_the_last(llama: Subject) -> None:
    batch = llama.batch([llama.probe[0]])
    plain = states(llama, ONE, batch)
    both = states(llama, ONE, batch, edits={ONE: [(plus, Scope()), (lambda state: state * 2, Scope())]})
    assert torch.equal(both, (plain + 1) * 2)


def test_a_read_sees_the_edit_of_an_enclosing_block(llama: Subject) -> None:
    batch = llama.batch([llama.probe[0]])
    plain = states(llama, ONE, batch)
    with attach(llama, edits={ONE: [(plus, Scope())]}):
        assert torch.equal(states(llama, ONE, batch), plain + 1)


def test_a_read_sees_an_edit_of_the_same_module_under_another_name(llama: Subject) -> None:
    other = Site("module", path=llama.port(ONE).path)
    batch = llama.batch([llama.probe[0]])
    assert torch.equal(states(llama, ONE, batch, edits={other: [(plus, Scope())]}), states(llama, ONE, batch) + 1)


def test_two_names_of_one_module_are_both_read_before_a_pass_is_stopped(llama: Subject) -> None:
    other = Site("module", path=llama.port(ONE).path)
    seen: dict[str, Tensor] = {}
    reads = {site: (lambda state, _, site=site: seen.update({str(site): state})) for site in (ONE, other)}
    with torch.no_grad(), attach(llama, reads=reads, stop=True) as attached:
        assert attached.run(**llama.batch([llama.probe[0]])) is None
    assert set(seen) == {str(ONE), str(other)}


def test_a_stopped_pass_runs_nothing_deeper_than_was_asked_for(llama: Subject) -> None:
    ran: list[str] = []
    handles = [
        llama.module.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in llama.anatomy.blocks
    ]
    with torch.no_grad(), attach(llama, reads={ONE: lambda *_: None, Site("resid", 0): lambda *_: None}, stop=True) as attached:
        attached.run(**llama.batch([llama.probe[0]]))
    for handle in handles:
        handle.remove()
    assert ran[-1] in (llama.anatomy.blocks[0], llama.anatomy.blocks[1]) and llama.anatomy.blocks[2] not in ran


@pytest.mark.parametrize("family", ["Llama", "Mamba"])
def test_decoded_tokens_are_numbered_on_from_the_prompt_without_its_padding(family: str) -> None:
    """Mamba's decoded steps come without a mask: the count goes on from the prompt's pass."""
    subject = families.subject(family)
    numbers: list[list[list[int]]] = []
    read = {ONE: lambda state, moment: numbers.append(moment.numbers(state).tolist())}
    batch = left_padded(subject, list(subject.probe[:2]))
    with torch.no_grad(), attach(subject, reads=read):
        subject.module.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert numbers == [[[*range(7)], [-1, -1, *range(5)]], [[7], [5]], [[8], [6]]]


def test_numbers_that_nobody_counted_are_refused() -> None:
    with pytest.raises(InputError, match="before the first pass"):
        Moment(counted=False).numbers(torch.zeros(1, 1, 2))


@pytest.mark.parametrize("edit", [lambda state: state[:, :1], lambda state: state.double(), lambda state: state[..., :1]])
def test_an_edit_that_returns_another_shape_or_dtype_is_refused(llama: Subject, edit: Any) -> None:
    with pytest.raises(InputError, match="same shape and dtype"):
        states(llama, ONE, llama.batch([llama.probe[0]]), edits={ONE: [(edit, Scope())]})


def test_rows_outside_the_batch_are_refused(llama: Subject) -> None:
    with pytest.raises(InputError, match="rows 0 to 0"):
        states(llama, ONE, llama.batch([llama.probe[0]]), edits={ONE: [(plus, Scope(rows=(1,)))]})


def test_an_exception_inside_leaves_no_hook(llama: Subject) -> None:
    before = hooks(llama.module)
    with pytest.raises(ZeroDivisionError), attach(llama, edits={ONE: [(lambda state: state / (1 // 0), Scope())]}):
        assert hooks(llama.module) != before
        llama.module(**llama.batch([llama.probe[0]]))
    assert hooks(llama.module) == before


def test_an_exception_while_attaching_leaves_no_hook(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third hook cannot be registered: the two before it must go again."""
    before = hooks(llama.module)

    def refuse(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(llama.port("resid:2").module, "register_forward_hook", refuse)
    sites = [Site("resid", index) for index in range(3)]
    with pytest.raises(MemoryError), attach(llama, reads={site: lambda *_: None for site in sites}):
        pass
    assert hooks(llama.module) == before


def test_an_unknown_site_is_refused_before_anything_is_attached(llama: Subject) -> None:
    before = hooks(llama.module)
    with (
        pytest.raises(InputError, match="resid:0 to resid:3"),
        attach(llama, reads={ONE: lambda *_: None, Site("resid", 9): lambda *_: None}),
    ):
        pass
    assert hooks(llama.module) == before


@pytest.mark.parametrize("rows", [1, 3])
def test_a_tensor_is_never_taken_for_a_tuple(rows: int) -> None:
    """`output[0]` of a tensor is its first row: right at batch 1, wrong beyond."""
    port = Port(ONE, nn.Identity(), "x", 4, 0, None, "rows positions d")
    output = torch.randn(rows, 5, 4)
    assert port.state(output) is output
    assert port.replace(output, output + 1).shape == output.shape


Pair = namedtuple("Pair", ["state", "rest"])


@pytest.mark.parametrize("container", ["tuple", "list", "named", "output"])
def test_the_modules_own_container_comes_back_with_only_the_state_replaced(container: str) -> None:
    from transformers.modeling_outputs import BaseModelOutput

    state, rest = torch.randn(2, 3, 4), torch.randn(2, 3, 7)
    output: Any = {
        "tuple": (state, rest),
        "list": [state, rest],
        "named": Pair(state, rest),
        "output": BaseModelOutput(last_hidden_state=state, hidden_states=(rest,)),
    }[container]
    port = Port(ONE, nn.Identity(), "x", 4, 0, 0, "rows positions d")
    put = port.replace(output, state + 1)
    assert type(put) is type(output)
    assert torch.equal(port.state(put), state + 1)
    kept = put["hidden_states"][0] if container == "output" else put[1]
    assert kept is rest
    assert torch.equal(port.state(output), state)  # what the module returned is not written into


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("rows positions d", (2, 3, 4)),
        ("rows d", (2, 4)),
        ("rows d height width", (2, 4, 3, 5)),
        ("rows height width d", (2, 3, 5, 4)),
    ],
)
def test_every_layout_is_handed_over_as_rows_positions_d_and_put_back_as_it_was(layout: Any, shape: tuple[int, ...]) -> None:
    port = Port(ONE, nn.Identity(), "x", 4, 0, None, layout)
    output = torch.randn(shape)
    state = port.state(output)
    assert state.shape[0] == 2 and state.shape[-1] == 4
    assert torch.equal(port.replace(output, state.clone()), output)
    strided = output.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert port.replace(strided, port.state(strided).contiguous()).stride() == strided.stride()


def test_arguments_are_those_of_the_class_or_of_the_module_s_own_wrapper_which_is_not_kept() -> None:
    one = nn.Identity()
    assert accepts(one, "input") and not accepts(one, "cache")
    held = weakref.ref(one)
    one.forward = partial(lambda inner, input, cache=None: inner(input), one.forward)  # type: ignore[method-assign]
    assert accepts(one, "cache") and not accepts(nn.Identity(), "cache")
    del one
    gc.collect()
    assert held() is None
