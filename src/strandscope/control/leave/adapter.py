"""A PEFT adapter (LoRA) that computes what a network with edits computes, written in PEFT's own format without PEFT.

Taking directions out of what a weight W writes is adding −write · (readᵀW): B = −write, A = readᵀW, of the rank of the edit, with
lora_alpha = r so that PEFT multiplies it by 1. A constant is the bias of B (`lora_bias`, which PEFT takes for linear layers
whether or not they have a bias of their own); at an embedding it is one more rank, 1 · constantᵀ. So an adapter holds additions
also where a block ends without a bias, and tied embeddings stay tied: PEFT adds to what the input embedding gives and leaves the
unembedding alone, as long as the adapter is not merged into the weights.

What PEFT has no LoRA for is refused: experts that lie in one tensor; the mixers of state-space families, whose kernels take the
weight past the adapter; and an edit that needs both a changed embedding and a constant elsewhere, for PEFT knows `lora_bias` for
all of an adapter's layers or for none, and embeddings have none. It is needed wherever what is ablated has a bias (GPT-2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import InputError
from ...io import write_json
from ...provenance import versions
from ...subject.attach import Scope
from ...subject.site import Site
from .affine import Edit
from .plan import Change, changes, new_folder, said

if TYPE_CHECKING:
    from ...subject.subject import Subject

SCHEMA = "strandscope/adapter/1"
CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "strandscope.json"  # the first two are PEFT's names
STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")  # of these PEFT refuses the weight that writes
PREFIX = "base_model.model."  # of every key in PEFT's files


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """ΔW = b · a for a layer, and what its output gains: a (r, in), b (d, r), bias (d,) or None."""

    path: str
    a: Tensor
    b: Tensor
    bias: Tensor | None
    table: bool


def write_adapter(subject: Subject, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]], folder: str | os.PathLike[str]) -> None:
    """Write the adapter's folder, whole or not at all.

    Raises:
        InputError: an adapter cannot express the edits; the sentence says why. MissingError: it cannot be written.
    """
    if subject.anatomy.family in STATE_SPACE:
        raise InputError(f"{subject.name}: PEFT has no LoRA for the mixers of {subject.anatomy.family}; export a folder")
    made = changes(subject, edits)
    layers = [_layer(subject, change) for change in made]
    biased = any(layer.bias is not None for layer in layers)
    if biased and any(layer.table for layer in layers):
        raise InputError(
            "edits: change an embedding and a bias of what blocks write, and PEFT has no adapter with both; export a folder"
        )
    rank = max(1, *(len(layer.a) for layer in layers))
    conv = {
        layer.path for layer in layers if not layer.table and not isinstance(subject.module.get_submodule(layer.path), nn.Linear)
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if subject.anatomy.decodes else None,
        "base_model_name_or_path": str(subject.source["what"]),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": biased,
        "fan_in_fan_out": bool(conv),
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": [layer.path for layer in layers],
    }
    note = {
        "schema": SCHEMA,
        "network": {"name": subject.name, "fingerprint": subject.fingerprint, "source": dict(subject.source)},
        "edits": [said(subject, site, given) for site, given in edits.items()],
        "changed": [layer.path for layer in layers],
        "versions": versions(),
    }
    tensors = {name: tensor for layer in layers for name, tensor in _named(layer, rank, biased).items()}
    with new_folder(folder) as temporary:
        write_json(temporary / CONFIG, config)
        save_file(tensors, str(temporary / WEIGHTS), metadata={"format": "pt"})
        write_json(temporary / NOTE, note)


def _layer(subject: Subject, change: Change) -> _Layer:
    writer, through = change.writer, change.map
    axes = {name: axis for name, axis in writer.axes.items() if name != writer.bias}
    name, axis = next(iter(axes.items()))
    weight = subject.module.get_parameter(name)
    if len(axes) != 1 or weight.dim() != 2 or not name.endswith(".weight"):
        raise InputError(
            f"edits: change {name}, which is no linear layer's, and PEFT has no LoRA for it by name; export a folder"
        )
    rows = weight.detach().movedim(axis, 0).cpu().double()  # (d, in)
    a, b = through.read.T @ rows, -through.write
    if writer.table:
        if through.moves:
            a, b = torch.cat([a, torch.ones_like(rows[:1])]), torch.cat([b, through.constant[:, None]], 1)
        return _Layer(writer.path, a, b, None, True)
    bias = through.constant
    if writer.has_bias and through.rank:
        own = subject.module.get_parameter(writer.bias).detach().cpu().double()
        bias = bias + through.linear(own) - own
    return _Layer(writer.path, a, b, bias if bool(bias.any()) else None, False)


def _named(layer: _Layer, rank: int, biased: bool) -> dict[str, Tensor]:
    """Under PEFT's names, filled up with zeros to one rank."""
    a = nn.functional.pad(layer.a, (0, 0, 0, rank - len(layer.a))).float().contiguous()
    b = nn.functional.pad(layer.b, (0, rank - layer.b.shape[1])).float().contiguous()
    key = f"{PREFIX}{layer.path}"
    if layer.table:
        return {f"{key}.lora_embedding_A": a, f"{key}.lora_embedding_B": b}
    made = {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    if biased:
        made[f"{key}.lora_B.bias"] = torch.zeros(len(b)) if layer.bias is None else layer.bias.float()
    return made
