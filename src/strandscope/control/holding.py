"""What an expression of edits does in a network: every term at its sites and in its scope, pushes at the size of their dose.

    with hold(subject, "0.1nats*spanish - 0.1nats*formality@when(harm>0.5)", strands) as held:
        print(subject.generate("Tell me about your day."))
    held.cost                                # what all of it costs together, in nats per next token

Terms are applied in the order written, at each site by itself. Coordinates are those of the strand: 0 on the boundary, −1 and 1
the means of its classes; what is written moves along the strand's pattern. `!name` is the map of an eraser where the name is
one's, and the coordinate set to the boundary where it is a strand's. Where a name has strands at several sites, its term acts at
all of them (`@at` names fewer), and one size serves them all.

A push has the dose that it asks for by itself: without the other terms, in all rows, its gate open. Costs do not add, and gates
close, so what all terms cost together is measured and not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..laws.price import NATS, mean_reading
from ..progress import Progress
from ..reading import Reading
from ..strand.erase import Eraser
from ..strand.strand import Strand
from ..subject.attach import Edit, Edits, Scope, attach
from ..subject.scope import Gate
from ..subject.site import Site
from .bench import Bench
from .contradiction import check_agree
from .dose import Dose, dose_of
from .expression import Condition, Expression, Term, Where
from .gate import CoordinateGate
from .hold import Clamp, Erase, Rotate
from .library import check_fits
from .push import Push
from .replies import ReplyBench

if TYPE_CHECKING:
    from ..subject.subject import Subject

Here = TypeVar("Here", Strand, Eraser)
Named = Strand | Eraser
Strands = Mapping[str, Named | Sequence[Named]] | Sequence[Named]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An expression made ready for one network.

    Attributes:
        edits: for `attach`.
        doses: of each push in the order of the terms, None for a term that is none.
        cost: mean KL per next token of all terms together on neutral prompts; per token of replies where all that is written is
            in the generation. Not measured where a term is for named rows of a batch, or opens by what a pass does not know.
        told: what a reader of any result has to know, a sentence each: doses beyond their edge, strands of another network.
    """

    expression: Expression
    edits: Edits
    doses: tuple[Dose | None, ...]
    cost: Reading
    told: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.expression}: {self.cost}"


@dataclass(frozen=True, slots=True)
class Benches:
    """Prompts that doses are measured on, made when they are first needed."""

    subject: Subject
    prompts: int = 300
    replies: int = 48
    seed: int = 0
    chat: bool | None = None
    _made: dict[str, Bench] = field(default_factory=dict)

    def of(self, scopes: Sequence[Scope]) -> Bench:
        """Of replies where everything is written in the generation, else of next tokens."""
        generated = bool(scopes) and all(scope.phase == "generation" for scope in scopes)
        kind = "replies" if generated else "prompts"
        if kind not in self._made:
            made = ReplyBench.replying(self.subject, self.replies, self.seed, self.chat) if generated else None
            self._made[kind] = made or Bench.of(self.subject, self.prompts, self.seed, self.chat)
        return self._made[kind]


@contextmanager
def hold(
    subject: Subject,
    edits: str | Expression,
    strands: Strands,
    *,
    gates: Mapping[str, Gate] | None = None,
    within_the_law: bool = False,
    force: bool = False,
) -> Iterator[Held]:
    """Hold a network as an expression says for the length of a `with` block; yields what is held and what it costs.

    Args and Raises as `prepare`.
    """
    made = prepare(subject, edits, strands, gates=gates, within_the_law=within_the_law, force=force)
    with attach(subject, edits=made.edits):
        yield made


