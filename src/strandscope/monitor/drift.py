"""Whether traffic without labels has drifted from what it was: a test that is valid at any time, by betting on ranks.

Each new score is ranked among all scores so far, the calibration rows first; ties are broken at random. As long as scores are
exchangeable, these p-values are independent and uniform, whatever the scores' distribution (Vovk, Nouretdinov & Gammerman
2003). A conformal test martingale bets on each and multiplies what it has; it starts at 1 and can only grow by luck, so it
reaches 1/level with probability at most `level`, at any time, for ever (Ville 1939). Ranks against a *fixed* calibration set
are not independent: every bet shares the luck of that set, and the level is lost.

The bet is a mixture: for z = Φ⁻¹(1 − p), the likelihood ratios of normal shifts of ±½, ±1 and ±2 and of spreads of ½ and 2
against the standard normal, all of which have mean 1 under uniform p. A share c/((t + c)(t + c + 1)) of the capital enters
before score t + 1 (c = 100) and the rest waits, so that drift that begins late is met by capital that has not been lost before.

Of several channels (strands, sites) each has a martingale of its own, and an alarm is one of S that reaches S/level. The mean
of them would not do: each is a martingale among its own ranks, not among those of all channels, because past ranks of two
channels together say where the next score of one will fall (Choe & Ramdas 2024). So the level holds over all channels, however
they depend, and every channel whose martingale reaches S/level has drifted, at that level.

What it does not know: what changed, beyond which channel; whether sequences are exchangeable at all (a topic that comes in runs
is drift to it). After a change, drifted scores join the ranks, and evidence grows more slowly the longer it lasts.

Cost per sequence and channel: a search in a sorted list, O(log n), one insertion, which moves O(n) numbers of 8 bytes, and
eight bets. All scores so far are kept.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ..errors import InputError
from .rows import Floats, finite, share_between

_SHIFTS = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
_SPREADS = np.array([0.5, 2.0])
_BETS = len(_SHIFTS) + len(_SPREADS)
_WAKING = 100.0  # c: half of the capital has entered after so many scores
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Alarm:
    """Drift was seen.

    Attributes:
        row: the number of the score, from 0 on, not counting the calibration rows.
        channel: what drifted, the channel with the most evidence.
        evidence: natural logarithm of its martingale (nats).
        p: anytime-valid p-value over all channels, at most the level.
    """

    row: int
    channel: str
    evidence: float
    p: float


class Betting:
    """Capital of `channels` martingales on p-values that are uniform under the null; in logarithms, so that nothing overflows."""

    def __init__(self, channels: int) -> None:
        self.bets = 0
        self._stakes = np.full((channels, _BETS), _entering(0))  # what each bet holds, after what enters for the next p-value

    def update(self, p: Floats) -> None:
        """Bet on one p-value of each channel (channels,), strictly between 0 and 1."""
        self.bets += 1
        self._stakes = np.logaddexp(self._stakes + _log_bets(p), _entering(self.bets))

    def log_capital(self) -> Floats:
        """(channels,) logarithm of each martingale (nats)."""
        out = math.log(_WAKING / (self.bets + 1 + _WAKING))
        return np.logaddexp(np.logaddexp.reduce(self._stakes, axis=1), out)


def _entering(bets: int) -> float:
    """Logarithm of the capital that enters each bet after so many p-values; sums to 1 over bets and time."""
    return math.log(_WAKING / ((bets + _WAKING) * (bets + 1 + _WAKING)) / _BETS)


def _log_bets(p: Floats) -> Floats:
    """(channels, bets) logarithms of densities on (0, 1)."""
    z = -ndtri(p)[:, None]
    return np.concatenate([_SHIFTS * z - _SHIFTS**2 / 2, z**2 / 2 * (1 - _SPREADS**-2) - np.log(_SPREADS)], axis=1)


class Drift:
    """An alarm for drift on one or several channels of scores, one row per sequence.

    Args:
        calibration: (rows, channels) scores of sequences from before, which nothing was fitted on; rows of a group (a template)
            should stand in it once.
        channels: names of the columns: strands, or sites.
        level: probability of an alarm, ever and on any channel, as long as sequences are exchangeable with the calibration rows.
        generator: breaks ties; a generator of `provenance.numpy_generator`.

    Raises:
        InputError: names that do not fit the columns, scores that are not finite, or a level outside (0, 1).
    """

    def __init__(
        self,
        calibration: ArrayLike,
        channels: Sequence[str],
        *,
        generator: np.random.Generator,
        level: float = 0.01,
    ) -> None:
        rows = finite("calibration", calibration, dimensions=2)
        if isinstance(channels, str) or len(set(channels)) != len(channels) or len(channels) != rows.shape[1]:
            raise InputError(
                f"channels: got {channels!r} for {rows.shape[1]} column(s) of scores, wanted one name for each, all different"
            )
        if not isinstance(generator.bit_generator, np.random.PCG64):
            kind = type(generator.bit_generator).__name__
            raise InputError(f"generator: got one on {kind}, wanted one on PCG64; take it from provenance.numpy_generator")
        self.channels = tuple(channels)
        self.level = share_between("level", level)
        self.calibrated = len(rows)
        self.alarm: Alarm | None = None
        self._sorted: list[list[float]] = np.sort(rows, axis=0).T.tolist()
        self._betting = Betting(len(channels))
        self._most = 0.0  # the largest log capital that any channel has ever had
        self._generator = generator

    @property
    def rows(self) -> int:
        """Scores seen after the calibration rows."""
        return self._betting.bets

    def update(self, scores: ArrayLike) -> Alarm | None:
        """Take the scores of one sequence (channels,); the alarm, if this is the sequence that raises it.

        Later evidence is still gathered, but the alarm is the first and is raised once.

        Raises:
            InputError: a score that is not finite, or not one per channel.
        """
        values = finite("scores", scores)
        if len(values) != len(self.channels):
            raise InputError(f"scores: got {len(values)}, wanted one for each of the channels {', '.join(self.channels)}")
        self._betting.update(self._p_values(values))
        evidence = self._betting.log_capital()
        largest = int(np.argmax(evidence))
        self._most = max(self._most, float(evidence[largest]))
        if self.alarm is not None or evidence[largest] < math.log(len(self.channels) / self.level):
            return None
        self.alarm = Alarm(self.rows - 1, self.channels[largest], float(evidence[largest]), self.p)
        return self.alarm

    def _p_values(self, values: Floats) -> Floats:
        """Smoothed ranks, each score among all so far with itself: small for scores that are large."""
        ties = self._generator.random(len(values))
        p = np.empty(len(values))
        for number, (seen, value) in enumerate(zip(self._sorted, values.tolist(), strict=True)):
            above = len(seen) - bisect_right(seen, value)
            equal = len(seen) - above - bisect_left(seen, value) + 1
            p[number] = (above + ties[number] * equal) / (len(seen) + 1)
            insort(seen, value)
        return np.clip(p, 2.0**-53, 1 - 2.0**-53)  # the generator can give 0, and a sum can round to 1

    def evidence(self) -> dict[str, float]:
        """Logarithm of each channel's martingale by now (nats)."""
        return dict(zip(self.channels, self._betting.log_capital().tolist(), strict=True))

    @property
    def p(self) -> float:
        """Anytime-valid p-value over all channels: the least level at which there would have been an alarm by now."""
        return min(1.0, len(self.channels) * math.exp(-self._most))

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs, in types that JSON keeps exactly."""
        alarm = self.alarm
        return {
            "version": _VERSION,
            "channels": list(self.channels),
            "level": self.level,
            "calibrated": self.calibrated,
            "scores": [list(seen) for seen in self._sorted],
            "stakes": self._betting._stakes.tolist(),
            "most": self._most,
            "alarm": alarm and {"row": alarm.row, "channel": alarm.channel, "evidence": alarm.evidence, "p": alarm.p},
            "generator": self._generator.bit_generator.state,
        }

    @classmethod
    def resume(cls, state: Mapping[str, Any]) -> Drift:
        """Go on where `state` was taken, to the bit.

        Raises:
            InputError: it is not such a state.
        """
        if state.get("version") != _VERSION:
            raise InputError(f"state: got version {state.get('version')!r}, wanted {_VERSION}; save it again with this version")
        try:
            generator = np.random.Generator(np.random.PCG64())
            generator.bit_generator.state = state["generator"]
            drift = cls(np.array(state["scores"]).T, state["channels"], level=state["level"], generator=generator)
            drift._betting.bets = drift.calibrated - state["calibrated"]
            drift.calibrated = state["calibrated"]
            drift._betting._stakes = np.array(state["stakes"]).reshape(len(drift.channels), _BETS)
            drift._most = state["most"]
            drift.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"state: {error} is missing or is not what `Drift.state` wrote; save it again") from error
        return drift
