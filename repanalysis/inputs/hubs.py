"""Weights from hubs, cached or downloaded; if a hub can't be reached, a sentence within seconds.

The libraries that download retry for minutes. Therefore one request tests whether the hub answers; if not, only the cache is
used.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from threading import Thread
from unittest.mock import patch
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from probes.errors import UsageError

__all__ = ["download", "is_reachable"]

_SECONDS = 5.0


@contextmanager
def download(spec: str, hub: str | None, *, instead: str, cached: bool = True) -> Iterator[None]:
    """Convert every failure of a download, from any library, to one sentence.

    Parameters
    ----------
    spec : str
        The model.
    hub : str or None
        Address to test; None if nothing is downloaded.
    instead : str
        Advice if the hub can't be reached.
    cached : bool, default True
        Whether the cache may be used if the hub can't be reached.

    Raises
    ------
    UsageError
        With address, reason and advice.
    """
    unreachable = hub is not None and not is_reachable(hub)
    try:
        if unreachable and not cached:
            raise OSError
        with _offline(unreachable):
            yield
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        reason = f"{hub} can't be reached" if unreachable else f"{type(error).__name__}: {first}"
        raise UsageError(f"The weights of {spec} could not be had ({reason}). {instead}") from error


def is_reachable(address: str, *, seconds: float = _SECONDS) -> bool:
    """Whether an address answers, through the proxies of the environment."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=seconds):
                answers.append(True)
        except HTTPError:
            answers.append(True)
        except URLError as error:
            answers.append(isinstance(error.reason, ssl.SSLError))  # other libraries know other certificates
        except (OSError, ValueError, HTTPException):
            answers.append(False)

    thread = Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(seconds + 1)
    return answers == [True]


@contextmanager
def _offline(unreachable: bool) -> Iterator[None]:  # noqa: FBT001  # one call, above
    """Stop libraries from retrying."""
    if not unreachable:
        yield
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        with patch("huggingface_hub.constants.HF_HUB_OFFLINE", new=True):
            yield
    finally:
        socket.setdefaulttimeout(before)
