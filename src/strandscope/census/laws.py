"""The laws of strands on what a census recorded: each predicts, has a control that must come out otherwise, and can lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..laws import sharing
from ..laws.law import LawResult
from ..laws.overlap import FEW, overlap_law
from ..laws.strands import depth, free_composition
from ..provenance import numpy_generator
from ..reading import Reading
from ..statistics.paired import Ints
from ..strand.mixture import Coverage
from .compare import measured_rows
from .measure import Measurement
from .result import Sharing

FEWEST = 2 * FEW  # contexts from which that of overlap is tested


def strands(
    networks: Sequence[Measurement], at: Sequence[str], groups: Ints, seed: int
) -> tuple[tuple[LawResult, ...], tuple[str, ...]]:
    """Free composition and overlap at these sites, depth over all, in every network; and what could not be tested."""
    tests, left_out = [], []
    for network in networks:
        for site in at:
            for name, law in (("free composition", _free), ("overlap", _overlap)):
                try:
                    tests += law(network, site, groups, seed)
                except InputError as error:
                    left_out.append(f"The law of {name} was not tested at {site}, {network.name}: {error}.")
        try:
            tests += _depth(network, groups, seed)
        except InputError as error:
            left_out.append(f"The law of depth was not tested in {network.name}: {error}.")
    return tuple(tests), tuple(left_out)


def _free(network: Measurement, site: str, groups: Ints, seed: int) -> list[LawResult]:
    profile, kept = network.sites[site], measured_rows([network], site)
    draw = numpy_generator(seed, "law of free composition", site, network.name)
    local = np.where(kept, profile.local, np.nan)
    where, names = f"{site}, {network.name}", groups.tolist()
    return [
        free_composition(
            local, profile.jacobian, network.output, network.width, where, generator=draw, groups=names, draws=network.draws
        )
    ]


def _overlap(network: Measurement, site: str, groups: Ints, seed: int) -> list[LawResult]:
    profile, kept = network.sites[site], np.flatnonzero(measured_rows([network], site))
    if len(kept) < FEWEST:
        return []
    draw = numpy_generator(seed, "law of overlap", site, network.name)
    matrix = profile.overlap[np.ix_(kept, kept)]
    return [overlap_law(profile.inverse[kept], matrix, f"{site}, {network.name}", generator=draw, groups=groups[kept].tolist())]


def _depth(network: Measurement, groups: Ints, seed: int) -> list[LawResult]:
    """From the first site to the output; only where the sites are outputs of blocks in order, so that there are steps."""
    sites = list(network.sites)
    steps = np.stack([network.sites[site].step for site in sites])
    if len(sites) < 2 or not np.isfinite(steps[:-1]).any():
        return []
    draw = numpy_generator(seed, "law of depth", network.name)
    jacobians = np.stack([network.sites[site].jacobian for site in sites])
    width = network.sites[sites[0]].width
    found = depth(jacobians, steps[:-1], width, sites, generator=draw, groups=groups.tolist(), probes=network.probes)
    return [replace(found, where=f"{found.where}, {network.name}")]


def shared(networks: Sequence[Measurement]) -> tuple[tuple[Sharing, ...], tuple[LawResult, ...]]:
    """The coverage curves of every network at every site that has one, and the two theories' tests on the trained one's."""
    entries, tests = [], []
    for network in networks:
        for site, curve in network.coverage.items():
            found, *both = sharing.results(curve, f"{site}, {network.name}")
            tests += both if network.kind == "trained" else []
            entries.append(
                Sharing(
                    site=site,
                    network=network.name,
                    kind=network.kind,
                    contexts=curve.contexts,
                    verdict=found.verdict,
                    reason=found.reason,
                    shared=found.shared,
                    held=_held(curve),
                    difference=found.difference,
                    ceiling=curve.level_of(curve.ceiling, f"own {curve.rank} directions, from half of the draws"),
                    chance=curve.level_of(curve.chance, f"{curve.rank * curve.neighbours} directions at random"),
                    curve=curve.curve(),
                )
            )
    return tuple(entries), tuple(tests)


def _held(curve: Coverage) -> Reading:
    """Of what a context's own directions hold, the share that the nearest strands of the largest library hold."""
    return curve.reading(
        lambda kept, near: float(near[..., -1].mean() / curve.ceiling[kept].mean()),
        unit="share of the ceiling",
        method=f"nearest strands of {curve.sizes[-1]} contexts, of what a context's own directions hold",
    )
