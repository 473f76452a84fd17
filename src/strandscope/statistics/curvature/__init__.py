"""Curvature of a loss at fixed weights, and the noise of its gradient: from a callable and parameters, never a subject."""

from .density import Density, spectral_density
from .derivatives import batch_gradients, gauss_newton, hessian
from .lanczos import Eigenpairs, bottom_eigenvalues, over_data, top_eigenvalues
from .noise import Noise, NoiseSums, gradient_noise
from .operator import Operator, merged, of_matrix, without
from .sharpness import batch_sharpness, edge, stability
from .trace import Trace, hutch_plus_plus, trace

__all__ = [
    "Density",
    "Eigenpairs",
    "Noise",
    "NoiseSums",
    "Operator",
    "Trace",
    "batch_gradients",
    "batch_sharpness",
    "bottom_eigenvalues",
    "edge",
    "gauss_newton",
    "gradient_noise",
    "hessian",
    "hutch_plus_plus",
    "merged",
    "of_matrix",
    "over_data",
    "spectral_density",
    "stability",
    "top_eigenvalues",
    "trace",
    "without",
]
