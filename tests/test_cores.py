"""BLAS is held to the number of threads that is asked for, by however many threads of ours."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from bigcluster.runtime.blas import blas_threads


def blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_nested_and_restored():
    before = blas()
    with blas_threads(1):
        assert blas() == {1}
        with blas_threads(1):
            assert blas() == {1}
        assert blas() == {1}
    with blas_threads(2):
        assert blas() == {2}
    assert blas() == before


def test_overlapping_threads_do_not_restore_under_each_other():
    before = blas()
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with blas_threads(1):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with blas_threads(1):
        leave.set()
        thread.join()  # it set the limit, and it leaves first
        assert blas() == {1}
    assert blas() == before


def test_another_number_waits():
    held, order = threading.Event(), []

    def two() -> None:
        held.wait()
        with blas_threads(2):
            order.append(("two", blas()))

    thread = threading.Thread(target=two)
    thread.start()
    with blas_threads(1):
        held.set()
        thread.join(timeout=0.2)
        order.append(("one", blas()))
    thread.join()
    assert order == [("one", {1}), ("two", {2})]


def test_one_thread_cannot_ask_for_two_numbers():
    with blas_threads(1), pytest.raises(RuntimeError, match="wait forever"), blas_threads(2):
        pass
    assert np.eye(2).sum() == 2
    with blas_threads(2):
        assert blas() == {2}
