"""Each figure of the trained network against the same figure of its twins: on the same contexts, with intervals, then a verdict.

A figure over contexts is a mean of logarithms (local dimension, contraction, excess), or one pooled from all (pooled dimension,
that of the states). Either comes with its value under each group of contexts left out, never under draws left out, and the ratio
trained/twin has an interval that holds both the contexts and the twins' seeds (`statistics/paired`). What is shown for a network
alone is a median over contexts, or the pooled value, at 95 %.

The verdict is read off an interval of the ratio whose level is that of a family: one quantity at all sites, against all kinds of
twins, is wrong anywhere in at most 5 %. With a margin stated beforehand, in this order:

    as the twin        the whole interval lies inside the margin: whatever the difference, it is small;
    fewer than, more   the whole interval lies below, or above, 1;
    cannot tell        anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..reading import Reading
from ..statistics.paired import Contrast, Deleted, Floats, Ints, log_ratio, median, steadied
from .contexts import LEAST
from .measure import Measurement, Profile
from .quantities import DIM, MEASURES, Measure
from .result import Against, Quantity, SiteResult, Verdict

LEVEL = 0.95
MARGIN = (0.8, 1.25)
FLOOR = 1e-3  # of the median trace over contexts; below it the response is rounding and rare tokens
Mask = NDArray[np.bool_]


def measured_rows(networks: Sequence[Measurement], site: str) -> Mask:
    """(contexts,): whether the response at a site is large and varied enough in every one of these networks."""
    return np.logical_and.reduce([_large_enough(one.sites[site]) for one in networks])


def _large_enough(profile: Profile) -> Mask:
    floor = FLOOR * float(np.median(profile.trace))
    finite = np.isfinite(profile.local) & np.isfinite(profile.whitened) & np.isfinite(profile.inverse)
    return finite & (profile.trace > floor) & (profile.readable > 0)


def compare(
    networks: Sequence[Measurement],
    sites: Sequence[str],
    groups: Ints,
    *,
    margin: tuple[float, float] = MARGIN,
    no_twins: str = "",
) -> tuple[SiteResult, ...]:
    """The trained network, which comes first, beside its twins at every site.

    Args:
        groups: (contexts,) codes of the contexts' groups.
        no_twins: why there are none; then no dimension is reported.
    """
    kept = {site: np.flatnonzero(measured_rows(networks, site)) for site in sites}
    columns = [_quantity(measure, networks, sites, kept, groups, margin, no_twins) for measure in MEASURES]
    trained = networks[0]
    return tuple(
        SiteResult(
            site=site,
            ambient=trained.sites[site].width,
            contexts=len(kept[site]),
            below=len(groups) - len(kept[site]),
            trace=over_contexts(trained.sites[site].trace, groups, "nats per unit²", "trace of F (Fisher information)"),
            quantities=tuple(column[number] for column in columns),
        )
        for number, site in enumerate(sites)
    )


def _quantity(
    measure: Measure,
    networks: Sequence[Measurement],
    sites: Sequence[str],
    kept: dict[str, Ints],
    groups: Ints,
    margin: tuple[float, float],
    no_twins: str,
) -> list[Quantity]:
    """One quantity at all sites: a family."""
    trained, kinds = networks[0], list(dict.fromkeys(one.kind for one in networks[1:]))
    rows = {site: kept[site] if measure.response else np.arange(len(groups)) for site in sites}
    if not kinds:
        reason = no_twins or "there are no twins to read it against"
        nothing = Reading.not_measured(reason, unit=measure.unit, method=measure.what)
        return [Quantity(measure.name, measure.coordinates, measure.what, nothing, ()) for _ in sites]
    figures = {(one.name, site): _figure(measure, one, site, rows[site], groups) for one in networks for site in sites}
    against: dict[str, list[Against]] = {site: [] for site in sites}
    for kind in kinds:
        twins = [one for one in networks if one.kind == kind]
        found: dict[str, Contrast] = {}
        for site in sites:
            own, *others = (figures[one.name, site] for one in (trained, *twins))
            told = [other for other in others if other is not None]
            if own is not None and len(told) == len(others):
                found[site] = log_ratio(own, told)
        found = dict(zip(found, steadied(list(found.values())), strict=True))
        level = family_level(len(sites) * len(kinds))
        for site in sites:
            beside = _alone(measure, twins, [figures[one.name, site] for one in twins], site, rows[site], groups)
            against[site].append(_against(measure, kind, len(twins), beside, found.get(site), rows[site], groups, level, margin))
    return [
        Quantity(
            measure.name,
            measure.coordinates,
            measure.what,
            _alone(measure, [trained], [figures[trained.name, site]], site, rows[site], groups),
            tuple(against[site]),
        )
        for site in sites
    ]


def family_level(tests: int) -> float:
    """The level of each of so many intervals that all hold together in at least 95 % of cases (Bonferroni)."""
    return 1 - (1 - LEVEL) / tests


def verdict_of(reading: Reading, margin: tuple[float, float] = MARGIN) -> Verdict:
    """Drawn from the interval of a ratio, as this module's docstring says."""
    if reading.low is None or reading.high is None:
        return "not measured"
    if margin[0] <= reading.low and reading.high <= margin[1]:
        return "as the twin"
    return "fewer than the twin" if reading.high < 1 else "more than the twin" if reading.low > 1 else "cannot tell"


