"""One thread that does what it is handed, in order, while the caller goes on; what waits is bounded in bytes.

Compression, checksums and the disk overlap with the network that way, and memory does not grow when they are slower: then
the caller waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """Runs `work(item)` for every item put, in order, in a thread of its own.

    Parameters
    ----------
    work : callable
        What to do with an item.
    max_bytes : int
        What may wait; a single larger item is let in when nothing else waits.

    Notes
    -----
    An error of `work` is raised in the caller by the next `put`, or at the end of the `with` block; items after it are
    dropped. A block left by an error finishes what was put before it.

    Examples
    --------
    >>> done = []
    >>> with Background(done.append, 100) as background:
    ...     for item in range(3):
    ...         background.put(item, 60)
    >>> done
    [0, 1, 2]
    """

    def __init__(self, work: Callable[[T], object], max_bytes: int) -> None:
        self._work, self._max_bytes = work, max_bytes
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="probes-writer", daemon=True)
        self._thread.start()

    def put(self, item: T, nbytes: int) -> None:
        """Hand over an item; waits while too much is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._bytes or self._bytes + nbytes <= self._max_bytes)
            self._raise()
            self._waiting.append((item, nbytes))
            self._bytes += nbytes
            self._changed.notify_all()

    def end(self) -> None:
        """Wait until everything is done, and raise what went wrong."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                item, nbytes = self._waiting.popleft()
            try:
                self._work(item)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._waiting.clear()
                    self._bytes = 0
                    self._changed.notify_all()
                return
            del item
            with self._changed:
                self._bytes -= nbytes
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.end()
            return
        try:
            self.end()
        except BaseException as second:
            if second is not error:  # the first error is the one to tell
                error.add_note(f"and the writing failed as well: {second}")
