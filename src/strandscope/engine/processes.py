"""One function over many tasks: one after the other in this process, or spread over several.

Results come in the order of the tasks. Each process works with one thread, torch's and that of every other library, so that
figures do not depend on how many processes there are, and processes do not fight for cores. Where a task fails, its error is
raised here, tasks that no process has taken are dropped, and those that are running are waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


def spread(work: Callable[[Task], Done], tasks: Sequence[Task], jobs: int) -> Iterator[Done]:
    """What `work` makes of each task, in order.

    Args:
        work: of more than one process: a function that stands in a module; tasks and results are pickled.
        jobs: processes; 1 stays in this one.
    """
    if jobs == 1:
        with one_thread():
            yield from map(work, tasks)
        return
    with ProcessPoolExecutor(min(jobs, max(len(tasks), 1)), get_context("spawn"), _begin) as pool:
        waiting = [pool.submit(work, task) for task in tasks]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """This process with one thread, inside the block."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)


def _begin() -> None:
    """A new process: what is loaded from here on reads the variables, what is loaded already is told."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    torch.set_num_threads(1)
