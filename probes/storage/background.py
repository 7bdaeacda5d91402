"""One thread that does everything with a file, in order: interrupts arrive in the main thread, never in the middle of a write.

Python raises `KeyboardInterrupt`, and whatever else a signal's handler raises, in the main thread, between any two steps of it:
also inside the functions through which HDF5 reads and writes, and while it waits for another thread. Here the caller only
hands work over and waits for it. Compression, checksums and the disk overlap with the network that way, and memory
does not grow when they are slower: then the caller waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

__all__ = ["Background"]

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """A thread that works through what it is handed, in order.

    Parameters
    ----------
    max_bytes : int
        What may wait; a single larger item is let in when nothing else waits.

    Attributes
    ----------
    error : BaseException or None
        The first failure of what was `put`; items after it are dropped.

    Examples
    --------
    >>> done = []
    >>> background = Background(100)
    >>> for item in range(3):
    ...     background.put(done.append, item, 60)
    >>> background.run(len, done)
    3
    >>> background.end()
    """

    def __init__(self, max_bytes: int) -> None:
        self.error: BaseException | None = None
        self._max_bytes = max_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="probes-writer")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self.run(int)  # starts the thread: an executor that is interrupted while it starts one would start a second

    def put(self, work: Callable[[T], object], item: T, nbytes: int) -> None:
        """Hand over `work(item)` and go on; waits while too much is under way, and raises what went wrong before."""
        while self._pending and (
            self._pending[0][0].done() or sum(size for _, size in self._pending) + nbytes > self._max_bytes
        ):
            wait((self._pending[0][0],))
            self._pending.popleft()
        if self.error is not None:
            raise self.error
        self._pending.append((self._executor.submit(self._try, work, item), nbytes))

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` after everything that was handed over, and return what it returns; an interrupt waits until it is done."""
        future = self._executor.submit(work, *args, **kwargs)
        interrupt: BaseException | None = None
        while not future.done():
            try:
                wait((future,))
            except BaseException as error:
                interrupt = interrupt or error
        if interrupt is not None:
            if (failure := future.exception()) is not None:
                interrupt.add_note(f"and the writing failed as well: {failure}")
            raise interrupt
        return future.result()

    def end(self) -> None:
        """No more work comes."""
        self._executor.shutdown(wait=False)

    def _try(self, work: Callable[[T], object], item: T) -> None:
        if self.error is None:
            try:
                work(item)
            except BaseException as error:
                self.error = error
