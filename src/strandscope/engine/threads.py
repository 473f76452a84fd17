"""Threads of work, and pools of threads that kernels keep.

`in_thread` gives work a thread of its own that is gone when the work is done, and its pool of workers with it. GNU's OpenMP, on
which PyTorch's CPU kernels run, keeps a pool of workers for every thread that ever ran one of them. While there are more of those
than cores, all workers sleep instead of waiting for the next kernel, and every kernel pays for waking them: a network that
decodes token after token is a third slower. So whoever decodes has to be the one thread with a pool.

`one_blas` keeps NumPy's and SciPy's BLAS from using pools of their own, whose workers spin for milliseconds after each call, on
cores that PyTorch works on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """What the work gives, or raises. Who interrupts the wait leaves the work behind; it ends with the process."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            found = work()
        except BaseException as error:  # handed over, whatever it is
            done.set_exception(error)
        else:
            done.set_result(found)

    thread = threading.Thread(target=run, name="strandscope work", daemon=True)
    thread.start()
    result = done.result()
    thread.join()
    return result


def one_blas() -> Any:
    """A block in which every BLAS that was loaded at its first use works in the thread that calls it."""
    return _pools().limit(limits=1, user_api="blas")


@cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # takes 4 ms
