"""The report as data: findings, each a question with its reading and its verdict, and what stands behind them.

What it promises: a report holds findings and nothing looser; every figure in a finding is a `Reading`, so it has its interval, n,
unit and method, or says that it was not measured; nothing is a NaN; unknown keys are refused. `schema.json` beside this file
publishes the shape. Figures are data, never pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .. import __version__
from ..errors import InputError
from ..io import read_json, read_text
from ..reading import Reading
from .census import CensusEntry
from .effects import EffectEntry
from .erasure import ErasureEntry
from .monitored import MonitorEntry
from .record import Unmeasured as Unmeasured
from .record import as_json as as_json
from .record import from_json as from_json
from .record import record

if TYPE_CHECKING:
    from .page.spec import Figure

SCHEMA = "strandscope/report/1"


@record
class Finding:
    """A question, the reading that answers it and the verdict drawn from it. `detail` is a sentence for a person."""

    id: Annotated[str, Field(pattern=r"^.+\.[a-z_]+$")]
    question: str
    verdict: str
    reading: Reading
    detail: str = ""


@record
class Line:
    """One line of the subject's selfcheck."""

    name: str
    status: Literal["passed", "failed", "not applicable"]
    detail: str


@record
class Anatomy:
    family: str
    blocks: int
    width: int
    sites: tuple[str, ...]


@record
class SubjectEntry:
    name: str
    source: dict[str, Any]
    fingerprint: str
    dtype: str
    device: str
    anatomy: Anatomy
    selfcheck: tuple[Line, ...]


@record
class StandardEntry:
    """A case with a known answer and what an estimator gave on it; a figure is None where nothing is claimed of it."""

    name: str
    estimator: str
    bias: float | None
    coverage: float | None
    false_positive_rate: float | None
    repetitions: int
    verdict: Literal["green", "red"]
    reasons: tuple[str, ...] = ()


@record
class Certificate:
    """Whether the estimators were right on cases with a known answer, by this code on this machine."""

    status: Literal["measured", "not measured"]
    reason: str = ""
    verdict: Literal["green", "red"] | None = None
    mode: str = ""
    date: str = ""
    sources: str = ""
    standards: tuple[StandardEntry, ...] = ()


@record
class Data:
    """The rows that a concept was looked for in."""

    source: str
    digest: str
    rows: int
    groups: int
    kind: str
    counts: dict[str, int]
    positive: str | None
    template: dict[str, Any]


@record
class StrandEntry:
    """The saved strand of the best single site. `file` is relative to the report's folder."""

    file: str
    line: str
    site: str
    position: str
    rank: int
    method: str
    combined: tuple[str, ...]  # the sites that the procedure, fitted on all rows, averages


@record
class Point:
    site: str
    reading: Reading


@record
class Curve:
    """AUROC by site. `band`: under permuted labels the best of all these sites exceeds it in 5 % of cases."""

    points: tuple[Point, ...]
    band: float | None


@record
class Readings:
    decodable: Reading
    best_site: Reading
    words: Reading
    length: Reading
    beyond_words: Reading
    beyond_length: Reading
    detectable: Reading
    examples_needed: Reading


@record
class Measured:
    """What was measured of one concept, before the correction for the other concepts of the audit."""

    name: str
    question: str
    data: Data
    readings: Readings
    strand: StrandEntry
    curve: Curve
    choices: tuple[str, ...]  # per outer fold, what was chosen inside it
    skipped: tuple[str, ...]  # sites whose states are the same in every row


@record
class TokenRow:
    """A row with the coordinate of each of its tokens along the strand, in standard deviations of all tokens shown."""

    id: str
    text: str
    label: str
    score: float
    why: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@record
class Word:
    token: str
    effect: float
    beyond_null: bool


@record
class Meaning:
    """What the strand means; `bound` and `vocabulary_bound` are what 95 % of random directions stay within."""

    examples: tuple[TokenRow, ...]
    bound: float | None
    promotes: tuple[Word, ...]
    suppresses: tuple[Word, ...]
    vocabulary_bound: float | None


