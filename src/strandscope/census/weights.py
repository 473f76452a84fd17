"""Every weight matrix of a network against the law of Marchenko and Pastur, beside the same numbers in another order.

A matrix of independent entries has a bulk that the law gives and nothing above its edge. A trained one stands out by what was
learned. Its control is the matrix itself with its entries exchanged at random: as wide a spread of sizes, and no structure. It
must look like chance; where it does not, the entries' own spread is so heavy that the law has no power there, and the matrix is
"out of domain".

The verdicts are those of a law (`laws.law`): consistent where nothing stands out and the bulk follows the law, violated where
either fails.

What it does not know: why something stands out. Rows of unequal length (a norm's scale that was folded in, tokens of unequal
frequency) make outliers too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..laws.law import Verdict
from ..provenance import torch_generator
from ..reading import Reading
from ..statistics.weights import LEAST_SIDE, WeightSpectrum, weight_spectrum
from ..subject.subject import Subject

MOST_LONG = 8192  # of a longer side so many rows are drawn: a vocabulary's are alike


@dataclass(frozen=True, slots=True)
class MatrixWeights:
    """One matrix: how many eigenvalues stand out of its bulk, what share of the squared weights they hold, and the control's
    number. `reason` says why a matrix was not judged."""

    name: str
    shape: tuple[int, int]
    verdict: Verdict
    bulk: Reading
    outliers: Reading
    held: Reading
    distance: Reading
    allowed: float
    control: Reading
    reason: str = ""


def weights(subject: Subject, names: Sequence[str] | None = None, *, seed: int = 0) -> Iterator[MatrixWeights]:
    """Each matrix of the network in its order (of `names` alone, where given: parts of the parameters' names).

    Raises:
        InputError: no matrix has such a name.
    """
    for name in judged(subject, names):
        yield _one(name, subject.module.get_parameter(name).detach().float().cpu(), seed)


def judged(subject: Subject, names: Sequence[str] | None = None) -> list[str]:
    """The names of the matrices that `weights` goes through."""
    large = [name for name, one in subject.module.named_parameters() if one.ndim == 2 and min(one.shape) >= LEAST_SIDE]
    found = large if names is None else [name for name in large if any(part in name for part in names)]
    if not found:
        wanted = "a matrix" if names is None else f"a matrix whose name holds {' or '.join(names)}"
        raise InputError(f"names: got {names}, wanted {wanted}, both sides at least {LEAST_SIDE}; this network has none")
    return found


def _one(name: str, weight: Tensor, seed: int) -> MatrixWeights:
    rows, columns = weight.shape
    generator = torch_generator(seed, "weights", name)
    if max(rows, columns) > MOST_LONG:
        kept = torch.randperm(max(rows, columns), generator=generator)[:MOST_LONG]
        weight = weight[kept] if rows >= columns else weight[:, kept]
    mixed = weight.flatten()[torch.randperm(weight.numel(), generator=generator)].reshape(weight.shape)
    try:
        own, chance = weight_spectrum(weight), weight_spectrum(mixed)
    except InputError as error:
        missing = Reading.not_measured(str(error), unit="eigenvalues", method="Marchenko–Pastur")
        return MatrixWeights(name, (rows, columns), "out of domain", missing, missing, missing, missing, 0.0, missing, str(error))
    count = int(own.outliers.value or 0)
    share = float(own.values[:count].sum() / own.values.sum())
    method = f"share of the squared weights in {count} eigenvalues above the edge"
    held = Reading(share, share, share, None, len(own.values), "share of the squared weights", None, method)
    verdict, reason = _verdict(own, chance)
    return MatrixWeights(
        name, (rows, columns), verdict, own.bulk, own.outliers, held, own.distance, own.allowed, chance.outliers, reason
    )


def _verdict(own: WeightSpectrum, chance: WeightSpectrum) -> tuple[Verdict, str]:
    if not chance.is_chance:
        return "out of domain", "its entries in another order do not look like chance either: their sizes spread too widely"
    return ("consistent", "") if own.is_chance else ("violated", "")
