"""Whether what a server's monitors read has drifted from the benign sequences that they were calibrated on.

Each request that a monitor watched and that nothing edited is a sequence, prompt and reply; its scores go to the monitor's drift
alarm when it ends. Requests with edits are left out: an edit moves the states it is read from, and that is no drift of traffic.
When the folders are read again, a monitor that is held against the same benign sequences goes on, and any other begins anew.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..monitor.drift import Drift
    from ..monitor.monitor import Monitor


class Traffic:
    """Of one server, by monitor; it may be told and asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drifts: dict[str, tuple[Monitor, Drift]] = {}

    def take(self, name: str, monitor: Monitor, channels: NDArray[np.float64]) -> None:
        """A sequence has ended: the score of each channel (channels,); NaN, where no token was scored, is no sequence."""
        if np.isfinite(channels).all():
            with self._lock:
                self._of(name, monitor).update(channels)

    def told(self, name: str, monitor: Monitor) -> dict[str, Any]:
        """Sequences so far, the p-value that is valid at any time, its level, and the alarm where there was one."""
        with self._lock:
            drift = self._of(name, monitor)
            alarm = drift.alarm
            return {
                "sequences": drift.rows,
                "p": drift.p,
                "level": drift.level,
                "alarm": alarm and {"channel": alarm.channel, "sequence": alarm.row + 1, "p": alarm.p},
            }

    def _of(self, name: str, monitor: Monitor) -> Drift:
        was, drift = self._drifts.get(name, (None, None))
        if was is None or drift is None or not _alike(was, monitor):
            was, drift = self._drifts[name] = monitor, monitor.drift()
        return drift


def _alike(one: Monitor, other: Monitor) -> bool:
    """Whether their drift is asked against the same sequences, on the same channels."""
    return one is other or (
        one.reader.channels.names == other.reader.channels.names and np.array_equal(one.reference, other.reference)
    )