@record
class Push:
    """One dose: along the strand, against it, or along a random direction.

    `scale` counts lengths of the direction (along a strand, distances between its classes); `rounding` is the cost of a
    hundredth of it, which is nearly all rounding. `predicted` is the cost at `scale` as the susceptibility foretells it, `edge`
    the scale up to which that holds within a fifth, and `how` says whether prediction or a search settled the scale.
    """

    along: str
    site: str
    positions: str
    target: float
    scale: Reading
    cost: Reading
    rounding: Reading
    prompts: int
    predicted: Reading
    edge: Reading
    how: Literal["predicted and confirmed", "predicted, then corrected", "solved numerically: beyond the edge"]


@record
class Texts:
    """What the network says to one prompt, plain and pushed; `pushed` by the dose's `along`, all at the same nats."""

    prompt: str
    plain: str
    pushed: dict[str, str]


@record
class Pushes:
    """Doses and what they did to texts. With `chat` the prompts were asked as a user's, else they were continued."""

    chat: bool
    doses: tuple[Push, ...]
    texts: tuple[Texts, ...]


@record
class UseEntry:
    """Whether the network's next token depends on the strand's direction at the last position; the verdict's finding has why.

    `spread` is the standard deviation of random directions' susceptibilities, `agreement` the cosine of what is read (basis)
    with what is written (pattern); `times` and `nats` are the margins of the equivalence test.
    """

    verdict: str
    why: str
    susceptibility: Reading
    beyond: Reading
    share: Reading
    ablation: Reading
    ablation_whole: Reading
    ablation_own: Reading
    spread: float
    agreement: float
    times: float
    nats: float


@record
class ConceptEntry:
    """Everything behind the findings of one concept."""

    name: str
    data: Data
    strand: StrandEntry
    curve: Curve
    choices: tuple[str, ...]
    skipped: tuple[str, ...]
    meaning: Meaning | Unmeasured
    use: UseEntry | Unmeasured
    steering: Pushes | Unmeasured
    effect: EffectEntry | Unmeasured
    erasure: ErasureEntry | Unmeasured


@record
class Provenance:
    """Where the figures come from. `resumed` names the stages taken from an earlier run of the same audit."""

    versions: dict[str, str]
    seed: int
    permutations: int
    command: str
    date: str
    mode: Literal["full", "quick"]
    resumed: tuple[str, ...]
    limits: tuple[str, ...]


@record
class Report:
    schema: Literal["strandscope/report/1"] = SCHEMA
    subject: SubjectEntry
    certificate: Certificate
    findings: tuple[Finding, ...]
    concepts: tuple[ConceptEntry, ...]
    census: CensusEntry | Unmeasured
    monitor: MonitorEntry | Unmeasured
    provenance: Provenance

    def finding(self, name: str) -> Finding:
        """The finding called, for example, "harm.decodable"."""
        for found in self.findings:
            if found.id == name:
                return found
        raise InputError(f"finding {name!r} is not in this report; there are {', '.join(found.id for found in self.findings)}")

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures of its page, by id: shown in a notebook, saved as .svg or .png (extra [figures])."""
        from .page.build import page

        blocks = [block for section in page(self).sections for block in section.blocks]
        return {block.id: block for block in blocks if block.kind == "figure"}

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """A report.json, or the one in the folder of an audit.

        Raises:
            MissingError: it is not there. InputError: it is no report, or one of a schema that this version does not read.
        """
        file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
        schema = read_json(file).get("schema")
        if schema != SCHEMA:
            told = f"holds {str(schema)[:80]!r}, and this version ({__version__}) reads {SCHEMA!r}"
            newer = isinstance(schema, str) and schema.startswith(SCHEMA.rpartition("/")[0])
            raise InputError(f"{file.name}: {told}; {'update strandscope' if newer else 'name the report.json of an audit'}")
        return from_json(cls, read_text(file), file.name)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of report.json, as published in schema.json."""
    made = TypeAdapter(Report).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **{k: v for k, v in made.items() if k != "title"},
    }


def schema_text() -> str:
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
