"""The tangent of a network in its parameters: its kernel, what gradient descent does under it, and when it leaves it."""

from .catapult import Catapult, catapult, spike_share, two_variable_map
from .closed import relu_kernel, relu_spread
from .descent import Descent, PLStar, kernel_descent, mode_energies, pl_star
from .kernel import TangentKernel, functional, kernel_motion, tangent_kernel

__all__ = [
    "Catapult",
    "Descent",
    "PLStar",
    "TangentKernel",
    "catapult",
    "functional",
    "kernel_descent",
    "kernel_motion",
    "mode_energies",
    "pl_star",
    "relu_kernel",
    "relu_spread",
    "spike_share",
    "tangent_kernel",
    "two_variable_map",
]
