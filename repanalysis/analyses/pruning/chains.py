"""How a network's layers are joined: from which filters to which the weights of each go, and where filters are seen.

Where the filters of a layer are seen is measured, not guessed: one of its channels is disturbed, and the first later layer at
whose input the same channel moves, and no other, is where they are looked at: after normalisation, nonlinearity, pooling and
shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import UsageError
from probes.patterns import Patterns, as_patterns, closest, matches, selects

__all__ = ["OUTPUT", "Link", "hooked", "links"]

OUTPUT = "(output)"
_SHOWN = 12
_TRIED = 8  # channels that are disturbed at most, until one is found that isn't dead


@dataclass(frozen=True)
class Link:
    """A layer whose weights join filters to filters.

    Attributes
    ----------
    name : str
        The convolution or linear layer.
    before : int
        Filters at its input, F.
    places : int
        Weights of a linear layer to one filter's places, where maps are flattened in front of it; 1 elsewhere.
    after : int
        Filters at its output, G.
    seen : str
        The layer at whose input its own filters are seen, or "(output)" of the network.
    """

    name: str
    before: int
    places: int
    after: int
    seen: str


def links(network: nn.Module, example: Tensor, layers: Patterns = None) -> tuple[dict[str, Link], dict[str, str]]:
    """Which layers can be pruned, and where their filters are seen.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode; it is as it was afterwards.
    example : tensor
        A few images.
    layers : str or sequence of str, optional
        Patterns of names, as for `probes.attach`, such as "*"; by default the last convolution that can be pruned and what
        comes after it, as in the paper.

    Returns
    -------
    dict of str to Link
        In order of execution: convolutions without groups and linear layers on vectors, but not the one that takes the image.
    dict of str to str
        Layers that were left out, and why.

    Raises
    ------
    UsageError
        If no layer is meant.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    >>> found, _ = links(net.eval(), torch.rand(2, 1, 6, 6))
    >>> [(one.name, one.before, one.places, one.after, one.seen) for one in found.values()]
    [('2', 4, 1, 5, '5'), ('5', 5, 4, 2, '(output)')]
    """
    inputs, output = _run(network, example)
    modules = dict(network.named_modules())
    names = list(inputs)
    selected = _wanted(modules, names, layers)
    seen: dict[str, str] = {}
    skipped: dict[str, str] = {}
    filters = {name: _width(modules[name]) for name in names}
    for index, name in reversed(list(enumerate(names))):
        if place := _where(network, name, names[index + 1 :], inputs, output, example):
            seen[name] = place
        why = _unfit(modules[name], inputs[name]) or ("" if place else "its filters are not seen at any later layer's input")
        if why and index:
            skipped[name] = why
        elif layers is None and isinstance(modules[name], nn.Conv2d):
            break
    flattened = {to: filters[name] for name, to in seen.items() if isinstance(modules.get(to), nn.Linear)}
    chain = {}
    for name in selected:
        if name in skipped or name not in seen or name == names[0]:
            continue
        module: Any = modules[name]
        entering = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
        before = flattened.get(name, entering)
        chain[name] = Link(name, before, entering // before, filters[name], seen[name])
    if not chain:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise UsageError(f"None of the layers can be pruned ({reasons or 'only the first is meant, which takes the image'}).")
    return chain, {} if layers is None else {name: why for name, why in skipped.items() if name in selected}


def _wanted(modules: Mapping[str, nn.Module], names: Sequence[str], layers: Patterns) -> list[str]:
    """Names that the patterns choose."""
    patterns = as_patterns(layers) or ["*"]
    kinds = {name: [kind.__name__ for kind in type(modules[name]).__mro__] for name in names}
    shown = ", ".join(names if len(names) <= _SHOWN else [*names[:2], "...", *names[-_SHOWN + 2 :]])
    for pattern in patterns:
        if not any(matches(pattern, name, kinds[name]) for name in names):
            raise UsageError(f"No convolution or linear layer matches {pattern!r}.{closest(pattern, names)} It has {shown}.")
    return [
        name for name in names if selects([pattern for pattern in patterns if matches(pattern, name, kinds[name])], patterns)
    ]


def _unfit(module: Any, x: Tensor) -> str:
    """Why a layer can't be pruned, if it can't."""
    if isinstance(module, nn.Conv2d):
        return "its channels come in groups" if module.groups > 1 else ""
    return "" if x.ndim == 2 else "it works on tokens"


def _width(module: Any) -> int:
    return int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))


def _run(network: nn.Module, example: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What enters each convolution and linear layer, in order of execution, and what the network says."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs.setdefault(name, args[0].detach().clone())

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in _weighted(network)]
    with hooked(handles), torch.no_grad():
        output = network(example)
    return inputs, output


def _where(  # noqa: PLR0917  # one call, above
    network: nn.Module, name: str, later: Sequence[str], inputs: Mapping[str, Tensor], output: Tensor, example: Tensor
) -> str:
    """The first later layer where one channel of this one, and no other, is seen to move."""
    module = network.get_submodule(name)
    width = _width(module)
    if inputs[name].ndim not in (2, 4):
        return ""
    fit = [candidate for candidate in later if inputs[candidate].ndim in (2, 4) and inputs[candidate].shape[1] % width == 0]
    generator = torch.Generator().manual_seed(0)
    for channel in range(min(_TRIED, width)):

        def disturb(_: nn.Module, __: Any, output: Tensor, channel: int = channel) -> Tensor:
            output = output.clone()
            own = output[:, channel]
            sign = torch.where(torch.rand(own.shape, generator=generator) < 0.5, -1.0, 1.0).to(output.device)
            output[:, channel] = own + sign * 10 * (output.abs().mean() + 1)
            return output

        with hooked([module.register_forward_hook(disturb)]):
            moved, result = _run(network, example)
        for candidate in [*fit, OUTPUT]:
            change = (result - output) if candidate == OUTPUT else moved[candidate] - inputs[candidate]
            if change.ndim not in (2, 4) or change.shape[1] % width:
                continue
            per = change.abs().reshape(len(change), width, -1).amax((0, 2))
            if per[channel] > 0 and int((per > 0).sum()) == 1 and (change.ndim == 2 or change.shape[1] == width):
                return candidate
    return ""


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Take hooks away at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
