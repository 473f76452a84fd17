"""Find where and how a concept can be read in captured states, with the evidence for it.

Everything that is chosen (method, site, penalty, number of sites) is chosen by cross-validation inside training groups; the
AUROC is of cross-fitted scores; its null is the whole procedure under permuted labels; beside it stand a bag of words and text
length, and the *paired* differences to them, which say what the network's state knows beyond the words. The strand that is
saved is refitted on all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..progress import Progress
from ..provenance import numpy_generator, versions
from ..reading import Reading
from ..statistics.resample import permuted_labels
from .fewshot import examples_needed
from .linear import DEFAULT, LOGISTIC, RFM, Method, Training
from .nested import Choice, Evidence, choose, nested_evidence, targets
from .readings import LEVEL, SiteReading, baselines, detectable, layer_curve, reading
from .rows import Ordered, States, check_captured
from .strand import Shown, Strand, orthonormal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` found: the readings first, then the strands they speak of.

    `decodable` is the figure of the whole procedure, `best.evidence` that of its best single site. `band` is the AUROC that the
    best of all sites exceeds under permuted labels in 5 % of cases. `words` and `length` are baselines; `beyond_words` and
    `beyond_length` the paired differences to them (not measured for rows without text). `examples_needed` is the number of
    examples a class with which the difference of means at the best site lies within 15° of its limit; its `n` counts the rows
    that there are.
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
    examples_needed: Reading
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
        tested = "" if self.p is None else f" (p = {self.p:.2g})"
        return f"{self.name}: {self.verdict}{tested}, {self.decodable}, n = {self.decodable.n}; best site {self.best.site}"


def find(
    acts: States,
    *,
    methods: Sequence[Method] = DEFAULT,
    logistic: bool = False,
    rfm: bool = False,
    folds: int = 5,
    permutations: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Found:
    """Find a concept in states captured at one position a row.

    Args:
        methods: candidates; the default ones are linear in the labels, so that permutations are nearly free.
        logistic: let logistic regression compete too. Its permutations are refits: fewer of them are advisable.
        rfm: let recursive feature machines compete too, with the top eigenvector of their AGOP. So are theirs, and slower.
        permutations: of the labels, for the null, at least 19, with which p can be .05; 0 leaves the null out, and then the
            verdict is "not tested".

    Raises:
        InputError: fewer than ten rows of a class, fewer groups than folds, several states a row.
    """
    check_captured(acts)
    examples = acts.examples
    candidates = (*methods, *(LOGISTIC if logistic else ()), *(RFM if rfm else ()))
    _refuse(folds, permutations, candidates)
    examples.require(min_per_class=10, folds=folds)
    rows = Ordered.of(acts)
    labels, groups, sites, states, classes = rows.labels, rows.groups, rows.sites, rows.states, len(examples.classes)
    shuffled = permuted_labels(labels, groups, permutations, numpy_generator(seed, "permutations", rows.key), rows.pairs)
    columns = np.concatenate([labels[None], shuffled])
    report = (lambda done, of: progress("nested selection", done, of)) if progress else None
    generator = numpy_generator(seed, "folds", rows.key)
    evidence = nested_evidence(states, columns, groups, classes, candidates, folds, generator, report)
    choice = choose(states, labels, groups, classes, candidates, folds, generator)

    method = f"cross-fitted AUROC over {folds} folds of groups; method, site, penalty and number of sites chosen inside"
    decodable = reading(evidence.combined, columns, groups, evidence.folds, evidence.noise.combined, method)
    single_method = f"cross-fitted AUROC over {folds} folds of groups; method, site and penalty chosen inside"
    single = reading(evidence.single, columns, groups, evidence.folds, evidence.noise.single, single_method)
    layers, band = layer_curve(sites, evidence, columns, groups)
    texts = None if examples.kind == "tensor" else [acts.texts[row] for row in rows.order]
    words, length, beyond_words, beyond_length = baselines(texts, evidence, labels, groups, generator, classes)
    shown = _shown(evidence, labels, examples, rows.order)
    provenance = {
        "data": examples.digest, "classes": list(examples.classes), "rows": len(labels), "seed": seed, "folds": folds,
        "permutations": permutations,
        "captured_under_edits": acts.edited, "methods": [str(candidate) for candidate in candidates], "versions": versions(),
    }  # fmt: skip
    strands = tuple(
        _strand(
            acts,
            labels,
            sites[site],
            states[site],
            candidates[choice.methods[place]],
            layers[site].reading if place else single,
            shown,
            provenance,
        )
        for place, site in enumerate(choice.sites[: choice.size])
    )
    return Found(
        examples.name, examples.classes, decodable, strands[0], strands, layers, band, words, length, beyond_words, beyond_length,
        detectable(decodable, evidence, labels, groups), _needed(states[choice.sites[0]], labels, groups, classes),
        _describe_choices(evidence.choices, sites, candidates), rows.skipped,
    )  # fmt: skip


def _needed(states: Tensor, labels: Ints, groups: Ints, classes: int) -> Reading:
    if classes == 2:
        return examples_needed(states, labels, groups)
    return Reading.not_measured("the law is of two classes", unit="examples a class", method="few-shot law")


def _refuse(folds: int, permutations: int, methods: Sequence[Method]) -> None:
    if folds < 2:
        raise InputError(f"folds: got {folds}, wanted at least 2, such as 5")
    if not methods:
        raise InputError("methods: got none, wanted at least one, such as strand.linear.DEFAULT")
    check_permutations(permutations)


def check_permutations(permutations: int) -> None:
    """Refuse a number with which nothing could be detected."""
    least = round(1 / LEVEL) - 1
    if permutations != 0 and permutations < least:
        raise InputError(f"permutations: got {permutations}, wanted at least {least} (fewer can never show p = {LEVEL}), or 0")


def _strand(
    acts: States,
    labels: Ints,
    site: str,
    states: Tensor,
    method: Method,
    evidence: Reading,
    shown: tuple[Shown, ...],
    provenance: dict[str, Any],
) -> Strand:
    """Refit one method on all rows at one site."""
    examples = acts.examples
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


def _shown(evidence: Evidence, labels: Ints, examples: Any, order: Ints, each: int = 3) -> tuple[Shown, ...]:
    """The rows whose cross-fitted single-site score is highest, lowest and nearest the boundary; of two classes only."""
    if len(examples.classes) != 2 or examples.kind == "tensor":
        return ()
    scores = evidence.single[:, 0, 0].double().numpy().copy()
    for fold in np.unique(evidence.folds):
        rows = evidence.folds == fold
        middle = (scores[rows & (labels == 1)].mean() + scores[rows & (labels == 0)].mean()) / 2
        scores[rows] = (scores[rows] - middle) / max(scores[rows].std(), 1e-12)
    ranked = np.argsort(scores, kind="stable")
    chosen = [
        ("highest", ranked[::-1][:each]),
        ("lowest", ranked[:each]),
        ("nearest the boundary", np.argsort(np.abs(scores), kind="stable")[:each]),
    ]
    return tuple(
        Shown(
            examples.rows[order[i]].id,
            _jsonable(examples.rows[order[i]].input),
            examples.classes[labels[i]],
            float(scores[i]),
            why,
        )
        for why, rows in chosen
        for i in rows.tolist()
    )


def _jsonable(value: Any) -> Any:
    return value if isinstance(value, str) else [dict(message) for message in value]


def _describe_choices(choices: tuple[Choice, ...], sites: Sequence[str], methods: tuple[Method, ...]) -> tuple[str, ...]:
    return tuple(
        ", ".join(
            f"{sites[site]} by {methods[m]}" for site, m in list(zip(choice.sites, choice.methods, strict=True))[: choice.size]
        )
        for choice in choices
    )
