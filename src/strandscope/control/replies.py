"""What an edit costs over whole replies: the network's own, sampled once, read again under the edit.

The replies are drawn from the plain network at temperature 1, so the sum over a reply of KL(p₀ ‖ p_c) of each next token is an
unbiased estimate of the KL between the two networks' distributions of whole replies of that length (chain rule). Its mean per
token is what a dose of an edit of the generation is measured in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..capture.derivative import directional
from ..capture.examples import Examples
from ..capture.predict import reply_logprobs
from ..capture.tokens import TokenRows
from ..laws.price import divergence, mean_reading, susceptibility
from ..reading import Reading
from ..subject.attach import Edits
from ..subject.subject import Subject
from .bench import Bench, finite_costs, finite_slope
from .push import Push
from .texts import sampled

REPLY = "nats per reply"


@dataclass(frozen=True)
class ReplyBench(Bench):
    """Neutral prompts with replies, and what the plain network says before each token of them.

    `tokens` are prompts with their replies, `plain` (all tokens of replies, vocabulary), `lengths` (prompts,) of the prompts.
    """

    lengths: tuple[int, ...] = ()

    @classmethod
    def replying(
        cls, subject: Subject, prompts: int = 48, seed: int = 0, chat: bool | None = None, new_tokens: int = 16
    ) -> ReplyBench:
        """So many neutral prompts with a reply of at most so many tokens to each.

        Raises:
            InputError: as `Bench.of`, or the network does not generate.
        """
        bench = Bench.of(subject, prompts, seed, chat)
        replies = sampled(subject, bench.tokens.ids, new_tokens, seed=seed)
        whole = tuple((*prompt, *reply) for prompt, reply in zip(bench.tokens.ids, replies, strict=True))
        rows = TokenRows(whole, bench.tokens.content, bench.tokens.names, bench.tokens.template)
        return cls._of(subject, bench.prompts, rows, tuple(map(len, bench.tokens.ids)))

    @classmethod
    def _of(cls, subject: Subject, prompts: Examples, rows: TokenRows, lengths: tuple[int, ...]) -> ReplyBench:
        return cls(subject, prompts, rows, torch.cat(reply_logprobs(subject, rows, lengths)), lengths)

    @property
    def steps(self) -> NDArray[np.int64]:
        """(prompts,) tokens of each reply."""
        return np.array([len(row) - length for row, length in zip(self.tokens.ids, self.lengths, strict=True)])

    def some(self, count: int) -> ReplyBench:  # noqa: ARG002 (replies are few already)
        return self

    def costs_under(self, edits: Edits) -> NDArray[np.float64]:
        """Mean over a reply's tokens of KL(p₀ ‖ p), per prompt, in nats."""
        return self.sums_under(edits) / self.steps

    def sums_under(self, edits: Edits) -> NDArray[np.float64]:
        """The sum over a reply's tokens of KL(p₀ ‖ p), per prompt, in nats."""
        said = torch.cat(reply_logprobs(self.subject, self.tokens, self.lengths, edits))
        return self._summed(finite_costs(divergence(self.plain, said), edits))

    def susceptibility_of(self, push: Push) -> NDArray[np.float64]:
        push.check(self.subject)
        chi = susceptibility(*directional(self.subject, self.tokens, push.moves(), self.lengths))
        return self._summed(finite_slope(chi, push)) / self.steps

    def reading(self, edits: Edits) -> Reading:
        """The mean over prompts of the sum of KL over a reply, interval by topic."""
        drawn = f"replies of at most {int(self.steps.max())} tokens, drawn from the plain network at temperature 1"
        method = f"Σ KL(plain ‖ edited) over {drawn}, to {len(self.prompts)} neutral prompts; interval by topic"
        return mean_reading(self.sums_under(edits), self.topics, REPLY, method)

    @property
    def told(self) -> str:
        return f"mean KL(plain ‖ edited) per token of replies of the plain network to {len(self.prompts)} neutral prompts"

    def _summed(self, each: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(each, np.cumsum(self.steps) - self.steps)
