"""The effect of a push on what the network says, paired by prompt, beside random directions of the same nats and an instruction.

The coordinate that the push writes is never read. What it does is read off generated texts, by readers fitted on rows that did
not make the push (`readers`), and off the distribution of the next token. Effect: the mean over prompts of the score under the
push less that of the plain reply. Beside it stand the moves along directions at random, matched to the states' covariance and
isotropic, each at its own size for the same nats; the headline is the effect less their mean. And the move that a plain
instruction in the prompt makes: where that does not move a reader, the reader may not read replies at all, and a push that does
not move it shows little.

Texts are greedy. A prompt that got an empty text, plain or pushed, is left out and counted; an empty text of a random push takes
the mean of that prompt's other random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..capture.examples import Examples
from ..capture.predict import next_token_logprobs
from ..capture.tokens import TokenRows, tokenise
from ..errors import InputError
from ..reading import Reading
from ..statistics.effect import Shift, move_reading, shift
from ..strand.strand import Strand
from .bench import Bench
from .push import Push
from .readers import UNIT, Reader, TokenReader
from .texts import replies
from .together import KINDS, Kind, Randoms, Sized, Told, same_nats, texts_under

if TYPE_CHECKING:
    from ..subject.subject import Subject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TEXTS = 20  # random directions of each kind for texts
TOKENS = 100  # and for next tokens
SHARE = 0.5  # of the prompts that must have a text to be read
INSTRUCTIONS = {  # what would be asked for in words; packs whose concept no reply can show have none
    "spanish": "Answer in Spanish.",
    "formality": "Answer in a formal register.",
    "sentiment": "Answer in a cheerful and positive tone.",
    "certainty": "Answer with complete certainty, without any doubt.",
}


@dataclass(frozen=True, slots=True)
class Read:
    """What one reader saw. `against` holds, by kind of random direction, the move, what is beyond them, the share of prompts that
    move the wrong way, and the quantiles over prompts; `instruction` is the move of a plain instruction."""

    reader: str
    told: str
    auroc: Reading
    against: dict[Kind, Shift]
    instruction: Reading
    reason: str = ""  # why it was not measured; then `against` is empty

    @property
    def beyond(self) -> Reading:
        """The headline: beyond matched directions."""
        if "matched" in self.against:
            return self.against["matched"].beyond
        return Reading.not_measured(self.reason, unit=UNIT, method=f"scores of texts by {self.reader}")


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one push. `texts` are those of the first prompts: plain, pushed, instructed and of the first random one."""

    push: str
    positions: str
    nats: float
    cost: float  # measured on the prompts of the dose
    prompts: int
    topics: int
    empty: int  # prompts left out: an empty text
    reads: tuple[Read, ...]  # of generated texts
    next_token: Read
    texts: tuple[dict[str, str], ...]

    def read(self, reader: str) -> Read:
        for one in self.reads:
            if one.reader == reader:
                return one
        raise InputError(f"reader {reader!r}: was not among {', '.join(one.reader for one in self.reads)}")


