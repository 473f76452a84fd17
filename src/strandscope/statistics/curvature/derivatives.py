"""Hessians and Gauss–Newton matrices of a loss at fixed weights, by products with vectors.

`hessian(loss, parameters)` is ∇²L of the mean loss L over all rows; `gauss_newton(outputs, loss, parameters)` is
⟨Jᵀ (∇²_z ℓ) J⟩ with J the Jacobian of the outputs z by the parameters, which is positive semidefinite where ℓ is convex in z
(for squared error it is 2JᵀJ per row, for cross-entropy the Fisher matrix). With batches both are means over the rows of all of
them, however they are cut; each row counts once.

What they promise: the function was proved deterministic, smooth at its head and symmetric (`proof`); the module, its buffers,
its mode, `.grad` and every global random state are afterwards what they were. Without batches the graph of the gradient is kept,
so that a product costs one backward pass through it; it takes the memory of one training step and goes with the operator. With
batches it is made anew for every product.

What they do not know: whether the mean over these rows is near that over others (a reading over data says), and the kinks of
ReLUs inside the network, over which a second derivative looks away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...provenance import torch_generator
from .operator import Operator
from .proof import buffers_kept, refuse_training, repeats, smooth_head, symmetric
from .weights import Parameters, Weights, undisturbed, weights_of

Loss = Callable[..., Tensor]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Product = Callable[[Tensor], Tensor]
Graph = Callable[[tuple[Any, ...], bool], tuple[int, Product]]
_UNIT = "1/step"


def hessian(loss: Loss, parameters: Parameters, batches: Batches | None = None, *, only: Sequence[str] | None = None) -> Operator:
    """The Hessian of the mean loss by the parameters, as an operator.

    Args:
        loss: with a module, `loss()` or `loss(batch)`, a closure that calls it; else `loss(parameters)` or
            `loss(parameters, batch)`. It gives one number a row (n,), or without batches a scalar.
        parameters: an nn.Module, a tensor, or a mapping of tensors; their order is that of the operator's coordinates.
        batches: a list of them, or a function that gives the same ones at every call.
        only: names of parameters (or of modules that hold them) to differentiate by; None takes all.

    Raises:
        InputError: dropout or batch norm in train mode, a head that is not smooth, no dependence on the parameters.
        TrustError: two passes disagree.
    """
    weights = weights_of(parameters, only)
    refuse_training(weights.module)

    def graph(batch: tuple[Any, ...], keep: bool) -> tuple[int, Product]:
        losses = _losses(weights.call(loss, *batch), "loss", bool(batch))
        slope = _grad(losses.mean(), weights.leaves, create_graph=True)
        return losses.numel(), lambda vector: _second(slope, weights, vector, keep)

    def passed(batch: tuple[Any, ...]) -> tuple[float, Tensor]:
        mean = _losses(weights.call(loss, *batch), "loss", bool(batch)).mean()
        return float(mean.detach()), weights.join(_grad(mean, weights.leaves))

    with undisturbed(weights.device), buffers_kept(weights.module):
        first = _first(batches)
        _proved(passed, batches)
        with _twice():
            smooth_head(lambda there: there.call(loss, *first), weights.only(weights.able))
    operator = _operator(graph, weights, batches, "Hessian of the mean loss")
    symmetric(operator)
    return operator


def gauss_newton(
    outputs: Callable[..., Tensor],
    loss: Callable[..., Tensor],
    parameters: Parameters,
    batches: Batches | None = None,
    *,
    only: Sequence[str] | None = None,
) -> Operator:
    """The Gauss–Newton matrix of loss ∘ outputs by the parameters, as an operator.

    Args:
        outputs: the network's, (n, …), called as `hessian` calls its loss.
        loss: `loss(outputs)` or `loss(outputs, batch)`, one number a row (n,), convex in the outputs:
            `F.cross_entropy(z, y, reduction="none")`, `(z - y).square().sum(1)`.

    Raises:
        InputError: a loss that is not convex, or is linear in pieces; and whatever `hessian` refuses of the network.
        TrustError: two passes disagree.
    """
    weights = weights_of(parameters, only)
    refuse_training(weights.module)

    def at(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, int]:
        """Outputs, and detached ones with the gradient of their mean loss."""
        z = weights.call(outputs, *batch)
        if not isinstance(z, Tensor) or not z.requires_grad:
            raise InputError("outputs: they do not depend on the parameters through a graph; look for detach() or no_grad()")
        cut = z.detach().requires_grad_()
        losses = _losses(loss(cut, *batch), "loss", bool(batch))
        (slope,) = torch.autograd.grad(losses.mean(), cut, create_graph=True)
        return z, cut, slope, losses.numel()

    def graph(batch: tuple[Any, ...], keep: bool) -> tuple[int, Product]:
        z, cut, slope, rows = at(batch)
        dummy = torch.zeros_like(z).requires_grad_()
        pulled = _grad(z, weights.leaves, dummy, create_graph=True)  # Jᵀu, linear in u: its derivative by u is J

        def product(vector: Tensor) -> Tensor:
            pairs = [(p, v) for p, v in zip(pulled, weights.split(vector), strict=True) if p is not None and p.requires_grad]
            along = [part for part, _ in pairs], dummy, [part for _, part in pairs]
            (pushed,) = torch.autograd.grad(*along, retain_graph=True)
            (bent,) = torch.autograd.grad(slope, cut, pushed, retain_graph=keep)
            return weights.join(_grad(z, weights.leaves, bent, retain_graph=keep))

        return rows, product

    def passed(batch: tuple[Any, ...]) -> tuple[float, Tensor]:
        z, _, slope, _ = at(batch)
        return float(z.detach().double().square().mean()), weights.join(_grad(z, weights.leaves, slope.detach()))

    with undisturbed(weights.device), buffers_kept(weights.module):
        first = _first(batches)
        _proved(passed, batches)
        _convex(*at(first)[1:3])
    return _operator(graph, weights, batches, "Gauss–Newton matrix of the mean loss")


def batch_gradients(
    loss: Loss, parameters: Parameters, batches: Batches, *, only: Sequence[str] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Rows and mean gradient (p,) of every batch in turn; `loss` as `hessian` takes it."""
    weights = weights_of(parameters, only)
    refuse_training(weights.module)

    def passed(batch: tuple[Any, ...]) -> tuple[int, float, Tensor]:
        losses = _losses(weights.call(loss, *batch), "loss", True)
        mean = losses.mean()
        return losses.numel(), float(mean.detach()), weights.join(_grad(mean, weights.leaves))

    with undisturbed(weights.device), buffers_kept(weights.module):
        first = _first(batches)
        repeats(*([passed(first)[1:]] for _ in range(2)))
    for batch in _all(batches):
        with undisturbed(weights.device):
            rows, _, gradient = passed(batch)
        yield rows, gradient


