"""Twins: of the same make, of other weights, by seed alone; and the original as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import families
import strandscope as ss
from strandscope.errors import InputError
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.fingerprint import module_fingerprint
from strandscope.subject.site import Site
from strandscope.subject.twin import twin

KINDS: tuple[Any, ...] = ("random", "scrambled")


@pytest.fixture(scope="module")
def llama() -> ss.Subject:
    return families.subject("Llama")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["Llama", "Gemma 3", "GPT-2", "Mixtral", "RWKV", "Mamba", "ViT", "ConvNeXt"])
def test_a_twin_has_the_sites_of_its_original_and_other_weights(family: str, kind: Any) -> None:
    subject = families.subject(family)
    before, hung, state = module_fingerprint(subject.module), hooks(subject.module), torch.get_rng_state()
    other = twin(subject, kind, 3)
    assert module_fingerprint(subject.module) == before and hooks(subject.module) == hung
    assert torch.equal(torch.get_rng_state(), state)
    assert (other.anatomy.blocks, other.anatomy.attn, other.anatomy.mlp) == (
        subject.anatomy.blocks,
        subject.anatomy.attn,
        subject.anatomy.mlp,
    )
    assert other.fingerprint != subject.fingerprint
    assert "seed 3" in other.name and subject.name in other.name and other.source["of"] == subject.fingerprint
    assert other.sites("resid:*") == subject.sites("resid:*")
    assert {weight.dtype for weight in other.module.parameters()} == {weight.dtype for weight in subject.module.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(llama: ss.Subject, kind: Any) -> None:
    torch.manual_seed(1)
    first = twin(llama, kind, 5)
    torch.manual_seed(2)
    again, other = twin(llama, kind, 5), twin(llama, kind, 6)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_scrambling_keeps_every_value_of_every_matrix_in_a_block_and_nothing_of_its_place(llama: ss.Subject) -> None:
    other = twin(llama, "scrambled", 0)
    moved = 0
    for name, weight in llama.module.named_parameters():
        twinned = other.module.get_parameter(name)
        inside = any(name.startswith(f"{block}.") for block in llama.anatomy.blocks)
        if not inside or weight.dim() < 2:
            assert torch.equal(weight, twinned), name
            continue
        moved += 1
        assert torch.equal(weight.flatten().sort().values, twinned.flatten().sort().values), name
        assert float((weight == twinned).float().mean()) < 0.05, name
    assert moved == 4 * 7


def test_random_weights_are_those_that_the_configuration_begins_with(llama: ss.Subject) -> None:
    other = twin(llama, "random", 0)
    config: Any = other.module.config
    assert config.to_dict() == llama.module.config.to_dict()  # type: ignore[union-attr]
    matrix = other.module.get_parameter("model.layers.1.mlp.up_proj.weight")
    assert matrix.std().item() == pytest.approx(config.initializer_range, rel=0.1)
    assert bool((other.module.get_parameter("model.layers.1.input_layernorm.weight") == 1).all())


def test_a_twin_is_in_the_dtype_of_its_original() -> None:
    subject = ss.load(families.llama().to(torch.bfloat16), check="none")
    for kind in KINDS:
        assert {weight.dtype for weight in twin(subject, kind, 0).module.parameters()} == {torch.bfloat16}


def test_a_plain_network_is_drawn_afresh_by_its_parts_own_rules_or_refused() -> None:
    subject = families.subject("plain MLP")
    other = twin(subject, "random", 0)
    assert all(
        not torch.equal(weight, other.module.get_parameter(name))
        for name, weight in subject.module.named_parameters()
        if weight.dim() > 1
    )

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.full((12,), 1.5))

        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return self.gain * state

    odd = nn.Sequential(nn.Linear(6, 12), Gain(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    opened = ss.load(odd, batch=families.vectors, check="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Gain.*no reset_parameters"):
        twin(opened, "random", 0)


def test_what_cannot_be_twinned_is_refused_in_a_sentence(llama: ss.Subject) -> None:
    with pytest.raises(InputError, match="kind: got 'shuffled'"):
        twin(llama, "shuffled", 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no weight matrix"):
        twin(families.subject("plain MLP"), "scrambled", 0)
    edits = {Site("resid", 1): [(lambda state: state, Scope())]}
    with attach(llama, edits=edits), pytest.raises(InputError, match="carries hooks"):
        twin(llama, "scrambled", 0)
