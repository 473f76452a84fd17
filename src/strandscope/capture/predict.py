"""What the network says next: log-probabilities of the next token after each row, or along a reply, with edits if wanted.

Equal to the plain forward pass over each row alone, up to the rounding of batched arithmetic. The head is run at the last
positions only. Edits act as they would in one pass over the whole row: a shared prefix is run under the same edits, except those
whose scope is the last position, for the prefix does not hold any row's last token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..subject.attach import Edit, Edits, Scope, attach
from ..subject.scope import prompt_of
from ..subject.trace import accepts
from .passes import Prefix, length_batches, run_prefix
from .tokens import TokenRows, tokenise

if TYPE_CHECKING:
    from ..subject.site import Site
    from ..subject.subject import Subject
    from .examples import Examples


def next_token_logprobs(
    subject: Subject, rows: Examples | TokenRows, edits: Edits | None = None, *, batch_tokens: int | None = None
) -> Tensor:
    """Log-probabilities (rows, vocabulary) in fp32, in nats, in the order given.

    Args:
        rows: examples, or the token rows that `tokenise` made of them (to save doing it again).
        edits: as for `attach`; the rows of a scope are counted over all of `rows`.

    Raises:
        InputError: the network predicts no tokens from the left, or a row does not fit.
    """
    check_predicts(subject)
    tokens = rows if isinstance(rows, TokenRows) else tokenise(subject, rows)
    edits = dict(edits or {})
    scopes = [scope for pairs in edits.values() for _, scope in pairs]
    one_prefix = all(scope.alike for scope in scopes)  # else rows differ already in what they share
    earlier = {site: [(edit, scope) for edit, scope in pairs if scope.positions != "last"] for site, pairs in edits.items()}
    result: Tensor | None = None
    with torch.no_grad():
        with prompt_of(max(map(len, tokens.ids))):  # all of it is prompt, however short a pass
            prefix = run_prefix(subject, tokens.ids, edits=earlier) if one_prefix else Prefix()
        for batch in length_batches(subject, [len(ids) - prefix.length for ids in tokens.ids], batch_tokens):
            lengths = [len(tokens.ids[row]) for row in batch]
            with prompt_of(lengths), attach(subject, edits=_for_batch(edits, batch)):
                logits = _last_logits(subject, prefix, [tokens.ids[row] for row in batch])
            if result is None:
                result = torch.empty(len(tokens.ids), logits.shape[-1])
            result[torch.tensor(batch)] = logits.float().log_softmax(-1).cpu()
    assert result is not None  # examples are never empty
    return result


def reply_logprobs(
    subject: Subject, rows: TokenRows, prompts: Sequence[int], edits: Edits | None = None, *, batch_tokens: int | None = None
) -> list[Tensor]:
    """What the network says before each token of a reply: for each row (tokens of its reply, vocabulary), fp32, in nats.

    Args:
        rows: prompts with their replies.
        prompts: (rows,) tokens of each prompt; what follows is the reply, at least one token.
        edits: as for `attach`, without named rows. What scopes call generation is the reply.

    Raises:
        InputError: the network predicts no tokens from the left.
    """
    check_predicts(subject)
    result: list[Tensor] = [torch.empty(0)] * len(rows.ids)
    with torch.no_grad():
        for batch in length_batches(subject, list(map(len, rows.ids)), batch_tokens):
            ids, starts = [rows.ids[row] for row in batch], [prompts[row] for row in batch]
            with prompt_of(starts), attach(subject, edits=edits):
                for row, logits in zip(batch, _reply_logits(subject, ids, starts), strict=True):
                    result[row] = logits.float().log_softmax(-1).cpu()
    return result


def _reply_logits(subject: Subject, ids: list[tuple[int, ...]], starts: list[int]) -> Iterator[Tensor]:
    """Logits (tokens of the reply, vocabulary) of each row: at the position before each of them."""
    places = [torch.arange(start - 1, len(row) - 1) for row, start in zip(ids, starts, strict=True)]
    inputs = Prefix().inputs(subject, ids)
    if accepts(subject.module, "logits_to_keep"):
        wanted = torch.cat(places).unique()
        logits = subject.module(**inputs, logits_to_keep=wanted.to(inputs["input_ids"].device)).logits
        places = [torch.searchsorted(wanted, place) for place in places]
    else:
        logits = subject.module(**inputs).logits
    for number, place in enumerate(places):
        yield logits[number, place.to(logits.device)]


def check_predicts(subject: Subject) -> None:
    if not (subject.anatomy.tokens and subject.anatomy.causal and subject.anatomy.head):
        raise InputError(f"{subject.name}: predicts no next token; name a left-to-right language model")


def _last_logits(subject: Subject, prefix: Prefix, ids: list[tuple[int, ...]]) -> Tensor:
    """Logits (rows, vocabulary) at each row's last token. Rows are of similar length, so few positions hold all the last ones."""
    last = torch.tensor([len(row) - prefix.length - 1 for row in ids])
    wanted, where = last.unique(return_inverse=True)
    inputs = prefix.inputs(subject, ids)
    if accepts(subject.module, "logits_to_keep"):
        logits = subject.module(**inputs, logits_to_keep=wanted.to(inputs["input_ids"].device)).logits
        if logits.shape[1] != len(wanted):
            raise InputError(f"{subject.name}: kept {logits.shape[1]} positions of logits where {len(wanted)} were asked for")
    else:
        logits, where = subject.module(**inputs).logits, last
    return logits[torch.arange(len(ids)), where]


def _for_batch(edits: Edits, batch: list[int]) -> Edits:
    """The same edits with the rows of their scopes counted in this batch."""
    chosen: dict[Site, list[tuple[Edit, Scope]]] = {}
    for site, pairs in edits.items():
        here = [(edit, scope.among(batch) if scope.by_row else scope) for edit, scope in pairs]
        chosen[site] = [(edit, scope) for edit, scope in here if scope is not None]
    return chosen
