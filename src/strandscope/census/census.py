"""The census of a network: how many directions its output answers to, site by site, beside twins that learned nothing.

The order of work is the method. Contexts are chosen and cut. The network is measured at them as it is. Then, one after the other,
twins of its own shape: weights drawn anew, and weights shuffled inside every block's matrices, each from several seeds, their
logits scaled context by context until their output is as uncertain as the network's own. Only then are figures compared: on the
contexts that could be measured in all networks, with intervals over contexts and twins, and verdicts at a level that holds over
all sites together. At a few sites the draws are kept for the law of sharing; the other laws are tested on what was reduced.

What it promises: the same seed, texts, network and versions give the same figures; a network that was measured is kept below
`out`, so an interrupted census goes on where it was and says so. No dimension is reported without its twins'. What it does not
know: whether other texts would give the same; and that a network has few directions at a context says nothing of which.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from ..errors import InputError, TrustError
from ..provenance import stream_seed
from ..reading import Reading
from ..subject.site import Site
from ..subject.subject import Subject
from ..subject.twin import twin
from . import laws
from .compare import MARGIN, compare, family_level, over_contexts
from .contexts import Contexts, Texts, choose
from .kept import Kept, network_key
from .measure import Measurement, measure
from .result import Census, Network

Kind = Literal["random", "scrambled"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Progress(Protocol):
    """Called as work goes on; with `of` 0 the stage's text is a remark."""

    def __call__(self, stage: str, done: int, of: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. `sites`: at most so many of those asked for, evenly spread; None is all."""

    contexts: int = 100
    draws: int = 64
    probes: int = 64
    seeds: int = 3
    sites: int | None = None
    laws: int = 3  # sites at which the laws of strands are tested


FULL = Settings()
QUICK = Settings(contexts=24, seeds=1, sites=7, laws=1)


def census(
    subject: Subject,
    texts: Texts = None,
    *,
    contexts: int | None = None,
    at: str | Sequence[str | Site] = "resid:*",
    draws: int | None = None,
    probes: int | None = None,
    seeds: int | None = None,
    kinds: Sequence[Kind] = KINDS,
    laws_at: str | Sequence[str | Site] | None = None,
    cut: bool = True,
    quick: bool = False,
    margin: tuple[float, float] = MARGIN,
    noise: float | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Census:
    """Count the directions that a network's output answers to, at every site, and compare with its twins.

    Args:
        texts: a .jsonl, .csv or .txt file or Examples; None is the project's pack of passages.
        contexts, draws, probes, seeds: how many of each (twins: `seeds` of each kind); None is 100, 64, 64 and 3.
        kinds: of twins.
        laws_at: where the laws of strands are tested, of the sites; None is three, evenly spread.
        cut: whether each text is cut at a place of its own; else it is measured at its end.
        quick: 24 contexts, one twin of each kind and at most seven sites, where not said otherwise.
        noise: σ of the outputs, for a network that answers with numbers and not with logits.
        margin: of the ratio trained/twin inside which the two are as good as alike.
        out: a folder in which networks that were measured are kept.

    Raises:
        InputError: fewer than 8 contexts, a text longer than the network's context, a site or setting that cannot be.
        TrustError: states or gradients that are not finite. MissingError: `out` cannot be written.
    """
    form = QUICK if quick else FULL
    draws, probes = _checked("draws", draws or form.draws, 16), _checked("probes", probes or form.probes, 16)
    seeds = form.seeds if seeds is None else seeds
    _check(subject, kinds, seeds, margin)
    rows = choose(subject, texts, contexts or form.contexts, cut=cut, seed=seed)
    sites = _spread(subject.sites(at), form.sites)
    tested = _inside(sites, form.laws) if laws_at is None else [site for site in subject.sites(laws_at) if site in sites]
    kept = Kept.below(None if out is None else Path(out))
    work = _Work(subject, rows, sites, tested, draws, probes, noise, seed, kept, progress)

    trained = work.network("trained", "trained", 0, None)
    twins, no_twins = [], "" if seeds and kinds else "no twins were asked for"
    for kind in kinds if seeds else ():
        for number in range(1, seeds + 1):
            try:
                twins.append(work.network(f"{kind} {number}", kind, _twin_seed(seed, kind, number), trained))
            except (InputError, TrustError) as error:
                no_twins = f"{no_twins}; {error}" if no_twins else str(error)
                break
    networks = [trained, *twins]
    groups = rows.examples.groups
    tests, untested = laws.strands(networks, [str(site) for site in tested], groups, seed)
    sharing, more = laws.shared(networks)
    found = compare(networks, [str(site) for site in sites], groups, margin=margin, no_twins=no_twins)

    return Census(
        subject=subject.name,
        fingerprint=subject.fingerprint,
        dtype=str(subject.dtype).removeprefix("torch."),
        device=str(subject.device),
        source=rows.source,
        cut=rows.cut,
        digest=rows.examples.digest,
        contexts=len(rows),
        groups=len(np.unique(groups)),
        tokens=_tokens(rows),
        draws=draws,
        probes=probes,
        seeds=seeds,
        seed=seed,
        margin=margin,
        level=family_level(len(sites) * max(1, len({one.kind for one in twins}))),
        networks=tuple(_network(one, groups) for one in networks),
        sites=found,
        laws=(*tests, *more),
        sharing=sharing,
        limits=(*_limits(rows, networks, quick, no_twins), *untested),
        resumed=tuple(kept.taken),
        no_twins=no_twins,
        measured=tuple(networks),
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """Measures one network after the other, each taken from an earlier run if it is there."""

    subject: Subject
    rows: Contexts
    sites: list[Site]
    tested: list[Site]
    draws: int
    probes: int
    noise: float | None
    seed: int
    kept: Kept
    progress: Progress | None

    def network(self, name: str, kind: str, twin_seed: int, trained: Measurement | None) -> Measurement:
        spec = {"kind": kind, "twin": twin_seed, "sites": [str(site) for site in self.sites], "seed": self.seed}
        spec |= {"noise": self.noise, "draws": self.draws, "probes": self.probes, "laws": [str(site) for site in self.tested]}
        key = network_key(self.subject, self.rows, **spec)
        before = self.kept.get(name, key)
        if before is not None:
            self.say(f"{name}: taken from an earlier run in {self.kept.folder}", 0, 0)
            return before
        subject = self.subject if trained is None else twin(self.subject, kind, twin_seed)  # type: ignore[arg-type]
        made = measure(
            subject,
            self.rows,
            self.sites,
            draws=self.draws,
            probes=self.probes,
            seed=stream_seed(self.seed, "census draws", name),
            name=name,
            kind=kind,
            twin_seed=twin_seed,
            entropy=None if trained is None or self.noise is not None else trained.entropy,
            noise=self.noise,
            shared=self.tested,
            progress=lambda done, of: self.say(name, done, of),
        )
        self.kept.put(made, key)
        return made

    def say(self, stage: str, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, of)


def _twin_seed(seed: int, kind: str, number: int) -> int:
    return stream_seed(seed, "twin", kind, str(number)) % 2**32  # a number that JSON readers keep whole


def _check(subject: Subject, kinds: Sequence[str], seeds: int, margin: tuple[float, float]) -> None:
    if not isinstance(subject, Subject):
        raise InputError(f"subject: got a {type(subject).__name__}, wanted a Subject; ss.load opens one")
    wrong = next((kind for kind in kinds if kind not in KINDS), None)
    if wrong is not None or isinstance(kinds, str):
        raise InputError(f"kinds: got {wrong or kinds!r}, wanted some of {', '.join(KINDS)}")
    if seeds < 0:
        raise InputError(f"seeds: got {seeds}, wanted 3 or more twins of each kind, or 0 for none")
    if not 0 < margin[0] < 1 < margin[1]:
        raise InputError(f"margin: got {margin}, wanted a pair around 1 such as {MARGIN}")


def _checked(name: str, value: int, least: int) -> int:
    if value < least:
        raise InputError(f"{name}: got {value}, wanted at least {least}; a dimension is read off pairs of draws")
    return value


def _spread(sites: list[Site], most: int | None) -> list[Site]:
    """At most so many of the sites, the ends with them where there are two or more."""
    if most is None or len(sites) <= most:
        return sites
    if most == 1:
        return [sites[len(sites) // 2]]
    return [sites[round(number * (len(sites) - 1) / (most - 1))] for number in range(most)]


def _inside(sites: list[Site], count: int) -> list[Site]:
    """So many of the sites, the middle of each of as many parts."""
    count = min(count, len(sites))
    return [sites[len(sites) * (2 * number + 1) // (2 * count)] for number in range(count)]


def _network(measured: Measurement, groups: np.ndarray) -> Network:
    return Network(
        name=measured.name,
        kind=measured.kind,
        seed=measured.seed,
        fingerprint=measured.fingerprint,
        entropy=over_contexts(measured.entropy, groups, "nats", "entropy of the next token as measured, logits scaled"),
        scale=over_contexts(measured.scale, groups, "times the logits", "scale β that matches the trained network's entropy"),
        output=over_contexts(np.exp(measured.output), groups, "dimensions", "participation ratio of the output metric A, exact"),
        seconds=measured.seconds,
    )


def _tokens(rows: Contexts) -> Reading:
    if rows.lengths is None:
        return Reading.not_measured("the rows are no tokens", unit="tokens", method="length of the contexts")
    return over_contexts(np.array(rows.lengths, dtype=float), rows.examples.groups, "tokens", "length of the contexts")


def _limits(rows: Contexts, networks: Sequence[Measurement], quick: bool, no_twins: str) -> tuple[str, ...]:
    said = [
        f"These are {len(rows)} contexts ({rows.source}; {rows.cut}); other texts and lengths were not tried.",
        "The response is that of the next token to the state at a context's last position, to first order; what a state does to "
        "later tokens is not in it.",
        "A participation ratio depends on the coordinates: raw figures are those of the network's own, whitened ones weigh "
        "directions by how far the activations spread along them.",
        "That a figure differs from the twins' says that training made it; it does not say what the directions are, nor that a "
        "concept lies on them.",
    ]
    if quick:
        said.append("This is a quick census: fewer contexts and sites, and one twin of each kind, whose like may differ.")
    if no_twins:
        said.append(f"Some twins are missing: {no_twins}.")
    if np.isnan(networks[0].entropy).any():
        return (*said, "The answer is a number with stated noise: it has no entropy, and the twins' is not scaled to any.")
    gap = max((float(np.abs(one.entropy - networks[0].entropy).max()) for one in networks[1:]), default=0.0)
    if gap > 0.01:
        said.append(f"The twins' output entropy differs from the network's by up to {gap:.2g} nats at a context.")
    return tuple(said)
