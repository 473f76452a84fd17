"""A certificate as lines for a terminal and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from .certificate import Certificate, Line

_HEAD = """# Certificate

{verdict} Every estimator was run on cases whose answer is known: a closed form, or float64 code that imports nothing of the
estimator. The bands were written down before the first run; which cases were changed after one is in [the log](log.md).
Coverage and false positives are judged over so many repetitions that
among {family} estimators that do what they claim one is called wrong in 5 % of certificates. A *slip* is one line of the
estimator's own code changed into a plausible bug; it has to turn its standard red.

Made by `strandscope calibrate --certify --out docs/certificate.json`; `strandscope calibrate` runs a shorter one on your machine.
"""


def lines(made: Certificate) -> Iterator[str]:
    """A table for a terminal, what is red below it."""
    width = max(len(line.name) for line in made.standards)
    yield f"{'standard':{width}}  {'bias':>9}  {'coverage':>8}  {'false pos.':>10}  verdict"
    for line in made.standards:
        bias, coverage, alarms = _figures(line)
        yield f"{line.name:{width}}  {bias:>9}  {coverage:>8}  {alarms:>10}  {line.verdict}"
    for line in made.standards:
        for reason in line.reasons:
            yield f"red: {line.name}: {reason}"
    yield f"{made}; {made.seconds:.0f} s of one core"


def _figures(line: Line) -> tuple[str, str, str]:
    return (
        "–" if line.bias is None else f"{line.bias:+.2g}",
        "–" if line.coverage is None else f"{line.coverage:.1%}",
        "–" if line.false_positive_rate is None else f"{line.false_positive_rate:.1%}",
    )


def markdown(made: Certificate) -> str:
    """The page."""
    from .judge import FAMILY

    met = len(made.standards) - len(made.red)
    verdict = f"**{met} of {len(made.standards)} standards are met.**"
    parts = [_HEAD.format(verdict=verdict, family=FAMILY).strip()]
    if made.mode != "certify":
        parts.append("This one is quick: fewer repetitions and wider bands, and no slips.")
    parts.append(_machine(made))
    parts.append(_table(made))
    red = [f"- {line.name}: {reason}." for line in made.standards for reason in line.reasons]
    if red:
        parts += ["## Not met", "\n".join(red)]
    parts += ["## The cases", "\n".join(_case(line) for line in made.standards)]
    return "\n\n".join(parts) + "\n"


def _machine(made: Certificate) -> str:
    about = made.machine
    versions = ", ".join(f"{name} {number}" for name, number in made.versions.items())
    return (
        f"{made.date}, {about['cpu']}, {about['cores']} cores, {about['system']}; {versions}; sources {made.sources[:12]}; "
        f"{made.seconds:.0f} s of one core."
    )


def _table(made: Certificate) -> str:
    rows = ["| standard | error, wanted | coverage, wanted | false positives, wanted | n | slips | verdict |", f"|{'---|' * 7}"]
    for line in made.standards:
        unit = f" {line.unit}" if line.unit else ""
        if line.wanted is None or line.bias is None or line.worst is None:
            error = "–"
        elif "bias" in line.kinds:
            error = f"{line.bias:+.2g} ± {line.bias_error:.1g}, within {line.wanted:g}{unit}"
        else:
            error = f"{line.worst:.2g}, at most {line.wanted:g}{unit}"
        covered = "–"
        if line.coverage is not None and line.coverage_band is not None:
            covered = f"{line.coverage:.1%}, {line.coverage_band[0]:.1%} to {line.coverage_band[1]:.1%}"
        alarms = "–"
        if line.false_positive_rate is not None and line.alarm_band is not None:
            alarms = f"{line.false_positive_rate:.1%}, at most {line.alarm_band:.1%}"
        slips = "–" if line.slips is None else f"{sum(line.slips.values())} of {len(line.slips)}"
        cells = (line.name, error, covered, alarms, str(line.repetitions), slips, line.verdict)
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _case(line: Line) -> str:
    slips = "" if not line.slips else f" Slips: {'; '.join(line.slips)}."
    return f"- **{line.name}** (`{line.estimator}`): {line.about}. Truth: {line.truth} ({line.source}).{slips}"
