"""The stages of an audit of one network: each is taken from an earlier run if it is there, and kept when it is done.

What a stage's result depends on is in its key: the network with its configurations, dtype and device, the states that it gives
some of the rows and its answer (so that another template or batch function, or a head changed in memory, is another network,
whatever the weights), the rows, the seed, the settings and the versions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..capture.examples import Examples
from ..capture.record import capture
from ..control.erase import certify
from ..control.steer import trial
from ..control.study import SMALL, Spec, study
from ..control.use import use
from ..errors import InputError, TrustError
from ..provenance import digest, versions
from ..standards.certificate import certificate
from ..strand.erase import Eraser
from ..strand.find import find
from ..strand.strand import Strand
from ..subject.port import scores
from ..subject.subject import Subject
from . import effects, entries
from .asked import Asked
from .effects import EffectEntry
from .erasure import ErasureEntry, erasure_entry
from .finding import Certificate, Meaning, Measured, Pushes, Unmeasured, UseEntry
from .kept import Kept

TELLING = 8  # rows, half the first and half the longest, whose states tell one network from another with the same weights
AT, POSITION = "resid:*", "last"
NATS = 0.3  # of doses tried on SmolLM2 (0.1, 0.3, 1), the one at which texts change and stay fluent
PROMPTS = (
    "Tell me about your day.",
    "What should I keep in mind when I plan a small garden?",
    "Write a short note to a neighbour who looked after my cat.",
)


def permutations_for(concepts: int) -> int:
    """200, or more where Holm's correction over so many concepts needs it: the least p times their number stays below .05."""
    return max(200, 25 * concepts)


