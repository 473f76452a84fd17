"""One record's measurements, under the guard, so that all ranks come to the same end.

What fails on one rank fails on all of them at the same block (`ranks.together`), so that none waits for another's sums. An
`InputError` or `TrustError` of a quantity that has measured before (a network with NaNs, no convergence) is the reason why its
readings are not measured; of one that has not, it is raised, since an argument is then wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from ..errors import InputError, TrustError
from ..reading import Reading
from . import ranks
from .guard import undisturbed
from .quantity import Measured, Quantity, gradient_norm
from .start import Watched


def measured(
    model: nn.Module, watched: Watched, quantities: Sequence[Quantity], known: dict[str, Measured]
) -> tuple[dict[str, Reading], dict[str, Tensor], list[str]]:
    """(readings, tensors, buffers that were put back); `known` takes in what each quantity gave when it first measured.

    Raises:
        TrustError: a weight or a gradient was written to.
    """
    tensors: dict[str, Tensor] = {}
    with ranks.together(), ExitStack() as guard:
        with ranks.together():
            readings: dict[str, Reading] = {"gradient norm": gradient_norm(model)}
            notes = guard.enter_context(undisturbed(model, watched.touched))
        for quantity in quantities:
            with ranks.together():
                found = _asked(model, watched, quantity, known)
            readings |= found.readings
            tensors |= found.tensors
    return readings, tensors, notes.restored


def _asked(model: nn.Module, watched: Watched, quantity: Quantity, known: dict[str, Measured]) -> Measured:
    try:
        found = quantity.measure(model, watched.batch)
    except (InputError, TrustError) as error:
        if quantity.name not in known:
            raise
        named = known[quantity.name].readings.items()
        return Measured({name: Reading.not_measured(str(error), unit=one.unit, method=one.method) for name, one in named})
    known.setdefault(quantity.name, Measured(found.readings))
    return found
