"""The processes of a distributed run: what each of them measured, joined; what the first decides, told to the others.

Only tensors travel, in all-gathers padded to the longest. Without `torch.distributed`, or with one process, everything here is
the identity. What fails on one process fails on all at the end of the same `together`, before any of them waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import InputError, MissingError, TrustError
from ..statistics.accumulators import OuterProducts


class FullElsewhere(MissingError):
    """Another process could not go on, for want of memory or by an error of its own."""


class together:
    """A block that all processes run, and that fails on all of them if it fails on one.

    Collectives inside are only safe after whatever may fail on one process alone; that is put into a block of its own. A process
    that failed raises what it raised; the others InputError where that was an InputError or a TrustError, else FullElsewhere.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del trace
        if not _several() or (kind is not None and not issubclass(kind, Exception)):  # nobody waits while one is interrupted
            return
        code = 0 if kind is None else _WRONG if issubclass(kind, InputError | TrustError) else _FAILED
        why = b"" if kind is None else (str(error) or kind.__name__).splitlines()[0].encode()[:400]
        parts = [bytes(part.tolist()) for part in gathered(torch.tensor([code, *why], dtype=torch.uint8))]
        for rank, part in enumerate(parts):
            if kind is None and part[0]:
                said = f"rank {rank}: {part[1:].decode(errors='replace')}"
                raise InputError(said) if part[0] == _WRONG else FullElsewhere(said)


_WRONG, _FAILED = 1, 2


def number() -> int:
    """Of this process; 0 writes the folder."""
    return dist.get_rank() if _several() else 0


def count() -> int:
    return dist.get_world_size() if _several() else 1


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _device() -> torch.device:
    """Where this backend takes tensors from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gathered(values: Tensor) -> list[Tensor]:
    """The tensors (n, …) of all processes, in their order; n may differ."""
    if not _several():
        return [values]
    device, sizes = _device(), [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor([len(values)], device=device))
    lengths = [int(size) for size in sizes]
    padded = torch.zeros(max(lengths), *values.shape[1:], dtype=values.dtype, device=device)
    padded[: len(values)] = values.to(device)
    parts = [torch.empty_like(padded) for _ in range(count())]
    dist.all_gather(parts, padded)
    return [part[:length].to(values.device) for part, length in zip(parts, lengths, strict=True)]


def told(values: Sequence[int]) -> list[int]:
    """What the first process says."""
    if not _several():
        return list(values)
    said = torch.tensor(list(values), dtype=torch.int64, device=_device())
    dist.broadcast(said, 0)
    return [int(value) for value in said]


def rows_before(rows: int) -> tuple[int, int]:
    """(rows of the processes before this one, rows of all)."""
    counts = [int(part) for part in gathered(torch.tensor([rows]))]
    return sum(counts[: number()]), sum(counts)


def merged(mine: OuterProducts) -> OuterProducts:
    """The sums of all processes, merged in their order: those of all their rows."""
    if not _several():
        return mine
    held = mine.held()
    sums = torch.tensor([mine.n, mine.fourth, mine.scatter_trace], dtype=torch.float64)
    parts = gathered(torch.cat([sums, mine.mean, held.flatten()]))
    whole: OuterProducts | None = None
    for part in parts:
        other = type(mine)._alike(mine)
        state = {**other.state_dict(), "n": int(part[0]), "fourth": float(part[1]), "scatter_trace": float(part[2])}
        other.load_state_dict({**state, "mean": part[3 : 3 + mine.d], "held": part[3 + mine.d :].view(-1, held.shape[-1])})
        if whole is None:
            whole = other
        else:
            whole.merge(other)
    assert whole is not None
    return whole
