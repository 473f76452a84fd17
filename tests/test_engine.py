"""Work spread over processes: in order, one thread each, and what has not begun is dropped where one fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from strandscope.engine.processes import spread
from strandscope.engine.threads import in_thread, one_blas
from strandscope.recorder import leading
from strandscope.statistics.accumulators import outer_products


def late_first(number: int) -> tuple[int, int]:
    time.sleep(0.3 if number == 0 else 0)
    return number, os.getpid()


def threads(_: int) -> set[int]:
    import scipy.linalg
    import sklearn.metrics  # noqa: F401  # both bring libraries with threads of their own

    assert scipy.linalg
    return {torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())}


def fails_first(task: tuple[Path, int]) -> int:
    folder, number = task
    if number == 0:
        raise ValueError("the first")
    (folder / str(number)).touch()
    time.sleep(0.1)
    return number


def unpicklable(number: int) -> Callable[[], int]:
    return lambda: number


def test_results_come_in_order_from_as_many_processes() -> None:
    found = list(spread(late_first, range(6), 2))
    assert [number for number, _ in found] == list(range(6))
    assert os.getpid() not in {process for _, process in found}
    assert [process for _, process in spread(late_first, range(2), 1)] == [os.getpid()] * 2
    assert list(spread(late_first, [], 2)) == []


def test_each_process_has_one_thread_whatever_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert list(spread(threads, range(2), 2)) == [{1}, {1}]


def test_this_process_has_one_thread_while_it_works_and_its_own_again_after() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threadpool_limits(2):
            outside = threads(0)
            assert list(spread(threads, [0], 1)) == [{1}] and threads(0) == outside and torch.get_num_threads() == 2
            with pytest.raises(ValueError, match="the first"):
                list(spread(fails_first, [(Path(), 0)], 1))
            assert threads(0) == outside
    finally:
        torch.set_num_threads(before)


def test_where_one_fails_what_no_process_has_taken_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the first"):
        list(spread(fails_first, [(tmp_path, number) for number in range(100)], 2))
    assert len(list(tmp_path.iterdir())) < 20


def test_whoever_stops_listening_drops_the_rest(tmp_path: Path) -> None:
    results = spread(fails_first, [(tmp_path, number) for number in range(1, 100)], 2)
    assert next(iter(results)) == 1
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 20


def test_a_result_that_cannot_be_sent_is_an_error_at_once() -> None:
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        list(spread(unpicklable, range(2), 2))


# --- a thread of its own ---


class Interrupted(Future[Any]):
    """A wait that is interrupted at once, without a signal, which came late once and nobody knows where to."""

    def result(self, timeout: float | None = None) -> Any:
        del timeout
        raise KeyboardInterrupt


def test_work_in_a_thread_gives_what_it_gives_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    assert in_thread(lambda: threading.current_thread().name) == "strandscope work"
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 / 0)
    assert set(threading.enumerate()) <= before
    go_on = threading.Event()
    monkeypatch.setattr("strandscope.engine.threads.Future", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_thread(lambda: go_on.wait(20))
    (left,) = set(threading.enumerate()) - before  # it ends with the process, or with its work
    assert left.daemon
    go_on.set()
    left.join(20)
    assert not left.is_alive()


def blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_works_in_the_thread_that_calls_it_and_gets_its_pool_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, solve = [], leading.eigh
    monkeypatch.setattr(leading, "eigh", lambda *given, **more: seen.append(blas()) or solve(*given, **more))
    rows = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with threadpool_limits(2, user_api="blas"):
        with one_blas():
            assert blas() == {1}
        assert blas() == {2}
        for form in ("dense", "gram"):
            blocks = [outer_products(6, form, most=40) for _ in range(2)]
            for block, part in zip(blocks, rows.split(20), strict=True):
                block.update(part)
            leading.leading(blocks, 2)
        assert seen and all(one == {1} for one in seen) and blas() == {2}
