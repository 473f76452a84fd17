"""From the readings of a concept to findings: what each verdict is drawn from, and the sentence that goes with it.

"detected" is the permutation test at the 5 % level with Holm's correction over the concepts of the audit. The verdicts beside it
are about intervals, and none of them is a test of "no effect": where an interval holds zero, the verdict says that nothing was
shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..reading import Reading
from . import effects
from .effects import EffectEntry
from .erasure import ErasureEntry
from .erasure import sentence as erased
from .finding import Finding, Measured, Pushes, Unmeasured, UseEntry

LEVEL = 0.05
STEER_UNIT = "nats per next token"
NO_EFFECT = "effect: not measured (texts only)"


def concept_findings(
    measured: Measured,
    corrected: float | None,
    concepts: int,
    used: UseEntry | Unmeasured,
    steering: Pushes | Unmeasured,
    effect: EffectEntry | Unmeasured,
    erasure: ErasureEntry | Unmeasured,
) -> tuple[Finding, ...]:
    """The findings of one concept; `corrected` is its p after Holm's correction over so many concepts."""
    return (
        _decodable(measured, corrected, concepts),
        _best_site(measured),
        *_baselines(measured),
        *_beyond(measured),
        _detectable(measured),
        _needed(measured),
        _used(measured, used),
        _steer(measured, steering),
        _effect(measured, effect),
        _erased(measured, erasure),
    )


def is_detected(corrected: float | None) -> bool:
    return corrected is not None and corrected <= LEVEL


def _decodable(measured: Measured, corrected: float | None, concepts: int) -> Finding:
    reading, smallest = measured.readings.decodable, measured.readings.detectable
    if corrected is None or reading.null is None:
        return _finding(
            measured, "decodable", measured.question, "not tested", reading, "No permutations were made, so there is no null."
        )
    test = f"p = {reading.null.p:.2g} from {reading.null.n} permutations"
    test += f"; with Holm's correction over the {concepts} concepts of this audit {corrected:.2g}." if concepts > 1 else "."
    if is_detected(corrected):
        return _finding(measured, "decodable", measured.question, "detected", reading, test)
    missed = f" The smallest AUROC that these {reading.n} rows would have called detected with power 0.8 is {brief(smallest)}."
    return _finding(measured, "decodable", measured.question, "not detected", reading, test + missed)


def _best_site(measured: Measured) -> Finding:
    points, band = measured.curve.points, measured.curve.band
    detail = f"The best single site of {len(points)}, by cross-validation; the AUROC is that of the procedure that chooses one."
    above = sites_above(measured)
    if band is not None and above:
        detail += f" {len(above)} of {len(points)} sites lie above the band for the best of all of them ({band:.2f})."
    elif band is not None:
        detail += f" No site lies above the band for the best of all of them ({band:.2f})."
    question = f"At which single site is {measured.name} read best?"
    return _finding(measured, "best_site", question, measured.strand.site, measured.readings.best_site, detail)


def sites_above(measured: Measured) -> list[str]:
    band = measured.curve.band
    if band is None:
        return []
    return [point.site for point in measured.curve.points if point.reading.value is not None and point.reading.value > band]


def _baselines(measured: Measured) -> Iterable[Finding]:
    for name, question in (
        ("words", f"How well do the words alone tell {measured.name}, without the network?"),
        ("length", f"How well does the length of the text alone tell {measured.name}?"),
    ):
        reading: Reading = getattr(measured.readings, name)
        verdict = "baseline" if reading.status == "measured" else "not measured"
        yield _finding(
            measured,
            name,
            question,
            verdict,
            reading,
            f"Method: {reading.method}, on the same folds." if reading.value is not None else "",
        )


def _beyond(measured: Measured) -> Iterable[Finding]:
    for name, what, more, less in (
        ("beyond_words", "a bag of their words", "knows beyond the words", "less than the words"),
        ("beyond_length", "their length", "knows beyond the length", "less than the length"),
    ):
        reading: Reading = getattr(measured.readings, name)
        question = f"Do the network's states tell more about {measured.name} than {what}?"
        yield _finding(
            measured, name, question, _difference(reading, more, less), reading, "Paired difference on the same rows and folds."
        )


