"""The recorder as a callback of Lightning, under either of its names (`lightning.pytorch`, `pytorch_lightning`).

    Trainer(callbacks=[recorder_callback(lambda: batch, out="run")])

Lightning is no dependency of this package: where it is not installed, asking for the callback is a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import MissingError
from .batch import BatchFunction
from .recorder import Recorder


def recorder_callback(batch_fn: BatchFunction, **settings: Any) -> Any:
    """A callback with the settings of `Recorder`; the model is the LightningModule, called as `model(inputs)`.

    A record is taken after optimiser steps (several batches are one step where gradients accumulate). The loss is what
    `training_step` returned for the last batch; Lightning hands it over divided by `accumulate_grad_batches`, which is undone.
    `recorder` is the one at work, None before and after the training.

    Raises:
        MissingError: Lightning is not installed.
    """

    class RecorderCallback(_base()):
        def __init__(self) -> None:
            super().__init__()
            self.recorder: Recorder | None = None
            self._at = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            given = dict(settings)
            known = trainer.estimated_stepping_batches  # infinite where nobody said when to stop
            given.setdefault("steps", int(known) if 0 < known < float("inf") else None)
            self._at = trainer.global_step
            if self._at:  # from a checkpoint
                given["resume"] = self._at
            self.recorder = Recorder(pl_module, batch_fn, **given).start()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            del pl_module, batch, batch_idx
            if self.recorder is not None and trainer.global_step != self._at:
                self._at = trainer.global_step
                loss = _loss(outputs)
                self.recorder.step(loss=None if loss is None else loss.detach() * trainer.accumulate_grad_batches)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            if self.recorder is not None:
                self.recorder.close()
                self.recorder = None

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            del trainer, pl_module
            if self.recorder is not None:
                self.recorder.__exit__(type(exception), exception, None)
                self.recorder = None

    return RecorderCallback()


def _loss(outputs: Any) -> Tensor | None:
    """What `training_step` returned: a loss, or a mapping with one."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return found if isinstance(found, Tensor) else None


def _base() -> Any:
    try:
        from lightning.pytorch.callbacks import Callback  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingError(
                "Lightning is not installed, and its callback needs it; pip install lightning, or use Recorder in your own loop"
            ) from None
    return Callback
