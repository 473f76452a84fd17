"""What tests of doses, prices and steering share: a tiny chat network, a strand in it, and our own measurement of a cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

import strandscope as ss
from strandscope.control.bench import Bench
from strandscope.control.dose import Dose
from strandscope.control.edit import direction_digest
from strandscope.reading import Reading
from strandscope.strand.strand import Strand
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

SITE = Site("resid", 1)
PROMPTS = ("hello", "what do you make of the weather today?", "a b c")
# A beginning that all prompts share, so that doses are measured with it run once, as with a real network's system prompt.
TEMPLATE = "be kind, be brief.{% for message in messages %}<{{ message['content'] }}>{% endfor %}"


def opened(folder: Path, dtype: str = "float32") -> Subject:
    subject = ss.load(folder, dtype=dtype, check="none")
    assert subject.tokenizer is not None
    subject.tokenizer.chat_template = TEMPLATE
    return subject


def vector(seed: int = 0, length: float = 1.0) -> Tensor:
    """(32,) a direction at random, of this length."""
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return length * drawn / drawn.norm()


PATTERN = vector(1, 1.7)


def strand_in(subject: Subject, site: Site = SITE) -> Strand:
    """What is written (pattern) is neither parallel to what is read (basis) nor of unit length, as in a strand that was found."""
    evidence = Reading.not_measured("made up for a test", unit="AUROC", method="none")
    basis = vector(1) + 0.4 * vector(2)
    made = {"pattern": PATTERN[:, None], "basis": (basis / basis.norm())[:, None], "spectrum": torch.ones(1)}
    about = {"name": "made up", "positive": "yes", "position": "last", "method": "by hand", "offset": torch.tensor([0.3])}
    return Strand(site=str(site), evidence=evidence, fingerprint=subject.fingerprint, **made, **about)  # type: ignore[arg-type]


def given(scale: float, toward: int = 1, site: str = "resid:1", positions: str = "all") -> Dose:
    """A dose of this scale for the strand above; its other figures are not looked at."""
    figure = Reading(scale, scale, scale, 0.95, 1, "lengths of the direction", None, "given")
    push = direction_digest(toward * PATTERN)
    return Dose(
        site=site,
        positions=positions,
        network="",
        push=push,
        target=1.0,
        scale=figure,
        cost=figure,
        rounding=figure,
        prompts=1,
        predicted=figure,
        edge=Reading.not_measured("not looked at", unit="lengths of the direction", method="none"),
        how="predicted and confirmed",
    )


# --- our own measurement of a cost: each prompt by itself, a hook by hand, KL in float64 ---


@contextmanager
def hooked(subject: Subject, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Block 1 returns `change` of its state."""

    def after(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = subject.module.get_submodule("model.layers.1").register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def pushed(step: Tensor, positions: str) -> Callable[[Tensor], Tensor]:
    def change(state: Tensor) -> Tensor:
        moved = state.clone()
        moved[:, slice(-1, None) if positions == "last" else slice(None)] += step.to(state.dtype)
        return moved

    return change


def logprobs(subject: Subject, ids: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return subject.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


@cache
def own_plain(subject: Subject, ids: tuple[tuple[int, ...], ...]) -> Tensor:
    return torch.stack([logprobs(subject, row) for row in ids])


def own_costs(subject: Subject, bench: Bench, step: Tensor, positions: str) -> np.ndarray:
    plain = own_plain(subject, bench.tokens.ids)
    with hooked(subject, pushed(step, positions)):
        after = torch.stack([logprobs(subject, ids) for ids in bench.tokens.ids])
    return (plain.exp() * (plain - after)).sum(-1).numpy()


def own_reach(costs: np.ndarray, topics: np.ndarray) -> float:
    """Half-width of the 95 % interval of a mean, clustered by topic: the sandwich formula, one topic at a time."""
    names = sorted(set(topics.tolist()))
    total = sum(float((costs[topics == name] - costs.mean()).sum()) ** 2 for name in names)
    error = (len(names) / (len(names) - 1) * total) ** 0.5 / len(costs)
    return float(student.ppf(0.975, len(names) - 1)) * error