def _figure(measure: Measure, network: Measurement, site: str, rows: Ints, groups: Ints) -> Deleted | None:
    """The figure of a network with each group left out; None where it has none."""
    if len(np.unique(groups[rows])) < LEAST:
        return None
    profile, codes, pooled = network.sites[site], groups[rows], measure.pooled
    if measure.each is not None:
        figure = Deleted.mean(measure.each(network, profile)[rows], codes)
    else:
        assert pooled is not None  # a measure is one or the other
        figure = Deleted.of(lambda some: pooled(profile, rows[some], codes[some]), codes)
    return figure if math.isfinite(figure.value) and bool(np.isfinite(figure.without).all()) else None


def _against(
    measure: Measure,
    kind: str,
    twins: int,
    reading: Reading,
    contrast: Contrast | None,
    rows: Ints,
    groups: Ints,
    level: float,
    margin: tuple[float, float],
) -> Against:
    if contrast is None:
        missing = Reading.not_measured(_why(measure, rows, groups), unit="trained/twin", method=measure.what)
        return Against(kind, twins, reading, missing, missing, "not measured")
    how = "mean of paired log ratios over contexts" if measure.each is not None else "log ratio, contexts deleted"
    how += f"; {twins} twins, their spread in the interval" if twins > 1 else "; one twin, whose like may differ"
    ratio, decides = (_ratio(contrast, at, len(rows), how) for at in (LEVEL, level))
    return Against(kind, twins, reading, ratio, decides, verdict_of(decides, margin))


def _ratio(contrast: Contrast, level: float, n: int, how: str) -> Reading:
    low, high = contrast.interval(level)
    return Reading(math.exp(contrast.value), _exp(low), _exp(high), level, n, "trained/twin", None, how)


def _exp(value: float) -> float:
    """Few twins can make an interval so wide that it leaves the range of numbers; it says no less when cut there."""
    return math.exp(min(700.0, max(-700.0, value)))


def _why(measure: Measure, rows: Ints, groups: Ints) -> str:
    count = len(np.unique(groups[rows]))
    if count < LEAST:
        return (
            f"in all networks only {len(rows)} contexts in {count} groups have a response large and varied enough, "
            f"wanted {LEAST} groups"
        )
    return measure.fails


def _alone(
    measure: Measure, networks: Sequence[Measurement], figures: Sequence[Deleted | None], site: str, rows: Ints, groups: Ints
) -> Reading:
    """The figure of one network, or of several twins together, with its interval at 95 %."""
    told = [figure for figure in figures if figure is not None]
    if len(told) < len(networks):
        return Reading.not_measured(_why(measure, rows, groups), unit=measure.unit, method=measure.what)
    if len(networks) == 1 and measure.reading is not None:
        return measure.reading(networks[0].sites[site], rows, groups[rows])
    many = f", mean over {len(networks)} twins, their spread in the interval" if len(networks) > 1 else ""
    if measure.each is None:
        contrast = log_ratio(Deleted(0.0, np.zeros(len(told[0].without))), told)
        low, high = contrast.interval(LEVEL)
        what = f"{measure.what}; interval by deleting contexts{many}"
        if measure.unit == DIM and low <= -math.log(networks[0].sites[site].width) and high >= 0:
            reason = "its interval holds every figure from 1 to the width: single contexts decide it"
            return Reading.not_measured(reason, unit=measure.unit, method=what, n=len(rows))
        return Reading(math.exp(-contrast.value), _exp(-high), _exp(-low), LEVEL, len(rows), measure.unit, None, what)
    values = np.stack([measure.each(one, one.sites[site])[rows] for one in networks])
    what = f"{measure.what}; median over contexts, interval of the median{many}"
    if len(networks) == 1:
        middle, low, high = map(math.exp, median(values[0], groups[rows]))
        return Reading(middle, low, high, LEVEL, len(rows), measure.unit, None, what)
    return _median_of_twins(values, groups[rows], measure.unit, what)


def _median_of_twins(values: Floats, groups: Ints, unit: str, what: str) -> Reading:
    """From (twins, contexts) logarithms: the mean of the twins' medians; two variances, over contexts and between twins."""
    twins, count = values.shape
    medians = np.median(values, axis=1)
    _, low, high = median(values.mean(0), groups, LEVEL)
    names = len(np.unique(groups))
    rows = ((high - low) / 2 / float(student.ppf(0.5 + LEVEL / 2, names - 1))) ** 2
    between = float(medians.var(ddof=1)) / twins
    reach = Contrast.summed(0.0, rows, between, twins, names).interval(LEVEL)[1]
    middle = float(medians.mean())
    return Reading(math.exp(middle), _exp(middle - reach), _exp(middle + reach), LEVEL, count, unit, None, what)


def over_contexts(values: Floats, groups: Ints, unit: str, what: str) -> Reading:
    """Median over contexts, with its interval."""
    if not np.isfinite(values).all():
        return Reading.not_measured("it is not finite at some context", unit=unit, method=what)
    how = f"{what}; median over contexts, interval of the median"
    return Reading(*median(values, groups), LEVEL, len(values), unit, None, how)
