"""States of a network at named sites, for each row of a set of examples.

`stream` is the only path: it yields batches of labelled states and keeps nothing; `capture` collects them into `Activations`, in
the order of the examples. The pass stops at the deepest site asked for, so no head is run, and only the positions asked for are
copied. States keep the dtype that the network computes in; a mean over positions is taken in fp32 (or better) and rounded once.

States equal those of a plain pass over each row alone, up to the rounding of batched arithmetic, whatever `batch_tokens` is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..subject.attach import Moment, attach, edited
from ..subject.subject import Subject
from .activations import Activations
from .examples import Example, Examples
from .passes import Prefix, length_batches, run_prefix
from .tokens import Positions, TokenRows, check_positions, span_of, tokenise

if TYPE_CHECKING:
    from ..subject.site import Site

__all__ = ["Activations", "Batch", "capture", "stream"]

_BATCH_ROWS = 32  # for networks whose rows are no tokens
_MADE = {"format": "tensor", "description": "inputs as the subject's batch function makes them", "sha256": ""}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some states, all sites alike: the row each is from, its position in the row and its token (-1 where there is none).

    `edited`: the network was under edits while they were captured.
    """

    rows: Tensor
    positions: Tensor
    tokens: Tensor
    states: Mapping[Site, Tensor]
    edited: bool


@dataclass(frozen=True, slots=True)
class _Picks:
    """Which states of a pass are kept: those at (rows, where); with `mean`, one for each of the `count` rows is made of them."""

    rows: Tensor
    where: Tensor
    mean: bool
    count: int

    def take(self, state: Tensor) -> Tensor:
        picked = state[self.rows.to(state.device), self.where.to(state.device)]
        if self.mean:
            wide = torch.promote_types(state.dtype, torch.float32)
            sums = torch.zeros(self.count, state.shape[-1], dtype=wide, device=state.device)
            sums.index_add_(0, self.rows.to(state.device), picked.to(wide))
            picked = (sums / self.rows.bincount(minlength=self.count)[:, None].to(sums)).to(state.dtype)
        return picked.detach().cpu()


