"""From what was measured to the records of a report: nothing is computed here, only named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..control.dose import Dose
from ..control.steer import Steering
from ..control.use import Use
from ..standards.certificate import Certificate as Issued
from ..strand.describe import Description, Vocabulary
from ..strand.find import Found
from ..strand.strand import Strand
from ..subject.selfcheck import Check
from ..subject.subject import Subject
from .asked import Asked
from .finding import (
    Anatomy,
    Certificate,
    Curve,
    Data,
    Line,
    Meaning,
    Measured,
    Point,
    Push,
    Pushes,
    Readings,
    StandardEntry,
    StrandEntry,
    SubjectEntry,
    Texts,
    TokenRow,
    UseEntry,
    Word,
)


def subject_entry(subject: Subject, checks: Sequence[Check]) -> SubjectEntry:
    anatomy = subject.anatomy
    return SubjectEntry(
        name=subject.name,
        source={key: _jsonable(value) for key, value in subject.source.items()},
        fingerprint=subject.fingerprint,
        dtype=str(subject.dtype).removeprefix("torch."),
        device=str(subject.device),
        anatomy=Anatomy(
            family=anatomy.family,
            blocks=subject.blocks,
            width=subject.d,
            sites=tuple(kind for kind in ("embed", "resid", "attn", "mlp") if any(anatomy.paths(kind))),
        ),
        selfcheck=tuple(Line(name=check.name, status=check.status, detail=check.detail) for check in checks),
    )


def certificate(issued: Issued) -> Certificate:
    return Certificate(
        status="measured",
        verdict=issued.verdict,
        mode=issued.mode,
        date=issued.date,
        sources=issued.sources,
        standards=tuple(
            StandardEntry(
                name=line.name,
                estimator=line.estimator,
                bias=line.bias,
                coverage=line.coverage,
                false_positive_rate=line.false_positive_rate,
                repetitions=line.repetitions,
                verdict=line.verdict,
                reasons=line.reasons,
            )
            for line in issued.standards
        ),
    )


def _jsonable(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def measured(found: Found, asked: Asked) -> Measured:
    examples, best = asked.examples, found.best
    counts = Counter(examples.classes[code] for code in examples.labels.tolist())
    return Measured(
        name=found.name,
        question=asked.question,
        data=Data(
            source=asked.source,
            digest=examples.digest,
            rows=len(examples),
            groups=len(set(examples.groups.tolist())),
            kind=examples.kind,
            counts={name: counts[name] for name in examples.classes},
            positive=examples.positive,
            template=dict(best.template),
        ),
        readings=Readings(
            decodable=found.decodable,
            best_site=best.evidence,
            words=found.words,
            length=found.length,
            beyond_words=found.beyond_words,
            beyond_length=found.beyond_length,
            detectable=found.detectable,
            examples_needed=found.examples_needed,
        ),
        strand=StrandEntry(
            file=f"strands/{asked.file}",
            line=str(best),
            site=best.site,
            position=best.position,
            rank=best.rank,
            method=best.method,
            combined=tuple(strand.site for strand in found.strands),
        ),
        curve=Curve(points=tuple(Point(site=point.site, reading=point.reading) for point in found.layers), band=found.band),
        choices=found.choices,
        skipped=found.skipped,
    )


def meaning(description: Description, strand: Strand) -> Meaning:
    texts = {shown.id: _text(shown.input) for shown in strand.shown}
    return Meaning(
        examples=tuple(
            TokenRow(
                id=row.id, text=texts[row.id], label=row.label, score=row.score, why=row.why, tokens=row.tokens, values=row.values
            )
            for row in description.examples
        ),
        bound=description.bound,
        promotes=tuple(map(_word, description.promotes)),
        suppresses=tuple(map(_word, description.suppresses)),
        vocabulary_bound=description.vocabulary_bound,
    )


def _text(row: Any) -> str:
    """A row's own words: of a chat its messages, without the template around them."""
    return row if isinstance(row, str) else "\n".join(message["content"] for message in row)


def _word(item: Vocabulary) -> Word:
    return Word(token=item.token, effect=item.effect, beyond_null=item.beyond_null)


def pushes(steering: Steering) -> Pushes:
    return Pushes(
        chat=steering.chat,
        doses=tuple(push(pushed.along, pushed.dose) for pushed in steering.pushed),
        texts=tuple(
            Texts(prompt=prompt, plain=plain, pushed={pushed.along: pushed.texts[number] for pushed in steering.pushed})
            for number, (prompt, plain) in enumerate(zip(steering.prompts, steering.plain, strict=True))
        ),
    )


def push(along: str, dose: Dose) -> Push:
    return Push(
        along=along,
        site=dose.site,
        positions=str(dose.positions),
        target=dose.target,
        scale=dose.scale,
        cost=dose.cost,
        rounding=dose.rounding,
        prompts=dose.prompts,
        predicted=dose.predicted,
        edge=dose.edge,
        how=dose.how,
    )


def use(found: Use) -> UseEntry:
    return UseEntry(
        verdict=found.verdict,
        why=found.why,
        susceptibility=found.susceptibility,
        beyond=found.beyond,
        share=found.share,
        ablation=found.ablation,
        ablation_whole=found.ablation_whole,
        ablation_own=found.ablation_own,
        spread=found.spread,
        agreement=found.agreement,
        times=found.margin.times,
        nats=found.margin.nats,
    )
