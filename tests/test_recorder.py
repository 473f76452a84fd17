"""The recorder changes nothing of a run, and its folder survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from recorded import HELD, D, drawn, network, trained
from strandscope.errors import InputError, MissingError, TrustError
from strandscope.recorder import folder as folders
from strandscope.recorder import recorder as recorders
from strandscope.recorder.folder import lines_of
from strandscope.recorder.guard import undisturbed
from strandscope.recorder.quantities import Sharpness
from strandscope.recorder.recorder import Recorder, RecorderWarning
from strandscope.recorder.run import read_run
from strandscope.subject.attach import hooks

# --- nothing of the run changes ---


@pytest.mark.parametrize("settings", [{}, {"quantities": [Sharpness(lambda said, _: said.logsumexp(1).mean())]}])
def test_losses_weights_buffers_and_random_states_are_the_same_to_the_last_bit(tmp_path, settings):
    losses, model, states = trained()
    again, watched, after = trained(tmp_path / "run", **settings)
    assert again == losses
    assert all(
        torch.equal(one, other) for one, other in zip(model.state_dict().values(), watched.state_dict().values(), strict=True)
    )
    assert torch.equal(states[0], after[0]) and states[1:] == after[1:]
    assert [part.training for part in watched.modules()] == [True] * len(list(watched.modules()))
    assert not hooks(watched)
    assert len(read_run(tmp_path / "run").records) == 7


def test_a_buffer_that_is_written_to_in_evaluation_mode_is_put_back_and_named(tmp_path):
    losses, model, _ = trained(make=lambda: network(counting=True))
    again, watched, _ = trained(tmp_path / "run", make=lambda: network(counting=True))
    assert again == losses and float(watched[4].passes) == float(model[4].passes)
    assert read_run(tmp_path / "run").records[1].restored == ("Counting.passes",)


def test_modes_are_restored_one_by_one_and_gradients_are_left_alone(tmp_path):
    model = network()
    model[1].eval()
    for weight in model[0].parameters():
        weight.requires_grad_(False)
    cross_entropy(model(drawn(8)), torch.zeros(8, dtype=torch.long)).backward()
    before = [(weight.grad, None if weight.grad is None else weight.grad.clone()) for weight in model.parameters()]
    Recorder(model, lambda: HELD, out=tmp_path / "run").start()
    assert [part.training for part in model] == [True, False, *[True] * 5]
    for weight, (held, copy) in zip(model.parameters(), before, strict=True):
        assert weight.grad is held and (held is None or torch.equal(held, copy))
    assert [weight.requires_grad for weight in model[0].parameters()] == [False, False]


def test_the_record_says_in_which_mode_it_was_measured(tmp_path):
    trained(tmp_path / "run", steps=1)
    assert read_run(tmp_path / "run").about["mode"] == (
        "evaluation mode: 1 dropout off, 1 batch norms on their running statistics"
    )


def test_a_network_whose_evaluation_writes_to_its_weights_is_refused_and_put_back(tmp_path):
    class Halving(nn.Linear):
        def forward(self, x):
            if not self.training:
                with torch.no_grad():
                    self.weight.mul_(0.5)
            return super().forward(x)

    model = Halving(D, 2)
    before = model.weight.detach().clone()
    with pytest.raises(InputError, match="writes to its weight weight"):
        Recorder(model, lambda: HELD, out=tmp_path / "run").start()
    assert torch.equal(model.weight, before) and model.training
    assert not (tmp_path / "run").exists()


def test_a_quantity_that_writes_to_gradients_or_weights_is_found_out():
    model = network()
    with pytest.raises(TrustError, match=r"gradient of 0\.weight"), undisturbed(model):
        model(drawn(8)).sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    with pytest.raises(TrustError, match=r"the weight 0\.bias"), undisturbed(model), torch.no_grad():
        model[0].bias.add_(1)


def test_what_is_raised_inside_leaves_everything_as_it_was():
    model, state = network(), torch.get_rng_state()
    with pytest.raises(KeyError), undisturbed(model):
        torch.rand(3)
        raise KeyError
    assert all(part.training for part in model.modules()) and torch.equal(torch.get_rng_state(), state)


# --- bad input ---


def test_a_batch_that_differs_from_call_to_call_is_refused(tmp_path):
    rows = iter(drawn(320).split(64))
    for batch_fn in (lambda: torch.randn(64, D), lambda: next(rows)):
        with pytest.raises(InputError, match="batch_fn: gave another batch when it was called again"):
            Recorder(network(), batch_fn, out=tmp_path / "run").start()
    assert not (tmp_path / "run").exists()


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"batch_fn": lambda: drawn(8)}, "batch_fn: gave 8 rows, wanted at least 16"),
        ({"batch_fn": lambda: "text"}, "batch_fn: gave a str, wanted a tensor"),
        ({"sites": ["9"]}, "sites: got '9'"),
        ({"sites": ["0", "0"]}, "each of them once"),
        ({"model": Noisy(D, 2)}, "answers the same batch differently"),
        ({"output": lambda said: said.sum()}, r"output: got \(\) for 64 rows"),
        ({"budget": 0.0}, "budget: got 0.0"),
        ({"every": 0}, "every: got 0"),
        ({"steps": 0}, "steps: got 0"),
        ({"rank": 0}, "rank, probes: got 0"),
        ({"reference": {"input": drawn(D, 2)}}, "the columns at input are not orthonormal"),
        ({"reference": {"elsewhere": torch.eye(D)}}, "reference: got the site 'elsewhere'"),
        ({"reference": {"input": torch.eye(3)}}, r"input got shape \(3, 3\), wanted \(12, k\)"),
        ({"model": "a network"}, "model: got a str, wanted a torch.nn.Module"),
        ({"output": lambda said: said.detach()}, "the answer has no gradient"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, settings, wanted):
    given = {"model": network(), "batch_fn": lambda: HELD, "out": tmp_path / "run", **settings}
    with pytest.raises(InputError, match=wanted):
        Recorder(**given).start()


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    trained(tmp_path / "run", steps=3)
    with pytest.raises(InputError, match="already holds a run"):
        Recorder(network(), lambda: HELD, out=tmp_path / "run")
    with pytest.raises(InputError, match="another batch"):
        Recorder(network(), lambda: drawn(seed=2), out=tmp_path / "run", resume=True).start()
    with pytest.raises(MissingError, match="there is no run here"):
        read_run(tmp_path)


def test_a_recorder_that_is_closed_takes_no_more_steps(tmp_path):
    recorder = Recorder(network(), lambda: HELD, out=tmp_path / "run")
    recorder.close()
    with pytest.raises(InputError, match="it is closed"):
        recorder.step()


def test_a_block_left_by_an_exception_says_so_and_takes_no_last_record(tmp_path):
    with pytest.raises(KeyError), Recorder(network(), lambda: HELD, out=tmp_path / "run") as recorder:
        recorder.step(1.0)
        raise KeyError
    run = read_run(tmp_path / "run")
    assert "left by KeyError at step 1" in run.notes[-1] and run.losses == ((1, 1.0),)


# --- the folder ---

KILLED = """
import os, signal, sys, torch
from torch import nn
from strandscope.recorder.recorder import Recorder
torch.manual_seed(0)
model = nn.Linear(12, 3)
recorder = Recorder(model, lambda: torch.ones(16, 12), out=sys.argv[1], every=1).start()
for step in range(1, 12):
    recorder.step(loss=float(step))
