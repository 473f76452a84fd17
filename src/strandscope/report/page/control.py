"""Control: what a push costs against what was foretold, what it does to texts, and whether a concept can be erased."""

from __future__ import annotations

from ..effects import KINDS, EffectEntry
from ..erasure import ErasureEntry
from ..finding import ConceptEntry, Pushes, Report, Unmeasured
from .marks import mark
from .spec import Axis, Block, Figure, Mark, NotMeasured, Prose, Rule, Said, Section, Table, Texts
from .words import three


def section(report: Report) -> Section:
    blocks: list[Block] = [*_costs(report)]
    pushed = [entry.steering for entry in report.concepts if not isinstance(entry.steering, Unmeasured)]
    prompts = list(dict.fromkeys(text.prompt for one in pushed for text in one.texts))
    for entry in report.concepts:
        blocks += [*_texts(entry, prompts), *_effect(entry), *_erasure(entry)]
    return Section(
        id="control",
        title="Control",
        question="At what cost can each concept be moved or erased, and what happens to the texts?",
        blocks=tuple(blocks),
    )


def _costs(report: Report) -> list[Block]:
    """Predicted against measured, a point a push."""
    blocks: list[Block] = []
    rows, groups = [], {"along the strand": [], "against it": [], "random directions": []}  # type: ignore[var-annotated]
    for entry in report.concepts:
        if isinstance(entry.steering, Unmeasured):
            blocks.append(NotMeasured(what=f"Pushes along {entry.name}", reason=entry.steering.reason, concept=entry.name))
            continue
        for number, dose in enumerate(entry.steering.doses):
            group = ("along the strand", "against it")[number] if number < 2 else "random directions"
            rows.append((entry.name, dose.along, dose.site, dose.positions, three(dose.predicted), three(dose.cost),
                         three(dose.edge), dose.how))  # fmt: skip
            if (dose.predicted.value or 0) > 0 and (dose.cost.value or 0) > 0:  # the axes are logarithmic; the table has all
                foretold, found = three(dose.predicted), three(dose.cost)
                text = f"{entry.name}, {dose.along}: predicted {foretold}, measured {found} nats per next token"
                groups[group].append((float(dose.predicted.value or 0), dose.cost, text))
    if not rows:
        return blocks
    marks = tuple(
        Mark(
            name=name,
            role=role,  # type: ignore[arg-type]
            x=tuple(one[0] for one in points),
            y=tuple(one[1].value for one in points),
            low=tuple(one[1].low for one in points),
            high=tuple(one[1].high for one in points),
            said=tuple(one[2] for one in points),
        )
        for (name, points), role in zip(groups.items(), ("first", "second", "null"), strict=True)
        if points
    )
    reach = [one[0] for points in groups.values() for one in points]
    made: list[Block] = []
    if marks:
        ends = (min(reach) / 1.5, max(reach) * 1.5)
        line = Mark(name="as predicted", role="predicted", shape="line", x=ends, y=ends)
        made.append(
            Figure(
                id="costs",
                title="What pushes cost",
                caption="Cost measured on neutral prompts against the cost foretold from one derivative; on the line the "
                "prediction was right. Beyond its edge a prediction is off by more than a fifth.",
                x=Axis(label="predicted cost", unit="nats per next token", scale="log"),
                y=Axis(label="measured cost", unit="nats per next token", scale="log"),
                marks=(line, *marks),
                python='[c["steering"]["doses"] for c in report["concepts"] if "doses" in c["steering"]]',
            )
        )
    columns = ("concept", "along", "site", "positions", "predicted (nats)", "measured (nats)", "edge", "how the size was found")
    made.append(Table(id="doses", caption="Every push.", columns=columns, rows=tuple(rows), folded=True))
    return [*made, *blocks]


def _texts(entry: ConceptEntry, prompts: list[str]) -> list[Block]:
    """`prompts`: those of all concepts, of which several have the same."""
    if isinstance(entry.steering, Unmeasured):
        return []
    pushes: Pushes = entry.steering
    note = (
        "What the network says, plain and pushed at the same cost. Whether it is what the concept's name says is for the reader."
    )
    made: list[Block] = [Prose(text=f"{entry.name}: {note}", concept=entry.name)]
    for number, text in enumerate(pushes.texts):
        ways = (Said(who="plain", text=text.plain), *(Said(who=name, text=one) for name, one in text.pushed.items()))
        example = f"prompt {prompts.index(text.prompt) + 1}"
        made.append(Texts(id=f"texts-{entry.name}-{number}", example=example, prompt=text.prompt, said=ways, concept=entry.name))
    return made


