"""Find where and how a concept can be read in captured states, with the evidence for it.

Everything that is chosen (method, site, penalty, number of sites) is chosen by cross-validation inside training groups; the
AUROC is of cross-fitted scores; its null is the whole procedure under permuted labels; beside it stand a bag of words and text
length, and the *paired* differences to them, which say what the network's state knows beyond the words. The strand that is
saved is refitted on all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..provenance import numpy_generator, versions
from ..reading import Null, Reading
from ..statistics.detect import Area, area, area_difference, quick_auroc, smallest_detectable
from ..statistics.resample import permuted_labels
from ..statistics.words import METHOD as WORDS
from ..statistics.words import length_scores, word_scores
from .linear import DEFAULT, LOGISTIC, Method, Training
from .nested import Choice, Evidence, choose, nested_evidence, targets
from .strand import Shown, Strand, orthonormal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]

LEVEL = 0.05  # of the test that says "detected"


class Rows(Protocol):
    """Labelled rows; `capture.Examples` is one."""

    name: str
    classes: tuple[str, ...]

    @property
    def rows(self) -> Sequence[Any]: ...
    @property
    def positive(self) -> str | None: ...
    @property
    def digest(self) -> str: ...
    def require(self, min_per_class: int = 10, folds: int = 5) -> None: ...


class States(Protocol):
    """States at sites with the rows they are of, one state a row; `capture.Activations` is one."""

    @property
    def examples(self) -> Any: ...
    @property
    def sites(self) -> Sequence[Any]: ...
    @property
    def rows(self) -> Tensor: ...
    @property
    def labels(self) -> Any: ...  # (rows,) class codes
    @property
    def groups(self) -> Any: ...  # (rows,) group codes
    @property
    def texts(self) -> Any: ...  # one string a row
    @property
    def positions(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def template(self) -> Any: ...
    def at(self, site: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class SiteReading:
    """One point of the layer curve: a single site, its method chosen inside training groups."""

    site: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` found: the readings first, then the strands they speak of.

    `decodable` is the figure of the whole procedure, `best.evidence` that of its best single site. `band` is the AUROC that the
    best of all sites exceeds under permuted labels in 5 % of cases. `words` and `length` are baselines; `beyond_words` and
    `beyond_length` the paired differences to them (not measured for rows without text).
    """

    name: str
    classes: tuple[str, ...]
    decodable: Reading
    best: Strand
    strands: tuple[Strand, ...]
    layers: tuple[SiteReading, ...]
    band: float | None
    words: Reading
    length: Reading
    beyond_words: Reading
    beyond_length: Reading
    detectable: Reading
    choices: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def p(self) -> float | None:
        """Permutation p-value of the nested AUROC, not yet corrected for other concepts."""
        return self.decodable.null.p if self.decodable.null else None

    @property
    def verdict(self) -> str:
        """ "detected", "not detected" or "not tested", at the 5 % level, for this concept alone."""
        return "not tested" if self.p is None else "detected" if self.p <= LEVEL else "not detected"

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}, {self.decodable}, n = {self.decodable.n}; best site {self.best.site}"