def capture(
    subject: Subject,
    examples: Examples,
    at: str | Sequence[str | Site] = "resid:*",
    positions: Positions = "last",
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """The states at the sites `at`, in the order of `examples`.

    Args:
        at: a pattern such as "resid:*" or "resid:8-20,mlp:12", or a list of sites.
        positions: "last", "mean", "all" or a slice (start, stop) of each row's tokens.
        batch_tokens: tokens in one pass, padding included; None is what suits the kind of device. It changes speed and memory,
            not results beyond rounding.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: an unknown site, or a row that this network cannot take.
    """
    batches, done = [], 0
    rows = tokens_of(subject, examples)
    for batch in _stream(subject, examples, rows, subject.sites(at), positions, batch_tokens):
        batches.append(batch)
        done += len(batch.rows.unique())
        if progress is not None:
            progress(done, len(examples))
    order = torch.cat([batch.rows for batch in batches]).argsort(stable=True)
    token = torch.cat([batch.tokens for batch in batches])[order]
    return Activations(
        states={site: torch.cat([batch.states[site] for batch in batches])[order] for site in batches[0].states},
        examples=examples,
        positions=positions,
        rows=torch.cat([batch.rows for batch in batches])[order],
        position=torch.cat([batch.positions for batch in batches])[order],
        token=token,
        pieces=_pieces(subject, token),
        fingerprint=subject.fingerprint,
        template=rows.template if rows else _MADE,
        edited=any(batch.edited for batch in batches),
    )


def stream(
    subject: Subject,
    examples: Examples,
    at: str | Sequence[str | Site] = "resid:*",
    positions: Positions = "last",
    *,
    batch_tokens: int | None = None,
) -> Iterator[Batch]:
    """Batches of labelled states, rows of similar length together; only one batch is ever held."""
    return _stream(subject, examples, tokens_of(subject, examples), subject.sites(at), positions, batch_tokens)


def tokens_of(subject: Subject, examples: Examples) -> TokenRows | None:
    """Token rows, or None where the subject's batch function takes the rows as they are."""
    if not isinstance(subject, Subject):
        raise InputError(f"subject: got a {type(subject).__name__}, wanted a Subject; ss.load opens one")
    if not isinstance(examples, Examples):
        raise InputError(
            f"examples: got a {type(examples).__name__}, wanted Examples; ss.concept, Examples.from_file and from_rows make them"
        )
    made = subject.probe and isinstance(subject.probe[0], str)  # the function was checked on texts, so it takes texts
    if examples.kind == "tensor":
        return tokenise(subject, examples) if subject.anatomy.tokens else None
    if subject.anatomy.tokens and (subject.tokenizer is not None or not made):
        return tokenise(subject, examples)
    if not made or examples.kind == "chat":
        raise InputError(
            f"{examples.name}: {subject.name} takes no {examples.kind} rows; give rows as its batch function takes them"
        )
    return None


def _pieces(subject: Subject, token: Tensor) -> dict[int, str]:
    """The text of each token that occurs."""
    if subject.tokenizer is None:
        return {}
    return {number: str(subject.tokenizer.decode([number])) for number in token.unique().tolist() if number >= 0}


def _stream(
    subject: Subject,
    examples: Examples,
    rows: TokenRows | None,
    sites: list[Site],
    positions: Positions,
    batch_tokens: int | None,
) -> Iterator[Batch]:
    check_positions(positions)
    if rows is None:
        return _stream_made(subject, examples, sites, positions)
    return _stream_tokens(subject, rows, sites, positions, batch_tokens)


def _stream_tokens(
    subject: Subject, rows: TokenRows, sites: list[Site], positions: Positions, batch_tokens: int | None
) -> Iterator[Batch]:
    spans = rows.spans(positions)
    first = min(start for start, _ in spans)
    edits = edited(subject.module)
    prefix = run_prefix(subject, rows.ids, sites=sites)
    if first >= prefix.length:
        prefix = Prefix(prefix.length, prefix.cache)  # none of its states was asked for
    for batch in length_batches(subject, [len(ids) - prefix.length for ids in rows.ids], batch_tokens):
        places = [(number, place) for number, row in enumerate(batch) for place in range(*spans[row])]
        local, place = torch.tensor(places).unbind(1)
        picks = _Picks(local, place if prefix.states else place - prefix.length, positions == "mean", len(batch))
        taken: dict[Site, Tensor] = {}
        longest = max(len(rows.ids[row]) for row in batch)
        reads = {site: partial(_take_tokens, site, picks, prefix, longest, taken) for site in sites}
        edits |= edited(subject.module)
        with torch.no_grad(), attach(subject, reads=reads, stop=True) as attached:
            attached.run(**prefix.inputs(subject, [rows.ids[row] for row in batch]))
        numbers = torch.tensor(batch)
        if picks.mean:
            none = torch.full_like(numbers, -1)
            yield Batch(numbers, none, none, taken, edits)
        else:
            tokens = torch.tensor([rows.ids[batch[number]][at] for number, at in places])
            yield Batch(numbers[local], place, tokens, taken, edits)


def _take_tokens(
    site: Site, picks: _Picks, prefix: Prefix, longest: int, taken: dict[Site, Tensor], state: Tensor, _: Moment
) -> None:
    if state.shape[1] != longest - prefix.length:
        raise InputError(
            f"site {site}: {state.shape[1]} positions for {longest - prefix.length} tokens; it has no state per token"
        )
    if prefix.states:
        shared = prefix.states[site].expand(state.shape[0], -1, -1)
        state = torch.cat([shared, state], 1)
    taken[site] = picks.take(state)


def _stream_made(subject: Subject, examples: Examples, sites: list[Site], positions: Positions) -> Iterator[Batch]:
    for batch in _alike(subject, examples):
        part = [examples.rows[row] for row in batch]
        taken: dict[Site, Tensor] = {}
        made: dict[Site, _Picks] = {}
        reads = {site: partial(_take_made, site, positions, taken, made) for site in sites}
        edits = edited(subject.module)
        with torch.no_grad(), attach(subject, reads=reads, stop=True) as attached, _shape_told(subject, part):
            inputs = subject.batch([row.input for row in part])
            attached.run(**inputs)
        picks = _agreed(made)
        if picks.mean:
            numbers = torch.tensor(batch)
            none = torch.full_like(numbers, -1)
            yield Batch(numbers, none, none, taken, edits)
            continue
        tokens = inputs.get("input_ids")
        found = torch.full_like(picks.where, -1) if tokens is None else tokens.cpu()[picks.rows, picks.where]
        yield Batch(torch.tensor(batch)[picks.rows], picks.where, found, taken, edits)


def _alike(subject: Subject, examples: Examples) -> list[list[int]]:
    """Row numbers in batches that need no padding, which only a mask could tell from content.

    Tensors stand with those of their shape. Texts stand together where the batch function makes a mask, else alone.
    """
    mask = subject.batch(list(subject.probe)).get("attention_mask") if examples.kind == "text" else None
    masked = isinstance(mask, Tensor) and mask.dim() == 2
    kinds: dict[Any, list[int]] = {}
    for number, row in enumerate(examples.rows):
        kind = row.input.shape if isinstance(row.input, Tensor) else () if masked else number
        kinds.setdefault(kind, []).append(number)
    return [rows[start : start + _BATCH_ROWS] for rows in kinds.values() for start in range(0, len(rows), _BATCH_ROWS)]


@contextmanager
def _shape_told(subject: Subject, part: Sequence[Example]) -> Iterator[None]:
    """If the network refuses rows, name the first whose shape is not that of the rows it was checked on."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        wanted = getattr(subject.probe[0], "shape", None) if subject.probe else None
        odd = next((row for row in part if wanted is not None and getattr(row.input, "shape", wanted) != wanted), None)
        if odd is None or isinstance(error, InputError | torch.OutOfMemoryError):
            raise
        raise InputError(
            f"{odd.id}: a row of shape {tuple(odd.input.shape)}, which {subject.name} does not take ({error}); "  # type: ignore[union-attr]
            f"give rows that it takes, such as those of shape {tuple(wanted)} that it was checked on"  # type: ignore[arg-type]
        ) from error


def _take_made(
    site: Site, positions: Positions, taken: dict[Site, Tensor], made: dict[Site, _Picks], state: Tensor, moment: Moment
) -> None:
    """Keep the states of content positions, counted in each row without its padding."""
    rows, where = [], []
    for row, held in enumerate(moment.held(state).cpu()):
        content = held.nonzero().flatten()
        start, stop = span_of("all" if positions == "mean" else positions, len(content), f"{row} of the batch")
        where.append(content[start:stop])
        rows.append(torch.full((stop - start,), row))
    made[site] = _Picks(torch.cat(rows), torch.cat(where), positions == "mean", state.shape[0])
    taken[site] = made[site].take(state)


def _agreed(made: Mapping[Site, _Picks]) -> _Picks:
    """The picks of all sites, which must give as many states for each row."""
    first, picks = next(iter(made.items()))
    for site, other in made.items():
        if not picks.mean and not torch.equal(other.rows, picks.rows):
            raise InputError(
                f"sites {first} and {site} have different numbers of positions; capture them apart, or their mean or last"
            )
    return picks
