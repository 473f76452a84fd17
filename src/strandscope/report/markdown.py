"""report.md: the verdicts first, then what stands behind each, for a reader who was not there.

Every text that was not written here (prompts, answers, tokens, names of files) is shown through `plain` or `fenced`, so it can
neither break the page nor add to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..reading import Reading
from . import census_page, erasure, monitored, table
from .effects import section as effect_section
from .finding import Certificate, ConceptEntry, Finding, Meaning, Pushes, Report, TokenRow, Unmeasured, Word
from .text import fenced, plain, sparkline
from .verdict import brief

_FIGURES = ("AUROC", "null", "beyond the words", "cost of the push")


def markdown(report: Report) -> str:
    parts = [
        f"# Audit of {plain(report.subject.name)}",
        *_quick(report),
        *_verdicts(report),
        *_subject(report),
        *[part for entry in report.concepts for part in _concept(report, entry)],
        *_erasures(report),
        *_monitor(report),
        *_census(report),
        *_method(report),
        *_limits(report),
        *_provenance(report),
    ]
    return "\n\n".join(parts) + "\n"


def _quick(report: Report) -> list[str]:
    if report.provenance.mode == "full":
        return []
    return [
        "**Quick audit**: fewer and shorter texts, and two packs where none was named; the evidence for each concept is the same."
    ]


def _verdicts(report: Report) -> list[str]:
    rows = [table.HEADER, ("---",) * len(table.HEADER), *map(_row, table.rows(report))]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    caption = (
        "*Detected*: at the 5 % level, corrected for the number of concepts. "
        "*AUROC* with its 95 % interval: 0.5 is chance, 1 perfect. *Null*: what the same procedure gives under permuted labels. "
        "*Beyond the words*: AUROC minus that of a bag of words on the same rows. *Cost*: how far the push in the texts below "
        "moves the next-token distribution, in nats."
    )
    return ["## Verdicts", text, caption]


def _row(cells: tuple[str, ...]) -> tuple[str, ...]:
    """Figures are ours; the names of concept, verdict and site are not."""
    return tuple(cell if column in _FIGURES else plain(cell) for column, cell in zip(table.HEADER, cells, strict=True))


def _subject(report: Report) -> list[str]:
    subject = report.subject
    anatomy = subject.anatomy
    lines = [
        f"{plain(anatomy.family)}, {anatomy.blocks} blocks of width {anatomy.width}, {subject.dtype} on {plain(subject.device)}, "
        f"fingerprint `{subject.fingerprint}`.",
        _certificate(report.certificate),
    ]
    checks = "\n".join(
        f"- {line.name}: {line.status}{f' ({plain(line.detail)})' if line.detail else ''}" for line in subject.selfcheck
    )
    return ["## The network", *lines, f"Its selfcheck, line by line:\n\n{checks}"]


def _certificate(made: Certificate) -> str:
    """What the estimators gave on cases with a known answer, in a line; the whole of it is in report.json."""
    if made.status == "not measured":
        return f"Certificate: not measured ({plain(made.reason)})."
    met = sum(line.verdict == "green" for line in made.standards)
    when = f"{plain(made.mode)}, {plain(made.date[:10])}"
    text = f"Certificate ({when}): {met} of {len(made.standards)} standards met on this machine."
    red = [
        f"- **{plain(one.name)}** ({plain(one.estimator)}): {plain('; '.join(one.reasons))}"
        for one in made.standards
        if one.verdict == "red"
    ]
    if not red:
        return text
    return f"{text} Figures of these estimators cannot be trusted here:\n\n" + "\n".join(red)


def _census(report: Report) -> list[str]:
    if isinstance(report.census, Unmeasured):
        return ["## Census", f"Not measured: {plain(report.census.reason)}."]
    return census_page.section(report.census)


def _concept(report: Report, entry: ConceptEntry) -> list[str]:
    findings = [found for found in report.findings if found.id.rpartition(".")[0] == entry.name]
    return [
        f"## {plain(entry.name)}",
        _data(entry),
        "\n".join(_sentence(found) for found in findings),
        *_curve(entry),
        *_meaning(entry),
        *_use(entry),
        *_steering(entry),
        *_effect(entry),
    ]


def _data(entry: ConceptEntry) -> str:
    data = entry.data
    counts = ", ".join(f"{count} {plain(name)}" for name, count in data.counts.items())
    form = plain(str(data.template.get("description", data.kind)))
    rows = f"{data.rows} rows in {data.groups} groups ({counts}), from {plain(data.source)}, read as {form}"
    return f"{rows}; digest `{data.digest[:12]}`."


def _sentence(found: Finding) -> str:
    figures = f"{found.reading}, n = {found.reading.n}" if found.reading.value is not None else plain(found.reading.reason)
    return f"- {plain(found.question)} **{plain(found.verdict)}**: {figures}. {plain(found.detail)}".rstrip()


def _curve(entry: ConceptEntry) -> list[str]:
    points = entry.curve.points
    text = f"{points[0].site} {sparkline(points)} {points[-1].site}   (bars from 0.5 to 1)"
    if entry.curve.band is not None:
        text += f"\nby luck the best of all {len(points)} sites exceeds {entry.curve.band:.2f} in 5 % of cases"
    best = max(points, key=lambda point: point.reading.value or 0.0)
    text += f"\nhighest on this curve: {best.site} {brief(best.reading)} (picked by looking, so it flatters)"
    strand = f"rank {entry.strand.rank}, {plain(entry.strand.method)}, position {plain(entry.strand.position)}"
    return ["### Where it is read", fenced(text), f"Strand: `{entry.strand.file}`, {strand}."]


def _meaning(entry: ConceptEntry) -> list[str]:
    head, meaning = "### What the strand means", entry.meaning
    if isinstance(meaning, Unmeasured):
        return [head, f"Not measured: {plain(meaning.reason)}."]
    if not meaning.examples or meaning.bound is None:
        return [head, *_vocabulary(meaning)]
    about = (
        "Held-out rows by their score, with the tokens that lie furthest along the strand (in standard deviations; random "
        f"directions stay within ±{meaning.bound:.1f} in 95 % of cases). Tokens that all rows begin or end with are left out."
    )
    shared = _shared([row.tokens for row in meaning.examples]), _shared([row.tokens[::-1] for row in meaning.examples])
    return [head, about, "\n".join(_token_row(row, *shared) for row in meaning.examples), *_vocabulary(meaning)]


def _shared(rows: Sequence[tuple[str, ...]]) -> int:
    """How many tokens all rows begin with: a chat template's; 0 where that is a whole row."""
    shortest = min(len(row) for row in rows)
    found = next((at for at in range(shortest) if len({row[at] for row in rows}) > 1), shortest)
    return found if found < shortest else 0


