"""Selection of module calls of a forward pass by layer patterns.

Without patterns (`patterns.py` defines them) every leaf call is selected: every call of a module during which no other
module is called. Leaves are those of the calls, not of the module tree, so fused modules such as `nn.MultiheadAttention`, whose
children are never called, are selected too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from probes.errors import UsageError
from probes.patterns import Patterns, as_patterns, closest, excludes, matches, selects

__all__ = ["Selection", "types_of"]


@dataclass
class Selection:
    """The layer patterns of one recording, and which of them have matched so far.

    Parameters
    ----------
    patterns : str or sequence of str, optional
        Layers to select; default every leaf call.

    Raises
    ------
    UsageError
        If a regular expression can't be compiled, or the list of patterns is empty.

    Examples
    --------
    >>> selection = Selection("conv?")
    >>> selection.includes("conv1", ["Conv2d"], leaf=True), selection.includes("relu", ["ReLU"], leaf=True)
    (True, False)
    """

    patterns: Patterns = None
    matched: dict[str, bool] = field(default_factory=dict, init=False)
    _hits: dict[str, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.patterns = as_patterns(self.patterns)
        self.matched = dict.fromkeys(self.patterns or (), False)

    def includes(self, name: str, kinds: Sequence[str], *, leaf: bool) -> bool:
        """Whether the call `name` of a module with these type names is selected; marks the patterns that match it."""
        if self.patterns is None:
            return leaf
        return selects(self._matching(name, kinds), list(self.patterns), default=leaf)

    def excludes(self, name: str, kinds: Sequence[str]) -> bool:
        """Whether a pattern with `!` matches the call `name` of a module with these type names."""
        return any(excludes(pattern) for pattern in self._matching(name, kinds))

    def _matching(self, name: str, kinds: Sequence[str]) -> list[str]:
        """The patterns that match a call; marks them as matched and caches them by name."""
        if name not in self._hits:
            hits = [pattern for pattern in self.patterns or () if matches(pattern, name, kinds)]
            self.matched |= dict.fromkeys(hits, True)
            self._hits[name] = hits
        return self._hits[name]

    def check(self, model: nn.Module, ran: Mapping[str, object]) -> None:
        """Raise if a pattern has matched no call. An excluding pattern may match a module that is never called.

        Parameters
        ----------
        model : torch.nn.Module
            The network, for its modules that are never called.
        ran : mapping
            Names of the calls of a forward pass.

        Raises
        ------
        UsageError
            Names the closest layer, or the module that matches but is never called.
        """
        for pattern in (pattern for pattern, matched in self.matched.items() if not matched):
            uncalled = [name for name, module in model.named_modules() if name and matches(pattern, name, types_of(module))]
            if uncalled and excludes(pattern):
                continue
            if uncalled:
                raise UsageError(
                    f"Layer pattern {pattern!r} matches {uncalled[0]!r}, but the forward pass of {_title(model)} never calls "
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
