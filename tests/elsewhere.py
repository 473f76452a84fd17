"""A made-up device: tensors that say they are elsewhere and are computed here, to see without a GPU that devices never mix.

Inside `there()`, whatever meets a tensor of this device has to be one of this device too, as a GPU demands: a second operand, an
index into the machine's own memory, a generator. What a GPU takes beside its tensors (numbers, scalars, indices into its own
tensors) is let through. Forward-mode derivatives of such tensors end in a crash of PyTorch, so none is taken in these tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

THERE = torch.device("lazy")  # one that autograd runs in the thread it is called from, and that no backend here claims
_ATEN = torch.ops.aten
_MOVES = {_ATEN.copy_.default, _ATEN._to_copy.default}
_INDEX = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default}


class _There(Tensor):
    """Says that it is elsewhere; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _There:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": THERE}
        made = Tensor._make_wrapper_subclass(cls, held.shape, **layout)  # type: ignore[attr-defined]
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _away(one: Any) -> Any:
    return _There(one) if isinstance(one, Tensor) and not isinstance(one, _There) else one


def _here(one: Any) -> Any:
    return one.held if isinstance(one, _There) else one


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == THERE.type


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    theirs = [one for one in tensors if isinstance(one, _There)]
    wanted = kwargs.get("device")
    result_there = bool(theirs) if wanted is None else _is_there(wanted)
    _check(func, args, kwargs, tensors, theirs, result_there)
    if func is _ATEN._to_copy.default and wanted is None:
        result_there = isinstance(args[0], _There)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    made = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if func is _ATEN.copy_.default:
        return args[0]
    own = {id(one.held): one for one in theirs}  # what was written in place stays the tensor that it was
    return tree_map(lambda one: own.get(id(one), _away(one)) if isinstance(one, Tensor) else one, made) if result_there else made


def _check(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], theirs: list[_There], result_there: bool) -> None:
    if kwargs.get("generator") is not None and result_there:
        raise RuntimeError(f"{func}: a generator of the CPU for a tensor elsewhere")
    if func in _INDEX:
        values = args[2] if len(args) > 2 else None
        if isinstance(args[0], _There) and isinstance(values, Tensor) and not isinstance(values, _There) and values.dim():
            raise RuntimeError(f"{func}: values of the CPU put into a tensor elsewhere")
        if theirs and not isinstance(args[0], _There):
            raise RuntimeError(f"{func}: indices elsewhere into a tensor of the CPU")
    elif theirs and func not in _MOVES and any(one.dim() and not isinstance(one, _There) for one in tensors):
        shapes = [(tuple(one.shape), "elsewhere" if isinstance(one, _There) else "CPU") for one in tensors]
        raise RuntimeError(f"{func}: tensors of two devices: {shapes}")


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What PyTorch makes without asking a dispatcher: tensors of lists, and scalars that are put into a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(THERE)
        if args and isinstance(args[0], _There):
            if func is Tensor.tolist:
                return args[0].held.tolist()
            if func in (Tensor.__setitem__, Tensor.__getitem__) and isinstance(args[1], list):
                args = (args[0], torch.tensor(args[1]), *args[2:])
            if func is Tensor.__setitem__ and isinstance(args[2], bool | int | float):
                args = (*args[:2], torch.full((), args[2], dtype=args[0].dtype, device=THERE))
        return func(*args, **kwargs)


@contextmanager
def there() -> Iterator[None]:
    with _Calls(), _Dispatch():
        yield


def moved(module: nn.Module) -> nn.Module:
    """The module with its weights and buffers elsewhere."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = made.setdefault(id(weight), nn.Parameter(_There(weight.detach()), weight.requires_grad))
        for name, buffer in part._buffers.items():
            part._buffers[name] = _away(buffer)
    return module
