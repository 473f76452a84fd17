"""What a run was, in plain values for `summary.json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Moved, Run


def derived(run: Run) -> dict[str, Any]:
    """What is made of all records together: the part that takes time."""
    emerged = {site: {"last": asdict(run.emergence(site))} for site in run.sites}
    for site in run.reference:
        emerged[site]["reference"] = asdict(run.emergence(site, to="reference"))
    return {"emergence": emerged, "spikes": [_moved(one) for one in run.spikes()]}


def summary(run: Run, made: dict[str, Any]) -> dict[str, Any]:
    """`made`: what `derived` gives of the same records and losses."""
    about = {name: run.about[name] for name in ("model", "parameters", "mode", "budget", "every", "began")}
    return {
        **about,
        "steps": run.steps[-1] if run.records else 0,
        "records": len(run.records),
        "overhead": asdict(run.overhead),
        **made,
        "last": {name: asdict(reading) for name, reading in run.records[-1].readings.items()} if run.records else {},
        "notes": list(run.notes),
    }


def _moved(one: Moved) -> dict[str, Any]:
    spike = asdict(one.spike) | {"height": one.spike.height}
    finite = {name: value if value is None or math.isfinite(value) else None for name, value in spike.items()}
    rotation = {site: asdict(reading) for site, reading in one.rotation.items()}
    return {"spike": finite, "between": list(one.between), "rotation": rotation, "usual": one.usual}