def _operator(graph: Graph, weights: Weights, batches: Batches | None, what: str) -> Operator:
    if batches is None:
        with undisturbed(weights.device), _twice():
            rows, product = graph((), True)

        def kept(vector: Tensor) -> Tensor:
            with _twice():
                return product(vector)

        return Operator(weights.size, rows, what, _UNIT, weights.dtype, weights.device, kept)

    def counted(batch: Any, vector: Tensor) -> tuple[int, Tensor]:
        with undisturbed(weights.device), _twice():
            rows, product = graph((batch,), False)
            return rows, product(vector)

    with undisturbed(weights.device):
        sizes = [graph((batch,), False)[0] for batch in _given(batches)]
    total = sum(sizes)

    def mean(vector: Tensor) -> Tensor:
        found = torch.zeros_like(vector)
        with undisturbed(weights.device):
            for batch in _given(batches):
                rows, part = counted(batch, vector)
                found += part * (rows / total)
        return found

    def single(number: int) -> Product:
        def of_one(vector: Tensor) -> Tensor:
            with undisturbed(weights.device):
                batch = batches[number] if isinstance(batches, Sequence) else next(islice(_given(batches), number, None))
                return counted(batch, vector)[1]

        return of_one

    whole = Operator(weights.size, total, what, _UNIT, weights.dtype, weights.device, mean)
    return replace(whole, parts=tuple(replace(whole, rows=rows, product=single(i)) for i, rows in enumerate(sizes)))


