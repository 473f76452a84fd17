"""The recorder of a plain PyTorch loop.

    with Recorder(model, lambda: batch, out="run") as recorder:
        for x, y in loader:
            …
            optimizer.step()
            recorder.step(loss=loss)

It promises: the run is the one that it would have been, bit for bit (`guard` says what is put back); the time it takes stays
within `budget` of the training time (`cadence`); what it has written survives `kill -9` with at most the last record lost
(`folder`); where a disk or a GPU's memory is full, one warning is given, recording stops (on all ranks, `ranks.together`) and the
training goes on. A quantity that cannot be measured is an error in the first record, and "not measured" with its reason later.

The first record is taken when the block is entered (or with the first step, where there is no block), the last when it is left.
A block that is left by an exception takes no last record, since the network may be in any state. Networks are measured in
evaluation mode, outside any autocast. On several ranks of torch.distributed every rank makes the same calls, with its own rows.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingError
from ..reading import Reading
from . import ranks
from .batch import BatchFunction, Output
from .cadence import Cadence
from .features import Features
from .folder import Folder
from .guard import unwrapped
from .measuring import measured
from .quantity import Measured, Quantity
from .reference import Reference, bases
from .run import Run, read_run
from .spikes import Band
from .start import Watched, about, look_at
from .summary import derived

_HELD_LOSSES = 256  # before they are written without a record
_STOPPED = -1


class RecorderWarning(UserWarning):
    """Recording stopped; the training goes on."""


class Recorder:
    """Watches a network while it trains.

    Args:
        model: the network that is being trained; wrappers (DDP, compile) are looked through.
        batch_fn: makes the batch that is measured on, the same whenever it is called: a tensor, a mapping of arguments, or
            (one of these, targets). 64 to 256 rows that are not trained on are a good choice. On several ranks, each its own.
        quantities: more to measure (`quantity`) beside the features.
        out: the run folder.
        budget: share of the training time that the recorder may take.
        every: a fixed number of steps between records instead.
        steps: how many the training will make, if that is known: half of the budget is then spent in the first quarter, where
            most is formed.
        sites: where features are followed (`sites`); None: the input and up to four blocks.
        rank, probes, output, seed: of the features (`features`).
        reference: {site: Strand or orthonormal basis (d, k)} to compare the features with.
        resume: True goes on where the folder ends, or starts where there is none yet; a number goes on from that step, and the
            record says so if the folder ends before it.

    Raises:
        InputError: an argument is wrong, the batch differs from call to call, or the network's answer does.
        MissingError: the folder cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_fn: BatchFunction,
        quantities: Sequence[Quantity] = (),
        out: str | os.PathLike[str] = "run",
        budget: float = 0.05,
        *,
        every: int | None = None,
        steps: int | None = None,
        sites: Sequence[str] | None = None,
        rank: int = 4,
        probes: int = 1,
        output: Output | None = None,
        reference: Mapping[str, Reference] | None = None,
        resume: bool | int = False,
        seed: int = 0,
    ) -> None:
        if rank < 1 or probes < 1:
            raise InputError(f"rank, probes: got {rank} and {probes}, wanted at least 1 of each")
        names = ["features", *(one.name for one in quantities)]
        if len(set(names)) < len(names):
            raise InputError(f"quantities: got {', '.join(names)}, wanted names that differ")
        self.model, self._batch_fn = unwrapped(model), batch_fn
        self._quantities, self._folder = tuple(quantities), Folder(out)
        self._features = {"rank": rank, "probes": probes, "output": output, "seed": seed}
        self._sites, self._reference, self._resume = sites, dict(reference or {}), resume
        self._clock = Cadence(budget, every, steps)
        self._losses: list[tuple[int, float | Tensor]] = []
        self._band, self._over = Band(), False
        self._watched: Watched | None = None
        self._known: dict[str, Measured] = {}  # of each quantity, what it first gave
        self.at = 0  # steps made
        self.stopped = ""  # why nothing is recorded any more
        self._closed = False
        if self._folder.holds_a_run and resume is False and ranks.number() == 0:
            raise InputError(
                f"out: {self._folder.path} already holds a run; choose another folder, or resume=True to go on with it"
            )

    # --- the loop's side ---

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del error, trace
        if kind is None:
            self.close()
        else:
            self._leave(f"left by {kind.__name__}")

    def start(self) -> Recorder:
        """Look at the network and the batch, make or open the folder, and take the first record."""
        if self._watched is not None or self.stopped:
            return self
        began = time.perf_counter()
        self._clock.enter(began)
        try:
            with ranks.together():
                watched = look_at(self.model, self._batch_fn, self._sites, self._features["output"])
        except (torch.OutOfMemoryError, ranks.FullElsewhere) as error:
            self._stop(error)
            self._clock.next = _STOPPED
            self._clock.leave(time.perf_counter())
            return self
        self._quantities = (Features(watched.places, **self._features), *self._quantities)
        made = self.at
        self._open(watched)
        self._watched = watched
        self._clock.floor += time.perf_counter() - began
        self._record("start" if self.at == made else "resumed", floor=True)
        self._clock.leave(time.perf_counter())
        return self

    def step(self, loss: float | Tensor | None = None) -> None:
        """After each step of the optimiser; measures when it is time to."""
        if self._closed:
            raise InputError("recorder: it is closed; make another one, with resume=True to go on in the same folder")
        self._clock.enter(time.perf_counter())
        self.at += 1
        if loss is not None:
            self.observe(loss)
        if self._watched is None and not self.stopped:
            self.start()
        elif 0 <= self._clock.next <= self.at:  # before it: a loss that was told late asked for a record
            self._look()
        elif len(self._losses) >= _HELD_LOSSES:
            self._write_losses()
        self._clock.leave(time.perf_counter())

    def observe(self, loss: float | Tensor) -> None:
        """The loss of the step just made, where it is known later than `step`. A tensor is read when the next line is written."""
        held = loss.detach() if isinstance(loss, Tensor) else float(loss)
        if isinstance(held, Tensor) and held.numel() != 1:
            raise InputError(f"loss: got shape {tuple(held.shape)}, wanted one number")
        if isinstance(held, Tensor) and held.device.type == "cpu":
            held = float(held)
        self._losses.append((self.at, held.clone() if isinstance(held, Tensor) else held))
        if isinstance(held, float):
            over = self._band.above(held)
            if over != self._over and ranks.count() == 1 and not self.stopped and self._clock.every is None:
                self._clock.next = self.at  # as a spike begins, and as it ends
            self._over = over

    def close(self) -> None:
        """Take the last record and write `summary.json`."""
        if self._closed:
            return
        self._clock.enter(time.perf_counter())
        if self._watched is None:
            self.start()
        (goes_on,) = ranks.told([int(not self.stopped)])
        if goes_on:
            self._record("end", floor=True)
        self._leave("closed")

    def read(self) -> Run:
        """The run as it stands in its folder, while it goes on or afterwards."""
        return read_run(self._folder.path)

    @property
    def overhead(self) -> Reading:
        """Its share of the training time so far."""
        return self._clock.reading()

    # --- the folder's side ---

    def _open(self, watched: Watched) -> None:
        said = about(self.model, watched.batch, self._quantities, self._clock.budget, self._clock.every)
        reference = bases(self._reference, {name: place.width for name, place in watched.places.items()})
        made, where = self.at, [0, 0]
        with ranks.together():
            if ranks.number() == 0:
                asked = None if self._resume is True else int(self._resume)
                cut = self._folder.resume(said) if self._folder.holds_a_run else self._folder.begin(said, reference)
                where = [made + self._folder.go_on(asked, cut, self._clock), self._clock.next]
        self.at, self._clock.next = ranks.told(where)
        self._losses = [(step + self.at - made, loss) for step, loss in self._losses]

    def _look(self) -> None:
        """At a planned step: measure if it is affordable, else plan another; on several ranks the first decides."""
        (due,) = ranks.told([int(self._clock.due(self.at)) if not self.stopped else _STOPPED])
        if due == 1:
            self._record("spike" if self._over else "planned", floor=False)
        elif due == 0:
            (self._clock.next,) = ranks.told([self._clock.plan(self.at)])

    def _record(self, why: str, *, floor: bool) -> None:
        assert self._watched is not None
        began = time.perf_counter()
        try:
            readings, tensors, restored = measured(self.model, self._watched, self._quantities, self._known)
            self._write(why, readings, tensors, restored, began)
        except (OSError, MissingError, torch.OutOfMemoryError) as error:
            self._stop(error)
        _synchronise(self._watched)
        self._clock.took(time.perf_counter() - began, floor=floor)
        self._plan()

    def _plan(self) -> None:
        self._clock.leave(time.perf_counter())  # what the record took is inside
        (self._clock.next,) = ranks.told([self._clock.plan(self.at) if not self.stopped else _STOPPED])

    def _write(
        self, why: str, readings: dict[str, Reading], tensors: dict[str, Tensor], restored: list[str], began: float
    ) -> None:
        losses = self._held_losses()
        if ranks.number() != 0:
            self._losses.clear()
            return
        name = self._folder.tensors(self.at, tensors)
        self._clock.leave(time.perf_counter())
        line = {
            "kind": "record",
            "step": self.at,
            "why": why,
            "clock": self._clock.state(),
            "cost": time.perf_counter() - began,
            "losses": losses,
            "readings": {key: asdict(reading) for key, reading in readings.items()},
            "tensors": name,
            "restored": restored,
        }
        self._folder.append(line)
        self._losses.clear()

    def _write_losses(self) -> None:
        if ranks.number() == 0 and not self.stopped:
            try:
                self._folder.append({"kind": "losses", "losses": self._held_losses()})
            except OSError as error:
                self._stop(error)
        self._losses.clear()

    def _held_losses(self) -> list[tuple[int, float | None]]:
        """The losses since the last line; None where one was not finite."""
        numbers = [(step, float(loss)) for step, loss in self._losses]
        return [(step, loss if math.isfinite(loss) else None) for step, loss in numbers]

    def _stop(self, error: Exception) -> None:
        self.stopped = f"recording stopped at step {self.at}: {(str(error) or type(error).__name__).splitlines()[0]}"
        line = {"kind": "stopped", "step": self.at, "reason": self.stopped}
        said = ranks.number() != 0 or (self._watched is not None and self._folder.give_up(line, self._held_losses()))
        self._losses.clear()
        warnings.warn(
            f"{self.stopped}. The training goes on without it" + ("" if said else "; the record could not be told"),
            RecorderWarning,
            stacklevel=4,
        )

    def _leave(self, how: str) -> None:
        self._closed = True
        if self._watched is not None and ranks.number() == 0 and not self.stopped:
            try:
                self._sum_up(how)
            except (OSError, MissingError) as error:
                self._stop(error)
        self._clock.leave(time.perf_counter())

    def _sum_up(self, how: str) -> None:
        """The last line, which counts what it takes to look over all records, and the summary."""
        if self._losses:
            self._folder.append({"kind": "losses", "losses": self._held_losses()})
            self._losses.clear()
        made = derived(self.read())
        self._clock.leave(time.perf_counter())
        line = {"kind": "end", "step": self.at, "how": how, "clock": self._clock.state(), "overhead": self._clock.sentence()}
        self._folder.append(line)
        self._folder.end()
        self.read().write_summary(made)


def _synchronise(watched: Watched | None) -> None:
    """Wait for the accelerator, so that the clock reads what the measurement took."""
    tensors = [] if watched is None else [*watched.batch.args, *watched.batch.kwargs.values()]
    if any(isinstance(held, Tensor) and held.device.type == "cuda" for held in tensors):
        torch.cuda.synchronize()
