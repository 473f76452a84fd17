"""Erasing a concept from a network, with a certificate: what probes still read of it, there and one and two blocks later.

    made = certify(subject, ss.concept("harm"), "resid:20")
    print(made)                                       # a line a probe and place, then the damage
    with attach(subject, edits=made.edits): …         # or made.eraser.save("harm.safetensors")

Groups are parted in two. From one half the eraser is made, and all that is chosen with it. On the other half probes are trained
and tested before and after (`strand.leakage`): at the site, and with the edit attached one and two blocks later, since what is
erased may come back from other positions and from what the eraser leaves. Beside it stands the damage: the cost in nats of the
erasure at all positions after neutral prompts, and what it adds to the loss per token on neutral passages.

The eraser is the one that was certified, fitted on its half of the groups; more rows would leave less (`rows_needed`).

What it does not know: what probes of other kinds, or of more rows, would read; and other positions than the one it is judged at.
A site that was chosen on the same rows reads a little better before than it should; "erased" is not made easier by that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..capture.activations import Activations
from ..capture.examples import Examples, passages
from ..capture.predict import reply_logprobs
from ..capture.record import capture
from ..capture.tokens import tokenise
from ..errors import InputError
from ..laws.price import half_width, mean_reading
from ..progress import Progress
from ..provenance import numpy_generator, versions
from ..reading import Reading
from ..strand.erase import Eraser, Metric, fit_eraser
from ..strand.leakage import KINDS, Judging, Leak, Verdict, closed_form, overall, parted, rows_needed
from ..strand.rows import Ordered
from ..subject.attach import Edit, Scope, attach
from ..subject.site import Site
from .bench import Bench
from .hold import Erase

if TYPE_CHECKING:
    from ..subject.subject import Subject

Floats = NDArray[np.float64]
KL, LOSS = "nats per next token", "nats per token"
LATER = 2  # blocks after the site
AT_ONCE = 4  # passages, whose logits at all positions are held
CHARACTERS = 400  # of each passage, from its start


def edit_of(eraser: Eraser) -> Erase:
    return Erase(eraser.read, eraser.write, eraser.mean)


@dataclass(frozen=True, slots=True)
class Place:
    """A site where probes looked, so many blocks after the erasure."""

    site: str
    later: int
    leaks: tuple[Leak, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """What an erasure at all positions does to neutral text.

    `kl` is the mean KL after neutral prompts, `loss` the mean cross-entropy of neutral passages without the edit, `added` what it
    rises by, paired by passage; e to its power is the factor on the perplexity.
    """

    kl: Reading
    loss: Reading
    added: Reading

    @classmethod
    def not_measured(cls, why: str) -> Damage:
        kl = Reading.not_measured(why, unit=KL, method="mean KL after neutral prompts")
        loss, added = (
            Reading.not_measured(why, unit=LOSS, method=f"mean {what} of neutral passages") for what in ("loss", "added loss")
        )
        return cls(kl, loss, added)


@dataclass(frozen=True)
class Erasure:
    """An eraser of one network at one site, and its certificate.

    Attributes:
        places: the site, then later blocks.
        less: AUROC of a linear probe after plain LEACE of the same rows, less that after this eraser; 0 where they are the same.
        moved: what the eraser takes out of rows that it has not seen, as a share of their variance.
        needed: rows to fit with which the best linear probe would be left .55; `bound` by the law of plain LEACE alone.
        fitted, certified: rows and groups of each half.
    """

    name: str
    classes: tuple[str, ...]
    site: str
    position: str
    eraser: Eraser
    places: tuple[Place, ...]
    less: Reading
    moved: Reading
    damage: Damage
    needed: Reading
    bound: int | None
    fitted: tuple[int, int]
    certified: tuple[int, int]
    permutations: int
    seed: int
    digest: str

    @property
    def verdict(self) -> Verdict:
        return overall([leak for place in self.places for leak in place.leaks])

    @property
    def edits(self) -> Mapping[Site, Sequence[tuple[Edit, Scope]]]:
        """For `attach`: the erasure at all positions."""
        return {Site.parse(self.site): [(edit_of(self.eraser), Scope())]}

    def __str__(self) -> str:
        head = f"{self.name} at {self.site}, rank {self.eraser.rank}, from {self.fitted[0]} rows: {self.verdict}"
        lines = [f"  {place.site} {leak.probe}: {leak.after}, {leak.verdict}" for place in self.places for leak in place.leaks]
        return "\n".join([head, *lines, f"  KL {self.damage.kl}; loss {self.damage.added}; rows needed {self.needed}"])


def certify(
    subject: Subject,
    examples: Examples,
    site: str | Site,
    *,
    position: Literal["last", "mean"] = "last",
    shrinkages: Sequence[float] | None = None,
    permutations: int = 19,
    prompts: int = 48,
    texts: int = 16,
    seed: int = 0,
    states: Activations | None = None,
    progress: Progress | None = None,
) -> Erasure:
    """Fit an eraser on half of the groups and certify it on the other half.

    Args:
        shrinkages: () is plain LEACE; None chooses, within the eraser's half.
        permutations: of the labels after the erasure, for the null of every line.
        states: of the examples at this position, captured before at the site and those after it; None captures them.
        prompts, texts: neutral prompts and passages that the damage is measured on; none is measured without a tokenizer.

    Raises:
        InputError: an unknown site, too few rows or groups of a class, permutations below 1.
    """
    if permutations < 1:
        raise InputError(f"permutations: got {permutations}, wanted at least 1, such as 19")
    examples.require(min_per_class=10, folds=5)
    where = Site.parse(site)
    sites = [where, *_later(subject, where)]

    def told(stage: str, done: int, of: int) -> None:
        if progress:
            progress(f"{examples.name}: {stage}", done, of)

    if states is None:
        states = capture(subject, examples, sites, position, progress=lambda done, of: told("states", done, of))
    _check(states, subject, examples, position)
    rows = Ordered.of(states)
    before = dict(zip(rows.sites, rows.states, strict=True))
    if str(where) not in before:
        raise InputError(f"site {where}: every row has the same state there; choose another site or position")
    half = parted(rows.labels, rows.groups, seed, rows.key)
    ours, other = np.flatnonzero(half), np.flatnonzero(~half)
    told("eraser", 0, 1)
    here = before[str(where)]
    eraser = fit_eraser(here[ours], rows.labels[ours], rows.groups[ours], shrinkages=shrinkages)
    about = {"data": examples.digest, "seed": seed, "rows": len(ours), "groups": _count(rows, ours), "versions": versions()}
    eraser = replace(
        eraser, name=examples.name, site=str(where), position=position, classes=examples.classes,
        fingerprint=subject.fingerprint, provenance=about,
    )  # fmt: skip
    judging = Judging.of(
        rows.labels[other], rows.groups[other], rows.pairs[other], permutations, len(sites) * len(KINDS),
        numpy_generator(seed, "certificate", rows.key),
    )  # fmt: skip
    after = _under(subject, examples.subset(rows.order[other]), sites, position, eraser)
    places = []
    for number, where_now in enumerate(map(str, sites)):
        leaks = []
        for count, kind in enumerate(KINDS):
            told(f"probes at {where_now}", count, len(KINDS))
            leaks.append(judging.leak(kind, before[where_now][other], after[where_now]))
        places.append(Place(where_now, number, tuple(leaks)))
    held = here[other]
    plain = fit_eraser(here[ours], rows.labels[ours], shrinkages=())
    told("damage", 0, 1)
    made = Erasure(
        name=examples.name,
        classes=examples.classes,
        site=str(where),
        position=position,
        eraser=eraser,
        places=tuple(places),
        less=judging.less_than(plain(held), eraser(held)),
        moved=_moved(held, eraser, rows.groups[other]),
        damage=damage(subject, where, edit_of(eraser), prompts=prompts, texts=texts, seed=seed),
        needed=rows_needed(eraser, Metric.of(here[ours], rows.labels[ours]), held, rows.labels[other], judging.folds),
        bound=closed_form(eraser) if len(examples.classes) == 2 else None,
        fitted=(len(ours), _count(rows, ours)),
        certified=(len(other), _count(rows, other)),
        permutations=permutations,
        seed=seed,
        digest=examples.digest,
    )
    told("damage", 1, 1)
    return made


def _check(states: Activations, subject: Subject, examples: Examples, position: str) -> None:
    if (states.fingerprint, states.examples.digest, states.positions) != (subject.fingerprint, examples.digest, position):
        raise InputError(
            "states: are of another network, other examples or another position; leave them out to have them captured"
        )
    if states.edited:
        raise InputError("states: were captured under edits, so they are not the network's own; capture them without")


def _later(subject: Subject, site: Site) -> list[Site]:
    """The next two block outputs; fewer at the network's end, none where no blocks were found."""
    if not subject.blocks:
        return []
    order = subject.port(site).order
    return [one for one in subject.sites("resid:*") if subject.port(one).order > order and one != site][:LATER]


