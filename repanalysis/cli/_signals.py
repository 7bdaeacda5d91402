"""Ctrl-C and SIGTERM: the first stops a command so that its output stays valid; the third ends the process at once."""

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
    """Raised by SIGTERM; a KeyboardInterrupt, so that it stops what Ctrl-C stops."""


class Stop:
    """The first signal that was received.

    Attributes
    ----------
    signal : int or None
        Its number. It is valid even if C code replaces the exception by another.
    reported : bool
        Whether the stop has been reported to the user.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.reported = False
        self._times = 0
        self._process = os.getpid()

    @property
    def exit_code(self) -> int:
        """The exit code of shells for a process ended by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def report(self, notes: Iterable[str] = ()) -> None:
        """Report that the command was stopped, with the notes of the exception."""
        self.reported = True
        with suppress(OSError):  # who closes stderr wants to hear nothing
            typer.echo(" ".join(["Stopped.", *notes]), err=True)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise at the first signal, so that blocks are left; ignore the second while they are left."""
        if os.getpid() != self._process:  # forked workers end at once
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
    """Handle both signals inside the block, unless they have handlers; in a nested block, yields the outer `Stop`."""
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
