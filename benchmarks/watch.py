"""Watch: what a monitor costs while a network writes, what a long stream of states costs, and how often the drift alarm is right.

Eight concepts are read at all 30 blocks, 240 channels, in every token of prompt and reply. Tokens per second are of `generate`
with 64 new tokens, the same prompts and greedy decoding, plain and watched in turn; both write the same tokens. Streams of states
are lines of JSON, eight tokens each at one site, made in memory, parsed and judged as `strandscope watch` does.
"""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import strandscope as ss
from common import Line, Results, Size, main, paired, timed
from strandscope.monitor.benign import benign
from strandscope.monitor.drift import Drift
from strandscope.monitor.evaluate import part_of
from strandscope.monitor.monitor import Monitor
from strandscope.monitor.states import StateRows
from strandscope.monitor.stream import Watcher
from strandscope.provenance import numpy_generator, torch_generator
from strandscope.reading import Reading
from strandscope.strand.find import find
from strandscope.strand.strand import Strand

NEW = 64
TOKENS = 8  # of a sequence of states


def strands(subject: ss.Subject, concepts: int, sites: list[str]) -> list[Strand]:
    """Directions at random, as long as they would be found."""
    evidence = Reading(0.9, 0.8, 0.95, 0.95, 100, "AUROC", None, "made up for a benchmark")
    made = []
    for concept in range(concepts):
        for site in sites:
            basis = torch.randn(subject.d, 1, generator=torch_generator(0, "watch", str(concept), site))
            basis = basis / basis.norm()
            about: dict[str, Any] = {"position": "last", "method": "at random", "evidence": evidence}
            tensors = {"basis": basis, "pattern": basis, "spectrum": torch.ones(1), "offset": torch.zeros(1)}
            made.append(Strand(f"c{concept}", "yes", site, **tensors, **about, fingerprint=subject.fingerprint))
    return made


def generation(subject: ss.Subject, size: Size) -> list[Line]:
    """Tokens per second of watched generation as a share of plain."""
    sites = [str(site) for site in subject.sites("resid:*")]
    prompts = ss.concept("neutral")
    texts = [subject.render(row.input) for row in prompts.rows[:80:10]]  # type: ignore[arg-type]
    calibration = ss.capture(subject, prompts.subset(range(0, 300, 3)), "resid:*", "last")
    monitor = Monitor.calibrate(strands(subject, 8, sites), calibration, false_alarm=0.3, aggregation="max")
    tokenizer: Any = subject.tokenizer
    module: Any = subject.module
    lines = []
    for rows in (1, 8):
        batch = tokenizer(texts[:rows], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], **options}

        def plain(given: Any = given) -> torch.Tensor:
            with torch.no_grad():
                return module.generate(**given)

        def watched(given: Any = given) -> torch.Tensor:
            with monitor.watching(subject), torch.no_grad():
                return module.generate(**given)

        if not torch.equal(plain(), watched()):
            raise SystemExit("the watched network writes other tokens: it is not left as it is")
        pairs = paired(plain, watched, size.of(9 if rows == 1 else 7, 1))
        ratios = sorted(pairs.ratios)
        note = f"{rows * NEW / np.median(pairs.first):.0f} and {rows * NEW / np.median(pairs.second):.0f} tokens/s"
        what = f"watched / plain tokens per second, batch {rows}"
        lines.append(Line(what, float(np.median(ratios)), ratios[0], ratios[-1], len(ratios), least=0.95, note=note))
    return lines


def state_lines(rows: int, width: int) -> Iterator[bytes]:
    """Lines of states, 64 different ones in turn."""
    draw = np.random.default_rng(0)
    kept = [
        json.dumps({"states": {"resid:15": draw.normal(size=(TOKENS, width)).round(4).tolist()}}).encode() + b"\n"
        for _ in range(64)
    ]
    for row in range(rows):
        yield kept[row % 64]


