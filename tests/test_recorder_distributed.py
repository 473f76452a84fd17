"""Two processes of torch.distributed: what they merge is what one process sees of all rows, and neither waits for ever."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from strandscope.errors import InputError
from strandscope.recorder import recorder as recorders
from strandscope.recorder.recorder import Recorder, RecorderWarning
from strandscope.recorder.run import read_run

D, STEPS = 10, 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 3))


def held() -> torch.Tensor:
    return torch.randn(48, D, generator=torch.Generator().manual_seed(1))


def loop(model: nn.Module, recorder: Recorder | None, rows: torch.Tensor) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = mse_loss(model(rows), torch.ones(len(rows), 3))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if recorder is not None:
            recorder.step(loss=loss)
    return losses


class Full(recorders.Folder):
    def append(self, line):
        if line["kind"] == "record" and line["step"] >= 4:
            raise OSError(28, "No space left on device")
        return super().append(line)


def scenario(folder: Path, rank: int, full: bool) -> None:
    rows = held()[:16] if rank == 0 else held()[16:]  # of unequal length
    plain = loop(DistributedDataParallel(network()), None, rows)
    model = DistributedDataParallel(network())
    recorder = Recorder(model, lambda: rows, out=folder, every=2, rank=2).start()
    if full and rank == 0:
        with pytest.warns(RecorderWarning, match="stopped at step 4"):
            losses = loop(model, recorder, rows)
    else:
        losses = loop(model, recorder, rows)
    recorder.close()
    assert losses == plain


class Starving(nn.Module):
    """Has no memory for what is not training, from a step on."""

    def __init__(self, fails: bool, error: Exception) -> None:
        super().__init__()
        self.inner, self.fails, self.error = network(), fails, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails and not self.training:
            raise self.error
        return self.inner(x)


def starved(folder: Path, rank: int) -> None:
    """The second rank runs out of memory: as the recorder starts, and in a planned record."""
    rows = held()[:16] if rank == 0 else held()[16:]
    plain = loop(DistributedDataParallel(network()), None, rows)
    for step in (0, 2):
        inner = Starving(rank == 1 and step == 0, torch.OutOfMemoryError("out of memory"))
        model = DistributedDataParallel(inner)
        said = f"stopped at step {step}: {'' if rank else 'rank 1: '}out of memory"
        with pytest.warns(RecorderWarning, match=said) as warned:
            recorder = Recorder(model, lambda: rows, out=folder / str(step), every=2, rank=2).start()
            inner.fails = rank == 1
            losses = loop(model, recorder, rows)
            recorder.close()
        assert losses == plain and len(warned) == 1


def wrong(folder: Path, rank: int) -> None:
    """The second rank's network fails: at the start on both, later as a reason in the record."""
    rows = held()[:16] if rank == 0 else held()[16:]
    said = f"{'' if rank else 'rank 1: '}this network has NaNs"
    inner = Starving(rank == 1, InputError("this network has NaNs"))
    with pytest.raises(InputError, match=f"^{said}"):
        Recorder(inner, lambda: rows, out=folder / "wrong").start()
    inner.fails = False
    recorder = Recorder(inner, lambda: rows, out=folder / "wrong", every=2, rank=2).start()
    inner.fails = rank == 1
    loop(inner, recorder, rows)
    recorder.close()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    wait = timedelta(seconds=20)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=wait)
    scenario(Path(folder) / "run", rank, full=False)
    starved(Path(folder), rank)
    wrong(Path(folder), rank)
    recorders.Folder = Full  # type: ignore[misc]
    scenario(Path(folder) / "full", rank, full=True)
    Path(folder, f"done{rank}").touch()
    dist.barrier()  # a rank that leaves while the other still talks to it ends it with an abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(worker, (str(made),), nprocs=2)
    assert (made / "done0").exists() and (made / "done1").exists()
    return made


def test_two_ranks_merge_to_what_one_sees_of_all_rows(folder, tmp_path):
    """Weights are those of the start, where both runs are the same network."""
    run = read_run(folder / "run")
    Recorder(network(), held, out=tmp_path / "whole", rank=2).close()
    whole = read_run(tmp_path / "whole")
    assert run.sites == whole.sites and run.steps == [0, 2, 4, 6]
    for site in run.sites:
        one, other = run.features(site, 0), whole.features(site, 0)
        assert one is not None and other is not None
        assert torch.allclose(one.leading @ one.leading.mT, other.leading @ other.leading.mT, atol=1e-5)
        assert torch.allclose(one.values, other.values) and torch.allclose(one.traces, other.traces)
        for what in ("trace", "top", "share", "dimension"):
            merged, seen = (held.records[0].readings[f"{site}/{what}"] for held in (run, whole))
            assert (merged.value, merged.low, merged.high) == pytest.approx((seen.value, seen.low, seen.high), rel=1e-5)
            assert merged.n == seen.n
    assert len(run.losses) == STEPS and run.notes[-1].startswith("closed at step 6")


def test_a_full_disk_of_the_first_rank_stops_both_and_neither_waits(folder):
    run = read_run(folder / "full")
    assert run.steps == [0, 2] and run.notes[-1].startswith("recording stopped at step 4")


def test_a_rank_without_memory_stops_both_and_the_losses_held_are_written(folder):
    assert not (folder / "0").exists()  # stopped before there was anything to record
    run = read_run(folder / "2")
    assert run.steps == [0] and [step for step, _ in run.losses] == [1, 2]
    assert run.notes[-1] == "recording stopped at step 2: rank 1: out of memory"


def test_what_goes_wrong_on_one_rank_is_raised_on_both_at_the_start_and_a_reason_later(folder):
    run = read_run(folder / "wrong")
    assert run.steps == [0, 2, 4, 6] and len(run.losses) == STEPS
    reasons = [reading.reason for reading in run.series("input/trace") if reading is not None]
    assert reasons == ["", *["rank 1: this network has NaNs"] * 3]
