"""How far a kernel points at the targets, and one kernel at another: centred alignment with its permutation null.

    A(K, L) = ⟨K_c, L_c⟩ / (‖K_c‖‖L_c‖),   K_c = HKH,   H = 1 − 11ᵀ/n

With L = YYᵀ it is kernel–target alignment (Cortes, Mohri & Rostamizadeh 2012), with K = XXᵀ and L = YYᵀ linear CKA (Kornblith et
al. 2019). It is biased: unrelated rows give a figure well above 0, for independent Gaussians √(d₁d₂/((d₁ + n)(d₂ + n))) in about;
no closed form is safe for other data, so the null permutes the rows of L. A figure without its null says nothing.

What it does not know: rows that are not exchangeable (groups), for which the permutation has to go by group.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ...errors import InputError
from ...linalg import finite
from ...reading import Null, Reading

BLOCKS = 20  # of rows, for the jackknife
LEAST_ROWS = 8


def centred(gram: Tensor) -> Tensor:
    """HKH of a symmetric matrix (n, n)."""
    means = gram.mean(0)
    return gram - means[None] - means[:, None] + means.mean()


def alignment(first: Tensor, second: Tensor) -> float:
    """Centred alignment of two Gram matrices (n, n), with no interval and no null."""
    one, two = centred(first), centred(second)
    scale = float(one.norm() * two.norm())
    if scale <= 1e-12 * float(first.norm() * second.norm()):
        raise InputError("alignment: one of the two is constant, so it points nowhere; leave it out")
    return min(max(float((one * two).sum()) / scale, -1.0), 1.0)


def kernel_alignment(first: Tensor, second: Tensor, generator: np.random.Generator, draws: int = 199) -> Reading:
    """A(K, L) of Gram matrices (n, n), a 95 % jackknife interval over blocks of rows, and the null of permuted rows.

    Raises:
        InputError: shapes that differ or are not square, a NaN, fewer than 8 rows, one that is constant.
    """
    one, two = finite(first, "first"), finite(second, "second")
    if one.ndim != 2 or one.shape != two.shape or one.shape[0] != one.shape[1]:
        raise InputError(f"second: got shapes {tuple(first.shape)} and {tuple(second.shape)}, wanted (n, n) twice")
    n = len(one)
    if n < LEAST_ROWS or draws < 19:
        raise InputError(f"rows, draws: got {n} and {draws}, wanted at least {LEAST_ROWS} and 19; add some")
    value = alignment(one, two)
    block = generator.permutation(n) % min(BLOCKS, n)
    kept = [torch.as_tensor(np.flatnonzero(block != index)) for index in range(min(BLOCKS, n))]
    left = np.array([alignment(one[keep][:, keep], two[keep][:, keep]) for keep in kept])
    error = math.sqrt((len(left) - 1) / len(left) * float(np.square(left - left.mean()).sum()))
    reach = float(student.ppf(0.975, len(left) - 1)) * error
    flat, other, scale = centred(one), centred(two), float(centred(one).norm() * centred(two).norm())
    orders = [torch.as_tensor(generator.permutation(n)) for _ in range(draws)]
    null = np.array([float((flat * other[order][:, order]).sum()) / scale for order in orders])
    extreme = (1 + int((null >= value).sum())) / (draws + 1)
    low, middle, high = (float(part) for part in np.quantile(null, [0.025, 0.5, 0.975]))
    given = Null(middle, low, high, 0.95, draws, extreme, "the rows of the second permuted")
    method = f"centred alignment of {n} rows, jackknife over {len(left)} blocks of rows"
    return Reading(value, max(value - reach, -1.0), min(value + reach, 1.0), 0.95, n, "cosine", given, method)


def target_alignment(gram: Tensor, targets: Tensor, generator: np.random.Generator, draws: int = 199) -> Reading:
    """Kernel–target alignment of K (n, n) with targets (n,) or (n, m); null and interval as in `kernel_alignment`."""
    wide = finite(targets, "targets")
    wide = wide[:, None] if wide.ndim == 1 else wide
    return kernel_alignment(gram, wide @ wide.T, generator, draws)
