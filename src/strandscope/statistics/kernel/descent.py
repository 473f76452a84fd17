"""The exact risk of least squares as parameters are added: double descent at finite n (Belkin, Hsu & Xu, arXiv 1903.07571).

Inputs are standard normal in D dimensions, y = xᵀβ + noise of variance σ², and n rows are fitted on p of the coordinates, with
the solution of least norm where p > n. With a = ‖β‖² on those p and b = ‖β‖² on the others plus σ²,

    p ≤ n − 2:            b·(1 + p/(n − p − 1))
    n − 1 ≤ p ≤ n + 1:    infinite
    p ≥ n + 2:            a·(1 − n/p) + b·(1 + n/(p − n − 1))

is the expected squared error on a new row. It is an identity of Wishart matrices: no limit is taken.

What it does not know: inputs that are not Gaussian and white, and how a single draw spreads: near p = n a draw's risk has no
variance (it has where |p − n| > 3), so means of simulations say little there.
"""

from __future__ import annotations

from ...errors import InputError
from ...reading import Reading
from .spectrum import counted, exact


def least_squares_risk(n: int, p: int, fitted: float, left: float) -> Reading:
    """The expected squared error on a new row.

    Args:
        n: rows; `p`: coordinates that are fitted.
        fitted: ‖β‖² on the coordinates that are fitted; `left`: ‖β‖² on the others plus the variance of the noise.
    """
    n, p = counted(n, "n"), counted(p, "p", 0)
    if fitted < 0 or left < 0:
        raise InputError(f"fitted, left: got {fitted} and {left}, wanted squared lengths, which are not below 0")
    method = f"exact risk of least squares of least norm, {n} rows, {p} coordinates"
    if n - 1 <= p <= n + 1:
        why = (
            f"the risk is infinite for p from {n - 1} to {n + 1}"
            if left > 0
            else f"0 · ∞: no formula for p from {n - 1} to {n + 1}"
        )
        return Reading.not_measured(why, unit="squared units of y", method=method, n=n)
    risk = left * (1 + p / (n - p - 1)) if p < n else fitted * (1 - n / p) + left * (1 + n / (p - n - 1))
    return exact(risk, n, "squared units of y", method)
