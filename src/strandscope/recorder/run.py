"""A run read back from its folder: readings over steps, what was made of the kept subspaces, spikes and emergence times.

Everything that compares records is made here and not while recording, so a run that was killed reads as well as one that was
closed: its features are compared with the last ones that there are. They are read as they are asked for, site by site and record
by record, and so many of them are held at once and no more: what a run takes of memory does not grow with its records.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..io import load_tensors, write_json
from ..laws.figure import Figure, Series
from ..reading import Null, Reading
from ..statistics.participation import LEAST_CARRIERS
from ..statistics.tangent.kernel import kernel_motion
from .alignment import Kept, alignment, emergence, rotation
from .folder import about_of, lines_of, read_tensors
from .quantities import KERNEL
from .spikes import Spike, spikes
from .summary import derived, summary
from .text import told

SUMMARY = "summary.json"
HELD = 256  # features of a site in a record, held at once


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured after a step."""

    step: int
    why: str  # "start", "planned", "spike", "resumed" or "end"
    seconds: float  # of training before it
    cost: float  # seconds that it took
    readings: dict[str, Reading]
    tensors: str  # file in the folder
    restored: tuple[str, ...]


@dataclass(frozen=True)
class Moved:
    """A spike of the loss and how far the features at each site turned across it.

    `usual` is the median rotation over other stretches of at least as many steps; None where there is none.
    """

    spike: Spike
    between: tuple[int, int]
    rotation: dict[str, Reading]
    usual: dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """A run as it stands in its folder.

    Attributes:
        about: what run.json says; `losses`: (step, loss), None where one was not finite.
        notes: what the record says of itself: resumptions, why it stopped, how it ended.
        overhead: the recorder's share of the training time.
    """

    folder: Path
    about: dict[str, Any]
    records: tuple[Record, ...]
    losses: tuple[tuple[int, float | None], ...]
    notes: tuple[str, ...]
    overhead: Reading

    @property
    def steps(self) -> list[int]:
        return [record.step for record in self.records]

    @property
    def rows(self) -> int:
        """Of the batch, those of all ranks."""
        return int(self.about["batch"]["rows"])

    @property
    def sites(self) -> list[str]:
        return list(self.about["quantities"]["features"]["sites"])

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """(d, k) bases that the run was compared with, by site."""
        file = self.folder / "reference.safetensors"
        return load_tensors(file)[0] if file.exists() else {}

    def series(self, name: str) -> list[Reading | None]:
        """A reading over the records, by its name ("input/dimension"); None where a record has none of that name."""
        found = [record.readings.get(name) for record in self.records]
        if not any(found):
            names = sorted({key for record in self.records for key in record.readings})
            raise InputError(f"name: got {name!r}, wanted one of {', '.join(names)}")
        return found

    def features(self, site: str, number: int) -> Kept | None:
        """The features at a site in a record, by its number; None where there were none (no gradient, or a NaN)."""
        self._check(site)
        return self._features(site, number)

    @cached_property
    def _features(self) -> Callable[[str, int], Kept | None]:
        return lru_cache(HELD)(self._read_features)

    def _read_features(self, site: str, number: int) -> Kept | None:
        names = [f"{site}/{name}" for name in ("vectors", "values", "traces", "carriers")]
        held = read_tensors(self.folder, self.records[number].tensors, names)
        if not held:
            return None
        vectors, values, traces, carriers = (held[name].double() for name in names)
        rank = min(int(self.about["quantities"]["features"]["rank"]), vectors.shape[1])
        return Kept(vectors, values, traces, rank, self.rows, float(carriers))

    def alignment(self, site: str, *, to: str = "last") -> list[Reading | None]:
        """The share of the response at a site that runs along the last record's leading directions, or along the reference."""
        directions, what = self._directions(site, to)
        return [None if one is None or directions is None else alignment(one, directions, what) for one in self._each(site)]

    def _each(self, site: str, *, backwards: bool = False) -> Iterator[Kept | None]:
        """The features at a site in each record, read one after the other."""
        numbers = range(len(self.records))
        return (self.features(site, number) for number in (reversed(numbers) if backwards else numbers))

    def _directions(self, site: str, to: str) -> tuple[Tensor | None, str]:
        if to not in ("last", "reference"):
            raise InputError(f"to: got {to!r}, wanted 'last' or 'reference'")
        if to == "reference":
            if site not in self.reference:
                raise InputError(f"site: got {site!r}, which has no reference; give Recorder reference={{{site!r}: basis}}")
            return self.reference[site], "the reference"
        last = next((one for one in self._each(site, backwards=True) if one is not None), None)
        return (None, "") if last is None else (last.leading, f"the last {last.rank} leading directions")

    def rotation(self, site: str) -> list[Reading | None]:
        """How far the features at a site turned since the record before; None of the first."""
        pairs = pairwise(self._each(site))
        turned = [None if one is None or other is None else rotation(one, other) for one, other in pairs]
        return [None, *turned] if self.records else []

    def emergence(self, site: str, *, to: str = "last") -> Reading:
        """The step from which on alignment stays above half-way from its first value to its last."""
        directions, what = self._directions(site, to)
        shares = {
            step: one.shares(directions)
            for step, one in zip(self.steps, self._each(site), strict=True)
            if directions is not None and one is not None and one.carriers >= LEAST_CARRIERS
        }
        return emergence(list(shares), list(shares.values()), self.rows, what)

    def kernel_motion(self) -> list[Reading | None]:
        """‖Θ − Θ_0‖/‖Θ_0‖ over the records, Θ_0 the first record's; None where the tangent kernel was not measured."""
        name = f"{KERNEL}/kernel"
        found = [read_tensors(self.folder, record.tensors, [name]).get(name) for record in self.records]
        first = next((one for one in found if one is not None), None)
        if first is None:
            raise InputError("tangent kernel: this run has none; give Recorder quantities=[TangentKernel()]")
        method = f"Frobenius distance of the tangent kernel from the first record's, {len(first)} rows; exact given the rows"

        def reading(value: float) -> Reading:
            return Reading(value, value, value, None, len(first), "", None, method)

        return [None if one is None else reading(kernel_motion(first, one)) for one in found]

    def spikes(self) -> list[Moved]:
        """Spikes of the loss, and how far the features turned from the last record before to the first after."""
        steps = [step for step, _ in self.losses]
        found = spikes(steps, [float("nan") if loss is None else loss for _, loss in self.losses])
        return [moved for spike in found if (moved := self._moved(spike)) is not None]

    def _moved(self, spike: Spike) -> Moved | None:
        end = spike.last if spike.last is not None else spike.top
        before = max((number for number, step in enumerate(self.steps) if step < spike.first), default=None)
        after = min((number for number, step in enumerate(self.steps) if step >= end), default=None)
        if before is None or after is None:
            return None
        turned: dict[str, Reading] = {}
        usual: dict[str, float | None] = {}
        for site in self.sites:
            one, other = self.features(site, before), self.features(site, after)
            if one is not None and other is not None:
                turned[site] = rotation(one, other)
            usual[site] = self._usual(site, before, after)
        return Moved(spike, (self.steps[before], self.steps[after]), turned, usual)

    def _usual(self, site: str, before: int, after: int) -> float | None:
        """Median rotation over stretches of at least as many steps that end before or begin after."""
        apart, found = self.steps[after] - self.steps[before], []
        for number, step in enumerate(self.steps):
            later = next((later for later, other in enumerate(self.steps) if other - step >= apart), None)
            if later is None or (number < after and later > before):
                continue
            one, other = self.features(site, number), self.features(site, later)
            if one is not None and other is not None and (value := rotation(one, other).value) is not None:
                found.append(value)
        return float(torch.tensor(found).median()) if found else None

    def table(self) -> list[dict[str, Any]]:
        """One row a record: its step, the mean loss since the record before, all readings, those that compare records too."""
        derived: dict[str, Sequence[Reading | None]] = {}
        for site in self.sites:
            derived[f"{site}/alignment with the last"] = self.alignment(site)
            derived[f"{site}/rotation"] = self.rotation(site)
            if site in self.reference:
                derived[f"{site}/alignment with the reference"] = self.alignment(site, to="reference")
        rows, since = [], -1
        for number, record in enumerate(self.records):
            losses = [loss for step, loss in self.losses if since < step <= record.step and loss is not None]
            row: dict[str, Any] = {"step": record.step, "seconds": record.seconds, "cost": record.cost}
            row["loss"] = sum(losses) / len(losses) if losses else None
            rows.append(row | record.readings | {name: values[number] for name, values in derived.items()})
            since = record.step
        return rows

    def figure(self, what: str = "alignment with the last") -> Figure:
        """A reading of every site over the steps, as data."""
        series = []
        rows = self.table()
        for site in self.sites:
            points = [(row["step"], row.get(f"{site}/{what}")) for row in rows]
            held = [(step, one) for step, one in points if one is not None and one.value is not None]
            if held:
                x, y = [step for step, _ in held], [one.value for _, one in held]
                series.append(Series.of(site, "measured", x, y, [one.low for _, one in held], [one.high for _, one in held]))
        if not series:
            raise InputError(f"what: got {what!r}, wanted a reading of sites, such as 'dimension' or 'rotation'")
        return Figure.of(f"{self.about['model']}: {what}", "step", what, series)

    def __str__(self) -> str:
        return told(self)

    def write_summary(self, made: dict[str, Any] | None = None) -> None:
        """`made`: what `summary.derived` gave of these records, where that is known."""
        write_json(self.folder / SUMMARY, summary(self, derived(self) if made is None else made))

    def _check(self, site: str) -> None:
        if site not in self.sites:
            raise InputError(f"site: got {site!r}, wanted one of {', '.join(self.sites)}")


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run in a folder, closed, killed or still going on.

    Raises:
        MissingError: there is none. InputError: a file in it is damaged.
    """
    place, about = Path(folder), about_of(folder)
    lines, cut = lines_of(folder)
    records: dict[int, Record] = {}
    losses: dict[int, float | None] = {}
    notes: list[str] = []
    clock: dict[str, Any] = {}
    for line in lines:
        losses |= {int(step): loss for step, loss in line.get("losses", ())}
        clock = line.get("clock", clock)
        if line["kind"] == "record":
            records[line["step"]] = _record(line)
        elif line["kind"] == "resumed":
            torn = f" after {line['cut']} bytes of a line that was cut off" if line["cut"] else ""
            end, step = line.get("missing", (0, 0))
            lost = f"; nothing is held of steps {end + 1} to {step}" if step > end else ""
            notes.append(f"resumed at step {line['step']}{torn}{lost}")
        elif line["kind"] == "stopped":
            notes.append(line["reason"])
        elif line["kind"] == "end":
            notes.append(f"{line['how']} at step {line['step']}; overhead {line['overhead']}")
    if cut:
        notes.append(f"the last line is cut off ({cut} bytes) and does not count")
    if not any(line["kind"] in ("end", "stopped") for line in lines[-1:]):
        notes.append("it has no end: it is still going on, or was killed")
    ordered = tuple(records[step] for step in sorted(records))
    return Run(place, about, ordered, tuple(sorted(losses.items())), tuple(notes), _overhead(clock))


def _record(line: dict[str, Any]) -> Record:
    readings = {}
    for name, held in line["readings"].items():
        null = Null(**held["null"]) if held["null"] else None
        readings[name] = Reading(**{**held, "null": null})
    clock = line["clock"]
    return Record(line["step"], line["why"], clock["outside"], line["cost"], readings, line["tensors"], tuple(line["restored"]))


def _overhead(clock: dict[str, Any]) -> Reading:
    unit, method = "share of training time", "seconds inside the recorder over seconds between its calls, by the clock"
    if not clock.get("outside"):
        return Reading.not_measured("no step was made", unit=unit, method=method)
    share = clock["inside"] / clock["outside"]
    return Reading(share, share, share, None, int(clock["records"]), unit, None, method)