def _under(subject: Subject, examples: Examples, sites: Sequence[Site], position: str, eraser: Eraser) -> dict[str, Tensor]:
    """States with the erasure at all positions, rows as they stand."""
    with attach(subject, edits={sites[0]: [(edit_of(eraser), Scope())]}):
        acts = capture(subject, examples, list(sites), position)  # type: ignore[arg-type]
    return {str(site): acts.at(site).float() for site in sites}


def _count(rows: Ordered, chosen: NDArray[np.int64]) -> int:
    return len(np.unique(rows.groups[chosen]))


def _moved(states: Tensor, eraser: Eraser, groups: NDArray[np.int64]) -> Reading:
    """Mean squared length of what the eraser takes out of unseen rows, over their variance."""
    wide = states.double()
    spread = float((wide - wide.mean(0)).square().sum(1).mean())
    taken = (eraser(wide) - wide).square().sum(1).numpy() / spread
    return mean_reading(taken, groups, "of the variance", "what is taken out of rows that the eraser has not seen")


def damage(subject: Subject, site: Site, edit: Edit, *, prompts: int = 48, texts: int = 16, seed: int = 0) -> Damage:
    """Costs of an edit at all positions on the project's neutral prompts and passages."""
    if subject.tokenizer is None or not (subject.anatomy.tokens and subject.anatomy.causal and subject.anatomy.head):
        return Damage.not_measured(f"{subject.name} is no language model that takes text")
    bench = Bench.of(subject, prompts, seed)
    how = f"mean KL after {len(bench.prompts)} neutral prompts, erased at all positions; interval by topic"
    kl = mean_reading(bench.costs(site, edit, "all"), bench.topics, KL, how)
    some = passages()
    some = some.subset(np.arange(min(texts, len(some))))
    some = replace(some, rows=tuple(replace(row, input=str(row.input)[:CHARACTERS]) for row in some.rows))
    plain, erased = _losses(subject, some, None), _losses(subject, some, {site: [(edit, Scope())]})
    how = f"mean next-token cross-entropy of {len(some)} neutral passages' first {CHARACTERS} characters; interval by kind"
    added, reach = float((erased - plain).mean()), half_width(erased - plain, some.groups)
    return Damage(
        kl,
        mean_reading(plain, some.groups, LOSS, how),
        Reading(added, added - reach, added + reach, 0.95, len(some), LOSS, None, f"{how}, erased less plain, paired"),
    )


def _losses(subject: Subject, some: Examples, edits: Mapping[Site, Sequence[tuple[Edit, Scope]]] | None) -> Floats:
    """Mean cross-entropy of each passage's tokens after the first, in nats."""
    tokens, found = tokenise(subject, some), []
    for start in range(0, len(some), AT_ONCE):
        part = tokens.subset(list(range(start, min(start + AT_ONCE, len(some)))))
        said = reply_logprobs(subject, part, [1] * len(part.ids), edits)
        for ids, logprobs in zip(part.ids, said, strict=True):
            found.append(-sum(float(logprobs[place, token]) for place, token in enumerate(ids[1:])) / (len(ids) - 1))
    if not all(map(math.isfinite, found)):
        raise InputError("the erasure made the network's output NaN or infinite; erase at another site")
    return np.array(found)
