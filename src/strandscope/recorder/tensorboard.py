"""A run as TensorBoard event files: a scalar for every loss and every reading, with the ends of its interval beside it."""

from __future__ import annotations

import os

from ..errors import MissingError
from ..reading import Reading
from .run import Run


def to_tensorboard(run: Run, folder: str | os.PathLike[str]) -> int:
    """Write the run's events to a folder; how many scalars. A reading's ends are its tag with "/low" and "/high".

    Raises:
        MissingError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingError(
            "TensorBoard is not installed, and its event files are written with it; pip install tensorboard (records.jsonl holds "
            "the same figures)"
        ) from None
    count = 0
    with SummaryWriter(os.fspath(folder)) as writer:

        def scalar(tag: str, value: float, step: int, seconds: float | None = None) -> None:
            nonlocal count
            writer.add_scalar(tag, value, step, walltime=seconds)
            count += 1

        for step, loss in run.losses:
            if loss is not None:
                scalar("loss", loss, step)
        for row in run.table():
            for name, reading in row.items():
                if isinstance(reading, Reading) and reading.value is not None:
                    assert reading.low is not None and reading.high is not None
                    scalar(name, reading.value, row["step"])
                    if reading.low < reading.high:
                        scalar(f"{name}/low", reading.low, row["step"])
                        scalar(f"{name}/high", reading.high, row["step"])
            scalar("recorder/cost (s)", row["cost"], row["step"])
    return count
