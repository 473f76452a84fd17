"""States of one row by token, and what a direction does to the logits to first order: what a strand's description is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputError
from .attach import Moment, attach
from .site import Site

if TYPE_CHECKING:
    from .subject import Subject


def token_states(subject: Subject, row: str | Sequence[Mapping[str, str]], site: str | Site) -> tuple[list[str], Tensor]:
    """The tokens of a text or chat and the states (tokens, d), fp32, that the network has for them at a site.

    Raises:
        InputError: there is no tokenizer or no such site, or the row is longer than the context or holds a token that the
            network has no row for.
    """
    tokenizer = subject.tokenizer
    if tokenizer is None:
        raise InputError(f"{subject.name} has no tokenizer; its rows have no tokens to show")
    text = row if isinstance(row, str) else subject.render(row, add_generation_prompt=row[-1]["role"] == "user")
    ids = tokenizer(text, add_special_tokens=isinstance(row, str))["input_ids"]
    subject.require_known(ids, "row")  # type: ignore[arg-type]
    if subject.context is not None and len(ids) > subject.context:
        raise InputError(f"row: {len(ids)} tokens, and the context of {subject.name} holds {subject.context}; shorten the text")
    seen: list[Tensor] = []

    def keep(state: Tensor, _: Moment) -> None:
        seen.append(state[0].float().cpu())

    with torch.no_grad(), attach(subject, reads={Site.parse(site): keep}, stop=True) as attached:
        attached.run(input_ids=torch.tensor([ids], device=subject.device))
    return [str(tokenizer.decode([token])) for token in ids], seen[0]


def vocabulary_effects(subject: Subject, directions: Tensor) -> tuple[list[str], Tensor] | None:
    """Tokens, and the change (vocabulary, k) of their logits along directions (d, k); None without a head.

    The directions are added before the final norm, its scale held fixed. The direct path only: what later blocks make of the
    direction is not in it.
    """
    weight = subject.unembedding
    if weight is None or subject.tokenizer is None or weight.shape[1] != directions.shape[0]:
        return None
    with torch.no_grad():
        gain, centres = _gain(subject.final_norm, weight)
        along = directions.float() - (directions.float().mean(0) if centres else 0.0)
        effects = weight.float().cpu() @ (gain[:, None] * along)
    names = subject.tokenizer.convert_ids_to_tokens(list(range(weight.shape[0])))
    return [subject.tokenizer.convert_tokens_to_string([name]) if name else "" for name in names], effects


def _gain(norm: nn.Module | None, weight: Tensor) -> tuple[Tensor, bool]:
    """The norm's gain by coordinate, and whether it takes the mean away: measured on vectors of ±1, whose scale is one."""
    width = weight.shape[1]
    if norm is None:
        return torch.ones(width), False
    signs = torch.ones(1, 1, width, dtype=weight.dtype, device=weight.device)
    level = norm(2 * signs) - norm(-2 * signs)
    centres = bool(level.abs().max() < 1e-3)
    signs[..., ::2] = -1  # as many of either sign, so that taking the mean away changes nothing
    gain = ((norm(signs) - norm(-signs)) / 2 * signs)[0, 0]
    return gain.float().cpu(), centres
