"""Hashes that identify a network's weights and the function that was run; unwrapping; the final linear layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from sysconfig import get_path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from probes.errors import UsageError

__all__ = ["description_of", "final_linear", "is_compiled", "unwrap", "weights_sha256"]


def weights_sha256(module: nn.Module) -> str:
    """Hash of every parameter and buffer of a network: name, shape, type and bytes.

    Examples
    --------
    >>> weights_sha256(nn.ReLU()) == hashlib.sha256().hexdigest()
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        _add_array(digest, name, value)
    return digest.hexdigest()


def description_of(function: Callable[..., Any] | None) -> str:
    """A function's name and a hash of everything that determines its result: code, defaults and the objects it refers to.

    Networks and tensors are hashed by their values, functions by their code, libraries by their names. Objects of other
    classes can't be hashed; the description lists them, since two such objects can't be distinguished.

    Parameters
    ----------
    function : callable, optional
        The function that ran in place of a network.

    Returns
    -------
    str
        Empty for None.

    Examples
    --------
    >>> double, triple = (lambda x: 2 * x), (lambda x: 3 * x)
    >>> description_of(double) == description_of(triple), description_of(None)
    (False, '')
    """
    if function is None:
        return ""
    parts = _Parts()
    parts.add(function)
    called = function.func if isinstance(function, partial) else function
    name = f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', type(called).__qualname__)}"
    text = f"{name} sha256 {parts.digest.hexdigest()[:16]}"
    return text if not parts.unread else f"{text}, not told apart by {', '.join(sorted(parts.unread))}"


class _Parts:
    """Hashes the values that determine a function's result."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.unread: set[str] = set()
        self._seen: dict[int, tuple[int, Any]] = {}  # keeps the objects alive, so that no other object gets their id

    def add(self, value: Any, name: str = "") -> None:
        """Hash a value; functions with everything that they refer to."""
        self._update(f"{name}={type(value).__qualname__}")
        if isinstance(value, str | bytes | int | float | complex | None):
            self._update(repr(value))
            return
        if id(value) in self._seen:
            self._update(f"again {self._seen[id(value)][0]}")
            return
        self._seen[id(value)] = len(self._seen), value
        if isinstance(value, nn.Module):
            self._update(weights_sha256(value) + repr(value))
        elif isinstance(value, torch.Tensor | np.ndarray | np.generic):
            _add_array(self.digest, name, torch.as_tensor(value))
        elif isinstance(value, _NAMED) or (isinstance(value, FunctionType) and _is_installed(value)):
            self._update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}")
        elif (inner := _inside(value)) is not None:
            for key, item in inner:
                self.add(item, key)
        else:
            self.unread.add(f"{name or 'an object'} ({type(value).__qualname__})")

    def _update(self, text: str) -> None:
        self.digest.update(text.encode() + b"\0")


_NAMED = ModuleType | type | BuiltinFunctionType | torch.dtype | torch.device


def _inside(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a value with their names; None if the value can't be taken apart."""
    match value:
        case tuple() | list():
            return [("", item) for item in value]
        case set() | frozenset():
            return [("", item) for item in sorted(value, key=repr)]
        case dict():
            return [(repr(key), item) for key, item in value.items()]
        case MethodType():
            parts = {"function": value.__func__, "self": value.__self__}
        case partial():
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        case CodeType():
            parts = {name: getattr(value, name) for name in ("co_code", "co_names", "co_varnames", "co_consts")}
        case FunctionType(__code__=code):
            parts = {name: getattr(value, name) for name in ("__code__", "__defaults__", "__kwdefaults__")}
            parts |= zip(code.co_freevars, (_content(cell) for cell in value.__closure__ or ()), strict=True)
            parts |= {name: value.__globals__[name] for name in sorted(_names(code) & value.__globals__.keys())}
        case _:
            return None
    return list(parts.items())


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_installed(function: FunctionType) -> bool:
    """Whether a function belongs to Python or an installed package, whose version the provenance records."""
    file = Path(function.__code__.co_filename)
    return "site-packages" in file.parts or file.is_relative_to(get_path("stdlib"))


def _names(code: CodeType) -> set[str]:
    """Global names that code and its inner functions may look up."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _add_array(digest: Any, name: str, value: torch.Tensor) -> None:
    digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


_HEAD_BYTES = 128 << 20  # a classifier of 21,000 classes fits; the vocabulary of a language model does not


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a wrapper of torch's: `DataParallel`, `DistributedDataParallel`, `torch.compile`.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.

    Returns
    -------
    torch.nn.Module
        The network inside all wrappers; the same object if there is no wrapper.

    Raises
    ------
    UsageError
        If the network is scripted: hooks do not run inside TorchScript.

    Examples
    --------
    >>> net = nn.ReLU()
    >>> unwrap(nn.DataParallel(net)) is net
    True
    """
    from torch.jit import ScriptModule

    while True:
        if isinstance(model, ScriptModule):
            raise UsageError("The model is scripted (TorchScript), where hooks do not run. Give the Python model instead.")
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether some module of a network runs through `torch.compile`."""
    return any(
        isinstance(getattr(module, "_orig_mod", None), nn.Module) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def final_linear(model: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights (K, d) and offsets (K,) of a network's final linear layer, or None.

    The last module with parameters of its own, in the order of definition, counts as final. The result is None if it is not
    linear or its weights exceed 128 MB.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10), nn.Softmax(dim=1))
    >>> weight, bias = final_linear(net)
    >>> weight.shape, bias.shape
    ((10, 8), (10,))
    >>> final_linear(net[:2]) is None
    True
    """
    last = [module for module in unwrap(model).modules() if next(module.parameters(recurse=False), None) is not None][-1:]
    if not last or not isinstance(last[0], nn.Linear) or last[0].weight.numel() * 4 > _HEAD_BYTES:
        return None
    weight, bias = last[0].weight.detach(), last[0].bias
    offsets = np.zeros(len(weight), np.float32) if bias is None else bias.detach().float().cpu().numpy()
    return weight.float().cpu().numpy(), offsets
