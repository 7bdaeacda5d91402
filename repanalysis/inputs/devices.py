"""The device of a network."""

from __future__ import annotations

import os
import warnings

import torch

from probes.errors import UsageError

__all__ = ["device_of"]


def device_of(name: str | None = None) -> str:
    """A device on which tensors can be created.

    Parameters
    ----------
    name : str, optional
        Such as "cpu", "cuda", "cuda:1" or "mps"; by default the GPU, if there is one, and under torchrun that of the process.

    Returns
    -------
    str
        The name.

    Raises
    ------
    UsageError
        If this machine has no such device, or this build of torch can't use it.

    Examples
    --------
    >>> device_of("cpu")
    'cpu'
    >>> device_of("gpu")
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: There is no device 'gpu' on this machine; it has cpu...
    """
    name = name or _default()
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.zeros(1, device=torch.device(name)).cpu()  # "meta" computes no values
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        raise UsageError(f"There is no device {name!r} on this machine; it has {', '.join(_devices())}.") from error
    return name


def _default() -> str:
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _devices() -> list[str]:
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