def _token_row(row: TokenRow, before: int, after: int) -> str:
    own = range(before, max(before, len(row.tokens) - after))
    peaks = sorted(sorted(own, key=lambda i: -abs(row.values[i]))[:4])
    carried = ", ".join(f"{_quoted(row.tokens[i])} {row.values[i]:+.1f}" for i in peaks)
    return f"- {row.why} ({row.score:+.2f}), {plain(row.label)}: {plain(row.text)}  \n  {carried}"


def _quoted(token: str) -> str:
    return f"“{plain(token) or '␣'}”"


def _vocabulary(meaning: Meaning) -> list[str]:
    if meaning.vocabulary_bound is None:
        return ["Vocabulary: not measured (no tokenizer, or no unembedding of this width)."]

    def words(items: tuple[Word, ...]) -> str:
        return ", ".join(f"{_quoted(item.token)}{' (beyond random)' if item.beyond_null else ''}" for item in items)

    beyond = any(item.beyond_null for item in (*meaning.promotes, *meaning.suppresses))
    verdict = (
        "Marked tokens are moved further than random directions move theirs"
        if beyond
        else "No token is moved further than at random"
    )
    return [
        f"Through the unembedding it promotes {words(meaning.promotes)}; it suppresses {words(meaning.suppresses)}. {verdict} "
        f"({meaning.vocabulary_bound:.1f} standard deviations for the furthest token, 95 %)."
    ]


def _use(entry: ConceptEntry) -> list[str]:
    head, used = "### Whether it is used", entry.use
    if isinstance(used, Unmeasured):
        return [head, f"Not measured: {plain(used.reason)}."]
    looks = {
        "susceptibility, of a random direction's": used.susceptibility,
        "susceptibility, of matched directions'": used.beyond,
        "share inside the top response subspace": used.share,
        "ablation on neutral rows (nats)": used.ablation,
        "ablation on its own rows (nats)": used.ablation_own,
        "taken out whole, on neutral rows (nats)": used.ablation_whole,
    }
    rows = [f"| {name} | {_look(reading)} |" for name, reading in looks.items()]
    about = (
        f"**{plain(used.verdict)}**: {plain(used.why)}. "
        "Beside each figure what as many directions do: random ones for the first, "
        "ones with the states' covariance for the others. "
        f"What is written lies at a cosine of {used.agreement:.2f} to what is read."
    )
    return [head, about, "\n".join(["| | strand | directions | p |", "| --- " * 4 + "|", *rows])]


