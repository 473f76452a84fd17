"""Read and use: whether the network's own answer depends on a direction along which a concept can be read.

Three measurements, each beside as many as a hundred directions at random and as many with the covariance of the states (random
mixtures of the states themselves, which have the size that a concept's direction has). v is the strand's pattern, what the
concept writes there, at the last position:

    susceptibility  vᵀFv·d / tr F, the mean over contexts; 1 is what a direction at random has. `beyond` is its ratio to the mean
                    of the matched ones.
    share           of v inside the top ten directions of the pooled response, found on one half of the topics and on the other.
    ablation        the mean KL of the next token when v's coordinate is set to its mean over neutral states, or taken out whole;
                    on neutral rows and on the concept's own.

Verdicts on a concept strand:

    read, and equivalent to no use    the strand is read, and both intervals lie below the margins whole: `beyond` below twice the
                                      matched directions, ablation on each kind of rows below a hundredth of a nat. One-sided,
                                      since less than chance is no use either. 95 % intervals; an equivalence test at 2.5 %.
    read and used                     the strand is read, and its susceptibility or an ablation exceeds those of the matched
                                      directions (permutation p, Holm over the looks, 5 %), with `beyond` above 1 if it is that.
    cannot tell                       neither.

They are verdicts about one position. What is not used at the last token may be used at others, or be used by later tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from ..capture.examples import Examples, neutral_prompts
from ..capture.record import capture
from ..capture.response import respond
from ..errors import InputError
from ..laws.price import LEVEL, NATS, half_width
from ..progress import Progress
from ..provenance import numpy_generator, torch_generator
from ..reading import Null, Reading
from ..statistics.paired import jackknife_variance
from ..statistics.resample import holm
from ..strand.response import along, inside, normalised
from ..subject.site import Site
from .bench import Bench, spread
from .edit import Ablate
from .naming import Named as Named
from .naming import name as name

if TYPE_CHECKING:
    from ..strand.strand import Strand
    from ..subject.subject import Subject

Floats = NDArray[np.float64]
Verdict = Literal["read and used", "read, and equivalent to no use at this position", "cannot tell"]

TOP = 10  # directions of the response subspace
ABLATED = 24  # rows of each kind on which ablations are measured: each meets every control
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Margin:
    """Below both of these a strand is as good as not used: times the matched directions' susceptibility, and nats of ablation."""

    times: float = 2.0
    nats: float = 0.01


@dataclass(frozen=True)
class Use:
    """Whether a strand's direction is used where it is read; see the module for what each reading is.

    Nulls: of `susceptibility` random directions, of all else the matched ones. `spread` is the standard deviation of the random
    directions' susceptibilities. `agreement` is the cosine of what is read (basis) with what is written (pattern).
    """

    strand: str
    site: str
    verdict: Verdict
    why: str
    susceptibility: Reading
    beyond: Reading
    share: Reading
    ablation: Reading
    ablation_whole: Reading
    ablation_own: Reading
    spread: float
    agreement: float
    margin: Margin

    def __str__(self) -> str:
        return f"{self.strand} at {self.site}: {self.verdict} ({self.why})"


