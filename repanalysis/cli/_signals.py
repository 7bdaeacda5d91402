"""Ctrl-C and SIGTERM: the first stops a verb in order, so that what it writes is whole; the third ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

__all__ = ["Stop", "Terminated", "stoppable"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = b"\nStopping: what was computed is being written. Once more ends this at once, and loses what is not committed.\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: whatever ends on Ctrl-C ends."""


class Stop:
    """The signal that has come first.

    Attributes
    ----------
    signal : int or None
        Its number. It counts whatever becomes of the exception, which C code may turn into another.
    reported : bool
        Whether the user has been told that it stopped the verb.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.reported = False
        self._times = 0
        self._process = os.getpid()

    @property
    def exit_code(self) -> int:
        """What shells say of a process that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def report(self, notes: Iterable[str] = ()) -> None:
        """Say that the verb was stopped, and what was noted on the way out."""
        self.reported = True
        with suppress(OSError):  # who closes stderr wants to hear nothing
            typer.echo(" ".join(["Stopped.", *notes]), err=True)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise at the first signal, so that blocks are left; let them be left at the second."""
        if os.getpid() != self._process:  # a forked worker is not asked to stop in order
            _end_by(number)
            return
        self._times += 1
        if self._times == 1:
            self.signal = number
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self._times == 2:
            if not self.reported:
                os.write(2, _AGAIN)
        else:
            _end_by(number)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle both signals inside the block, where nobody has said how already; within such a block, its `Stop`."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(outer := getattr(handler, "__self__", None), Stop):
        yield outer
        return
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    mine = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    try:
        for number in mine:
            signal.signal(number, stop.handle)
        yield stop
    finally:
        for number in mine:
            signal.signal(number, before[number])
