"""The recorder inside training frameworks: Hugging Face's Trainer, Lightning and TensorBoard, present and absent."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from strandscope.errors import MissingError
from strandscope.recorder.huggingface import RecorderCallback
from strandscope.recorder.lightning import recorder_callback
from strandscope.recorder.recorder import Recorder
from strandscope.recorder.run import read_run
from strandscope.recorder.tensorboard import to_tensorboard

IDS = torch.randint(20, (16, 6), generator=torch.Generator().manual_seed(0))


def language_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
        )
    )


def trainer_loop(model, callback, steps, state):
    """The calls of a Trainer, in its order: the step, gradients cleared, the callback, the log."""
    handler = CallbackHandler([] if callback is None else [callback], model, None, None, None)
    args, control = types.SimpleNamespace(), TrainerControl()
    handler.on_train_begin(args, state, control)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
        state.global_step += 1
        handler.on_step_end(args, state, control)
        handler.on_log(args, state, control, {"loss": losses[-1]})
    handler.on_train_end(args, state, control)
    return losses


def test_the_callback_of_hugging_face_records_and_resumes(tmp_path):
    plain = trainer_loop(language_model(), None, 6, TrainerState())
    model, state = language_model(), TrainerState()
    callback = RecorderCallback(lambda: {"input_ids": IDS}, out=tmp_path / "run", every=2, rank=2)
    losses = trainer_loop(model, callback, 4, state)
    losses += trainer_loop(model, callback, 2, state)
    assert losses == plain
    run = read_run(tmp_path / "run")
    assert [loss for _, loss in run.losses] == losses
    assert run.steps == [0, 2, 4, 6] and run.sites == ["model.layers.0", "model.layers.1"]
    assert run.records[1].readings["gradient norm"].reason == "no .grad: it was cleared before step()"


def test_the_real_trainer_takes_it(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer

    rows = [{"input_ids": row, "labels": row} for row in IDS]

    def run(callbacks, out):
        torch.manual_seed(0)
        args = TrainingArguments(
            str(out), max_steps=5, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=True, seed=0, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(language_model(), args, train_dataset=rows, callbacks=callbacks)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    plain = run([], tmp_path / "plain")
    watched = run([RecorderCallback(lambda: {"input_ids": IDS}, out=tmp_path / "run", every=2)], tmp_path / "watched")
    assert watched == plain and len(plain) == 5
    found = read_run(tmp_path / "run")
    assert found.steps == [0, 2, 4, 5]
    assert [loss for _, loss in found.losses] == plain


def test_a_training_that_was_killed_goes_on_from_a_checkpoint_beyond_the_record(tmp_path):
    def callback():
        return RecorderCallback(lambda: {"input_ids": IDS}, out=tmp_path / "run", every=1000)

    handler = CallbackHandler([callback()], language_model(), None, None, None)
    args, state, control = types.SimpleNamespace(), TrainerState(), TrainerControl()
    handler.on_train_begin(args, state, control)
    for _ in range(12):
        handler.on_step_end(args, state, control)
        handler.on_log(args, state, control, {"loss": 1.0})
    trainer_loop(language_model(), callback(), 2, TrainerState(global_step=10))  # no on_train_end before: it was killed
    run = read_run(tmp_path / "run")
    assert run.steps == [0, 10, 12] and [step for step, _ in run.losses] == [11, 12]
    assert run.notes[0] == "resumed at step 10; nothing is held of steps 1 to 10"


def absent(monkeypatch, *names):
    for name in [*names, *(one for one in sys.modules if one.split(".")[0] in names)]:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_lightning_its_callback_is_a_sentence(monkeypatch):
    absent(monkeypatch, "lightning", "pytorch_lightning")
    with pytest.raises(MissingError, match=r"Lightning is not installed.*pip install lightning"):
        recorder_callback(lambda: IDS)


def stand_in(monkeypatch, name):
    """A package of that name with a Callback of Lightning's interface and nothing else."""
    absent(monkeypatch, "lightning", "pytorch_lightning")
    parts = f"{name}.callbacks".split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    sys.modules[".".join(parts)].Callback = type("Callback", (), {})


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_the_callback_of_lightning_follows_optimiser_steps(tmp_path, monkeypatch, name):
    stand_in(monkeypatch, name)
    model, held = nn.Linear(6, 2), torch.randn(16, 6)
    callback = recorder_callback(lambda: held, out=tmp_path / "run", every=1)
    trainer = types.SimpleNamespace(global_step=0, estimated_stepping_batches=float("inf"), accumulate_grad_batches=2)
    callback.on_train_start(trainer, model)
    for batch in range(6):  # two batches a step; Lightning hands over the loss of training_step divided by that
        trainer.global_step = (batch + 1) // 2
        callback.on_train_batch_end(trainer, model, {"loss": torch.tensor(float(batch)) / 2}, None, batch)
    callback.on_train_end(trainer, model)
    run = read_run(tmp_path / "run")
    assert run.steps == [0, 1, 2, 3] and run.losses == ((1, 1.0), (2, 3.0), (3, 5.0))


def test_a_training_of_lightning_that_fails_is_recorded_as_such(tmp_path, monkeypatch):
    stand_in(monkeypatch, "lightning.pytorch")
    model, held = nn.Linear(6, 2), torch.randn(16, 6)
    callback = recorder_callback(lambda: held, out=tmp_path / "run")
    trainer = types.SimpleNamespace(global_step=0, estimated_stepping_batches=float("inf"))
    callback.on_train_start(trainer, model)
    callback.on_exception(trainer, model, KeyboardInterrupt())
    assert read_run(tmp_path / "run").notes[-1].startswith("left by KeyboardInterrupt")


def recorded(folder: Path):
    torch.manual_seed(0)
    with Recorder(nn.Linear(6, 2), lambda: torch.ones(16, 6), out=folder, every=1) as recorder:
        for step in range(3):
            recorder.step(loss=float(step))
    return read_run(folder)


def test_without_tensorboard_its_export_is_a_sentence(tmp_path, monkeypatch):
    absent(monkeypatch, "tensorboard")
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingError, match=r"TensorBoard is not installed.*pip install tensorboard"):
        to_tensorboard(recorded(tmp_path / "run"), tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_event_files_hold_the_losses_and_readings_of_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = recorded(tmp_path / "run")
    count = to_tensorboard(run, tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert count == sum(len(events.Scalars(tag)) for tag in tags)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.0), (2, 1.0), (3, 2.0)]
    wanted = [record.readings["input/trace"].value for record in run.records]
    assert [event.value for event in events.Scalars("input/trace")] == pytest.approx(wanted)
