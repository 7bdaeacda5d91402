"""Patterns -> layers: which module calls of a forward pass are wanted.

Without patterns (`patterns.py` says what they are) every leaf call is wanted: every call of a module during which no
other module is called. That is the leaf of what ran, not of the module tree, so fused modules such as
`nn.MultiheadAttention`, whose children are never called, are there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from probes.errors import UsageError
from probes.patterns import Patterns, as_patterns, closest, excludes, matches, selects

__all__ = ["Selection", "head_of", "is_compiled", "types_of", "unwrap"]

_HEAD_BYTES = 128 << 20  # a classifier of 21,000 classes fits; the vocabulary of a language model does not


@dataclass
class Selection:
    """The patterns of one recording, and what they have met so far.

    Parameters
    ----------
    patterns : str or sequence of str, optional
        Wanted layers; default every leaf call.

    Raises
    ------
    UsageError
        If a regular expression can't be compiled, or the list of patterns is empty.

    Examples
    --------
    >>> selection = Selection("conv?")
    >>> selection.wants("conv1", ["Conv2d"], leaf=True), selection.wants("relu", ["ReLU"], leaf=True)
    (True, False)
    """

    patterns: Patterns = None
    met: dict[str, bool] = field(default_factory=dict, init=False)
    _hits: dict[str, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.patterns = as_patterns(self.patterns)
        self.met = dict.fromkeys(self.patterns or (), False)

    def wants(self, name: str, kinds: Sequence[str], *, leaf: bool) -> bool:
        """Whether the call `name`, of these type names, is to be recorded; remembers which patterns have matched."""
        if self.patterns is None:
            return leaf
        return selects(self._matching(name, kinds), list(self.patterns), default=leaf)

    def excludes(self, name: str, kinds: Sequence[str]) -> bool:
        """Whether a pattern with `!` matches the call `name`, of these type names."""
        return any(excludes(pattern) for pattern in self._matching(name, kinds))

    def _matching(self, name: str, kinds: Sequence[str]) -> list[str]:
        """The patterns that match a call, which are remembered."""
        if name not in self._hits:
            hits = [pattern for pattern in self.patterns or () if matches(pattern, name, kinds)]
            self.met |= dict.fromkeys(hits, True)
            self._hits[name] = hits
        return self._hits[name]

    def check(self, model: nn.Module, ran: Mapping[str, object]) -> None:
        """Raise where a pattern has matched nothing that ran; one that excludes may match a module that never runs.

        Parameters
        ----------
        model : torch.nn.Module
            The network, for the modules that never ran.
        ran : mapping
            Names of the calls of a forward pass.

        Raises
        ------
        UsageError
            With the closest pattern that would have matched, or the modules that matched but never ran.
        """
        for pattern in (pattern for pattern, met in self.met.items() if not met):
            idle = [name for name, module in model.named_modules() if name and matches(pattern, name, types_of(module))]
            if idle and excludes(pattern):
                continue
            if idle:
                raise UsageError(
                    f"Layer pattern {pattern!r} matches {idle[0]!r}, but the forward pass of {_title(model)} never calls "
                    f"that module (its parent may use its weights directly, or skip it in eval mode)."
                )
            raise UsageError(
                f"No layer of {_title(model)} matches {pattern!r}.{closest(pattern, ran)} "
                f"`repanalysis layers` lists all {len(ran)}."
            )


def types_of(module: nn.Module) -> list[str]:
    """Names of a module's class and its base classes below `nn.Module`.

    Examples
    --------
    >>> types_of(nn.ReLU6())
    ['ReLU6', 'Hardtanh']
    """
    return [base.__name__ for base in type(module).__mro__ if issubclass(base, nn.Module) and base is not nn.Module]


def _title(model: nn.Module) -> str:
    return repr(type(model).__name__)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a wrapper of torch's: `DataParallel`, `DistributedDataParallel`, `torch.compile`.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.

    Returns
    -------
    torch.nn.Module
        The network whose module paths the user knows; the same object if there is no wrapper.

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


def head_of(model: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights (K, d) and offsets (K,) of the linear layer that a network ends with; None where it ends with something else.

    The last module that holds parameters of its own, in the order of definition, is taken for the end. A head of more than
    128 MB is none.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10), nn.Softmax(dim=1))
    >>> weight, bias = head_of(net)
    >>> weight.shape, bias.shape
    ((10, 8), (10,))
    >>> head_of(net[:2]) is None
    True
    """
    last = [module for module in unwrap(model).modules() if next(module.parameters(recurse=False), None) is not None][-1:]
    if not last or not isinstance(last[0], nn.Linear) or last[0].weight.numel() * 4 > _HEAD_BYTES:
        return None
    weight, bias = last[0].weight.detach(), last[0].bias
    offsets = np.zeros(len(weight), np.float32) if bias is None else bias.detach().float().cpu().numpy()
    return weight.float().cpu().numpy(), offsets
