"""Expressions in a network: what each term does to coordinates, in which order, at what cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_chat
from pushing import SITE, opened, strand_in, vector
from strandscope.control.contradiction import check_agree
from strandscope.control.expression import Expression
from strandscope.control.gate import CoordinateGate
from strandscope.control.holding import Benches, Held, hold, prepare
from strandscope.errors import InputError, TrustError
from strandscope.strand.erase import fit_eraser
from strandscope.strand.strand import Strand
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

OTHER = Site("resid", 2)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return opened(tiny_chat.save_model(tmp_path_factory.mktemp("hold") / "model"))


@pytest.fixture(scope="module")
def benches(subject: Subject) -> Benches:
    return Benches(subject, prompts=24, replies=6)


@pytest.fixture(scope="module")
def strand(subject: Subject) -> Strand:
    return replace(strand_in(subject), name="yes")


@pytest.fixture(scope="module")
def library(subject: Subject, strand: Strand) -> dict[str, Any]:
    """`yes` at one site, `no` at another, `wide` at both."""
    turned = replace(strand_in(subject, OTHER), name="no", pattern=vector(5, 0.8)[:, None])
    return {"yes": strand, "no": turned, "wide": [replace(strand, name="wide"), replace(strand_in(subject, OTHER), name="wide")]}


def states(subject: Subject, edits: Any = None, site: Site = SITE) -> Tensor:
    """(tokens, d) of a prompt at a site, after the edits there."""
    seen: list[Tensor] = []
    ids = torch.tensor([[9, 12, 20, 7, 15]])
    with (
        torch.no_grad(),
        attach(subject, edits=edits or {}),
        attach(subject, reads={site: lambda h, _: seen.append(h[0].clone())}),
    ):
        subject.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    return seen[0]


def coordinate(strand: Strand, held: Tensor) -> Tensor:
    """By hand: 0 on the boundary, ±1 half the distance of the classes away."""
    half = float((strand.basis[:, 0] * strand.pattern[:, 0]).sum()) / 2
    return (held @ strand.basis[:, 0] - strand.offset[0]) / half


def ready(subject: Subject, text: str, library: Any, benches: Benches, **options: Any) -> Held:
    return prepare(subject, text, library, benches=benches, **options)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("!yes", lambda z: torch.zeros_like(z)),
        ("set(yes,-0.5)", lambda z: torch.full_like(z, -0.5)),
        ("clamp(yes,-0.4,0.1)", lambda z: z.clamp(-0.4, 0.1)),
        ("clamp(yes,0,)", lambda z: z.clamp_min(0.0)),
        ("0.25lengths*yes", lambda z: z + 0.5),
        ("-1lengths*yes", lambda z: z - 2),
    ],
)
def test_a_term_does_to_the_coordinate_what_it_says(
    subject: Subject, strand: Strand, library: Any, benches: Benches, text: str, wanted: Any
) -> None:
    """And moves along the pattern alone."""
    plain = states(subject)
    edited = states(subject, ready(subject, text, library, benches).edits)
    assert torch.allclose(coordinate(strand, edited), wanted(coordinate(strand, plain)), atol=1e-4)
    along = strand.pattern[:, 0] / strand.pattern[:, 0].norm()
    moved = edited - plain
    assert torch.allclose(moved, (moved @ along)[:, None] * along, atol=1e-5)
    assert float(moved.norm()) > 0.01


def test_a_rotation_keeps_norms_and_turns_towards(subject: Subject, strand: Strand, library: Any, benches: Benches) -> None:
    plain, edited = states(subject), states(subject, ready(subject, "rotate(yes,10deg)", library, benches).edits)
    assert torch.allclose(edited.norm(dim=1), plain.norm(dim=1), rtol=1e-5)
    unit = strand.pattern[:, 0] / strand.pattern[:, 0].norm()
    angles = [torch.arccos(h @ unit / h.norm(dim=1)) * 180 / torch.pi for h in (plain, edited)]
    assert torch.allclose(angles[0] - angles[1], torch.full((5,), 10.0), atol=1e-3)


def test_terms_are_applied_in_the_order_written(subject: Subject, library: Any, benches: Benches, strand: Strand) -> None:
    """At one site a set that comes last has the last word, and one that comes first has not."""
    other = {**library, "too": replace(strand, name="too", pattern=vector(5)[:, None])}
    first = states(subject, ready(subject, "set(yes,0.5) + 1lengths*too", other, benches).edits)
    last = states(subject, ready(subject, "1lengths*too + set(yes,0.5)", other, benches).edits)
    assert torch.allclose(coordinate(strand, last), torch.full((5,), 0.5), atol=1e-4)
    assert not torch.allclose(coordinate(strand, first), torch.full((5,), 0.5), atol=1e-2)


def test_an_eraser_goes_before_a_strand_of_its_name(subject: Subject, library: Any, benches: Benches) -> None:
    drawn = torch.randn(80, 32, generator=torch.Generator().manual_seed(0))
    labels = (drawn[:, 0] > 0).long()
    eraser = replace(fit_eraser(drawn, labels, shrinkages=()), name="yes", site=str(SITE), fingerprint=subject.fingerprint)
    held = ready(subject, "!yes", {**library, "yes": [library["yes"], eraser]}, benches)
    plain, edited = states(subject), states(subject, held.edits)
    assert torch.allclose(edited, eraser(plain), atol=1e-4) and not torch.allclose(edited, plain, atol=1e-2)


def test_a_name_with_several_strands_acts_at_all_its_sites_with_one_size(
    subject: Subject, library: Any, benches: Benches
) -> None:
    held = ready(subject, "0.02nats*wide", library, benches)
    assert set(held.edits) == {SITE, OTHER}
    assert {edit.scale for pairs in held.edits.values() for edit, _ in pairs} == {held.doses[0].scale.value}  # type: ignore[union-attr]
    assert held.cost.value == pytest.approx(0.02, rel=0.03)
    assert set(ready(subject, "0.02nats*wide@at(resid:2)", library, benches).edits) == {OTHER}
    assert set(ready(subject, "!wide@at(resid:1,resid:2)", library, benches).edits) == {SITE, OTHER}


def test_a_push_away_is_minus_the_push(subject: Subject, library: Any, benches: Benches, strand: Strand) -> None:
    held = ready(subject, "-0.02nats*yes", library, benches)
    moved = states(subject, held.edits) - states(subject)
    assert float((moved @ strand.basis[:, 0]).max()) < 0 and held.cost.value == pytest.approx(0.02, rel=0.03)


def test_the_cost_is_that_of_all_terms_together(subject: Subject, library: Any, benches: Benches) -> None:
    both = ready(subject, "0.01nats*yes + 0.01nats*no", library, benches)
    assert both.cost.value == pytest.approx(float(benches.of([Scope()]).costs_under(both.edits).mean()))
    assert [dose.cost.value for dose in both.doses if dose] == pytest.approx([0.01, 0.01], rel=0.03)
    assert abs(both.cost.value / 0.02 - 1) > 0.01  # type: ignore[operator]
    low, value, high = both.cost.low, both.cost.value, both.cost.high
    assert low < value < high  # type: ignore[operator]


def test_what_is_written_in_the_generation_alone_is_priced_on_replies(subject: Subject, library: Any, benches: Benches) -> None:
    held = ready(subject, "0.01nats*yes@generation", library, benches)
    assert held.cost.value == pytest.approx(0.01, rel=0.03) and "per token of replies" in held.cost.method
    assert held.doses[0] is not None and held.doses[0].positions == "generation"


def test_a_gated_push_has_the_dose_of_an_open_gate_and_the_cost_of_the_gate_it_has(
    subject: Subject, library: Any, benches: Benches
) -> None:
    free = ready(subject, "0.02nats*no", library, benches)
    gated = ready(subject, "0.02nats*no@when(yes>0)", library, benches)
    shut = ready(subject, "0.02nats*no@when(yes>1e6)", library, benches)
    assert gated.doses[0].scale == free.doses[0].scale  # type: ignore[union-attr]
    assert 0 < gated.cost.value < free.cost.value and shut.cost.value == pytest.approx(0, abs=1e-7)  # type: ignore[operator]
    gate = gated.edits[OTHER][0][1].gate
    assert isinstance(gate, CoordinateGate) and gate.order == "before"
    late = ready(subject, "0.02nats*yes@when(no>0)", library, benches)
    assert late.cost.value is None and "speak for the pass that follows" in str(late.cost.reason)


def test_a_gate_reads_the_strands_own_coordinate(subject: Subject, library: Any, strand: Strand, benches: Benches) -> None:
    says = coordinate(strand, states(subject))
    value = float(says.sort().values[1:3].mean())
    held = ready(subject, f"1lengths*no@when(yes>{value!r})", library, benches)
    moved = (states(subject, held.edits, OTHER) - states(subject, site=OTHER)).norm(dim=1) > 1e-3
    assert torch.equal(moved, says > value) and 0 < int(moved.sum()) < 5


def test_a_gate_of_a_monitor_is_handed_in(subject: Subject, library: Any, benches: Benches) -> None:
    class Shut:
        reads: dict[Site, Any] = {}  # noqa: RUF012

        def open(self, state: Tensor, _: Any) -> Tensor:
            return torch.zeros(state.shape[:2], dtype=torch.bool)

    held = ready(subject, "1lengths*yes@when(alarm)", library, benches, gates={"alarm": Shut()})
    assert torch.equal(states(subject, held.edits), states(subject)) and held.cost.value is None
    with pytest.raises(InputError, match=r"no monitor of the name 'alarm' is watching \(there are none\)"):
        ready(subject, "1lengths*yes@when(alarm)", library, benches)


def test_a_scope_is_the_one_that_was_written(subject: Subject, library: Any, benches: Benches) -> None:
    held = ready(subject, "1lengths*yes@prompt@last@rows(0)@window(1,9)@tokens(5,6)@except(positions(0,-1))", library, benches)
    ((_, scope),) = held.edits[SITE]
    assert scope == Scope((0,), "last", "prompt", (1, 9), (5, 6), (Scope(positions=(0, -1)),))
    assert held.cost.value is None and "named rows" in str(held.cost.reason)


def test_a_push_that_leaves_rows_out_has_the_dose_of_all_rows(subject: Subject, library: Any, benches: Benches) -> None:
    held = ready(subject, "0.02nats*yes@except(rows(1))", library, benches)
    free = ready(subject, "0.02nats*yes", library, benches)
    assert held.doses == free.doses and held.cost.value is None
    ((_, scope),) = held.edits[SITE]
    assert scope == Scope(exclude=(Scope(rows=(1,)),))


def test_hold_attaches_for_the_length_of_the_block(subject: Subject, library: Any, strand: Strand) -> None:
    plain = states(subject)
    with hold(subject, "set(yes,2)", library) as held:
        assert torch.allclose(coordinate(strand, states(subject)), torch.full((5,), 2.0), atol=1e-4)
        assert held.cost.value is not None and str(held).startswith("set(yes,2): ")
    assert torch.equal(states(subject), plain)


def test_a_dose_beyond_its_edge_is_carried_out_and_told_or_refused(subject: Subject, library: Any, benches: Benches) -> None:
    held = ready(subject, "1.5nats*yes", library, benches)
    assert held.doses[0] is not None and held.doses[0].how == "solved numerically: beyond the edge"
    assert held.told == ("1.5nats*yes: the dose lies beyond the edge of its prediction, so its size was solved numerically",)
    with pytest.raises(
        InputError,
        match="beyond the edge of its prediction; ask for fewer nats, or leave out within_the_law",
    ):
        ready(subject, "1.5nats*yes", library, benches, within_the_law=True)
    assert ready(subject, "1e-4nats*yes", library, benches, within_the_law=True).told == ()


def test_a_strand_of_another_network_is_refused_or_told(subject: Subject, strand: Strand, benches: Benches) -> None:
    foreign = [replace(strand, fingerprint="f" * 64)]
    with pytest.raises(TrustError, match="found in the network ffffffffffff"):
        ready(subject, "!yes", foreign, benches)
    assert ready(subject, "!yes", foreign, benches, force=True).told == (
        "forced: yes was found in the network ffffffffffff, not in this one",
    )


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("!joy", "no strand of the name 'joy'; there are no, wide, yes"),
        ("!yes@at(resid:2)", "yes was found at resid:1 alone"),
        ("!yes@at(resid:9)", "resid:0 to resid:3"),
        ("!yes@when(wide>0)", "'wide' has several"),
        ("!yes@when(joy>0)", "no strand of the name 'joy'"),
        ("!yes@last@positions(2)", "got last and positions"),
        ("0.1nats*yes - 0.1nats*yes", "both ways along one strand"),
        ("0.1nats*yes + !yes", r"one holds the coordinate that the other pushes; write set\(yes, value\)"),
        ("set(yes,1) - 0.1nats*yes", "one holds the coordinate"),
        ("clamp(yes,0,1) + clamp(yes,2,)", "no coordinate is in both ranges"),
        ("!yes + clamp(yes,0.5,1)", "no coordinate is in both"),
        ("set(yes,0) + set(yes,1)", "no coordinate is in both"),
        ("0.1nats*wide - 1lengths*wide@at(resid:2)", "both ways"),
    ],
)
def test_what_cannot_be_is_refused(subject: Subject, library: Any, benches: Benches, text: str, refused: str) -> None:
    with pytest.raises(InputError, match=refused):
        ready(subject, text, library, benches)


@pytest.mark.parametrize(
    "text",
    [
        "0.1nats*yes - 0.1nats*no",
        "0.1nats*yes@prompt - 0.1nats*yes@generation",
        "set(yes,1)@rows(0) + set(yes,-1)@rows(1)",
        "0.1nats*yes@when(yes<0) - 0.1nats*yes@when(yes>0)",
        "set(yes,1)@window(0,3) + set(yes,0)@window(3,)",
        "set(yes,1)@positions(0,1) + set(yes,0)@positions(2)",
        "!yes + clamp(yes,-1,1)",
        "1lengths*wide@at(resid:1) - 1lengths*wide@at(resid:2)",
    ],
)
def test_what_does_not_meet_does_not_contradict(subject: Subject, library: Any, text: str) -> None:
    from strandscope.control.holding import _Library

    made = _Library.of(subject, library, {}, False)
    check_agree([(act.term, act.scopes) for act in map(made.act, Expression.parse(text).terms)])


def test_positions_from_either_end_may_meet(subject: Subject, library: Any, benches: Benches) -> None:
    with pytest.raises(InputError, match="contradict"):
        ready(subject, "set(yes,1)@positions(3) + set(yes,0)@positions(-1)", library, benches)
    with pytest.raises(InputError, match="contradict"):
        ready(subject, "set(yes,1)@window(-3,) + set(yes,0)@window(0,2)", library, benches)


def test_two_strands_of_a_name_at_a_site_are_refused(subject: Subject, strand: Strand, benches: Benches) -> None:
    with pytest.raises(InputError, match="two of the name 'yes' at one site"):
        ready(subject, "!yes", [strand, strand], benches)