class Progress(Protocol):
    """Called as work goes on; with `of` 0 the stage's text is a remark."""

    def __call__(self, stage: str, done: int, of: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Pushing:
    """How much is spent on the texts. The evidence for a concept is the same in both forms of an audit."""

    nats: float = NATS
    prompts: tuple[str, ...] = PROMPTS
    n_random: int = 2
    max_new_tokens: int = 40
    dose_prompts: int = 48

    def arguments(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Using:
    """How much is spent on asking whether a strand is used."""

    contexts: int = 48
    draws: int = 32
    controls: int = 100


FULL, USING = Pushing(), Using()
QUICK, USING_QUICK = Pushing(prompts=PROMPTS[:1], n_random=1, max_new_tokens=24, dose_prompts=32), Using(32, 32, 60)


@dataclass(frozen=True)
class Stages:
    """The stages of an audit of one network, each taken from an earlier run if it is there, and kept when it is done."""

    subject: Subject
    kept: Kept
    seed: int
    permutations: int
    pushing: Pushing
    using: Using
    progress: Progress | None
    behaviours: dict[str, str] = field(default_factory=dict)  # by concept

    def certify(self, wanted: bool) -> Certificate:
        """What the estimators give on cases with a known answer: how far the figures of this report can be believed."""
        if not wanted:
            return Certificate(status="not measured", reason="it was not asked for")
        return entries.certificate(certificate(progress=self.say))

    def find(self, asked: Asked) -> tuple[Measured, Strand]:
        """States at every block, and the concept in them."""
        key = self._key("find", asked, permutations=self.permutations, at=AT, position=POSITION, source=asked.source)
        stage, path = f"{asked.name}: find", self.kept.file(key, "strand.safetensors")
        before = self._before(key, "found", Measured, stage)
        if before is not None and path is not None:
            return before, Strand.load(path)
        states = capture(
            self.subject, asked.examples, AT, POSITION, progress=lambda done, of: self.say(f"{asked.name}: states", done, of)
        )
        found = find(
            states,
            permutations=self.permutations,
            seed=self.seed,
            progress=self._told(asked),
        )
        made = entries.measured(found, asked)
        if path is not None:
            found.best.save(path)
            self.kept.put(key, "found", made)
        return made, found.best

    def describe(self, asked: Asked, strand: Strand, absent: str) -> Meaning | Unmeasured:
        """What the strand means: held-out rows and vocabulary."""
        if absent or not strand.shown:
            return Unmeasured(reason=absent or "its rows are not texts of two classes")
        key = self._key("describe", asked, permutations=self.permutations)
        before = self._before(key, "meaning", Meaning, f"{asked.name}: meaning")
        if before is not None:
            return before
        self.say(f"{asked.name}: meaning", 0, 1)
        made = entries.meaning(strand.describe(self.subject, seed=self.seed), strand)
        self.kept.put(key, "meaning", made)
        return made

    def use(self, asked: Asked, strand: Strand, absent: str) -> UseEntry | Unmeasured:
        """Whether the network's next token depends on the strand's direction."""
        absent = absent or _cannot_push(self.subject, asked)
        if absent:
            return Unmeasured(reason=absent)
        key = self._key("use", asked, permutations=self.permutations, using=asdict(self.using))
        before = self._before(key, "use", UseEntry, f"{asked.name}: use")
        if before is not None:
            return before
        try:
            found = use(self.subject, strand, asked.examples, seed=self.seed, progress=self._told(asked), **asdict(self.using))
        except (InputError, TrustError) as error:  # such as: no gradient at this site; the rest of the audit stands
            return Unmeasured(reason=str(error))
        made = entries.use(found)
        self.kept.put(key, "use", made)
        return made

    def push(self, asked: Asked, strand: Strand, absent: str) -> Pushes | Unmeasured:
        """Texts before and after a push along the strand, against it and along random directions of the same nats."""
        absent = absent or _cannot_push(self.subject, asked)
        if absent:
            return Unmeasured(reason=absent)
        key = self._key("push", asked, permutations=self.permutations, pushing=self.pushing.arguments())
        before = self._before(key, "pushes", Pushes, f"{asked.name}: push")
        if before is not None:
            return before
        try:
            made = entries.pushes(
                trial(self.subject, strand, seed=self.seed, progress=self._told(asked), **self.pushing.arguments())
            )
        except (InputError, TrustError) as error:  # such as: no scale costs so much; the rest of the audit stands
            return Unmeasured(reason=str(error))
        self.kept.put(key, "pushes", made)
        return made

    def effect(self, asked: Asked, absent: str) -> EffectEntry | Unmeasured:
        """What a push along the strand of half of the rows does to texts, read by readers of the other half, and its cost."""
        absent = absent or _cannot_push(self.subject, asked)
        if absent:
            return Unmeasured(reason=absent)
        spec = SMALL if self.subject.device.type == "cpu" else Spec()  # minutes on either; on a CPU the full one takes hours
        key = self._key("effect", asked, spec=asdict(spec))
        before = self._before(key, "effect", EffectEntry, f"{asked.name}: effect")
        if before is not None:
            return before
        try:
            found = study(self.subject, asked.examples, spec, seed=self.seed, progress=self._told(asked))
        except (InputError, TrustError) as error:  # such as: too few groups for two halves; the rest of the audit stands
            return Unmeasured(reason=str(error))
        made = effects.entry(found.effect, found.cost, None, found.verdict)
        self.kept.put(key, "effect", made)
        return made

    def erase(self, asked: Asked, strand: Strand, absent: str) -> tuple[ErasureEntry | Unmeasured, Eraser | None]:
        """An eraser at the strand's site with its certificate; of concepts that were not detected too."""
        if absent:
            return Unmeasured(reason=absent), None
        key = self._key("erase", asked, permutations=self.permutations)
        stage, path = f"{asked.name}: erasure", self.kept.file(key, "eraser.safetensors")
        before = self._before(key, "erasure", ErasureEntry, stage)
        if before is not None and path is not None:
            return before, Eraser.load(path)
        try:
            made = certify(self.subject, asked.examples, strand.site, seed=self.seed, progress=self.say)
        except (InputError, TrustError) as error:  # such as: too few rows for two halves; the rest of the audit stands
            return Unmeasured(reason=str(error)), None
        entry = erasure_entry(made, f"erasers/{asked.file}")
        if path is not None:
            made.eraser.save(path)
            self.kept.put(key, "erasure", entry)
        return entry, made.eraser

    def _told(self, asked: Asked) -> Callable[[str, int, int], None]:
        return lambda name, done, of: self.say(f"{asked.name}: {name}", done, of)

    def say(self, stage: str, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, of)

    def _before(self, key: str, name: str, kind: type, stage: str) -> Any:
        before = self.kept.get(key, name, kind, stage)
        if before is not None:
            self.say(f"{stage}: taken from an earlier run in {self.kept.folder}", 0, 0)
        return before

    def _key(self, stage: str, asked: Asked, **spec: Any) -> str:
        subject, rows = self.subject, asked.examples
        network = [subject.fingerprint, str(subject.dtype), str(subject.device), repr(subject.module), *_configurations(subject)]
        about = [rows.digest, list(rows.ids), asked.name]
        return digest(stage, network, self._behaviour(asked), about, self.seed, spec, versions())

    def _behaviour(self, asked: Asked) -> str:
        """Digest of the states of some rows at every site, and of the network's answer."""
        if asked.name not in self.behaviours:
            rows = asked.examples.subset(_telling(asked.examples))
            states = capture(self.subject, rows, AT, POSITION)
            whole = [states.at(site).float().numpy().tobytes() for site in states.sites]
            with torch.no_grad():  # the answer to the rows of the checks shows what follows the blocks, in any network
                answer = scores(self.subject.module(**self.subject.batch(list(self.subject.probe))))
            whole.append(answer.float().cpu().numpy().tobytes())
            self.behaviours[asked.name] = digest(*whole, dict(states.template))
        return self.behaviours[asked.name]


def _telling(examples: Examples) -> list[int]:
    """The first rows and the longest ones: a window over positions shows in these alone."""
    sizes = [row.input.numel() if isinstance(row.input, Tensor) else len(str(row.input)) for row in examples.rows]
    longest = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    return sorted({*range(min(TELLING // 2, len(sizes))), *longest[: TELLING // 2]})


def _configurations(subject: Subject) -> list[str]:
    """The network's configuration and its settings for generation, without the place that they were read from."""
    found = [getattr(subject.module, name, None) for name in ("config", "generation_config")]
    plain = [config.to_dict() for config in found if config is not None and hasattr(config, "to_dict")]
    return [repr(sorted((key, repr(value)) for key, value in config.items() if key != "_name_or_path")) for config in plain]


def _cannot_push(subject: Subject, asked: Asked) -> str:
    if len(asked.examples.classes) > 2:
        return "with more than two classes there is no one direction to push along"
    return "the network generates no text" if subject.tokenizer is None or not subject.anatomy.decodes else ""
