"""PEFT adapters: their own numbers, put beside the weights as PEFT does, compute what hooks compute."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import families
import strandscope as ss
from strandscope.control.edit import Ablate, Add
from strandscope.control.leave.adapter import write_adapter
from strandscope.control.leave.plan import ablation
from strandscope.control.leave.writers import stream
from strandscope.errors import InputError
from strandscope.subject.attach import Scope
from strandscope.subject.site import Site
from test_leave import EXACT, answers, far, vector, vectors


class WithLora(nn.Module):
    """A layer beside its LoRA, as PEFT runs it unmerged: W x + (alpha / r) · (B(A x) + bias)."""

    def __init__(self, base: nn.Module, held: dict[str, Tensor], scaling: float) -> None:
        super().__init__()
        self.base, self.held, self.scaling = base, held, scaling

    @property
    def weight(self) -> Any:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        if "lora_embedding_A" in self.held:
            return self.base(x) + self.scaling * (self.held["lora_embedding_A"].T[x] @ self.held["lora_embedding_B"].T)
        more = x @ self.held["lora_A.weight"].T @ self.held["lora_B.weight"].T
        return self.base(x) + self.scaling * (more + self.held.get("lora_B.bias", torch.zeros(())))


def with_adapter(subject: ss.Subject, folder: Path) -> nn.Module:
    """A copy of the network with the adapter of the folder, by the names and numbers in its two files alone."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    module = copy.deepcopy(subject.module)
    for path in config["target_modules"]:
        prefix = f"base_model.model.{path}."
        held = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        assert held
        module.set_submodule(path, WithLora(module.get_submodule(path), held, config["lora_alpha"] / config["r"]))
    assert not tensors  # all that is in the file has a place
    return module


def agrees(subject: ss.Subject, edits: Any, folder: Path) -> None:
    write_adapter(subject, edits, folder)
    hooked = answers(subject, subject.module, edits)
    assert far(answers(subject, with_adapter(subject, folder)), hooked) < EXACT
    assert far(answers(subject, subject.module), hooked) > 1e-2


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen3"])
def test_an_ablation_leaves_as_an_adapter_of_its_rank(family: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    agrees(subject, ablation(subject, vectors(2)), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_bias"]) == (2, 2, False)
    assert config["peft_type"] == "LORA" and len(config["target_modules"]) == 9


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen3", "GPT-2", "GPT-NeoX", "ViT"])
def test_an_addition_leaves_as_an_adapter_also_where_blocks_have_no_bias(family: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    agrees(subject, {Site("resid", k): [(Add(vector(k), 0.5), Scope())] for k in (1, 2)}, tmp_path / "adapter")


def test_a_mean_at_the_embedding_is_one_more_rank(tmp_path: Path) -> None:
    subject = families.subject("Llama")
    edits = {site: [(Ablate(vector(3), 1.5), Scope())] for site in stream(subject)}
    with pytest.raises(InputError, match="PEFT has no adapter with both; export a folder"):
        write_adapter(subject, edits, tmp_path / "both")  # each attention writes its own mean, which the block takes out again
    agrees(subject, {Site("embed"): [(Ablate(vector(3), 1.5), Scope())]}, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2


def test_edits_of_a_mixer_with_a_bias(tmp_path: Path) -> None:
    subject = families.subject("GPT-2")
    agrees(subject, {Site("attn", 1): [(Ablate(vector(3), 0.7), Scope())]}, tmp_path / "adapter")


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    options = {**families._GROUPED, "tie_word_embeddings": True}
    subject = ss.load(families._transformers("LlamaConfig", "LlamaForCausalLM", **options), check="none")
    agrees(subject, ablation(subject, vectors(1)), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("GPT-2", "PEFT has no adapter with both; export a folder"),
        ("Mixtral", "change model.layers.0.mlp.experts.down_proj, which is no linear layer's"),
        ("Mamba", "PEFT has no LoRA for the mixers of mamba"),
    ],
)
def test_what_peft_cannot_hold_is_refused(family: str, told: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    with pytest.raises(InputError, match=told):
        write_adapter(subject, ablation(subject, vectors(2)), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
