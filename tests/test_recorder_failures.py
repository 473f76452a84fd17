"""What a recorder does where it cannot go on as planned: the training goes on, and the record says what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from recorded import CLASSES, HELD, D, drawn, network
from strandscope.errors import InputError, TrustError
from strandscope.reading import Reading
from strandscope.recorder.cadence import Cadence
from strandscope.recorder.quantities import Sharpness, TangentKernel
from strandscope.recorder.quantity import Measured
from strandscope.recorder.recorder import Recorder, RecorderWarning
from strandscope.recorder.run import read_run

ROWS = drawn(16)


def linear():
    torch.manual_seed(0)
    return nn.Linear(D, CLASSES)


# --- a loss that is told late ---


def test_a_loss_told_after_its_step_brings_a_record_and_does_not_end_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Cadence, "missing", lambda _clock, _step: 0.0)  # every record is affordable
    recorder = Recorder(linear(), lambda: ROWS, out=tmp_path / "run", budget=0.9).start()
    for step in range(1, 60):
        recorder.step()
        recorder.observe(5.0 if 30 <= step < 33 else 1.0 + step % 7 / 100)
    recorder.close()
    run = read_run(tmp_path / "run")
    assert {31, 34} <= set(run.steps) and [record.why for record in run.records if record.step == 31] == ["spike"]
    assert sum(step > 40 for step in run.steps) > 10


# --- memory that is full ---


class Hungry:
    name = "hungry"

    def __init__(self):
        self.full = False

    def settings(self):
        return {}

    def measure(self, model, batch):
        del model, batch
        if self.full:
            raise torch.OutOfMemoryError("out of memory")
        return Measured()


def test_the_losses_held_are_written_when_memory_is_full(tmp_path):
    hungry = Hungry()
    recorder = Recorder(linear(), lambda: ROWS, quantities=[hungry], out=tmp_path / "run", every=50).start()
    hungry.full = True
    with pytest.warns(RecorderWarning, match="stopped at step 50: out of memory"):
        for step in range(1, 60):
            recorder.step(loss=float(step))
        recorder.close()
    run = read_run(tmp_path / "run")
    assert run.losses == tuple((step, float(step)) for step in range(1, 51))
    assert run.notes[-1].startswith("recording stopped at step 50")


def test_no_memory_for_the_look_at_the_start_stops_the_recording_alone(tmp_path, monkeypatch):
    model = network()
    before, tensor = [weight.detach().clone() for weight in model.parameters()], torch.Tensor.clone

    def clone(held, **given):
        if any(held.data_ptr() == weight.data_ptr() for weight in model.parameters()):
            raise torch.OutOfMemoryError("out of memory")
        return tensor(held, **given)

    monkeypatch.setattr(torch.Tensor, "clone", clone)
    with pytest.warns(RecorderWarning, match="stopped at step 0: out of memory") as warned:
        recorder = Recorder(model, lambda: HELD, out=tmp_path / "run").start()
        for _ in range(600):
            recorder.step(loss=1.0)
        recorder.close()
    assert len(warned) == 1 and len(recorder._losses) < 256 and not (tmp_path / "run").exists()
    assert all(torch.equal(weight, one) for weight, one in zip(model.parameters(), before, strict=True))


# --- a checkpoint beyond the record ---


@pytest.mark.parametrize("block", [True, False])
def test_a_killed_run_goes_on_from_a_checkpoint_beyond_its_last_line(tmp_path, block):
    killed = Recorder(linear(), lambda: ROWS, out=tmp_path / "run", every=1000).start()
    for step in range(1, 131):
        killed.step(loss=float(step))
    again = Recorder(linear(), lambda: ROWS, out=tmp_path / "run", every=1000, resume=120)
    if block:
        again.start()
        assert again.at == 120
    again.step(loss=0.5)
    again.close()
    run = read_run(tmp_path / "run")
    assert run.losses == ((121, 0.5),) and run.steps == ([0, 120, 121] if block else [0, 121])
    assert run.notes[0] == "resumed at step 120; nothing is held of steps 1 to 120"


def test_a_step_to_go_on_from_holds_in_a_folder_without_a_run(tmp_path):
    recorder = Recorder(linear(), lambda: ROWS, out=tmp_path / "run", every=3, resume=120).start()
    for _ in range(4):
        recorder.step(loss=1.0)
    recorder.close()
    run = read_run(tmp_path / "run")
    assert run.steps == [120, 123, 124] and run.notes[0] == "resumed at step 120; nothing is held of steps 1 to 120"


def test_without_a_block_the_first_record_of_a_new_run_is_its_start(tmp_path):
    recorder = Recorder(linear(), lambda: ROWS, out=tmp_path / "run")
    recorder.step(loss=1.0)
    assert [(record.step, record.why) for record in recorder.read().records] == [(1, "start")]


# --- a training that diverges ---


@pytest.mark.parametrize(
    ("quantity", "name"),
    [(Sharpness(cross_entropy), "sharpness"), (TangentKernel(rows=4), "tangent kernel/mean diagonal")],  # type: ignore[arg-type]
)
def test_the_quantities_of_a_diverged_network_are_not_measured_and_the_training_goes_on(tmp_path, quantity, name):
    model, targets = linear(), torch.arange(16) % CLASSES
    recorder = Recorder(model, lambda: (ROWS, targets), quantities=[quantity], out=tmp_path / "run", every=1).start()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    recorder.step(float("nan"))
    recorder.close()
    first, diverged = read_run(tmp_path / "run").series(name)
    assert first is not None and diverged is not None and first.value is not None
    assert diverged.status == "not measured" and diverged.reason and diverged.unit == first.unit


class Failing:
    name = "failing"

    def __init__(self, error):
        self.error = error

    def settings(self):
        return {}

    def measure(self, model, batch):
        del model, batch
        if self.error is not None:
            raise self.error
        return Measured({"failing": Reading(1.0, 1.0, 1.0, None, 1, "", None, "one")})


@pytest.mark.parametrize("error", [InputError("no such thing"), TrustError("no convergence")])
def test_an_error_of_a_quantity_is_raised_at_the_start_and_a_reason_later(tmp_path, error):
    with pytest.raises(type(error), match=str(error)):
        Recorder(linear(), lambda: ROWS, quantities=[Failing(error)], out=tmp_path / "first").start()
    one = Failing(None)
    recorder = Recorder(linear(), lambda: ROWS, quantities=[one], out=tmp_path / "run", every=1).start()
    one.error = error
    recorder.step(1.0)
    run = recorder.read()
    assert [reading.reason for reading in run.series("failing")] == ["", str(error)]
    assert run.records[1].readings["input/trace"].value is not None


def test_what_a_quantity_writes_to_a_weight_stays_an_error(tmp_path):
    class Writing(Failing):
        def measure(self, model, batch):
            if self.error:
                with torch.no_grad():
                    model.bias.add_(1)
            return super().measure(model, batch) if not self.error else Measured()

    one = Writing(None)
    recorder = Recorder(linear(), lambda: ROWS, quantities=[one], out=tmp_path / "run", every=1).start()
    one.error = True
    with pytest.raises(TrustError, match="wrote to the weight bias"):
        recorder.step(1.0)


# --- autocast ---


def test_measured_inside_an_autocast_it_is_the_record_of_outside(tmp_path):
    seen = []
    chosen = lambda said: seen.append(said.dtype) or said  # noqa: E731
    for out in ("plain", "cast"):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=out == "cast"):
            torch.manual_seed(0)
            recorder = Recorder(network(), lambda: HELD, out=tmp_path / out, every=1, output=chosen).start()
            assert torch.is_autocast_enabled("cpu") == (out == "cast")
            recorder.step(1.0)
    assert set(seen) == {torch.float32}
    plain, cast = (read_run(tmp_path / out).records[-1].readings for out in ("plain", "cast"))
    assert {name: one.value for name, one in plain.items()} == {name: one.value for name, one in cast.items()}
