"""Curvature of a loss at fixed weights, and the noise of its gradient: from a callable and parameters, never a subject."""

from .derivatives import gauss_newton, hessian
from .lanczos import Eigenpairs, bottom_eigenvalues, over_data, top_eigenvalues
from .operator import Operator, merged, of_matrix, without

__all__ = [
    "Eigenpairs",
    "Operator",
    "bottom_eigenvalues",
    "gauss_newton",
    "hessian",
    "merged",
    "of_matrix",
    "over_data",
    "top_eigenvalues",
    "without",
]
