"""A monitor on a network while it reads and writes: every token of prompts and replies is scored as its pass goes by.

    with monitor.watching(subject, action="stop") as live:
        text = subject.generate("…", **live.options)
    live.sequences[0].alarms

A row of a batch is a sequence: it begins with a pass that has no cache and goes on while passes decode on that cache; the next
pass without a cache begins others. Padding on either side is no token, and neither is what a batch feeds to rows that are done:
a row ends at its end-of-text token, which is not scored, since a row alone is never fed it. The last token that is generated is
never read by the network, so it has no state and no score. Scores agree with those of the same tokens in one batch to the
rounding of the network's own arithmetic; from its states on, to that of fp32 products.

In a hook one product is written into a buffer that is already there (it grows when a pass is longer than any before); once a
pass, after the last site, the scores are brought over and the sequences go on.

What it does not do: follow rows that trade places (beam search), or tokens that are taken back (assisted decoding). An edit that
is attached inside the block writes after the monitor has read; one that is attached around it, before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..subject.attach import attach
from ..subject.site import Site
from .rows import Bools, Floats, Ints
from .sequence import Running

if TYPE_CHECKING:
    from ..subject.attach import Moment, Read
    from ..subject.subject import Subject
    from .monitor import Monitor

Action = Literal["log", "stop", "edit"]
Judge = Literal["sequence", "prompt"]


@dataclass(frozen=True, slots=True)
class Fired:
    """An alarm: row of the batch, concept, number of the token in its row (from 0, padding not counted), and score."""

    row: int
    concept: str
    token: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A sequence that has ended: the scores of its tokens (tokens, concepts), those from the first one that is scored on, its own
    score (concepts,) (NaN if no token was scored), what fired, and, where they were asked for, the scores of its channels by
    themselves (channels,), which `Monitor.drift` takes."""

    row: int
    tokens: Floats
    score: Floats
    alarms: tuple[Fired, ...]
    channels: Floats | None = None


