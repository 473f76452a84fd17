"""The edge, fixed on half of the prompts, held on the other half: mean KL of a push within a fifth of its prediction inside it.

For every concept pack and every second block, the push is the difference of the class means at the last position. χ, a, b and
the edge come from one derivative and four small pushes (± two sizes) on half of the topics of the neutral prompts, as
`control.price` parts them. What is then taken for inside is the lower end of the edge's 95 % interval: at the edge itself half of
all ratios are out by chance. On the other half's prompts the push is made at a quarter, a half, three quarters and the whole of
that size, and its measured mean KL is compared with ½c²χ, χ from one derivative on those prompts. A pair (concept, site) holds if
all four ratios lie in .8 to 1.2. All of this was written down before any of it was run.

The share of pairs that hold has two exact lower bounds: as if pairs were independent, and as if a concept's pairs were copies of
one another; the truth lies between. (Student's t over the concepts' shares says nothing where all shares are equal.)

On two cores this takes hours, on a GPU minutes: `python benchmarks/edge.py --model MODEL --device cuda --out FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv

import strandscope as ss
from common import as_table, machine, machine_sentence
from strandscope.control.bench import Bench
from strandscope.control.edit import Add
from strandscope.control.price import SMALL, first_half
from strandscope.laws.price import Costs, foretell
from strandscope.subject.site import Site

PACKS = ("harm", "truth", "sentiment", "formality", "certainty", "spanish")
PARTS = (0.25, 0.5, 0.75, 1.0)
TOLERANCE = 0.2


def halves(bench: Bench) -> tuple[Bench, Bench]:
    first = first_half(bench.topics)
    parts = []
    for rows in (np.flatnonzero(first), np.flatnonzero(~first)):
        chosen = torch.as_tensor(rows)
        parts.append(Bench(bench.subject, bench.prompts.subset(rows), bench.tokens.subset(rows.tolist()), bench.plain[chosen]))
    return parts[0], parts[1]


def at_site(site: Site, directions: dict[str, torch.Tensor], fixing: Bench, judging: Bench) -> list[dict[str, object]]:
    """One record a concept: edge and ratios, or why there are none."""
    chi = {
        name: (fixing.susceptibility(site, way, "last"), judging.susceptibility(site, way, "last"))
        for name, way in directions.items()
    }
    units = {name: float(np.sqrt(2 / pair[0].mean())) for name, pair in chi.items()}
    signs = [(name, sign * units[name] * size) for name in directions for sign in (1, -1) for size in SMALL]
    small = fixing.costs_of(site, [Add(directions[name], size) for name, size in signs], "last")
    edges: dict[str, tuple[float, float]] = {}
    records = []
    for number, name in enumerate(directions):
        up, down = small[4 * number : 4 * number + 2], small[4 * number + 2 : 4 * number + 4]
        told = foretell(Costs(units[name] * np.array(SMALL), up, down, chi[name][0], fixing.topics), "small pushes")
        if told.edge.value is None or told.edge.low is None or told.edge.low <= 0:
            records.append({"concept": name, "site": str(site), "holds": None, "why": told.edge.reason})
        else:
            edges[name] = (told.edge.low, told.edge.value)
    names = list(edges)
    pushes = [Add(directions[name], part * edges[name][0]) for name in names for part in PARTS]
    costs = judging.costs_of(site, pushes, "last").mean(1).reshape(len(names), len(PARTS)) if names else np.empty((0, 4))
    for name, measured in zip(names, costs, strict=True):
        sizes = np.array(PARTS) * edges[name][0]
        predicted = 0.5 * sizes**2 * chi[name][1].mean()
        ratios = measured / predicted
        records.append(
            {
                "concept": name, "site": str(site), "edge": edges[name][1], "inside": edges[name][0],
                "nats": predicted.tolist(), "ratios": ratios.tolist(), "holds": bool((np.abs(ratios - 1) <= TOLERANCE).all()),
            }
        )  # fmt: skip
    return records


def least(hits: int, of: int) -> float:
    """The lower end of the exact (Clopper–Pearson) 95 % interval of a share."""
    return float(betaincinv(hits, of - hits + 1, 0.025)) if hits else 0.0


def page(result: dict[str, Any]) -> str:
    judged = [record for record in result["records"] if record["holds"] is not None]
    rows = []
    for name in result["by_concept"]:
        own = [record for record in judged if record["concept"] == name]
        ratios = [ratio for record in own for ratio in record["ratios"]]
        nats = sorted(record["nats"][-1] for record in own)
        span = f"{nats[0]:.2g}, {nats[len(nats) // 2]:.2g}, {nats[-1]:.2g}"
        rows.append((name, f"{sum(r['holds'] for r in own)} of {len(own)}", f"{min(ratios):.3f}", f"{max(ratios):.3f}", span))
    table = as_table(
        ("concept", "sites that hold", "least ratio", "greatest", "nats at the inner edge: least, median, greatest"), rows
    )
    low, (fixing, judging) = result["low"], result["prompts"]
    hits = sum(record["holds"] for record in judged)
    said = f"{hits} of {len(judged)} pairs hold; the share's exact lower bound is {low['independent pairs']:.3f} if pairs are "
    said += f"independent and {low['copies']:.2f} if a concept's are copies. {result['without']} pairs without an edge."
    where = f"Edge fixed on {fixing} prompts, judged on {judging}. {result['network']}; {result['seconds']:.0f} s."
    return f"# edge\n\n{__doc__}\n{said}\n\n{table}\n\n{where}\n\n{machine_sentence(result['machine'])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--sites", default=",".join(f"resid:{block}" for block in range(1, 30, 2)))
    parser.add_argument("--packs", nargs="*", default=PACKS)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    start = time.perf_counter()
    subject = ss.load(asked.model, dtype=asked.dtype, device=asked.device, check="none")
    fixing, judging = halves(Bench.of(subject, asked.prompts))
    states = {name: ss.capture(subject, ss.concept(name), asked.sites, "last") for name in asked.packs}
    records = []
    for site in subject.sites(asked.sites):
        ways = {}
        for name, acts in states.items():
            held, labels = acts.at(site).float(), torch.as_tensor(acts.examples.labels)
            ways[name] = held[labels == 1].mean(0) - held[labels == 0].mean(0)
        records += at_site(site, ways, fixing, judging)
        print(f"{site}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    judged = [record for record in records if record["holds"] is not None]
    shares = np.array([np.mean([r["holds"] for r in judged if r["concept"] == name]) for name in asked.packs])
    result = {
        "share": float(shares.mean()),
        "low": {
            "independent pairs": least(sum(r["holds"] for r in judged), len(judged)),
            "copies": least(int((shares == 1).sum()), len(shares)),
        },
        "by_concept": dict(zip(asked.packs, shares.tolist(), strict=True)),
        "pairs": len(judged), "without": len(records) - len(judged),
        "prompts": [len(fixing.prompts), len(judging.prompts)], "network": str(subject), "seconds": time.perf_counter() - start,
        "machine": machine(), "records": records,
    }  # fmt: skip
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "edge.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (asked.out / "edge.md").write_text(page(result), encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "records"}, indent=1))


if __name__ == "__main__":
    main()