def streams(subject: ss.Subject, size: Size) -> list[Line]:
    """Seconds and memory of calibrating on and watching so many sequences of states, beside a quarter of them."""
    found = strands(subject, 1, ["resid:15"])
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        most = size.of(10_000, 400)
        files = {}
        for rows in (most // 4, most // 2, most):
            files[rows] = Path(folder) / f"{rows}.jsonl"
            with files[rows].open("wb") as out:
                out.writelines(state_lines(rows, subject.d))
        made: dict[int, Monitor] = {}

        def calibrate(rows: int) -> None:
            made[rows] = Monitor.calibrate(found, StateRows(files[rows]), false_alarm=0.05, aggregation="max")

        def watch(rows: int) -> None:
            watcher = Watcher(made[most], None, made[most].drift())
            with files[rows].open("rb") as given:
                for number, line in enumerate(given, start=1):
                    for said in watcher.read([(number, line)]):
                        said.as_json()  # type: ignore[union-attr]

        for name, work in (("calibrate", calibrate), ("watch", watch)):
            work(most)
            few, many = timed(lambda work=work: work(most // 4)), timed(lambda work=work: work(most))
            ratio = many / few / 4
            note = f"{many:.1f} s for {most} sequences of {TOKENS} × {subject.d}, {few:.1f} s for a quarter"
            lines.append(Line(f"{name}: seconds a sequence, all / a quarter", ratio, most=1.2, note=note))
            peaks = {}
            for rows in (most // 4, most // 2):  # traced, which makes it slower
                tracemalloc.start()
                work(rows)
                peaks[rows] = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            growth = (peaks[most // 2] - peaks[most // 4]) / (most // 4)
            line = len(next(state_lines(1, subject.d)))
            note = (
                f"peak {peaks[most // 2] / 1e6:.1f} MB for {most // 2}; a line has {line} bytes; scores and ranks are what grows"
            )
            lines.append(Line(f"{name}: bytes of memory that a sequence adds", growth, most=1000.0, unit="bytes", note=note))
    return lines


def drifts(subject: ss.Subject, size: Size) -> list[Line]:
    """The drift alarm on Spanish traffic, on English requests of the same pack, and on simulated benign streams."""
    spanish, quiet = ss.concept("spanish"), ss.concept("neutral")
    acts = ss.capture(subject, spanish, "resid:*", "last")
    calm = ss.capture(subject, quiet, "resid:*", "last")
    order = numpy_generator(0, "drift traffic").permutation(len(calm))
    harm = ss.concept("harm")
    first, second = part_of(calm, order[: len(order) // 2]), part_of(calm, order[len(order) // 2 :])
    own = tuple(replace(row, group=f"own {row.id}") for row in first.examples.rows)  # all of them are the reference
    first = replace(first, examples=replace(first.examples, rows=own))
    strand = find(ss.capture(subject, harm, "resid:*", "last"), permutations=0)
    monitor = Monitor.calibrate(strand, first, false_alarm=0.2)
    lines = []
    for name, traffic, bound in (
        ("Spanish requests", part_of(acts, np.flatnonzero(spanish.labels == 1)), 100.0),
        ("other neutral requests", second, None),
    ):
        table, until = monitor.reader.of(traffic, None)[:, 1:], []
        for seed in range(size.of(20, 2)):
            drift = monitor.drift(seed=seed)
            for number in numpy_generator(seed, "order").permutation(len(table)):
                if drift.update(table[number]) is not None:
                    break
            until.append(drift.alarm.row + 1 if drift.alarm else len(table) + 1)
        missed = sum(one > len(table) for one in until)
        note = f"a monitor of harm; {missed} of {len(until)} orders without an alarm in {len(table)} sequences"
        what, middle = f"sequences until the drift alarm, {name}", float(np.median(until))
        lines.append(Line(what, middle, min(until), max(until), len(until), most=bound, note=note))
    fired, streams_ = 0, size.of(400, 4)
    for seed in range(streams_):
        draw = np.random.default_rng([7, seed])
        drift = Drift(draw.normal(size=(300, 1)), ["x"], generator=numpy_generator(seed, "benign stream"), level=0.01)
        for score in draw.normal(size=(size.of(10_000, 200), 1)):
            drift.update(score)
        fired += drift.alarm is not None
    lines.append(
        Line(f"drift alarms in {streams_} benign streams of {size.of(10_000, 200)} at 1 %", fired, n=streams_, most=10.0)
    )
    return lines


def pooled(subject: ss.Subject, size: Size) -> list[Line]:
    """False alarms on docstrings that no threshold stands on: halves of the benign groups, drawn anew, pooled."""
    everything = benign()
    kept = everything.subset([i for i, row in enumerate(everything.rows) if row.group.startswith("docstring:")])
    kept = kept.subset(range(size.of(len(kept), 140)))
    acts = ss.capture(subject, kept, "resid:15", "last")
    spanish = ss.concept("spanish")
    shown = ss.capture(subject, spanish, "resid:15", "last")
    strand = find(shown, permutations=0).best
    half, alarms, seen, rate = len(acts) // 2, 0, 0, 0.05
    for seed in range(size.of(20, 2)):
        order = numpy_generator(seed, "halves").permutation(len(acts))
        monitor = Monitor.calibrate(strand, part_of(acts, order[:half]), false_alarm=rate)
        rest = part_of(acts, order[half:])
        alarms, seen = alarms + int(monitor.alarms(monitor.scores(rest)).sum()), seen + len(rest)
    note = f"{alarms} of {seen} (20 halvings of {len(acts)} docstrings, one a module); a Spanish strand, at 95 % confidence"
    return [Line("false alarms on held-out docstrings, calibrated to 5 %", alarms / seen, n=seen, most=rate, note=note)]


def run(size: Size) -> Results:
    subject = ss.load("smollm2")
    lines = [*generation(subject, size), *streams(subject, size), *drifts(subject, size), *pooled(subject, size)]
    return Results((__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(), tuple(lines))


if __name__ == "__main__":
    main("watch", run, __doc__ or "")