def _given(batches: Batches) -> Iterator[Any]:
    return iter(batches() if callable(batches) else batches)


def _first(batches: Batches | None) -> tuple[Any, ...]:
    _refuse_iterator(batches)
    for batch in _all(batches):
        return batch
    raise InputError("batches: got none, wanted at least one")


def _proved(passed: Callable[[tuple[Any, ...]], tuple[float, Tensor]], batches: Batches | None) -> None:
    """Two passes agree. Random states run on from the first to the second, so that a function that draws is seen."""
    first, second = ([passed(batch) for batch in _all(batches)] for _ in range(2))
    repeats(first, second)


def _refuse_iterator(batches: Batches | None) -> None:
    if isinstance(batches, Iterator):
        raise InputError("batches: got an iterator, which is empty after one pass; wanted a list, or a function that gives them")


def _all(batches: Batches | None) -> Iterator[tuple[Any, ...]]:
    if batches is None:
        yield ()
        return
    for batch in _given(batches):
        yield (batch,)


def _losses(found: Any, name: str, batched: bool) -> Tensor:
    if not isinstance(found, Tensor) or found.ndim > 1 or (batched and found.ndim == 0):
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        wanted = 'one number a row, (n,), so that every row counts once (reduction="none")' if batched else "a scalar or (n,)"
        raise InputError(f"{name}: got {got}, wanted {wanted}")
    if found.numel() == 0:
        raise InputError(f"{name}: got no row, wanted at least one; leave empty batches out")
    if not bool(torch.isfinite(found.detach()).all()):
        raise InputError(f"{name}: it holds a NaN or an infinity at these weights; look at the inputs")
    if not found.requires_grad:
        raise InputError(
            f"{name}: it does not depend on the parameters through a graph (argmax, a count, detach(), no_grad(), or a closure "
            "that calls another module), so it has no derivative; take a smooth loss of the network's outputs"
        )
    return found


def _grad(of: Tensor, by: list[Tensor], along: Tensor | None = None, **settings: bool) -> tuple[Tensor | None, ...]:
    found = torch.autograd.grad(of, by, along, allow_unused=True, **settings)
    if all(part is None for part in found):
        raise InputError("parameters: the function does not depend on any of them; pass those that it uses")
    return found


def _second(slope: Sequence[Tensor | None], weights: Weights, vector: Tensor, keep: bool) -> Tensor:
    """∇(slope · v); zero where the slope is constant."""
    pairs = [(g, v) for g, v in zip(slope, weights.split(vector), strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return torch.zeros_like(vector)
    parts, along = [part for part, _ in pairs], [part for _, part in pairs]
    return weights.join(torch.autograd.grad(parts, weights.leaves, along, retain_graph=keep, allow_unused=True))


def _convex(cut: Tensor, slope: Tensor) -> None:
    """The loss's second derivative by the outputs is there, and not negative."""
    if not slope.requires_grad:
        raise InputError(
            "loss: its second derivative by the outputs is zero (it is linear, or linear in pieces); take a smooth one"
        )
    generator, found = torch_generator(0, "curvature convex"), []
    for _ in range(4):
        along = torch.randn(cut.shape, generator=generator, dtype=torch.float64).to(cut.device, cut.dtype)
        (bent,) = torch.autograd.grad(slope, cut, along, retain_graph=True)
        found.append((float((along * bent).double().sum()), float(along.norm() * bent.norm())))
    if all(scale == 0 for _, scale in found):
        raise InputError(
            "loss: its second derivative by the outputs is zero (it is linear, or linear in pieces); take a smooth one"
        )
    if any(bend < -1e-5 * scale for bend, scale in found):
        raise InputError(
            "loss: it is not convex in the outputs, so its Gauss–Newton matrix is not positive; take hessian instead"
        )


@contextmanager
def _twice() -> Iterator[None]:
    """What cannot be differentiated twice says so."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "not implemented" in text or "differentiate twice" in text:
            raise InputError(
                f"loss: a part of it has no second derivative ({text[:120]}); use plain operations there (of attention, the "
                "eager form)"
            ) from None
        raise
