"""Made-up rows that a network can be tried on, and the plain way to batch rows for networks of transformers.

Rows are made from what the network declares (its config, or its first layer), and are the same at each load. Whether they fit is
found by running them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..provenance import torch_generator
from .subject import Batch

_LENGTHS = (7, 5, 6)  # of the token rows
_TEXTS = ("Seven small birds sang near the old mill.", "Rain fell all day.", "Please close the door behind you.")


def rows_for(module: nn.Module, tokenizer: Any = None) -> tuple[Any, ...]:
    """Three rows: token ids, images or vectors; texts where the user's batch function is given with a tokenizer."""
    generator = torch_generator(0, "probe rows")
    if tokenizer is not None:
        return _TEXTS
    config, main = getattr(module, "config", None), getattr(module, "main_input_name", None)
    if config is not None and main == "input_ids":
        return tuple(torch.randint(config.vocab_size, (length,), generator=generator).tolist() for length in _LENGTHS)
    if config is not None and main == "pixel_values":
        size = config.image_size
        shape = (config.num_channels, *(size if isinstance(size, list | tuple) else (size, size)))
        return tuple(torch.randn(shape, generator=generator) for _ in range(3))
    return tuple(_row_for(_first_layer(module), generator, length) for length in _LENGTHS)


def _first_layer(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Embedding):
            return part
    raise InputError(
        f"{type(module).__name__}: no input could be made up for its checks; give probe=[three rows as batch takes them]"
    )


def _row_for(layer: nn.Module, generator: torch.Generator, length: int) -> Any:
    if isinstance(layer, nn.Linear):
        return torch.randn(layer.in_features, generator=generator)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(layer.in_channels, 32, 32, generator=generator)
    assert isinstance(layer, nn.Embedding)
    return torch.randint(layer.num_embeddings, (length,), generator=generator).tolist()


def batch_for(module: nn.Module) -> Batch:
    """Rows of token ids (right-padded, masked) or images, for a network of transformers."""
    main = getattr(module, "main_input_name", None)
    if main == "input_ids":
        return lambda rows: _token_batch(rows, next(module.parameters()).device)
    if main is not None:
        weight = next(module.parameters())
        return lambda rows: {main: torch.stack(list(rows)).to(weight.device, weight.dtype)}
    raise InputError(
        f"{type(module).__name__}: give batch=, a function from a list of rows to the keyword arguments of its forward"
    )


def _token_batch(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
        mask[index, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def quiet_mode(module: nn.Module) -> None:
    """Refuse a module whose passes would differ, or change it, because it is in training mode."""
    for path, part in module.named_modules():
        dropout = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        if part.training and (dropout or isinstance(part, nn.modules.batchnorm._BatchNorm)):
            raise InputError(
                f"{type(module).__name__} is in training mode and {path} acts differently there; call .eval() on it first"
            )
