"""Recursive feature machines beside xRFM 0.4.5: time and held-out AUROC at 30 sites, and at 50,000 rows.

At 30 sites both run the same: the kernel `l2_high_dim` (Laplace), ridge 1e-3, bandwidths 1, 10 and 100, gradients centred or
not, eight updates, every iterate scored by its AUROC on the same validation rows and the best kept, early stopping off. Ours is
the preset `xrfm` with those changes, all sites at once. The AUROC is of a third set of rows.

At 50,000 rows of 576 dimensions (a planted rank-five function, noise .25 of its spread) ours is `nystrom` with 2,000 centres.
xRFM has no centres: it grows a tree, and each leaf is a dense machine. Its leaves may have 4,000 rows here, so that both run
within 4 GB; five updates in both, early stopping off. Time, R² on 5,000 rows and the greatest memory of each program stand side
by side, each in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import strandscope as ss
from common import THREADS, Line, Results, Size, Table, main, paired
from others import facts
from strandscope.provenance import numpy_generator, torch_generator
from strandscope.statistics.detect import quick_auroc
from strandscope.strand import nystrom
from strandscope.strand.rfm import RFM, iterates
from strandscope.strand.rfm_spec import RFMSpec
from strandscope.strand.rows import Ordered

PACKS = ("harm", "truth", "sentiment", "certainty")
GRID = tuple(product((1.0, 10.0, 100.0), (True, False)))  # bandwidth, gradients centred
RIDGE, UPDATES, FIT, HELD = 1e-3, 8, 416, 98
ROWS, DIMENSIONS, NEW, CENTRES, LEAF, RANK = 50_000, 576, 5_000, 2_000, 4_000, 5
LIMIT = 4.0  # GB
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """States (sites, rows, d) and labels to fit, to choose by and to score."""

    states: tuple[Tensor, Tensor, Tensor]
    labels: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, rows: Ordered, seed: int, sizes: Sequence[int]) -> Split:
        order = numpy_generator(seed, "split", rows.key).permutation(len(rows.labels))
        parts = [torch.as_tensor(part) for part in np.split(order, np.cumsum(sizes))[:3]]
        states, labels = torch.stack(list(rows.states)), torch.as_tensor(rows.labels)
        fit, choose, score = parts
        return cls((states[:, fit], states[:, choose], states[:, score]), (labels[fit], labels[choose], labels[score]))


def aurocs(scores: Tensor, labels: Tensor) -> NDArray[np.float64]:
    return np.atleast_1d(quick_auroc(scores.numpy(), labels.numpy()))


def ours(split: Split) -> NDArray[np.float64]:
    """Held-out AUROC of each site: the best of all iterates of six configurations by validation AUROC."""
    (fit, choose, score), (labels, chosen_by, truth) = split.states, split.labels
    best = np.full(len(fit), -1.0)
    found = np.zeros((len(fit), len(truth)), dtype=np.float32)
    for bandwidth, centred in GRID:
        spec = RFMSpec.preset("xrfm", bandwidth=bandwidth, ridge=RIDGE, centre_gradients=centred, iterations=UPDATES)
        for machine in iterates(spec, fit, labels, spectra=False):
            better = np.flatnonzero(aurocs(machine.predict(choose)[..., 0], chosen_by) > best)
            if len(better):
                best[better] = aurocs(machine.predict(choose)[better, :, 0], chosen_by)
                found[better] = _of_sites(machine, better, score)
    return aurocs(torch.as_tensor(found), truth)


def _of_sites(machine: RFM, sites: Ints, states: Tensor) -> NDArray[np.float32]:
    return machine.predict(states)[torch.as_tensor(sites), :, 0].numpy()


def theirs(split: Split) -> NDArray[np.float64]:
    """The same by xRFM, site by site."""
    from xrfm.rfm_src import RFM as Peer
    from xrfm.rfm_src.class_conversion import ClassificationConverter

    (fit, choose, score), (labels, chosen_by, truth) = split.states, split.labels
    found = []
    for site in range(len(fit)):
        best, scores = -1.0, None
        for bandwidth, centred in GRID:
            model = Peer(
                "l2_high_dim", iters=UPDATES, bandwidth=bandwidth, device="cpu", tuning_metric="auc", verbose=False,
                class_converter=ClassificationConverter("zero_one", 2),
            )  # fmt: skip
            held = (choose[site], chosen_by[:, None].float())
            model.fit(
                (fit[site], labels[:, None].float()), held, reg=RIDGE, center_grads=centred, verbose=False, early_stop_rfm=False
            )
            value = float(model.score(*held, ["auc"])["auc"])
            if value > best:
                best, scores = value, torch.as_tensor(np.asarray(model.predict(score[site]))[:, 0])
        assert scores is not None
        found.append(aurocs(scores, truth)[0])
    return np.array(found)


def planted(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated states and a sum of linear and quadratic functions of five directions, with noise."""
    generator = torch_generator(seed, "planted", str(d))
    axes = torch.linalg.qr(torch.randn(d, RANK, generator=generator)).Q
    states = torch.randn(n, d, generator=torch_generator(seed, "rows"))
    along = states @ axes
    clean = along[:, 0] + along[:, 1] * along[:, 2] + 0.5 * along[:, 3].square() - 0.5 * along[:, 4].square()
    return states, clean + 0.25 * clean.std() * torch.randn(n, generator=torch_generator(seed, "noise"))