def prepare(
    subject: Subject,
    edits: str | Expression,
    strands: Strands,
    *,
    gates: Mapping[str, Gate] | None = None,
    benches: Benches | None = None,
    within_the_law: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Held:
    """What `hold` attaches, with its doses found and its cost measured (takes seconds a push).

    Args:
        strands: and erasers, by name, one or several (at different sites); a sequence goes by their own names. Where a name has
            both, `!name` is the eraser's.
        gates: that `@when(name)` and `@since(name)` without a value open by, such as a monitor that is watching.
        within_the_law: refuse a dose that lies beyond the edge of its prediction. Otherwise it is carried out and told.
        force: use strands that were found in another network, and tell so.
        progress: called after each pass over prompts.

    Raises:
        InputError: a text that does not parse, a name that is not there, a site that does not exist, terms that contradict each
            other, no scale that costs so much, or a dose beyond the edge with `within_the_law`.
        TrustError: a strand is from another network.
    """
    expression = Expression.parse(edits) if isinstance(edits, str) else edits
    library = _Library.of(subject, strands, gates or {}, force)
    acts = [library.act(term) for term in expression.terms]
    check_agree([(act.term, act.scopes) for act in acts])
    benches = benches or Benches(subject)
    placed: dict[Site, list[tuple[Edit, Scope]]] = {}
    doses: list[Dose | None] = []
    told = list(library.told)
    for number, act in enumerate(acts):
        tell = None if progress is None else partial(progress, f"dose of {act.term}", number, len(acts))
        dose = act.dose(benches, tell)
        doses.append(dose)
        if dose is not None and dose.beyond:
            dose.require_within(f"edit {str(act.term)!r}", within_the_law)
            told.append(f"{act.term}: the dose lies beyond the edge of its prediction, so its size was solved numerically")
        for site, pair in act.placed(dose):
            placed.setdefault(site, []).append(pair)
    if progress is not None:
        progress("cost of all terms together", len(acts), len(acts))
    return Held(expression, placed, tuple(doses), _cost(benches, placed), tuple(told))


def _cost(benches: Benches, edits: Edits) -> Reading:
    scopes = [scope for pairs in edits.values() for _, scope in pairs]
    method = "mean KL(plain ‖ edited) of all terms together"
    if any(scope.by_row for scope in scopes):
        return Reading.not_measured("a term is for named rows of a batch", unit=NATS, method=method)
    gates = [scope.gate for scope in scopes if scope.gate is not None]
    if any(not isinstance(gate, CoordinateGate) or gate.order == "after" for gate in gates):
        reason = "a term opens by an alarm, or by a site that comes after it: both speak for the pass that follows"
        return Reading.not_measured(reason, unit=NATS, method=method)
    bench = benches.of(scopes)
    return mean_reading(bench.costs_under(edits), bench.topics, NATS, f"{bench.told}, all terms together; interval by topic")


@dataclass(frozen=True, slots=True)
class _Act:
    """A term with what it acts on: edits that are ready at each site, or directions that wait for a size."""

    term: Term
    scopes: Mapping[Site, Scope]
    ready: Mapping[Site, Edit]
    push: Push | None = None

    def dose(self, benches: Benches, report: Callable[[], None] | None) -> Dose | None:
        if self.push is None or self.term.unit != "nats":
            return None
        scope = self.push.scope
        left = tuple(out for out in scope.exclude if not out.by_row)
        free = replace(scope, rows=None, gate=None, exclude=left)  # the prompts of a bench are not the rows that were meant
        return dose_of(benches.of([free]), Push(self.push.directions, free), abs(self.term.amount), report=report)

    def placed(self, dose: Dose | None) -> Iterator[tuple[Site, tuple[Edit, Scope]]]:
        if self.push is None:
            for site, edit in self.ready.items():
                yield site, (edit, self.scopes[site])
            return
        size = abs(self.term.amount) if dose is None else dose.scale.value
        assert size is not None  # a dose is always measured
        for site, pairs in self.push.edits(size).items():
            yield site, (pairs[0][0], self.scopes[site])


@dataclass(frozen=True, slots=True)
class _Library:
    """What names stand for in one network."""

    subject: Subject
    strands: Mapping[str, Sequence[Strand]]
    erasers: Mapping[str, Sequence[Eraser]]
    gates: Mapping[str, Gate]
    told: tuple[str, ...]

    @classmethod
    def of(cls, subject: Subject, strands: Strands, gates: Mapping[str, Gate], force: bool) -> _Library:
        pairs = list(strands.items()) if isinstance(strands, Mapping) else [(one.name, one) for one in strands]
        named = [(name, one) for name, given in pairs for one in ([given] if isinstance(given, Strand | Eraser) else given)]
        told = []
        for name, one in named:
            one.check(subject.fingerprint, force=force)
            if one.fingerprint != subject.fingerprint:
                told.append(f"forced: {name} was found in the network {one.fingerprint[:12]}, not in this one")
        told_once = tuple(dict.fromkeys(told))
        return cls(subject, _by_name(named, Strand), _by_name(named, Eraser), gates, told_once)

    def act(self, term: Term) -> _Act:
        if term.kind == "erase" and term.name in self.erasers:
            erasers = self._chosen(term, self.erasers[term.name])
            scopes = {site: self._scope(term.where, site) for site in erasers}
            return _Act(term, scopes, {site: Erase(e.read, e.write, e.mean) for site, e in erasers.items()})
        several = self._chosen(term, self._named(term.name))
        scopes = {site: self._scope(term.where, site) for site in several}
        if term.kind == "add":
            sign = 1 if term.amount > 0 else -1
            directions = {site: sign * strand.direction() for site, strand in several.items()}
            return _Act(term, scopes, {}, Push(directions, next(iter(scopes.values()))))
        return _Act(term, scopes, {site: _edit(term, strand) for site, strand in several.items()})

    def _chosen(self, term: Term, several: Sequence[Here]) -> dict[Site, Here]:
        """The strands or erasers that a term acts by, by site, in the order of the network."""
        found = {Site.parse(one.site): one for one in several}
        if term.where.sites is not None:
            wanted = set(self.subject.sites(term.where.sites))
            if not wanted & set(found):
                held = ", ".join(map(str, found))
                raise InputError(
                    f"edit {str(term)!r}: {term.name} was found at {held} alone; name one of those, or find it at this site"
                )
            found = {site: one for site, one in found.items() if site in wanted}
        for one in found.values():
            check_fits(one, self.subject)
        return dict(sorted(found.items(), key=lambda pair: self.subject.port(pair[0]).order))

    def _named(self, name: str) -> Sequence[Strand]:
        if name not in self.strands:
            there = ", ".join(sorted({*self.strands, *self.erasers})) or "none"
            raise InputError(f"edit: there is no strand of the name {name!r}; there are {there}")
        return self.strands[name]

    def _scope(self, where: Where, site: Site) -> Scope:
        positions = "last" if where.last else "all" if where.positions is None else where.positions
        if where.last and where.positions is not None:
            raise InputError("edit: got last and positions(…) in one term, wanted one of them")
        gate = None if where.condition is None else self._gate(where.condition, site)
        exclude = tuple(self._scope(left, site) for left in where.exclude)
        return Scope(where.rows, positions, where.phase, where.window, where.tokens, exclude, gate)

    def _gate(self, condition: Condition, at: Site) -> Gate:
        if condition.side is None:
            if condition.name not in self.gates:
                there = ", ".join(sorted(self.gates)) or "none"
                raise InputError(
                    f"edit: no monitor of the name {condition.name!r} is watching (there are {there}); give one, or a value of a "
                    f"strand's coordinate, such as when({condition.name}>0.9)"
                )
            return self.gates[condition.name]
        several = self._named(condition.name)
        if len(several) > 1 or several[0].rank > 1:
            raise InputError(
                f"edit: {condition} needs one coordinate, and {condition.name!r} has several; name one strand of rank 1"
            )
        strand = several[0]
        asked, own = self.subject.port(strand.site).order, self.subject.port(at).order
        order = "here" if asked == own else "before" if asked < own else "after"
        read, offset = _coordinate(strand)
        site = Site.parse(strand.site)
        return CoordinateGate(
            site, order, read[:, 0], float(offset[0]), condition.side, condition.value, condition.lasting, str(condition)
        )


def _by_name(named: Sequence[tuple[str, Named]], kind: type[Here]) -> dict[str, list[Here]]:
    found: dict[str, list[Here]] = {}
    for name, one in named:
        if isinstance(one, kind):
            found.setdefault(name, []).append(one)
    for name, several in found.items():
        if len({one.site for one in several}) < len(several):
            raise InputError(f"strands: got two of the name {name!r} at one site; give them names of their own")
    return found


def _coordinate(strand: Strand) -> tuple[Tensor, Tensor]:
    """(d, k) and (k,): readᵀh − offset is 0 on the boundary and −1 and 1 at the means of two classes."""
    half = strand.scale.double() / 2
    return strand.basis.double() / half, strand.offset.double() / half


def _edit(term: Term, strand: Strand) -> Edit:
    if term.kind == "rotate":
        return Rotate(strand.direction(), angle=term.amount * torch.pi / 180)
    low, high = {"clamp": (term.low, term.high), "set": (term.amount, term.amount), "erase": (0.0, 0.0)}[term.kind]
    read, offset = _coordinate(strand)
    return Clamp(read, offset + low, offset + high, strand.pattern.double())
