"""A plain training loop; what belongs to the recorder are the lines with `recorder` in them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from tasks import Accuracy, Task

import strandscope as ss


def train(job: Task, out: Path | None, budget: float = 0.05) -> list[float]:
    """The losses of all steps."""
    losses: list[float] = []
    settings = {"out": out, "budget": budget, "steps": job.steps, **job.watched}
    watched = nullcontext() if out is None else ss.Recorder(job.model, lambda: job.held, [Accuracy()], **settings)
    with watched as recorder:
        for _ in range(job.steps):
            loss = job.loss(*job.draw())
            job.optimizer.zero_grad()
            loss.backward()
            job.optimizer.step()
            losses.append(loss.item())
            if recorder is not None:
                recorder.step(loss=losses[-1])
    return losses