def _look(reading: Reading) -> str:
    if reading.value is None or reading.null is None:
        return f"not measured ({plain(reading.reason)}) | | "
    own = f"{reading.value:.3g}" if reading.level is None else f"{reading.value:.3g} [{reading.low:.3g}, {reading.high:.3g}]"
    null = reading.null
    chance = "" if null.p is None else f"{null.p:.2g}"
    return f"{own} | {null.value:.3g} [{null.low:.3g}, {null.high:.3g}] | {chance}"


def _steering(entry: ConceptEntry) -> list[str]:
    head = "### Pushed"
    if isinstance(entry.steering, Unmeasured):
        return [head, f"Not measured: {plain(entry.steering.reason)}."]
    return [head, _doses(entry.steering), *_texts(entry.steering)]


def _effect(entry: ConceptEntry) -> list[str]:
    if isinstance(entry.effect, Unmeasured):
        return ["### The effect on generated text", f"Not measured: {plain(entry.effect.reason)}."]
    return effect_section(entry.effect)


def _erasures(report: Report) -> list[str]:
    made = [entry.erasure for entry in report.concepts if not isinstance(entry.erasure, Unmeasured)]
    left = [(entry.name, entry.erasure.reason) for entry in report.concepts if isinstance(entry.erasure, Unmeasured)]
    said = [f"{plain(name)}: not measured ({plain(reason)})." for name, reason in left]
    return [*(erasure.section(made) or ["## Erasure"]), *said]


def _monitor(report: Report) -> list[str]:
    if isinstance(report.monitor, Unmeasured):
        return ["## Monitor", f"Not measured: {plain(report.monitor.reason)}."]
    return monitored.section(report.monitor)


def _doses(steering: Pushes) -> str:
    rows = [
        f"| {plain(dose.along)} | {brief(dose.predicted)} | {brief(dose.cost)} | {brief(dose.rounding)} "
        f"| {brief(dose.scale)} {plain(dose.scale.unit)}, {dose.how} | {plain(dose.site)}, {plain(dose.positions)} positions |"
        for dose in steering.doses
    ]
    head = "| along | predicted cost (nats per next token) | measured | of it rounding | size | written at |\n"
    return "\n".join([head + "| --- " * 6 + "|", *rows])


def _texts(steering: Pushes) -> list[str]:
    parts = ["Whether the push did what the concept's name says is for the reader to judge; it is not scored."]
    for text in steering.texts:
        parts.append(f"{'Asked' if steering.chat else 'Continued'}:\n\n{fenced(text.prompt)}")
        parts += [f"*{plain(name)}*\n\n{fenced(said)}" for name, said in [("plain", text.plain), *text.pushed.items()]]
    return parts


def _method(report: Report) -> list[str]:
    return [
        "## Method",
        "States are read at the output of every block, at each row's last token. Method, site, penalty and number of sites are "
        "chosen by cross-validation inside training groups; each group is scored once, by a model that never saw it; the AUROC "
        "compares rows of the same fold, and its interval is clustered by group. The null is the whole procedure, selection "
        f"included, under {report.provenance.permutations} permutations of the labels; “detected” is the 5 % level with Holm's "
        "correction over the concepts. The saved strand is refitted on all rows. A push adds the strand's pattern (the "
        "difference of class means) at its site while the network writes, at the scale where the measured mean KL on neutral "
        "prompts equals the budget; beside it stand the plain network, the opposite push and random directions of the same nats.",
    ]


def _limits(report: Report) -> list[str]:
    return ["## Limits", "\n".join(f"- {plain(limit)}" for limit in report.provenance.limits)]


def _provenance(report: Report) -> list[str]:
    provenance = report.provenance
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in provenance.versions.items())
    lines = [f"- date: {provenance.date}", f"- seed: {provenance.seed}", f"- mode: {provenance.mode}", f"- versions: {versions}"]
    lines += [f"- command: {plain(provenance.command)}"] if provenance.command else []
    lines += [f"- taken from an earlier run: {plain(', '.join(provenance.resumed))}"] if provenance.resumed else []
    return ["## Provenance", "\n".join(lines)]