class Live:
    """What is going on under a monitor now. It can stand as the gate of a `Scope`: open for a row from its alarm on.

    `sequences` holds those that have ended, the scores of their tokens with them, until whoever watches for long clears it.
    """

    def __init__(
        self,
        monitor: Monitor,
        subject: Subject,
        action: Action,
        judge: Judge,
        ends: Collection[int],
        on_alarm: Callable[[Fired], None] | None,
        channels: bool,
    ) -> None:
        self.monitor, self.action, self.judge, self._by_channel = monitor, action, judge, channels
        self.sequences: list[Watched] = []
        self.alarms: list[Fired] = []  # of the sequences that go on
        self._on_alarm = on_alarm
        self._ends = np.array(sorted(ends), dtype=np.int64)
        self._early = monitor.reader.aggregation.kind in ("max", "ema", "window")
        self._buffers = _Buffers(monitor, subject)
        self._running: Running | None = None
        self._channels: Running | None = None
        self._asked = True  # whether generation asked what is to stop since something fired
        self._gate = torch.zeros(0, dtype=torch.bool)
        self._begin(0)

    # --- what a user reads ---

    @property
    def options(self) -> dict[str, Any]:
        """What `generate` has to be given, so that it can be stopped."""
        return {"stopping_criteria": [self._stopping]} if self.action == "stop" else {}

    @property
    def fired(self) -> Bools:
        """(rows,) which sequences of the batch that is running have raised an alarm."""
        return np.asarray(self._fired.any(axis=1))

    @property
    def score(self) -> Floats:
        """(rows, concepts) the score if every sequence ended here; NaN for one that has no token yet."""
        return self._running.score() if self._running is not None else np.empty((0, len(self.monitor.concepts)))

    def scored(self, row: int, since: int = 0) -> Floats:
        """(tokens, concepts) scores of a sequence that goes on; those of the first `since` positions scored left out."""
        tokens = [scores[rows == row] for rows, scores in self._scores[since:]]
        return np.concatenate(tokens) if tokens else np.empty((0, len(self.monitor.concepts)))

    # --- a gate, as `subject.scope.Gate` describes it ---

    @property
    def reads(self) -> Mapping[Site, Callable[[Tensor, Moment], None]]:
        return {}

    def open(self, state: Tensor, _moment: Moment) -> Tensor:
        """(rows, positions) True in rows whose alarm has been raised, by a token of an earlier pass or of an earlier site."""
        if self.action != "edit" or len(self._gate) != len(state):
            return torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
        return self._gate.to(state.device)[:, None].expand(state.shape[:2])

    # --- passes ---

    def _begin(self, rows: int) -> None:
        concepts = len(self.monitor.concepts)
        how, channels = self.monitor.reader.aggregation, len(self.monitor.reader.channels)
        self._running = Running(how, rows, (concepts,)) if rows else None
        self._channels = Running(how, rows, (channels,)) if rows and self._by_channel else None
        self._count: Ints = np.zeros(rows, dtype=np.int64)  # tokens of each row, those that are skipped included
        self._over: Bools = np.zeros(rows, dtype=bool)
        self._judging: Bools = np.ones(rows, dtype=bool)
        self._fired: Bools = np.zeros((rows, concepts), dtype=bool)
        self._gate = torch.zeros(rows, dtype=torch.bool)
        self._scores: list[tuple[Ints, Floats]] = []
        self.alarms = []
        self._asked = True

    def close(self) -> None:
        """End the sequences that go on, and judge them."""
        if self._running is None:
            return
        self._verdict(self._judging, ended=True)
        score = self._running.score()
        channels = None if self._channels is None else self._channels.score()
        for row in range(len(self._count)):
            fired = tuple(one for one in self.alarms if one.row == row)
            self.sequences.append(Watched(row, self.scored(row), score[row], fired, None if channels is None else channels[row]))
        self._begin(0)

    def take(self, moment: Moment, shape: tuple[int, int]) -> None:
        """Go on by the pass whose products stand in the buffers."""
        rows, positions = shape
        scores = self._buffers.scores(rows * positions).reshape(rows, positions, -1)
        before = moment.before
        new = moment.start == 0 and moment.counted and (before is None or not bool(before.any()))
        if self._running is None or new or rows != len(self._count):
            self.close()
            self._begin(rows)
        elif moment.decoded:
            self._prompt_ended()
            if not self._asked and self.action == "stop":
                raise InputError(
                    "watching: an alarm was raised and nothing asked whether to stop; call generate(…, **live.options)"
                )
        content = moment.content
        held = np.ones(shape, dtype=bool) if content is None or tuple(content.shape) != shape else content.cpu().numpy()
        if moment.decoded and moment.tokens is not None:
            self._over |= np.isin(moment.tokens[:, -1].cpu().numpy(), self._ends)
        for place in range(positions):
            self._token(scores[:, place], held[:, place] & ~self._over)
        if moment.told and moment.prompt is not None and (self._count >= moment.prompt.cpu().numpy()).all():
            self._prompt_ended()

    def _token(self, scores: Floats, active: Bools) -> None:
        assert self._running is not None
        rows = np.flatnonzero(active & (self._count >= self.monitor.reader.skip))
        self._count[active] += 1
        if len(rows):
            concepts = len(self.monitor.concepts)
            going = np.isin(np.arange(len(active)), rows) if len(rows) < len(active) else None
            self._running.update(scores[rows, :concepts], going)
            if self._channels is not None:
                self._channels.update(scores[rows, concepts:], going)
            self._scores.append((rows, scores[rows, :concepts]))
            if self._early:
                self._verdict(self._judging, ended=False)

    def _prompt_ended(self) -> None:
        if self.judge == "prompt" and self._judging.any():
            self._verdict(self._judging, ended=True)
            self._judging = np.zeros_like(self._judging)

    def _verdict(self, rows: Bools, *, ended: bool) -> None:
        assert self._running is not None
        value = self._running.score() if ended else self._running.certain()
        with np.errstate(invalid="ignore"):  # a row without a token is no alarm
            fresh = (value > self.monitor.thresholds) & ~self._fired & rows[:, None]
        if not fresh.any():
            return
        self._fired |= fresh
        self._gate = torch.from_numpy(self.fired)
        self._asked = False
        for row, concept in np.argwhere(fresh).tolist():
            alarm = Fired(row, self.monitor.concepts[concept], int(self._count[row]) - 1, float(value[row, concept]))
            self.alarms.append(alarm)
            if self._on_alarm is not None:
                self._on_alarm(alarm)

    def _stopping(self, input_ids: Tensor, *_scores: Any, **_options: Any) -> Tensor:
        """The stopping criterion of `generate`: rows whose alarm was raised. A token has been chosen, so the prompt has ended."""
        self._prompt_ended()
        self._asked = True
        stop = self.fired
        self._over |= stop
        if len(stop) != len(input_ids):
            raise InputError(f"watching: {len(input_ids)} rows are generated and {len(stop)} are watched; generate without beams")
        return torch.from_numpy(stop).to(input_ids.device)


