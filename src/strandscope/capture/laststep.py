"""One token after a cache, kept so that many gradients can be pulled back through it for little more than one.

The keys and values of the tokens before it do not depend on its states, so no gradient has to reach them. Autograd does not know:
the new key is concatenated to the old ones and every draw would get a gradient of the whole length. Here attention is split: old
keys and values enter as constants, the new ones by themselves, and a batch of gradients meets the constants in one product.

What it promises: the numbers are those of the network's own attention, to rounding, and the network is not changed: the cache
that it is handed tells old from new, and `scaled_dot_product_attention` is answered in another way for the length of the block.
Where attention is computed otherwise (eager, or on keys that are not those of the cache), `missed` is True: what ran inside the
block then has no gradient through the new keys and must be run again without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicCache


class SplitCache(DynamicCache):
    """A cache that hands out its keys and values as constants, and remembers the newest by themselves."""

    held: tuple[Tensor, Tensor] | None  # as handed out last
    new: tuple[Tensor, Tensor]
    missed: bool

    @classmethod
    def of(cls, cache: DynamicCache) -> SplitCache:
        """The same content; `cache` is used up."""
        split = cls.__new__(cls)
        vars(split).update(vars(cache))
        split.held, split.missed = None, False
        return split

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.missed |= self.held is not None  # what the layer before was handed was not asked about
        keys, values = super().update(key_states.detach(), value_states.detach(), layer_idx, *args, **kwargs)
        self.held, self.new = (keys, values), (key_states, value_states)
        return keys, values


class SplitAttention(TorchFunctionMode):
    """While entered, attention of the one new token over a `SplitCache` is computed in two parts."""

    def __init__(self, cache: SplitCache) -> None:
        super().__init__()
        self.cache = cache

    @property
    def missed(self) -> bool:
        return self.cache.missed or self.cache.held is not None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            answer = self._attend(*args, **(kwargs or {}))
            if answer is not None:
                return answer
            self.cache.missed = True
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: ARG002 (what it asks for is done where heads outnumber groups)
    ) -> Tensor | None:
        """The answer in two parts, or None where this is not the one new token over what the cache handed out."""
        held, self.cache.held = self.cache.held, None
        heads, groups, last = query.shape[1], key.shape[1], query.shape[2]
        mine = held is not None and key is held[0] and value is held[1] and self.cache.new[0].shape[2] == 1
        if not mine or dropout_p or is_causal or heads % groups or (heads != groups and last != 1):
            return None
        if attn_mask is not None and attn_mask.dim() == 4 and attn_mask.shape[1] not in (1, groups):
            return None
        packed = query.reshape(query.shape[0], groups, -1, query.shape[3])  # all rows of a group stand at the new position
        packed = packed * (query.shape[-1] ** -0.5 if scale is None else scale)
        new_key, new_value = self.cache.new
        scores = torch.cat([_Times.apply(packed, key[:, :, :-1].mT), (packed * new_key).sum(-1, keepdim=True)], -1)  # type: ignore[arg-type]
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=wide).to(value.dtype)
        answer = _Times.apply(weights[..., :-1], value[:, :, :-1]) + weights[..., -1:] * new_value  # type: ignore[operator]
        return answer.reshape(query.shape[0], heads, last, value.shape[3])


class _Times(torch.autograd.Function):
    """rows (…, r, n) @ a constant (…, n, m). A batch of gradients is folded into r: the constant is not copied for each."""

    @staticmethod
    def forward(rows: Tensor, constant: Tensor) -> Tensor:
        return rows @ constant

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (constant,) = ctx.saved_tensors
        return _Times.apply(grads[0], constant.mT), None  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:  # noqa: ARG004
        (where, held), (rows, constant) = in_dims, args
        if held is not None or where is None:  # the constant is never batched: nothing batches the forward pass
            raise RuntimeError("attention over a cache was batched in its keys")
        batched = rows.movedim(where, -3)  # (…, K, r, n)
        made = batched.flatten(-3, -2) @ constant
        return made.unflatten(-2, batched.shape[-3:-1]), rows.dim() - 3