def find(
    acts: States,
    *,
    methods: Sequence[Method] = DEFAULT,
    logistic: bool = False,
    folds: int = 5,
    permutations: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Found:
    """Find a concept in states captured at one position a row.

    Args:
        methods: candidates; the default ones are linear in the labels, so that permutations are nearly free.
        logistic: let logistic regression compete too. Its permutations are refits: fewer of them are advisable.
        permutations: of the labels, for the null; 0 leaves the null out, and then the verdict is "not tested".

    Raises:
        InputError: fewer than ten rows of a class, fewer groups than folds, several states a row.
    """
    examples = acts.examples
    examples.require(min_per_class=10, folds=folds)
    if len(acts.rows) != len(examples.rows) or not bool((acts.rows == torch.arange(len(acts.rows))).all()):
        raise InputError(
            f"positions {acts.positions!r}: got {len(acts.rows)} states for {len(examples.rows)} rows; "
            "find wants one a row, such as 'last'"
        )
    labels, groups, classes = acts.labels, acts.groups, len(examples.classes)
    candidates = (*methods, *LOGISTIC) if logistic else tuple(methods)
    sites, states, skipped = _usable(acts)
    shuffled = permuted_labels(labels, groups, permutations, numpy_generator(seed, "permutations", examples.digest))
    columns = np.concatenate([labels[None], shuffled])
    report = (lambda done, of: progress("nested selection", done, of)) if progress else None
    generator = numpy_generator(seed, "folds", examples.digest)
    evidence = nested_evidence(states, columns, groups, classes, candidates, folds, generator, report)
    choice = choose(states, labels, groups, classes, candidates, folds, generator)

    method = f"cross-fitted AUROC over {folds} folds of groups; method, site, penalty and number of sites chosen inside"
    decodable = _reading(evidence.combined, columns, groups, evidence.folds, evidence.noise.combined, method)
    single_method = f"cross-fitted AUROC over {folds} folds of groups; method, site and penalty chosen inside"
    single = _reading(evidence.single, columns, groups, evidence.folds, evidence.noise.single, single_method)
    layers, band = _layer_curve(sites, evidence, columns, groups)
    words, length, beyond_words, beyond_length = _baselines(acts, evidence, columns, generator, classes)
    shown = _shown(evidence, labels, examples)
    provenance = {"data": examples.digest, "rows": len(labels), "seed": seed, "folds": folds, "versions": versions()}
    strands = tuple(
        _strand(acts, sites[site], states[site], candidates[choice.methods[place]], single, shown, provenance)
        for place, site in enumerate(choice.sites[: choice.size])
    )
    return Found(
        examples.name, examples.classes, decodable, strands[0], strands, layers, band, words, length, beyond_words, beyond_length,
        _detectable(decodable, evidence, labels, groups), _describe_choices(evidence.choices, sites, candidates), skipped,
    )  # fmt: skip


def _usable(acts: States) -> tuple[list[str], list[Tensor], tuple[str, ...]]:
    """Sites whose states vary, as fp32; a site where all rows have the same state can tell nothing and is named as skipped."""
    sites, states, skipped = [], [], []
    for site in acts.sites:
        rows = acts.at(site).float()
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"site {site}: its states hold a NaN or an infinity; leave it out of `at`, or look at the network there"
            )
        if bool((rows == rows[0]).all()):
            skipped.append(str(site))
        else:
            sites.append(str(site))
            states.append(rows)
    if not sites:
        raise InputError("sites: every row has the same state at all of them; choose other sites or another position")
    return sites, states, tuple(skipped)


def _plain(scores: Tensor) -> Floats:
    """(rows,) for two classes, (rows, classes) for more."""
    return scores[..., 0].double().numpy() if scores.shape[-1] == 1 else scores.double().numpy()


