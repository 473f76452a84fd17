"""The recorder as a callback of Hugging Face's `Trainer`.

    Trainer(…, callbacks=[RecorderCallback(lambda: batch, out="run")])

A record is taken after optimiser steps, when it is time to. The trainer says its loss only where it logs it: with
`logging_steps=1` spikes are found, else the losses are means over so many steps. It clears gradients before the callback is
called, so their norm is "not measured". A run that resumes from a checkpoint goes on in the same folder from its step.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .batch import BatchFunction
from .recorder import Recorder


class RecorderCallback(TrainerCallback):
    """Settings are those of `Recorder`; the model is the trainer's."""

    def __init__(self, batch_fn: BatchFunction, **settings: Any) -> None:
        self._batch_fn, self._settings = batch_fn, settings
        self.recorder: Recorder | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control
        settings = dict(self._settings)
        settings.setdefault("steps", state.max_steps or None)
        if state.global_step:  # from a checkpoint
            settings["resume"] = state.global_step
        self.recorder = Recorder(kwargs["model"], self._batch_fn, **settings).start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, state, control, kwargs
        if self.recorder is not None:
            self.recorder.step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        del args, state, control, kwargs
        if self.recorder is not None and logs is not None and "loss" in logs:
            self.recorder.observe(float(logs["loss"]))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, state, control, kwargs
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None
