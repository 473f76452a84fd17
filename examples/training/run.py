"""Train one of the small networks and watch it: python examples/training/run.py mlp --out runs/mlp

Without --out nothing is recorded, and the losses are the same to the last bit. The loop is in loop.py; draw.py
draws a run folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))

from loop import train
from tasks import TASKS, task

from strandscope.recorder.run import read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("--out", type=Path, help="the run folder; without it nothing is recorded")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=0.05, help="share of the training time that the recorder may take")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # Mamba says at length that it runs without its own kernels
    job = task(given.name, given.steps, given.seed)
    start = perf_counter()
    losses = train(job, given.out, given.budget)
    seconds = perf_counter() - start
    print(f"{given.name}: {job.steps} steps in {seconds:.1f} s, loss {losses[0]:.3f} to {losses[-1]:.4f}")
    if given.out is not None:
        run = read_run(given.out)
        print(f"  accuracy on rows not trained on: {run.series('accuracy')[-1]}")
        print(f"  {len(run.records)} records; {run.notes[-1]}")
        for site in run.sites:
            print(f"  {site}: emerged at {run.emergence(site)}; dimension {run.records[-1].readings[f'{site}/dimension']}")
        for moved in run.spikes():
            print(f"  spike at step {moved.spike.first}, {moved.spike.height:.1f} times the loss before")


if __name__ == "__main__":
    main()
