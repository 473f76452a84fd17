"""Stand-ins for the slow parts of an audit, so that its own work is what the tests run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from strandscope.control.dose import Dose
from strandscope.control.erase import Damage, Erasure, Place
from strandscope.control.steer import Pushed, Steering
from strandscope.control.use import Margin, Use
from strandscope.reading import Null, Reading
from strandscope.standards.certificate import Certificate, Line
from strandscope.strand.erase import Eraser
from strandscope.strand.leakage import Leak


def dose(site: str, nats: float, prompts: int) -> Dose:
    scale = Reading(0.5, 0.4, 0.6, 0.95, prompts, "classes' distances", None, "stand-in")
    cost = Reading(nats, nats * 0.9, nats * 1.1, 0.95, prompts, "nats per next token", None, "stand-in")
    none = Reading(0.0, 0.0, 0.0, 0.95, prompts, "nats per next token", None, "stand-in")
    edge = Reading.not_measured("no price", unit="lengths of the direction", method="stand-in")
    how = "predicted and confirmed"
    return Dose(site, "all", "stand-in", "stand-in", nats, scale, cost, none, prompts, cost, edge, how)


def trial(
    subject: Any,
    strand: Any,
    *,
    nats: float,
    prompts: Sequence[str],
    n_random: int,
    max_new_tokens: int,
    seed: int,
    dose_prompts: int,
    along: Sequence[str] = ("toward", "away"),
    chat: bool | None = None,
    positions: str = "all",
    within_the_law: bool = False,
    force: bool = False,
    progress: Any = None,
) -> Steering:
    """What control.steer.trial returns, without a push."""
    one = dose(strand.site, nats, dose_prompts)
    names = [*along, *(f"random {number}" for number in range(1, n_random + 1))]
    pushed = tuple(Pushed(name, one, (f"said {name}",) * len(prompts)) for name in names)
    return Steering(strand.name, strand.site, chat is not False, tuple(prompts), ("said plain",) * len(prompts), pushed)


def use(subject: Any, strand: Any, examples: Any, *, contexts: int, draws: int, controls: int, seed: int, progress: Any) -> Use:
    """What control.use.use returns, without a gradient."""

    def look(value: float, unit: str) -> Reading:
        null = Null(1.0, 0.5, 1.5, 0.95, controls, 1 / (1 + controls), "stand-in")
        return Reading(value, value * 0.9, value * 1.1, 0.95, contexts, unit, null, "stand-in")

    return Use(
        strand.name,
        strand.site,
        "read and used",
        "stand-in",
        susceptibility=look(3.0, "of a random direction's"),
        beyond=look(4.0, "of matched directions'"),
        share=look(0.4, "share"),
        ablation=look(0.1, "nats per next token"),
        ablation_whole=look(0.2, "nats per next token"),
        ablation_own=look(0.3, "nats per next token"),
        spread=0.1,
        agreement=0.7,
        margin=Margin(),
    )


def certify(subject: Any, examples: Any, site: str, *, seed: int, progress: Any) -> Erasure:
    """What control.erase.certify returns, without a probe: a linear one that reads before and after, there and a block later."""
    d = subject.d

    def figure(value: float, unit: str) -> Reading:
        return Reading(value, value * 0.9, value * 1.1, 0.95, 40, unit, None, "stand-in")

    leak = Leak("linear", figure(0.9, "AUROC"), figure(0.7, "AUROC"), "leaks", "")
    name = examples.name
    about: dict[str, Any] = {"name": name, "site": str(site), "position": "last", "classes": examples.classes}
    eraser = Eraser(
        torch.zeros(d, 1), torch.zeros(d, 1), torch.zeros(d), 40, (20, 20), (), fingerprint=subject.fingerprint, **about
    )
    damage = Damage(figure(0.1, "nats per next token"), figure(3.0, "nats per token"), figure(0.05, "nats per token"))
    return Erasure(
        **about,
        eraser=eraser,
        places=(Place(str(site), 0, (leak,)), Place(str(site), 1, (leak,))),
        less=figure(0.01, "AUROC"),
        moved=figure(0.02, "share"),
        damage=damage,
        needed=figure(7e4, "rows"),
        bound=72_828,
        fitted=(40, 8),
        certified=(40, 8),
        permutations=19,
        seed=seed,
        digest="0" * 64,
    )


def certificate(**_: Any) -> Certificate:
    """What standards.certificate.certificate returns, without a run: one standard met, one missed."""
    shared = {"about": "", "truth": "", "source": "", "unit": "", "kinds": ("bias",), "bias_error": 0.1, "worst": None}
    shared |= {"coverage_band": None, "false_positive_rate": None, "alarm_band": None, "refused": 0.0, "repetitions": 5}
    shared |= {"slips": None, "seconds": 0.1, "wanted": 1.0, "coverage": None}
    lines = (
        Line(name="one case", estimator="an estimator", bias=0.0, verdict="green", reasons=(), **shared),
        Line(name="another", estimator="an estimator", bias=3.0, verdict="red", reasons=("off by 3",), **shared),
    )
    return Certificate(lines, "quick", {}, {}, "2026-11-26T00:00:00+00:00", "0" * 64, 0.2)
