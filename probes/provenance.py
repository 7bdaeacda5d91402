"""Provenance of results: versions of packages, and the command."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["command_line", "versions"]

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "timm", "torchvision", "repanalysis")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, where they are installed.

    Examples
    --------
    >>> sorted(versions())[:2]
    ['h5py', 'numpy']
    """
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def command_line() -> str:
    """The command, if this process was started as `repanalysis` or `python -m repanalysis.cli`; else empty."""
    program = Path(sys.argv[0])
    ours = program.stem == "repanalysis" or program.parts[-3:] in (
        ("repanalysis", "cli", "__main__.py"),
        ("repanalysis", "cli", "__init__.py"),
    )
    return " ".join(["repanalysis", *sys.argv[1:]]) if ours else ""
