"""census.md, and the table for a terminal: what was found against twins, what it shows and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

from ..reading import Reading
from .census import CensusEntry, LawEntry, QuantityEntry, SharingEntry, SiteEntry
from .text import aligned, plain, visible

SHOWN = 12  # sites at most in a table; census.json has all
COLUMNS = ("local", "pooled", "data", "contraction", "excess")
TITLES = {
    "local": "local",
    "local_whitened": "local, whitened",
    "pooled": "pooled (∞)",
    "pooled_whitened": "pooled (∞), whitened",
    "pooled_at_n": "pooled, these contexts",
    "data": "data",
    "two_nn": "data, TwoNN",
    "contraction": "contraction",
    "excess": "alignment excess",
}
_WORDS = {"fewer than the twin": "fewer", "as the twin": "as", "more than the twin": "more"}


def figure(reading: Reading) -> str:
    """Value and interval in three significant figures."""
    if reading.value is None or reading.low is None or reading.high is None:
        return "not measured"
    return f"{_short(reading.value)} [{_short(reading.low)}, {_short(reading.high)}]"


def _short(value: float) -> str:
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{2 if abs(value) < 10 else 1}f}"


def lines(entry: CensusEntry) -> list[str]:
    """For a terminal: a row a site, at most twelve of them, then the counts of verdicts and the laws."""
    shown = shown_sites(entry)
    head = ("site", "d", *(TITLES[name] for name in COLUMNS), *(f"excess / {kind}" for kind in entry.kinds))
    rows = [(one.site, str(one.ambient), *_cells(one), *_beside(one.quantity("excess"), entry.kinds)) for one in shown]
    made = [
        visible(f"census of {entry.subject}: {entry.contexts} contexts, {len(entry.sites)} sites, {_twins(entry)}", lines=False),
        *aligned([head, *rows]),
    ]
    if len(shown) < len(entry.sites):
        made.append(f"({len(shown)} of {len(entry.sites)} sites are shown; the verdicts below are of all)")
    made += ["", *aligned([("network/twin at all sites", *entry.kinds), *counts(entry)])] if entry.kinds else []
    made += ["", *(_law_line(*test) for test in tests_by_place(entry))] if entry.laws else []
    made += [_sharing_line(one) for one in entry.sharing if one.kind == "trained"]
    return made


def shown_sites(entry: CensusEntry) -> list[SiteEntry]:
    """At most twelve sites, evenly spread, the ends with them."""
    sites = entry.sites
    if len(sites) <= SHOWN:
        return list(sites)
    return [sites[round(number * (len(sites) - 1) / (SHOWN - 1))] for number in range(SHOWN)]


def counts(entry: CensusEntry) -> list[tuple[str, ...]]:
    """For each quantity and kind of twin, at how many sites it is fewer than, as, or more than the twin's."""
    names = [one.id for one in entry.sites[0].quantities]
    return [(TITLES.get(name, name), *(_count(entry, name, kind) for kind in entry.kinds)) for name in names]


def _count(entry: CensusEntry, name: str, kind: str) -> str:
    verdicts = [one.verdict for site in entry.sites for one in site.quantity(name).against if one.kind == kind]
    order = ("fewer than the twin", "as the twin", "more than the twin", "cannot tell", "not measured")
    return ", ".join(f"{_WORDS.get(word, word)} {verdicts.count(word)}" for word in order if word in verdicts)


def _cells(site: SiteEntry) -> list[str]:
    return [figure(site.quantity(name).reading) for name in COLUMNS]


def _beside(quantity: QuantityEntry, kinds: Sequence[str]) -> list[str]:
    found = {one.kind: one for one in quantity.against}
    return [
        "" if kind not in found else f"{figure(found[kind].ratio)} {_WORDS.get(found[kind].verdict, found[kind].verdict)}"
        for kind in kinds
    ]