class _Buffers:
    """Where hooks write: the products of each site for all tokens of a pass."""

    def __init__(self, monitor: Monitor, subject: Subject) -> None:
        self.channels, self.capacity = monitor.reader.channels, 0
        order = {site: subject.port(site).order for site in self.channels.sites}
        self.last = max(order, key=lambda site: order[site])
        self.matrices: dict[str, Tensor] = dict(self.channels.matrices)
        self.products: dict[str, Tensor] = {}
        self.wide: dict[tuple[int, torch.device], Tensor] = {}  # states in fp32, shared by sites of one width
        self._views: dict[str, tuple[torch.Size, Tensor, Tensor, Tensor, Tensor]] = {}

    def write(self, site: str, state: Tensor) -> None:
        """The hook: state (rows, positions, d) times the site's directions."""
        shape, wide, flat, products, matrix = self._views.get(site) or self._view(site, state)
        if state.shape != shape:
            _, wide, flat, products, matrix = self._view(site, state)
        wide.copy_(state.detach() if state.requires_grad else state)
        torch.mm(flat, matrix, out=products)

    def _view(self, site: str, state: Tensor) -> tuple[torch.Size, Tensor, Tensor, Tensor, Tensor]:
        """The part of the buffers that states of this shape fill; kept, since decoded steps are all alike."""
        tokens = state.shape[0] * state.shape[1]
        if tokens > self.capacity or site not in self.products:
            self._grow(site, tokens, state)
        flat = self.wide[state.shape[-1], state.device][:tokens]
        self._views[site] = (state.shape, flat.view(state.shape), flat, self.products[site][:tokens], self.matrices[site])
        return self._views[site]

    def _grow(self, site: str, tokens: int, state: Tensor) -> None:
        if tokens > self.capacity:
            self.capacity = tokens
            self.products.clear()
            self.wide.clear()
            self._views.clear()
        key = (state.shape[-1], state.device)
        if state.shape[-1] != len(self.matrices[site]):
            raise InputError(f"monitor: reads {len(self.matrices[site])} numbers at {site}, and the states are {key[0]} wide")
        if key not in self.wide:
            self.wide[key] = torch.empty(self.capacity, state.shape[-1], device=state.device)
        self.matrices[site] = self.matrices[site].to(state.device)
        self.products[site] = torch.empty(self.capacity, self.matrices[site].shape[1], device=state.device)

    def scores(self, tokens: int) -> Floats:
        """(tokens, concepts + channels), brought over from the device."""
        read = torch.cat([self.products[site][:tokens].cpu() for site in self.channels.sites], 1)
        return self.channels.scores(read.double().numpy())


@contextmanager
def watching(
    monitor: Monitor,
    subject: Subject,
    *,
    action: Action = "log",
    judge: Judge = "sequence",
    ends: Collection[int] | None = None,
    on_alarm: Callable[[Fired], None] | None = None,
    force: bool = False,
) -> Iterator[Live]:
    """Score every token that the network reads or writes in the block.

    Args:
        action: what an alarm does: "log" keeps it, "stop" ends its row (`generate` is given `live.options`), "edit" opens the row
            for edits whose scope has this `Live` as its gate.
        judge: the whole sequence, or its prompt alone, whose verdict falls at the prompt's end.
        ends: token ids that end a row; None is what the network's own configuration and tokenizer say.
        on_alarm: called with each alarm as it is raised.
        force: watch another network than the monitor is of.

    Raises:
        InputError: an action at a token by an aggregation that knows nothing before the end. TrustError: another network.
    """
    live, reads = live_of(monitor, subject, action=action, judge=judge, ends=ends, on_alarm=on_alarm, force=force)
    with attach(subject, reads=reads):
        yield live
    live.close()


def live_of(
    monitor: Monitor,
    subject: Subject,
    *,
    action: Action = "log",
    judge: Judge = "sequence",
    ends: Collection[int] | None = None,
    on_alarm: Callable[[Fired], None] | None = None,
    force: bool = False,
    channels: bool = False,
) -> tuple[Live, dict[Site, Read]]:
    """What `watching` yields and what it attaches, for who runs passes of his own and closes the `Live` himself.

    Args and Raises as `watching`; with `channels` the scores of each are kept too.
    """
    monitor.check(subject.fingerprint, force=force)
    if action not in get_args(Action) or judge not in get_args(Judge):
        raise InputError(f"watching: got action {action!r} and judge {judge!r}, wanted log, stop or edit, and sequence or prompt")
    kind = monitor.reader.aggregation.kind
    if action != "log" and judge == "sequence" and kind in ("last", "mean"):
        raise InputError(
            f"action {action!r}: the {kind} over tokens is certain of nothing before the sequence ends; calibrate with max, "
            "ema or window, or judge='prompt'"
        )
    live = Live(monitor, subject, action, judge, _ends(subject) if ends is None else ends, on_alarm, channels)
    last = live._buffers.last

    def read(site: str, state: Tensor, moment: Moment) -> None:
        live._buffers.write(site, state)
        if site == last:
            live.take(moment, (state.shape[0], state.shape[1]))

    return live, {Site.parse(site): partial(read, site) for site in monitor.reader.channels.sites}


def _ends(subject: Subject) -> set[int]:
    said: list[Any] = [getattr(getattr(subject.module, "generation_config", None), "eos_token_id", None)]
    if subject.tokenizer is not None:
        said += [subject.tokenizer.eos_token_id, subject.tokenizer.pad_token_id]
    return {token for item in said for token in (item if isinstance(item, list) else [item]) if isinstance(token, int)}
