"""One thread does all work on a file, in order, so that an interrupt never arrives in the middle of a write.

Python raises `KeyboardInterrupt`, and any exception of a signal handler, in the main thread between any two of its bytecodes:
also inside the functions through which HDF5 reads and writes, and while it waits for another thread. So the main thread only
hands over work and waits for it. Compression, checksums and disk writes then overlap with the network. When they are slower
than the network, the caller waits, so that memory stays bounded.
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
    """A thread that runs submitted calls in order.

    Parameters
    ----------
    max_bytes : int
        Largest total size of the items that wait. A single larger item is accepted when no other waits.

    Attributes
    ----------
    error : BaseException or None
        The first exception of a call that was `put`; later items are dropped.

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
        """Submit `work(item)` without waiting for its result.

        Waits while the items that wait exceed `max_bytes`. Raises the first exception of an earlier call.
        """
        while self._pending and (
            self._pending[0][0].done() or sum(size for _, size in self._pending) + nbytes > self._max_bytes
        ):
            wait((self._pending[0][0],))
            self._pending.popleft()
        if self.error is not None:
            raise self.error
        self._pending.append((self._executor.submit(self._try, work, item), nbytes))

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` after all submitted calls and return its result; an interrupt is raised once it has returned."""
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
        """Accept no more work; the thread ends after its last call."""
        self._executor.shutdown(wait=False)

    def _try(self, work: Callable[[T], object], item: T) -> None:
        if self.error is None:
            try:
                work(item)
            except BaseException as error:
                self.error = error