def pooled_aurocs(scores: Tensor, columns: Ints, folds: Ints) -> Floats:
    """AUROC inside folds for every label column at once: scores (rows, columns, classes); pairs weigh the same, classes too."""
    several = scores.shape[-1] > 1
    totals = np.zeros(scores.shape[1])
    for k in range(scores.shape[-1]):
        won, pairs = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for fold in np.unique(folds):
            rows = folds == fold
            truth = (columns[:, rows] == (k if several else 1)).astype(np.int64)
            here = truth.sum(1) * (truth.shape[1] - truth.sum(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                found = quick_auroc(scores[torch.as_tensor(rows), :, k].T.double().numpy(), truth)
            won += np.where(here > 0, found * here, 0.0)
            pairs += here
        totals += won / pairs
    return totals / scores.shape[-1]


def _reading(scores: Tensor, columns: Ints, groups: Ints, folds: Ints, noise: float, method: str) -> Reading:
    measured = area(_plain(scores[:, 0]), columns[0], groups, folds, noise=noise)
    null = None
    if len(columns) > 1:
        draws = pooled_aurocs(scores[:, 1:], columns[1:], folds)
        p = (1 + int((draws >= measured.value - 1e-12).sum())) / len(columns)
        low, high = np.quantile(draws, [0.025, 0.975])
        null = Null(float(draws.mean()), float(low), float(high), 0.95, len(draws), p, "the same procedure under permuted labels")
    return Reading(measured.value, measured.low, measured.high, measured.level, len(columns[0]), "AUROC", null, method)


def _layer_curve(
    sites: list[str], evidence: Evidence, columns: Ints, groups: Ints
) -> tuple[tuple[SiteReading, ...], float | None]:
    method = "cross-fitted AUROC of this site; method and penalty chosen inside"
    curve = tuple(
        SiteReading(site, _reading(scores, columns, groups, evidence.folds, noise, method))
        for site, scores, noise in zip(sites, evidence.by_site, evidence.noise.by_site, strict=True)
    )
    if len(columns) == 1:
        return curve, None
    greatest = np.max([pooled_aurocs(scores[:, 1:], columns[1:], evidence.folds) for scores in evidence.by_site], axis=0)
    return curve, float(np.quantile(greatest, 1 - LEVEL))


def _baselines(
    acts: States, evidence: Evidence, columns: Ints, generator: np.random.Generator, classes: int
) -> tuple[Reading, Reading, Reading, Reading]:
    """Bag of words, length, and the paired differences of the nested scores to them."""
    labels, groups, folds, n = columns[0], acts.groups, evidence.folds, len(columns[0])
    lengths_method = "characters and words of the text, logistic"
    if acts.examples.kind == "tensor":
        none = [Reading.not_measured("the rows are not texts", unit="AUROC", method=name) for name in (WORDS, lengths_method)]
        return none[0], none[1], none[0], none[1]
    lengths = np.array([[len(text), len(text.split())] for text in acts.texts], dtype=np.float64)
    mine = _plain(evidence.combined[:, 0])
    readings = []
    for name, (scores, noise) in (
        (WORDS, word_scores(acts.texts, labels, groups, folds, classes, generator)),
        (lengths_method, length_scores(lengths, labels, groups, folds, classes, generator)),
    ):
        alone = area(scores, labels, groups, folds, noise=noise)
        difference, low, high = area_difference(mine, scores, labels, groups, folds, noise=(evidence.noise.combined, noise))
        readings.append(
            (
                Reading(alone.value, alone.low, alone.high, alone.level, n, "AUROC", None, name),
                Reading(difference, low, high, alone.level, n, "AUROC difference", None, f"paired difference to {name}"),
            )
        )
    (words, beyond_words), (length, beyond_length) = readings
    return words, length, beyond_words, beyond_length


def _detectable(decodable: Reading, evidence: Evidence, labels: Ints, groups: Ints) -> Reading:
    """The smallest AUROC that this n would have called detected with power .8."""
    method = "smallest AUROC detected with power 0.8: null's upper 5 % point, spread by the design effect measured here"
    if decodable.null is None:
        return Reading.not_measured("no permutations were made", unit="AUROC", method=method)
    here: Area = area(_plain(evidence.combined[:, 0]), labels, groups, evidence.folds, noise=evidence.noise.combined)
    spread = (decodable.null.high - decodable.null.low) / (2 * 1.96)
    value = smallest_detectable(decodable.null.value + 1.645 * spread, here)
    error = 2 * spread * 2 / np.sqrt(2 * decodable.null.n)  # of a normal's upper 5 % point, from so many draws
    return Reading(value, max(0.0, value - error), min(1.0, value + error), 0.95, len(labels), "AUROC", None, method)


def _strand(
    acts: States,
    site: str,
    states: Tensor,
    method: Method,
    evidence: Reading,
    shown: tuple[Shown, ...],
    provenance: dict[str, Any],
) -> Strand:
    """Refit one method on all rows at one site."""
    examples, labels = acts.examples, acts.labels
    truth = targets(labels[None], len(examples.classes))
    basis = orthonormal(Training.of(states).weights(method, truth))
    means = torch.stack([states[torch.as_tensor(labels == k)].double().mean(0) for k in range(len(examples.classes))], dim=1)
    coordinates = states.double() @ basis
    centres = basis.T @ means  # (k, classes)
    offset = centres.mean(1)
    separation = centres.amax(1) - centres.amin(1)
    within = (coordinates - centres.T[torch.as_tensor(labels)]).square().mean(0).sqrt()
    between = means - means.mean(1, keepdim=True)
    pattern = (
        between @ torch.linalg.pinv(basis.T @ between) * separation
    )  # each column moves its own coordinate by the classes' distance
    return Strand(
        examples.name, examples.positive or ", ".join(examples.classes), site, str(acts.positions),
        basis.float(), pattern.float(), (separation / within).float(), offset.float(), str(method), evidence,
        acts.fingerprint, dict(acts.template), provenance, shown,
    )  # fmt: skip


def _shown(evidence: Evidence, labels: Ints, examples: Any, each: int = 3) -> tuple[Shown, ...]:
    """The rows whose cross-fitted single-site score is highest, lowest and nearest the boundary; of two classes only."""
    if len(examples.classes) != 2 or examples.kind == "tensor":
        return ()
    scores = evidence.single[:, 0, 0].double().numpy().copy()
    for fold in np.unique(evidence.folds):
        rows = evidence.folds == fold
        middle = (scores[rows & (labels == 1)].mean() + scores[rows & (labels == 0)].mean()) / 2
        scores[rows] = (scores[rows] - middle) / max(scores[rows].std(), 1e-12)
    order = np.argsort(scores, kind="stable")
    chosen = [
        ("highest", order[::-1][:each]),
        ("lowest", order[:each]),
        ("nearest the boundary", np.argsort(np.abs(scores), kind="stable")[:each]),
    ]
    return tuple(
        Shown(examples.rows[i].id, _jsonable(examples.rows[i].input), examples.classes[labels[i]], float(scores[i]), why)
        for why, rows in chosen
        for i in rows.tolist()
    )


def _jsonable(value: Any) -> Any:
    return value if isinstance(value, str) else [dict(message) for message in value]


def _describe_choices(choices: tuple[Choice, ...], sites: list[str], methods: tuple[Method, ...]) -> tuple[str, ...]:
    return tuple(
        ", ".join(
            f"{sites[site]} by {methods[m]}" for site, m in list(zip(choice.sites, choice.methods, strict=True))[: choice.size]
        )
        for choice in choices
    )
