"""Neutral prompts made ready to measure costs on: what the plain network says after each, against what it says under an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..capture.derivative import directional
from ..capture.examples import Examples, neutral_prompts
from ..capture.predict import next_token_logprobs
from ..capture.tokens import TokenRows, tokenise
from ..capture.variants import under_edits
from ..errors import InputError, TrustError
from ..laws.price import divergence, susceptibility
from ..progress import Progress
from ..provenance import numpy_generator
from ..subject.attach import Edit, Edits, Scope
from ..subject.site import Site
from .edit import Add
from .push import Push

if TYPE_CHECKING:
    from ..subject.subject import Subject

Applied = Literal["all", "last"]


@dataclass(frozen=True)
class Bench:
    """Neutral prompts made ready to measure costs on, and what the plain network says after each."""

    subject: Subject
    prompts: Examples
    tokens: TokenRows
    plain: Tensor  # log-probabilities (prompts, vocabulary)

    @classmethod
    def of(cls, subject: Subject, prompts: int = 300, seed: int = 0, chat: bool | None = None) -> Bench:
        """So many of the project's neutral prompts, drawn by `seed` and spread over all topics.

        Args:
            chat: whether they are asked as chats, or stand as plain texts; None is a chat where the network has a template.

        Raises:
            InputError: fewer than 2 prompts, or a network that predicts no next token or takes no such rows.
        """
        if subject.tokenizer is None:
            raise InputError(
                f"{subject.name} takes no text, and doses are measured on neutral prompts; "
                "push by a scale of your own, with attach and an Add"
            )
        if prompts < 2:
            raise InputError(f"prompts: got {prompts}, wanted at least 2, for a mean with an interval")
        chosen = neutral_prompts(subject.chats if chat is None else chat)
        if prompts < len(chosen):
            chosen = chosen.subset(spread(chosen.groups, prompts, numpy_generator(seed, "dose prompts")))
        return cls.on(subject, chosen)

    @classmethod
    def on(cls, subject: Subject, prompts: Examples) -> Bench:
        """Rows of one's own, whose groups are the topics."""
        tokens = tokenise(subject, prompts)
        return cls(subject, prompts, tokens, next_token_logprobs(subject, tokens))

    def some(self, count: int) -> Bench:
        """The same bench with `count` of its prompts, from all topics; itself where it holds not twice as many."""
        if len(self.prompts) < 2 * count:
            return self
        rows = spread(self.topics, count, numpy_generator(0, "some of the prompts"))
        return Bench(
            self.subject, self.prompts.subset(rows), self.tokens.subset(rows.tolist()), self.plain[torch.as_tensor(rows)]
        )

    def rows_of(self, some: Bench) -> NDArray[np.int64]:
        """Where the prompts of `some` stand in this bench."""
        place = {name: row for row, name in enumerate(self.prompts.ids)}
        return np.array([place[name] for name in some.prompts.ids])

    @property
    def network(self) -> str:
        return network_of(self.subject)

    @property
    def dtype(self) -> str:
        return str(self.subject.dtype).removeprefix("torch.")

    @property
    def topics(self) -> NDArray[np.int64]:
        return self.prompts.groups

    def costs(self, site: Site, edit: Edit, positions: Applied) -> NDArray[np.float64]:
        """KL(p₀ ‖ p_c) of each prompt, in nats."""
        return self.costs_under({site: [(edit, Scope(positions=positions))]})

    def costs_under(self, edits: Edits) -> NDArray[np.float64]:
        """KL(p₀ ‖ p) of each prompt, in nats, under any edits together, each in its own scope."""
        return finite_costs(divergence(self.plain, next_token_logprobs(self.subject, self.tokens, edits)), edits)

    def costs_of(
        self, site: Site, edits: Sequence[Edit], positions: Applied, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """KL(p₀ ‖ p) under each edit by itself (edits, prompts), in nats; at the last position each context is run once."""
        found = np.full((len(edits), len(self.prompts)), np.nan)
        every = list(range(len(self.prompts)))
        if positions == "last":
            parts = under_edits(self.subject, self.tokens, site, edits)
            alone = [{site: [(edit, Scope())]} for edit in edits]
            costs = ((rows, n, finite_costs(divergence(self.plain[rows], said), alone[n])) for rows, n, said in parts)
        else:
            costs = ((every, number, self.costs(site, edit, positions)) for number, edit in enumerate(edits))
        done = 0
        for rows, number, cost in costs:
            found[number, rows] = cost
            done += len(rows)
            if progress is not None:
                progress("prompts under pushes", done, found.size)
        return found

    def susceptibility(self, site: Site, direction: Tensor, positions: Applied) -> NDArray[np.float64]:
        """χ of each prompt: a push of size c along the direction, in that scope, costs ½c²χ nats as c goes to 0."""
        return self.susceptibility_of(Push({site: direction}, Scope(positions=positions)))

    def susceptibility_of(self, push: Push) -> NDArray[np.float64]:
        """χ of each prompt, for a push at one site or several."""
        push.check(self.subject)
        return finite_slope(susceptibility(*directional(self.subject, self.tokens, push.moves())), push)

    @property
    def told(self) -> str:
        """What is measured, in words."""
        asked = "asked as chats" if self.prompts.kind == "chat" else "as plain texts"
        return f"mean KL(plain ‖ edited) of the token after each of {len(self.prompts)} neutral prompts {asked}"


def finite_costs(costs: NDArray[np.float64], edits: Edits) -> NDArray[np.float64]:
    """The costs, or a TrustError where one is not finite."""
    if not bool(np.isfinite(costs).all()):
        sizes = {edit.scale for pairs in edits.values() for edit, _ in pairs if isinstance(edit, Add)}
        size = f" with scale {max(sizes):g}" if sizes else ""
        sites = ",".join(map(str, edits))
        raise TrustError(f"the edit at {sites}{size} made the network's output NaN or infinite; ask for fewer nats")
    return costs


def finite_slope(chi: NDArray[np.float64], push: Push) -> NDArray[np.float64]:
    """The susceptibilities, or a TrustError where one is not finite."""
    if not bool(np.isfinite(chi).all()):
        raise TrustError(f"the derivative along the direction at {push.site} is NaN or infinite; load the network in float32")
    return chi


def spread(topics: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows at random, from every topic as alike in number as can be, in the order in which they stand."""
    order = generator.permutation(len(topics))
    turn = np.empty(len(topics), dtype=np.int64)  # a row's turn within its topic
    for topic in np.unique(topics):
        rows = order[topics[order] == topic]
        turn[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def check_positions(positions: str) -> None:
    if positions not in get_args(Applied):
        raise InputError(f"positions: got {positions!r}, wanted 'all' or 'last'")


def finer(dtype: str) -> str:
    """What to do about rounding; nothing for who has the finer dtype already."""
    return "" if dtype in ("float32", "float64") else ", or load the network in float32 (dtype=, --dtype)"


def network_of(subject: Subject) -> str:
    """Fingerprint and dtype: the network in which a dose or a price is good."""
    return f"{subject.fingerprint} {subject.dtype}"
