"""What was measured, the limits, and where the figures come from."""

from __future__ import annotations

from ..finding import Certificate, Report
from .spec import Block, NotMeasured, Prose, Section, Table


def measured(report: Report) -> Section:
    subject = report.subject
    checks = tuple((line.name, line.status, line.detail) for line in subject.selfcheck)
    passed = sum(line.status == "passed" for line in subject.selfcheck)
    rows = tuple(
        (
            entry.name,
            entry.data.source,
            str(entry.data.rows),
            str(entry.data.groups),
            ", ".join(f"{count} {name}" for name, count in entry.data.counts.items()),
            str(entry.data.template.get("description", entry.data.kind)),
            entry.data.digest[:12],
        )
        for entry in report.concepts
    )
    blocks: list[Block] = [
        Prose(
            text=f"{subject.anatomy.family}, {subject.anatomy.blocks} blocks of width {subject.anatomy.width}, "
            f"{subject.dtype} on {subject.device}. Fingerprint {subject.fingerprint}."
        ),
        Table(
            id="data",
            caption="The rows that each concept was looked for in; rows of one group are never split between fitting and "
            "evidence.",
            columns=("concept", "from", "rows", "groups", "of each class", "read as", "digest"),
            rows=rows,
        ),
        *_certificate(report.certificate),
        Table(
            id="selfcheck",
            caption=f"Selfcheck of the network: {passed} of {len(checks)} lines passed.",
            columns=("what", "status", "detail"),
            rows=checks,
            folded=True,
        ),
    ]
    return Section(id="measured", title="What was measured", question="Which network, on which data?", blocks=tuple(blocks))


def _certificate(made: Certificate) -> list[Block]:
    if made.status == "not measured":
        return [NotMeasured(what="Certificate of the estimators", reason=made.reason)]
    met = sum(line.verdict == "green" for line in made.standards)
    text = (
        f"Certificate of the estimators ({made.mode}, {made.date[:10]}): {met} of {len(made.standards)} were right on cases "
        "with a known answer, by this code on this machine."
    )
    red = [line.name for line in made.standards if line.verdict == "red"]
    if red:
        text += f" Figures of these cannot be trusted here: {', '.join(red)}."

    def figure(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows = tuple(
        (
            line.name, line.estimator, figure(line.bias, "+.2g"), figure(line.coverage, ".1%"),
            figure(line.false_positive_rate, ".1%"), str(line.repetitions), line.verdict,
        )
        for line in made.standards
    )  # fmt: skip
    columns = ("case", "estimator", "mean error", "coverage of its interval", "false positives", "repetitions", "verdict")
    return [Prose(text=text), Table(id="certificate", caption="The cases, one by one.", columns=columns, rows=rows, folded=True)]


def limits(report: Report) -> Section:
    return Section(
        id="limits",
        title="Limits and failures",
        question="What does this report not say?",
        blocks=tuple(Prose(text=limit) for limit in report.provenance.limits),
    )


def provenance(report: Report) -> Section:
    made = report.provenance
    rows = [("date", made.date), ("seed", str(made.seed)), ("mode", made.mode), ("permutations", str(made.permutations))]
    rows += [(name, version) for name, version in made.versions.items()]
    rows += [(f"subject: {name}", str(value)) for name, value in report.subject.source.items()]
    rows += [("taken from an earlier run", ", ".join(made.resumed))] if made.resumed else []
    rows += [("command", made.command)] if made.command else []
    table = Table(id="provenance", caption="What these figures were made with.", columns=("what", "value"), rows=tuple(rows))
    method = Prose(
        text="States are read at the output of every block, at each row's last token. Method, site, penalty and number of sites "
        "are chosen by cross-validation inside training groups; each group is scored once, by a model that never saw it; "
        "intervals are clustered by group. The null is the whole procedure, selection included, under permuted labels; "
        "“detected” is the 5 % level with Holm's correction over the concepts. A dose is the mean KL between the next-token "
        "distributions before and after, on neutral prompts."
    )
    return Section(
        id="provenance", title="Provenance and method", question="Where do the figures come from?", blocks=(method, table)
    )
