"""Edits are functions of states whose effect is known in advance: in any dtype, on any shape, the same the second time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from strandscope.control.edit import Ablate, Add, Then
from strandscope.control.hold import Clamp, Erase, Rotate
from strandscope.errors import InputError

D, K = 24, 3
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


READ = drawn(D, K, seed=1)
DUAL = READ @ torch.linalg.inv(READ.T @ READ)
WRITE = DUAL + 0.1 * (drawn(D, K, seed=2) - DUAL @ (READ.T @ drawn(D, K, seed=2)))  # READᵀ WRITE = I, in another span
MEAN = drawn(D, seed=3)
ALONG = drawn(D, seed=4)
EDITS = {
    "add": Add(ALONG, 0.5),
    "ablate": Ablate(ALONG, 0.3),
    "erase": Erase(READ, WRITE, MEAN),
    "clamp": Clamp(READ, -0.5, torch.tensor([0.5, 1.0, 1.5]), WRITE),
    "rotate by": Rotate(ALONG, angle=0.4),
    "rotate to": Rotate(ALONG, cosine=0.6),
    "then": Then(Add(ALONG, 0.5), Clamp(READ, -1, 1), Rotate(ALONG, angle=-0.2)),
}
ROUND_ONCE = [name for name in EDITS if name not in ("add", "then")]


def cosine(states: Tensor) -> Tensor:
    return (states @ ALONG) / (states.norm(dim=-1) * ALONG.norm())


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", [(D,), (5, D), (3, 4, D), (0, 4, D), (3, 0, D), (2, 3, 4, D)])
def test_an_edit_gives_back_shape_and_dtype_and_the_same_states_as_in_float64(
    name: str, dtype: torch.dtype, shape: tuple
) -> None:
    states = drawn(*shape, seed=5).to(dtype)
    before = states.clone()
    edited = EDITS[name](states)
    assert edited.shape == states.shape and edited.dtype == dtype and torch.equal(states, before)
    exact = EDITS[name](states.double())
    assert torch.allclose(edited.double(), exact, atol=(60 if name == "then" else 20) * EPS[dtype], rtol=0)


@pytest.mark.parametrize("name", ROUND_ONCE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_computed_in_fp32_is_rounded_once(name: str, dtype: torch.dtype) -> None:
    states = drawn(50, D, seed=6).to(dtype)
    assert torch.equal(EDITS[name](states), EDITS[name](states.float()).to(dtype))


@pytest.mark.parametrize("name", EDITS)
def test_nothing_waits_for_the_device(name: str) -> None:
    """States without values: whatever looks at one raises."""
    assert EDITS[name](torch.empty(2, 3, D, device="meta", dtype=torch.bfloat16)).shape == (2, 3, D)


@pytest.mark.parametrize("name", [name for name in EDITS if name != "then"])
def test_what_an_edit_computes_with_is_made_once_for_each_dtype(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = replace(EDITS[name])  # as if it were new
    assert not edit._ready  # type: ignore[union-attr]
    with torch.inference_mode():
        edit(drawn(2, D).float())
    made = [part for parts in edit._ready.values() for part in parts]  # type: ignore[union-attr]
    states = drawn(2, D).float().requires_grad_()
    edit(states).sum().backward()  # what inference mode made would not be saved for a backward pass
    assert states.grad is not None and made
    assert all(one is two for one, two in zip(made, [p for parts in edit._ready.values() for p in parts], strict=True))  # type: ignore[union-attr]
    edit(drawn(2, D))
    assert len(edit._ready) == 2  # type: ignore[union-attr]


def test_a_changed_copy_is_made_ready_anew() -> None:
    edit, states = Add(ALONG, 1.0), drawn(2, D)
    assert torch.equal(edit(states), states + ALONG)
    assert torch.equal(replace(edit, scale=3.0)(states), states + 3 * ALONG)


# --- composition ---


def test_edits_are_composed_in_the_order_in_which_they_are_written() -> None:
    states = drawn(5, D).to(torch.bfloat16)
    push, gone = Add(ALONG, 2.0), Ablate(ALONG)
    assert torch.equal(Then(push, gone)(states), gone(push(states)))
    assert torch.equal(Then(gone, push)(states), push(gone(states)))
    assert torch.equal(Then(Then(push, gone), push)(states), Then(push, gone, push)(states))
    assert not torch.allclose(Then(push, gone)(states), Then(gone, push)(states), atol=0.5)
    assert Then()(states) is states


# --- erase ---


def test_erasing_is_the_affine_map_that_its_factors_say() -> None:
    states = drawn(7, D, seed=8)
    edit = Erase(READ, WRITE, MEAN)
    dense = torch.eye(D, dtype=torch.float64) - WRITE @ READ.T
    assert torch.allclose(edit(states), MEAN + (states - MEAN) @ dense.T)
    assert torch.allclose(edit(states) @ READ, (MEAN @ READ).expand(7, K))
    assert torch.allclose(edit(edit(states)), edit(states))
    assert torch.equal(Erase(READ[:, :0], WRITE[:, :0], MEAN)(states), states)


def test_erasing_far_from_the_origin_keeps_the_digits_of_the_spread() -> None:
    """A mean 10⁶ times the spread, as massive activations have: read with it, fp32 would have no digit left."""
    offset = torch.zeros(D, dtype=torch.float64)
    offset[0] = 2.0**20
    states = (drawn(50, D, seed=9) * 8).round() / 8 + offset  # exact in fp32
    edit = Erase(READ, WRITE, offset)
    assert torch.allclose(edit(states.float()).double()[:, 1:], edit(states)[:, 1:], atol=1e-4)


# --- clamp ---


@pytest.mark.parametrize("dtype", EPS)
def test_states_inside_stay_bit_for_bit(dtype: torch.dtype) -> None:
    states = (0.01 * drawn(40, D, seed=10)).to(dtype)
    states[:, 3] = -0.0  # −0.0 + 0.0 is 0.0, another pattern of bits
    far = torch.arange(40) % 4 == 0
    states[far] = (states[far].double() + 3 * WRITE.sum(1)).to(dtype)
    edited = Clamp(READ, -1, 1, WRITE)(states)
    as_bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    assert torch.equal(edited[~far].view(as_bits), states[~far].view(as_bits))
    assert not torch.isclose(edited[far], states[far]).all(1).any()


def test_a_coordinate_outside_is_written_along_its_own_pattern_and_the_others_stay() -> None:
    inside = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    rest = drawn(D, seed=11)
    rest -= WRITE @ (READ.T @ rest)
    state = rest + WRITE @ inside + 5 * WRITE[:, 1]
    mixed = WRITE @ drawn(K, K, seed=12)  # another basis of the same span
    low, high = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 2.0, math.inf])
    for pattern in (WRITE, mixed):
        edited = Clamp(READ, low, high, pattern)(state)
        assert torch.allclose(READ.T @ edited, torch.tensor([0.2, 2.0, 0.4], dtype=torch.float64))
        assert torch.allclose(edited, state - 2.9 * WRITE[:, 1])
    least = Clamp(READ, low, high)(state)  # in the basis' own span: the smallest move that does it
    assert torch.allclose(READ.T @ least, READ.T @ Clamp(READ, low, high, WRITE)(state))
    assert (least - state).norm() < 2.9 * WRITE[:, 1].norm()
    assert torch.equal(Clamp(READ, -math.inf, math.inf)(state), state)
    fixed = Clamp(READ, 0.5, 0.5, WRITE)(drawn(6, D))
    assert torch.allclose(fixed @ READ, torch.full((6, K), 0.5, dtype=torch.float64))


# --- rotate ---


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize(
    "edit", [Rotate(ALONG, angle=0.7), Rotate(ALONG, angle=-9.0), Rotate(ALONG, cosine=-1.0), Rotate(ALONG, cosine=0.3)]
)
def test_rotating_keeps_norms(edit: Rotate, dtype: torch.dtype) -> None:
    states = (drawn(200, D, seed=13) * torch.logspace(-2, 2, 200, dtype=torch.float64)[:, None]).to(dtype)
    states[0] = 0
    for row, size in enumerate(torch.logspace(0.5, 4, 60).tolist(), 1):  # so near the direction that rounding makes their plane
        states[row] = (ALONG + size * EPS[dtype] * drawn(D, seed=row)).to(dtype) * (-1) ** row
    edited = edit(states)
    assert torch.isfinite(edited).all() and torch.equal(edited[0], states[0])
    assert torch.allclose(edited.double().norm(dim=1), states.double().norm(dim=1), rtol=4 * EPS[dtype], atol=0)


def test_rotating_turns_in_the_plane_of_state_and_direction() -> None:
    states = drawn(50, D, seed=14)
    angles = cosine(states).acos()
    turned = Rotate(7 * ALONG, angle=0.4)(states)
    assert torch.allclose(cosine(turned).acos(), angles - 0.4)
    assert torch.allclose(cosine(Rotate(ALONG, angle=-0.4)(states)).acos(), angles + 0.4)
    assert torch.allclose(Rotate(ALONG, angle=-0.4)(turned), states)  # there and back
    assert torch.allclose(cosine(Rotate(ALONG, cosine=-0.35)(states)), torch.tensor(-0.35, dtype=torch.float64))
    planes = torch.stack([states, turned, ALONG.expand_as(states)], dim=1)
    assert torch.allclose(torch.linalg.svdvals(planes)[:, 2], torch.zeros(50, dtype=torch.float64), atol=1e-12)
    # no further than the direction, or its opposite
    assert torch.allclose(Rotate(ALONG, angle=3.1)(states), states.norm(dim=1, keepdim=True) * ALONG / ALONG.norm())
    assert torch.allclose(Rotate(ALONG, angle=-3.1)(states), -states.norm(dim=1, keepdim=True) * ALONG / ALONG.norm())


def test_states_that_span_no_plane_with_the_direction_stay() -> None:
    unit = torch.zeros(D)
    unit[2] = 1
    states = torch.stack([2 * unit, -2 * unit, 0 * unit])
    for edit in (Rotate(unit, angle=0.5), Rotate(unit, angle=-0.5), Rotate(unit, cosine=0.1)):
        assert torch.equal(edit(states), states)
    some = drawn(4, D).float()
    assert Rotate(unit, angle=0.0)(some) is some


# --- bad input ---


@pytest.mark.parametrize("name", EDITS)
def test_states_of_another_width_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^direction: got one of width {D}, the states here have 9; find the strand again"):
        EDITS[name](drawn(4, 9))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Erase(ALONG, WRITE, MEAN), r"^read: got shape \(24,\), wanted \(d, k\)"),
        (lambda: Erase(READ, WRITE[:, :2], MEAN), r"^write: got shape \(24, 2\), wanted \(24, 3\)"),
        (lambda: Erase(READ, WRITE, MEAN[:5]), r"^mean: got shape \(5,\), wanted \(24,\)"),
        (lambda: Erase(READ / 0, WRITE, MEAN), r"^read: row 0 holds a NaN or an infinity"),
        (lambda: Clamp(READ, 1, -1), r"^low: got \[1.0, 1.0, 1.0\] with high \[-1.0, -1.0, -1.0\], wanted low ≤ high"),
        (lambda: Clamp(READ, math.nan, 1), r"^low: got \[nan"),
        (lambda: Clamp(READ, -1, torch.ones(2)), r"^high: got shape \(2,\), wanted a number, or \(3,\)"),
        (lambda: Clamp(READ[:, [0, 0]], -1, 1), r"^basis: got columns that do not write 2 coordinates apart"),
        (lambda: Clamp(READ, -1, 1, WRITE[:, [0, 1, 1]]), r"^pattern: got columns that do not write 3 coordinates apart"),
        (lambda: Rotate(0 * ALONG, angle=1), r"^direction: got zeros, NaN or infinities"),
        (lambda: Rotate(ALONG), r"^angle, cosine: got neither"),
        (lambda: Rotate(ALONG, 0.1, 0.1), r"^angle, cosine: got both"),
        (lambda: Rotate(ALONG, angle=math.inf), r"^angle: got inf"),
        (lambda: Rotate(ALONG, cosine=1.1), r"^cosine: got 1.1, wanted -1 to 1"),
    ],
)
def test_edits_that_cannot_be_are_refused_in_a_sentence(make, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()
