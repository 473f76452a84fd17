"""Key–value caches of rows that come and go: joined with padding on the left, thinned when a row leaves.

A row keeps its keys and values as they are, whatever stands beside it; only columns of padding are put before it or taken away.
Layers that grow without bound and layers with a sliding window are handled; what other kinds of cache hold stays with one row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def joins(cache: Any) -> bool:
    """Whether rows of caches of this kind can stand in one."""
    return isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def joined(caches: Sequence[DynamicCache], length: int) -> DynamicCache:
    """One cache with the rows of all, each padded on the left to `length` positions; the parts may be changed by it later."""
    made = copy.copy(caches[0])
    made.layers = []
    for number in range(len(caches[0].layers)):
        parts: list[Any] = [cache.layers[number] for cache in caches]
        first, layer = parts[0], copy.copy(parts[0])
        if first.is_initialized:
            width = _width(first, length)
            layer.keys = torch.cat([_padded(part.keys, width) for part in parts])
            layer.values = torch.cat([_padded(part.values, width) for part in parts])
        _set_length(layer, length)
        made.layers.append(layer)
    return made


def thin(cache: DynamicCache, rows: Sequence[int], length: int) -> None:
    """Keep these rows, in this order, and of the columns the last that belong to `length` positions."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if layer.is_initialized:
            width, index = _width(layer, length), torch.tensor(list(rows), device=layer.keys.device)
            for name in ("keys", "values"):
                held = getattr(layer, name)
                setattr(layer, name, held[:, :, held.shape[2] - width :].index_select(0, index))
        _set_length(layer, length)


def _width(layer: Any, length: int) -> int:
    """Columns that a layer holds of so many positions."""
    return min(length, layer.sliding_window - 1) if isinstance(layer, DynamicSlidingWindowLayer) else length


def _set_length(layer: Any, length: int) -> None:
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length


def _padded(held: Tensor, width: int) -> Tensor:
    return pad(held, (0, 0, width - held.shape[2], 0))
