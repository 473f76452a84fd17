"""The processes of a distributed run: what each of them measured, joined; what the first decides, told to the others.

Only tensors travel, in all-gathers padded to the longest. Without `torch.distributed`, or with one process, everything here is
the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from ..statistics.accumulators import OuterProducts


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
