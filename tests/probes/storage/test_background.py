"""Work in one thread, in order, with bounded memory; errors are raised in the caller, interrupts after the work is done."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from probes.storage.background import Background


def test_work_is_done_in_order_in_a_single_thread() -> None:
    finished: list[tuple[int, str]] = []
    background = Background(10)
    for item in range(50):
        background.put(lambda item: finished.append((item, threading.current_thread().name)), item, 3)
    assert background.run(len, finished) == 50
    assert [item for item, _ in finished] == list(range(50))
    assert {name for _, name in finished} == {"probes-writer_0"}
    background.end()


def test_the_caller_waits_while_the_queue_is_full() -> None:
    gate, under_way = threading.Event(), []

    def work(item: int) -> None:
        gate.wait(10)
        under_way.append(item)

    background = Background(100)
    background.put(work, 0, 60)
    background.put(work, 1, 40)
    late = threading.Thread(target=background.put, args=(work, 2, 60))
    late.start()
    time.sleep(0.1)
    assert late.is_alive()
    gate.set()
    late.join(10)
    assert not late.is_alive()
    background.run(int)
    assert under_way == [0, 1, 2]


def test_an_item_larger_than_the_bound_is_accepted_alone() -> None:
    finished: list[int] = []
    background = Background(10)
    background.put(finished.append, 1, 1000)
    background.put(finished.append, 2, 1000)
    background.run(int)
    assert finished == [1, 2]


def test_an_error_is_raised_in_the_caller_and_drops_later_work() -> None:
    finished: list[int] = []

    def work(item: int) -> None:
        if item == 2:
            raise OSError("disk full")
        finished.append(item)

    background = Background(5)
    with pytest.raises(OSError, match="disk full"):
        for item in range(1000):
            background.put(work, item, 5)
    background.run(int)
    assert finished == [0, 1]
    assert str(background.error) == "disk full"


def test_waiting_for_work_raises_its_error_and_drops_nothing() -> None:
    finished: list[int] = []
    background = Background(5)
    with pytest.raises(ZeroDivisionError):
        background.run(divmod, 1, 0)
    background.put(finished.append, 1, 1)
    background.run(int)
    assert finished == [1]
    assert background.error is None


@pytest.mark.parametrize("interrupts", [1, 2, 5])
def test_an_interrupt_waits_until_the_work_is_done(interrupts: int) -> None:
    """For any number of interrupts; the work itself is not interrupted."""
    finished: list[str] = []

    def work() -> None:
        for _ in range(interrupts):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.05)
        finished.append("all of it")

    background = Background(100)
    with pytest.raises(KeyboardInterrupt):
        background.run(work)
    assert finished == ["all of it"]


def test_errors_of_work_during_an_interrupt_are_noted() -> None:
    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.05)
        raise OSError("disk full")

    with pytest.raises(KeyboardInterrupt) as caught:
        Background(100).run(work)
    assert caught.value.__notes__ == ["and the writing failed as well: disk full"]


def test_the_queue_may_be_filled_exactly_to_the_bound() -> None:
    gate, finished = threading.Event(), []

    def work(item: int) -> None:
        gate.wait(10)
        finished.append(item)

    background = Background(100)
    for item, size in enumerate((50, 30, 20)):
        background.put(work, item, size)  # returns before any is done
    assert finished == []
    late = threading.Thread(target=background.put, args=(work, 3, 1))
    late.start()
    time.sleep(0.1)
    assert late.is_alive(), "one byte too many"
    gate.set()
    late.join(10)
    background.run(int)
    assert finished == [0, 1, 2, 3]


def test_work_receives_its_arguments_and_returns_its_result() -> None:
    background = Background(1)
    assert background.run(divmod, 17, 5) == (3, 2)
    assert background.run(int, "ff", base=16) == 255
    background.end()
    with pytest.raises(RuntimeError):
        background.put(print, 1, 1)
