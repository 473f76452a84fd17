"""The run folder: `run.json` (what is measured, on what), `records.jsonl` (a line a record), `states/STEP.safetensors`.

Lines are only ever appended. A record's tensors are written before its line, so after a `kill -9` every line has its tensors and
at most the last record is lost; a line that was cut off is cut away when the run is resumed, and the next line says so. A run
that goes on from an earlier step says that too, and what lies beyond counts no more; one that goes on from a later step (losses
are written with records, so a run that was killed may end before its checkpoint) says of which steps nothing is held.

A disk that fills up never reaches the training loop: a write that failed is taken back, four kilobytes that were set aside at the
start are given up, and the last line says why recording stopped; the losses that are held go before it where they still fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, MissingError
from ..io import cannot_write, load_tensors, read_json, save_tensors, write_json
from .cadence import Cadence

SCHEMA = "strandscope/run/1"
ABOUT, LINES, STATES, ROOM = "run.json", "records.jsonl", "states", ".room"


class Folder:
    """The writer."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def holds_a_run(self) -> bool:
        return (self.path / LINES).exists()

    def begin(self, about: Mapping[str, Any], reference: Mapping[str, Tensor]) -> int:
        """Start a new run here; no bytes were cut away.

        Raises:
            MissingError: the folder cannot be written.
        """
        write_json(self.path / ABOUT, {"schema": SCHEMA, **about})
        if reference:
            save_tensors(self.path / "reference.safetensors", reference, {"schema": SCHEMA})
        try:
            (self.path / ROOM).write_bytes(bytes(4096))
            (self.path / LINES).touch()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return 0

    def resume(self, about: Mapping[str, Any]) -> int:
        """Make the folder ready to go on; how many bytes of a line that was cut off were cut away.

        Raises:
            InputError: it holds a run that measured something else.
        """
        was = about_of(self.path)
        for key in ("model", "parameters", "batch", "quantities"):
            if was.get(key) != json.loads(json.dumps(about[key])):
                raise InputError(
                    f"out: the run in {self.path} was recorded with another {key}; resume with the same, or choose another folder"
                )
        lines = self.path / LINES
        data = lines.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with lines.open("rb+") as file:
                file.truncate(whole)
        (self.path / ROOM).write_bytes(bytes(4096))
        return len(data) - whole

    def go_on(self, asked: int | None, cut: int, clock: Cadence) -> int:
        """The step to go on from, `asked` or where the lines end; the clock is set to what it was by then.

        A line says from where on, how many bytes were cut away, and what is `missing`: [last step held, step to go on from].

        Raises:
            InputError: a step below 0 is asked for.
        """
        if asked is not None and asked < 0:
            raise InputError(f"resume: got step {asked}, wanted True or a step from 0 on, that of the checkpoint")
        lines, _ = lines_of(self.path)
        ends = [line["step"] for line in lines if "step" in line]
        ends += [pair[0] for line in lines for pair in line.get("losses", ())]
        end = max(ends, default=0)
        step = end if asked is None else asked
        if lines or step or cut:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            line = {"kind": "resumed", "step": step, "cut": cut, "at": at}
            self.append(line | ({"missing": [end, step]} if step > end else {}))
        clocks = [line["clock"] for line in lines if "clock" in line and line["step"] <= step]
        if clocks:
            clock.restore(clocks[-1])
        return step

    def tensors(self, step: int, tensors: Mapping[str, Tensor]) -> str:
        """Write a record's tensors; the file's name in the folder."""
        name = f"{STATES}/{step:09d}.safetensors"
        save_tensors(self.path / name, tensors, {"schema": SCHEMA, "step": step})
        return name

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, whole or not at all: it is in the system's hands, which a killed process does not take with it."""
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with (self.path / LINES).open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                written = file.write(data)
                if written != len(data):
                    raise OSError(28, os.strerror(28))
            except OSError:
                file.truncate(start)
                raise

    def give_up(self, line: Mapping[str, Any], losses: Sequence[tuple[int, float | None]]) -> bool:
        """Say in the record that it stopped, with the room that was set aside; whether that worked. The losses go first."""
        with suppress(OSError):  # they may not fit; the line that says so matters more
            if losses:
                self.append({"kind": "losses", "losses": losses})
        try:
            (self.path / ROOM).unlink(missing_ok=True)
            self.append(line)
        except OSError:
            return False
        return True

    def end(self) -> None:
        (self.path / ROOM).unlink(missing_ok=True)


def about_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What is in run.json.

    Raises:
        MissingError: there is none. InputError: it is no run's.
    """
    path = Path(folder) / ABOUT
    if not path.is_file():
        raise MissingError(f"{folder}: there is no run here (no {ABOUT}); give the folder that a Recorder wrote to")
    about = read_json(path)
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: holds {str(about.get('schema'))[:80]!r}, wanted a run ({SCHEMA}); check which folder this is")
    return about


def lines_of(folder: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], int]:
    """(lines that count, bytes of a last line that was cut off): what a resumption went back behind is left out."""
    data = (Path(folder) / LINES).read_bytes()
    whole = data.rfind(b"\n") + 1
    kept: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(data[:whole], folder), start=1):
        if line.get("kind") == "resumed":
            kept = [cut for cut in (_until(one, line["step"]) for one in kept) if cut is not None]
        kept.append({**line, "number": number})
    return kept, len(data) - whole


def _lines(data: bytes, folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{Path(folder) / LINES}:{number}: not JSON ({error}); the file was changed, copy it again"
            ) from None


def _until(line: dict[str, Any], step: int) -> dict[str, Any] | None:
    """The line without what lies beyond a step."""
    if line["kind"] in ("record", "end", "stopped") and line["step"] > step:
        held = [pair for pair in line.get("losses", ()) if pair[0] <= step]
        return {"kind": "losses", "losses": held} if held else None
    if "losses" in line:
        return {**line, "losses": [pair for pair in line["losses"] if pair[0] <= step]}
    return line


def read_tensors(folder: str | os.PathLike[str], name: str, only: Collection[str]) -> dict[str, Tensor]:
    """Those of a record's tensors that have these names."""
    return load_tensors(Path(folder) / name, only)[0]