def _twins(entry: CensusEntry) -> str:
    if not entry.kinds:
        return f"no twins ({entry.no_twins})"
    kinds = [one.kind for one in entry.networks[1:]]
    return "twins: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in entry.kinds)


def tests_by_place(entry: CensusEntry) -> list[tuple[LawEntry, str, str]]:
    """Each law's test on the network itself, its place without the network's name, and the verdicts on the twins in words."""
    made = []
    for law in entry.laws:
        place, _, network = law.where.rpartition(", ")
        if network != "trained":
            continue
        twins = [
            other for other in entry.laws if other.name == law.name and other.where.startswith(f"{place}, ") and other is not law
        ]
        words = [other.verdict for other in twins]
        made.append((law, place, ", ".join(f"{word} {words.count(word)}" for word in dict.fromkeys(words))))
    return made


def _law_line(law: LawEntry, place: str, twins: str) -> str:
    ratio = "" if law.ratio.value is None else f", measured/predicted {figure(law.ratio)}"
    beside = f"; twins: {twins}" if twins else ""
    return visible(
        f"law of {law.name}, {place}: {law.verdict}{ratio}{beside}; control {law.negative_control.verdict}", lines=False
    )


def _sharing_line(one: SharingEntry) -> str:
    reason = f" ({one.reason})" if one.reason else ""
    return visible(f"shared strands, {one.site}: {one.verdict}{reason}; shared {figure(one.shared)}", lines=False)


# --- the page ---


def markdown(entry: CensusEntry) -> str:
    parts = [
        f"# Census of {plain(entry.subject)}",
        *section(entry),
        "## Provenance",
        _provenance(entry),
    ]
    return "\n\n".join(parts) + "\n"