with open(os.path.join(sys.argv[1], "records.jsonl"), "a") as file:
    file.write('{"kind": "record", "st')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_every_record_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    run = read_run(out)
    assert run.steps == list(range(12)) and [loss for _, loss in run.losses] == [float(step) for step in range(1, 12)]
    assert run.notes == (
        "the last line is cut off (22 bytes) and does not count",
        "it has no end: it is still going on, or was killed",
    )
    torch.manual_seed(0)
    recorder = Recorder(nn.Linear(12, 3), lambda: torch.ones(16, 12), out=out, every=1, resume=True).start()
    assert recorder.at == 11
    recorder.step(loss=12.0)
    recorder.close()
    run = read_run(out)
    assert run.steps == list(range(13)) and run.losses[-1] == (12, 12.0)
    assert run.notes[0] == "resumed at step 11 after 22 bytes of a line that was cut off" and run.notes[-1].startswith(
        "closed at step 12"
    )


def test_resuming_from_an_earlier_step_leaves_out_what_lies_beyond(tmp_path):
    out = tmp_path / "run"
    whole, _, _ = trained(tmp_path / "whole", steps=12)
    trained(out, steps=12)
    recorder = Recorder(network(), lambda: HELD, out=out, every=3, resume=7).start()
    assert recorder.at == 7
    for _ in range(5):
        recorder.step(loss=1.0)
    recorder.close()
    run = read_run(out)
    assert [step for step, _ in run.losses] == list(range(1, 13))
    assert [loss for _, loss in run.losses] == [*whole[:7], *[1.0] * 5]
    assert run.steps == [0, 3, 6, 7, 10, 12]
    with pytest.raises(InputError, match="resume: got step -1"):
        Recorder(network(), lambda: HELD, out=out, resume=-1).start()


