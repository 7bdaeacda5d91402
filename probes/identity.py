"""What identifies a run: the network's weights, and the versions of what computed with them."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["versions", "weights_sha256"]


def versions() -> dict[str, str]:
    """Versions of what computes a number: Python, torch, numpy, h5py and, where installed, timm and this package."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "h5py", "timm", "torchvision", "repanalysis"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weights_sha256(module: nn.Module) -> str:
    """Hash of every parameter and buffer of a network: name, shape, type and bytes.

    Examples
    --------
    >>> weights_sha256(nn.ReLU()) == hashlib.sha256().hexdigest()
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