def large(who: str, n: int, d: int, new: int, centres: int, leaf: int) -> dict[str, float | str]:
    """One program on many rows: seconds, R² of new rows, greatest memory of this process in GB."""
    torch.set_num_threads(THREADS)
    states, targets = planted(n + new, d, 0)
    start = time.perf_counter()
    if who == "ours":
        spec = RFMSpec(bandwidth=10.0, ridge=1e-2, iterations=5)
        machine = nystrom.fit(spec, states[:n], targets[:n], centres=centres)
        said, predicted = machine.outcome, machine.predict(states[n:])[:, 0]
    else:
        from xrfm import xRFM

        parameters = {
            "model": {"kernel": "l2_high_dim", "bandwidth": 10.0, "exponent": 1.0, "diag": False, "bandwidth_mode": "constant"},
            "fit": {"reg": 1e-2, "iters": 5, "early_stop_rfm": False, "verbose": False},
        }
        model = xRFM(parameters, max_leaf_size=leaf, device="cpu", tuning_metric="mse", verbose=False, random_state=0)
        held = n // 10
        model.fit(states[: n - held], targets[: n - held, None], states[n - held : n], targets[n - held : n, None])
        said, predicted = "solved", torch.as_tensor(np.asarray(model.predict(states[n:]))).reshape(-1)
    took = time.perf_counter() - start
    wanted = targets[n:]
    r2 = 1 - float((predicted - wanted).square().mean() / wanted.var())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": took, "r2": r2, "gb": memory, "outcome": said}


def alone(who: str, size: Size) -> dict[str, float]:
    """`large` in a process of its own."""
    sizes = (size.of(ROWS, 600), size.of(DIMENSIONS, 20), size.of(NEW, 100), size.of(CENTRES, 100), size.of(LEAF, 300))
    command = [sys.executable, str(Path(__file__).resolve()), "--large", who, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who}, many rows: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(size: Size) -> Results:
    subject = ss.load("smollm2")
    at = "resid:*" if size.full else "resid:20,resid:24"
    case = facts(size.data)
    captured = {"facts": ss.capture(subject, case.examples, at=at, positions=case.positions)}
    captured |= {pack: ss.capture(subject, ss.concept(pack), at=at, positions="last") for pack in PACKS[: size.of(len(PACKS), 1)]}
    rows = {name: Ordered.of(acts) for name, acts in captured.items()}
    timed = Split.of(rows["facts"], 0, (FIT, HELD))
    times = paired(lambda: ours(timed), lambda: theirs(timed), size.of(3, 1))
    table, differences = [], []
    for name, these in rows.items():
        n = len(these.labels)
        sizes = (FIT, HELD) if name == "facts" else (n * 6 // 10, n * 2 // 10)
        for seed in range(size.of(3, 1)):
            split = Split.of(these, seed, sizes)
            one, other = ours(split), theirs(split)
            differences.append(float((one - other).mean()))
            table.append((name, seed, sizes[0], float(one.mean()), float(other.mean()), differences[-1]))
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else 0.0
    mean = float(np.mean(differences))
    figures = {who: alone(who, size) for who in ("ours", "xrfm")}
    mine, peer = figures["ours"], figures["xrfm"]
    many = f"RFM on {size.of(ROWS, 600)} rows of {size.of(DIMENSIONS, 20)} dimensions"
    sites = len(timed.states[0])
    return Results(
        f"{sites} sites, {FIT} rows to fit and {HELD} to choose by (facts that others wrote; SmolLM2-135M-Instruct, "
        f"last token), six configurations, {UPDATES} updates; AUROC on further rows, of these and of {len(rows) - 1} packs.",
        (
            times.line("RFM at all sites / xRFM, the same configurations, early stopping off", 0.4),
            Line(
                "AUROC, ours − xRFM: mean over sites, splits and data",
                mean,
                mean - 2 * error,
                mean + 2 * error,
                len(differences),
                least=-0.003,
                range_of="± 2 standard errors over splits",
            ),
            Line(f"{many}: greatest memory", mine["gb"], unit="GB", most=LIMIT),
            Line(f"{many}: seconds", mine["seconds"], unit="s", note=f"{CENTRES} centres, {mine['outcome']}"),
            Line(f"{many}: R² on new rows", mine["r2"]),
            Line("xRFM on the same rows: greatest memory", peer["gb"], unit="GB", note=f"leaves of at most {LEAF} rows"),
            Line("xRFM on the same rows: seconds", peer["seconds"], unit="s"),
            Line("xRFM on the same rows: R² on new rows", peer["r2"]),
        ),
        (Table("Held-out AUROC, mean over sites", ("data", "split", "rows", "ours", "xRFM", "difference"), tuple(table)),),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        print(json.dumps(large(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        main("rfm", run, __doc__ or "")
