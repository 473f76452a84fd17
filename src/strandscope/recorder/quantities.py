"""Two quantities to add to the features: the sharpness of the loss, and the motion of the tangent kernel.

    Recorder(model, lambda: (x, y), quantities=[Sharpness(cross_entropy), TangentKernel(rows=16)])

Both are dearer than the features: sharpness takes some twenty to fifty products with the Hessian, the kernel a gradient of every
output of every row that it is taken on. The cadence gives them the time that there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InputError
from ..provenance import torch_generator
from ..reading import Reading
from ..statistics.curvature.derivatives import hessian
from ..statistics.curvature.lanczos import top_eigenvalues
from ..statistics.tangent.kernel import tangent_kernel
from .batch import Batch, Output, answer
from .quantity import Measured

KERNEL = "tangent kernel"


@dataclass(frozen=True, slots=True)
class Sharpness:
    """The largest eigenvalue of the Hessian of a loss on the batch, algebraic, with the bound of its numerical error.

    Attributes:
        loss: `loss(output, targets)`, the output as the network gives it; one number, the mean over rows.
        tolerance: of the residual, as a share of the longest Ritz value.
    """

    loss: Callable[[object, object], Tensor]
    tolerance: float = 1e-2
    seed: int = 0
    name: str = "sharpness"

    def settings(self) -> dict[str, object]:
        return {"tolerance": self.tolerance, "seed": self.seed}

    def measure(self, model: nn.Module, batch: Batch) -> Measured:
        operator = hessian(lambda: self.loss(batch.call(model), batch.targets), model)
        generator = torch_generator(self.seed, "recorder sharpness")
        found = top_eigenvalues(operator, 1, generator=generator, tolerance=self.tolerance)
        return Measured({self.name: found.reading()})


@dataclass(frozen=True, slots=True)
class TangentKernel:
    """The empirical tangent kernel of the first rows of the batch, summed over outputs; how far it moved is read from the run.

    Attributes:
        rows: of the batch; `output`: what of the network's output is the answer, (rows, outputs).
    """

    rows: int = 16
    output: Output | None = None
    name: str = KERNEL

    def settings(self) -> dict[str, object]:
        return {"rows": self.rows}

    def measure(self, model: nn.Module, batch: Batch) -> Measured:
        given = [*batch.args, *batch.kwargs.values()]
        if len(given) != 1:
            raise InputError(f"{self.name}: the network takes {len(given)} arguments, wanted one tensor of rows")
        names = list(batch.kwargs)
        held = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        fixed = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
        fixed |= {name: value.detach() for name, value in model.named_buffers()}
        fixed = {name: value.double() if value.is_floating_point() else value for name, value in fixed.items()}

        def function(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            said = functional_call(model, {**fixed, **parameters}, () if names else (x,), {names[0]: x} if names else {})
            return answer(said, self.output, len(x)).flatten(1)

        kernel = tangent_kernel(function, held, given[0][: self.rows]).summed  # type: ignore[arg-type]
        trace = float(kernel.diagonal().mean())
        method = f"mean diagonal of the tangent kernel of {len(kernel)} rows, summed over outputs; exact given the rows"
        reading = Reading(trace, trace, trace, None, len(kernel), "(output/parameter)²", None, method)
        return Measured({f"{self.name}/mean diagonal": reading}, {f"{self.name}/kernel": kernel.cpu()})