@pytest.mark.parametrize("at", ["tensors", "lines"])
def test_a_full_disk_stops_the_recording_and_not_the_training(tmp_path, monkeypatch, at):
    plain, _, _ = trained()
    out = tmp_path / "run"

    def full(*_args):
        raise OSError(28, os.strerror(28))

    class Full(recorders.Folder):
        def tensors(self, step, tensors):
            if at == "tensors" and step >= 9:
                monkeypatch.setattr(folders.os, "fsync", full)
                monkeypatch.setattr("strandscope.io.os.fsync", full)
            return super().tensors(step, tensors)

        def append(self, line):
            if at == "lines" and line["kind"] == "record" and line["step"] >= 9:
                full()
            return super().append(line)

    monkeypatch.setattr(recorders, "Folder", Full)
    with pytest.warns(RecorderWarning, match="stopped at step 9: .*(disk is full|No space left).*training goes on") as warned:
        losses, _, _ = trained(out)
    assert losses == plain and len(warned) == 1
    run = read_run(out)
    assert run.steps == [0, 3, 6] and run.notes[-1].startswith("recording stopped at step 9")
    assert sorted(path.name for path in out.rglob("*") if path.name.startswith(".")) == []


def test_a_line_that_only_half_fitted_is_taken_back(tmp_path, monkeypatch):
    place = folders.Folder(tmp_path / "run")
    place.begin({"model": "x"}, {})
    place.append({"kind": "losses", "losses": [[1, 1.0]]})
    opened = Path.open

    class Short:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:5])
            return 5

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: Short(opened(*args, **kwargs)))
    with pytest.raises(OSError, match="No space left"):
        place.append({"kind": "losses", "losses": [[2, 1.0]]})
    monkeypatch.undo()
    lines, cut = lines_of(place.path)
    assert len(lines) == 1 and cut == 0


def test_losses_that_are_not_finite_are_kept_as_such_and_diverged_features_are_not_measured(tmp_path):
    model = network()
    with Recorder(model, lambda: HELD, out=tmp_path / "run", every=1) as recorder:
        recorder.step(loss=torch.tensor(float("nan")))
        with torch.no_grad():
            model[0].weight.fill_(float("nan"))
        recorder.step(loss=float("inf"))
    run = read_run(tmp_path / "run")
    assert run.losses == ((1, None), (2, None))
    assert "NaN" in run.records[-1].readings["input/trace"].reason
    assert run.alignment("input")[-1] is None
    assert run.table()[-1]["input/rotation"] is None
    json.loads((tmp_path / "run" / "summary.json").read_text())
