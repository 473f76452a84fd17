"""What a strand means, shown rather than named: the held-out examples it orders, by token, and the vocabulary it promotes.

The first token, and all with which every example begins (a chat template's, say), are not shown: the first one often is an
attention sink, a hundred times as long as the others, which would set the scale and be the only direction that the states have.
Each figure stands beside what random directions of the states' own covariance give. Token coordinates are read at every
position, although the strand was found at one: off that position they illustrate, and are not evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..provenance import torch_generator

if TYPE_CHECKING:
    from .strand import Strand

RANDOM = 200  # random directions behind each null


class Network(Protocol):
    """What a description needs of a network; a `Subject` is one."""

    @property
    def fingerprint(self) -> str: ...

    def token_states(self, row: Any, site: str) -> tuple[list[str], Tensor]:
        """Tokens of a text or chat, and the states (tokens, d) at a site."""
        ...

    def vocabulary_effects(self, directions: Tensor) -> tuple[list[str], Tensor] | None:
        """Tokens of the vocabulary and the first-order change (vocabulary, k) of their logits along directions (d, k)."""
        ...


@dataclass(frozen=True, slots=True)
class TokenScores:
    """An example with the coordinate of each token, in standard deviations over the tokens in which the examples differ."""

    id: str
    label: str
    score: float
    why: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A token and how far it is promoted, in deviations over the vocabulary; `beyond_null` if random directions do less."""

    token: str
    effect: float
    beyond_null: bool


@dataclass(frozen=True, slots=True)
class Description:
    """A strand's meaning in one network. `bound`: 95 % of random directions have no token coordinate beyond it here; None without
    examples to show. `vocabulary_bound`: None where the network has no head that takes states of this width, or no tokenizer."""

    strand: str
    examples: tuple[TokenScores, ...]
    bound: float | None
    promotes: tuple[Vocabulary, ...]
    suppresses: tuple[Vocabulary, ...]
    vocabulary_bound: float | None

    def __str__(self) -> str:
        said = "its rows are not texts of two classes, so none is shown"
        if self.bound is not None:
            said = f"token coordinates in standard deviations; random directions stay within ±{self.bound:.1f} (95 %)"
        lines = [f"{self.strand}: {said}"]
        for row in self.examples:
            peaks = sorted(range(len(row.tokens)), key=lambda i: -abs(row.values[i]))[:4]
            carried = ", ".join(f"{row.tokens[i].strip()!r} {row.values[i]:+.1f}" for i in sorted(peaks))
            lines.append(f"  {row.why:<21} {row.score:+.2f}  {row.label:<12} {row.id}: {carried}")
        if self.vocabulary_bound is None:
            return "\n".join([*lines, "  vocabulary: not measured (no tokenizer, or no unembedding of this width)"])
        for name, items in (("promotes", self.promotes), ("suppresses", self.suppresses)):
            shown = ", ".join(f"{item.token.strip()!r}{'' if item.beyond_null else ' (as random)'}" for item in items)
            lines.append(f"  {name}: {shown}")
        lines.append(f"  (random directions promote their best token by {self.vocabulary_bound:.1f} standard deviations, 95 %)")
        return "\n".join(lines)


def describe(strand: Strand, subject: Network, seed: int, *, words: int = 8) -> Description:
    read = _beyond_prefix([(row, *subject.token_states(row.input, strand.site)) for row in strand.shown])
    direction = strand.basis[:, :1].float()
    generator = torch_generator(seed, "describe", strand.name)
    examples, bound = _token_scores(read, direction, generator)
    found = subject.vocabulary_effects(strand.pattern[:, :1].float())
    if found is None:
        return Description(strand.name, examples, bound, (), (), None)
    tokens, effect = found
    standing = effect[:, 0] / effect[:, 0].std()
    pool = torch.cat([states for _, _, states in read]) if read else torch.eye(len(direction))
    random = _covariant(pool, generator)
    nulls = subject.vocabulary_effects(random)
    assert nulls is not None  # it was not None a line above
    limit = float((nulls[1] / nulls[1].std(0)).amax(0).quantile(0.95))
    order = standing.argsort(descending=True)

    def top(indices: Tensor) -> tuple[Vocabulary, ...]:
        return tuple(Vocabulary(tokens[i], float(standing[i]), bool(standing[i].abs() > limit)) for i in indices.tolist())

    return Description(strand.name, examples, bound, top(order[:words]), top(order.flip(0)[:words]), limit)


def _token_scores(read: list, direction: Tensor, generator: torch.Generator) -> tuple[tuple[TokenScores, ...], float | None]:
    if not read:
        return (), None
    states = torch.cat([part for _, _, part in read])
    centre = states.mean(0)
    values = ((states - centre) @ direction)[:, 0]
    spread = values.std().clamp_min(1e-12)
    random = (states - centre) @ _covariant(states, generator)
    bound = float((random / random.std(0).clamp_min(1e-12)).abs().amax(0).quantile(0.95))
    rows, start = [], 0
    for shown, tokens, part in read:
        standing = (values[start : start + len(part)] / spread).tolist()
        rows.append(TokenScores(shown.id, shown.label, shown.score, shown.why, tuple(tokens), tuple(standing)))
        start += len(part)
    return tuple(rows), bound


def _beyond_prefix(read: list) -> list:
    """The rows without the tokens that all begin with, and without the first one; one token of the shortest is left to show."""
    if not read:
        return read
    rows = [tokens for _, tokens, _ in read]
    shortest = min(map(len, rows))
    same = next((i for i in range(shortest) if len({tokens[i] for tokens in rows}) > 1), shortest) if len(rows) > 1 else 0
    start = min(max(same, 1), shortest - 1)
    return [(shown, tokens[start:], states[start:]) for shown, tokens, states in read]


def _covariant(states: Tensor, generator: torch.Generator) -> Tensor:
    """(d, RANDOM) random unit directions with the covariance of `states`: random mixtures of the states themselves."""
    centred = states - states.mean(0)
    mixture = centred.T @ torch.randn(len(states), RANDOM, generator=generator, dtype=centred.dtype)
    return mixture / mixture.norm(dim=0)
