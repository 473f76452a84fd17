"""Recursive feature machines at 50,000 rows of 576 dimensions beside xRFM 0.4.5: memory, time and R².

The targets are a planted function of five directions with noise of .25 of its spread. Ours is `nystrom` with 2,000 centres. xRFM
has no centres: it grows a tree, and each leaf is a dense machine, here of at most 4,000 rows. Its default finds the direction of
a split by a dense machine on up to 47,500 of the rows, a matrix of 7 GB and more at the root: it had 14.9 GB resident and had not
ended after five minutes. So that it can stand here at all, its splits are along principal components (`random_pca`), one of its
own options, and a default xRFM may well predict better. Five updates in both, early stopping off; xRFM keeps a tenth of the rows
to choose its iterate by, ours fits them all and takes the last. Time, R² on 5,000 rows and the greatest memory of each program,
data and libraries included, each in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import THREADS, Line, Results, Size, main, peak_gb
from strandscope.provenance import torch_generator
from strandscope.strand import nystrom
from strandscope.strand.rfm_spec import RFMSpec

ROWS, DIMENSIONS, NEW, CENTRES, LEAF, RANK = 50_000, 576, 5_000, 2_000, 4_000, 5
LIMIT = 4.0  # GB


def planted(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normal states and a sum of linear and quadratic functions of five directions, with noise."""
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
        model = xRFM(
            parameters,
            max_leaf_size=leaf,
            split_method="random_pca",
            device="cpu",
            tuning_metric="mse",
            verbose=False,
            random_state=0,
        )
        held = n // 10
        model.fit(states[: n - held], targets[: n - held, None], states[n - held : n], targets[n - held : n, None])
        said, predicted = "solved", torch.as_tensor(np.asarray(model.predict(states[n:]))).reshape(-1)
    took = time.perf_counter() - start
    wanted = targets[n:]
    r2 = 1 - float((predicted - wanted).square().mean() / wanted.var())
    return {"seconds": took, "r2": r2, "gb": peak_gb(), "outcome": said}


def alone(who: str, size: Size) -> dict[str, float]:
    """`large` in a process of its own."""
    sizes = (size.of(ROWS, 600), size.of(DIMENSIONS, 20), size.of(NEW, 100), size.of(CENTRES, 100), size.of(LEAF, 300))
    command = [sys.executable, str(Path(__file__).resolve()), "--large", who, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who}, many rows: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(size: Size) -> Results:
    figures = {who: alone(who, size) for who in ("ours", "xrfm")}
    mine, peer = figures["ours"], figures["xrfm"]
    solved = f"{size.of(CENTRES, 100):,} centres, {mine['outcome']}"
    return Results(
        f"{size.of(ROWS, 600):,} rows of {size.of(DIMENSIONS, 20)} dimensions, five updates; R² on {size.of(NEW, 100):,} "
        "further rows.",
        (
            Line("RFM on centres: greatest memory", mine["gb"], unit="GB", most=LIMIT),
            Line("RFM on centres: seconds", mine["seconds"], unit="s", note=solved),
            Line("RFM on centres: R² on new rows", mine["r2"]),
            Line(
                "xRFM: greatest memory",
                peer["gb"],
                unit="GB",
                note=f"leaves of at most {size.of(LEAF, 300):,} rows, splits by `random_pca`",
            ),
            Line("xRFM: seconds", peer["seconds"], unit="s"),
            Line("xRFM: R² on new rows", peer["r2"]),
        ),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        print(json.dumps(large(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        main("many", run, __doc__ or "")