def use(
    subject: Subject,
    strand: Strand,
    examples: Examples | None = None,
    *,
    contexts: int = 64,
    draws: int = 64,
    controls: int = 100,
    margin: Margin | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Use:
    """Whether the network's next token depends on the direction of a concept strand, at the last position.

    Args:
        examples: the concept's own rows; None measures on neutral ones alone.
        contexts: neutral prompts whose gradients are recorded; `draws` of each.
        controls: random directions, and as many matched ones.

    Raises:
        TrustError: the strand is from another network. InputError: it has no one direction, or was not read at the last position.
    """
    strand.check(subject.fingerprint, force=force)
    _check(strand, controls)
    margin = margin or Margin()
    tell = progress or (lambda *_: None)
    site = Site.parse(strand.site)
    prompts = neutral_prompts(strand.template.get("format", "chat" if subject.chats else "text") == "chat")
    prompts = prompts.subset(spread(prompts.groups, contexts, numpy_generator(seed, "contexts")))
    found = respond(subject, prompts, str(site), draws=draws, seed=seed, progress=lambda done, of: tell("gradients", done, of))
    gradients, topics = normalised(found.at(site), found.groups)
    states = capture(subject, prompts, [site], "last").at(site).double()
    direction = strand.pattern[:, 0].double()
    drawn = _controls(states, controls, torch_generator(seed, "controls", strand.name, str(site)))
    every = torch.cat([direction[None], drawn])
    size = along(gradients, every).numpy()  # (contexts, 1 + 2·controls)
    random, matched = slice(1, 1 + controls), slice(1 + controls, None)
    shares = inside(gradients, topics, every, TOP).numpy()
    rows = [prompts.subset(spread(prompts.groups, ABLATED, numpy_generator(seed, "ablated")))]
    if examples is not None:
        rows.append(examples.subset(spread(examples.groups, ABLATED, numpy_generator(seed, "ablated own"))))
    removed = [torch.cat([direction[None], drawn[controls:]])] * len(rows)
    means = states.mean(0)
    costs = []
    for number, (some, vectors) in enumerate(zip(rows, removed, strict=True)):
        tell("ablations", number, len(rows))
        bench = Bench.on(subject, some)
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        edits = [Ablate(vector, float(vector @ means)) for vector in unit]
        edits += [Ablate(vector) for vector in unit] if number == 0 else []
        costs.append((bench.costs_of(site, edits, "last"), bench.topics))
    tell("ablations", len(rows), len(rows))
    count = controls + 1
    whole = (costs[0][0][count:], costs[0][1])
    own = costs[1] if examples is not None else None
    return _judged(
        strand,
        margin,
        susceptibility=_susceptibility(size[:, 0], size[:, random], topics),
        beyond=_beyond(size[:, 0], size[:, matched], topics),
        share=_share(float(shares[0]), shares[matched], len(gradients)),
        ablation=_ablation(costs[0][0][:count], costs[0][1], "its mean on neutral states, on neutral rows"),
        ablation_whole=_ablation(*whole, "0, on neutral rows"),
        ablation_own=_ablation(own[0], own[1], "its mean on neutral states, on the concept's own rows")
        if own is not None
        else Reading.not_measured("no rows of the concept were given", unit=NATS, method="mean KL under ablation"),
        spread=float(size[:, random].mean(0).std(ddof=1)),
        agreement=float(strand.basis[:, 0].double() @ direction / direction.norm()),
    )


def _check(strand: Strand, controls: int) -> None:
    if strand.rank > 1:
        raise InputError(
            f"strand {strand.name!r}: has {strand.rank} directions, and use is asked of one; find one class of the rest"
        )
    if strand.position != "last":
        raise InputError(
            f"strand {strand.name!r}: was read at {strand.position!r}, and use is measured at the last position; "
            'find it again with positions="last"'
        )
    if controls < 20:
        raise InputError(
            f"controls: got {controls}, wanted at least 20 directions at random (100 for a 5 % level over three looks)"
        )


def _controls(states: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(2·count, d): directions at random, then random mixtures of the states, which have the states' covariance."""
    random = torch.randn(count, states.shape[1], generator=generator, dtype=torch.float64)
    mixture = torch.randn(count, len(states), generator=generator, dtype=torch.float64) @ (states - states.mean(0))
    return torch.cat([random, mixture])


def _null(value: float, others: Floats, method: str) -> Null:
    """Median, central 95 % and the share of the others at least as high, counted with the value itself."""
    low, high = (float(end) for end in np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    p = float((1 + (others >= value).sum()) / (1 + len(others)))
    return Null(float(np.median(others)), low, high, LEVEL, len(others), p, method)


def _susceptibility(own: Floats, others: Floats, topics: NDArray[np.int64]) -> Reading:
    mean, reach = float(own.mean()), half_width(own, topics)
    null = _null(mean, others.mean(0), "directions at random")
    how = f"vᵀFv·d / tr F, mean over {len(own)} neutral contexts; interval by topic"
    return Reading(mean, max(0.0, mean - reach), mean + reach, LEVEL, len(own), "of a random direction's", null, how)


def _beyond(own: Floats, others: Floats, topics: NDArray[np.int64]) -> Reading:
    """Ratio of means, its interval by the jackknife over topics of the logarithm (of the ratio itself where it is 0)."""
    mean = others.mean(1)
    value = float(own.sum() / mean.sum())
    null = _null(value, others.sum(0) / mean.sum(), "directions with the covariance of the states")
    how = f"susceptibility over the mean of {others.shape[1]} matched directions'; jackknife over topics"
    low, high = jackknife_ratio(own, mean, topics)
    return Reading(value, low, high, LEVEL, len(own), "of matched directions'", null, how)


def jackknife_ratio(top: Floats, bottom: Floats, topics: NDArray[np.int64]) -> tuple[float, float]:
    """The interval of Σtop/Σbottom, by deleting topics; on a logarithmic scale unless a sum above is 0."""
    _, topic = np.unique(topics, return_inverse=True)
    count = int(topic.max()) + 1
    above, below = (values.sum() - np.bincount(topic, values, count) for values in (top, bottom))
    value = float(top.sum() / bottom.sum())
    logs = bool((above > 0).all())
    left = np.log(above / below) if logs else above / below
    reach = float(student.ppf(0.5 + LEVEL / 2, count - 1)) * float(jackknife_variance(left)) ** 0.5
    return (value * np.exp(-reach), value * np.exp(reach)) if logs else (max(0.0, value - reach), value + reach)


def _share(value: float, others: Floats, n: int) -> Reading:
    """Two halves of the contexts agree or they do not: no interval is claimed beyond the null."""
    null = _null(value, others, "directions with the covariance of the states")
    how = f"squared length inside the top {TOP} directions of the pooled response, mean of two halves of the topics"
    return Reading(value, value, value, None, n, "share", null, how)


def _ablation(costs: Floats, topics: NDArray[np.int64], what: str) -> Reading:
    """From costs (1 + controls, rows): the strand's first."""
    means = costs.mean(1)
    mean, reach = float(means[0]), half_width(costs[0], topics)
    null = _null(mean, means[1:], "ablation of directions with the covariance of the states")
    how = f"mean KL(plain ‖ ablated) of the next token, coordinate set to {what}; interval by topic"
    return Reading(mean, max(0.0, mean - reach), mean + reach, LEVEL, costs.shape[1], NATS, null, how)


def _judged(strand: Strand, margin: Margin, **readings: Reading | float) -> Use:
    verdict, why = verdict_of(
        strand.evidence,
        readings["beyond"],  # type: ignore[arg-type]
        [readings["ablation"], readings["ablation_own"]],  # type: ignore[list-item]
        margin,
    )
    return Use(strand.name, strand.site, verdict, why, margin=margin, **readings)  # type: ignore[arg-type]


def verdict_of(read: Reading, beyond: Reading, ablations: Sequence[Reading], margin: Margin) -> tuple[Verdict, str]:
    """The verdict by the rules in this module's docstring, and the sentence that gives its reason."""
    if read.low is None or not read.low > 0.5:
        return "cannot tell", "the strand's evidence does not show that it is read (AUROC not above 0.5)"
    measured = [reading for reading in ablations if reading.value is not None]
    assert beyond.high is not None and beyond.low is not None and beyond.null is not None
    highest = max(reading.high for reading in measured)  # type: ignore[type-var]
    assert highest is not None
    figures = f"{beyond.value:.2g} times the matched directions' susceptibility [{beyond.low:.2g}, {beyond.high:.2g}]"
    figures += f", ablation at most {highest:.2g} nats"
    if beyond.high < margin.times and highest < margin.nats:
        return (
            "read, and equivalent to no use at this position",
            f"{figures}; margins {margin.times:g} times and {margin.nats:g} nats",
        )
    looks = [beyond, *measured]
    corrected = holm([look.null.p for look in looks if look.null is not None and look.null.p is not None])
    names = ["susceptibility", "ablation on neutral rows", "ablation on its own rows"]
    shown = [
        f"{name} (p = {p:.2g})"
        for name, look, p in zip(names, looks, corrected, strict=False)
        if p <= ALPHA and (look is not beyond or beyond.low > 1)
    ]
    if shown:
        return "read and used", f"beyond matched directions in {', '.join(shown)}; {figures}"
    return "cannot tell", f"{figures}; neither beyond matched directions nor below the margins"
