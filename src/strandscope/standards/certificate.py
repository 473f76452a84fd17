"""The certificate: what the estimators gave on cases whose answer is known, on which machine, with which versions, when.

A quick one stands beside every report. It is kept in the user's cache under the digest of the sources that can change it, the
versions of what they stand on and the machine, so that it is made once for each.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .. import io
from ..errors import InputError
from ..provenance import digest, versions
from .run import Progress, Result, calibrate

SCHEMA = "strandscope/certificate/1"
_HOUSE = Path(__file__).parents[1]
_ROOMS = ("*.py", "engine/**/*.py", "statistics/**/*.py", "strand/**/*.py", "laws/**/*.py", "standards/**/*.py")


@dataclass(frozen=True, slots=True)
class Line:
    """One standard of a certificate. A figure is None where nothing is claimed of it."""

    name: str
    estimator: str
    about: str
    truth: str
    source: str
    unit: str
    kinds: tuple[str, ...]
    bias: float | None
    bias_error: float | None
    worst: float | None
    wanted: float | None  # the band of the bias, or of the worst error
    coverage: float | None
    coverage_band: tuple[float, float] | None
    false_positive_rate: float | None
    alarm_band: float | None
    refused: float
    repetitions: int
    slips: dict[str, bool] | None  # mutation: whether it turned the standard red
    verdict: Literal["green", "red"]
    reasons: tuple[str, ...]
    seconds: float

    @classmethod
    def of(cls, result: Result) -> Line:
        case, judged = result.standard, result.judged
        slips = None if result.slips is None else {slip.name: slip.caught for slip in result.slips}
        wanted = case.bands.error if case.bands.bias is None else case.bands.bias
        return cls(
            case.name, case.estimator, case.about, case.truth, case.source, case.unit, case.kinds,
            judged.bias, judged.bias_error, judged.worst, wanted, judged.coverage, judged.coverage_band,
            judged.false_positive_rate, judged.alarm_band, judged.refused, judged.repetitions,
            slips, "green" if result.verdict == "green" else "red", result.reasons, round(result.seconds, 3),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Certificate:
    """All lines, and what they were made with. `mode` is "quick" or "certify"; `sources` the digest of the code."""

    standards: tuple[Line, ...]
    mode: str
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    sources: str
    seconds: float

    @property
    def verdict(self) -> Literal["green", "red"]:
        return "red" if self.red else "green"

    @property
    def red(self) -> tuple[str, ...]:
        """The standards that are not met."""
        return tuple(line.name for line in self.standards if line.verdict == "red")

    def __str__(self) -> str:
        met = len(self.standards) - len(self.red)
        failed = f"; red: {', '.join(self.red)}" if self.red else ""
        return f"{met} of {len(self.standards)} standards met ({self.mode}, {self.date[:10]}){failed}"

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "verdict": self.verdict, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Certificate:
        """What `as_json` gave.

        Raises:
            InputError: it is no certificate, or of another version.
        """
        if value.get("schema") != SCHEMA:
            raise InputError(f"{where}: a {value.get('schema', 'file of another kind')}, wanted {SCHEMA}; calibrate again")
        try:
            fields = {name: value[name] for name in cls.__dataclass_fields__}
            fields["standards"] = tuple(Line(**_tuples(line)) for line in fields["standards"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{where}: not a whole certificate ({error}); calibrate again") from None
        return cls(**fields)


def _tuples(line: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in line.items()}


def issue(
    names: Sequence[str] = (),
    mode: Literal["quick", "certify"] = "quick",
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Certificate:
    """Run the standards now. Certifying runs the slips as well."""
    results = calibrate(names, mode, slips=mode == "certify", jobs=jobs, progress=progress)
    return Certificate(
        tuple(Line.of(result) for result in results),
        mode,
        machine(),
        versions(),
        datetime.now(UTC).isoformat(timespec="seconds"),
        sources(),
        round(sum(result.seconds for result in results), 1),
    )


def certificate(quick: bool = True, *, jobs: int = 1, progress: Progress | None = None) -> Certificate:
    """The certificate of this code on this machine: the one in the user's cache, or made now and kept there."""
    mode = "quick" if quick else "certify"
    kept = io.cache_folder() / "certificates" / f"{mode}-{digest(sources(), versions(), machine())[:32]}.json"
    if kept.is_file():
        try:
            return Certificate.from_json(io.read_json(kept), str(kept))
        except InputError:  # cut off or of another version: made again below
            pass
    made = issue((), mode, jobs=jobs, progress=progress)
    io.write_json(kept, made.as_json())
    return made


def sources() -> str:
    """Digest of every file that can change a figure: the ground and the wing of mathematics, these standards included."""
    files = sorted({file for pattern in _ROOMS for file in _HOUSE.glob(pattern)})
    return digest(*[part for file in files for part in (file.relative_to(_HOUSE).as_posix(), file.read_bytes())])


def machine() -> dict[str, Any]:
    """The machine by name."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if named:
            return named[0]
    return platform.processor() or platform.machine()
