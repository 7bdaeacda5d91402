"""One thread, in order, with bounded memory; errors come out where the work was handed over."""

from __future__ import annotations

import threading
import time

import pytest

from probes.background import Background


def test_work_is_done_in_order_in_another_thread() -> None:
    done: list[tuple[int, str]] = []
    with Background(lambda item: done.append((item, threading.current_thread().name)), 10) as background:
        for item in range(50):
            background.put(item, 3)
    assert [item for item, _ in done] == list(range(50))
    assert {name for _, name in done} == {"probes-writer"}


def test_the_caller_waits_when_too_much_waits() -> None:
    gate, under_way = threading.Event(), []

    def work(item: int) -> None:
        gate.wait(10)
        under_way.append(item)

    with Background(work, 100) as background:
        background.put(0, 60)
        background.put(1, 40)
        late = threading.Thread(target=background.put, args=(2, 60))
        late.start()
        time.sleep(0.1)
        assert late.is_alive()
        gate.set()
        late.join(10)
        assert not late.is_alive()
    assert under_way == [0, 1, 2]


def test_an_item_larger_than_the_bound_is_let_in_alone() -> None:
    done: list[int] = []
    with Background(done.append, 10) as background:
        background.put(1, 1000)
        background.put(2, 1000)
    assert done == [1, 2]


def test_an_error_is_raised_in_the_caller_and_stops_the_work() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 2:
            raise OSError("disk full")
        done.append(item)

    with pytest.raises(OSError, match="disk full"), Background(work, 5) as background:
        for item in range(1000):
            background.put(item, 5)
    assert done == [0, 1]


def test_an_error_in_the_last_item_is_not_lost() -> None:
    def work(item: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Background(work, 5) as background:
        background.put(1, 1)


def test_a_block_left_by_an_error_finishes_what_was_put() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Background(done.append, 100) as background:
        background.put(1, 1)
        raise KeyboardInterrupt
    assert done == [1]


def test_the_first_error_is_told_and_the_second_noted() -> None:
    def work(item: int) -> None:
        time.sleep(0.05)
        raise OSError("disk full")

    with pytest.raises(ValueError, match="first") as caught, Background(work, 100) as background:
        background.put(1, 1)
        raise ValueError("first")
    assert caught.value.__notes__ == ["and the writing failed as well: disk full"]
