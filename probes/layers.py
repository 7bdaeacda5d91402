"""Patterns -> layers: which module calls of a forward pass are wanted, and what their outputs' axes mean.

Without patterns (`patterns.py` says what they are) every leaf call is wanted: every call of a module during which no
other module is called. That is the leaf of what ran, not of the module tree, so fused modules such as
`nn.MultiheadAttention`, whose children are never called, are there too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from probes.errors import UsageError
from probes.patterns import Patterns, as_patterns, closest, matches

__all__ = ["Selection", "axes", "unwrap"]

_CHANNEL_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention)
_CHANNEL_FIRST = re.compile(r"(Conv|Norm|Pool|Upsample|Dropout|PReLU).*[123]d|GroupNorm|PixelShuffle")
_SPATIAL = {1: ("width",), 2: ("height", "width"), 3: ("time", "height", "width")}


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
    >>> selection.wants("conv1", nn.Conv2d(1, 1, 1), leaf=True), selection.wants("relu", nn.ReLU(), leaf=True)
    (True, False)
    """

    patterns: Patterns = None
    met: dict[str, bool] = field(default_factory=dict, init=False)
    _decided: dict[str, bool] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.patterns = as_patterns(self.patterns)
        self.met = dict.fromkeys(self.patterns or (), False)

    def wants(self, name: str, module: nn.Module, *, leaf: bool) -> bool:
        """Whether the call `name` of `module` is to be recorded; remembers which patterns have matched."""
        if self.patterns is None:
            return leaf
        if name not in self._decided:
            hits = [pattern for pattern in self.patterns if matches(pattern, name, _types(module))]
            self.met |= dict.fromkeys(hits, True)
            self._decided[name] = bool(hits)
        return self._decided[name]

    def check(self, model: nn.Module, ran: Mapping[str, object]) -> None:
        """Raise where a pattern has matched nothing that ran.

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
            idle = [name for name, module in model.named_modules() if name and matches(pattern, name, _types(module))]
            if idle:
                raise UsageError(
                    f"Layer pattern {pattern!r} matches {idle[0]!r}, but the forward pass of {_title(model)} never calls "
                    f"that module (its parent may use its weights directly, or skip it in eval mode)."
                )
            raise UsageError(
                f"No layer of {_title(model)} matches {pattern!r}.{closest(pattern, ran)} "
                f"`repanalysis layers` lists all {len(ran)}."
            )


def _types(module: nn.Module) -> list[str]:
    """Names of the module's class and its base classes below `nn.Module`."""
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


def axes(module: nn.Module, output: Tensor, known: dict[tuple[int, ...], tuple[str, ...]]) -> tuple[str, ...]:
    """Names of an output's axes, from the module's kind, or from what had the same shape before it.

    Parameters
    ----------
    module : torch.nn.Module
        The module that returned `output`.
    output : torch.Tensor
        Its output, samples first.
    known : dict
        Axes by shape, so far in this forward pass; the function adds what it finds.

    Returns
    -------
    tuple of str
        `("sample", "channel", "height", "width")` for maps, `("sample", "token", "channel")` for tokens, and so on.
        Convolutions, pooling and batch norm put channels first, linear layers and layer norm last; an element-wise
        module inherits; what remains is read as a map (4 and 5 axes) or as tokens (3 axes).

    Examples
    --------
    >>> import torch
    >>> axes(nn.Linear(2, 2), torch.zeros(1, 7, 7, 2), {})
    ('sample', 'height', 'width', 'channel')
    """
    shape, inner = tuple(output.shape[1:]), output.ndim - 2
    if inner not in _SPATIAL:
        return ("sample", "channel", *(f"axis{axis}" for axis in range(2, output.ndim)))[: output.ndim]
    first = ("sample", "channel", *_SPATIAL[inner])
    last = ("sample", "token", "channel") if inner == 1 else ("sample", *_SPATIAL[inner], "channel")
    if _CHANNEL_FIRST.search(type(module).__name__):
        known[shape] = first
    elif isinstance(module, _CHANNEL_LAST) or (inner == 2 and getattr(module, "dims", None) == [0, 2, 3, 1]):
        known[shape] = last
    return known.get(shape, last if inner == 1 else first)