def section(entry: CensusEntry) -> list[str]:
    """The parts of the page that stand in an audit's report too, without title and provenance."""
    return [
        _asked(entry),
        *_verdicts(entry),
        *_sites(entry),
        *_shows(entry),
        *_laws(entry),
        *_sharing(entry),
        "## Networks",
        _networks(entry),
        "## Limits of the census",
        "\n".join(f"- {plain(limit)}" for limit in entry.limits),
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def _asked(entry: CensusEntry) -> str:
    return (
        f"How many directions does the network's output answer to, at {len(entry.sites)} sites, and is that fewer than in a "
        f"network that learned nothing? Measured at {entry.contexts} contexts in {entry.groups} groups ({plain(entry.source)}; "
        f"{plain(entry.cut)}), with {entry.draws} draws of the response and {entry.probes} probes of the Jacobian each; "
        f"{_twins(entry)}, their logits scaled context by context to the network's own output entropy."
    )


def _verdicts(entry: CensusEntry) -> list[str]:
    if not entry.kinds:
        return [
            "## Verdicts",
            f"None: {plain(entry.no_twins)}. A dimension means nothing without its twins', so none is reported.",
        ]
    low, high = entry.margin
    note = (
        f"*Fewer*, *more*: the whole interval of the ratio network/twin lies below, or above, 1. *As*: it lies inside "
        f"{low:g} to {high:g}. The intervals that decide hold for all sites and kinds of twins of a quantity together "
        f"(each at {100 * entry.level:.2f} %)."
    )
    return [
        "## Verdicts",
        table([("sites where the network has …", *(f"than {kind} twins" for kind in entry.kinds)), *counts(entry)]),
        note,
    ]


def _sites(entry: CensusEntry) -> list[str]:
    shown = shown_sites(entry)
    head = ("site", "ambient", *(TITLES[name] for name in COLUMNS), *(f"excess / {kind} twins" for kind in entry.kinds))
    rows = [(plain(one.site), str(one.ambient), *_cells(one), *_beside(one.quantity("excess"), entry.kinds)) for one in shown]
    left = f" {len(shown)} of {len(entry.sites)} sites are shown; census.json has all." if len(shown) < len(entry.sites) else ""
    note = (
        "*Local*: participation ratio of one context's response F, median over contexts. *Pooled*: of F over ever more contexts. "
        "*Data*: of the states themselves. *Contraction*: of JᵀJ, the way from the state to the output's last state. "
        "*Alignment excess*: how many times more directions F has than output and Jacobian in general position to each other "
        f"would give. Raw coordinates; 95 % intervals; “/” is network over twin.{left}"
    )
    return ["## By site", table([head, *rows]), note]


def _shows(entry: CensusEntry) -> list[str]:
    if not entry.kinds:
        return []
    return [
        "## What this shows, and what it does not",
        "A small dimension alone shows nothing: a network that learned nothing has one too, because its output is about as "
        "certain. What differs from the twins was made by training. An alignment excess above the twins' says that the response "
        "is spread over more directions than output and Jacobian in general position to each other would give: training has "
        "fitted the one to the other. It does not say which directions they are, that a person could name them, or that one "
        "could steer by them; and it is a fact about these contexts, this position and small changes of the state.",
    ]


def _laws(entry: CensusEntry) -> list[str]:
    if not entry.laws:
        return []
    head = ("law", "tested at", "predicted", "measured", "measured/predicted", "verdict", "on the twins", "negative control")
    rows = [
        (
            plain(law.name),
            plain(place),
            figure(law.predicted),
            figure(law.reading),
            figure(law.ratio),
            plain(law.verdict + (f" ({law.reason})" if law.reason else "")),
            plain(twins),
            plain(f"{law.negative_control.what}: {law.negative_control.found}, {law.negative_control.verdict}"),
        )
        for law, place, twins in tests_by_place(entry)
    ]
    formulas = {law.name: f"- {plain(law.name)}: {plain(law.formula)}, within {law.tolerance:.0%}" for law in entry.laws}
    return ["## Laws of strands", "\n".join(formulas.values()), table([head, *rows])]


def _sharing(entry: CensusEntry) -> list[str]:
    if not entry.sharing:
        return []
    head = ("site", "network", "what there is to hold", "nearest strands hold", "shared, from 0 to 1", "verdict")
    rows = [
        (
            plain(one.site),
            plain(one.network),
            figure(one.ceiling),
            "not measured" if not one.curve else f"{figure(one.curve[max(one.curve)])} (of {max(one.curve)} contexts)",
            figure(one.shared),
            plain(one.verdict + (f" ({one.reason})" if one.reason else "")),
        )
        for one in entry.sharing
    ]
    note = (
        "How much of a new context's response lies in directions recorded at other contexts. *What there is to hold*: the share "
        "that a context's own ten directions hold, found from half of its draws and scored on the other half; *nearest strands*: "
        "the best ten directions in the span of the six nearest recorded strands, at equal information. "
        "*Shared*: 0 is an unrelated library, 1 the context's own directions. *Discrete*: strands recur whole, as from a list; "
        "*smooth*: they vary gradually; each is a prediction of larger libraries from small ones."
    )
    return ["## Shared strands", table([head, *rows]), note]


def _networks(entry: CensusEntry) -> str:
    head = ("network", "output entropy (nats)", "logits times", "PR of the output metric")
    rows = [(plain(one.name), figure(one.entropy), figure(one.scale), figure(one.output)) for one in entry.networks]
    return table([head, *rows])


def _provenance(entry: CensusEntry) -> str:
    told = ", ".join(f"{plain(name)} {plain(version)}" for name, version in entry.versions.items())
    made = [f"- date: {entry.date}", f"- seed: {entry.seed}", f"- versions: {told}", f"- texts: digest `{entry.digest[:12]}`"]
    made.append(f"- network: `{entry.fingerprint}`, {plain(entry.dtype)} on {plain(entry.device)}")
    made += [f"- command: {plain(entry.command)}"] if entry.command else []
    made += [f"- taken from an earlier run: {plain(', '.join(entry.resumed))}"] if entry.resumed else []
    return "\n".join(made)
