"""What a request asks of the engine, and what it is told while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, StrandscopeError
from .sampling import Sampling

if TYPE_CHECKING:
    from ..monitor.live import Action, Fired, Judge
    from ..monitor.monitor import Monitor
    from ..subject.attach import Edits

Why = Literal["stop", "length", "alarm", "time", "cancelled"]


@dataclass(frozen=True, slots=True)
class Watch:
    """A monitor on one request, and what an alarm of it does: `log`, `stop`, or `edit`, which opens gates of its name.

    With `force` it may be of another network.
    """

    monitor: Monitor
    action: Action = "log"
    judge: Judge = "sequence"
    force: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One request.

    Attributes:
        ids: tokens of the prompt.
        edits: as `control.holding.prepare` makes them, for all rows; gates with a state of their own are copied for the request.
        watches: by name; a gate `Alarm(name)` in the edits opens by the watch of that name.
        seconds: after which it ends with what it has, from the moment at which it is handed in.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    edits: Edits = field(default_factory=dict)
    watches: Mapping[str, Watch] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for pairs in self.edits.values():
            for _, scope in pairs:
                if scope.by_row:
                    raise InputError("edits: got a term for named rows (@rows), and a request is one row; leave it out")


@dataclass(frozen=True, slots=True)
class Wrote:
    """One pass of the network, and the token that was chosen after it.

    Attributes:
        token: its id, None where the reply ended before one was chosen; `number`: its place in the row, the prompt's counted.
        text: what is sure of the reply now and was not before; empty while a character is not whole.
        scores: by watch, (tokens, concepts) of the tokens that this pass read, from number `scored[name]` on.
        alarms: (watch, what fired).
    """

    token: int | None
    number: int
    text: str
    scores: Mapping[str, NDArray[np.float64]]
    scored: Mapping[str, int]
    alarms: tuple[tuple[str, Fired], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The reply is whole. `text` is the last of it, `score` by watch (concepts,), NaN where no token was scored; `alarms` those
    that the end alone raised; `channels` by watch the score of each channel (channels,), where nothing was edited."""

    why: Why
    text: str
    prompt_tokens: int
    tokens: int
    score: Mapping[str, NDArray[np.float64]]
    alarms: tuple[tuple[str, Fired], ...]
    channels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no more of the reply, and why."""

    error: StrandscopeError


Event = Wrote | Ended | Failed
Tell = Callable[[Event], None]
