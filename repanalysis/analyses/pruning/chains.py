"""The chain of a network's layers: which filters the weights of a layer connect, and where its filters are observed.

The filters of a layer are observed at the input of a later layer, after normalisation, nonlinearity, pooling and shortcuts.
That layer is measured, not guessed: one channel is perturbed, and the first later layer at whose input this channel changes,
and no other, is the one.
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
_MAX_NAMES = 12  # layers that an error lists
_MAX_CHANNELS = 8  # channels to perturb until one is not dead


@dataclass(frozen=True)
class Link:
    """A layer whose weights connect filters to filters.

    Attributes
    ----------
    name : str
        The convolution or linear layer.
    n_inputs : int
        Number of filters at its input, F.
    places : int
        Number of weights per filter of a linear layer behind a flattened map: positions of the map; otherwise 1.
    n_outputs : int
        Number of filters at its output, G.
    observed_at : str
        The layer at whose input the filters at its output are observed, or "(output)" of the network.
    """

    name: str
    n_inputs: int
    places: int
    n_outputs: int
    observed_at: str


def links(network: nn.Module, example: Tensor, layers: Patterns = None) -> tuple[dict[str, Link], dict[str, str]]:
    """The layers that can be pruned, and where their filters are observed.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode; not changed.
    example : tensor
        A few images.
    layers : str or sequence of str, optional
        Patterns of names, as for `probes.attach`, such as "*"; by default the last convolution that can be pruned and the
        layers after it, as in the paper.

    Returns
    -------
    dict of str to Link
        In order of execution: convolutions without groups, and linear layers on vectors, except the layer that takes the image.
    dict of str to str
        Skipped layers, each with the reason.

    Raises
    ------
    UsageError
        If the patterns match no layer, or none that can be pruned.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    >>> chain, _ = links(net.eval(), torch.rand(2, 1, 6, 6))
    >>> [(link.name, link.n_inputs, link.places, link.n_outputs, link.observed_at) for link in chain.values()]
    [('2', 4, 1, 5, '5'), ('5', 5, 4, 2, '(output)')]
    """
    inputs, output = _run(network, example)
    modules = dict(network.named_modules())
    names = list(inputs)
    selected = _select(modules, names, layers)
    observed_at: dict[str, str] = {}
    skipped: dict[str, str] = {}
    filters = {name: _width(modules[name]) for name in names}
    for index, name in reversed(list(enumerate(names))):
        if consumer := _consumer(network, name, names[index + 1 :], inputs, output, example):
            observed_at[name] = consumer
        reason = _unfit(modules[name], inputs[name])
        if not (reason or consumer):
            reason = "its filters are not observed at any later layer's input"
        if reason and index:
            skipped[name] = reason
        elif layers is None and isinstance(modules[name], nn.Conv2d):
            break
    flattened = {to: filters[name] for name, to in observed_at.items() if isinstance(modules.get(to), nn.Linear)}
    chain = {}
    for name in selected:
        if name in skipped or name not in observed_at or name == names[0]:
            continue
        module: Any = modules[name]
        entering = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
        n_inputs = flattened.get(name, entering)
        chain[name] = Link(name, n_inputs, entering // n_inputs, filters[name], observed_at[name])
    if not chain:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise UsageError(
            f"None of the layers can be pruned ({reasons or 'only the first layer matches, which takes the image'})."
        )
    return chain, {} if layers is None else {name: reason for name, reason in skipped.items() if name in selected}


def _select(modules: Mapping[str, nn.Module], names: Sequence[str], layers: Patterns) -> list[str]:
    """Names that match the patterns."""
    patterns = as_patterns(layers) or ["*"]
    types = {name: [base.__name__ for base in type(modules[name]).__mro__] for name in names}
    listed = ", ".join(names if len(names) <= _MAX_NAMES else [*names[:2], "...", *names[-_MAX_NAMES + 2 :]])
    for pattern in patterns:
        if not any(matches(pattern, name, types[name]) for name in names):
            raise UsageError(f"No convolution or linear layer matches {pattern!r}.{closest(pattern, names)} It has {listed}.")
    return [
        name for name in names if selects([pattern for pattern in patterns if matches(pattern, name, types[name])], patterns)
    ]


def _unfit(module: Any, x: Tensor) -> str:
    """Why a layer can't be pruned; empty if it can."""
    if isinstance(module, nn.Conv2d):
        return "its channels come in groups" if module.groups > 1 else ""
    return "" if x.ndim == 2 else "it works on tokens"


def _width(module: Any) -> int:
    return int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))


def _run(network: nn.Module, example: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The input of each convolution and linear layer, in order of execution, and the network's output."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs.setdefault(name, args[0].detach().clone())

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in _weighted(network)]
    with hooked(handles), torch.no_grad():
        output = network(example)
    return inputs, output


def _consumer(  # noqa: PLR0917
    network: nn.Module, name: str, later: Sequence[str], inputs: Mapping[str, Tensor], output: Tensor, example: Tensor
) -> str:
    """The first later layer at whose input one channel of this layer, and no other, changes; empty if there is none."""
    module = network.get_submodule(name)
    width = _width(module)
    if inputs[name].ndim not in (2, 4):
        return ""
    candidates = [
        candidate for candidate in later if inputs[candidate].ndim in (2, 4) and inputs[candidate].shape[1] % width == 0
    ]
    generator = torch.Generator().manual_seed(0)
    for channel in range(min(_MAX_CHANNELS, width)):

        def perturb(_: nn.Module, __: Any, output: Tensor, channel: int = channel) -> Tensor:
            output = output.clone()
            values = output[:, channel]
            sign = torch.where(torch.rand(values.shape, generator=generator) < 0.5, -1.0, 1.0).to(output.device)
            output[:, channel] = values + sign * 10 * (output.abs().mean() + 1)
            return output

        with hooked([module.register_forward_hook(perturb)]):
            perturbed, result = _run(network, example)
        for candidate in [*candidates, OUTPUT]:
            change = (result - output) if candidate == OUTPUT else perturbed[candidate] - inputs[candidate]
            if change.ndim not in (2, 4) or change.shape[1] % width:
                continue
            largest = change.abs().reshape(len(change), width, -1).amax((0, 2))
            if largest[channel] > 0 and int((largest > 0).sum()) == 1 and (change.ndim == 2 or change.shape[1] == width):
                return candidate
    return ""


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Remove hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
