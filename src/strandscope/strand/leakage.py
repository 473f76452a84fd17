"""What probes of five kinds read of classes in states, before and after an erasure, and what may be concluded from it.

Every probe is trained and tested on rows that the eraser, and whatever was chosen with it, has not seen, always on other groups.
An AUROC compares rows of one fold; its interval is clustered by group and takes all of the scores' variance for noise of the fits
(q = 1 in `statistics.detect`, its upper bound; of what is left after an erasure nearly all is). A probe is believed only where it
reads the classes before: "erased" is an equivalence, never a wide interval, and "leaks" is said at a level that holds for all
probes and places of a certificate together.

Read on the eraser's own rows a probe falls far below .5 (.00 to .10): there all class means agree exactly, so what the training
groups have too much of, the held-out groups lack. Here no row of the fit is among the rows, and the expectation is .5 or more. An
interval that lies wholly below .5 is therefore "cannot tell": rows that are not exchangeable, not an erasure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

from ..errors import InputError
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.detect import area, area_difference
from ..statistics.resample import group_folds, permuted_labels
from .erase import Eraser, Metric
from .readings import LEVEL, reading

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Verdict = Literal["erased", "leaks", "cannot tell"]

MARGIN = 0.05  # of an AUROC about .5, inside which a concept counts as erased
SEPARATION = 2 * float(norm.ppf(0.5 + MARGIN)) ** 2  # d′² that the best linear probe of two normal classes turns into that AUROC
FOLDS = 5
NOISE = 1.0  # q of the scores
KINDS = ("linear", "quadratic", "RBF", "k-NN", "MLP")

_MAKE: Mapping[str, Callable[[], Any]] = {  # rows are standardised, and then of mean squared length 1
    "linear": lambda: LogisticRegression(C=10.0, max_iter=2000, tol=1e-3),
    "quadratic": lambda: SVC(kernel="poly", degree=2, gamma="scale", coef0=1.0),
    "RBF": lambda: SVC(kernel="rbf", gamma="scale"),
    "k-NN": lambda: KNeighborsClassifier(n_neighbors=10, weights="distance"),
    "MLP": lambda: MLPClassifier((16,), solver="lbfgs", alpha=0.1, max_iter=40, random_state=0),
}
_TURNED = ("linear", "MLP")  # which see no more of rows than the span of their training rows, and are faster there


@dataclass(frozen=True, slots=True)
class Leak:
    """One probe at one place: AUROC before and after (with its null), and the verdict with its reason."""

    probe: str
    before: Reading
    after: Reading
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Judging:
    """Rows that no eraser has seen, with their folds and permutations.

    Attributes:
        columns: (1 + permutations, rows) class codes; the first is the truth.
        lines: probes and places judged together.
    """

    columns: Ints
    groups: Ints
    folds: Ints
    classes: int
    lines: int

    @classmethod
    def of(
        cls, labels: Ints, groups: Ints, pairs: Ints | None, permutations: int, lines: int, generator: np.random.Generator
    ) -> Judging:
        """Raises InputError where the groups cannot be parted into at least two folds that hold every class."""
        classes = int(labels.max()) + 1
        holding = min(len(np.unique(groups[labels == code])) for code in range(classes))
        for count in range(min(FOLDS, holding), 1, -1):
            try:
                folds = group_folds(labels, groups, count, generator)
            except InputError:  # a fold would lack a class
                continue
            shuffled = permuted_labels(labels, groups, permutations, generator, pairs)
            return cls(np.concatenate([labels[None], shuffled]), groups, folds, classes, lines)
        raise InputError(f"groups: got {holding} that hold one of the classes, wanted at least 2 to certify with; add groups")

    def leak(self, kind: str, before: Tensor, after: Tensor) -> Leak:
        """What a probe reads in states (rows, d) before and after."""
        method = f"{kind} probe, cross-fitted over {int(self.folds.max()) + 1} folds of groups"
        truth = self.columns[:1]
        first = reading(self.scores(kind, before, truth), truth, self.groups, self.folds, NOISE, method)
        scores = self.scores(kind, after, self.columns)
        second = reading(scores, self.columns, self.groups, self.folds, NOISE, method)
        plain = _plain(scores[:, 0])
        low = area(plain, truth[0], self.groups, self.folds, 1 - LEVEL / self.lines, noise=NOISE).low
        return Leak(kind, first, second, *_judged(first, second, low))

    def scores(self, kind: str, states: Tensor, columns: Ints) -> Tensor:
        """(rows, columns, k) cross-fitted scores for every column of labels; k is 1 for two classes."""
        wide = 1 if self.classes == 2 else self.classes
        found = np.zeros((len(self.groups), len(columns), wide))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            kept, new = _standard(states[torch.as_tensor(~held)], states[torch.as_tensor(held)], kind in _TURNED)
            for number, column in enumerate(columns):
                if len(np.unique(column[~held])) > 1:  # else there is nothing to learn, and all rows score alike
                    found[held, number] = _fitted(kind, kept, column[~held], new, wide)
        return torch.as_tensor(found)

    def less_than(self, other: Tensor, ours: Tensor) -> Reading:
        """By how much more a linear probe reads in one set of states than in the other, row by row."""
        truth = self.columns[:1]
        one, two = (_plain(self.scores("linear", states, truth)[:, 0]) for states in (other, ours))
        value, low, high = area_difference(one, two, truth[0], self.groups, self.folds, noise=(NOISE, NOISE))
        how = "linear probe after plain LEACE less after this eraser, paired on the same rows"
        return Reading(value, low, high, 0.95, len(truth[0]), "AUROC difference", None, how)


def _plain(scores: Tensor) -> Floats:
    return scores[:, 0].numpy() if scores.shape[1] == 1 else scores.numpy()


def _standard(kept: Tensor, new: Tensor, turned: bool) -> tuple[Floats, Floats]:
    """Rows standardised by the training rows and scaled so that these have a mean squared length of 1."""
    kept, new = kept.double(), new.double()
    mean, spread = kept.mean(0), kept.std(0, correction=0)
    spread = torch.where(spread > 1e-6 * spread.max(), spread, 1.0)
    kept, new = (kept - mean) / spread, (new - mean) / spread
    size = kept.square().sum(1).mean().sqrt().clamp_min(1e-30)
    if turned and len(kept) < kept.shape[1]:
        basis = torch.linalg.svd(kept, full_matrices=False).Vh.T
        kept, new = kept @ basis, new @ basis
    return (kept / size).numpy(), (new / size).numpy()


def _fitted(kind: str, kept: Floats, labels: Ints, new: Floats, wide: int) -> Floats:
    """(new rows, wide) scores of a probe."""
    model = _MAKE[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that was stopped early is a probe
        model.fit(kept, labels)
    if kind in ("k-NN", "MLP"):
        made = model.predict_proba(new)
        made = made[:, 1] if wide == 1 else made
    else:
        made = model.decision_function(new)
    if wide == 1:
        return made[:, None]
    found = np.full((len(new), wide), made.min() - 1.0)  # a class without training rows is scored below all others
    found[:, model.classes_] = made if made.ndim == 2 else np.stack([-made, made], 1)
    return found


def _judged(before: Reading, after: Reading, low: float) -> tuple[Verdict, str]:
    assert before.low is not None and after.low is not None and after.high is not None
    if before.low <= 0.5:
        return "cannot tell", "the probe does not read the classes before the erasure either"
    if after.low >= 0.5 - MARGIN and after.high <= 0.5 + MARGIN:
        return "erased", f"the whole interval lies within .5 ± {MARGIN:g}".replace("0.", ".")
    if low > 0.5:
        return "leaks", "above .5, at a level that holds for all probes and places together"
    if after.high < 0.5:
        return "cannot tell", "wholly below .5, which no erasure does: the rows are not exchangeable"
    times = ((after.high - after.low) / (2 * MARGIN)) ** 2
    return "cannot tell", f"the interval is too wide; about {after.n * times:,.0f} such rows would make it ± {MARGIN:g}"


def overall(leaks: Sequence[Leak]) -> Verdict:
    """Erased where every probe at every place says so; leaks where one does."""
    verdicts = {leak.verdict for leak in leaks}
    return "leaks" if "leaks" in verdicts else "erased" if verdicts == {"erased"} else "cannot tell"


def rows_needed(eraser: Eraser, metric: Metric, states: Tensor, labels: Ints, folds: Ints) -> Reading:
    """Rows with which an eraser so made would leave the best linear probe an AUROC of at most .55.

    What is left falls as 1/rows: for LEACE and two classes of shares p and 1 − p it is d′² = d/(p(1 − p)n). It is estimated
    without bias on rows (n, d) that the eraser has not seen, from products of the class differences of different folds, in units
    of the deviation within classes of the eraser's rows (`metric`); the interval is a jackknife over folds.
    """
    how = "the separation left in unseen rows, which falls as 1/rows, down to that of an AUROC of .55; jackknife over folds"
    unit, n = "rows to fit", len(labels)
    if len(eraser.counts) != 2 or eraser.rank == 0:
        why = "the law is of two classes" if eraser.rank else "nothing was erased"
        return Reading.not_measured(why, unit=unit, method=how, n=n)
    apart = []
    for fold in np.unique(folds):
        one, two = (states[torch.as_tensor((folds == fold) & (labels == code))].double().mean(0) for code in (0, 1))
        apart.append(two - one)
    products = metric.left(torch.stack(apart, 1), torch.stack(apart, 1), eraser.write).numpy()

    def left(kept: Ints) -> float:
        chosen = products[np.ix_(kept, kept)]
        return float(chosen.sum() - chosen.trace()) / (len(kept) * (len(kept) - 1))

    count = len(apart)
    if count < 3:
        return Reading.not_measured(f"{count} folds, wanted at least 3 for an interval", unit=unit, method=how, n=n)
    every = np.arange(count)
    value = left(every)
    without = np.array([left(np.delete(every, number)) for number in range(count)])
    error = math.sqrt((count - 1) / count * float(np.square(without - without.mean()).sum()))
    reach = float(student.ppf(1 - LEVEL / 2, count - 1)) * error
    scale = eraser.n / SEPARATION
    low, high = (max(0.0, scale * (value + end)) for end in (-reach, reach))
    if value <= 0:
        return Reading.not_measured(
            f"nothing that is left shows in {n} rows; at most {high:,.0f} at 95 % confidence", unit=unit, method=how, n=n
        )
    return Reading(scale * value, low, high, 0.95, n, unit, None, how)


def closed_form(eraser: Eraser) -> int:
    """The same for plain LEACE and the best of all linear probes, from the law alone: d/(p(1 − p)) rows over d′²."""
    shares = np.array(eraser.counts) / eraser.n
    return math.ceil((len(eraser.mean) - 1) / float(shares[0] * (1 - shares[0])) / SEPARATION)


def parted(labels: Ints, groups: Ints, seed: int, key: str) -> NDArray[np.bool_]:
    """Which rows are for the eraser: whole groups, half of them, alike in the rows of each class."""
    try:
        return group_folds(labels, groups, 2, numpy_generator(seed, "rows for the eraser", key)) == 0
    except InputError as error:
        raise InputError(f"groups: they cannot be parted into rows for the eraser and for its certificate ({error})") from None
