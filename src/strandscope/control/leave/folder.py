"""A plain Hugging Face folder that computes what a network with edits computes: nothing in it but weights, config and tokenizer.

Additions become biases; where the block's last weight has none, a switch of the network's own configuration that gives it one is
turned on (`mlp_bias` of Llama; the other biases that it brings are zeros), and where there is no such switch the addition is
refused. Ablations become orthogonalised writes. Tied embeddings are untied when the input embedding changes: what the network
reads then lacks the direction, what it says is scored as before.

What was written is opened again, and refused if its logits on made-up rows are not those of the network with hooks, to rounding.
Both are rounded to the network's dtype at different places, so in bfloat16 they differ by more than in float32.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError, TrustError
from ...io import write_json
from ...provenance import versions
from ...reading import Reading
from ...subject.attach import Scope, attach
from ...subject.port import scores
from ...subject.quiet import quiet
from ...subject.site import Site
from .affine import Affine, Edit
from .plan import Change, changes, new_folder, said

if TYPE_CHECKING:
    from ...subject.subject import Subject

SCHEMA = "strandscope/baked/1"
NOTE = "strandscope.json"
CHUNK = 4096  # rows of a weight that are worked on at once in float64
# How far the logits may be (relative): so much, or that share of what the edit itself moves them by, where that is more. Rows of
# tokens at random are hard on a network: at one of them in twenty SmolLM2 makes a hundred times float32's rounding of it.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
SHARE = {torch.float64: 1e-8, torch.float32: 0.02, torch.bfloat16: 0.5, torch.float16: 0.5}


def bake(subject: Subject, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]], folder: str | os.PathLike[str]) -> Reading:
    """Write the folder, whole or not at all; gives how far its logits are from those of the network with hooks.

    The network itself is not changed. While the folder is checked, a second copy of the network is in memory.

    Raises:
        InputError: weights cannot express the edits, or the network is none that transformers opens by itself.
        TrustError: what was written does not compute the same. MissingError: it cannot be written.
    """
    module = _plain(subject)
    made = changes(subject, edits)
    config, tensors, switches, untied = _tensors(subject, module, made)
    with new_folder(folder) as temporary:
        with quiet():
            _save(subject, module, config, tensors, temporary)
            distance = _distance(subject, edits, temporary)
        note = {
            "schema": SCHEMA,
            "network": {"name": subject.name, "fingerprint": subject.fingerprint, "source": dict(subject.source)},
            "edits": [said(subject, site, given) for site, given in edits.items()],
            "changed": sorted(name for change in made for name in change.weights()),
            "switched_on": switches,
            "untied": untied,
            "agreement": asdict(distance),
            "versions": versions(),
        }
        write_json(temporary / NOTE, note)
    return distance


def _plain(subject: Subject) -> Any:
    """The module, if transformers opens such a one without code of its own."""
    if not type(subject.module).__module__.startswith("transformers."):
        raise InputError(
            f"{subject.name}: is a {type(subject.module).__name__}, wanted a network that transformers opens by itself; "
            "a folder of another would need code beside it"
        )
    return subject.module


def _tensors(subject: Subject, module: Any, made: Sequence[Change]) -> tuple[Any, dict[str, Tensor], list[str], bool]:
    """The configuration, all tensors, the switches that were turned on, and whether embeddings were untied."""
    config, tensors = copy.deepcopy(module.config), dict(module.state_dict())
    changed = {name for change in made for name in change.weights()}
    short = next((name for name in sorted(changed & tensors.keys()) if not tensors[name].is_floating_point()), None)
    if short is not None:
        raise InputError(
            f"{subject.name}: {short} is quantised, and what it would round to is another edit; open the network unquantised"
        )
    untied = _untie(subject, config, tensors, changed)
    lacking = [change for change in made if change.map.moves and not (change.writer.has_bias or change.writer.table)]
    switches = _switches(module, config, tensors, lacking) if lacking else []
    for change in made:
        writer = change.writer
        for name, axis in change.weights().items():
            tensors[name] = _through(tensors[name], axis, change.map, writer.table or name == writer.bias)
    return config, tensors, switches, untied


def _through(weight: Tensor, axis: int, through: Affine, constant: bool) -> Tensor:
    """The weight whose outputs along `axis` have gone through the map; computed in float64, rounded once."""
    rows = weight.detach().movedim(axis, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    new = torch.empty_like(flat)
    for start in range(0, len(flat), CHUNK):
        part = through.linear(flat[start : start + CHUNK].double())
        new[start : start + CHUNK] = (part + through.constant.to(part) if constant else part).to(weight.dtype)
    return new.reshape(rows.shape).movedim(-1, axis).contiguous()


def _untie(subject: Subject, config: Any, tensors: dict[str, Tensor], changed: set[str]) -> bool:
    """Have the configuration say that the head is no longer the input embedding, where that changes and the head does not."""
    shared = [
        name
        for name, tensor in tensors.items()
        if name not in changed and any(tensor.data_ptr() == tensors[other].data_ptr() for other in changed if other in tensors)
    ]
    if not shared:
        return False
    if shared != [f"{subject.anatomy.head}.weight"] or not getattr(config, "tie_word_embeddings", False):
        raise InputError(
            f"{subject.name}: {', '.join(shared)} shares memory with a weight that changes and cannot be untied; steer with hooks"
        )
    config.tie_word_embeddings = False
    return True


def _switches(module: Any, config: Any, tensors: dict[str, Tensor], lacking: Sequence[Change]) -> list[str]:
    """Turn on the switches of the configuration that give these writers a bias, and add the biases that they bring as zeros."""
    wanted, turned = {change.writer.bias for change in lacking}, []
    for name in [name for name, value in config.to_dict().items() if value is False and "bias" in name]:
        tried = copy.deepcopy(config)
        setattr(tried, name, True)
        with torch.device("meta"):
            brought = {key: value for key, value in type(module)(tried).state_dict().items() if key not in tensors}
        if wanted & brought.keys():
            setattr(config, name, True)
            first = next(iter(tensors.values()))
            tensors |= {key: first.new_zeros(value.shape) for key, value in brought.items()}
            wanted, turned = wanted - brought.keys(), [*turned, name]
    if wanted:
        raise InputError(
            f"edits: the addition needs a bias at {min(wanted).removesuffix('.bias')}, and {type(module).__name__} has none "
            "there nor a switch for one; export it as gguf or peft, or steer with hooks"
        )
    return turned


def _save(subject: Subject, module: Any, config: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    with torch.device("meta"):
        new = type(module)(config)
    new.load_state_dict(tensors, assign=True)
    new.tie_weights()
    if module.can_generate():
        new.generation_config = copy.deepcopy(module.generation_config)
    new.save_pretrained(folder)
    if subject.tokenizer is not None:
        subject.tokenizer.save_pretrained(folder)


@torch.no_grad()
def _distance(subject: Subject, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]], folder: Path) -> Reading:
    """The largest relative distance of the folder's logits from those with hooks, over made-up rows."""
    opener: Any = type(subject.module)
    module = opener.from_pretrained(folder, dtype=subject.dtype, local_files_only=True).to(subject.device).eval()
    batches = [subject.batch([row]) for row in subject.probe]
    with attach(subject, edits=edits):
        wanted = [scores(subject.module(**batch)).double() for batch in batches]
    far = _far([scores(module(**batch)).double() for batch in batches], wanted)
    effect = _far([scores(subject.module(**batch)).double() for batch in batches], wanted)
    dtype = subject.dtype
    most = max(ROUNDING[dtype], SHARE[dtype] * effect)
    if not far <= most:
        raise TrustError(
            f"{subject.name}: the folder's logits are {far:.2g} (relative) from those of the network with hooks, and rounding "
            f"explains {most:.2g}; nothing was kept, steer with hooks"
        )
    rows = f"largest over {len(batches)} made-up rows in {str(dtype).removeprefix('torch.')}"
    method = f"{rows}, saved and opened again, beside hooks; the edits move them by {effect:.2g}"
    return Reading(far, far, far, None, len(batches), "relative distance of logits", None, method)


def _far(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(some, others, strict=True))
