"""What pushes do to the replies of SmolLM2, re-read by readers without a part in the push, beside random pushes of the same nats.

Each pack's groups are split once. Pushes are differences of class means of the first half; readers are fitted on the second
(those that choose, on the first). Block, position and dose are chosen on some neutral prompts and some kinds of passages, by
readers of the first half, for the greatest lower end of the move among doses within the budget of perplexity; figures are of
other prompts and other kinds. Doses are found on prompts of their own. For all six packs it is said beforehand whether a push
along the strand of the first half will steer at .3 nats, and then measured whether it did.

On a GPU it takes minutes with `--jobs 3`, on two CPU cores hours: `--quick` is a tiny size. What is done is kept after each
stage, in a folder for each process; `--merge` puts folders together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import strandscope as ss
from common import Results, Size, Table, as_json, as_markdown, command_line, machine, settings
from effect_page import lines, tables
from strandscope.capture.examples import Examples, neutral_prompts, passages
from strandscope.control.bench import Bench, spread
from strandscope.control.cost import NeutralText, cost_of
from strandscope.control.dose import dose_of, find_dose
from strandscope.control.effect import INSTRUCTIONS, Controls, measure
from strandscope.control.preflight import agreement, outcome_of, preflight
from strandscope.control.price import price
from strandscope.control.push import Push
from strandscope.control.readers import Reader, halves, state_reader, token_reader, word_reader
from strandscope.control.replies import ReplyBench
from strandscope.control.study import pairs_of
from strandscope.control.together import Sized
from strandscope.control.use import use
from strandscope.control.window import BUDGET, Point, half, window
from strandscope.errors import StrandscopeError
from strandscope.provenance import numpy_generator
from strandscope.reading import Reading
from strandscope.subject.attach import Scope
from strandscope.subject.site import Site

CONCEPTS = ("spanish", "sentiment", "formality")
PACKS = (*CONCEPTS, "certainty", "harm", "truth")
DOSES = (0.1, 0.3, 0.6, 1.0)
ASKED = 0.3  # nats of the pushes that the pre-flight verdict is asked about


@dataclass(frozen=True)
class Trial:
    """What every concept shares: the network, prompts by their part, passages, and the controls."""

    subject: ss.Subject
    choosing: Controls
    reporting: Controls
    text: NeutralText
    chosen_by: np.ndarray[Any, np.dtype[np.bool_]]  # the passages that choose
    replies: ReplyBench
    doses: tuple[float, ...]
    start: float

    def say(self, what: str) -> None:
        print(f"[{time.perf_counter() - self.start:6.1f} s] {what}", file=sys.stderr, flush=True)

    @classmethod
    def of(cls, subject: ss.Subject, size: Size) -> Trial:
        prompts, start = neutral_prompts(), time.perf_counter()
        parts = []
        for number, count in enumerate((size.of(32, 6), size.of(30, 6), size.of(90, 8))):
            rows = spread(prompts.groups, count, numpy_generator(0, "parts of an effect", str(number)))
            parts.append(prompts.subset(rows))
            prompts = prompts.subset(np.setdiff1d(np.arange(len(prompts)), rows))
        bench = Bench.on(subject, parts[0])
        new = size.of(48, 8)
        choosing = Controls(subject, bench, parts[1], new_tokens=new, texts=0, tokens=0)
        reporting = Controls(subject, bench, parts[2], new_tokens=new, texts=size.of(20, 2), tokens=size.of(100, 3))
        text = passages() if size.full else passages().subset(np.arange(8))
        neutral = NeutralText.of(subject, text, size.of(128, 12))
        replies = ReplyBench.replying(subject, size.of(32, 4), new_tokens=size.of(32, 4))
        doses = DOSES if size.full else DOSES[1:3]
        return cls(subject, choosing, reporting, neutral, half(text.groups, 0), replies, doses, start)


def pushes(subject: ss.Subject, rows: Examples, full: bool) -> Iterator[tuple[str, Push]]:
    """Differences of class means on these rows: at one block or several, at the last position or the mean over all."""
    count = subject.blocks
    sets = {f"block {k}": [k] for k in (count // 2 - 1, 2 * count // 3)}
    sets["the middle half"] = list(range(round(0.27 * count), round(0.73 * count)))
    for position in ("last", "mean") if full else ("mean",):
        states = ss.capture(subject, rows, "resid:*", position)
        labels = torch.as_tensor(rows.labels)
        for name, blocks in sets.items() if full else list(sets.items())[:1]:
            found = {Site("resid", k): states.at(f"resid:{k}").float() for k in blocks}
            means = {site: h[labels == 1].mean(0) - h[labels == 0].mean(0) for site, h in found.items()}
            yield f"{name}, {position} position", Push(means, Scope())


def choose(trial: Trial, rows: Examples, reader: Reader, full: bool) -> tuple[str, Push, list[dict[str, Any]]]:
    """The push and its dose with the greatest lower end of the move on the prompts that choose, within the budget on the passages
    that choose; without the budget where none within it moves the score."""
    controls, tried = trial.choosing, []
    base = reader.score(controls.plain)
    for name, push in pushes(trial.subject, rows, full):
        found = [(nats, sized) for nats in trial.doses[1:] if (sized := dosed(trial, push, nats)) is not None]
        for (nats, sized), texts in zip(found, controls.texts_of([sized for _, sized in found]), strict=True):
            moves = reader.score(texts) - base
            kept = moves[np.isfinite(moves)]
            if len(kept) < max(3, len(moves) // 2):
                trial.say(f"{name} at {nats:g} nats: too many texts are empty")
                continue
            low = float(kept.mean() - 2 * kept.std(ddof=1) / len(kept) ** 0.5)
            rise = float(np.exp(part(trial, trial.chosen_by).under(push.edits(sized.size))[0].mean()))
            tried.append({"push": name, "nats": nats, "sized": sized, "low": low, "move": float(kept.mean()), "perplexity": rise})
    within = [one for one in tried if one["perplexity"] <= BUDGET and one["low"] > 0] or tried
    best = max(within, key=lambda one: one["low"])
    return best["push"], best["sized"].push, [best, *tried]


def dosed(trial: Trial, push: Push, nats: float) -> Sized | None:
    try:
        dose = dose_of(trial.reporting.bench, push, nats)
    except StrandscopeError as error:
        trial.say(f"no dose of {nats:g} nats at {push.site}: {error}")
        return None
    assert dose.scale.value is not None and dose.cost.value is not None
    return Sized(push, dose.scale.value, dose.cost.value)


def concept(trial: Trial, name: str, full: bool) -> Iterator[dict[str, Any]]:
    """Everything about one concept, as plain data; again with more after each stage."""
    trial.say(f"{name}: readers")
    first, second = halves(ss.concept(name))
    chooser = state_reader(trial.subject, first)
    readers = [state_reader(trial.subject, second), word_reader(second)]
    tokens = token_reader(trial.subject, second)
    trial.say(f"{name}: choosing by {chooser.auroc}")
    what, push, tried = choose(trial, first, chooser, full)
    best = tried[0]
    controls, sized, nats = trial.reporting, best["sized"], best["nats"]
    trial.say(f"{name}: {what} at {nats:g} nats")
    found = {
        "concept": name,
        "push": what,
        "sites": push.site,
        "nats": nats,
        "scale": sized.size,
        "tried": [{key: value for key, value in one.items() if key != "sized"} for one in tried[1:]],
        "away": None,
        "cost": None,
        "window": None,
    }
    effect = measure(controls, sized, nats, readers, None, INSTRUCTIONS.get(name, ""))
    trial.say(f"{name}: {effect.read('states').beyond}")
    found["effect"] = plain_data(effect)
    yield found
    pair = (controls.plain, controls.texts_of([sized])[0], controls.prompts.groups)
    cost = cost_of(part(trial, ~trial.chosen_by), trial.replies, push.edits(sized.size), pair)
    trial.say(f"{name}: perplexity {cost.perplexity}")
    found["cost"] = plain_data(cost)
    yield found
    points = []
    for dose in trial.doses:
        sized_at = sized if dose == nats else dosed(trial, push, dose)
        if sized_at is not None:
            points.append(point(trial, readers[0], sized_at, dose))
    frame = window(points, controls.prompts.groups, trial.text.passages.groups)
    trial.say(f"{name}: {frame.verdict}")
    found["window"] = plain_data(frame)
    yield found
    found["effect"]["next_token"] = plain_data(measure(controls, sized, nats, [], tokens))["next_token"]
    yield found
    back = dosed(trial, push.opposite(), nats)
    if back is not None:
        found["away"] = plain_data(measure(controls, back, nats, readers[:1], None, kinds=("matched",)))
        yield found


def part(trial: Trial, which: np.ndarray[Any, np.dtype[np.bool_]]) -> NeutralText:
    """Those of the passages."""
    rows, text = np.flatnonzero(which), trial.text
    return NeutralText(text.subject, text.passages.subset(rows), text.rows.subset(rows.tolist()), text.said[rows], text.hit[rows])


def point(trial: Trial, reader: Reader, sized: Sized, nats: float) -> Point:
    controls = trial.reporting
    base = reader.score(controls.plain)
    moves = reader.score(controls.texts_of([sized])[0]) - base
    others = np.stack([reader.score(one) - base for one in controls.random_texts(sized.push, nats, "matched")])
    rises, _ = trial.text.under(sized.push.edits(sized.size))
    return Point(nats, np.nan_to_num(moves), np.nan_to_num(others), rises)  # an empty text moved nothing that can be read


def ahead(trial: Trial, name: str, full: bool) -> Iterator[dict[str, Any]]:
    """The verdict before a push along the strand of the first half, and what came of it."""
    subject, controls = trial.subject, trial.reporting
    first, second = halves(ss.concept(name))
    strand = ss.find(ss.capture(subject, first), permutations=0).best
    direction, site = strand.pattern[:, 0], strand.site
    states = ss.capture(subject, first, site)
    agreed = agreement(states.at(site), first.labels, pairs_of(first))
    try:
        used: Any = use(subject, strand, first, contexts=48 if full else 4, draws=32 if full else 8, controls=60 if full else 20)
    except StrandscopeError as error:
        used = str(error)
    try:
        known = price(controls.bench, site, direction, "all") if full else None
        dose: Any = find_dose(controls.bench, site, direction, ASKED, price=known)
    except StrandscopeError as error:  # such as: no size costs so much, which is a verdict
        dose = error
    said = preflight(strand.name, site, ASKED, used, agreed, dose)
    trial.say(f"{name}: {said.verdict} ({said.why})")
    reader = state_reader(subject, second)
    beyond = (
        Reading.not_measured("no dose", unit="", method="")
        if isinstance(dose, StrandscopeError)
        else _came(controls, reader, site, direction, dose)
    )
    trial.say(f"{name}: {beyond}, {outcome_of(beyond)}")
    yield {"concept": name, "preflight": plain_data(said), "beyond": plain_data(beyond), "outcome": outcome_of(beyond)}


def _came(controls: Controls, reader: Reader, site: str, direction: torch.Tensor, dose: Any) -> Reading:
    sized = Sized(Push({Site.parse(site): direction}, Scope()), dose.scale.value, dose.cost.value)
    return measure(controls, sized, ASKED, [reader], None, kinds=("matched",)).reads[0].beyond


def plain_data(what: Any) -> Any:
    """Dataclasses of readings as JSON can hold them."""
    return json.loads(json.dumps(asdict(what), default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in the results")


# --- the program ---

WORK = {"effect": concept, "preflight": ahead}


def parsed() -> argparse.Namespace:
    parser = command_line(__doc__ or "")
    parser.add_argument("--model", default="smollm2", help="the network: smollm2, a folder or a .gguf file")
    parser.add_argument("--device", default="auto", help="where it runs (default: the GPU if there is one)")
    parser.add_argument("--only", nargs="+", metavar="JOB", help="such as effect:spanish preflight:harm (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--merge", action="store_true", help="put together what the parts in --out hold, and measure nothing")
    parser.add_argument("--minutes", type=float, default=60.0, help="no new concept is begun after so many")
    return parser.parse_args()


def main() -> int:
    given = parsed()
    size, out = settings(given)
    packs = PACKS if size.full else PACKS[:1]
    jobs = given.only or [f"effect:{name}" for name in packs if name in CONCEPTS] + [f"preflight:{name}" for name in packs]
    started, start = machine(), time.perf_counter()
    if given.merge:
        whole = json.loads(next(out.glob("part-*/effect.json")).read_text(encoding="utf-8"))
        write(out, size, whole["machine"], whole["seconds"], merged(out), whole["facts"])
        return 0
    subject = ss.load(given.model, device=given.device)  # before the others: a .gguf is converted once
    about = {"network": str(subject), "pushed at": "all positions of prompt and reply"}
    if torch.cuda.is_available():
        about["GPU"] = torch.cuda.get_device_name(0)
    if given.jobs > 1:
        del subject
        made = side_by_side(given, jobs, out)
        write(out, size, started, time.perf_counter() - start, made, about)
    else:
        trial = Trial.of(subject, size)
        trial.say(str(subject))
        made = {"effect": [], "preflight": [], "failed": []}
        for job in jobs:
            late = time.perf_counter() - start > 60 * given.minutes
            one(trial, job, size, made, late, lambda: write(out, size, started, time.perf_counter() - start, made, about))
            write(out, size, started, time.perf_counter() - start, made, about)
    if not out.name.startswith("part-"):
        print((out / "effect.md").read_text(encoding="utf-8"))
    return 1 if made["failed"] else 0


Made = dict[str, list[Any]]


def one(trial: Trial, job: str, size: Size, made: Made, late: bool, keep: Callable[[], None]) -> None:
    kind, _, name = job.partition(":")
    if late:
        made["failed"].append([job, "no time was left"])
        return
    before = len(made[kind])
    try:
        for found in WORK[kind](trial, name, size.full):
            made[kind][before:] = [found]
            keep()
    except (StrandscopeError, RuntimeError, ValueError) as error:  # named, and the next one runs
        made["failed"].append([job, f"{type(error).__name__}: {str(error)[:300]}"])
        trial.say(f"{job} failed\n{traceback.format_exc(limit=-5)}")


def side_by_side(given: argparse.Namespace, jobs: Sequence[str], out: Path) -> Made:
    """Each job once, in so many processes; what they wrote, put together. Their files stay, should this process be ended."""
    running = []
    for number in range(min(given.jobs, len(jobs))):
        folder = out / f"part-{number}"
        (folder / "effect.json").unlink(missing_ok=True)
        command = [sys.executable, __file__, "--model", given.model, "--device", given.device, "--minutes", str(given.minutes)]
        command += ["--out", str(folder), *(["--quick"] if given.quick else []), "--only", *jobs[number :: given.jobs]]
        running.append((folder, jobs[number :: given.jobs], subprocess.Popen(command, stdout=subprocess.DEVNULL)))
    for folder, asked, process in running:
        process.wait()
        if not (folder / "effect.json").exists():
            told = [[job, f"its process ended with {process.returncode} and wrote nothing"] for job in asked]
            (folder / "effect.json").write_text(json.dumps({"made": {"effect": [], "preflight": [], "failed": told}}))
    return merged(out)


def merged(out: Path) -> Made:
    """What the parts in this folder hold, together."""
    made: Made = {"effect": [], "preflight": [], "failed": []}
    for file in sorted(out.glob("part-*/effect.json")):
        part_of = json.loads(file.read_text(encoding="utf-8"))["made"]
        for kind in made:
            made[kind] += part_of[kind]
    for kind in ("effect", "preflight"):
        made[kind].sort(key=lambda found: PACKS.index(found["concept"]))
    return made


def write(out: Path, size: Size, started: dict[str, Any], took: float, made: Made, about: dict[str, Any]) -> None:
    found, verdicts, failed = made["effect"], made["preflight"], made["failed"]
    trouble = (Table("What failed", ("part", "why"), tuple(map(tuple, failed))),) if failed else ()
    results = Results(__doc__ or "", tuple(lines(found, verdicts)), (*tables(found, verdicts), *trouble), about)
    report = as_json("effect", results, started, size, took)
    if not out.name.startswith("part-"):
        (out / "effect.md").write_text(as_markdown(report), encoding="utf-8")
    whole = json.dumps(report | {"made": made}, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "effect.json").write_text(whole + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