def _effect(entry: ConceptEntry) -> list[Block]:
    effect = entry.effect
    if isinstance(effect, Unmeasured):
        return [NotMeasured(what=f"Effect of a push along {entry.name} on texts", reason=effect.reason, concept=entry.name)]
    rows = []
    for read in (*effect.reads, effect.next_token):
        for one in read.against:
            rows.append(
                (read.reader, KINDS[one.kind], three(one.move), three(one.beyond), three(one.wrong), three(read.instruction))
            )
        if not read.against:
            rows.append((read.reader, "–", f"not measured ({read.reason})", "", "", ""))
    columns = ("reader", "beside", "move", "beyond them", "wrong way", "a plain instruction moves")
    table = Table(
        id=f"effect-{entry.name}",
        caption=f"What a push of {effect.nats:g} nats along {entry.name} does to generated texts, in distances between the "
        f"classes, re-read by readers without a part in the push; {effect.prompts} prompts on {effect.topics} topics.",
        columns=columns,
        rows=tuple(rows),
        concept=entry.name,
    )
    return [table, *_window(entry.name, effect)]


def _window(name: str, effect: EffectEntry) -> list[Block]:
    window = effect.window
    if window is None or not window.curve:
        return []
    nats = [one.nats for one in window.curve]
    figure = Figure(
        id=f"window-{name}",
        title=f"Dose and effect of {name}",
        caption=f"{window.verdict}. The move of generated texts beyond random pushes of the same cost; 95 % intervals over "
        "prompts.",
        x=Axis(label="dose", unit="nats per next token", scale="log"),
        y=Axis(label="effect", unit="class distances"),
        marks=(
            mark("beyond random pushes", "first", nats, [one.beyond for one in window.curve], [f"{one:g} nats" for one in nats]),
        ),
        rules=(Rule(axis="y", at=0.0, label="no effect"),),
        python=f'[c["effect"]["window"]["curve"] for c in report["concepts"] if c["name"] == {name!r}]',
        concept=name,
    )
    return [figure]


def _erasure(entry: ConceptEntry) -> list[Block]:
    erasure = entry.erasure
    if isinstance(erasure, Unmeasured):
        return [NotMeasured(what=f"Erasure of {entry.name}", reason=erasure.reason, concept=entry.name)]
    return [_probes(entry.name, erasure), _erasure_table(entry.name, erasure)]


def _probes(name: str, erasure: ErasureEntry) -> Figure:
    place = erasure.places[0]
    probes = tuple(leak.probe for leak in place.leaks)
    return Figure(
        id=f"erasure-{name}",
        title=f"{name} erased at {erasure.site}",
        caption=f"{erasure.verdict}: what probes trained on other groups still read, before and after. It costs "
        f"{three(erasure.kl)} nats per next token; erased means that every interval lies within 0.5 ± 0.05.",
        x=Axis(label="probe", scale="category", categories=probes),
        y=Axis(label="AUROC on unseen groups", unit="0.5 is chance", low=0.3, high=1.0),
        marks=(
            mark("before", "null", probes, [leak.before for leak in place.leaks], [f"{one}, before" for one in probes]),
            mark("after", "first", probes, [leak.after for leak in place.leaks], [f"{one}, after" for one in probes]),
        ),
        rules=(Rule(axis="y", at=0.5, label="chance"),),
        python=f'[c["erasure"]["places"] for c in report["concepts"] if c["name"] == {name!r}]',
        concept=name,
    )


def _erasure_table(name: str, erasure: ErasureEntry) -> Table:
    rows = tuple(
        (place.site, str(place.later), leak.probe, three(leak.before), three(leak.after), leak.verdict)
        for place in erasure.places
        for leak in place.leaks
    )
    caption = f"{name}: every probe, there and in later blocks. Rows needed for an AUROC of .55: {three(erasure.needed)}."
    columns = ("site", "blocks later", "probe", "before", "after", "verdict")
    return Table(id=f"probes-{name}", caption=caption, columns=columns, rows=rows, folded=True, concept=name)
