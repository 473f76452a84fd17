"""A concept's push, tried as a whole: found on one half of the rows, spoken of beforehand, pushed, re-read, and its cost.

The strand is found on the first half of the groups, readers are fitted on the second; doses and effects are measured on neutral
prompts that share none. Nothing that is reported here was chosen by what it reports: the dose is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..capture.examples import Examples, neutral_prompts, passages
from ..capture.record import capture
from ..errors import InputError, StrandscopeError
from ..progress import Progress
from ..provenance import numpy_generator
from ..strand.find import find
from ..strand.strand import Strand
from ..subject.site import Site
from .bench import Bench, spread
from .cost import Cost, NeutralText, cost_of
from .dose import Dose, find_dose
from .effect import INSTRUCTIONS, Controls, Effect, measure
from .preflight import Preflight, agreement, preflight
from .push import Push
from .readers import halves, state_reader, token_reader, word_reader
from .replies import ReplyBench
from .together import KINDS, Kind, Sized
from .use import Use, use

if TYPE_CHECKING:
    from ..subject.subject import Subject


@dataclass(frozen=True, slots=True)
class Spec:
    """How much is spent. `texts` and `tokens` are random directions of each of `kinds`, for generated texts and for next
    tokens."""

    nats: float = 0.3
    prompts: int = 60
    dose_prompts: int = 32
    new_tokens: int = 48
    texts: int = 20
    tokens: int = 100
    kinds: tuple[Kind, ...] = KINDS
    passages: int = 100
    passage_tokens: int = 128
    replies: int = 24
    contexts: int = 48
    draws: int = 32
    use_controls: int = 100


# For two CPU cores (SmolLM2-135M: some five minutes a concept, hours in full): the interval of an effect is twice as wide.
SMALL = Spec(
    prompts=20, dose_prompts=24, new_tokens=24, tokens=20, kinds=("matched",), passages=25, passage_tokens=64, replies=12,
    contexts=24, use_controls=60,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Study:
    """`verdict` was given before the push; `strand` is that of half of the rows."""

    strand: Strand
    verdict: Preflight
    effect: Effect
    cost: Cost


def study(
    subject: Subject, examples: Examples, spec: Spec | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Study:
    """The effect of a push along the concept of these rows, its cost, and what was said of it beforehand.

    Raises:
        InputError: rows of other than two classes or too few groups, a network that generates no text, or no size costs so much.
    """
    spec, tell = spec or Spec(), progress or (lambda *_: None)
    first, second = halves(examples, seed)
    tell("finding the strand on half of the groups", 0, 5)
    strand = find(capture(subject, first, "resid:*", "last"), permutations=0, seed=seed).best
    bench, asked = _prompts(subject, spec, seed)
    tell("the verdict beforehand", 1, 5)
    verdict, dose = before(subject, strand, first, bench, spec, seed)
    if isinstance(dose, StrandscopeError):
        raise dose
    tell("readers", 2, 5)
    readers = [state_reader(subject, second, seed), word_reader(second, seed)]
    tokens = token_reader(subject, second, seed)
    assert dose.scale.value is not None and dose.cost.value is not None  # a dose is always measured
    sized = Sized(Push({Site.parse(strand.site): strand.pattern[:, 0]}), dose.scale.value, dose.cost.value)
    count = [0]

    def told() -> None:
        count[0] += 1
        tell("random directions and texts", count[0], 0)

    controls = Controls(subject, bench, asked, spec.new_tokens, spec.texts, spec.tokens, seed, told)
    effect = measure(controls, sized, spec.nats, readers, tokens, INSTRUCTIONS.get(examples.name, ""), spec.kinds)
    tell("costs", 4, 5)
    text = passages().subset(np.arange(spec.passages))
    replies = ReplyBench.replying(subject, spec.replies, seed, new_tokens=min(32, spec.new_tokens))
    pair = (controls.plain, controls.texts_of([sized])[0], controls.prompts.groups)
    cost = cost_of(NeutralText.of(subject, text, spec.passage_tokens), replies, sized.push.edits(sized.size), pair)
    tell("costs", 5, 5)
    return Study(strand, verdict, effect, cost)


def before(
    subject: Subject, strand: Strand, rows: Examples, bench: Bench, spec: Spec, seed: int
) -> tuple[Preflight, Dose | StrandscopeError]:
    """The verdict on a push along a strand, before it is tried, and its dose (or what was raised in its place).

    Args:
        rows: those that the strand was found on.
    """
    states = capture(subject, rows, strand.site, "last").at(strand.site)
    said: Use | str
    try:
        said = use(subject, strand, rows, contexts=spec.contexts, draws=spec.draws, controls=spec.use_controls, seed=seed)
    except StrandscopeError as error:  # such as: no gradient at this site; the verdict says so
        said = str(error)
    dose: Dose | StrandscopeError
    try:
        dose = find_dose(bench, strand.site, strand.pattern[:, 0], spec.nats)
    except StrandscopeError as error:  # such as: no size costs so much, which is a verdict
        dose = error
    agreed = agreement(states, rows.labels, pairs_of(rows), seed)
    return preflight(strand.name, strand.site, spec.nats, said, agreed, dose), dose


def pairs_of(rows: Examples) -> np.ndarray:
    """(rows,) pairs where most rows are in one, else groups."""
    paired = len(rows) - len(set(rows.pairs.tolist()))  # a pair of two saves one code
    return rows.pairs if 2 * paired > 0.5 * len(rows) else rows.groups


def _prompts(subject: Subject, spec: Spec, seed: int) -> tuple[Bench, Examples]:
    """Neutral prompts for doses, and others for the effect, each spread over all topics."""
    prompts = neutral_prompts(subject.chats)
    rows = spread(prompts.groups, spec.dose_prompts, numpy_generator(seed, "prompts of the dose"))
    rest = prompts.subset(np.setdiff1d(np.arange(len(prompts)), rows))
    if spec.prompts > len(rest):
        raise InputError(f"prompts: got {spec.prompts}, and {len(rest)} are left beside those of the dose; ask for fewer")
    asked = rest.subset(spread(rest.groups, spec.prompts, numpy_generator(seed, "prompts of the effect")))
    return Bench.on(subject, prompts.subset(rows)), asked
