"""Recording of functional calls, such as `F.relu`, `+` and `torch.cat`, during a normal forward pass.

Torch's function mode intercepts every function that is called on tensors. Nothing is traced, so control flow works. An
operation is named after the module whose `forward` calls it: `layer1.0.add`, `layer1.0.relu_1`; an operation called by the
network itself is `add`. Operations inside torch's own leaf modules (the `F.relu` of `nn.ReLU`) are not recorded.

Nor are operations that compute nothing (views, copies, casts) or a single number for all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Listener", "Operations", "operation_name"]

_CASTS = {"to", "float", "half", "double", "bfloat16", "type", "type_as", "cpu", "cuda"}
_COPIES = {"clone", "contiguous", "detach", "copy", "deepcopy", "reduce_ex", "requires_grad", "set", "resize", "get", "setitem"}
_NEW = {f"{value}_like" for value in ("zeros", "ones", "empty", "full", "rand", "randn")}
_NO_COMPUTATION = _CASTS | _COPIES | _NEW | {f"new_{value}" for value in ("zeros", "ones", "empty", "full", "tensor")}
_IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "matmul", "pow", "mod", "and", "or", "xor")


class Listener(Protocol):
    """Receives each functional call."""

    def listens(self) -> bool:
        """Whether the next operation is to be reported."""

    def operation(self, name: str, output: object) -> None:
        """Receive an operation's name and output."""


def operation_name(function: Callable[..., Any]) -> str:
    """Name of an operation: `torch.add`, `x.add_` and `x += 1` are all `add`.

    Examples
    --------
    >>> import torch
    >>> [operation_name(f) for f in (torch.add, Tensor.add_, Tensor.__iadd__, Tensor.__rsub__, torch.nn.functional.relu)]
    ['add', 'add', 'add', 'sub', 'relu']
    """
    name = getattr(function, "__name__", "operation").strip("_")
    for prefix in ("i", "r"):
        if name.removeprefix(prefix) in _IN_PLACE and name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def is_opaque(module: nn.Module) -> bool:
    """Whether operations inside a module are not recorded: a leaf module of torch's own, or its fused attention."""
    own = type(module).__module__.startswith("torch.nn")
    return own and (isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None)


class Operations(TorchFunctionMode):
    """Function mode that reports to a listener every operation that computes new values.

    Parameters
    ----------
    listener : Listener
        The recording.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, then report it to the listener."""
        kwargs = kwargs or {}
        if not self._listener.listens():
            return func(*args, **kwargs)
        name = operation_name(func)
        if name in _NO_COMPUTATION:
            return func(*args, **kwargs)
        inputs = [(tensor, _version(tensor)) for tensor in _tensors((*args, *kwargs.values()))]
        output = func(*args, **kwargs)
        if inputs:
            parts = output if isinstance(output, tuple | list) else (output,)
            if any(_computed(part, inputs) for part in parts):
                self._listener.operation(name, output)
        return output


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _computed(output: object, inputs: list[tuple[Tensor, int]]) -> bool:
    """Whether an output is a floating-point tensor with at least one axis that holds newly computed values."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.ndim:
        return False
    return not _is_view(output, inputs)


def _is_view(output: Tensor, inputs: list[tuple[Tensor, int]]) -> bool:
    """Whether an output shares an input's memory and the operation did not change it."""
    if output.layout != inputs[0][0].layout or output.is_meta:
        return False
    storage = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == storage and _version(tensor) == before for tensor, before in inputs)
