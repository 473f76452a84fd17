"""A monitor as one safetensors file: directions and benign reference as tensors, everything else in the manifest."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..io import load_as, made_from, save_tensors
from ..reading import Null, Reading
from .channels import Channel, Channels
from .judged import Judged
from .monitor import Monitor
from .probability import Bin, Platt
from .scoring import Reader
from .sequence import Aggregation
from .threshold import Threshold

SCHEMA = "strandscope/monitor/1"


def save(monitor: Monitor, path: str | os.PathLike[str]) -> None:
    channels = monitor.reader.channels.rows
    tensors = {f"direction:{number}": channel.direction for number, channel in enumerate(channels)}
    tensors |= {"biases": torch.tensor([channel.bias for channel in channels], dtype=torch.float64)}
    tensors |= {name: torch.from_numpy(getattr(monitor, name).copy()) for name in ("centres", "spreads", "reference")}
    manifest = {
        "schema": SCHEMA,
        "channels": [
            {"concept": channel.concept, "site": channel.site, "about": dict(channel.about)} for channel in channels
        ],
        "aggregation": str(monitor.reader.aggregation),
        "skip": monitor.reader.skip,
        "threshold": asdict(monitor.threshold),
        "false_alarms": asdict(monitor.false_alarms),
        "judged": {name: asdict(judged) for name, judged in monitor.judged.items()},
        "fingerprint": monitor.fingerprint,
        "template": dict(monitor.template),
        "provenance": dict(monitor.provenance),
    }  # fmt: skip
    save_tensors(path, tensors, manifest)


def load(path: str | os.PathLike[str]) -> Monitor:
    tensors, manifest = load_as(path, SCHEMA, "a monitor")
    with made_from(path, "the monitor"):
        biases = tensors["biases"].tolist()
        channels = [
            Channel(row["concept"], row["site"], tensors[f"direction:{number}"], biases[number], row["about"])
            for number, row in enumerate(manifest["channels"])
        ]
        made = Monitor(
            reader=Reader(Channels.of(channels), Aggregation.parse(manifest["aggregation"]), int(manifest["skip"])),
            threshold=Threshold(**manifest["threshold"]),
            centres=tensors["centres"].double().numpy(),
            spreads=tensors["spreads"].double().numpy(),
            judged={concept: _judged(row) for concept, row in manifest["judged"].items()},
            reference=tensors["reference"].double().numpy(),
            fingerprint=manifest["fingerprint"],
            template=manifest["template"],
            provenance=manifest["provenance"],
        )
        _check(made)
    return made


def _check(made: Monitor) -> None:
    """Shapes that belong together, so that a damaged file is refused where it is opened and not where it would alarm wrongly."""
    concepts, channels = len(made.concepts), len(made.reader.channels)
    shapes = {"centres": (concepts,), "spreads": (concepts,), "reference": (made.reference.shape[0], channels)}
    for name, wanted in shapes.items():
        array = getattr(made, name)
        if array.shape != wanted or not np.isfinite(array).all():
            raise ValueError(f"{name} (shape {array.shape}, wanted {wanted} of finite numbers)")
    if not math.isfinite(made.threshold.value) or not (made.spreads > 0).all():
        raise ValueError("threshold (not finite)")


def _judged(row: dict[str, Any]) -> Judged:
    return Judged(
        _reading(row["recall"]),
        _reading(row["false_alarms"]),
        None if row["probability"] is None else Platt(**row["probability"]),
        _reading(row["error"]),
        tuple(Bin(bin_["predicted"], _reading(bin_["observed"]), bin_["rows"]) for bin_ in row["bins"]),
    )


def _reading(row: dict[str, Any]) -> Reading:
    return Reading(**{**row, "null": None if row["null"] is None else Null(**row["null"])})