def _difference(reading: Reading, more: str, less: str) -> str:
    if reading.low is None or reading.high is None:
        return "not measured"
    return more if reading.low > 0 else less if reading.high < 0 else "no difference shown"


def _detectable(measured: Measured) -> Finding:
    reading = measured.readings.detectable
    question = f"What is the smallest AUROC that these rows would have called detected with power 0.8, for {measured.name} alone?"
    return _finding(measured, "detectable", question, "limit" if reading.value is not None else "not measured", reading, "")


def _needed(measured: Measured) -> Finding:
    reading = measured.readings.examples_needed
    question = f"How many examples a class fix the direction of {measured.name} to within 15°?"
    if reading.value is None:
        return _finding(measured, "examples_needed", question, "not measured", reading, "")
    here = min(measured.data.counts.values())
    detail = f"These rows hold {here} of the smaller class; the law is of the difference of means at the best single site."
    return _finding(measured, "examples_needed", question, "enough" if here >= reading.value else "too few", reading, detail)


def _used(measured: Measured, used: UseEntry | Unmeasured) -> Finding:
    question = f"Does the network's next token depend on the direction along which {measured.name} is read?"
    if isinstance(used, Unmeasured):
        reading = Reading.not_measured(
            used.reason, unit="of matched directions'", method="susceptibility beside matched directions"
        )
        return _finding(measured, "used", question, "not measured", reading, "")
    ablated = f"Ablated, it costs {brief(used.ablation)} nats on neutral rows and {brief(used.ablation_own)} on its own."
    return _finding(measured, "used", question, used.verdict, used.beyond, f"{used.why[:1].upper()}{used.why[1:]}. {ablated}")


def _steer(measured: Measured, steering: Pushes | Unmeasured) -> Finding:
    question = f"What does a push along {measured.name} cost, and what does it do to the network's answers?"
    if isinstance(steering, Unmeasured):
        reading = Reading.not_measured(steering.reason, unit=STEER_UNIT, method="mean KL on the neutral prompts")
        return _finding(measured, "steer", question, "not measured", reading, f"{NO_EFFECT[: -len(' (texts only)')]}.")
    dose = steering.doses[0]
    cost = "?" if dose.cost.value is None else f"{dose.cost.value:.2g}"
    detail = (
        f"Written at {dose.site}, {dose.positions} positions; the push is {brief(dose.scale)} {dose.scale.unit}; {NO_EFFECT}."
    )
    return _finding(measured, "steer", question, f"moved at {cost} nats; read the texts", dose.cost, detail)


def _effect(measured: Measured, effect: EffectEntry | Unmeasured) -> Finding:
    question = f"Does a push along {measured.name} move what the network writes, beyond random pushes of the same cost?"
    if isinstance(effect, Unmeasured):
        reading = Reading.not_measured(effect.reason, unit="class distances", method="scores of generated texts")
        return _finding(measured, "effect", question, "not measured", reading, "")
    detail = f"At {effect.nats:g} nats, re-read by readers without a part in the push; {effect.prompts} prompts."
    return _finding(measured, "effect", question, effects.verdict(effect), effects.headline(effect), detail)


def _erased(measured: Measured, erasure: ErasureEntry | Unmeasured) -> Finding:
    question = f"Can {measured.name} be erased where it is read best, so that no probe reads it there or in the next two blocks?"
    if isinstance(erasure, Unmeasured):
        reading = Reading.not_measured(erasure.reason, unit="AUROC", method="probes on rows that the eraser has not seen")
        return _finding(measured, "erasable", question, "not measured", reading, "")
    return _finding(measured, "erasable", question, erasure.verdict, erasure.worst.after, erased(erasure))


def _finding(measured: Measured, name: str, question: str, verdict: str, reading: Reading, detail: str) -> Finding:
    return Finding(id=f"{measured.name}.{name}", question=question, verdict=verdict, reading=reading, detail=detail)


def brief(reading: Reading, signed: bool = False) -> str:
    """Value and interval alone, as in a table."""
    if reading.value is None or reading.low is None or reading.high is None:
        return "not measured"
    digits = 3 if reading.high - reading.low < 0.01 else 2
    sign = "+" if signed else ""
    return f"{reading.value:{sign}.{digits}f} [{reading.low:.{digits}f}, {reading.high:.{digits}f}]"
