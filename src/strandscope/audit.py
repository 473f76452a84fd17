"""An audit: which concepts can be read in a network, where, with what certainty, and what a push on one does to its answers.

The order of work is the method. The network's selfcheck is run in full. For each concept the states are captured and everything
is found, with its evidence, by `find`; only then are the p-values corrected for the number of concepts asked about (Holm).
Strands of the concepts that were detected are described, held against matched directions to see whether the network uses them,
and pushed on at a stated cost; the texts are shown and not scored. Nothing is chosen here.

What it promises: the same seed, data, network and versions give the same figures; a finished stage is kept below `out`, so an
interrupted audit goes on where it was and says so. `strandscope.audit` is this module and, in the front door, also the verb: the
import system puts a module's name on its package, over the function of that name. So the module can be called, and means the
function.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from . import io
from .capture.examples import Examples
from .errors import InputError, TrustError
from .monitor.benign import conversations, row_of
from .monitor.monitor import Monitor
from .monitor.shown import shown
from .provenance import versions
from .report import entries
from .report.asked import Asked, Concept, checked, packs
from .report.census import read
from .report.effects import EffectEntry
from .report.erasure import ErasureEntry
from .report.finding import ConceptEntry, Meaning, Measured, Provenance, Pushes, Report, Unmeasured, UseEntry, as_json
from .report.kept import Kept
from .report.markdown import markdown
from .report.monitored import Look, MonitorEntry, shown_as, watched
from .report.monitored import entry as monitor_entry
from .report.page.html import html
from .report.stages import FULL, QUICK, USING, USING_QUICK, Progress, Stages, permutations_for
from .report.table import lines
from .report.verdict import concept_findings, is_detected
from .statistics.resample import holm
from .strand.erase import Eraser
from .strand.strand import Strand
from .subject.selfcheck import Check, selfcheck
from .subject.subject import Subject

NO_MONITOR = "none was given; `strandscope monitor` makes one, and `strandscope audit --monitor` puts it here"
NO_CENSUS = "none was given; `strandscope census` takes one, and `strandscope audit --census` puts it here"


@dataclass(frozen=True)
class Audit:
    """The report, and the strands and erasers it speaks of in the order of its concepts."""

    report: Report
    strands: tuple[Strand, ...]
    erasers: tuple[Eraser | None, ...]

    def write(self, folder: str | os.PathLike[str]) -> None:
        """strands/*.safetensors, erasers/*.safetensors, report.html, report.md and report.json: all, or on a full disk none."""
        with io.staged(folder) as target:
            for entry, strand in zip(self.report.concepts, self.strands, strict=True):
                strand.save(target / entry.strand.file)
            for entry, eraser in zip(self.report.concepts, self.erasers, strict=True):
                if eraser is not None and isinstance(entry.erasure, ErasureEntry):
                    eraser.save(target / entry.erasure.file)
            io.write_text(target / "report.html", html(self.report))
            io.write_text(target / "report.md", markdown(self.report))
            io.write_json(target / "report.json", as_json(self.report))

    def __str__(self) -> str:
        return "\n".join(lines(self.report))


def audit(
    subject: Subject,
    concepts: Sequence[Concept] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    quick: bool = False,
    steer: bool = True,
    calibrate: bool = True,
    erase: bool | None = None,
    effects: bool = False,
    census: str | os.PathLike[str] | None = None,
    monitor: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Audit:
    """Ask a network for concepts, with evidence, and push on those that are there.

    Args:
        concepts: names of packs, .jsonl or .csv files, or Examples; None asks for every pack that the network can take.
        out: a folder to write the report to; an audit that was interrupted there goes on where it was.
        quick: two packs unless concepts are named, fewer and shorter texts; the report says so.
        calibrate: stand the quick certificate of this code on this machine beside the figures (made once, then kept).
        erase: fit and certify an eraser of each concept; None is yes, except in a quick audit.
        effects: score what a push does to generated texts: minutes a concept; on a CPU with fewer prompts and random pushes.
        monitor: a monitor of this network, as `strandscope monitor` writes it, to stand in the report.
        census: a census of this network, as `strandscope census` writes it (census.json or its folder), to stand in the report.
        command: what the reader can run to get this report again.

    Raises:
        InputError: rows that cannot be used. TrustError: the network fails its selfcheck. MissingError: `out` cannot be written.
    """
    if concepts is not None and not concepts:
        raise InputError("concepts: got none, wanted names of packs, files or Examples; leave it out to ask for every pack")
    names, left_out = packs(subject, quick) if concepts is None else (concepts, "")
    asked = checked(names)
    kept = Kept.below(None if out is None else Path(out))
    pushing, using = (QUICK, USING_QUICK) if quick else (FULL, USING)
    stages = Stages(subject, kept, seed, permutations_for(len(asked)), pushing, using, progress)
    counted = Unmeasured(reason=NO_CENSUS) if census is None else read(census, subject.fingerprint)
    calibrated = None if monitor is None else _of(subject, Monitor.load(monitor))
    unasked = "a quick audit does not erase" if quick and erase is None else "it was not asked for" if erase is False else ""
    checks = _checked(subject, stages)

    found = [stages.find(one) for one in asked]
    corrected = holm([_p(measured) for measured, _ in found])

    findings, meanings, behind, erasers = [], [], [], []
    for one, (measured, strand), p in zip(asked, found, corrected, strict=True):
        absent = "the concept was not detected" if not is_detected(p) else ""
        meaning = stages.describe(one, strand, absent)
        used = stages.use(one, strand, absent)
        pushed = stages.push(one, strand, absent or ("" if steer else "it was not asked for"))
        effect = stages.effect(one, absent or ("" if effects else "it was not asked for (--effects)"))
        erasure, eraser = stages.erase(one, strand, unasked)
        findings += concept_findings(measured, p, len(asked), used, pushed, effect, erasure)
        meanings.append(meaning)
        behind.append(_behind(measured, meaning, used, pushed, effect, erasure))
        erasers.append(eraser)

    report = Report(
        subject=entries.subject_entry(subject, checks),
        certificate=stages.certify(calibrate),
        findings=tuple(findings),
        concepts=tuple(behind),
        census=counted,
        monitor=Unmeasured(reason=NO_MONITOR) if calibrated is None else _watching(calibrated, subject, asked, meanings),
        provenance=Provenance(
            versions=versions(),
            seed=seed,
            permutations=stages.permutations,
            command=command,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            mode="quick" if quick else "full",
            resumed=tuple(kept.taken),
            limits=_limits(quick, left_out),
        ),
    )
    done = Audit(report, tuple(strand for _, strand in found), tuple(erasers))
    if out is not None:
        done.write(out)
    return done


def _p(measured: Measured) -> float:
    null = measured.readings.decodable.null
    assert null is not None and null.p is not None  # an audit always permutes
    return null.p


def _of(subject: Subject, monitor: Monitor) -> Monitor:
    """The monitor, if it was calibrated in this network."""
    monitor.check(subject.fingerprint)
    return monitor


def _watching(
    monitor: Monitor, subject: Subject, asked: Sequence[Asked], meanings: Sequence[Meaning | Unmeasured]
) -> MonitorEntry:
    """The monitor, with rows to look at: the first conversation of the project's, the first row of each class of its packs, and
    of the rows that the strand of a concept is shown by, the first of each kind.

    The first two are taken by their place in the files, whatever their scores.
    """
    chat = monitor.template.get("format") == "chat"
    rows, looks = [row_of("benign", conversations().rows[0], chat)], [Look("benign")]
    for one, meaning in zip(asked, meanings, strict=True):
        if one.name not in monitor.concepts or one.examples.kind not in ("text", "chat"):
            continue
        first: dict[str, Look] = {}
        for code, label in enumerate(one.examples.classes):
            first[next(row.id for row in one.examples.rows if row.label == code)] = Look(label)
        for row in () if isinstance(meaning, Unmeasured) else meaning.examples:
            if all(look.why != row.why for look in first.values()):
                first.setdefault(row.id, Look(row.label, row.why, one.name))
        by_id = {row.id: row for row in one.examples.rows}
        rows += [row_of(one.name, by_id[id], chat) | {"id": shown_as(one.name, id)} for id in first]
        looks += first.values()
    try:
        seen = watched(monitor, zip(looks, shown(monitor, subject, Examples.from_rows(rows, "rows to look at")), strict=True))
    except InputError as error:
        seen = Unmeasured(reason=str(error))
    return replace(monitor_entry(monitor), examples=seen)


def _behind(
    measured: Measured,
    meaning: Meaning | Unmeasured,
    used: UseEntry | Unmeasured,
    pushed: Pushes | Unmeasured,
    effect: EffectEntry | Unmeasured,
    erasure: ErasureEntry | Unmeasured,
) -> ConceptEntry:
    return ConceptEntry(
        name=measured.name,
        data=measured.data,
        strand=measured.strand,
        curve=measured.curve,
        choices=measured.choices,
        skipped=measured.skipped,
        meaning=meaning,
        use=used,
        steering=pushed,
        effect=effect,
        erasure=erasure,
    )


def _checked(subject: Subject, stages: Stages) -> tuple[Check, ...]:
    """Every line of the selfcheck; a network that fails one is refused."""
    stages.say("selfcheck", 0, 1)
    checks = subject.checks if any(check.name == "decoding" for check in subject.checks) else selfcheck(subject, full=True)
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        raise TrustError(f"{subject.name} failed its selfcheck: {failed[0]}; its numbers could not be trusted, so it is refused")
    stages.say("selfcheck", 1, 1)
    return checks


def _limits(quick: bool, left_out: str) -> tuple[str, ...]:
    said = [
        "That a concept can be read off the states does not say that the network uses it. Use is asked of one position, the "
        "last, and of one direction; what is not used there may be used elsewhere.",
        "The evidence holds for rows and groups such as these; other wordings, languages and lengths were not tried.",
        "“Not detected” is about this procedure and this many rows; it does not say that the network does not know the concept.",
        "The texts of a push are shown and not scored; an effect, where it was measured (--effects), is that of a push of its "
        "own, found on half of the rows.",
        "States were read at block outputs and at each row's last token only.",
        "Costs and ablations are measured in the network's own dtype; in bfloat16 rounding alone costs about 0.002 nats.",
    ]
    if quick:
        said.append(
            "This is a quick audit: fewer and shorter texts than in the full one, and two packs where no concept was named."
        )
    return tuple([*said, left_out] if left_out else said)


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Audit:
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
