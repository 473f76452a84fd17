"""The empirical tangent kernel Θ = JJᵀ of a network: inner products of the gradients of its outputs in its parameters.

A network is given as a function of its parameters, `model(parameters, x)` → (n,) or (n, C), or made so by `functional`. With
J of shape (nC, p), one row for each example and output, Θ has shape (nC, nC): nothing is summed over outputs here. The kernel
(n, n) of the literature is `summed`, Θ(x, z) = Σ_c ∇f_c(x)·∇f_c(z); some divide it by C. Which parametrisation it belongs to is
the network's own affair: a factor 1/√m inside the network is in the kernel, one that sits in the step size is not.

What it promises: float64, each entry a sum over parameters in one fixed order, whatever the blocks; the network and its
parameters are left alone. What it costs: n·C backward passes and 8·n·C·p bytes; where these exceed `limit`, rows are taken in k
blocks, and their gradients made (k + 1)/2 times.

What it does not know: rows of an example that depend on other examples (statistics of a batch). It sees one example at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from ...errors import InputError
from ...linalg import finite
from ..accumulators.checks import LIMIT, afford

Parameters = Mapping[str, Tensor]
Model = Callable[[Parameters, Tensor], Tensor]

_RANDOM = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True, slots=True)
class TangentKernel:
    """Θ between the outputs for `left` and `right` examples.

    Attributes:
        matrix: (left·C, right·C), outputs of one example beside one another; unit (output/parameter)².
        outputs: C; `parameters`: p.
    """

    matrix: Tensor
    outputs: int
    parameters: int

    @property
    def summed(self) -> Tensor:
        """(left, right) Σ_c ∇f_c(x)·∇f_c(z); the average over outputs is this over C."""
        return _over_outputs(self.matrix, self.outputs)


def _over_outputs(matrix: Tensor, c: int) -> Tensor:
    rows, columns = matrix.shape
    return matrix.view(rows // c, c, columns // c, c).diagonal(dim1=1, dim2=3).sum(-1)


def functional(module: nn.Module) -> tuple[Model, dict[str, Tensor]]:
    """The module as a function of its trainable parameters, and these, copied to float64.

    Raises:
        InputError: the module draws random numbers or uses statistics of the batch (dropout, batch normalisation in train mode),
            or it has no trainable parameter.
    """
    for name, part in module.named_modules():
        if part.training and isinstance(part, _RANDOM):
            raise InputError(
                f"module: {name or type(part).__name__} is in train mode, where outputs are random or depend on the batch; "
                "call module.eval() first"
            )
    held = {name: value.detach().double() for name, value in module.named_parameters() if value.requires_grad}
    if not held:
        raise InputError("module: got no trainable parameter, wanted at least one; set requires_grad where it is meant")
    fixed = {name: value.detach() for name, value in module.named_parameters() if not value.requires_grad}
    fixed |= {name: value.detach() for name, value in module.named_buffers()}
    fixed = {name: value.double() if value.is_floating_point() else value for name, value in fixed.items()}

    def model(parameters: Parameters, x: Tensor) -> Tensor:
        return functional_call(module, {**fixed, **parameters}, (x,))

    return model, held


def tangent_kernel(
    model: Model, parameters: Parameters, x: Tensor, other: Tensor | None = None, *, limit: int = LIMIT
) -> TangentKernel:
    """Θ of the examples x (n, …) with those of `other`, or with themselves.

    Args:
        limit: bytes that gradients may hold at a time.

    Raises:
        InputError: not finite, a model that draws random numbers or gives no (n,) or (n, C), gradients of one example beyond
            the limit.
    """
    held, left = checked(parameters), _examples(x, "x")
    right = left if other is None else _examples(other, "other")
    outputs, count = outputs_of(model, held, left).shape[1], sum(value.numel() for value in held.values())
    bytes_each = 8 * outputs * count
    afford(2 * bytes_each, limit, "the gradients of two examples", "take fewer parameters, or raise the limit")
    rows = max(len(left), len(right)) if len(left) * bytes_each <= limit and other is None else limit // (2 * bytes_each)
    matrix = torch.zeros(len(left) * outputs, len(right) * outputs, dtype=torch.float64)
    for top in range(0, len(left), rows):
        one = jacobian(model, held, left[top : top + rows])
        for start in range(0, top + 1 if other is None else len(right), rows):
            own = other is None and start == top
            two = one if own else jacobian(model, held, right[start : start + rows])
            block = one @ two.T
            down, along = slice(top * outputs, top * outputs + len(one)), slice(start * outputs, start * outputs + len(two))
            matrix[down, along] = block
            if other is None and not own:
                matrix[along, down] = block.T
    return TangentKernel(finite(matrix, "kernel", "look at the model's gradients"), outputs, count)


def jacobian(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """(n·C, p) gradients of every output of every example, parameters in the order of their names in `parameters`."""

    def alone(held: dict[str, Tensor], example: Tensor) -> Tensor:
        return model(held, example[None])[0]

    try:
        parts = vmap(jacrev(alone), in_dims=(None, 0))(dict(parameters), x)
    except RuntimeError as error:
        if "random" in str(error):
            raise InputError("model: it draws random numbers; make it deterministic (module.eval()) first") from None
        raise
    flat = [part.reshape(len(x), -1, parameters[name].numel()) for name, part in parts.items()]
    return torch.cat(flat, 2).reshape(-1, sum(part.shape[2] for part in flat))


def outputs_of(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """(n, C) outputs of a model that gives (n,) or (n, C)."""
    found = model(parameters, x)
    if found.ndim not in (1, 2) or len(found) != len(x):
        raise InputError(f"model: gave shape {tuple(found.shape)} for {len(x)} examples, wanted (n,) or (n, outputs)")
    return found.reshape(len(x), -1)


def kernel_motion(before: Tensor, after: Tensor) -> float:
    """‖Θ_t − Θ_0‖_F/‖Θ_0‖_F of two kernels of the same examples (dimensionless). Exact given the two."""
    one, two = finite(before, "before"), finite(after, "after")
    if one.shape != two.shape:
        raise InputError(f"after: got shape {tuple(after.shape)}, wanted {tuple(before.shape)} as before; use the same examples")
    size = float(one.norm())
    if size == 0:
        raise InputError("before: the kernel is zero, so that no motion is relative to it; start from another point")
    return float((two - one).norm()) / size


def checked(parameters: Parameters) -> dict[str, Tensor]:
    """The parameters, detached, in float64."""
    if not parameters:
        raise InputError("parameters: got none, wanted at least one tensor by name")
    return {name: finite(value.detach(), f"parameters[{name!r}]") for name, value in parameters.items()}


def _examples(x: Tensor, name: str) -> Tensor:
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"{name}: got shape {tuple(x.shape)}, wanted at least one example (n, …)")
    return finite(x, name) if x.is_floating_point() else x  # tokens stay what they are