@dataclass(frozen=True)
class Controls:
    """Neutral prompts on which effects are measured, and what the network says to them plain and under random pushes.

    One of these serves every concept: what does not depend on the push but on its sites, scope and nats is made once.

    Attributes:
        bench: prompts on which doses are found; none of them may be among `prompts`.
        prompts: rows of one user message (or plain texts), whose groups are the topics.
    """

    subject: Subject
    bench: Bench
    prompts: Examples
    new_tokens: int = 48
    texts: int = TEXTS
    tokens: int = TOKENS
    seed: int = 0
    report: Told | None = None
    kept: dict[Hashable, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if set(self.prompts.ids) & set(self.bench.prompts.ids):
            raise InputError("prompts: some are those on which doses are found; give others")

    @property
    def chat(self) -> bool:
        return self.prompts.kind == "chat"

    @property
    def asked(self) -> list[str]:
        return self.prompts.texts()

    @property
    def plain(self) -> tuple[str, ...]:
        return self._once(("plain",), lambda: self.said())  # type: ignore[return-value]

    def said(self, instruction: str = "") -> tuple[str, ...]:
        """Plain replies, or those to prompts that end with an instruction."""
        asked = [f"{prompt} {instruction}".strip() for prompt in self.asked]
        return tuple(replies(self.subject, asked, self.new_tokens, chat=self.chat))

    def random(self, push: Push, nats: float, kind: Kind, count: int) -> list[Sized]:
        """Random directions of one kind at the sites and in the scope of a push, at the same nats."""
        place = (push.sites, push.scope)
        randoms: Randoms = self._once(place, lambda: Randoms.of(self.bench, push, self.seed))  # type: ignore[assignment]
        key = (*place, nats, kind)
        found: list[Sized] = self.kept.get(key, [])  # type: ignore[assignment]
        if len(found) < count:
            found = found + same_nats(self.bench, randoms.draw(kind, count)[len(found) :], nats, self.report)
            self.kept[key] = found
        return found[:count]

    def random_texts(self, push: Push, nats: float, kind: Kind) -> list[tuple[str, ...]]:
        key = (push.sites, push.scope, nats, kind, "texts")
        made = self._once(key, lambda: self.texts_of(self.random(push, nats, kind, self.texts)))
        return made  # type: ignore[return-value]

    def texts_of(self, pushes: Sequence[Sized]) -> list[tuple[str, ...]]:
        key = ("texts", *((one.push.digest, one.push.scope, one.size) for one in pushes))
        made = self._once(
            key, lambda: texts_under(self.subject, self.asked, pushes, self.new_tokens, chat=self.chat, report=self.report)
        )
        return made  # type: ignore[return-value]

    def next_token(self, sized: Sized | None = None) -> Tensor:
        """Log-probabilities (prompts, vocabulary) of the token after each prompt."""
        edits = None if sized is None else sized.push.edits(sized.size)
        return next_token_logprobs(self.subject, self._tokens(), edits)

    def _tokens(self) -> TokenRows:
        return self._once(("tokens",), lambda: tokenise(self.subject, self.prompts))  # type: ignore[return-value]

    def _once(self, key: Hashable, make: Callable[[], object]) -> object:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def measure(
    controls: Controls,
    sized: Sized,
    nats: float,
    readers: Sequence[Reader],
    tokens: TokenReader | None,
    instruction: str = "",
    kinds: Sequence[Kind] = KINDS,
) -> Effect:
    """The effect of a push at the size at which it costs `nats`.

    Args:
        readers: fitted on rows that did not make the push.
        instruction: what would be asked for in words; empty where there is nothing to ask for.

    Raises:
        InputError: a random direction cannot be made to cost so much; fewer than 2 topics.
    """
    plain, pushed = controls.plain, controls.texts_of([sized])[0]
    random: dict[Kind, list[tuple[str, ...]]] = {kind: controls.random_texts(sized.push, nats, kind) for kind in kinds}
    instructed = controls.said(instruction) if instruction else None
    full = np.array([bool(a.strip()) and bool(b.strip()) for a, b in zip(plain, pushed, strict=True)])
    reads = tuple(_read(controls, reader, plain, pushed, random, instructed, full) for reader in readers)
    shown = [
        {"prompt": prompt, "plain": plain[n], "pushed": pushed[n]}
        | ({"instructed": instructed[n]} if instructed else {})
        | ({"random": random[kinds[0]][0][n]} if kinds and random[kinds[0]] else {})
        for n, prompt in enumerate(controls.asked[:6])
    ]
    return Effect(
        sized.push.site,
        sized.push.positions,
        nats,
        sized.cost,
        len(plain),
        len(np.unique(controls.prompts.groups)),
        int((~full).sum()),
        reads,
        _next_token(controls, sized, nats, tokens, instruction, kinds),
        tuple(shown),
    )


def _read(
    controls: Controls,
    reader: Reader,
    plain: tuple[str, ...],
    pushed: tuple[str, ...],
    random: dict[Kind, list[tuple[str, ...]]],
    instructed: tuple[str, ...] | None,
    full: NDArray[np.bool_],
) -> Read:
    method = f"score of the reply by {reader.name}, pushed less plain, mean over prompts"
    absent = Reading.not_measured("no instruction is known for this concept", unit=UNIT, method=method)
    reason = _unreadable(reader.auroc, reader.reads)
    if not reason and full.mean() < SHARE:
        reason = f"{int((~full).sum())} of {len(full)} prompts got an empty text"
    if reason:
        return Read(reader.name, reader.told, reader.auroc, {}, Reading.not_measured(reason, unit=UNIT, method=method), reason)
    topics = controls.prompts.groups
    base = reader.score(plain)
    moves = (reader.score(pushed) - base)[full]
    against: dict[Kind, Shift] = {
        kind: shift(moves, _filled(np.stack([reader.score(one) - base for one in texts])[:, full]), topics[full], UNIT, method)
        for kind, texts in random.items()
        if texts
    }
    told = absent
    if instructed is not None:
        asked = reader.score(instructed) - base
        kept = np.isfinite(asked)
        told = move_reading(asked[kept], topics[kept], UNIT, f"score of the reply by {reader.name}, instructed less plain")
    return Read(reader.name, reader.told, reader.auroc, against, told)


def _filled(moves: Floats) -> Floats:
    """(directions, prompts): where a text was empty, the mean of the prompt's other directions."""
    missing = ~np.isfinite(moves)
    if missing.any():
        rest = np.where(missing, 0.0, moves).sum(0) / np.maximum((~missing).sum(0), 1)
        moves = np.where(missing, rest, moves)
    return moves


def _next_token(
    controls: Controls, sized: Sized, nats: float, tokens: TokenReader | None, instruction: str, kinds: Sequence[Kind]
) -> Read:
    method = "expected log-odds score of the next token, pushed less plain, mean over prompts"
    reason = "no reader of tokens was given" if tokens is None else _unreadable(tokens.auroc, tokens.reads)
    if tokens is None or reason:
        none = Reading.not_measured(reason, unit=UNIT, method=method)
        return Read("tokens", "" if tokens is None else tokens.told, none if tokens is None else tokens.auroc, {}, none, reason)
    topics, base = controls.prompts.groups, tokens.expected(controls.next_token())
    moves = tokens.expected(controls.next_token(sized)) - base
    against = {}
    for kind in kinds:
        others = controls.random(sized.push, nats, kind, controls.tokens)
        found = np.stack([tokens.expected(controls.next_token(other)) - base for other in others])
        against[kind] = shift(moves, found, topics, UNIT, method)
    absent = "the next token of an instructed prompt is another question" if instruction else "no instruction is known"
    return Read("tokens", tokens.told, tokens.auroc, against, Reading.not_measured(absent, unit=UNIT, method=method))


def _unreadable(auroc: Reading, reads: bool) -> str:
    if reads:
        return ""
    return f"this reader does not read the concept on rows held out (AUROC {auroc}), so it measures nothing"


def made_from(strand: Strand, examples: Examples) -> None:
    """Raise InputError unless the strand was found on exactly these rows: else readers of other rows may have seen its own."""
    if strand.provenance.get("data") != examples.digest:
        raise InputError(
            f"strand {strand.name!r}: was not found on these rows, so no rows are known to be new to it; "
            "find it on one half of the groups (control.readers.halves) and fit readers on the other"
        )
