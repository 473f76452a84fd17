"""Sharpness beside the step size: how near descent is to the edge at which a quadratic would diverge.

Gradient descent on a quadratic diverges along an eigenvector once λη > 2; with heavy-ball momentum β the edge is
(2 + 2β)/η, with Nesterov's (2 + 2β)/(η(1 + 2β)). Batch sharpness is the curvature along a batch's own gradient,
⟨gᵀHg/‖g‖²⟩ over batches, which for SGD takes λ₁'s place.

What it does not know: whether the loss is near a quadratic. Beyond 1 the ratio says that its quadratic model diverges, not that
descent does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.stats import t as student

from ...errors import InputError
from ...reading import Reading
from .derivatives import Batches, Loss, batch_gradients, hessian
from .weights import Parameters

LEAST_BATCHES = 4


def edge(step: float, momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """The curvature (1/step) above which descent on a quadratic diverges."""
    if not step > 0 or not 0 <= momentum < 1:
        raise InputError(f"step, momentum: got {step} and {momentum}, wanted a positive step and a momentum in [0, 1)")
    return (2 + 2 * momentum) / step / ((1 + 2 * momentum) if nesterov else 1)


def stability(sharpness: Reading, step: float, momentum: float = 0.0, *, nesterov: bool = False) -> Reading:
    """λ₁ as a share of the edge: ηλ₁/2 for plain descent; 1 is the edge itself."""
    most = edge(step, momentum, nesterov=nesterov)
    kind = f"{'Nesterov' if nesterov else 'heavy-ball'} momentum {momentum:g}" if momentum else "plain descent"
    method = f"{sharpness.method}; over the edge {most:.4g} of {kind} at step {step:g}"
    if sharpness.value is None or sharpness.low is None or sharpness.high is None:
        return replace(sharpness, unit="of the edge", method=method)
    value, low, high = (figure / most for figure in (sharpness.value, sharpness.low, sharpness.high))
    return replace(sharpness, value=value, low=low, high=high, unit="of the edge", method=method)


def batch_sharpness(
    loss: Loss, parameters: Parameters, batches: Batches, *, only: Sequence[str] | None = None, level: float = 0.95
) -> Reading:
    """⟨gᵀHg/‖g‖²⟩ over batches, gradient and Hessian of the same one, with a t interval; independent batches of one size."""
    operator = hessian(loss, parameters, batches, only=only)
    ratios = []
    for part, (_, gradient) in zip(operator.parts, batch_gradients(loss, parameters, batches, only=only), strict=True):
        square = float(gradient.double() @ gradient.double())
        if square > 0:
            ratios.append(float(gradient.double() @ (part @ gradient).double()) / square)
    n, method = len(ratios), f"curvature along each batch's own gradient, t interval over {len(ratios)} batches"
    if n < LEAST_BATCHES or n < len(operator.parts):
        lost = len(operator.parts) - n
        why = f"{lost} batches have no gradient" if lost else f"{n} batches; at least {LEAST_BATCHES} are needed"
        return Reading.not_measured(why, unit=operator.unit, method=method, n=operator.rows)
    each = torch.tensor(ratios, dtype=torch.float64)
    value, reach = float(each.mean()), float(student.ppf(0.5 + level / 2, n - 1)) * float(each.std()) / n**0.5
    return Reading(value, value - reach, value + reach, level, operator.rows, operator.unit, None, method)
